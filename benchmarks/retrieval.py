"""Measure the NDCG@10 of an untrained encoder over a whole corpus: a BEIR data set, SciFact by default.

    python benchmarks/retrieval.py --data FOLDER

`bi` with the embedded MiniLM encodes every document into a candidate store and every query is searched in it: the path
of `parlai poly_index` and of `TextRanker.search`. Published for this encoder on SciFact: .645 (MTEB, all-MiniLM-L6-v2,
256 tokens). A document with the query's own id does not count, as in BEIR's evaluation.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from parlai.core.opt import Opt

import poly_agents
from poly_agents.candidates.search import Search, SearchOptions
from poly_agents.files.atomic import write_text
from poly_agents.models.textranker import TextRanker
from poly_agents.tasks.beir import BeirTeacher, parse_query, write_corpus

RESULTS = Path(__file__).parent / "results"
PUBLISHED = {"scifact": 0.645}
DEPTH = 10


def ndcg(found: Sequence[str], judged: Mapping[str, float], depth: int = DEPTH) -> float:
    """Divide the discounted gain of the first documents by that of the best order (trec_eval's ndcg_cut).

    >>> ndcg(["b", "a"], {"a": 1.0}, 10) == 1 / math.log2(3)
    True
    """

    def gain(grades) -> float:
        return sum(grade / math.log2(place + 2) for place, grade in enumerate(list(grades)[:depth]))

    return gain(judged.get(document, 0.0) for document in found) / gain(sorted(judged.values(), reverse=True))


def untrained(precision: str, tokens: int) -> TextRanker:
    """Make an untrained `bi`: mean pooling, cosine."""
    return poly_agents.start("bi", text_truncate=tokens, label_truncate=tokens, precision=precision)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of a BEIR data set")
    parser.add_argument("--split", default="test", help="train, dev or test")
    parser.add_argument("--precision", default="auto", help="auto, bfloat16 or float32")
    parser.add_argument("--tokens", type=int, default=256, help="of a text, its two special tokens counted")
    parser.add_argument("--search", default="exact", help="exact, certified or fast")
    parser.add_argument("--store", type=Path, help="keep the encoded corpus here; what is there is not encoded again")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the table goes")
    given = parser.parse_args()

    model = untrained(given.precision, given.tokens - 2)
    split = "valid" if given.split == "dev" else given.split
    reader = BeirTeacher(Opt(task="poly_agents:beir", datatype=split, batchsize=1, data_files=str(given.data)))
    judged = reader.judgements(given.split)
    queries = dict(reader.rows(reader.path("queries.jsonl"), parse_query))
    values = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        corpus = Path(folder, "corpus.jsonl")
        documents = write_corpus(given.data, corpus)
        store = model.index(given.store or Path(folder, "store"), corpus, precision="float32")
        search = Search(store, SearchOptions(search=given.search))
        for query, grades in judged.items():
            if any(grade > 0 for grade in grades.values()):
                found = model.search(queries[query], search, DEPTH + 1)
                ids = [each.candidate["id"] for each in found if each.candidate["id"] != query]
                values.append(ndcg(ids[:DEPTH], grades))
    name = given.data.resolve().name
    result = {
        "data": name,
        "split": given.split,
        "encoder": "all-MiniLM-L6-v2, untrained here",
        "precision": str(model.ranker.candidate_encoder.dtype).removeprefix("torch."),
        "search": given.search,
        "tokens": given.tokens,
        "documents": documents,
        "queries": len(values),
        f"ndcg@{DEPTH}": round(sum(values) / len(values), 4),
        "published": PUBLISHED.get(name),
    }
    lines = [f"| {key} | {value} |" for key, value in result.items() if value is not None]
    table = "\n".join(["| | |", "| --- | --- |", *lines]) + "\n"
    write_text(given.out / f"retrieval-{name}.json", json.dumps(result, indent=1) + "\n")
    write_text(given.out / f"retrieval-{name}.md", table)
    print(table)


if __name__ == "__main__":
    main()
