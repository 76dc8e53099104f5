"""Two trained models in a row: one retrieves the best few of many candidates, the other ranks those few anew.

    parlai eval_model -m poly_agents/cascade --retriever models/bi/model --reranker models/cross/model -t TASK

The whole ranking is the few in the reranker's order, then the others in the retriever's: `rank` and `mrr` are the
label's place in it, `retrieve_recall` is whether it was among the few (ParlAI's own `recall` counts words). The few are
`text_candidates`, which ParlAI's hits@k are about.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from poly_agents import plugin

plugin.mend()

import torch  # noqa: E402
from parlai.core.agents import Agent  # noqa: E402
from parlai.core.build_data import modelzoo_path  # noqa: E402
from parlai.core.message import Message  # noqa: E402
from parlai.core.metrics import AverageMetric  # noqa: E402
from parlai.core.torch_agent import History  # noqa: E402
from parlai.utils import logging  # noqa: E402
from parlai.utils.misc import warn_once  # noqa: E402

from poly_agents import pool, retrieval  # noqa: E402
from poly_agents.agent import ShowCandidates, lines  # noqa: E402
from poly_agents.backbone import PRECISIONS  # noqa: E402
from poly_agents.candidates import Memory  # noqa: E402
from poly_agents.evaluation import labels_of  # noqa: E402
from poly_agents.milvus import MilvusSearch  # noqa: E402
from poly_agents.options import Options, at_least, option  # noqa: E402
from poly_agents.ranks import label_ranks, top  # noqa: E402
from poly_agents.search import Search, SearchOptions  # noqa: E402
from poly_agents.textranker import Ranked, TextRanker  # noqa: E402
from poly_agents.tokens import pad  # noqa: E402


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
        return self.model.ranker.caches(self.model.ranker.options)

    def order(self, contexts: list[str], texts: Sequence[Sequence[str]]) -> list[list[Ranked]]:
        """Each context's own candidates, best first."""
        ranker = self.model.ranker
        found = pool.separate(texts, [self.model.candidate_ids(row) for row in texts], None)
        kept = self.memory.encode(ranker, found.ids) if self.keeps else ranker.encode_texts(found.ids)
        scores = ranker.score_texts(self.model.context_ids(contexts), kept, found.index).float().cpu()  # [B, C]
        rankings = []
        for number, line in enumerate(scores):
            row = found.row(number)
            values, order = top(line[: len(row)], len(row))
            rankings.append(
                [Ranked(found.texts[row[c]], s) for c, s in zip(order.tolist(), values.tolist(), strict=True)]
            )
        return rankings


class Turns(History):
    """ParlAI's history of a dialogue, as text alone."""

    def parse(self, text: str) -> list[int]:
        return []


class CascadeAgent(Agent):
    """`-m poly_agents/cascade`: ranks the pool of `-fcp`, or else the candidates that each example brings."""

    @classmethod
    def add_cmdline_args(cls, parser, partial_opt=None):
        group = parser.add_argument_group("CascadeAgent of poly_agents")
        CascadeOptions.add_to(group)
        SearchOptions.add_to(group)
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
            self.options, self.retriever, self.reranker, self.search = shared["cascade"]
            return
        if "train" in opt.get("datatype", "") and "evalmode" not in opt["datatype"] and not self.chat:
            raise ValueError("a cascade is not trained: train its two models, each by itself, with train_model")
        self.options = CascadeOptions.of(opt)
        if self.path:
            retrieval.check(self.path)
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
        folder = retrieval.beside(retriever, path)
        found = retrieval.open_pool(path, self.retriever.model, SearchOptions.of(self.opt), folder)
        logging.info(f"{len(found.store)} candidates from {path}")
        return found

    def share(self):
        return super().share() | {"cascade": (self.options, self.retriever, self.reranker, self.search)}

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
        elif said := labels_of(seen) or [reply["text"]] * ("text" in reply):
            self.history.add_reply(said[0])

    def reset(self):
        super().reset()
        self.history.reset()

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
        retrieved = [row[: self.options.cascade_top] for row in whole]
        middle = time.perf_counter()
        rankings = self.reranker.order(contexts, retrieved)
        end = time.perf_counter()
        times = {"retrieve_ms": middle - start, "rerank_ms": end - middle}
        for number, each, others, ranking in zip(asked, seen, whole, rankings, strict=True):
            self._answer(replies[number], each, ranking)
            metrics = {name: AverageMetric(1000 * seconds / len(asked)) for name, seconds in times.items()}
            replies[number]["metrics"] = metrics | self._judge(each, others, [ranked.text for ranked in ranking])
        return replies

    def _retrieve(self, contexts: list[str], seen: Sequence[Message]) -> list[list[str]]:
        """The retriever's best candidates of each context: the first of the pool, or all of an example's own."""
        if not self.search:
            own = [list(each.get("label_candidates") or ()) for each in seen]
            if not all(own):
                raise ValueError("these examples bring no candidates; give -fcp FILE, a pool to retrieve from")
            return [[ranked.text for ranked in row] for row in self.retriever.order(contexts, own)]
        tokens = pad(self.retriever.model.context_ids(contexts))
        count = min(self.options.cascade_top, len(self.search.store))
        rows = self.search.best(self.retriever.model.ranker, tokens, count).rows.tolist()
        texts = self.search.store.texts
        return [[texts[row] for row in found if row >= 0] for found in rows]

    def _answer(self, reply: Message, seen: Message, ranking: list[Ranked]) -> None:
        if self.chat:
            said = set(seen["full_text"].split("\n"))
            ranking = [ranked for ranked in ranking if ranked.text not in said] or ranking
        reply["text"] = ranking[0].text
        reply["text_candidates"] = [ranked.text for ranked in ranking]
        reply["candidate_scores"] = [ranked.score for ranked in ranking]
        if self.opt.get("show_candidates") and not self.chat:
            reply["ranking"] = lines(reply["text_candidates"], reply["candidate_scores"], self.opt["show_candidates"])

    def _judge(self, seen: Message, retrieved: list[str], ranking: list[str]) -> dict[str, AverageMetric]:
        """Where the label came, if it is in the pool."""
        label = next(iter(labels_of(seen)), "").strip()
        if not label:
            return {}
        place = {text.strip(): number for number, text in reversed(list(enumerate(ranking, 1)))}
        rank = place.get(label) or self._rank_of_rest(seen, label, retrieved, len(ranking))
        if not rank:
            warn_once(
                "some labels are not among the candidates: retrieve_recall, rank and mrr are of the other examples"
            )
            return {}
        figures = {"retrieve_recall": label in place, "rank": rank, "mrr": 1 / rank}
        return {name: AverageMetric(value) for name, value in figures.items()}

    def _rank_of_rest(self, seen: Message, label: str, retrieved: list[str], count: int) -> int:
        """Rank of a label that was not retrieved, behind the `count` that were; 0: it is not in the pool."""
        if not self.search:
            return next((rank for rank, text in enumerate(retrieved, 1) if text.strip() == label), 0)
        (row,) = self.search.store.rows_of([label])
        if row < 0:
            return 0
        tokens = pad(self.retriever.model.context_ids([seen["full_text"]]))
        scores = self.search.scores(self.retriever.model.ranker, tokens)
        return max(count + 1, int(label_ranks(scores, torch.tensor([row]))))
