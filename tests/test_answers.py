"""WikiQA, TrecQA, InsuranceQA: questions with several right answers among their candidates."""

import pytest

from tests.data import FIXTURES, read, shared, spoil, teacher


def test_wikiqa_reads_the_official_file_and_leaves_out_what_has_no_right_answer():
    first, second = read("wikiqa", "valid", FIXTURES / "wikiqa")
    assert first.context == ["where do storks nest ?"]
    assert first.candidates == [
        "Storks are large birds with long legs .",
        "Many nest on chimneys .",
        "Others nest in tall trees .",
    ]
    assert (first.response, first.others) == ("Many nest on chimneys .", ["Others nest in tall trees ."])
    assert (second.context, second.candidates) == (["what is rye ?"], ["Rye is a grain ."])


def test_wikiqa_reads_files_that_go_together_line_by_line():
    first, second = read("wikiqa", "valid", FIXTURES / "wikiqa/tokens")
    assert (first.response, len(first.candidates), first.others) == ("many nest on chimneys .", 2, [])
    assert second.response == "rye is a grain ."


def test_wikiqa_s_files_must_be_of_one_length(tmp_path):
    folder = spoil(FIXTURES / "wikiqa/tokens", "dev/sim.txt", "1", tmp_path)
    with pytest.raises(ValueError, match=r"id\.txt 3, a\.toks 3, b\.toks 3, sim\.txt 4"):
        read("wikiqa", "valid", folder)


