"""`parlai poly_index`: the command, with one process and with two."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from poly_agents import load
from poly_agents.candidates.manifest import Damaged
from poly_agents.candidates.milvus import MilvusStore, parse_address
from poly_agents.candidates.search import Search, SearchOptions
from poly_agents.candidates.store import Store
from poly_agents.text.tokens import pad
from tests.agents import text


@pytest.fixture
def pool(tmp_path) -> str:
    rows = [{"text": text(number), "id": number} for number in range(300)]
    path = tmp_path / "pool.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def index(model: str, pool: str, out, *more: str, processes: int = 1) -> subprocess.CompletedProcess:
    parlai = [shutil.which("parlai", path=str(sys.executable).rpartition("/")[0]) or "parlai"]
    if processes > 1:
        parlai = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), *parlai]
    line = [*parlai, "poly_index", "-mf", model, "-fcp", pool, "--out", str(out), *more]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


def test_the_command_makes_a_store_and_reports_its_size(trained, pool, tmp_path):
    done = index(trained["poly"], pool, tmp_path / "one", "--store-precision", "int8")
    assert done.returncode == 0, done.stderr
    assert "300 candidates in" in done.stdout
    store = Store(tmp_path / "one", load(trained["poly"]).fingerprint)
    assert sorted(store[row]["id"] for row in range(300)) == list(range(300))
    refused = index(trained["poly"], str(tmp_path / "nothing"), tmp_path / "two")
    assert refused.returncode != 0
    assert "nothing" in refused.stderr


def test_two_processes_make_the_same_store(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    pool = str(tmp_path / "pool.txt")
    Path(pool).write_text("\n".join(map(text, range(5000))), encoding="utf-8")  # more than one goes to each process
    done = index(trained["late"], pool, tmp_path / "two", processes=2)
    assert done.returncode == 0, done.stderr
    one = load(trained["late"]).index(tmp_path / "one", pool)
    two = Store(tmp_path / "two", load(trained["late"]).fingerprint)
    assert list(one.texts) == list(two.texts)
    for mine, theirs in zip(one.vectors.segments, two.vectors.segments, strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_the_processes_of_a_run_fill_a_milvus_collection_once(trained, pool, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    where = f"milvus:{tmp_path / 'candidates.db'}#replies"
    done = index(trained["bi"], pool, where, processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"300 candidates in {where}") == 1
    model = load(trained["bi"])
    store = MilvusStore(parse_address(where), model.fingerprint)
    assert sorted(store[row]["id"] for row in range(300)) == list(range(300))
    for rows, vectors in store.vectors():
        expected = model.encode([store.texts[row] for row in rows.tolist()]).float()
        torch.testing.assert_close(vectors, expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("mode", ["exact", "certified"])
def test_a_store_that_is_cut_off_under_a_search_ends_in_an_error(trained, pool, tmp_path, mode):
    model = load(trained["bi"])
    search = Search(model.index(tmp_path / "store", pool, progress=False), SearchOptions(search=mode))
    assert len(model.search("hello", search, top=3)) == 3
    for path in tmp_path.glob("store/*.safetensors"):
        os.truncate(path, 100)
    with pytest.raises(Damaged, match="was changed while the store was open; run `parlai poly_index` again"):
        model.search("hello", search, top=3)
    with pytest.raises(Damaged, match="was changed while the store was open"):
        search.scores(model.ranker, pad([[5, 6]]))
