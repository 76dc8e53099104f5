"""BEIR: any data set in its format; queries, a corpus, and judgements of which documents answer which queries.

Source     https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets/NAME.zip; bioasq, signal1m, trec-news and
           robust04 are not public (https://github.com/beir-cellar/beir says how to make their files)
Licence    that of each data set (SciFact: claims CC BY 4.0, abstracts ODC-By 1.0)
Paper      Thakur et al. 2021, https://arxiv.org/abs/2104.08663
Sizes      of SciFact: 5,183 documents; queries train 809, test 300, with 919 and 339 judgements
Context    the query
Candidates those of a run file; without one the examples have none, and the corpus is the pool (below)
Files      `corpus.jsonl` {"_id", "title", "text"}, `queries.jsonl` {"_id", "text"},
           `qrels/{train,dev,test}.tsv` ("query-id corpus-id score", separated by tabs, under that header); ids may be
           numbers or quoted

`-t poly_agents:beir --data-files FOLDER` reads the folder of one data set, `-t poly_agents:beir:NAME` downloads one, or
reads the folder NAME in `--data-files`. CQADupStack is twelve data sets, `-t poly_agents:beir:cqadupstack:android` and
so on; its published figure is their mean. A document is its title, a space and its text, as in sentence-transformers'
evaluation. Labels are the texts of the relevant documents, the best judged first. Queries without any are left out.

Relevant documents that the corpus lacks, or that have no words, count as missed, as in trec_eval: in ArguAna a few
queries have no other ones. Documents with equal texts are one candidate with the best of their grades; a submission
gives all their ids. Of two texts under one id the last counts, as in BEIR's own loader. A log line counts each.

Re-ranking: `--beir-run FILE` is a TREC run ("query Q0 document rank score tag", sorted here by score) or JSON lines
({"query_id": ..., "documents": [ids, best first]}). The first `--beir-top` documents of a query are its candidates and
`grades` their judgements, 0 for documents that nobody judged. A document with the query's own id is dropped. In
evaluation the candidates stay as they were found, so a query without a relevant one needs `--ignore-bad-candidates
true`. In training the relevant documents are added.

Retrieval: write the corpus as candidates, then rank all of it. Documents without words are not in it.

    python -m poly_agents.tasks.beir FOLDER candidates.jsonl
    parlai eval_model -mf MODEL -t poly_agents:beir --data-files FOLDER -dt test -ecands fixed -fcp candidates.jsonl
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from poly_agents.agents.teachers.examples import Example
from poly_agents.agents.teachers.reading import as_id, csv_fields, finite, id_at, json_object, list_at, rows, text_at
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

    SUBMISSIONS = ("trec",)
    draws_candidates = False  # its measures are those of a run or of the whole corpus

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
        documents = self.rows(self.path(f"{self.folder}corpus.jsonl"), parse_document)
        texts = by_id((row for row in documents if row[0] in wanted), "documents")
        path = self.path(f"{self.folder}queries.jsonl")
        queries = by_id((row for row in self.rows(path, parse_query) if row[0] in judged), "queries")
        if judged and not queries:
            raise InputError(f"{path} has none of the judged queries; the first of these is {next(iter(judged))!r}")
        lost = sum(grade > 0 and not texts.get(d) for query in queries for d, grade in judged[query].items())
        if lost and split != "train":
            logging.warning(f"{lost:,} relevant documents are not in the corpus, or empty there: they count as missed")
        for query, text in queries.items():
            there = set(runs.get(query, ()))
            right = [document for document, grade in judged[query].items() if grade > 0]
            right.sort(key=lambda document: (document not in there, -judged[query][document]))
            known = [document for document in right if texts.get(document)]
            if not right or (split == "train" and not known):
                continue
            missed = [judged[query][document] for document in right if document not in known]
            response, *others = [texts[document] for document in known] or [f"document {right[0]}, not in the corpus"]
            example = Example([text], response, None, others, id=query, missed=missed)
            if not self.opt.get("beir_run"):
                yield example._replace(label_grades=[judged[query][document] for document in known])
                continue
            pool = [document for document in runs.get(query, ()) if texts.get(document)]
            pool += [document for document in known if split == "train" and document not in there]
            if not pool:
                logging.warning(f"--beir-run {self.opt['beir_run']} has no documents for the query {query}; left out")
                continue
            grades = [judged[query].get(document, 0.0) for document in pool]
            candidates = [texts[document] for document in pool]
            yield example._replace(candidates=candidates, grades=grades, candidate_ids=pool)

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


def parse_document(line: str) -> tuple[str, str]:
    """Parse a document: its id, and its title and text.

    >>> parse_document('{"_id": 7, "title": "Rain", "text": "It falls."}')
    ('7', 'Rain It falls.')
    """
    row = json_object(line)
    title = text_at(row, "title") if row.get("title") else ""
    return id_at(row, "_id"), f"{title} {text_at(row, 'text')}".strip()


def parse_query(line: str) -> tuple[str, str]:
    """Parse a query: its id and its text."""
    row = json_object(line)
    return id_at(row, "_id"), text_at(row, "text")


def by_id(found: Iterable[tuple[str, str]], name: str) -> dict[str, str]:
    """Return texts by their ids. Of two texts under one id the last counts; a warning says how many `name` had two."""
    texts: dict[str, str] = {}
    changed = 0
    for key, text in found:
        changed += texts.setdefault(key, text) != text
        texts[key] = text
    if changed:
        logging.warning(f"{changed:,} {name} have the id of another one with other words: the last one counts")
    return texts


def parse_judgement(line: str) -> tuple[str, str, float] | None:
    """Parse a judgement: query, document and grade. Returns None for the header.

    >>> parse_judgement('"q1"\\td1\\t2')
    ('q1', 'd1', 2.0)
    """
    fields = csv_fields(line, "\t")
    if len(fields) != 3:
        raise InputError(f"a row has 3 columns separated by tabs, got {len(fields)}")
    query, document, grade = fields
    return None if fields == HEADER else (query, document, finite(grade))


def parse_trec_run(line: str) -> tuple[str, list[tuple[str, float]]]:
    """Parse a line of a TREC run: query, Q0, document, rank, score, tag."""
    fields = line.split()
    if len(fields) != 6:
        raise InputError(f"a line of a TREC run has 6 columns, got {len(fields)}")
    return fields[0], [(fields[2], finite(fields[4]))]


def parse_json_run(line: str) -> tuple[str, list[tuple[str, float]]]:
    """Parse a JSON line with the documents of a query, best first."""
    row = json_object(line)
    documents = [as_id(document, "a document") for document in list_at(row, "documents")]
    return id_at(row, "query_id"), [(document, -float(place)) for place, document in enumerate(documents)]


def write_run(out: str | Path, found: Mapping[str, Sequence[tuple[str, float]]]) -> None:
    """Write documents and scores of every query as a TREC run, which `--beir-run` reads."""
    rankings = [Ranking(query, [d for d, _ in best], [s for _, s in best], 0.0) for query, best in found.items()]
    atomic.write_text(out, trec(rankings))


def documents(folder: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the documents of a corpus as candidates with `text` and `id`, without those that have no words.

    Documents with equal texts are one candidate. `same` has the ids of the others.
    """
    path = Path(folder, "corpus.jsonl")
    path = path if path.is_file() else path.with_name("corpus.jsonl.gz")
    ids: dict[str, list[str]] = {}
    for document, text in by_id(rows(path, parse_document), "documents").items():
        ids.setdefault(text, []).append(document)
    for text, (first, *same) in ids.items():
        if text:
            yield {"text": text, "id": first} | ({"same": same} if same else {})


def write_corpus(folder: str | Path, out: str | Path) -> int:
    """Write the corpus as JSON lines, which `-fcp` reads. Returns the number of candidates."""
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
    print(f"{write_corpus(given.folder, given.out)} candidates in {given.out}; documents with equal texts are one")
