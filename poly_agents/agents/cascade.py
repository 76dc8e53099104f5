"""Two trained models in a row: one retrieves the best few of many candidates, the other ranks those few anew.

    parlai eval_model -m poly_agents/cascade --retriever models/bi/model --reranker models/cross/model -t TASK

The whole ranking is the few in the reranker's order, then the others in the retriever's: what is measured is that of
every ranker (`evaluation.py`), and `retrieve_recall`, whether the label was among the few (ParlAI's own `recall` counts
words). The few are `text_candidates`, which ParlAI's hits@k are about.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from parlai.core.agents import Agent
from parlai.core.build_data import modelzoo_path
from parlai.core.message import Message
from parlai.core.metrics import AverageMetric, Metric
from parlai.utils import logging
from parlai.utils.misc import warn_once
from torch import Tensor

from poly_agents.agents import candidates
from poly_agents.agents.ranker_agent import ShowCandidates, is_training, lines
from poly_agents.agents.report import Evaluation, EvaluationOptions, RankedContext, grades_of, labels_of
from poly_agents.candidates import pool
from poly_agents.candidates.memory import Memory
from poly_agents.candidates.milvus import MilvusSearch
from poly_agents.candidates.search import Search, SearchOptions
from poly_agents.encoders.precision import PRECISIONS
from poly_agents.evaluation.submissions import log_sum_exp
from poly_agents.models.textranker import Ranked, TextRanker
from poly_agents.options import Options, at_least, option
from poly_agents.scoring.ranks import top
from poly_agents.text.tokens import pad
from poly_agents.text.turns import ChatHistory, said


@dataclass(frozen=True)
class CascadeOptions(Options):
    """Which two models, and how much the second one gets to see."""

    retriever: str = option("", "model file of the ranker that finds candidates: any that keeps them")
    reranker: str = option("", "model file of the ranker that orders what was found: any")
    cascade_top: int = option(100, "how many of the retriever's best candidates are ranked anew")
    precision: str = option("auto", "of both; auto: bfloat16 where the machine multiplies it natively", PRECISIONS)

    def __post_init__(self):
        super().__post_init__()
        for name in ("retriever", "reranker"):
            if not getattr(self, name):
                raise ValueError(f"a cascade is made of two trained models: give --{name} MODEL_FILE")
        at_least(self, "cascade_top", 1)


class Stage:
    """One of the two models, and what it keeps of candidates it has met."""

    def __init__(self, model_file: str, flag: str, precision: str):
        if not Path(model_file).is_file():
            raise ValueError(f"{flag} {model_file}: there is no such file")
        self.model = TextRanker.load(model_file, precision)
        self.memory = Memory()

    @property
    def keeps(self) -> bool:
        return self.model.ranker.can_cache(self.model.ranker.options)

    def order(self, contexts: list[str], texts: Sequence[Sequence[str]]) -> list[list[Ranked]]:
        """Each context's own candidates, best first."""
        ranker = self.model.ranker
        found = pool.separate(texts, [self.model.candidate_ids(row) for row in texts], None)
        kept = self.memory.encode(ranker, found.ids) if self.keeps else ranker.encode_ids(found.ids)
        scores = ranker.score_ids(self.model.context_ids(contexts), kept, found.index).float().cpu()  # [B, C]
        rankings = []
        for number, line in enumerate(scores):
            row = found.row(number)
            values, order = top(line[: len(row)], len(row))
            rankings.append(
                [Ranked(found.texts[row[c]], s) for c, s in zip(order.tolist(), values.tolist(), strict=True)]
            )
        return rankings


class Turns(ChatHistory):
    """The history of a dialogue, as text alone."""

    def parse(self, text: str) -> list[int]:
        return []


