"""The two verbs of every system: `encode` a candidate without its context, `score` it against one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from poly_agents.encoders.backbone import PRECISIONS, Backbone, by_length, chain
from poly_agents.options import Options, option
from poly_agents.text.tokens import Frame, Tokens, pad

if TYPE_CHECKING:
    from poly_agents.text.tokenizer import Tokenizer

ENCODE_ROWS = 1024  # candidates between two steps of the progress bar


@dataclass(frozen=True)
class RankerOptions(Options):
    """What every ranker can be told."""

    backbone: str = option("minilm", "HuggingFace encoder by name or folder, or a model file; minilm is embedded")
    share_encoders: bool = option(True, "one encoder for contexts and candidates; false: one each, as in the papers")
    freeze_embeddings: bool = option(True, "leave the word embeddings as pretrained (Humeau et al. 2020, Table 3)")
    dropout: float = option(0.0, "while training; any at all costs a seventh of the speed on CPU")
    precision: str = option("auto", "auto: bfloat16 where the machine multiplies it natively, else float32", PRECISIONS)

    @property
    def source(self) -> str:
        """Where the encoder and the tokeniser come from."""
        return self.backbone

    @property
    def embeddings_stay(self) -> bool:
        """Whether the word embeddings are left as they are."""
        return self.freeze_embeddings


@dataclass(frozen=True)
class PromptOptions(RankerOptions):
    """Of systems whose pretrained encoders were taught with a text before each text."""

    context_prompt: str = option(None, "a text before each context, never cut off ('query: ')", otherwise="")
    candidate_prompt: str = option(None, "a text before each candidate, never cut off ('passage: ')", otherwise="")


class Found(NamedTuple):
    """What pretrained weights have for a system besides the encoder."""

    options: dict[str, Any]  # for those that were left open
    weights: dict[str, Tensor]  # by their names in the ranker


class TokenStates(NamedTuple):
    """What a system keeps of N candidates that needs every token of them."""

    vectors: Tensor  # [..., L, D]
    mask: Tensor  # [..., L] bool


class Views(NamedTuple):
    """Contexts whose scores are `maths.poly` of these vectors and a candidate's one."""

    vectors: Tensor  # [B, K, D]
    mask: Tensor | None = None  # [B, K] bool; None: all are real
    scale: float = 1.0  # of the products under the softmax

    def cpu(self) -> "Views":
        return Views(self.vectors.cpu(), None if self.mask is None else self.mask.cpu(), self.scale)


class Learnt(NamedTuple):
    """What a training step gets back."""

    scores: Tensor  # [B, C]
    loss: Tensor  # [B]


