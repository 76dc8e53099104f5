"""BEIR: any data set in its format; queries, a corpus, and judgements of which documents answer which queries.

Source     https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets/NAME.zip
Licence    that of each data set (SciFact: CC BY-NC 2.0)
Paper      Thakur et al. 2021, https://arxiv.org/abs/2104.08663
Sizes      of SciFact: 5,183 documents; queries train 809, test 300, with 919 and 339 judgements
Context    the query
Candidates of a run file; without one the examples have none, and the corpus is the pool (below)
Files      `corpus.jsonl` {"_id", "title", "text"}, `queries.jsonl` {"_id", "text"},
           `qrels/{train,dev,test}.tsv` ("query-id corpus-id score", parted by tabs, under that header)

`-t poly_agents:beir --data-files FOLDER` reads the folder of one data set, `-t poly_agents:beir:NAME` its folder NAME.
A document is its title, a blank and its text, as in sentence-transformers' evaluation. Labels are the texts of the
relevant documents, the best judged first; queries without any are left out.

Re-ranking: `--beir-run FILE` is a TREC run ("query Q0 document rank score tag"; by falling score) or JSON lines
({"query_id": ..., "documents": [ids, best first]}); the first `--beir-top` documents of a query are its candidates,
`grades` their judgements (0 where there is none), and a document with the query's own id is not among them. In
evaluation they stay as found: what no right document was found for needs `--ignore-bad-candidates true`. In training
the documents that were judged right are added.

Retrieval: write the corpus as candidates, then rank all of it. Documents without a word are not in it.

    python -m poly_agents.tasks.beir FOLDER candidates.jsonl
    parlai eval_model -mf MODEL -t poly_agents:beir --data-files FOLDER -dt test -ecands fixed -fcp candidates.jsonl
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from parlai.utils import logging

from poly_agents.evaluation.submissions import Ranking, trec
from poly_agents.files import atomic
from poly_agents.files.download import Download
from poly_agents.tasks import variant
from poly_agents.tasks.response import Example, ResponseTeacher, columns, json_object, rows

_ROOT = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets"
NAMES = (
    *("arguana", "climate-fever", "cqadupstack", "dbpedia-entity", "fever", "fiqa", "hotpotqa", "msmarco", "nfcorpus"),
    *("nq", "quora", "scidocs", "scifact", "trec-covid", "webis-touche2020"),
)
FILES = tuple(Download(f"{_ROOT}/{name}.zip", f"{name}.zip", archive=True) for name in NAMES)
WHERE = "unpack the archive of a data set and give its folder as --data-files"
HEADER = ["query-id", "corpus-id", "score"]
TOP = 100

Judgements = dict[str, dict[str, float]]  # query -> document -> grade


class BeirTeacher(ResponseTeacher):
    """`-t poly_agents:beir --data-files FOLDER`, `-t poly_agents:beir:NAME`"""

    @classmethod
    def add_cmdline_args(cls, parser, partial_opt=None):
        super().add_cmdline_args(parser, partial_opt)
        group = parser.add_argument_group("beir")
        group.add_argument("--beir-run", help="re-rank the documents of this file: TREC format, or JSON lines")
        group.add_argument("--beir-top", type=int, default=TOP, help="how many of a query's documents are candidates")
        return parser

    def __init__(self, opt, shared=None):
        name = variant(opt["task"])
        self.folder = f"{name}/" if name else ""
        super().__init__(opt, shared)

    def read(self, split) -> Iterator[Example]:
        judged = self.judgements("dev" if split == "valid" else split)
        runs = self.run(split)
        wanted = {document for query in judged for document in (*judged[query], *runs.get(query, ()))}
        lines = self.rows(self.path(f"{self.folder}corpus.jsonl"), read_object)
        texts = {line["_id"]: text_of(line) for line in lines if line["_id"] in wanted}
        for query, text in self.rows(self.path(f"{self.folder}queries.jsonl"), parse_query):
            there = set(runs.get(query, ()))
            right = [d for d, grade in judged.get(query, {}).items() if grade > 0 and texts.get(d)]
            right.sort(key=lambda document: (document not in there, -judged[query][document]))
            if not right:
                continue
            response, *others = (texts[document] for document in right)
            if not self.opt.get("beir_run"):
                yield Example([text], response, None, others, id=query)
                continue
            pool = [document for document in runs.get(query, ()) if texts.get(document)]
            pool += [document for document in right if split == "train" and document not in there]
            if not pool:
                logging.warning(f"--beir-run {self.opt['beir_run']} has no documents for the query {query}; left out")
                continue
            grades = [judged[query].get(document, 0.0) for document in pool]
            yield Example([text], response, [texts[document] for document in pool], others, grades, query, pool)

    def judgements(self, name: str) -> Judgements:
        judged: Judgements = {}
        for row in self.rows(self.path(f"{self.folder}qrels/{name}.tsv"), parse_judgement):
            if row:
                judged.setdefault(row[0], {})[row[1]] = row[2]
        return judged

    def run(self, split: str) -> dict[str, list[str]]:
        """The best documents of every query, best first; none without a run file."""
        if not self.opt.get("beir_run"):
            return {}
        path, top = Path(self.opt["beir_run"]), self.positive("beir_top", TOP)
        if not path.is_file():
            raise ValueError(f"--beir-run: there is no file {path}")
        found: dict[str, list[tuple[str, float]]] = {}
        trec = ".jsonl" not in path.suffixes
        for query, documents in self.rows(path, parse_run if trec else parse_found):
            found.setdefault(query, []).extend(documents)
        for documents in found.values():
            documents.sort(key=lambda document: -document[1])
        return {
            query: [document for document in dict(documents) if document != query][:top]
            for query, documents in found.items()
        }


def read_object(line: str) -> dict[str, Any]:
    row = json_object(line)
    if not isinstance(row["_id"], str) or not isinstance(row["text"], str):
        raise ValueError("_id and text must be texts")
    return row


def text_of(row: dict[str, Any]) -> str:
    """A document's title and text.

    >>> text_of({"_id": "7", "title": "Rain", "text": "It falls."}), text_of({"_id": "8", "text": "No title."})
    ('Rain It falls.', 'No title.')
    """
    return f"{row.get('title') or ''} {row['text']}".strip()


def parse_query(line: str) -> tuple[str, str]:
    row = read_object(line)
    return row["_id"], row["text"]


def parse_judgement(line: str) -> tuple[str, str, float] | None:
    """Query, document and grade; None for the header."""
    query, document, grade = columns(line, 3)
    return None if [query, document, grade] == HEADER else (query, document, float(grade))


def parse_run(line: str) -> tuple[str, list[tuple[str, float]]]:
    """A line of a TREC run: query, Q0, document, rank, score, tag."""
    fields = line.split()
    if len(fields) != 6:
        raise ValueError(f"a line of a TREC run has 6 columns, got {len(fields)}")
    return fields[0], [(fields[2], float(fields[4]))]


def parse_found(line: str) -> tuple[str, list[tuple[str, float]]]:
    """A query's documents, best first."""
    row = json_object(line)
    if not isinstance(row["documents"], list):
        raise ValueError("documents must be a list of ids")
    return row["query_id"], [(str(document), -float(place)) for place, document in enumerate(row["documents"])]


