"""InsuranceQA: questions of insurance customers, answered by professionals of insurancelibrary.com.

Source     https://github.com/chatopera/insuranceqa-corpus-zh (English side), from https://github.com/shuzi/insuranceQA
Licence    GPL-3.0 (the corpus); the original is for research
Paper      Feng et al. 2015, https://arxiv.org/abs/1508.01585
Sizes      questions: train 12,889, valid 2,000, test 2,000; 27,413 answers; 1.65 right ones a question
Context    the question
Candidates the right answers and 200 others of the data set, in a drawn order that never changes
Files      JSON lines: `answers.en.jsonl` {"id", "text"};
           `{train,valid,test}.en.jsonl` {"question", "answers": [ids], "negatives": [ids], ...};
           or the original V2, found by its names: `InsuranceQA.label2answer.raw.encoded`, `vocabulary` and
           `InsuranceQA.question.anslabel.raw.N.pool.solr.{train,valid,test}.encoded` with `--insuranceqa-pool N`,
           whose candidates are the N answers that a search engine found for the question

The original pools are kept as they are in valid and test: where a right answer is not among them (19% of valid at 500),
no ranker can be right; evaluate with `--ignore-bad-candidates true`. Train adds it.
"""

import random
from collections.abc import Callable, Iterator

from poly_agents.tasks.response import Example, ResponseTeacher, columns, json_object

WHERE = (
    "clone https://github.com/shuzi/insuranceQA and give its folder V2 as --data-files; or write "
    "answers.en.jsonl and {train,valid,test}.en.jsonl from https://github.com/chatopera/insuranceqa-corpus-zh"
)
POOLS = (100, 500, 1000, 1500)


class InsuranceqaTeacher(ResponseTeacher):
    """`-t poly_agents:insuranceqa --data-files FOLDER`"""

    @classmethod
    def add_cmdline_args(cls, parser, partial_opt=None):
        super().add_cmdline_args(parser, partial_opt)
        group = parser.add_argument_group("insuranceqa")
        group.add_argument("--insuranceqa-pool", type=int, choices=POOLS, default=500, help="size of an original pool")
        return parser

    def read(self, split) -> Iterator[Example]:
        try:
            path = self.path("answers.en.jsonl")
        except ValueError:
            yield from self.original(split)
            return
        answers = dict(self.rows(path, parse_answer))
        yield from self.rows(self.path(f"{split}.en.jsonl"), lambda line: parse(line, answers, split))

    def original(self, split: str) -> Iterator[Example]:
        """The files of the paper's authors: words are numbers of a vocabulary."""
        words = dict(self.rows(self.path("vocabulary"), lambda line: columns(line, 2)))
        spell: Callable[[str], str] = lambda text: " ".join(words[word] for word in text.split())  # noqa: E731
        encoded = self.rows(self.path("InsuranceQA.label2answer.raw.encoded"), lambda line: columns(line, 2))
        answers = {number: spell(text) for number, text in encoded}
        size = self.opt.get("insuranceqa_pool") or POOLS[1]

        def example(line: str) -> Example:
            _, question, right, pool = columns(line, 4)
            golds, pool = right.split(), pool.split()
            first = next((number for number in golds if number in pool), golds[0])
            golds = [first, *(number for number in golds if number != first)]
            if split == "train" and first not in pool:
                pool.append(first)
            texts = [answers[number] for number in golds]
            return Example([spell(question)], texts[0], [answers[number] for number in pool], texts[1:])

        yield from self.rows(self.path(f"InsuranceQA.question.anslabel.raw.{size}.pool.solr.{split}.encoded"), example)


def parse_answer(line: str) -> tuple[str, str]:
    row = json_object(line)
    if not isinstance(row["text"], str) or not row["text"].strip():
        raise ValueError("text must be a text that is not empty")
    return row["id"], row["text"]


def parse(line: str, answers: dict[str, str], seed: str) -> Example:
    """A question; a number that is none of the answers' is refused."""
    row = json_object(line)
    right, wrong = row["answers"], row["negatives"]
    if not right:
        raise ValueError("answers must not be empty")
    if unknown := [number for number in (*right, *wrong) if number not in answers]:
        raise ValueError(f"there is no answer {unknown[0]!r}")
    pool = [*right, *wrong]
    random.Random(f"insuranceqa:{seed}:{row['question']}").shuffle(pool)
    texts = [answers[number] for number in right]
    return Example([row["question"]], texts[0], [answers[number] for number in pool], texts[1:])
