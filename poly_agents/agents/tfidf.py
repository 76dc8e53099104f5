"""A baseline without weights or training: the cosine of scikit-learn's TF-IDF vectors of context and candidate."""

import time
from collections.abc import Iterator
from itertools import islice

import torch
from parlai.core.agents import Agent
from parlai.core.message import Message
from parlai.core.metrics import AverageMetric
from sklearn.feature_extraction.text import TfidfVectorizer

from poly_agents.agents import answers
from poly_agents.agents.report import Evaluation, EvaluationOptions, RankedExample, Scored
from poly_agents.agents.teachers import teachers
from poly_agents.candidates import pool as pools

FIT_EXAMPLES = 20_000


class TfidfAgent(Agent):
    """`-m poly_agents/tfidf`: ranks inline candidates. Document frequencies come from the task's train split."""

    @classmethod
    def add_cmdline_args(cls, parser, partial_opt=None):
        EvaluationOptions.add_to(parser.add_argument_group("TfidfAgent of poly_agents"))
        return parser

    def __init__(self, opt, shared=None):
        super().__init__(opt, shared)
        self.id = "Tfidf"
        self.evaluation = shared["evaluation"] if shared else Evaluation.of(opt)
        self.vectorizer = shared["vectorizer"] if shared else TfidfVectorizer().fit(self._train_texts())

    def _train_texts(self) -> Iterator[str]:
        for teacher in teachers(self.opt, datatype="train:evalmode", batchsize=1):
            messages = (teacher.act() for _ in range(teacher.num_examples()))
            for message in islice(messages, FIT_EXAMPLES):
                yield from (message.get("text", ""), *message.get("eval_labels", ()))

    def share(self):
        return super().share() | {"vectorizer": self.vectorizer, "evaluation": self.evaluation}

    def reset(self):
        super().reset()
        self.evaluation.close()

    def act(self):
        reply = Message(id=self.id, episode_done=False)
        example = RankedExample.of(self.observation, self.observation.get("text", ""))
        candidates = self.observation.get("label_candidates")
        if not candidates:
            return reply
        start = time.perf_counter()
        scored = self._score(example.context, list(candidates))
        metrics = {"ms": AverageMetric(1000 * (time.perf_counter() - start))}
        answers.submit(self.evaluation, [example], scored)
        relevance = None
        if example.right:
            report = answers.report(self.evaluation, [example], scored)
            relevance = report.relevance
            metrics |= {name: values[0] for name, values in report.metrics.items() if values[0] is not None}
        (answer,) = answers.best_answers(scored, len(candidates), relevance=relevance)
        reply.update(
            text=answer.texts[0], text_candidates=answer.texts, candidate_scores=answer.scores, metrics=metrics
        )
        return reply

    def _score(self, context: str, candidates: list[str]) -> Scored:
        """Score the distinct candidates of one context, [1, C]."""
        pool = pools.separate([candidates], [[()] * len(candidates)], None)
        vectors = self.vectorizer.transform([context, *pool.texts])
        return Scored(pool, torch.from_numpy((vectors[1:] @ vectors[0].T).toarray().T))
