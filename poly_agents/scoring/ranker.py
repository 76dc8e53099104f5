"""The contract of every ranker: encode a candidate without its context, then score it against one.

    forward(contexts, candidates) = score(contexts, encode(candidates))

From the inside out, with who calls whom. Texts are bare `Tokens`, an index is [G, C] or None:

| method | takes | returns | called by |
| --- | --- | --- | --- |
| `encode` | candidates [N, L] | encoded [N, ...] | `forward`, `encode_ids`, training |
| `encode_contexts` | contexts [B, L] | encoded contexts | `score`, search |
| `score_encoded` | encoded contexts, encoded [G, C, ...] | [B, C] | `score`, search |
| `score` | contexts [B, L], encoded [G, C, ...] | [B, C] | `score_indexed` |
| `score_indexed` | contexts [B, L], encoded [N, ...], index | [B, C] | `forward`, `score_tokens`, `training_loss` |
| `score_tokens` | as `score_indexed`; no gradients | [B, C] | `score_ids`, agents |
| `score_ids` | ids of B contexts, encoded [N, ...], index | [B, C] | `TextRanker`, cascade, mining, teachers |
| `forward` | contexts [B, L], candidates [N, L], index | [B, C] | your own code, as `ranker(contexts, candidates)` |

A system writes the first three. The others are the same for all.

Letters of shapes: B contexts, N candidates, C candidates of one context, G = 1 (all contexts share their candidates) or
B, K views of a context, L tokens, D width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from poly_agents.encoders.backbone import Backbone
from poly_agents.encoders.changes import versions
from poly_agents.encoders.states import chain, is_shared, take_rows, tensors
from poly_agents.errors import InputError
from poly_agents.files.checkpoint import Weights
from poly_agents.progress import bar as progress_bar
from poly_agents.scoring.finite import check_finite
from poly_agents.scoring.ranker_options import RankerOptions
from poly_agents.text.frame import Frame
from poly_agents.text.tokenizer import Tokenizer
from poly_agents.text.tokens import Tokens, pad

ENCODE_ROWS = 1024  # candidates encoded between two steps of the progress bar


class PretrainedParts(NamedTuple):
    """Options and weights that a pretrained checkpoint has for a ranker, besides the encoder."""

    options: dict[str, Any]  # values for open options
    weights: dict[str, Tensor]  # by their names in the ranker


class Views(NamedTuple):
    """Encoded contexts whose scores are `maths.poly` of these vectors and a candidate's one vector."""

    vectors: Tensor  # [B, K, D]
    mask: Tensor | None = None  # [B, K] bool; None: all are real
    scale: float = 1.0  # multiplies the products under the softmax

    def cpu(self) -> "Views":
        """Move the tensors to the CPU."""
        return Views(self.vectors.cpu(), None if self.mask is None else self.mask.cpu(), self.scale)


class ScoresAndLoss(NamedTuple):
    """The result of a training step."""

    scores: Tensor  # [B, C]
    loss: Tensor  # [B]


