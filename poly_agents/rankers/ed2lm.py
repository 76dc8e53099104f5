"""ED2LM (Hui et al. 2022, https://arxiv.org/abs/2204.11458).

    E = encoder(d)                                   once, ahead: the states of d are all that is kept
    p = decoder([start, w_1 .. w_T], E)              w is read in one pass; nothing is generated
    s = log p(true | w, d) - log p(false | w, d)     after w_T

s is the logit of monoT5's probability, the softmax over those two tokens, so it ranks alike; only two rows of the
output embedding are needed. `--ed2lm-score text` ranks by the mean of log p(w_t) instead; an empty w has 0. In the
paper d is the document and w the query: with `--ed2lm-encode candidate` d is the candidate and w the context. A
response is shorter than its context, so `--ed2lm-encode context` is far cheaper where nothing can be kept.

    L+ = - a mean_t log p(w_t)        - b log p(true)      of the label
    L- = - a mean_t log(1 - p(w_t))   - b log p(false)     of each other candidate
    L  = L+  +  mean L-  +  c softmax cross-entropy of s

a, b and c are `--ed2lm-text-weight`, `--ed2lm-true-weight` and `--ed2lm-rank-weight`; the paper has no c.

Shapes: M encoded texts, R texts read over each of them, P = 1 (the same for each) or M, T tokens, H heads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from poly_agents.encoders.backbone import reduced_states
from poly_agents.encoders.encoder_decoder import EncoderDecoder
from poly_agents.encoders.states import TokenStates, choose
from poly_agents.files import checkpoint
from poly_agents.options import at_least, option
from poly_agents.scoring import maths
from poly_agents.scoring.ranker import Ranker, RankerOptions, ScoresAndLoss
from poly_agents.text.tokens import Tokens


@dataclass(frozen=True)
class Ed2lmOptions(RankerOptions):
    backbone: str = option("google/flan-t5-small", "T5, mT5 or flan by name or folder, or a model file of this ranker")
    ed2lm_encode: str = option("candidate", "what is encoded; the decoder reads the other", ("candidate", "context"))
    ed2lm_score: str = option("true", "true: its log-odds against false; text: mean log p", ("true", "text"))
    ed2lm_text_weight: float = option(1.0, "of the (un)likelihood of the decoded text in the loss")
    ed2lm_true_weight: float = option(1.0, "of the likelihood of true and false in the loss")
    ed2lm_rank_weight: float = option(1.0, "of the softmax over the candidates in the loss; 0: the paper's loss")

    def __post_init__(self):
        super().__post_init__()
        for name in ("ed2lm_text_weight", "ed2lm_true_weight", "ed2lm_rank_weight"):
            at_least(self, name, 0)
        if self.precision == "float16":
            raise ValueError("--precision float16: T5's states outgrow its range; give bfloat16 or float32")


class Reading(NamedTuple):
    """What the decoder makes of a text, [B, C] each: natural logarithms."""

    odds: Tensor  # of true against false
    true: Tensor
    false: Tensor
    text: Tensor  # mean of log p
    untext: Tensor  # mean of log(1 - p)


def complement(log_p: Tensor) -> Tensor:
    """log(1 - p) from log p; no less than log 1e-6, so that one sure token cannot outweigh a batch.

    >>> complement(torch.tensor([0.25]).log()).exp()
    tensor([0.7500])
    """
    return (-torch.expm1(log_p)).clamp(min=1e-6).log()


def loss(reading: Reading, labels: Tensor, present: Tensor, text_weight: float, true_weight: float) -> Tensor:
    """The paper's loss of each context: labels [B] and which candidates there are [B, C] -> [B].

    >>> reading = Reading(*torch.tensor([[[0.0, 0.0]], [[-1.0, -9.0]], [[-9.0, -2.0]], [[-3.0, -9.0]], [[-9.0, -4.0]]]))
    >>> loss(reading, torch.tensor([0]), torch.tensor([[True, True]]), 1.0, 1.0)  # 3 + 1, 4 + 2
    tensor([10.])
    """
    positive = -text_weight * reading.text - true_weight * reading.true  # [B, C]
    negative = -text_weight * reading.untext - true_weight * reading.false  # [B, C]
    others = present.scatter(-1, labels.unsqueeze(-1), False)  # [B, C]
    mean = negative.masked_fill(~others, 0).sum(-1) / others.sum(-1).clamp(min=1)
    return positive.gather(-1, labels.unsqueeze(-1)).squeeze(-1) + mean


def cache_bytes(kept: TokenStates) -> float:
    """Bytes that each kept candidate takes: L (D x 2 + 1) in bfloat16 and L (D x 4 + 1) in float32, L the longest."""
    return sum(part.nbytes for part in kept) / len(kept.mask)


class Ed2lmRanker(Ranker):
    Options = Ed2lmOptions
    defaults = {"negatives": 3, "learningrate": 1e-3}
    Encoder = EncoderDecoder
    one_encoder = True

    def __init__(self, options, frame, build):
        super().__init__(options, frame, build)
        self.encodes_candidates = self.can_cache(options)
        self.reduce = self.odds if options.ed2lm_score == "true" else self.text
        self.released: str | None = None

    @classmethod
    def can_cache(cls, options):
        return options.ed2lm_encode == "candidate"

    def states(self, text: Tokens) -> TokenStates:
        """Bare texts [N, L] -> the encoder's states; where nothing is learnt, in the type the decoder reads them in."""
        self.restore_encoder()
        framed = self.frame.wrap(text)
        vectors = reduced_states(self.context_encoder, framed, lambda hidden, _: hidden)
        return TokenStates(vectors if torch.is_grad_enabled() else vectors.to(self.context_encoder.dtype), framed.mask)

    def encode(self, candidates: Tokens) -> TokenStates | Tokens:
        return self.states(candidates) if self.encodes_candidates else candidates

    def score_encoded(self, contexts: Tokens, kept: TokenStates | Tokens) -> Tensor:
        return self.read(contexts, kept, self.reduce).squeeze(-1)

    def training_loss(self, contexts, kept, index, labels):
        options = self.options
        reading = Reading(*self.read(contexts, choose(kept, index), self.reading).unbind(-1))
        scores = reading.odds if options.ed2lm_score == "true" else reading.text  # [B, C]
        present = torch.ones_like(scores, dtype=torch.bool) if index is None else index >= 0
        scores = scores.masked_fill(~present, -torch.inf)
        paper = loss(reading, labels, present, options.ed2lm_text_weight, options.ed2lm_true_weight)
        return ScoresAndLoss(
            scores, paper + options.ed2lm_rank_weight * cross_entropy(scores, labels, reduction="none")
        )

    def read(self, contexts: Tokens, kept: TokenStates | Tokens, reduce: Callable[[Tensor, Tokens], Tensor]) -> Tensor:
        """Contexts [B, L] and kept candidates [G, C, ...] -> what `reduce` keeps of each pair, [B, C, K]."""
        run = self.context_encoder.read
        if not self.encodes_candidates:
            return run(kept, self.states(contexts), reduce)
        if len(kept.mask) == 1:
            pool = TokenStates(*(part.squeeze(0) for part in kept))
            return run(Tokens(*(part.unsqueeze(0) for part in contexts)), pool, reduce).transpose(0, 1)
        shape = kept.mask.shape[:2]
        texts = Tokens(*(part.repeat_interleave(shape[1], 0).unsqueeze(1) for part in contexts))  # [B * C, 1, L]
        own = TokenStates(*(part.flatten(0, 1) for part in kept))
        return run(texts, own, reduce).unflatten(0, shape).squeeze(2)

    # --- what is kept of the decoder's states [M, R, T + 1, D] of texts [P, R, T] ------------------------------------

    def odds(self, hidden: Tensor, texts: Tokens) -> Tensor:
        """Log-odds of true against false: [M, R, 1]."""
        true, false = self.context_encoder.output[self.answers].float()
        return (after(hidden, texts).float() * (true - false)).sum(-1, keepdim=True)

    def text(self, hidden: Tensor, texts: Tokens) -> Tensor:
        """Mean of log p over the text: [M, R, 1]."""
        return self.text_and_complement(hidden, texts)[..., :1]

    def text_and_complement(self, hidden: Tensor, texts: Tokens) -> Tensor:
        """Means of log p and of log(1 - p) over the text: [M, R, 2]."""
        real, ids = (part.expand(len(hidden), -1, -1) for part in (texts.mask, texts.ids))  # [M, R, T]
        found = self.context_encoder.log_p(hidden[:, :, :-1][real], ids[real].unsqueeze(-1))  # [N, 1]
        log_p = hidden.new_zeros(*real.shape, 2, dtype=torch.float32)  # [M, R, T, 2]
        return maths.mean(log_p.index_put((real,), torch.cat([found, complement(found)], -1)), real)

    def reading(self, hidden: Tensor, texts: Tokens) -> Tensor:
        """All that the loss asks for, in the order of `Reading`: [M, R, 5]."""
        odds, last = self.odds(hidden, texts), after(hidden, texts)
        answers = self.context_encoder.log_p(last.flatten(0, 1), self.answers.expand(last.shape[:2].numel(), -1))
        if self.options.ed2lm_text_weight or self.options.ed2lm_score == "text":
            text = self.text_and_complement(hidden, texts)
        else:
            text = odds.new_zeros(*odds.shape[:2], 2)  # counts for nothing: the whole vocabulary would for each token
        return torch.cat([odds, answers.unflatten(0, last.shape[:2]), text], -1)

    @property
    def answers(self) -> Tensor:
        """The ids of true and false, [2]."""
        return torch.tensor(self.context_encoder.model.config.answers, device=self.device)

    # --- without the encoder ------------------------------------------------------------------------------------------

    def release_encoder(self, model_file: str) -> None:
        """Free the encoder's layers: kept candidates need none. What does need them reads them from the file again."""
        self.context_encoder.model.encoder.to("meta")
        self.released = model_file

    def restore_encoder(self) -> None:
        if self.released:
            encoder = self.context_encoder.model.encoder.to_empty(device=self.device)
            prefix = "context_encoder.model.encoder."
            saved = checkpoint.read(self.released).weights
            encoder.load_state_dict({n.removeprefix(prefix): t for n, t in saved.items() if n.startswith(prefix)})
            self.released = None

    def tensors(self):
        self.restore_encoder()
        return super().tensors()


def after(hidden: Tensor, texts: Tokens) -> Tensor:
    """The state after the whole text: [M, R, T + 1, D] -> [M, R, D]."""
    last = texts.mask.sum(-1).expand(len(hidden), -1)  # [M, R]
    return hidden.gather(2, last[..., None, None].expand(-1, -1, 1, hidden.shape[-1])).squeeze(2)
