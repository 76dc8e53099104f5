"""Losses of a student against the scores of its teacher, as pure functions. Scores are [B, C], losses [B].

The student's score is minus infinity where a context has no candidate. Such a place adds nothing to a loss.
"""

import torch
from torch import Tensor


def kl(scores: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Compute the Kullback-Leibler divergence of the score lists (Hinton et al. 2015, https://arxiv.org/abs/1503.02531).

        p = softmax(teacher / T),  q = softmax(scores / T),  loss = T^2 sum_c p_c log(p_c / q_c)

    Args:
        scores: the student's scores, [B, C].
        teacher: the teacher's scores, [B, C].
        temperature: T.

    Returns:
        The losses, [B].

    >>> kl(torch.tensor([[2.0, 0.0]]), torch.tensor([[7.0, 5.0]]), 1.0)
    tensor([0.])
    """
    absent = scores == -torch.inf
    log_p = (teacher.masked_fill(absent, -torch.inf) / temperature).log_softmax(-1)
    log_q = (scores / temperature).log_softmax(-1)
    terms = log_p.exp() * (log_p.masked_fill(absent, 0) - log_q.masked_fill(absent, 0))  # [B, C]
    return temperature**2 * terms.sum(-1)


def margin_mse(scores: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean squared error of the margins (Hofstätter et al. 2020, https://arxiv.org/abs/2010.02666).

        loss = mean_c ((s_label - s_c) - (t_label - t_c))^2        c: every candidate but the label

    Args:
        scores: the student's scores s, [B, C].
        teacher: the teacher's scores t, [B, C].
        labels: the column of each context's label, [B].

    Returns:
        The losses, [B].

    >>> margin_mse(torch.tensor([[5.0, 1.0]]), torch.tensor([[4.0, 2.0]]), torch.tensor([0]))
    tensor([4.])
    """
    present = scores != -torch.inf
    scores = scores.masked_fill(~present, 0)
    label = labels.unsqueeze(-1)
    errors = (scores.gather(-1, label) - scores) - (teacher.gather(-1, label) - teacher)  # [B, C], 0 for the label
    return (errors**2 * present).sum(-1) / (present.sum(-1) - 1).clamp(min=1)
