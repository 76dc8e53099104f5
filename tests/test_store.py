"""The candidate store: nothing encoded twice, nothing stale or damaged used, nothing lost by a kill."""

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from poly_agents.candidates import manifest, segments
from poly_agents.candidates import store as store_module
from poly_agents.candidates.manifest import UNFINISHED, Damaged, paths, read_header
from poly_agents.candidates.reading import read_candidates
from poly_agents.candidates.store import Store
from poly_agents.candidates.vectors import Vectors
from poly_agents.candidates.writer import Recipe, build, discard, update
from poly_agents.encoders.states import TokenStates
from poly_agents.errors import InputError
from poly_agents.files import atomic
from poly_agents.text.tokens import pad


class Encoder:
    """Encode a text as a vector that depends on it, and remember which texts were encoded."""

    def __init__(self, ragged: bool = False):
        self.asked: list[str] = []
        self.ragged = ragged

    def __call__(self, texts: list[str]):
        self.asked += texts
        rows = [torch.tensor([[float(len(t)), float(sum(map(ord, t)) % 97), 1.0]]) for t in texts]
        if not self.ragged:
            return torch.cat(rows)
        lengths = torch.tensor([len(text) for text in texts])
        mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(-1)
        return TokenStates(torch.stack([row.expand(mask.shape[1], -1) for row in rows]), mask)


def lines(*texts: str) -> list[dict]:
    return [{"text": text} for text in texts]


def words(start: int, stop: int) -> list[str]:
    return [f"text {'x' * (number % 7)} {number}" for number in range(start, stop)]


@pytest.fixture(autouse=True)
def small_segments(monkeypatch):
    monkeypatch.setattr(segments, "ROWS", 13)
    monkeypatch.setattr(segments, "CHUNK", 5)


def contents(store: Store) -> dict[str, list]:
    vectors = torch.cat([part for _, part in store.vectors.slices(4)])
    return {text: vector.tolist() for text, vector in zip(store.texts, vectors, strict=True)}


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


@pytest.mark.parametrize("suffix", [".safetensors", ".jsonl"])
@pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
def test_a_damaged_segment_is_refused_by_name_and_it_alone_is_made_again(tmp_path, suffix, harm):
    store = build(tmp_path / "s", lines(*words(0, 40)), Recipe(Encoder(), "model"))
    path = tmp_path / "s" / f"{store.segments[1].name}{suffix}"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.unlink()
    if harm != "gone":
        path.write_bytes(data if harm == "flip" else data[:-3])
    with pytest.raises(Damaged, match=path.name):
        Store(tmp_path / "s", "model")
    encode = Encoder()
    again = build(tmp_path / "s", lines(*words(0, 40)), Recipe(encode, "model"))
    assert set(encode.asked) == set(map(store.texts.__getitem__, range(13, 26)))
    assert contents(again) == {text: Encoder()([text])[0].tolist() for text in words(0, 40)}


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


def test_candidates_are_read_from_text_and_json_lines(tmp_path):
    (tmp_path / "c.txt").write_text('one\n\n  two \n{"text": "three"}\n', encoding="utf-8")
    assert [c["text"] for c in read_candidates(tmp_path / "c.txt")] == ["one", "two", '{"text": "three"}']
    (tmp_path / "c.jsonl").write_text('{"text": "one", "id": 7}\n\n{"text": "two"}\n', encoding="utf-8")
    assert list(read_candidates(tmp_path / "c.jsonl")) == [{"text": "one", "id": 7}, {"text": "two"}]
    for bad in ("nothing", "[1]", '{"id": 3}', '{"text": ""}', '{"text": 4}'):
        (tmp_path / "bad.jsonl").write_text(f'{{"text": "one"}}\n{bad}\n', encoding="utf-8")
        with pytest.raises(ValueError, match=r"bad\.jsonl, line 2"):
            list(read_candidates(tmp_path / "bad.jsonl"))


