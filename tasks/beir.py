"""BEIR: any data set in its format; queries, a corpus, and judgements of which documents answer which queries.

Source     https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets/NAME.zip; bioasq, signal1m, trec-news and
           robust04 are not public (https://github.com/beir-cellar/beir says how to make their files)
Licence    that of each data set (SciFact: claims CC BY 4.0, abstracts ODC-By 1.0)
Paper      Thakur et al. 2021, https://arxiv.org/abs/2104.08663
Sizes      of SciFact: 5,183 documents; queries train 809, test 300, with 919 and 339 judgements
Context    the query
Candidates those of a run file; without one the examples have none, and the corpus is the pool (below)
Files      `corpus.jsonl` {"_id", "title", "text"}, `queries.jsonl` {"_id", "text"},
           `qrels/{train,dev,test}.tsv` ("query-id corpus-id score", separated by tabs, under that header)

`-t poly_agents:beir --data-files FOLDER` reads the folder of one data set, `-t poly_agents:beir:NAME` downloads one, or
reads the folder NAME in `--data-files`. CQADupStack is twelve data sets, `-t poly_agents:beir:cqadupstack:android` and
so on; its published figure is their mean. A document is its title, a space and its text, as in sentence-transformers'
evaluation. Labels are the texts of the relevant documents, the best judged first. Queries without any are left out.

Re-ranking: `--beir-run FILE` is a TREC run ("query Q0 document rank score tag", sorted here by score) or JSON lines
({"query_id": ..., "documents": [ids, best first]}). The first `--beir-top` documents of a query are its candidates and
`grades` their judgements, 0 for documents that nobody judged. A document with the query's own id is dropped. In
evaluation the candidates stay as they were found, so a query without a relevant one needs `--ignore-bad-candidates
true`. In training the relevant documents are added.

Retrieval: write the corpus as candidates, then rank all of it. Documents without a word are not in it.

    python -m poly_agents.tasks.beir FOLDER candidates.jsonl
    parlai eval_model -mf MODEL -t poly_agents:beir --data-files FOLDER -dt test -ecands fixed -fcp candidates.jsonl
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from poly_agents.agents.teachers.examples import Example
from poly_agents.agents.teachers.reading import columns, json_object, rows
from poly_agents.agents.teachers.response import ResponseTeacher, logging, variant
from poly_agents.errors import InputError
from poly_agents.evaluation.submissions import Ranking, trec
from poly_agents.files import atomic
from poly_agents.files.download import Download

SITE = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets"
MD5 = {  # of the archives, as BEIR's README lists them
    "arguana": "8ad3e3c2a5867cdced806d6503f29b99",
    "climate-fever": "8b66f0a9126c521bae2bde127b4dc99d",
    "cqadupstack": "4e41456d7df8ee7760a7f866133bda78",
    "dbpedia-entity": "c2a39eb420a3164af735795df012ac2c",
    "fever": "5a818580227bfb4b35bb6fa46d9b6c03",
    "fiqa": "17918ed23cd04fb15047f73e6c3bd9d9",
    "hotpotqa": "f412724f78b0d91183a0e86805e16114",
    "msmarco": "444067daf65d982533ea17ebd59501e4",
    "nfcorpus": "a89dba18a62ef92f7d323ec890a0d38d",
    "nq": "d4d3d2e48787a744b6f6e691ff534307",
    "quora": "18fb154900ba42a600f84b839c173167",
    "scidocs": "38121350fc3a4d2f48850f6aff52e4a9",
    "scifact": "5f7d1de60b170fc8027bb7898e2efca1",
    "trec-covid": "ce62140cb23feb9becf6270d0d1fe6d1",
    "webis-touche2020": "46f650ba5a527fc69e0a6521c5a23563",
}
CQADUPSTACK = (
    "android english gaming gis mathematica physics programmers stats tex unix webmasters wordpress".split()
)  # the folders of its archive
HEADER = ["query-id", "corpus-id", "score"]
TOP = 100

Judgements = dict[str, dict[str, float]]  # query -> document -> grade


class BeirTeacher(ResponseTeacher):
    """`-t poly_agents:beir --data-files FOLDER`, `-t poly_agents:beir:NAME`"""

    FILES = tuple(Download(f"{SITE}/{name}.zip", f"{name}.zip", archive=True, md5=md5) for name, md5 in MD5.items())
    WHERE = "-t poly_agents:beir:NAME downloads a data set; or unpack its archive and give its folder as --data-files"

    @classmethod
    def add_cmdline_args(cls, parser, partial_opt=None):
        super().add_cmdline_args(parser, partial_opt)
        group = parser.add_argument_group("beir")
        group.add_argument("--beir-run", help="rank the documents of this TREC run or JSON lines file")
        group.add_argument("--beir-top", type=int, default=TOP, help="how many documents of the run are candidates")
        return parser

    def __init__(self, opt, shared=None):
        name = variant(opt["task"])
        if name == "cqadupstack":
            raise InputError(
                f"cqadupstack is twelve data sets: -t poly_agents:beir:{name}:PART, PART being one of "
                f"{', '.join(CQADUPSTACK)}"
            )
        self.folder = f"{name.replace(':', '/')}/" if name else ""
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
        """Read the grades of the documents of every query."""
        judged: Judgements = {}
        for row in self.rows(self.path(f"{self.folder}qrels/{name}.tsv"), parse_judgement):
            if row:
                judged.setdefault(row[0], {})[row[1]] = row[2]
        return judged

    def run(self, split: str) -> dict[str, list[str]]:
        """Read the best documents of every query, best first. Without a run file there are none."""
        if not self.opt.get("beir_run"):
            return {}
        path, top = Path(self.opt["beir_run"]), self.positive("beir_top", TOP)
        if not path.is_file():
            raise InputError(f"--beir-run: there is no file {path}")
        found: dict[str, list[tuple[str, float]]] = {}
        parse = parse_json_run if ".jsonl" in path.suffixes else parse_trec_run
        for query, documents in self.rows(path, parse):
            found.setdefault(query, []).extend(documents)
        for documents in found.values():
            documents.sort(key=lambda document: -document[1])
        return {
            query: [document for document in dict(documents) if document != query][:top]
            for query, documents in found.items()
        }


def read_object(line: str) -> dict[str, Any]:
    """Parse a document or a query. Raises ValueError if its id or its text is no text."""
    row = json_object(line)
    if not isinstance(row["_id"], str) or not isinstance(row["text"], str):
        raise InputError("_id and text must be texts")
    return row


def text_of(row: dict[str, Any]) -> str:
    """Join the title and the text of a document.

    >>> text_of({"_id": "7", "title": "Rain", "text": "It falls."}), text_of({"_id": "8", "text": "No title."})
    ('Rain It falls.', 'No title.')
    """
    return f"{row.get('title') or ''} {row['text']}".strip()


def parse_query(line: str) -> tuple[str, str]:
    """Parse a query: its id and its text."""
    row = read_object(line)
    return row["_id"], row["text"]


def parse_judgement(line: str) -> tuple[str, str, float] | None:
    """Parse a judgement: query, document and grade. Returns None for the header."""
    query, document, grade = columns(line, 3)
    return None if [query, document, grade] == HEADER else (query, document, float(grade))


def parse_trec_run(line: str) -> tuple[str, list[tuple[str, float]]]:
    """Parse a line of a TREC run: query, Q0, document, rank, score, tag."""
    fields = line.split()
    if len(fields) != 6:
        raise InputError(f"a line of a TREC run has 6 columns, got {len(fields)}")
    return fields[0], [(fields[2], float(fields[4]))]


def parse_json_run(line: str) -> tuple[str, list[tuple[str, float]]]:
    """Parse a JSON line with the documents of a query, best first."""
    row = json_object(line)
    if not isinstance(row["documents"], list):
        raise InputError("documents must be a list of ids")
    return row["query_id"], [(str(document), -float(place)) for place, document in enumerate(row["documents"])]


def write_run(out: str | Path, found: Mapping[str, Sequence[tuple[str, float]]]) -> None:
    """Write documents and scores of every query as a TREC run, which `--beir-run` reads."""
    rankings = [Ranking(query, [d for d, _ in best], [s for _, s in best], 0.0) for query, best in found.items()]
    atomic.write_text(out, trec(rankings))


def documents(folder: str | Path) -> Iterator[dict[str, str]]:
    """Yield the documents of a corpus as candidates with `text` and `id`, without those that have no word."""
    path = Path(folder, "corpus.jsonl")
    path = path if path.is_file() else path.with_name("corpus.jsonl.gz")
    for row in rows(path, read_object):
        if text_of(row):
            yield {"text": text_of(row), "id": row["_id"]}


def write_corpus(folder: str | Path, out: str | Path) -> int:
    """Write the corpus as JSON lines, which `-fcp` reads. Returns the number of documents."""
    lines = [json.dumps(document, ensure_ascii=False) for document in documents(folder)]
    atomic.write_text(out, "\n".join(lines) + "\n")
    return len(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="write a BEIR corpus as candidates for -fcp")
    parser.add_argument("folder", help="the folder that holds corpus.jsonl or corpus.jsonl.gz")
    parser.add_argument("out", help="the file to write, its name must end in .jsonl")
    given = parser.parse_args()
    if not given.out.endswith(".jsonl"):
        parser.error(f"the name must end in .jsonl, got {given.out}")
    print(f"{write_corpus(given.folder, given.out)} documents in {given.out}")
