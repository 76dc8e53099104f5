"""Compute loss and gradients of a batch: at once, in slices, and over several processes.

    encoded = encode(candidates)        each process encodes its share, then all shares are gathered
    loss_b  = objective(b, encoded)     each process scores its own contexts
    grad    = d loss / d encoded        summed over the processes; each sends its share back through `encode`

The loss of a context needs no other context, so contexts can be scored slice by slice. Candidates are encoded slice by
slice too: first without what the backward pass needs, then once more when it comes to them. Memory is that of a slice,
while loss and gradients are those of the whole batch (GradCache, Gao et al. 2021, https://arxiv.org/abs/2101.06983).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from poly_agents import processes
from poly_agents.encoders.states import chain, map_tensors, tensors
from poly_agents.errors import InputError, PolyAgentsError
from poly_agents.learning import losses
from poly_agents.options import Options, above, at_least, option
from poly_agents.scoring.ranker import Ranker, ScoresAndLoss
from poly_agents.text.tokens import Tokens


@dataclass(frozen=True)
class TrainingOptions(Options):
    """Options of training that every ranker has."""

    negatives: int = option(0, "with -cands batch: train against this many other responses of the batch; 0: all")
    negatives_by: str = option(
        "random",
        "how --negatives are chosen among the responses of the batch: at random; the hardest, by the cosine of the "
        "mean states of the encoder in training; or mixed: all but one are the hardest of 15 random ones",
        ("random", "hardest", "mixed"),
    )
    grad_cache: int = option(0, "run this many contexts or candidates at a time, to need less memory; 0: all")
    teacher_model: str = option("", "trained model whose scores are learned (any ranker but uni)")
    distill_loss: str = option("kl", "compare the score lists (kl) or the margins (margin-mse)", ("kl", "margin-mse"))
    distill_temperature: float = option(1.0, "with kl: divide both score lists by this")
    distill_weight: float = option(0.5, "weight of the teacher's loss; the loss of the labels has the rest")
    hard_negatives: int = option(0, "train each context against this many mined negatives too")
    hard_negatives_file: str = option("", "file of mined negatives that parlai poly_mine wrote; without one, mine")
    hard_negatives_model: str = option("", "mine the first negatives with this model; default: the one in training")
    hard_negatives_epochs: float = option(1.0, "mine again with the model in training after so many epochs")
    hard_negatives_margin: float = option(
        0.0, "leave out responses that score above the right response minus this: they may be right too"
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("negatives", "grad_cache", "hard_negatives"):
            at_least(self, name, 0)
        if not 0 <= self.distill_weight <= 1:
            raise InputError(f"--distill-weight must be from 0 to 1, got {self.distill_weight}")
        for name in ("distill_temperature", "hard_negatives_epochs"):
            above(self, name, 0)

    def distil(self, result: ScoresAndLoss, teacher: Tensor, labels: Tensor) -> ScoresAndLoss:
        """Add the teacher's loss to the loss of the labels, each by its weight.

        Args:
            result: the student's scores [B, C] and losses [B].
            teacher: the teacher's scores, [B, C].
            labels: the column of each context's response, [B].
        """
        if self.distill_loss == "kl":
            loss = losses.kl(result.scores, teacher, self.distill_temperature)
        else:
            loss = losses.margin_mse(result.scores, teacher, labels)
        return result._replace(loss=(1 - self.distill_weight) * result.loss + self.distill_weight * loss)


class NonFiniteLoss(PolyAgentsError, ArithmeticError):
    """A loss is infinite or not a number, so no gradient can be trusted."""


class TrainingBatch(NamedTuple):
    """A batch of contexts, with the candidates that they are trained against."""

    contexts: Tokens  # [B, L] bare contexts of this process
    candidates: Tokens  # [N, L] bare candidates, the same in every process
    index: Tensor | None  # [G, C] the candidates of each context, -1 for none. None: all N
    labels: Tensor  # [B] the column of each context's response
    teacher: Tensor | None = None  # [B, C] the scores of a teacher

    def to(self, device: torch.device) -> "TrainingBatch":
        """Move all tensors to a device."""
        return TrainingBatch(*(None if part is None else part.to(device) for part in self))


def step(ranker: Ranker, options: TrainingOptions, batch: TrainingBatch, scale: float = 1.0) -> ScoresAndLoss:
    """Add the gradients of a batch to the parameters.

    Args:
        ranker: a ranker in training mode.
        options: how to slice the batch, and how to learn from a teacher.
        batch: the batch of this process.
        scale: factor of the gradients. It is 1/n if n batches make one update.

    Returns:
        Scores [B, C] and losses [B].

    Raises:
        NonFiniteLoss: a loss is not a number. The weights are those of before this batch.
    """
    batch = batch.to(ranker.device)

    def objective(rows: slice, encoded: Any) -> ScoresAndLoss:
        contexts = Tokens(*(part[rows] for part in batch.contexts))
        index, labels = None if batch.index is None else batch.index[rows], batch.labels[rows]
        result = ranker.training_loss(contexts, encoded, index, labels)
        return result if batch.teacher is None else options.distil(result, batch.teacher[rows], labels)

    result = backward(ranker, batch.candidates, len(batch.labels), objective, options.grad_cache, scale)
    if not result.loss.isfinite().all():
        raise NonFiniteLoss(
            f"training stopped: the loss of a batch is {result.loss.mean().item()}. The last checkpoint is from before "
            "this batch; go on from it with a smaller -lr or --gradient-clip"
        )
    return result


def backward(
    ranker: Ranker,
    candidates: Tokens,
    contexts: int,
    objective: Callable[[slice, Any], ScoresAndLoss],
    slice_size: int = 0,
    scale: float = 1.0,
) -> ScoresAndLoss:
    """Add the gradients of the mean loss, times `scale`, to the parameters.

    With several processes each has a part of the gradients, and `processes.average_gradients` makes those of the whole
    batch from the parts.

    Args:
        ranker: a ranker in training mode.
        candidates: bare candidates [N, L], the same in every process.
        contexts: number of contexts of this process, B.
        objective: returns scores [b, C] and losses [b] for a slice of the contexts and the encoded candidates [N, ...].
        slice_size: how many candidates, or contexts, to run at a time. 0: all.
        scale: factor of the gradients.

    Returns:
        Scores [B, C] and losses [B], without gradients.
    """
    own = Tokens(*(part[processes.own_rows()] for part in candidates))
    with_graph = encode(ranker, own, slice_size)
    encoded = map_tensors(leaf, processes.gather(with_graph, len(candidates.ids)))
    results = []
    for start in range(0, contexts, slice_size or contexts):
        rows = slice(start, min(contexts, start + (slice_size or contexts)))
        result = objective(rows, encoded)
        (result.loss.sum() * (scale / contexts)).backward()
        results.append(ScoresAndLoss(*(part.detach() for part in result)))
    backward_to_parameters(with_graph, encoded)
    return chain(results)


def encode(ranker: Ranker, candidates: Tokens, slice_size: int) -> Any:
    """Encode candidates. In slices, the backward pass encodes each slice again instead of remembering its states."""
    if not slice_size:
        return ranker.encode(candidates)
    parts = [Tokens(*part) for part in zip(*(part.split(slice_size) for part in candidates), strict=True)]
    return chain([checkpoint(ranker.encode, part, use_reentrant=False) for part in parts])


def leaf(part: Tensor) -> Tensor:
    """Return the same numbers as a new leaf, in which gradients are collected."""
    return part.detach().requires_grad_(part.is_floating_point())


def backward_to_parameters(with_graph: Any, encoded: Any) -> None:
    """Send the gradients of the encoded candidates back to the parameters.

    Args:
        with_graph: this process's share of the candidates, as `encode` returned them.
        encoded: the leaves of all candidates. Their gradients are summed over the processes.
    """
    pairs = [pair for pair in zip(tensors(with_graph), tensors(encoded), strict=True) if pair[0].requires_grad]
    gradients = []
    for output, collected in pairs:
        processes.all_reduce_sum(collected.grad)
        # Other processes may have longer candidates, so the gathered ones can have more padding than the own share.
        gradients.append(collected.grad[processes.own_rows()][tuple(map(slice, output.shape))])
    if pairs:
        torch.autograd.backward([output for output, _ in pairs], gradients)
