"""Uni-Encoder (Song et al. 2023, https://arxiv.org/abs/2106.01263, section 3).

    [CLS] ctxt [SEP]  [CLS] r_1 [SEP]  ...  [CLS] r_C [SEP]      one run for a context and all its candidates
    s_c = W mean(T(...)_c)                                       the mean of candidate c's tokens, one linear map

Candidates are in segment 1, and all of them at the same positions, those after the context's. Arrow attention: a
candidate's tokens attend over the context and their own candidate; the context's tokens attend over everything. The
mask of the whole sequence is never made: each part is run by itself, and padding goes through attention alone.

With `--start backbone` the positions of candidates start at 0, and all texts are in segment 0. A learned bias is added
to the attention between the context and its candidates. The score is that of `scoring/starts.py`.

So the states of the context, and with them every score, depend on which candidates there are. Nothing of a candidate
can be cached, and a pool cannot be split; `--uni-pool` bounds its size. The paper trains on the batch's own responses,
and adds a masked-language loss that is left out here.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from poly_agents.encoders import arrow, layers
from poly_agents.errors import InputError
from poly_agents.options import at_least, option
from poly_agents.scoring import maths
from poly_agents.scoring.ranker import Ranker
from poly_agents.scoring.starts import PairScore, StartOptions
from poly_agents.text.tokens import Tokens


@dataclass(frozen=True)
class UniOptions(StartOptions):
    """Options of Uni-Encoder."""

    uni_pool: int = option(
        128, "the most candidates that a context may have; more are refused, because all are scored in one run"
    )

    def __post_init__(self):
        super().__post_init__()
        at_least(self, "uni_pool", 1)


class UniRanker(Ranker):
    """Score all candidates of a context in one run."""

    Options = UniOptions
    defaults = {"negatives": 4, "negatives_by": "mixed", "learningrate": 5e-5}
    one_encoder = True
    depends_on_pool = True
    backbone_start = {"start": "backbone"}

    def __init__(self, options, frame, build):
        super().__init__(options, frame, build)
        model = self.context_encoder.model
        if layers.has_relative_positions(model) and not self.options.from_backbone:
            raise InputError(
                f"the attention of {model.config.model_type} depends on the distance of two tokens, and candidates at "
                "the same positions have none; give a --backbone of the BERT family, or --start backbone"
            )
        self.layers = layers.read(model)
        if self.options.from_backbone:
            self.pair = PairScore(self.context_encoder)
        else:
            self.head = nn.Linear(self.context_encoder.width, 1, bias=False)  # a bias would move all scores alike

    @classmethod
    def can_cache(cls, options):
        return False

    def positions_needed(self, context, candidate):
        if self.options.from_backbone:
            return super().positions_needed(context, candidate)
        return 2 * self.frame.single_length + context + candidate

    def encode(self, candidates: Tokens) -> Tokens:
        framed = self.frame.wrap(candidates)
        return framed if self.options.from_backbone else framed._replace(segments=framed.mask.long())

    def score_encoded(self, contexts: Tokens, encoded: Tokens) -> Tensor:
        most = int(encoded.mask.any(-1).sum(-1).max())
        if most > self.options.uni_pool:
            raise InputError(
                f"a context has {most} candidates, --uni-pool allows {self.options.uni_pool}; rank the best of another "
                "system, give fewer (-ecands inline, or a shorter -fcp FILE), or raise --uni-pool if memory allows"
            )
        framed = self.frame.wrap(contexts)
        pools = Tokens(*(part.expand(len(framed.ids), -1, -1) for part in encoded))  # [B, C, L']
        return arrow.in_slices(self.run, framed, pools)

    def run(self, context: Tokens, candidates: Tokens) -> Tensor:
        """Score framed contexts [B, L] and their candidates [B, C, L'] -> [B, C]."""
        encoder, dropout = self.context_encoder, self.dropout_now
        if self.options.from_backbone:
            return self.pair(encoder, self.layers, context, candidates, dropout)
        _, read = arrow.run(encoder, self.layers, context, candidates, True, None, dropout)
        return self.head(maths.mean(*read)).squeeze(-1)
