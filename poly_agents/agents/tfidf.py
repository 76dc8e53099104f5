"""TF-IDF baseline without weights or training: cosine of scikit-learn's TF-IDF vectors of context and candidate."""

import time
from itertools import islice

import torch
from parlai.core.agents import Agent
from parlai.core.message import Message
from parlai.core.metrics import AverageMetric
from sklearn.feature_extraction.text import TfidfVectorizer

from poly_agents.agents.report import Evaluation, EvaluationOptions, RankedContext, grades_of, labels_of
from poly_agents.agents.teachers import teachers
from poly_agents.scoring.ranks import top

FIT_EXAMPLES = 20_000


class TfidfAgent(Agent):
    """`-m poly_agents/tfidf`: ranks inline candidates; its document frequencies come from the task's train split."""

    @classmethod
    def add_cmdline_args(cls, parser, partial_opt=None):
        EvaluationOptions.add_to(parser.add_argument_group("TfidfAgent of poly_agents"))
        return parser

    def __init__(self, opt, shared=None):
        super().__init__(opt, shared)
        self.id = "Tfidf"
        self.evaluation = shared["evaluation"] if shared else Evaluation(EvaluationOptions.of(opt))
        self.vectorizer = shared["vectorizer"] if shared else TfidfVectorizer().fit(self._train_texts())

    def _train_texts(self):
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
        seen = self.observation
        candidates = list(dict.fromkeys(seen.get("label_candidates") or ()))
        if not candidates:
            return Message(id=self.id, episode_done=False)
        start = time.perf_counter()
        vectors = self.vectorizer.transform([seen.get("text", ""), *candidates])
        scores = torch.from_numpy((vectors[1:] @ vectors[0].T).toarray().ravel())  # [C]
        ms = 1000 * (time.perf_counter() - start)
        if self.evaluation.submission:
            by_text = {text.strip(): score for text, score in zip(candidates, scores.tolist(), strict=True)}
            self.evaluation.submission.add_own(seen, by_text)
        labels, grades = labels_of(seen), grades_of(seen)
        right = torch.tensor([text in labels for text in candidates])
        best, order = top(scores, len(candidates), right)
        reply = Message(id=self.id, episode_done=False, text=candidates[order[0]])
        reply["text_candidates"] = [candidates[column] for column in order]
        reply["candidate_scores"] = best.tolist()
        metrics = {"ms": AverageMetric(ms)}
        if labels:
            graded = grades and torch.tensor([[grades[text] for text in candidates]])
            asked = RankedContext(seen.get("text", ""), labels, candidates.__getitem__)
            found = self.evaluation.record([asked], scores[None], right[None].float(), None, graded)
            metrics |= {name: values[0] for name, values in found.items()}
        reply["metrics"] = metrics
        return reply