class Ranker(nn.Module, ABC):
    """`forward(contexts, candidates) = score(contexts, encode(candidates))`.

    Contexts and candidates are bare `Tokens`; each system frames them with the special tokens it wants. What `encode`
    keeps is a tensor, or a NamedTuple of tensors, with one row a candidate.
    """

    Options: ClassVar[type[RankerOptions]] = RankerOptions
    Encoder: ClassVar[type[Backbone]] = Backbone
    joint: ClassVar[bool] = False  # contexts and candidates always share one encoder
    pooled: ClassVar[bool] = False  # a context's scores depend on its other candidates

    def __init__(self, options: RankerOptions, frame: Frame, build: Callable[[], Backbone]):
        super().__init__()
        self.options = options = options.settle({})
        self.frame = frame
        self.context_encoder = build()
        self.candidate_encoder = self.context_encoder if options.share_encoders or self.joint else build()
        for encoder in {self.context_encoder, self.candidate_encoder}:
            encoder.set_dropout(options.dropout)
            if options.embeddings_stay:
                encoder.freeze_embeddings()

    @classmethod
    def caches(cls, options: RankerOptions) -> bool:
        """Whether encoding a candidate ahead saves work."""
        return True

    @classmethod
    def find(cls, options: RankerOptions, source: str, tokenizer: "Tokenizer") -> Found:
        """What the pretrained weights in a folder (or by HuggingFace name) say of this system, and have for it."""
        return Found({}, {})

    @classmethod
    def start(cls, options: RankerOptions, encoder: Backbone) -> Backbone:
        """What a system changes of a pretrained encoder before anything is learnt."""
        return encoder

    def span(self, context: int, candidate: int) -> int:
        """How many of the encoder's positions are needed for texts of so many bare tokens."""
        frame = self.frame
        return frame.single_length + max(len(frame.context_prompt) + context, len(frame.candidate_prompt) + candidate)

    @abstractmethod
    def encode(self, candidates: Tokens) -> Any:
        """Bare candidates [N, L] -> what is kept of each, [N, ...]."""

    def prepare(self, contexts: Tokens) -> Any:
        """Bare contexts [B, L] -> what a score needs of them; `Views` where inner products are all that counts."""
        return contexts

    def prepared(self, views: Tensor, mask: Tensor | None) -> Any:
        """What `prepare` gives, of a system that first makes some vectors [B, K, D] of each context; `mask` [B, K]."""
        return Views(views, mask)

    @abstractmethod
    def match(self, prepared: Any, kept: Any) -> Tensor:
        """Prepared contexts and kept candidates [G, C, ...], G = 1 or B -> scores [B, C]."""

    def score(self, contexts: Tokens, kept: Any) -> Tensor:
        """Bare contexts [B, L] and kept candidates [G, C, ...], G = 1 or B -> scores [B, C]."""
        return self.match(self.prepare(contexts), kept)

    def forward(self, contexts: Tokens, candidates: Tokens, index: Tensor | None = None) -> Tensor:
        """Score contexts [B, L] against candidates [N, L]: all of them, or those of `index` [G, C]."""
        return self.rate(contexts, self.encode(candidates), index)

    def rate(self, contexts: Tokens, kept: Any, index: Tensor | None) -> Tensor:
        """Score contexts [B, L] against kept candidates [N, ...]; minus infinity where the index [G, C] is -1."""
        scores = self.score(contexts, choose(kept, index))
        return scores if index is None else scores.masked_fill(index < 0, -torch.inf)

    def learn(self, contexts: Tokens, kept: Any, index: Tensor | None, labels: Tensor) -> "Learnt":
        """Scores, and the loss of each context that the system is trained by: the softmax over its candidates."""
        scores = self.rate(contexts, kept, index)
        return Learnt(scores, cross_entropy(scores, labels, reduction="none"))

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def tensors(self) -> dict[str, Tensor]:
        """Every weight once, by name; a shared encoder's are named after the context's."""
        found: dict[int, tuple[str, Tensor]] = {}
        for name, tensor in self.state_dict(keep_vars=True).items():
            found.setdefault(id(tensor), (name, tensor.detach()))
        return dict(found.values())

    def load_tensors(self, tensors: dict[str, Tensor], source: str) -> None:
        """Take over, and empty, what `tensors` of a like ranker gave; a difference is an error that names `source`."""
        own = self.tensors()
        wrong = sorted(own.keys() ^ tensors.keys()) or [n for n in own if own[n].shape != tensors[n].shape]
        if wrong:
            raise ValueError(
                f"{source} does not fit these options: {len(wrong)} weights differ, first {wrong[0]!r}; "
                "give the options it was trained with, or none"
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors.pop(name))

    def take(self, weights: dict[str, Tensor]) -> None:
        """Take over some weights, by their names."""
        with torch.no_grad():
            for name, tensor in weights.items():
                self.get_parameter(name).copy_(tensor)

    def lower_precision(self) -> None:
        """For inference alone: keep the encoders' weights in their compute type, so no run has to convert them."""
        for encoder in {self.context_encoder, self.candidate_encoder}:
            encoder.model.to(encoder.dtype)

    @torch.no_grad()
    def encode_texts(self, ids: Sequence[Sequence[int]], progress: bool = False) -> Any:
        """Bare ids of N candidates -> what is kept of them, [N, ...], with a progress bar where asked."""
        with tqdm(total=len(ids), unit="cand", desc="encoding", disable=not progress or len(ids) < 2000) as bar:
            return self.encode_parts(slices(ids), bar.update)

    @torch.no_grad()
    def encode_parts(
        self, parts: Iterable[Sequence[Sequence[int]]], done: Callable[[int], Any] = lambda rows: None
    ) -> Any:
        """Bare ids of N candidates, part by part -> what is kept of all, [N, ...]; `done` is told of each part."""
        self.eval()
        kept = []
        for part in parts:
            kept.append(self.encode(pad(part).to(self.device)))
            done(len(part))
        return chain(kept)

    @torch.no_grad()
    def score_texts(self, ids: Sequence[Sequence[int]], kept: Any, index: Tensor | None = None) -> Tensor:
        """Bare ids of B contexts against kept candidates [N, ...], all or those of `index` [G, C] -> [B, C]."""
        self.eval()
        return self.rate(pad(ids).to(self.device), kept, None if index is None else index.to(self.device))


def slices(rows: Sequence) -> Iterator[Sequence]:
    """A long list in parts that are encoded at a time."""
    return (rows[start : start + ENCODE_ROWS] for start in range(0, len(rows), ENCODE_ROWS))


def states(encoder: Backbone, tokens: Tokens, reduce: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Run an encoder over framed tokens [N, L] by length, keep `reduce(states, mask)` of each row: [N, ...]."""
    return by_length(lambda part: reduce(encoder(part), part.mask), tokens)


def each(function: Callable[[Tensor], Any], kept: Any) -> Any:
    """Apply a function to every tensor of what `encode` kept."""
    return function(kept) if isinstance(kept, Tensor) else type(kept)(*(function(part) for part in kept))


def tensors(kept: Any) -> list[Tensor]:
    """The tensors of what `encode` kept."""
    return [kept] if isinstance(kept, Tensor) else list(kept)


def choose(kept: Any, index: Tensor | None) -> Any:
    """Rows of what `encode` kept: [N, ...] by index [G, C] -> [G, C, ...]; without one, all N for every context.

    -1 stands for no candidate: its masks are False, all else of it is without meaning.
    """

    def rows(part: Tensor) -> Tensor:
        if index is None:
            return part.unsqueeze(0)
        chosen = part[index.clamp(min=0)]
        return chosen & (index >= 0).unsqueeze(-1) if chosen.dtype == torch.bool else chosen

    return each(rows, kept)
