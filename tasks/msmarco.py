"""MS MARCO passage re-ranking: Bing queries and the passages that BM25 found for them.

Source     https://microsoft.github.io/msmarco/Datasets (passage ranking); people often use `qrels.dev.small.tsv`, which
           that page does not list
Licence    MS MARCO terms: non-commercial research
Paper      Bajaj et al. 2016, https://arxiv.org/abs/1611.09268
Sizes      train 39,780,811 triples; valid 6,980 queries with up to 1,000 passages each (6,668,967 rows), 7,437 judged
           right; test 6,837 queries (6,515,736 rows), whose judgements are hidden
Context    the query
Candidates valid: the passages of top1000.dev in the order of its rows; train: the right passage and the wrong one
Files      `top1000.dev` ("qid pid query passage") with `qrels.dev.small.tsv` ("qid 0 pid 1"),
           `triples.train.small.tsv` ("query positive negative"), `top1000.eval` as `top1000.dev`, all separated by tabs

`--msmarco-triples N` reads the first N triples (default: a million; all of them are 27 GB). Valid holds about 3 GB of
passages in memory. MRR@10 counts every judged query. For one query in seven BM25 found no right passage: evaluate with
`--ignore-bad-candidates true`, which ranks the other queries. If the right passage of such a query is nowhere in the
file, its text is unknown; these queries are left out, and a warning counts them.

Test is only for `--submission FILE`.
"""

from collections.abc import Container, Iterator
from itertools import islice
from typing import NamedTuple

from poly_agents.agents.teachers.examples import Example
from poly_agents.agents.teachers.reading import columns, finite
from poly_agents.agents.teachers.response import ResponseTeacher, logging
from poly_agents.errors import InputError
from poly_agents.files.download import Download

SITE = "https://msmarco.z22.web.core.windows.net/msmarcoranking"
TRIPLES = 1_000_000


def archive(name: str, member: str, md5: str) -> Download:
    return Download(f"{SITE}/{name}.tar.gz", f"{name}.tar.gz", members=(member,), md5=md5)


class Top1000(NamedTuple):
    """The passages that BM25 found, all by their ids.

    Attributes:
        passages: passage id -> text.
        queries: query id -> text.
        found: query id -> passage ids, in the file's order.
    """

    passages: dict[str, str]
    queries: dict[str, str]
    found: dict[str, list[str]]


class MsmarcoTeacher(ResponseTeacher):
    """`-t poly_agents:msmarco`"""

    FILES = (
        archive("top1000.dev", "top1000.dev", "8c140662bdf123a98fbfe3bb174c5831"),
        archive("top1000.eval", "top1000.eval", "73778cd99f6e0632d12d0b5731b20a02"),
        archive("triples.train.small", "triples.train.small.tsv", "c13bf99ff23ca691105ad12eab837f84"),
        Download(f"{SITE}/qrels.dev.small.tsv", "qrels.dev.small.tsv"),
    )

    SUBMISSIONS = ("msmarco", "trec")

    @classmethod
    def add_cmdline_args(cls, parser, partial_opt=None):
        super().add_cmdline_args(parser, partial_opt)
        group = parser.add_argument_group("msmarco")
        group.add_argument("--msmarco-triples", type=int, default=TRIPLES, help="how many training triples to read")
        return parser

    def read(self, split) -> Iterator[Example]:
        return {"train": self.triples, "valid": self.judged, "test": self.hidden}[split]()

    def triples(self) -> Iterator[Example]:
        """Read the first training triples."""
        limit = self.positive("msmarco_triples", TRIPLES)
        return islice(self.rows(self.path("triples.train.small.tsv"), parse_triple), limit)

    def judged(self) -> Iterator[Example]:
        """Read each query of valid with its passages and their judgements, in the order of the file."""
        right: dict[str, list[str]] = {}
        for query, passage, grade in self.rows(self.path("qrels.dev.small.tsv"), parse_judgement):
            if grade > 0:
                right.setdefault(query, []).append(passage)
        texts, queries, found = self.top1000("top1000.dev", right)
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
        """Read each query of test with its passages."""
        self.only_for_a_submission()
        texts, queries, found = self.top1000("top1000.eval", None)
        for number, passages in found.items():
            candidates = [texts[passage] for passage in passages]
            yield Example([queries[number]], None, candidates, id=number, candidate_ids=passages)

    def top1000(self, name: str, wanted: Container[str] | None) -> Top1000:
        """Read the passages that were found for the wanted queries, or for all of them if None."""
        texts: dict[str, str] = {}
        queries: dict[str, str] = {}
        found: dict[str, list[str]] = {}
        for number, passage, query, text in self.rows(self.path(name), lambda line: fields(line, 4)):
            if wanted is None or number in wanted:
                texts.setdefault(passage, text)
                queries.setdefault(number, query)
                found.setdefault(number, []).append(passage)
        return Top1000(texts, queries, found)


def fields(line: str, count: int) -> list[str]:
    """Split a line at its tabs into columns, none of them empty."""
    found = columns(line, count)
    if not all(field.strip() for field in found):
        raise InputError("a column is empty")
    return found


def parse_triple(line: str) -> Example:
    """Parse a query with its right and its wrong passage."""
    query, right, wrong = fields(line, 3)
    return Example([query], right, [right, wrong])


def parse_judgement(line: str) -> tuple[str, str, float]:
    """Parse a judgement: query, passage and grade. Some files separate the columns by spaces instead of tabs."""
    fields = line.split()
    if len(fields) != 4:
        raise InputError(f"a judgement is a query, 0, a passage and a grade, got {len(fields)} columns")
    return fields[0], fields[2], finite(fields[3])
