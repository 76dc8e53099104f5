"""poly_agents, through ParlAI and without it."""

from typing import Any

import torch
from torch import Tensor

from poly_agents import zoo
from poly_agents.candidates.search import Search, SearchOptions
from poly_agents.encoders.states import map_tensors
from poly_agents.models.textranker import TextRanker
from poly_agents.scoring.ranker import Ranker
from sides.side import CANDIDATE, CODES, LONG, ParlaiLoop, Run

ENCODED = 64  # texts of every two thousand of a large pool that are really encoded


class Ours(ParlaiLoop):
    """The agents of poly_agents."""

    precision = "auto"

    def flags(self, kind, text, label):
        paper = "--start paper"  # as ParlAI's rankers score
        own = {"bi": "--bi-cosine false", "poly": f"--poly-codes {CODES} {paper}", "cross": paper}.get(kind, "")
        return (
            f"-m poly_agents/{kind} --text-truncate {text} --label-truncate {label} {own} "
            f"--share-encoders false --precision {self.precision}"
        )

    def model(self, kind: str, text: int = LONG, label: int = CANDIDATE) -> TextRanker:
        """Make the same ranker without ParlAI."""
        return new_ranker(kind, self.precision, text, label)

    def encode(self, length: str) -> Run:
        """Encode candidates."""
        model = self.model("bi", label=LONG)
        return lambda turn: len(model.encode(self.texts(length, turn)))

    def chat(self, kind):
        encode_only_some()
        return super().chat(kind)

    def stored(self, kind):
        return f"--fixed-candidate-vecs {self.folder / f'{kind}-{self.precision}.store'}"


class Ours32(Ours):
    """The agents of poly_agents in float32."""

    precision = "float32"


class OursPython(Ours):
    """poly_agents without ParlAI."""

    def chat(self, kind):
        encode_only_some()
        model = self.model(kind)
        store = model.index(self.folder / f"{kind}-python.store", self.folder / "pool.txt", progress=False)
        search = Search(store, SearchOptions())
        return lambda turn: len(model.search(self.context(turn), search, top=1))

    def pairs(self, kind):
        model = self.model(kind)
        return lambda turn: len(model.rank(self.context(turn), self.candidates(turn)))


def new_ranker(kind: str, precision: str, text: int = LONG, label: int = CANDIDATE) -> TextRanker:
    """Make an untrained ranker. Learned codes and heads come from a fixed seed."""
    paper = {"start": "paper"}  # as ParlAI's rankers score
    own = {"bi": {"bi_cosine": False}, "poly": {"poly_codes": CODES} | paper, "cross": paper}.get(kind, {})
    torch.manual_seed(0)
    options = {"backbone": zoo.backbone("minilm"), "share_encoders": False, "precision": precision} | own
    return TextRanker.start(kind, None, text, label, **options)


def encode_only_some() -> None:
    """Let rankers encode only the first texts of a large pool from now on, and mix all other vectors from theirs.

    The time of a search does not depend on the vectors, and encoding 100,000 texts would take the most time of all.
    """
    encode = Ranker.encode_parts

    def encode_parts(self, parts, done=None):
        ids = [row for part in parts for row in part]
        return mixed(encode(self, [ids[:ENCODED]]), len(ids))

    Ranker.encode_parts = encode_parts


def mixed(encoded: Any, rows: int) -> Any:
    """Append means of two random rows each, until there are as many as `rows`."""
    count = len(encoded if isinstance(encoded, Tensor) else encoded[0])
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randint(count, (2, max(0, rows - count)), generator=generator)

    def append(part: Tensor) -> Tensor:
        return torch.cat([part, (0.5 * part[one] + 0.5 * part[other]).to(part.dtype)])

    return map_tensors(append, encoded)
