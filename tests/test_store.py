"""The candidate store: nothing encoded twice, nothing stale used, nothing lost by a kill, readers see whole updates."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from poly_agents.candidates import segments
from poly_agents.candidates import store as store_module
from poly_agents.candidates.manifest import UNFINISHED, paths, read_header
from poly_agents.candidates.store import Store
from poly_agents.candidates.vectors import Vectors
from poly_agents.candidates.writer import Recipe, build, discard
from poly_agents.text.tokens import pad
from tests.stores import Encoder, contents, lines, words


@pytest.fixture(autouse=True)
def small_segments(monkeypatch):
    monkeypatch.setattr(segments, "ROWS", 13)
    monkeypatch.setattr(segments, "CHUNK", 5)


def test_every_candidate_keeps_its_vector_its_text_and_all_else_it_has(tmp_path):
    given = [{"text": text, "id": f"n{number}", "tags": [number]} for number, text in enumerate(words(0, 40))]
    encode = Encoder()
    store = build(tmp_path / "s", iter(given), Recipe(encode, "model", "float32"))
    assert len(store) == 40
    assert len(store.segments) == 4
    assert sorted((store[row] for row in range(40)), key=lambda c: c["tags"]) == given
    for text, vector in contents(store).items():
        assert vector == Encoder()([text])[0].tolist()
    rows = store.rows_of([words(0, 40)[7], "not there", words(0, 40)[31]])
    assert [store[row]["id"] for row in (rows[0], rows[2])] == ["n7", "n31"]
    assert rows[1] == -1


def test_stored_candidates_are_not_encoded_again(tmp_path):
    encode = Encoder()
    build(tmp_path / "s", lines(*words(0, 40)), Recipe(encode, "model"))
    assert sorted(encode.asked) == sorted(
        [*words(0, 40), *encode.asked[:13]]
    )  # the first ones are encoded twice, to measure their size
    for changed, new in ((words(0, 40), []), (words(0, 50), words(40, 50)), (words(5, 45), [])):
        encode.asked.clear()
        store = build(tmp_path / "s", lines(*changed), Recipe(encode, "model"))
        assert set(encode.asked) == set(new)
        assert sorted(store.texts) == sorted(changed)
    encode.asked.clear()
    store = build(tmp_path / "s", lines("one more"), Recipe(encode, "model"), keep=True)
    assert set(encode.asked) == {"one more"}
    assert sorted(store.texts) == sorted([*words(5, 45), "one more"])
    assert contents(store) == {text: Encoder()([text])[0].tolist() for text in store.texts}
    listed = {path for segment in store.segments for path in paths(store.folder, segment)}
    assert {p for p in store.folder.iterdir() if p.name not in ("store.json", "lock")} == listed


def test_equal_candidates_are_one(tmp_path):
    store = build(tmp_path / "s", lines(*words(0, 20), *words(0, 20), *words(10, 30)), Recipe(Encoder(), "model"))
    assert sorted(store.texts) == sorted(words(0, 30))


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_token_states_keep_every_token_and_no_padding(tmp_path, precision):
    store = build(tmp_path / "s", lines(*words(0, 30)), Recipe(Encoder(ragged=True), "model", precision))
    assert sum(len(part["vectors"]) for part in store.vectors.segments) == sum(map(len, words(0, 30)))
    for first, states in store.vectors.slices(4):
        texts = [store.texts[first + number] for number in range(len(states.mask))]
        assert states.mask.sum(-1).tolist() == [len(text) for text in texts]
        for text, vectors, mask in zip(texts, *states, strict=True):
            true = Encoder()([text]).expand(len(text), -1)
            assert_close(vectors[mask].float(), true, atol=0.6 if precision != "float32" else 0, rtol=0)


def test_another_model_or_precision_encodes_everything_again(tmp_path):
    build(tmp_path / "s", lines(*words(0, 20)), Recipe(Encoder(), "model", "float32"))
    with pytest.raises(ValueError, match="made by another model"):
        Store(tmp_path / "s", "other")
    for model, precision in (("other", "float32"), ("other", "int8")):
        encode = Encoder()
        store = build(tmp_path / "s", lines(*words(0, 20)), Recipe(encode, model, precision))
        assert set(encode.asked) == set(words(0, 20))
        assert store.precision == precision


def test_a_discarded_store_is_encoded_again(tmp_path):
    discard(tmp_path / "s")
    assert not (tmp_path / "s").exists()
    build(tmp_path / "s", lines(*words(0, 20)), Recipe(Encoder(), "model"))
    discard(tmp_path / "s")
    encode = Encoder()
    store = build(tmp_path / "s", lines(*words(0, 20)), Recipe(encode, "model"))
    assert set(encode.asked) == set(words(0, 20)) == set(store.texts)


def test_a_ranker_that_encodes_nothing_ahead_is_refused(tmp_path):
    with pytest.raises(ValueError, match="so a store would save no work"):
        build(tmp_path / "s", lines("a"), Recipe(lambda texts: pad([[1]] * len(texts)), "model"))


def test_a_folder_of_something_else_and_an_empty_pool_are_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="a folder of something else"):
        build(tmp_path, lines("a"), Recipe(Encoder(), "model"))
    with pytest.raises(ValueError, match="no candidates"):
        build(tmp_path / "s", [], Recipe(Encoder(), "model"))
    with pytest.raises(ValueError, match="one of float32, bfloat16, float16, int8; got 'int4'"):
        build(tmp_path / "s", lines("a"), Recipe(Encoder(), "model", "int4"))


SLOW = """
import sys, time
from pathlib import Path
from poly_agents.candidates import segments, writer
from tests.stores import Encoder, lines, words
segments.ROWS, segments.CHUNK = 13, 5
encode = Encoder()
def slowly(texts):
    time.sleep(0.02)
    return encode(texts)
