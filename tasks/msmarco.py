"""MS MARCO passage re-ranking: Bing queries and the passages that BM25 found for them.

Source     https://microsoft.github.io/msmarco/Datasets (passage ranking)
Licence    MS MARCO terms: non-commercial research
Paper      Bajaj et al. 2016, https://arxiv.org/abs/1611.09268
Sizes      train 39,780,811 triples; valid 6,980 queries with up to 1,000 passages each (6,668,967 rows), 7,437 judged
           right; test 6,837 queries (6,515,736 rows), whose judgements are hidden
Context    the query
Candidates valid: the passages of top1000.dev in the order of its rows; train: the right passage and the wrong one
Files      `top1000.dev` ("qid pid query passage") with `qrels.dev.small.tsv` ("qid 0 pid 1"),
           `triples.train.small.tsv` ("query positive negative"), `top1000.eval` as `top1000.dev`, all parted by tabs

`--msmarco-triples N` reads the first N triples, a million unless told: all of them are 27 GB. Valid holds some 3 GB of
passages in memory. MRR@10 counts every judged query: for one in seven no right passage was found, so evaluate with
`--ignore-bad-candidates true`, which ranks the others; such a query has the response that is judged right only where
some query has that passage, and is left out, with a warning that counts them, where none has.

Test is for `--submission FILE --submission-format msmarco` alone.
"""

from collections.abc import Container, Iterator
from itertools import islice
from typing import NamedTuple

from parlai.utils import logging

from poly_agents.files.download import Download
from poly_agents.tasks.response import Example, ResponseTeacher, columns

_ROOT = "https://msmarco.z22.web.core.windows.net/msmarcoranking"
FILES = (
    Download(f"{_ROOT}/top1000.dev.tar.gz", "top1000.dev.tar.gz", members=("top1000.dev",)),
    Download(f"{_ROOT}/top1000.eval.tar.gz", "top1000.eval.tar.gz", members=("top1000.eval",)),
    Download(f"{_ROOT}/qrels.dev.small.tsv", "qrels.dev.small.tsv"),
    Download(f"{_ROOT}/triples.train.small.tar.gz", "triples.train.small.tar.gz", members=("triples.train.small.tsv",)),
)


TRIPLES = 1_000_000


class Ranked(NamedTuple):
    """What BM25 found, by the numbers of passages and queries."""

    texts: dict[str, str]  # of the passages
    queries: dict[str, str]
    found: dict[str, list[str]]  # query -> passages


class MsmarcoTeacher(ResponseTeacher):
    """`-t poly_agents:msmarco --data-files FOLDER`"""

    @classmethod
    def add_cmdline_args(cls, parser, partial_opt=None):
        super().add_cmdline_args(parser, partial_opt)
        group = parser.add_argument_group("msmarco")
        group.add_argument("--msmarco-triples", type=int, default=TRIPLES, help="how many training triples are read")
        return parser

    def read(self, split) -> Iterator[Example]:
        return {"train": self.triples, "valid": self.judged, "test": self.hidden}[split]()

    def triples(self) -> Iterator[Example]:
        limit = self.positive("msmarco_triples", TRIPLES)
        return islice(self.rows(self.path("triples.train.small.tsv"), parse_triple), limit)

    def judged(self) -> Iterator[Example]:
        """Each query with its passages and their judgements, in the order the queries come first."""
        right: dict[str, list[str]] = {}
        for query, passage, grade in self.rows(self.path("qrels.dev.small.tsv"), parse_judgement):
            if grade > 0:
                right.setdefault(query, []).append(passage)
        texts, queries, found = self.ranked("top1000.dev", right)
        lost = len(right) - len(found)
        for number, passages in found.items():
            there = set(passages)
            known = sorted((p for p in right[number] if p in texts), key=lambda passage: passage not in there)
            if known:
                response, *others = (texts[passage] for passage in known)
                grades = [float(passage in right[number]) for passage in passages]
                candidates = [texts[passage] for passage in passages]
                yield Example([queries[number]], response, candidates, others, grades, number, passages)
            else:
                lost += 1
        if lost:
            logging.warning(f"{lost} of {len(right)} judged queries are left out: no passage of the file is right")

    def hidden(self) -> Iterator[Example]:
        """Each query with its passages."""
        self.only_for_a_submission()
        texts, queries, found = self.ranked("top1000.eval", None)
        for number, passages in found.items():
            candidates = [texts[passage] for passage in passages]
            yield Example([queries[number]], None, candidates, id=number, candidate_ids=passages)

    def ranked(self, name: str, wanted: Container[str] | None) -> Ranked:
        """The passages found for the wanted queries, or for all."""
        texts: dict[str, str] = {}
        queries: dict[str, str] = {}
        found: dict[str, list[str]] = {}
        for number, passage, query, text in self.rows(self.path(name), lambda line: fields(line, 4)):
            if wanted is None or number in wanted:
                texts.setdefault(passage, text)
                queries.setdefault(number, query)
                found.setdefault(number, []).append(passage)
        return Ranked(texts, queries, found)


def fields(line: str, count: int) -> list[str]:
    found = columns(line, count)
    if not all(field.strip() for field in found):
        raise ValueError("a column is empty")
    return found


def parse_triple(line: str) -> Example:
    query, right, wrong = fields(line, 3)
    return Example([query], right, [right, wrong])


def parse_judgement(line: str) -> tuple[str, str, float]:
    """Query, passage, grade; in the files the columns are parted by tabs, in some by blanks."""
    query, _, passage, grade = line.split()
    return query, passage, float(grade)
