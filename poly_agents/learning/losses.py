"""What a student loses against its teacher's scores. Pure functions; scores are [B, C], losses [B].

A candidate that a context does not have is minus infinity in the student's scores and counts for nothing.
"""

import torch
from torch import Tensor


def kl(scores: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the score lists (Hinton et al. 2015, https://arxiv.org/abs/1503.02531).

        p = softmax(teacher / T),  q = softmax(scores / T),  loss = T^2 sum_c p_c log(p_c / q_c)

    >>> kl(torch.tensor([[2.0, 0.0]]), torch.tensor([[7.0, 5.0]]), 1.0)
    tensor([0.])
    """
    absent = scores == -torch.inf
    wanted = (teacher.masked_fill(absent, -torch.inf) / temperature).log_softmax(-1)
    found = (scores / temperature).log_softmax(-1)
    terms = wanted.exp() * (wanted.masked_fill(absent, 0) - found.masked_fill(absent, 0))  # [B, C]
    return temperature**2 * terms.sum(-1)


def margin_mse(scores: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error of the margins over the label (Hofstätter et al. 2020, https://arxiv.org/abs/2010.02666).

        loss = mean_c ((s_label - s_c) - (t_label - t_c))^2        c every candidate but the label

    >>> margin_mse(torch.tensor([[5.0, 1.0]]), torch.tensor([[4.0, 2.0]]), torch.tensor([0]))
    tensor([4.])
    """
    present = scores != -torch.inf
    scores = scores.masked_fill(~present, 0)
    label = labels.unsqueeze(-1)
    errors = (scores.gather(-1, label) - scores) - (teacher.gather(-1, label) - teacher)  # [B, C], 0 for the label
    return (errors**2 * present).sum(-1) / (present.sum(-1) - 1).clamp(min=1)