@pytest.mark.parametrize(
    ("task", "name", "line", "place"),
    [
        (
            "wikiqa",
            "WikiQA-dev.tsv",
            "Q6\twhy ?\tD1",
            r"WikiQA-dev\.tsv:7: a row has 7 columns separated by tabs, got 3",
        ),
        ("wikiqa", "WikiQA-dev.tsv", "Q6\ta\tb\tc\td\te\t2", r"WikiQA-dev\.tsv:7: the label is 0 or 1, got '2'"),
        ("wikiqa/tokens", "dev/sim.txt", "x", r"dev/sim\.txt:4: the label is 0 or 1, got 'x'"),
        ("trecqa", "dev.csv", "Who ?,1", r"dev\.csv:6: a row has the columns qtext, label, atext; got 2"),
        ("trecqa", "dev.csv", 'Who ?,1,"open', r"dev\.csv:6: not a row of a CSV file"),
        ("insuranceqa", "valid.en.jsonl", "[1]", r"valid\.en\.jsonl:3: a line is one JSON object, got \[1\]"),
        (
            "insuranceqa",
            "valid.en.jsonl",
            '{"question": "a", "answers": ["9"], "negatives": []}',
            r"valid\.en\.jsonl:3: there is no answer '9'",
        ),
        ("insuranceqa", "valid.en.jsonl", '{"question": "a"}', r"valid\.en\.jsonl:3: there is no 'answers'"),
        (
            "insuranceqa",
            "answers.en.jsonl",
            '{"id": "6", "text": " "}',
            r"answers\.en\.jsonl:6: text must not be",
        ),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, task, name, line, place):
    folder = spoil(FIXTURES / task, name, line, tmp_path)
    if task.endswith("tokens"):
        for file in ("id.txt", "a.toks", "b.toks"):
            spoil(folder, f"dev/{file}", "9", tmp_path / "more")
            (tmp_path / f"dev/{file}").write_text((tmp_path / f"more/dev/{file}").read_text())
    with pytest.raises(ValueError, match=place):
        read(task.split("/")[0], "valid", folder)
    left = teacher(task.split("/")[0], "valid", folder, skip_bad_rows=True)
    assert left.skipped == 1 and left.examples


def test_trecqa_counts_in_both_ways():
    (clean,) = read("trecqa", "valid", FIXTURES / "trecqa")
    assert clean.context == ["Who wrote `` The Kite '' ?"]
    assert clean.response == "`` The Kite '' , said Ann Lee , is \"my\" book ."
    _, all_right = read("trecqa:raw", "valid", FIXTURES / "trecqa")
    assert (all_right.context, all_right.candidates) == (["Where is Ulm ?"], ["Ulm is on the Danube ."])
    with pytest.raises(ValueError, match="there is no variant 'clean'; known: raw, all, all:raw"):
        read("trecqa:clean", "valid", FIXTURES / "trecqa")


def test_trecqa_s_large_training_set_is_read_for_all():
    (clean,) = read("trecqa:all", "train:ordered", FIXTURES / "trecqa")
    assert (clean.context, len(clean.candidates)) == (["Who built the mill ?"], 3)
    assert clean.response == "The mill , says Mr. Hay , was built by the Dobbs family ."
    assert clean.others == ["`` We , the Dobbs , built it , '' she said ."]
    found = read("trecqa:all:raw", "train:ordered", FIXTURES / "trecqa")
    assert [example.context[0] for example in found] == ["Who built the mill ?", "Where is Ulm ?"]
    assert read("trecqa:all", "valid", FIXTURES / "trecqa") == read("trecqa", "valid", FIXTURES / "trecqa")


def test_insuranceqa_s_numbers_are_answers():
    first, second = read("insuranceqa", "valid", FIXTURES / "insuranceqa")
    assert first.context == ["Is flood covered?"]
    assert (first.response, first.others) == ("It depends on the policy.", ["Ask your agent."])
    assert len(first.candidates) == 5 and set(first.candidates) == {
        *("Yes, in most states.", "It depends on the policy.", "No, renters need their own."),
        *("After thirty days.", "Ask your agent."),
    }
    assert len(second.candidates) == 3
    assert [first, second] == read("insuranceqa", "valid", FIXTURES / "insuranceqa")


def test_insuranceqa_s_original_files_are_spelt_out():
    folder = FIXTURES / "insuranceqa/original"
    first, second = read("insuranceqa", "valid", folder, insuranceqa_pool=100)
    assert (first.context, first.candidates) == (["Is flood covered?"], ["No.", "Sometimes. No."])
    assert (first.response, first.others) == ("Sometimes. No.", ["Yes."])  # of the right ones first what was found
    assert (second.response, second.candidates) == ("Yes.", ["No.", "Sometimes. No."])
    assert read("insuranceqa", "train:ordered", folder, insuranceqa_pool=100)[1].candidates[-1] == "Yes."


@pytest.mark.parametrize(
    ("task", "split", "questions", "candidates", "others"),
    [
        ("wikiqa", "train:ordered", 873, 8672, 167),
        ("wikiqa", "valid", 126, 1130, 14),
        ("wikiqa", "test", 243, 2351, 50),
        ("trecqa", "train:ordered", 78, 4619, 264),
        ("trecqa", "valid", 65, 1117, 140),
        ("trecqa", "test", 68, 1442, 180),
        ("trecqa:raw", "valid", 78, 1134, 144),
        ("trecqa:raw", "test", 89, 1478, 195),
        ("insuranceqa", "train:ordered", 12889, 2599125, 8436),
        ("insuranceqa", "valid", 2000, 403354, 1354),
    ],
)
def test_the_real_files_have_the_published_sizes(task, split, questions, candidates, others):
    found = read(task, split, shared(task.split(":")[0]))
    assert len(found) == questions
    assert sum(len(example.candidates) for example in found) == candidates
    assert sum(len(example.others) for example in found) == others
    assert all({example.response, *example.others} <= set(example.candidates) for example in found)


def test_the_first_real_examples():
    wiki = read("wikiqa", "train:ordered", shared("wikiqa"))[0]
    assert wiki.context == ["how are glacier caves formed ?"]
    assert wiki.response == "a glacier cave is a cave formed within the ice of a glacier ."
    trec = read("trecqa", "test", shared("trecqa"))[0]
    assert trec.context == ["What do practitioners of Wicca worship ?"]
    assert trec.response == trec.candidates[0] and len(trec.others) >= 1
    insurance = read("insuranceqa", "valid", shared("insuranceqa"))[0]
    assert insurance.context == ["Does Medicare Pick Up Co Pays?"] and len(insurance.candidates) == 201
    assert insurance.response.startswith("Sadly no. Medicare does cover a lot")


def test_a_right_answer_stands_anywhere_among_insuranceqa_s_candidates():
    found = read("insuranceqa", "valid", shared("insuranceqa"))
    tenths = [10 * e.candidates.index(e.response) // len(e.candidates) for e in found]
    assert all(150 < tenths.count(tenth) < 250 for tenth in range(10))
