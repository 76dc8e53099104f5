"""A baseline without weights: BM25 between the words of a context and those of its candidates.

    parlai eval_model -m poly_agents/bm25 -t TASK -dt test
    parlai interactive -m poly_agents/bm25 -fcp candidates.txt

How rare a word is comes from the responses of the task's train split, or from the pool of `-fcp`.
"""

import time
from collections.abc import Iterator
from itertools import islice

import torch
from parlai.core.message import Message
from parlai.core.metrics import AverageMetric
from parlai.utils import logging

from poly_agents.agents import answers
from poly_agents.agents.arguments import add_chat_arguments, is_training
from poly_agents.agents.report import Evaluation, EvaluationOptions, RankedExample, Scored
from poly_agents.agents.teachers import teachers
from poly_agents.agents.text_agent import TextAgent
from poly_agents.candidates import pool as pools
from poly_agents.candidates.pool import Pool
from poly_agents.candidates.reading import read_candidates
from poly_agents.errors import DownloadError, InputError
from poly_agents.scoring import bm25
from poly_agents.scoring.bm25 import Bm25

FIT_EXAMPLES = 20_000


class FixedPool:
    """The candidates of a file, with the weights of their words."""

    def __init__(self, path: str):
        self.candidates = list({each["text"].strip(): each for each in read_candidates(path)}.values())
        self.pool = Pool.without_ids([candidate["text"] for candidate in self.candidates])
        self.rows = {candidate["text"].strip(): row for row, candidate in enumerate(self.candidates)}
        counted = bm25.count(self.pool.texts)
        self.weights = Bm25(counted).weights(counted)

    def score(self, context: str) -> Scored:
        """Score all candidates for one context, [1, N]."""
        return Scored(self.pool, as_tensor(bm25.scores(context, self.weights)), self.rows_of)

    def rows_of(self, texts: list[str]) -> list[int]:
        """Return the row of each text, -1 for one that is no candidate."""
        return [self.rows.get(text.strip(), -1) for text in texts]


class Bm25Agent(TextAgent):
    """`-m poly_agents/bm25`: ranks the candidates of `-fcp`, or else those that each example brings."""

    @classmethod
    def add_cmdline_args(cls, parser, partial_opt=None):
        group = parser.add_argument_group("Bm25Agent of poly_agents")
        EvaluationOptions.add_to(group)
        group.add_argument("-fcp", "--fixed-candidates-path", help="a file with candidates for every context")
        add_chat_arguments(group)
        return parser

    def __init__(self, opt, shared=None):
        super().__init__(opt, shared)
        self.id = "Bm25"
        if shared:
            self.evaluation, self.fixed, self.statistics = shared["bm25"]
            return
        path = opt.get("fixed_candidates_path")
        if is_training(opt):
            raise InputError("bm25 has no weights to train; evaluate it with eval_model")
        if self.chat and not path:
            raise InputError("a chat needs candidates; give -fcp FILE")
        self.evaluation = Evaluation.of(opt)
        self.fixed = FixedPool(path) if path else None
        self.statistics = None if path else self._fit()

    def _fit(self) -> Bm25 | None:
        """Weigh words by the responses of the train split. Returns None if it cannot be read."""
        try:
            return Bm25(bm25.count(list(self._train_responses())))
        except (ValueError, OSError, DownloadError) as error:
            logging.warning(f"words are weighed by each example's own candidates, without a train split: {error}")
            return None

    def _train_responses(self) -> Iterator[str]:
        for teacher in teachers(self.opt, datatype="train:evalmode", batchsize=1, eval_negatives=0):
            messages = (teacher.act() for _ in range(teacher.num_examples()))
            for message in islice(messages, FIT_EXAMPLES):
                yield from message.get("eval_labels") or ()

    def share(self):
        return super().share() | {"bm25": (self.evaluation, self.fixed, self.statistics)}

    def act(self):
        reply = Message(id=self.id, episode_done=False)
        if not self.observation.is_padding() and "full_text" in self.observation:
            self._answer(reply, RankedExample.of(self.observation, self.observation["full_text"]))
        return self.shown(reply)

    def _answer(self, reply: Message, example: RankedExample) -> None:
        own = list(example.message.get("label_candidates") or ())
        if not self.fixed and not own:
            raise InputError("these examples bring no candidates; give -fcp FILE")
        start = time.perf_counter()
        scored = self.fixed.score(example.context) if self.fixed else self._score(example.context, own)
        metrics = {"ms": AverageMetric(1000 * (time.perf_counter() - start))}
        answers.submit(self.evaluation, [example], scored, self.fixed.candidates if self.fixed else None)
        relevance = None
        if example.right:
            report = answers.report(self.evaluation, [example], scored)
            relevance = report.relevance
            metrics |= {name: values[0] for name, values in report.metrics.items() if values[0] is not None}
        self.answer(reply, example, scored, relevance)
        reply["metrics"] = metrics

    def _score(self, context: str, candidates: list[str]) -> Scored:
        """Score the distinct candidates of one context, [1, C]."""
        pool = pools.separate([candidates], [[()] * len(candidates)], None)
        counted = bm25.count(pool.texts)
        statistics = self.statistics or Bm25(counted)
        return Scored(pool, as_tensor(bm25.scores(context, statistics.weights(counted))))


def as_tensor(scores) -> torch.Tensor:
    return torch.from_numpy(scores).float().unsqueeze(0)  # [1, N]
