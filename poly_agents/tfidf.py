"""TF-IDF baseline without weights or training: cosine of scikit-learn's TF-IDF vectors of context and candidate."""

import time
from itertools import islice

import numpy as np
from parlai.core.agents import Agent
from parlai.core.message import Message
from parlai.core.metrics import AverageMetric
from sklearn.feature_extraction.text import TfidfVectorizer

from poly_agents.teachers import teachers

FIT_EXAMPLES = 20_000


class TfidfAgent(Agent):
    """`-m poly_agents/tfidf`: ranks inline candidates; its document frequencies come from the task's train split."""

    def __init__(self, opt, shared=None):
        super().__init__(opt, shared)
        self.id = "Tfidf"
        self.vectorizer = shared["vectorizer"] if shared else TfidfVectorizer().fit(self._train_texts())

    def _train_texts(self):
        for teacher in teachers(self.opt, datatype="train:evalmode", batchsize=1):
            messages = (teacher.act() for _ in range(teacher.num_examples()))
            for message in islice(messages, FIT_EXAMPLES):
                yield from (message.get("text", ""), *message.get("eval_labels", ()))

    def share(self):
        return super().share() | {"vectorizer": self.vectorizer}

    def act(self):
        seen = self.observation
        candidates = list(seen.get("label_candidates") or ())
        if not candidates:
            return Message(id=self.id, episode_done=False)
        start = time.perf_counter()
        vectors = self.vectorizer.transform([seen.get("text", ""), *candidates])
        scores = (vectors[1:] @ vectors[0].T).toarray().ravel()
        order = np.argsort(-scores, kind="stable")
        reply = Message(id=self.id, episode_done=False, text=candidates[order[0]])
        reply["text_candidates"] = [candidates[i] for i in order]
        reply["candidate_scores"] = scores[order].tolist()
        metrics = {"ms": AverageMetric(1000 * (time.perf_counter() - start))}
        labels = seen.get("eval_labels") or seen.get("labels") or ()
        if labels and labels[0] in candidates:
            rank = 1 + reply["text_candidates"].index(labels[0])
            metrics |= {"rank": AverageMetric(rank), "mrr": AverageMetric(1 / rank)}
        reply["metrics"] = metrics
        return reply
