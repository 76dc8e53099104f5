"""Two trained models in a row: one retrieves the best few of many candidates, the other ranks those few again.

    parlai eval_model -m poly_agents/cascade --retriever models/bi/model --reranker models/cross/model -t TASK

The whole ranking is the few in the reranker's order, then the others in the retriever's. It is measured as that of any
ranker. `retrieve_recall` says whether the label was among the few (ParlAI's own `recall` counts words). The few are
`text_candidates`, from which ParlAI computes its hits@k.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from parlai.core.message import Message
from parlai.core.metrics import AverageMetric, Metric
from parlai.utils import logging
from parlai.utils.misc import warn_once
from torch import Tensor

from poly_agents.agents import answers, model_file
from poly_agents.agents.arguments import add_chat_arguments, check_candidates_path, check_numbers, is_training
from poly_agents.agents.candidate_source import folder_beside, open_pool
from poly_agents.agents.report import Evaluation, EvaluationOptions, RankedExample, Scored
from poly_agents.agents.text_agent import TextAgent
from poly_agents.candidates import pool as pools
from poly_agents.candidates.memory import Memory
from poly_agents.candidates.milvus import MilvusSearch
from poly_agents.candidates.pool import Pool
from poly_agents.candidates.search import Search, SearchOptions
from poly_agents.encoders.precision import PRECISIONS
from poly_agents.errors import InputError
from poly_agents.models.textranker import TextRanker
from poly_agents.options import Options, at_least, flag, option
from poly_agents.text.tokens import pad


@dataclass(frozen=True)
class CascadeOptions(Options):
    """The two models, and how many candidates the second one gets."""

    retriever: str = option("", "model file of the ranker that finds candidates; it must be able to cache them")
    reranker: str = option("", "model file of the ranker that orders what was found; any")
    cascade_top: int = option(100, "how many of the retriever's best candidates are ranked again")
    precision: str = option(
        "auto", "precision of both; auto: bfloat16 where the machine multiplies it natively", PRECISIONS
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("retriever", "reranker"):
            if not getattr(self, name):
                raise InputError(f"a cascade is made of two trained models: give {flag(name)} MODEL_FILE")
        at_least(self, "cascade_top", 1)


class Stage:
    """One of the two models, with the encodings of candidates it has met."""

    def __init__(self, path: str, flag: str, precision: str):
        if not Path(path).is_file():
            raise InputError(f"{flag} {path}: there is no such file")
        self.path = path
        self.model = TextRanker.load(path, precision)
        self.memory = Memory()

    def score(self, contexts: list[str], texts: Sequence[Sequence[str]]) -> Scored:
        """Score each context's own candidates, [B, C]."""
        ranker = self.model.ranker
        pool = pools.separate(texts, [self.model.candidate_ids(row) for row in texts], None)
        encoded = self.memory.encode(ranker, pool.ids) if self.model.can_cache else ranker.encode_ids(pool.ids)
        scores = ranker.score_ids(self.model.context_ids(contexts), encoded, pool.index)
        return Scored(pool, scores.float().cpu())