class Ranker(nn.Module, ABC):
    """A system that scores candidates against contexts.

    Contexts and candidates are bare `Tokens`; each system frames them with the special tokens it wants. Encoded
    candidates are a tensor, or a NamedTuple of tensors, with one row for each.
    """

    Options: ClassVar[type[RankerOptions]] = RankerOptions
    Encoder: ClassVar[type[Backbone]] = Backbone
    defaults: ClassVar[dict[str, Any]] = {}  # training options whose default differs from that of other rankers
    one_encoder: ClassVar[bool] = False  # contexts and candidates always share one encoder
    backbone_start: ClassVar[dict[str, Any]] = {}  # open options by which it starts where its backbone stands
    depends_on_pool: ClassVar[bool] = False  # a context's scores depend on its other candidates

    def __init__(self, options: RankerOptions, frame: Frame, build: Callable[[], Backbone]):
        """Make the modules.

        Args:
            options: those left open take their fallbacks.
            frame: the special tokens of the encoder.
            build: makes an encoder; called once, or twice if contexts and candidates have one each.
        """
        super().__init__()
        self._trained = 0  # how often training was switched on
        self.frame = frame
        self.context_encoder = build()
        options = options.over_decoder() if self.context_encoder.causal else options
        self.options = options = options.fill_open({})
        self.candidate_encoder = self.context_encoder if options.share_encoders or self.one_encoder else build()
        for encoder in {self.context_encoder, self.candidate_encoder}:
            encoder.set_dropout(options.dropout)
            if options.embeddings_stay:
                encoder.freeze_embeddings()

    # --- what a system may change -----------------------------------------------------------------------------------

    @classmethod
    def can_cache(cls, options: RankerOptions) -> bool:
        """Tell whether encoding a candidate ahead saves work."""
        return True

    @classmethod
    def read_pretrained(cls, options: RankerOptions, source: str, tokenizer: Tokenizer) -> PretrainedParts:
        """Read what a checkpoint has for this system besides the encoder.

        Args:
            options: options that are given win over the checkpoint.
            source: a folder, HuggingFace name or model file.
            tokenizer: of the checkpoint.

        Raises:
            ValueError: the checkpoint does something that this system cannot do.
        """
        return PretrainedParts({}, {})

    @classmethod
    def adapt_encoder(cls, options: RankerOptions, encoder: Backbone) -> Backbone:
        """Change a pretrained encoder before training starts."""
        return encoder

    def positions_needed(self, context: int, candidate: int) -> int:
        """Return how many positions the encoder needs for a context and a candidate of so many bare tokens."""
        frame = self.frame
        return frame.single_length + max(len(frame.context_prompt) + context, len(frame.candidate_prompt) + candidate)

    @abstractmethod
    def encode(self, candidates: Tokens) -> Any:
        """Encode bare candidates [N, L] -> [N, ...]."""

    def encode_contexts(self, contexts: Tokens) -> Any:
        """Encode bare contexts [B, L] for `score_encoded`: `Views` where only inner products count."""
        return contexts

    def from_views(self, views: Tensor, mask: Tensor | None) -> Any:
        """Make encoded contexts from views [B, K, D] and their mask [B, K].

        Systems that make vectors of texts have this method, and three others that an export calls: `vector` and `views`
        turn token states of candidates and contexts into vectors, `real_views` a token mask into the mask of views.
        """
        return Views(views, mask)

    @abstractmethod
    def score_encoded(self, contexts: Any, candidates: Any) -> Tensor:
        """Score encoded contexts against encoded candidates [G, C, ...] -> [B, C]."""

    def training_loss(self, contexts: Tokens, encoded: Any, index: Tensor | None, labels: Tensor) -> ScoresAndLoss:
        """Score contexts and return the loss of each: the cross-entropy of the softmax over its candidates.

        Args:
            contexts: bare contexts [B, L].
            encoded: encoded candidates [N, ...].
            index: the candidates of each context, [G, C], -1 for none; None: all N.
            labels: the column of each context's response, [B].
        """
        scores = self.score_indexed(contexts, encoded, index)
        return ScoresAndLoss(scores, cross_entropy(scores, labels, reduction="none"))

    def release(self, model_file: str) -> None:
        """Free the memory of weights that are not needed once all candidates are encoded.

        Args:
            model_file: where the weights are read again if they are needed after all.
        """

    # --- what every system has --------------------------------------------------------------------------------------

    def score(self, contexts: Tokens, encoded: Any) -> Tensor:
        """Score bare contexts [B, L] against encoded candidates [G, C, ...] -> [B, C]."""
        return self.score_encoded(self.encode_contexts(contexts), encoded)

    def forward(self, contexts: Tokens, candidates: Tokens, index: Tensor | None = None) -> Tensor:
        """Score bare contexts [B, L] against bare candidates [N, L]: all, or those of `index` [G, C] -> [B, C]."""
        return self.score_indexed(contexts, self.encode(candidates), index)

    def score_indexed(self, contexts: Tokens, encoded: Any, index: Tensor | None) -> Tensor:
        """Score bare contexts [B, L] against encoded candidates [N, ...]: all, or those of `index` [G, C] -> [B, C].

        The score is minus infinity where the index is -1.
        """
        # Candidates that all contexts share but for a few are not copied for each context.
        shares = index is not None and not self.depends_on_pool and is_shared(index, len(next(iter(tensors(encoded)))))
        scores = self.score(contexts, take_rows(encoded, None if shares else index))
        return scores if index is None else scores.masked_fill(index < 0, -torch.inf)

    @torch.no_grad()
    def encode_ids(self, ids: Sequence[Sequence[int]], progress: bool = False) -> Any:
        """Encode candidates by their bare ids: N of them -> [N, ...]. `progress` shows a bar for 2,000 or more."""
        with progress_bar(total=len(ids), unit="cand", desc="encoding", disable=not progress or len(ids) < 2000) as bar:
            return self.encode_parts(slices(ids), bar.update)

    @torch.no_grad()
    def encode_parts(
        self, parts: Iterable[Sequence[Sequence[int]]], done: Callable[[int], Any] = lambda rows: None
    ) -> Any:
        """Encode candidates part by part -> [N, ...]. `done` is called with the size of each part."""
        self.eval()
        encoded = []
        for part in parts:
            encoded.append(self.encode(pad(part).to(self.device)))
            done(len(part))
        return chain(encoded)

    @torch.no_grad()
    def score_tokens(self, contexts: Tokens, encoded: Any, index: Tensor | None = None) -> Tensor:
        """Score bare contexts [B, L] against encoded candidates: as `score_indexed`, without gradients.

        Raises:
            ValueError: a score is not finite. The message names the cause.
        """
        self.eval()
        index = None if index is None else index.to(self.device)
        scores = self.score_indexed(contexts.to(self.device), encoded, index)
        check_finite(scores, self, None if index is None else index >= 0)
        return scores

    def score_ids(self, ids: Sequence[Sequence[int]], encoded: Any, index: Tensor | None = None) -> Tensor:
        """Score contexts by their bare ids: as `score_tokens`."""
        return self.score_tokens(pad(ids), encoded, index)

    def train(self, mode: bool = True):
        """Switch to training, or out of it. Encodings that were made before a training step die with it."""
        if mode:
            self._trained += 1
        return super().train(mode)

    @property
    def dropout_now(self) -> float:
        """Return the dropout of a run: 0 outside of training."""
        return self.options.dropout if self.training else 0.0

    def weights_version(self) -> tuple:
        """Return a value that changes whenever weights may have changed: what was encoded under another one is stale.

        Every switch to training counts as a change.
        """
        return self._trained, *versions(self.parameters())

    # --- weights ------------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return next(self.parameters()).device

    def tensors(self) -> dict[str, Tensor]:
        """Return every weight once, by name. Those of a shared encoder are named after the context's."""
        first: dict[int, tuple[str, Tensor]] = {}
        for name, tensor in self.state_dict(keep_vars=True).items():
            first.setdefault(id(tensor), (name, tensor.detach()))
        return dict(first.values())

    def load_tensors(self, tensors: Weights, source: str) -> None:
        """Load weights that `tensors()` returned.

        Args:
            tensors: entries are popped, to save memory.
            source: where they are from, for the error message.

        Raises:
            ValueError: names or shapes differ. The message names `source`.
        """
        own = self.tensors()
        wrong = sorted(own.keys() ^ tensors.keys()) or [n for n in own if own[n].shape != tensors[n].shape]
        if wrong:
            raise InputError(
                f"{source} does not fit these options: {len(wrong)} weights differ, first {wrong[0]!r}; "
                "give the options it was trained with, or none"
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors.pop(name))

    def load_some(self, weights: dict[str, Tensor]) -> None:
        """Load some weights by their names."""
        with torch.no_grad():
            for name, tensor in weights.items():
                self.get_parameter(name).copy_(tensor)

    def lower_precision(self) -> None:
        """Hold the encoders' weights in the type they compute in, so that no run converts them. For inference alone."""
        for encoder in {self.context_encoder, self.candidate_encoder}:
            encoder.model.to(encoder.dtype)


def slices(rows: Sequence) -> Iterator[Sequence]:
    """Cut a list into parts of at most `ENCODE_ROWS` rows."""
    return (rows[start : start + ENCODE_ROWS] for start in range(0, len(rows), ENCODE_ROWS))