recipe = writer.Recipe(slowly, "model")
built = writer.build(sys.argv[1], lines(*words(0, 200)), recipe, progress=False)
print(len(built), len(encode.asked))
"""


def start(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, str(folder)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )


def test_a_killed_build_continues_where_it_was(tmp_path):
    folder, done = tmp_path / "s", 0
    for wanted in (2, 5):
        process = start(folder)
        while done < wanted:
            time.sleep(0.01)
            header = read_header(folder, UNFINISHED)
            done = len(header.segments) if header else 0
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = len(read_header(folder, UNFINISHED).segments)
    encode = Encoder()
    store = build(folder, lines(*words(0, 200)), Recipe(encode, "model"))
    assert len(encode.asked) <= 200 - 13 * done + 13
    assert contents(store) == {text: Encoder()([text])[0].tolist() for text in words(0, 200)}


def test_two_processes_build_it_once_and_share_it(tmp_path):
    both = [start(tmp_path / "s") for _ in range(2)]
    found = sorted(tuple(map(int, process.communicate()[0].split())) for process in both)
    assert found == [(200, 0), (200, 213)]


def test_a_store_stays_readable_while_another_process_changes_it(tmp_path):
    first = build(tmp_path / "s", lines(*words(0, 40)), Recipe(Encoder(), "model"))
    build(tmp_path / "s", lines(*words(30, 60)), Recipe(Encoder(), "model"))
    assert contents(first) == {text: Encoder()([text])[0].tolist() for text in words(0, 40)}


def test_vectors_in_memory_are_those_of_a_store(tmp_path):
    encoded = Encoder()(words(0, 30))
    store = build(tmp_path / "s", lines(*words(0, 30)), Recipe(Encoder(), "model", "int8"))
    in_memory = torch.cat([part for _, part in Vectors.of(encoded, "int8").slices(7)])
    on_disk = torch.cat([part for _, part in store.vectors.slices(7)])
    assert_close(in_memory[[words(0, 30).index(text) for text in store.texts]], on_disk)
    assert json.loads((tmp_path / "s" / "store.json").read_text())["precision"] == "int8"


def test_readers_see_the_old_candidates_until_all_new_ones_are_there(tmp_path):
    build(tmp_path / "s", lines(*words(0, 40)), Recipe(Encoder(), "model"))
    seen = []

    def encode(texts):
        seen.append(len(Store(tmp_path / "s", "model")))
        return Encoder()(texts)

    build(tmp_path / "s", lines(*words(30, 90)), Recipe(encode, "model"))
    assert set(seen) == {40} and len(seen) > 4
    with pytest.raises(InterruptedError):
        build(tmp_path / "t", lines(*words(0, 40)), Recipe(failing_after(8), "model"))
    with pytest.raises(ValueError, match="is not finished; finish one with `parlai poly_index`"):
        Store(tmp_path / "t")


def failing_after(calls: int) -> Encoder:
    encode = Encoder()

    def failing(texts):
        if len(encode.asked) > calls * 5:
            raise InterruptedError
        return encode(texts)

    return failing


def test_adding_keeps_what_was_finished_and_nothing_of_a_build_that_was_not(tmp_path):
    build(tmp_path / "s", lines(*words(0, 10)), Recipe(Encoder(), "model"))
    with pytest.raises(InterruptedError):
        build(tmp_path / "s", lines(*words(10, 50)), Recipe(failing_after(8), "model"))
    store = build(tmp_path / "s", lines(*words(50, 60)), Recipe(Encoder(), "model"), keep=True)
    assert sorted(store.texts) == sorted([*words(0, 10), *words(50, 60)])


def test_a_store_that_is_replaced_while_it_is_opened_is_opened_as_it_is_now(tmp_path, monkeypatch):
    build(tmp_path / "s", lines(*words(0, 40)), Recipe(Encoder(), "model"))
    verify, builds = store_module.verify, []

    def late(folder, segments):
        if not builds:
            builds.append("one")
            build(tmp_path / "s", lines(*words(20, 60)), Recipe(Encoder(), "model"))
        return verify(folder, segments)

    monkeypatch.setattr(store_module, "verify", late)
    assert sorted(Store(tmp_path / "s", "model").texts) == sorted(words(20, 60))
