"""Forward and backward of one training step: whole, in slices, and over several processes.

    kept   = encode(candidates)      each process its share of them, then gathered
    loss_b = objective(b, kept)      each process its own contexts
    kept'  = d loss / d kept         summed over the processes; each takes its share back through `encode`

A context's loss needs nothing of another context, so contexts go slice by slice; candidates are encoded slice by slice
without what backward needs, and once more when it gets to them. Memory is that of a slice, loss and gradients are those
of the whole batch (GradCache, Gao et al. 2021, https://arxiv.org/abs/2101.06983).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from poly_agents import processes
from poly_agents.encoders.states import chain, map_tensors, tensors
from poly_agents.learning import losses
from poly_agents.options import Options, at_least, flag, option
from poly_agents.scoring.ranker import Ranker, ScoresAndLoss
from poly_agents.text.tokens import Tokens


@dataclass(frozen=True)
class TrainingOptions(Options):
    """How any ranker can be trained."""

    negatives: int = option(0, "with -cands batch: train against so many of the batch's other responses; 0: all")
    grad_cache: int = option(0, "run so many contexts or candidates at a time, in the memory of so many; 0: all")
    teacher_model: str = option("", "a trained model of any ranker but uni to learn the scores of")
    distill_loss: str = option("kl", "kl: between the score lists; margin-mse: of the margins", ("kl", "margin-mse"))
    distill_temperature: float = option(1.0, "what both score lists are divided by, with kl")
    distill_weight: float = option(0.5, "share of the teacher in the loss; the labels have the rest")
    hard_negatives: int = option(0, "train each context against so many mined negatives too")
    hard_negatives_file: str = option("", "take them from a file that parlai poly_mine has made; else they are mined")
    hard_negatives_model: str = option("", "mine the first ones with this model; else with the one in training")
    hard_negatives_epochs: float = option(1.0, "mine anew with the model in training so often")
    hard_negatives_margin: float = option(0.0, "leave out what scores above the response's score less this")

    def __post_init__(self):
        super().__post_init__()
        for name in ("negatives", "grad_cache", "hard_negatives"):
            at_least(self, name, 0)
        if not 0 <= self.distill_weight <= 1:
            raise ValueError(f"--distill-weight must be from 0 to 1, got {self.distill_weight}")
        for name in ("distill_temperature", "hard_negatives_epochs"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{flag(name)} must be above 0, got {getattr(self, name)}")

    def distil(self, learnt: ScoresAndLoss, teacher: Tensor, labels: Tensor) -> ScoresAndLoss:
        """Mix the teacher's part into the loss: scores, `teacher` [B, C], `labels` [B]."""
        if self.distill_loss == "kl":
            loss = losses.kl(learnt.scores, teacher, self.distill_temperature)
        else:
            loss = losses.margin_mse(learnt.scores, teacher, labels)
        return learnt._replace(loss=(1 - self.distill_weight) * learnt.loss + self.distill_weight * loss)


def backward(
    ranker: Ranker,
    candidates: Tokens,
    contexts: int,
    objective: Callable[[slice, Any], ScoresAndLoss],
    slice_size: int = 0,
    scale: float = 1.0,
) -> ScoresAndLoss:
    """Add the gradients of the mean loss, times `scale`, to the parameters.

    With several processes that is each one's part: their mean is the gradient of all (`processes.average_gradients`).
    `candidates` [N, L] are the same list in every process, `objective(rows, kept [N, ...])` gives scores and losses of
    some of this process's contexts. With `slice_size` as many candidates, or contexts, are run at a time.
    """
    mine = Tokens(*(part[processes.own_rows()] for part in candidates))
    with_graph = encode(ranker, mine, slice_size)
    kept = map_tensors(leaf, processes.gather(with_graph, len(candidates.ids)))
    learnt = []
    for start in range(0, contexts, slice_size or contexts):
        rows = slice(start, min(contexts, start + (slice_size or contexts)))
        part = objective(rows, kept)
        (part.loss.sum() * (scale / contexts)).backward()
        learnt.append(ScoresAndLoss(*(tensor.detach() for tensor in part)))
    pairs = [pair for pair in zip(tensors(with_graph), tensors(kept), strict=True) if pair[0].requires_grad]
    for _, end in pairs:
        processes.all_reduce_sum(end.grad)
    if pairs:
        own = [
            end.grad[processes.own_rows()][tuple(map(slice, out.shape))] for out, end in pairs
        ]  # less others' padding
        torch.autograd.backward([out for out, _ in pairs], own)
    return chain(learnt)


def encode(ranker: Ranker, candidates: Tokens, slice_size: int) -> Any:
    """`ranker.encode`; with `slice_size` what backward needs is made again when it is needed, a slice at a time."""
    if not slice_size:
        return ranker.encode(candidates)
    parts = [Tokens(*part) for part in zip(*(part.split(slice_size) for part in candidates), strict=True)]
    return chain([checkpoint(ranker.encode, part, use_reentrant=False) for part in parts])


def leaf(part: Tensor) -> Tensor:
    """The same numbers, from where gradients go no further."""
    return part.detach().requires_grad_(part.is_floating_point())