SLOW = """
import sys, time
from pathlib import Path
from poly_agents.candidates import segments, writer
from tests.test_store import Encoder, lines, words
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


def reopened(folder: Path, given: list[dict]) -> dict[str, list]:
    return contents(build(folder, given, Recipe(Encoder(), "model")))


TRUE = {text: Encoder()([text])[0].tolist() for text in words(0, 60)}


def test_a_file_that_changes_between_its_digest_and_its_reading_leaves_no_stale_store(tmp_path, monkeypatch):
    pool, recipe = tmp_path / "pool.txt", Recipe(Encoder(), "model")
    pool.write_text("early\n")

    def changes(path):
        found = sha256(path)
        if path == pool:
            pool.write_text("late\n")
        return found

    sha256 = atomic.sha256
    monkeypatch.setattr(atomic, "sha256", changes)
    assert list(update(tmp_path / "s", pool, recipe).texts) == ["late"]
    monkeypatch.undo()
    pool.write_text("early\n")
    assert list(update(tmp_path / "s", pool, recipe).texts) == ["early"]


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


@pytest.mark.parametrize("suffix", [".safetensors", ".jsonl"])
def test_a_store_that_was_cut_off_or_overwritten_while_it_is_open_is_refused_by_name(tmp_path, suffix):
    store = build(tmp_path / "s", lines(*words(0, 40)), Recipe(Encoder(), "model"))
    path = next(tmp_path.glob(f"s/*{suffix}"))
    store.check()
    os.utime(path)  # the same bytes
    store.check()
    data = path.read_bytes()
    for harmed in (data[:-9], data[:-1] + b"\x7f"):
        path.write_bytes(harmed)
        with pytest.raises(Damaged, match=f"{path.name} was changed while the store was open; run `parlai poly_index`"):
            store.check()
    assert reopened(tmp_path / "s", lines(*words(0, 40))) == {text: TRUE[text] for text in words(0, 40)}
    store.check()  # its files were replaced; it still has the old ones


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_vectors_that_are_no_numbers_are_neither_written_nor_read(tmp_path, precision, ragged, monkeypatch):
    for wrong in (float("nan"), float("inf"), 1e30):

        def encode(texts, wrong=wrong):
            encoded = Encoder(ragged)(texts)
            (encoded.vectors if ragged else encoded)[texts.index("bad") if "bad" in texts else 0, ..., 1] *= (
                wrong if "bad" in texts else 1
            )
            return encoded

        with pytest.raises(ValueError, match="the encoding of the candidate 'bad' is infinite or not a number"):
            build(tmp_path / "s", lines("good", "bad"), Recipe(encode, "model", precision))
    recipe = Recipe(encode, "model", precision)
    with monkeypatch.context() as patch:  # as a version without the check
        patch.setattr(segments, "check_finite", lambda *_: None)
        patch.setattr(segments, "sketch", lambda *_: {})
        patch.setattr(manifest, "are_finite", lambda *_: True)
        build(
            tmp_path / "s", lines("good", "bad"), Recipe(lambda texts: encode(texts, float("nan")), "model", precision)
        )
    with pytest.raises(Damaged, match="holds vectors that are infinite or not numbers"):
        Store(tmp_path / "s")
    assert sorted(build(tmp_path / "s", lines("good", "fine"), recipe).texts) == ["fine", "good"]


def damages(data: bytes) -> dict[str, bytes | None]:
    """What can happen to a file; None: it is gone."""
    draw = random.Random(7)
    found = {
        "gone": None,
        "empty": b"",
        "half": data[: len(data) // 2],
        "binary": bytes(range(256)),
        "zeros": bytes(len(data)),
    }
    found |= {"no object": b"[]", "deep": b"[" * 100_000, "appended": data + b"x", "twice": data + data}
    for number in range(12):
        place, bit = draw.randrange(len(data)), 1 << draw.randrange(8)
        found[f"flip {number}"] = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
    return found


def header_damages(data: bytes) -> dict[str, bytes]:
    header = json.loads(data)
    found = {}
    for key in header:
        found[f"no {key}"] = {name: value for name, value in header.items() if name != key}
        for wrong in (None, 0, -1, "x", [], {}, [[]], [["a", 1, "b", "c"]]):
            found[f"{key} {wrong!r}"] = header | {key: wrong}
    for place, wrong in ((0, "../x"), (0, None), (1, 10**12), (1, 12), (1, True), (2, "0" * 64), (3, 5)):
        listed = [list(segment) for segment in header["segments"]]
        listed[1][place] = wrong
        found[f"{place} is {wrong}"] = header | {"segments": listed}
    found["one is missing"] = header | {"segments": header["segments"][1:]}
    found["one is there twice"] = header | {"segments": [*header["segments"], header["segments"][0]]}
    return {name: json.dumps(each).encode() for name, each in found.items()}


@pytest.mark.parametrize("which", ["store.json", "unfinished.json", ".safetensors", ".jsonl"])
def test_every_damage_is_mended_by_the_next_build_or_refused_by_name(tmp_path, which, caplog):
    given, folder = lines(*words(0, 30)), tmp_path / "s"
    build(folder, given, Recipe(Encoder(), "model"))
    shutil.copy(folder / "store.json", folder / "unfinished.json")  # as of a build that was killed at its very end
    path = next(each for each in sorted(folder.iterdir()) if each.name.endswith(which))
    whole = {each: each.read_bytes() for each in folder.iterdir()}
    harms = damages(whole[path]) | (header_damages(whole[path]) if which.endswith(".json") else {})
    mended = 0
    for name, data in harms.items():
        for each, content in whole.items():
            each.write_bytes(content)
        path.unlink() if data is None else path.write_bytes(data)
        with suppress(InputError):
            found = contents(Store(folder, "model"))
            assert found == {text: TRUE[text] for text in words(0, 30) if text in found}, name
        try:
            assert reopened(folder, given) == {text: TRUE[text] for text in words(0, 30)}, name
            mended += 1
        except InputError as error:
            assert f"{which} has format" in str(error) and "give a new folder" in str(error), name
    assert mended > len(harms) - 4
    assert which == "unfinished.json" or f"{path.name} " in caplog.text  # what is encoded again is said


def test_a_store_without_its_header_is_known_by_its_files(tmp_path):
    folder, given = tmp_path / "s", lines(*words(0, 30))
    build(folder, given, Recipe(Encoder(), "model"))
    (folder / "store.json").unlink()
    assert len(build(folder, given, Recipe(Encoder(), "model"))) == 30
    (folder / "store.json").write_text("")
    (folder / "0123456789abcdef.jsonl").write_text("{}")
    assert len(build(folder, given, Recipe(Encoder(), "model"))) == 30
    (folder / "store.json").write_text("")
    (folder / "thesis.jsonl").write_text("mine")
    with pytest.raises(ValueError, match="a folder of something else"):
        build(folder, given, Recipe(Encoder(), "model"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "0123456789abcdef.jsonl").write_text("mine")
    with pytest.raises(ValueError, match="a folder of something else"):
        build(other, given, Recipe(Encoder(), "model"))
    with pytest.raises(ValueError, match="is a file; give a folder"):
        build(folder / "thesis.jsonl", given, Recipe(Encoder(), "model"))


def test_a_build_removes_no_file_of_anybody_else(tmp_path):
    build(tmp_path / "s", lines(*words(0, 20)), Recipe(Encoder(), "model"))
    mine = {"candidates.jsonl", "notes.txt", "my.safetensors", "draft.tmp"}
    for name in mine:
        (tmp_path / "s" / name).write_text("mine")
    build(tmp_path / "s", lines(*words(10, 30)), Recipe(Encoder(), "model"))
    assert mine < {path.name for path in (tmp_path / "s").iterdir()}


def test_files_of_candidates_are_taken_with_a_bom_and_refused_by_place(tmp_path):
    text, rows = tmp_path / "c.txt", tmp_path / "c.jsonl"
    text.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    rows.write_bytes(b'\xef\xbb\xbf{"text": "one"}\n{"text": "two"}\n')
    for path in (text, rows):
        assert list(read_candidates(path)) == [{"text": "one"}, {"text": "two"}]
    kept = 'a\u2028b\x85c\x0bd\x1ce "f"'
    rows.write_text(
        json.dumps({"text": kept, "broken": "\ud83d"}) + "\n" + json.dumps({"text": kept}, ensure_ascii=False)
    )
    store = update(tmp_path / "s", rows, Recipe(Encoder(), "model"))
    assert sorted((store[row] for row in range(2)), key=len) == [{"text": kept}, {"text": kept, "broken": "\ud83d"}]
    for data, message in (
        ("one\ncafé\n".encode("latin-1"), r"c\.txt, line 2: byte 4 of the line, 0xe9, is not UTF-8.*iconv -f latin1"),
        ("one\n".encode("utf-16"), r"c\.txt is not a text file in UTF-8; if it is in UTF-16, convert it"),
        (pickle.dumps(["one"] * 300), r"c\.txt is not a text file|c\.txt, line 1: byte 1 of the line, 0x80, is not"),
        (b"", r"c\.txt holds no candidates; write one candidate per line"),
        (b" \n\n", "holds no candidates"),
    ):
        text.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            update(tmp_path / "t", text, Recipe(Encoder(), "model"))
    for row in ("null", "[]", '"one"', "{}", '{"text": null}', '{"text": 3}', '{"text": "\\ud800"}', "[" * 100_000):
        rows.write_text(f'{{"text": "one"}}\n{row}\n')
        with pytest.raises(ValueError, match=r"c\.jsonl, line 2"):
            update(tmp_path / "t", rows, Recipe(Encoder(), "model"))
    with pytest.raises(FileNotFoundError, match=r"there is no file of candidates .*none\.txt"):
        update(tmp_path / "t", tmp_path / "none.txt", Recipe(Encoder(), "model"))
    with pytest.raises(ValueError, match="is a folder; give a file"):
        update(tmp_path / "t", tmp_path / "s", Recipe(Encoder(), "model"))


def test_candidates_from_a_pipe_are_read_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writing = subprocess.Popen(f"printf 'one\\ntwo\\n' > {tmp_path / 'pipe'}", shell=True)
    assert sorted(update(tmp_path / "s", tmp_path / "pipe", Recipe(Encoder(), "model")).texts) == ["one", "two"]
    assert writing.wait() == 0


@pytest.mark.parametrize(
    "wrong", [None, 3, {}, {"text": None}, {"text": ""}, "", "\ud800", ["x"], {"text": "a", "b": {1, 2}}]
)
def test_candidates_that_are_none_are_named(tmp_path, wrong):
    with pytest.raises(ValueError, match="candidate"):
        update(tmp_path / "s", ["one", wrong], Recipe(Encoder(), "model"))
