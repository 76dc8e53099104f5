"""The two verbs of every system: `encode` a candidate without its context, `score` it against one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from poly_agents.backbone import PRECISIONS, Backbone, by_length
from poly_agents.options import Options, option
from poly_agents.tokens import Frame, Tokens, pad

ENCODE_ROWS = 1024  # candidates between two steps of the progress bar


@dataclass(frozen=True)
class RankerOptions(Options):
    """What every ranker can be told."""

    backbone: str = option("minilm", "HuggingFace encoder by name or folder; minilm is embedded and needs no network")
    share_encoders: bool = option(True, "one encoder for contexts and candidates; false: one each, as in the papers")
    freeze_embeddings: bool = option(True, "leave the word embeddings as pretrained (Humeau et al. 2020, Table 3)")
    dropout: float = option(0.0, "while training; any at all costs a seventh of the speed on CPU")
    precision: str = option("auto", "auto: bfloat16 where the machine multiplies it natively, else float32", PRECISIONS)


class Ranker(nn.Module, ABC):
    """`forward(contexts, candidates) = score(contexts, encode(candidates))`.

    Contexts and candidates are bare `Tokens`; each system frames them with the special tokens it wants. What `encode`
    keeps is a tensor, or a NamedTuple of tensors, with one row a candidate.
    """

    Options: ClassVar[type[RankerOptions]] = RankerOptions
    caches: ClassVar[bool] = True  # encoding a candidate ahead saves work
    pairs: ClassVar[bool] = False  # a context and a candidate share one run, so their lengths add up

    def __init__(self, options: RankerOptions, frame: Frame, build: Callable[[], Backbone]):
        super().__init__()
        self.options = options
        self.frame = frame
        self.context_encoder = build()
        self.candidate_encoder = self.context_encoder if options.share_encoders or self.pairs else build()
        for encoder in {self.context_encoder, self.candidate_encoder}:
            encoder.set_dropout(options.dropout)
            if options.freeze_embeddings:
                encoder.freeze_embeddings()

    @abstractmethod
    def encode(self, candidates: Tokens) -> Any:
        """Bare candidates [N, L] -> what is kept of each, [N, ...]."""

    @abstractmethod
    def score(self, contexts: Tokens, kept: Any) -> Tensor:
        """Bare contexts [B, L] and kept candidates [G, C, ...], G = 1 or B -> scores [B, C]."""

    def forward(self, contexts: Tokens, candidates: Tokens, index: Tensor | None = None) -> Tensor:
        """Score contexts [B, L] against candidates [N, L]: all of them, or those of `index` [G, C]."""
        return self.score(contexts, choose(self.encode(candidates), index))

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def room(self) -> int:
        """How many bare tokens the encoder has positions for: of one text, or of both where they share a run."""
        special = self.frame.pair_length if self.pairs else self.frame.single_length
        return self.context_encoder.positions - special

    def tensors(self) -> dict[str, Tensor]:
        """Every weight once, by name; a shared encoder's are named after the context's."""
        found: dict[int, tuple[str, Tensor]] = {}
        for name, tensor in self.state_dict(keep_vars=True).items():
            found.setdefault(id(tensor), (name, tensor.detach()))
        return dict(found.values())

    def load_tensors(self, tensors: dict[str, Tensor], source: str) -> None:
        """Take over what `tensors` of a like ranker gave; any difference is an error that names `source`."""
        own = self.tensors()
        wrong = sorted(own.keys() ^ tensors.keys()) or [n for n in own if own[n].shape != tensors[n].shape]
        if wrong:
            raise ValueError(
                f"{source} does not fit these options: {len(wrong)} weights differ, first {wrong[0]!r}; "
                "give the options it was trained with, or none"
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])

    def lower_precision(self) -> None:
        """For inference alone: keep the encoders' weights in their compute type, so no run has to convert them."""
        for encoder in {self.context_encoder, self.candidate_encoder}:
            encoder.model.to(encoder.dtype)

    @torch.no_grad()
    def encode_texts(self, ids: Sequence[Sequence[int]], progress: bool = False) -> Any:
        """Bare ids of N candidates -> what is kept of them, [N, ...], with a progress bar where asked."""
        self.eval()
        parts = []
        with tqdm(total=len(ids), unit="cand", desc="encoding", disable=not progress or len(ids) < 2000) as bar:
            for start in range(0, len(ids), ENCODE_ROWS):
                part = pad(ids[start : start + ENCODE_ROWS]).to(self.device)
                parts.append(self.encode(part))
                bar.update(len(part.ids))
        return chain(parts)

    @torch.no_grad()
    def score_texts(self, ids: Sequence[Sequence[int]], kept: Any, index: Tensor | None = None) -> Tensor:
        """Bare ids of B contexts against kept candidates [N, ...], all or those of `index` [G, C] -> [B, C]."""
        self.eval()
        return self.score(pad(ids).to(self.device), choose(kept, index))


def states(encoder: Backbone, tokens: Tokens, reduce: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Run an encoder over framed tokens [N, L] by length, keep `reduce(states, mask)` of each row: [N, ...]."""
    return by_length(lambda part: reduce(encoder(part), part.mask), tokens)


def choose(kept: Any, index: Tensor | None) -> Any:
    """Rows of what `encode` kept: [N, ...] by index [G, C] -> [G, C, ...]; without one, all N for every context."""
    if isinstance(kept, Tensor):
        return kept.unsqueeze(0) if index is None else kept[index]
    return type(kept)(*(choose(part, index) for part in kept))


def chain(parts: Sequence[Any]) -> Any:
    """Put rows kept in several runs together, padding token axes to the longest."""
    if isinstance(parts[0], Tensor):
        widest = max(part.shape[1:] for part in parts)
        if any(part.shape[1:] != widest for part in parts):
            parts = [nn.functional.pad(part, (0, widest[0] - part.shape[1])) for part in parts]
        return torch.cat(list(parts))
    return type(parts[0])(*(chain(field) for field in zip(*parts, strict=True)))