def write_run(out: str | Path, found: Mapping[str, Sequence[tuple[str, float]]]) -> None:
    """Write every query's documents and scores, best first, as the TREC run that `--beir-run` reads."""
    rankings = [Ranking(query, [d for d, _ in best], [s for _, s in best], 0.0) for query, best in found.items()]
    atomic.write_text(out, trec(rankings))


def documents(folder: str | Path) -> Iterator[dict[str, str]]:
    """The corpus as candidates of a store, `text` and `id`; documents without a word are left out."""
    path = Path(folder, "corpus.jsonl")
    path = path if path.is_file() else path.with_name("corpus.jsonl.gz")
    for row in rows(path, read_object):
        if text_of(row):
            yield {"text": text_of(row), "id": row["_id"]}


def write_corpus(folder: str | Path, out: str | Path) -> int:
    """Write the corpus as the JSON lines that `-fcp` reads; how many there are."""
    lines = [json.dumps(document, ensure_ascii=False) for document in documents(folder)]
    atomic.write_text(out, "\n".join(lines) + "\n")
    return len(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="write a BEIR corpus as candidates for -fcp")
    parser.add_argument("folder", help="with corpus.jsonl or corpus.jsonl.gz in it")
    parser.add_argument("out", help="the file to write, its name must end in .jsonl")
    given = parser.parse_args()
    if not given.out.endswith(".jsonl"):
        parser.error(f"the name must end in .jsonl, got {given.out}")
    print(f"{write_corpus(given.folder, given.out)} documents in {given.out}")
