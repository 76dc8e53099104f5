"""InsuranceQA: questions of insurance customers, answered by professionals of insurancelibrary.com.

Source     https://github.com/shuzi/insuranceQA, the original; https://github.com/chatopera/insuranceqa-corpus-zh, whose
           English side has other candidates
Licence    the original: for research only; chatopera's data: Chunsong Public License 1.0, sold with a certificate
           (`INSQA_DL_LICENSE`)
Paper      Feng et al. 2015, https://arxiv.org/abs/1508.01585
Sizes      questions: train 12,889, valid 2,000, test 2,000, with 21,325 / 3,354 / 3,308 right answers; 27,413 answers
Context    the question
Candidates chatopera's: the right answers and 200 others of the data set, in an order drawn once; the original's: the N
           answers that a search engine found for the question
Files      JSON lines: `answers.en.jsonl` {"id", "text"};
           `{train,valid,test}.en.jsonl` {"question", "answers": [ids], "negatives": [ids], ...};
           or the original V2: `InsuranceQA.label2answer.raw.encoded`, `vocabulary` and
           `InsuranceQA.question.anslabel.raw.N.pool.solr.{train,valid,test}.encoded` with `--insuranceqa-pool N`

The original pools of valid and test stay as they are. In 20.4% of valid and 18.8% of test no right answer is among the
500 (36.1% of valid at 100), and no ranker can be right there: evaluate with `--ignore-bad-candidates true`. In train,
where 19.4% lack one, the right answer is added.
"""

import random
from collections.abc import Iterator

from poly_agents.agents.teachers.examples import Example
from poly_agents.agents.teachers.reading import as_id, columns, id_at, json_object, list_at, text_at
from poly_agents.agents.teachers.response import ResponseTeacher
from poly_agents.errors import InputError

POOLS = (100, 500, 1000, 1500)


class InsuranceqaTeacher(ResponseTeacher):
    """`-t poly_agents:insuranceqa --data-files FOLDER`"""

    WHERE = (
        "clone https://github.com/shuzi/insuranceQA and give its folder V2 as --data-files; or write "
        "answers.en.jsonl and {train,valid,test}.en.jsonl from https://github.com/chatopera/insuranceqa-corpus-zh"
    )

    @classmethod
    def add_cmdline_args(cls, parser, partial_opt=None):
        super().add_cmdline_args(parser, partial_opt)
        group = parser.add_argument_group("insuranceqa")
        group.add_argument(
            "--insuranceqa-pool",
            type=int,
            choices=POOLS,
            default=500,
            help="number of answers in a pool of the original files",
        )
        return parser

    def read(self, split) -> Iterator[Example]:
        path = self.path("answers.en.jsonl", "vocabulary")
        if not path.name.startswith("answers"):
            yield from self.original(split)
            return
        answers = dict(self.rows(path, parse_answer))
        yield from self.rows(self.path(f"{split}.en.jsonl"), lambda line: parse(line, answers, split))

    def original(self, split: str) -> Iterator[Example]:
        """Read the files of the paper's authors, in which words are numbers of a vocabulary."""
        words = dict(self.rows(self.path("vocabulary"), lambda line: columns(line, 2)))
        encoded = self.rows(self.path("InsuranceQA.label2answer.raw.encoded"), lambda line: columns(line, 2))
        answers = {number: spell(text, words) for number, text in encoded}
        size = self.opt.get("insuranceqa_pool") or POOLS[1]
        name = f"InsuranceQA.question.anslabel.raw.{size}.pool.solr.{split}.encoded"
        yield from self.rows(self.path(name), lambda line: parse_original(line, words, answers, split == "train"))


def spell(text: str, words: dict[str, str]) -> str:
    """Replace the numbers of words by the words.

    >>> spell("idx_1 idx_2", {"idx_1": "flood", "idx_2": "damage"})
    'flood damage'
    """
    return " ".join(words[word] for word in text.split())


def parse_original(line: str, words: dict[str, str], answers: dict[str, str], complete: bool) -> Example:
    """Parse a question of the original files. With `complete`, a pool without a right answer gets one.

    The response is the first right answer that is in the pool.
    """
    _, question, right, pool = columns(line, 4)
    right, pool = right.split(), pool.split()
    first = next((number for number in right if number in pool), right[0])
    if complete and first not in pool:
        pool.append(first)
    others = [answers[number] for number in right if number != first]
    return Example([spell(question, words)], answers[first], [answers[number] for number in pool], others)


def parse_answer(line: str) -> tuple[str, str]:
    """Parse an answer: its id and its text."""
    row = json_object(line)
    text = text_at(row, "text")
    if not text.strip():
        raise InputError("text must not be empty")
    return id_at(row, "id"), text


def parse(line: str, answers: dict[str, str], seed: str) -> Example:
    """Parse a question of the JSON lines. Raises ValueError for the id of an unknown answer."""
    row = json_object(line)
    question = text_at(row, "question")
    right, wrong = ([as_id(number, key) for number in list_at(row, key)] for key in ("answers", "negatives"))
    if not right:
        raise InputError("answers must not be empty")
    if unknown := [number for number in (*right, *wrong) if number not in answers]:
        raise InputError(f"there is no answer {unknown[0]!r}")
    pool = [*right, *wrong]
    random.Random(f"insuranceqa:{seed}:{question}").shuffle(pool)
    texts = [answers[number] for number in right]
    return Example([question], texts[0], [answers[number] for number in pool], texts[1:])
