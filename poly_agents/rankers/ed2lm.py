"""ED2LM (Hui et al. 2022, https://arxiv.org/abs/2204.11458).

    E = encoder(d)                                   once, ahead; only the states of d are cached
    p = decoder([start, w_1 .. w_T], E)              w is read in one pass; nothing is generated
    s = log p(true | w, d) - log p(false | w, d)     after w_T

s is the logit of monoT5's probability, the softmax over those two tokens, so both rank alike; s needs only two rows of
the output embedding. `--ed2lm-score text` ranks by the mean of log p(w_t) instead; an empty w has 0. In the paper d is
the document and w the query: with `--ed2lm-encode candidate` d is the candidate and w the context. A response is
shorter than its context, so `--ed2lm-encode context` is far cheaper if nothing can be cached.

    L+ = - a mean_t log p(w_t)        - b log p(true)      of the label
    L- = - a mean_t log(1 - p(w_t))   - b log p(false)     of each other candidate
    L  = L+  +  mean L-  +  c softmax cross-entropy of s

a, b and c are `--ed2lm-text-weight`, `--ed2lm-true-weight` and `--ed2lm-rank-weight`; the paper has no c.

Shapes: M encoded texts, R texts that are decoded over each of them, P = 1 (the same for each) or M, T tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from poly_agents.encoders.backbone import reduced_states
from poly_agents.encoders.encoder_decoder import EncoderDecoder
from poly_agents.encoders.states import TokenStates, take_rows
from poly_agents.errors import InputError
from poly_agents.files import checkpoint
from poly_agents.options import at_least, option
from poly_agents.scoring import maths
from poly_agents.scoring.ranker import Ranker, ScoresAndLoss
from poly_agents.scoring.ranker_options import RankerOptions
from poly_agents.text.tokens import Tokens


@dataclass(frozen=True)
class Ed2lmOptions(RankerOptions):
    """Options of ED2LM."""

    backbone: str = option(
        "google/flan-t5-small", "T5, mT5, UMT5 or flan-T5 by HuggingFace name or folder, or a model file of this ranker"
    )
    ed2lm_encode: str = option(
        "candidate", "which text is encoded, ahead if possible; the decoder reads the other", ("candidate", "context")
    )
    ed2lm_score: str = option(
        "true",
        "what the score is: log-odds of the token true against false after the decoded text, or the mean "
        "log-probability of the decoded text",
        ("true", "text"),
    )
    ed2lm_text_weight: float = option(1.0, "weight of the (un)likelihood of the decoded text in the loss")
    ed2lm_true_weight: float = option(1.0, "weight of the likelihood of the tokens true and false in the loss")
    ed2lm_rank_weight: float = option(
        1.0, "weight of the cross-entropy of the candidates' scores in the loss; 0: the loss of the paper"
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("ed2lm_text_weight", "ed2lm_true_weight", "ed2lm_rank_weight"):
            at_least(self, name, 0)
        if self.precision == "float16":
            raise InputError("--precision float16: T5's states outgrow its range; give bfloat16 or float32")


class Reading(NamedTuple):
    """Natural logarithms that the loss is made of, [B, C] each."""

    odds: Tensor  # log p(true) - log p(false)
    true: Tensor  # log p(true)
    false: Tensor  # log p(false)
    text: Tensor  # mean of log p(w_t)
    untext: Tensor  # mean of log(1 - p(w_t))


def complement(log_p: Tensor) -> Tensor:
    """Return log(1 - p) from log p, but at least log 1e-6, so that one certain token cannot outweigh a batch.

    >>> complement(torch.tensor([0.25]).log()).exp()
    tensor([0.7500])
    """
    return (-torch.expm1(log_p)).clamp(min=1e-6).log()


def loss(reading: Reading, labels: Tensor, present: Tensor, text_weight: float, true_weight: float) -> Tensor:
    """Return the loss of the paper, L+ + mean L-, of each context.

    Args:
        reading: [B, C].
        labels: the column of each context's response, [B].
        present: [B, C] bool, False where a context has no candidate.
        text_weight: a.
        true_weight: b.

    Returns:
        [B]

    >>> reading = Reading(*torch.tensor([[[0.0, 0.0]], [[-1.0, -9.0]], [[-9.0, -2.0]], [[-3.0, -9.0]], [[-9.0, -4.0]]]))
    >>> loss(reading, torch.tensor([0]), torch.tensor([[True, True]]), 1.0, 1.0)  # 3 + 1, 4 + 2
    tensor([10.])
    """
    positive = -text_weight * reading.text - true_weight * reading.true  # [B, C]
    negative = -text_weight * reading.untext - true_weight * reading.false  # [B, C]
    others = present.scatter(-1, labels.unsqueeze(-1), False)  # [B, C]
    mean = negative.masked_fill(~others, 0).sum(-1) / others.sum(-1).clamp(min=1)
    return positive.gather(-1, labels.unsqueeze(-1)).squeeze(-1) + mean


def after(hidden: Tensor, texts: Tokens) -> Tensor:
    """Return the state after the whole of each text: states [M, R, T + 1, D] of texts [P, R, T] -> [M, R, D]."""
    last = texts.mask.sum(-1).expand(len(hidden), -1)  # [M, R]
    return hidden.gather(2, last[..., None, None].expand(-1, -1, 1, hidden.shape[-1])).squeeze(2)


class Ed2lmRanker(Ranker):
    """Score by how an encoder-decoder reads one text after it encoded the other."""

    Options = Ed2lmOptions
    Encoder = EncoderDecoder
    defaults = {"negatives": 3, "learningrate": 1e-3}
    one_encoder = True

    def __init__(self, options, frame, build):
        super().__init__(options, frame, build)
        self.encodes_candidates = self.can_cache(self.options)
        self.reduce = self.odds if self.options.ed2lm_score == "true" else self.text
        self.encoder_file: str | None = None  # where the encoder's layers are, if they are not in memory

    @classmethod
    def can_cache(cls, options):
        return options.ed2lm_encode == "candidate"

    def encode(self, candidates: Tokens) -> TokenStates | Tokens:
        return self.states(candidates) if self.encodes_candidates else candidates

    def score_encoded(self, contexts: Tokens, encoded: TokenStates | Tokens) -> Tensor:
        return self.read(contexts, encoded, self.reduce).squeeze(-1)

    def training_loss(self, contexts, encoded, index, labels):
        options = self.options
        reading = Reading(*self.read(contexts, take_rows(encoded, index), self.reading).unbind(-1))
        scores = reading.odds if options.ed2lm_score == "true" else reading.text  # [B, C]
        present = torch.ones_like(scores, dtype=torch.bool) if index is None else index >= 0
        scores = scores.masked_fill(~present, -torch.inf)
        paper = loss(reading, labels, present, options.ed2lm_text_weight, options.ed2lm_true_weight)
        rank = cross_entropy(scores, labels, reduction="none")
        return ScoresAndLoss(scores, paper + options.ed2lm_rank_weight * rank)

    def states(self, text: Tokens) -> TokenStates:
        """Encode bare texts [N, L] -> states [N, L, D]. Outside of training they have the precision of the decoder."""
        self.restore_encoder()
        framed = self.frame.wrap(text)
        vectors = reduced_states(self.context_encoder, framed, lambda hidden, _: hidden)
        return TokenStates(vectors if torch.is_grad_enabled() else vectors.to(self.context_encoder.dtype), framed.mask)

    def read(
        self, contexts: Tokens, encoded: TokenStates | Tokens, reduce: Callable[[Tensor, Tokens], Tensor]
    ) -> Tensor:
        """Run the decoder on every pair.

        Args:
            contexts: bare contexts [B, L].
            encoded: encoded candidates [G, C, ...].
            reduce: one of the functions below, which turn the decoder's states into K numbers.

        Returns:
            [B, C, K]
        """
        run = self.context_encoder.read
        if not self.encodes_candidates:
            return run(encoded, self.states(contexts), reduce)
        if len(encoded.mask) == 1:
            pool = TokenStates(*(part.squeeze(0) for part in encoded))
            return run(Tokens(*(part.unsqueeze(0) for part in contexts)), pool, reduce).transpose(0, 1)
        shape = encoded.mask.shape[:2]
        texts = Tokens(*(part.repeat_interleave(shape[1], 0).unsqueeze(1) for part in contexts))  # [B * C, 1, L]
        own = TokenStates(*(part.flatten(0, 1) for part in encoded))
        return run(texts, own, reduce).unflatten(0, shape).squeeze(2)

    # --- from the decoder's states [M, R, T + 1, D] of texts [P, R, T] to numbers -------------------------------------

    def odds(self, hidden: Tensor, texts: Tokens) -> Tensor:
        """Return the log-odds of true against false, [M, R, 1]."""
        true, false = self.context_encoder.output[self.answers].float()
        return (after(hidden, texts).float() * (true - false)).sum(-1, keepdim=True)

    def text(self, hidden: Tensor, texts: Tokens) -> Tensor:
        """Return the mean of log p over the text, [M, R, 1]."""
        return self.text_and_complement(hidden, texts)[..., :1]

    def text_and_complement(self, hidden: Tensor, texts: Tokens) -> Tensor:
        """Return the means of log p and of log(1 - p) over the text, [M, R, 2]."""
        real, ids = (part.expand(len(hidden), -1, -1) for part in (texts.mask, texts.ids))  # [M, R, T]
        real_log_p = self.context_encoder.log_p(hidden[:, :, :-1][real], ids[real].unsqueeze(-1))  # [N, 1]
        log_p = hidden.new_zeros(*real.shape, 2, dtype=torch.float32)  # [M, R, T, 2]
        return maths.mean(log_p.index_put((real,), torch.cat([real_log_p, complement(real_log_p)], -1)), real)

    def reading(self, hidden: Tensor, texts: Tokens) -> Tensor:
        """Return everything that the loss needs, in the order of `Reading`, [M, R, 5]."""
        odds, last = self.odds(hidden, texts), after(hidden, texts)
        answers = self.context_encoder.log_p(last.flatten(0, 1), self.answers.expand(last.shape[:2].numel(), -1))
        if self.options.ed2lm_text_weight or self.options.ed2lm_score == "text":
            text = self.text_and_complement(hidden, texts)
        else:
            text = odds.new_zeros(*odds.shape[:2], 2)  # has no weight, and would need the vocabulary for each token
        return torch.cat([odds, answers.unflatten(0, last.shape[:2]), text], -1)

    @property
    def answers(self) -> Tensor:
        """Return the ids of true and false, [2]."""
        return torch.tensor(self.context_encoder.answers, device=self.device)

    # --- the encoder out of memory ------------------------------------------------------------------------------------

    def release(self, model_file):
        """Free the memory of the encoder's layers. Encoded candidates are scored by the decoder alone.

        `states` and `tensors` need the layers: they read them from `model_file` again.
        """
        if self.encodes_candidates:
            self.context_encoder.model.encoder.to("meta")
            self.encoder_file = model_file

    def restore_encoder(self) -> None:
        """Read the encoder's layers again if they were released."""
        if self.encoder_file is None:
            return
        encoder = self.context_encoder.model.encoder.to_empty(device=self.device)
        saved, prefix = checkpoint.read(self.encoder_file).weights, "context_encoder.model.encoder."
        encoder.load_state_dict({n.removeprefix(prefix): t for n, t in saved.items() if n.startswith(prefix)})
        self.encoder_file = None

    def tensors(self):
        """Return every weight once, by name. An encoder that was released is read again first."""
        self.restore_encoder()
        return super().tensors()