class CascadeAgent(TextAgent):
    """`-m poly_agents/cascade`: ranks the pool of `-fcp`, or else the candidates that each example brings."""

    @classmethod
    def add_cmdline_args(cls, parser, partial_opt=None):
        group = parser.add_argument_group("CascadeAgent of poly_agents")
        for options in (CascadeOptions, SearchOptions, EvaluationOptions):
            options.add_to(group)
        group.add_argument(
            "-fcp",
            "--fixed-candidates-path",
            help="candidates to retrieve from: a file with one candidate per line; a store; milvus:URI#COLLECTION",
        )
        add_chat_arguments(group)
        return parser

    def __init__(self, opt, shared=None):
        super().__init__(opt, shared)
        self.id = "Cascade"
        if shared:
            self.options, self.retriever, self.reranker, self.search, self.evaluation = shared["cascade"]
            return
        path = opt.get("fixed_candidates_path")
        self.options = CascadeOptions.of(opt)
        self._check(path)
        self.evaluation = Evaluation.of(opt)
        self.retriever, self.reranker = (self._stage(name) for name in ("retriever", "reranker"))
        if not self.retriever.model.can_cache:
            raise InputError(
                f"--retriever {self.options.retriever} cannot cache candidates, so it would run once for each: "
                "retrieve with one that can (bi, poly, early, mix, late), and make this one the --reranker"
            )
        self.search = self._open(path) if path else None

    def _check(self, path: str | None) -> None:
        check_numbers(self.opt)
        if is_training(self.opt):
            raise InputError("a cascade is not trained: train its two models, each by itself, with train_model")
        if path:
            check_candidates_path(path)
        if self.chat and not path:
            raise InputError("a chat needs candidates to retrieve from; give -fcp FILE")

    def _stage(self, name: str) -> Stage:
        path = model_file.local(getattr(self.options, name), self.opt.get("datapath"))
        return Stage(path, flag(name), self.options.precision)

    def _open(self, path: str) -> Search | MilvusSearch:
        folder = folder_beside(self.retriever.path, path)
        search = open_pool(path, self.retriever.model, SearchOptions.of(self.opt), folder)
        logging.info(f"{len(search.store)} candidates from {path}")
        return search

    def share(self):
        own = (self.options, self.retriever, self.reranker, self.search, self.evaluation)
        return super().share() | {"cascade": own}

    # --- the two stages ---------------------------------------------------------------------------------------------

    def act(self):
        (reply,) = self.batch_act([self.observation])
        return self.shown(reply)

    def batch_act(self, observations):
        replies = [Message(id=self.id, episode_done=False) for _ in observations]
        numbers = [n for n, message in enumerate(observations) if not message.is_padding() and "full_text" in message]
        if not numbers:
            return replies
        examples = [RankedExample.of(observations[number], observations[number]["full_text"]) for number in numbers]
        start = time.perf_counter()
        retrieved = self._retrieve(examples)
        middle = time.perf_counter()
        few = answers.best_answers(retrieved, self.options.cascade_top)
        reranked = self.reranker.score([example.context for example in examples], [answer.texts for answer in few])
        end = time.perf_counter()
        times = {"retrieve_ms": middle - start, "rerank_ms": end - middle}
        for row, (number, example) in enumerate(zip(numbers, examples, strict=True)):
            own = reranked.one(row)
            metrics = {name: AverageMetric(1000 * seconds / len(numbers)) for name, seconds in times.items()}
            self.answer(replies[number], example, own, model=self.retriever.model)
            replies[number]["metrics"] = metrics | self._report(example, own, retrieved.one(row))
        return replies

    def _retrieve(self, examples: Sequence[RankedExample]) -> Scored:
        """Return the retriever's scores: of its best candidates in the pool, or of all of an example's own."""
        contexts = [example.context for example in examples]
        if not self.search:
            own = [list(example.message.get("label_candidates") or ()) for example in examples]
            if not all(own):
                raise InputError("these examples bring no candidates; give -fcp FILE, a pool to retrieve from")
            return self.retriever.score(contexts, own)
        tokens = pad(self.retriever.model.context_ids(contexts))
        count = min(self.options.cascade_top, len(self.search.store))
        best = self.search.best(self.retriever.model.ranker, tokens, count)
        return Scored(Pool.without_ids(self.search.store.texts, best.rows), best.scores)

    # --- measures ---------------------------------------------------------------------------------------------------

    def _report(self, example: RankedExample, few: Scored, retrieved: Scored) -> dict[str, Metric]:
        """Measure one whole ranking: the few, which the reranker has scored, then all others."""
        if self.search:
            few = self._as_rows(few)
            answers.submit(self.evaluation, [example], few, self.search.store)
            whole = self._with_rest_of_store(example, few)
        else:
            whole = self._with_other_candidates(few, retrieved)
            answers.submit(self.evaluation, [example], whole)
        if not example.right:
            return {}
        main = whole.relevance([{example.right[0]: 1.0}])[0]  # [C]
        if not main.any():
            warn_once("some labels are not among the candidates: the measures are of the other examples")
            if not whole.relevance([dict.fromkeys(example.right, 1.0)]).any():
                return {}
        report = answers.report(self.evaluation, [example], whole)
        values = {name: line[0] for name, line in report.metrics.items() if line[0] is not None}
        return {"retrieve_recall": AverageMetric(bool(main[: few.scores.shape[1]].any()))} | values

    @staticmethod
    def _with_other_candidates(few: Scored, retrieved: Scored) -> Scored:
        """Rank an example's own candidates: the few, then the others by the retriever's scores."""
        (answer,) = answers.best_answers(retrieved, len(retrieved.pool.row(0)))
        count = few.scores.shape[1]
        texts = [*few.texts(0), *answer.texts[count:]]
        scores = append_below(few.scores[0], torch.tensor(answer.scores[count:]))
        return Scored(Pool.without_ids(texts, torch.arange(len(texts)).unsqueeze(0)), scores.unsqueeze(0))

    def _as_rows(self, few: Scored) -> Scored:
        """Return the few as rows of the store."""
        store = self.search.store
        rows = torch.tensor([store.rows_of(few.texts(0))])
        return Scored(Pool.without_ids(store.texts, rows), few.scores, store.rows_of)

    def _with_rest_of_store(self, example: RankedExample, few: Scored) -> Scored:
        """Rank the store: the few, then all other rows by the retriever's scores, unless all right ones are the few."""
        first = few.pool.index[0]
        wanted = {*example.right, *(example.grades or ())}
        if not example.right or set(self.search.store.rows_of(list(wanted))) <= set(first.tolist()):
            return few
        tokens = pad(self.retriever.model.context_ids([example.context]))
        scores = self.search.scores(self.retriever.model.ranker, tokens)[0]  # [N]
        left = torch.ones(len(scores), dtype=torch.bool)
        left[first] = False
        rest = left.nonzero().squeeze(-1)
        pool = few.pool._replace(index=torch.cat([first, rest]).unsqueeze(0))
        return Scored(pool, append_below(few.scores[0], scores[rest]).unsqueeze(0), few.rows_of)


def append_below(scores: Tensor, others: Tensor) -> Tensor:
    """Join scores [C] with those of another model [C'], shifted so that none of these reaches the former.

    >>> append_below(torch.tensor([3.0, 2.0]), torch.tensor([9.0, 8.0]))
    tensor([3., 2., 1., 0.], dtype=torch.float64)
    """
    scores, others = scores.double(), others.double()
    if len(others):
        others = others + (scores.min() - 1 - others.max())
    return torch.cat([scores, others])