class CascadeAgent(Agent):
    """`-m poly_agents/cascade`: ranks the pool of `-fcp`, or else the candidates that each example brings."""

    @classmethod
    def add_cmdline_args(cls, parser, partial_opt=None):
        group = parser.add_argument_group("CascadeAgent of poly_agents")
        CascadeOptions.add_to(group)
        SearchOptions.add_to(group)
        EvaluationOptions.add_to(group)
        group.add_argument(
            "-fcp",
            "--fixed-candidates-path",
            help="candidates to retrieve from: a file, one a line; a store; milvus:URI#COLLECTION",
        )
        ShowCandidates.add_to(group)
        return parser

    # --- construction -----------------------------------------------------------------------------------------------

    def __init__(self, opt, shared=None):
        super().__init__(opt, shared)
        self.id = "Cascade"
        self.history = Turns(opt)
        self.chat = opt.get("interactive_mode", False)
        self.path = opt.get("fixed_candidates_path")
        if shared:
            self.options, self.retriever, self.reranker, self.search, self.evaluation = shared["cascade"]
            return
        if is_training(opt):
            raise ValueError("a cascade is not trained: train its two models, each by itself, with train_model")
        self.options = CascadeOptions.of(opt)
        if self.path:
            candidates.check(self.path)
        self.evaluation = Evaluation(EvaluationOptions.of(opt))
        if self.chat and not self.path:
            raise ValueError("a chat needs candidates to retrieve from; give -fcp FILE")
        files = {
            name: modelzoo_path(opt.get("datapath"), vars(self.options)[name]) for name in ("retriever", "reranker")
        }
        self.retriever, self.reranker = (
            Stage(path, f"--{name}", self.options.precision) for name, path in files.items()
        )
        if not self.retriever.keeps:
            raise ValueError(
                f"--retriever {self.options.retriever} keeps nothing of a candidate, so it would run once for each: "
                "retrieve with one that does (bi, poly, early, mix, late), and make this one the --reranker"
            )
        self.search = self._open(self.path, files["retriever"]) if self.path else None

    def _open(self, path: str, retriever: str) -> Search | MilvusSearch:
        folder = candidates.beside(retriever, path)
        found = candidates.open_pool(path, self.retriever.model, SearchOptions.of(self.opt), folder)
        logging.info(f"{len(found.store)} candidates from {path}")
        return found

    def share(self):
        own = (self.options, self.retriever, self.reranker, self.search, self.evaluation)
        return super().share() | {"cascade": own}

    # --- observations -----------------------------------------------------------------------------------------------

    def observe(self, observation):
        observation = Message(observation)
        if not observation.is_padding():
            self.history.update_history(observation)
            observation.force_set("full_text", self.history.get_history_str() or "")
        self.observation = observation
        return observation

    def self_observe(self, reply):
        """Remember what was said: the label where there is one, as in training."""
        seen = self.observation
        if seen is None or seen.is_padding():
            return
        if seen.get("episode_done"):
            self.history.reset()
        elif own := labels_of(seen) or [reply["text"]] * ("text" in reply):
            self.history.add_reply(own[0])

    def reset(self):
        super().reset()
        self.history.reset()
        self.evaluation.close()

    # --- the two stages ---------------------------------------------------------------------------------------------

    def act(self):
        """In a chat, append the best candidates to what is shown; the history keeps the reply alone."""
        (reply,) = self.batch_act([self.observation])
        self.self_observe(reply)
        if self.chat and self.opt.get("show_candidates") and "text_candidates" in reply:
            shown = lines(reply["text_candidates"], reply["candidate_scores"], self.opt["show_candidates"])
            reply.force_set("text", "\n".join([reply["text"], *shown]))
        return reply

    def batch_act(self, observations):
        replies = [Message(id=self.id, episode_done=False) for _ in observations]
        asked = [number for number, seen in enumerate(observations) if not seen.is_padding() and "full_text" in seen]
        if not asked:
            return replies
        seen = [observations[number] for number in asked]
        contexts = [each["full_text"] for each in seen]
        start = time.perf_counter()
        whole = self._retrieve(contexts, seen)
        retrieved = [[ranked.text for ranked in row[: self.options.cascade_top]] for row in whole]
        middle = time.perf_counter()
        rankings = self.reranker.order(contexts, retrieved)
        end = time.perf_counter()
        times = {"retrieve_ms": middle - start, "rerank_ms": end - middle}
        for number, each, others, ranking in zip(asked, seen, whole, rankings, strict=True):
            self._answer(replies[number], each, ranking)
            metrics = {name: AverageMetric(1000 * seconds / len(asked)) for name, seconds in times.items()}
            replies[number]["metrics"] = metrics | self._judge(each, ranking, others[len(ranking) :])
        return replies

    def _retrieve(self, contexts: list[str], seen: Sequence[Message]) -> list[list[Ranked]]:
        """The retriever's best candidates of each context: the first of the pool, or all of an example's own."""
        if not self.search:
            own = [list(each.get("label_candidates") or ()) for each in seen]
            if not all(own):
                raise ValueError("these examples bring no candidates; give -fcp FILE, a pool to retrieve from")
            return self.retriever.order(contexts, own)
        tokens = pad(self.retriever.model.context_ids(contexts))
        count = min(self.options.cascade_top, len(self.search.store))
        best, texts = self.search.best(self.retriever.model.ranker, tokens, count), self.search.store.texts
        pairs = zip(best.rows.tolist(), best.scores.tolist(), strict=True)
        return [
            [Ranked(texts[row], score) for row, score in zip(rows, scores, strict=True) if row >= 0]
            for rows, scores in pairs
        ]

    def _answer(self, reply: Message, seen: Message, ranking: list[Ranked]) -> None:
        if self.chat:
            before = said(seen["full_text"])
            ranking = [ranked for ranked in ranking if ranked.text not in before] or ranking
        reply["text"] = ranking[0].text
        reply["text_candidates"] = [ranked.text for ranked in ranking]
        reply["candidate_scores"] = [ranked.score for ranked in ranking]
        if self.opt.get("show_candidates") and not self.chat:
            reply["ranking"] = lines(reply["text_candidates"], reply["candidate_scores"], self.opt["show_candidates"])

    def _judge(self, seen: Message, few: list[Ranked], others: list[Ranked]) -> dict[str, Metric]:
        """How good the whole ranking is: the `few` that were ranked anew, then an example's `others`, or the pool's."""
        whole = [*few, *others]
        places = {ranked.text.strip(): column for column, ranked in reversed(list(enumerate(whole)))}
        scores, text = torch.tensor([ranked.score for ranked in whole], dtype=torch.float64), lambda n: whole[n].text
        put_below(scores, len(few))
        if self.evaluation.submission:
            self._submit(seen, few, dict(zip(places, scores[[*places.values()]].tolist(), strict=True)))
        labels = [label.strip() for label in labels_of(seen)]
        if not labels:
            return {}
        grades = grades_of(seen) or dict.fromkeys(labels, 1.0)
        if self.search and (missing := [label for label in {*labels, *grades} if label.strip() not in places]):
            rows, rest = self._rest_of_pool(seen, few)
            scores = torch.cat([scores, rest.double()])
            put_below(scores, len(few))
            text = lambda n: few[n].text if n < len(few) else self.search.store.texts[int(rows[n - len(few)])]  # noqa: E731
            for label, row in zip(missing, self.search.store.rows_of(missing), strict=True):
                if row >= 0:
                    places[label.strip()] = len(few) + int(torch.searchsorted(rows, row))
        right, graded = torch.zeros(2, 1, len(scores))
        for worth, values in ((right, dict.fromkeys(labels, 1.0)), (graded, grades)):
            for label, value in values.items():
                if label.strip() in places:
                    worth[0, places[label.strip()]] = value
        if labels[0] not in places:
            warn_once("some labels are not among the candidates: the measures are of the other examples")
            if not right.any():
                return {}
        asked = RankedContext(seen["full_text"], labels_of(seen), text)
        found = self.evaluation.record([asked], scores[None], right, None, graded)
        recall = {"retrieve_recall": AverageMetric(places.get(labels[0], len(few)) < len(few))}
        return recall | {name: value for name, (value,) in found.items() if value is not None}

    def _rest_of_pool(self, seen: Message, few: list[Ranked]) -> tuple[Tensor, Tensor]:
        """The rows of a pool without the few, and the retriever's scores."""
        tokens = pad(self.retriever.model.context_ids([seen["full_text"]]))
        scores = self.search.scores(self.retriever.model.ranker, tokens)[0]  # [N]
        left = torch.ones(len(scores), dtype=torch.bool)
        left[self.search.store.rows_of([ranked.text for ranked in few])] = False
        return left.nonzero().squeeze(-1), scores[left]

    def _submit(self, seen: Message, few: list[Ranked], scores_of: dict[str, float]) -> None:
        """For --submission: all of an example's own candidates, or those few of the pool."""
        if not self.search:
            self.evaluation.submission.add_own(seen, scores_of)
            return
        rows, scores = self.search.store.rows_of([ranked.text for ranked in few]), [ranked.score for ranked in few]
        ids = [self.search.store[row].get("id") for row in rows]
        self.evaluation.submission.add(seen, ids, scores, log_sum_exp(scores))


def put_below(scores: Tensor, count: int) -> None:
    """Shift all scores [C] but the first `count`, which another model gave, so that none reaches those.

    >>> scores = torch.tensor([3.0, 2.0, 9.0, 8.0])
    >>> put_below(scores, 2)
    >>> scores
    tensor([3., 2., 1., 0.])
    """
    if len(scores) > count:
        scores[count:] += scores[:count].min() - 1 - scores[count:].max()
