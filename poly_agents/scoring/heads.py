"""Heads of cross-encoders: the layers between states and score, as the classifiers of each model family have them.

linear        W                        Humeau et al. 2020
pooled        W tanh(V)                BERT, RoBERTa, XLM-R, CamemBERT, MPNet
gelu          W gelu(V)                ELECTRA, DeBERTa v2 and v3
relu          W relu(V)                DistilBERT
normed        W norm(gelu(V))          ModernBERT
"""

from torch import nn

BETWEEN = {
    "linear": lambda width: [],
    "pooled": lambda width: [nn.Linear(width, width), nn.Tanh()],
    "gelu": lambda width: [nn.Linear(width, width), nn.GELU()],
    "relu": lambda width: [nn.Linear(width, width), nn.ReLU()],
    "normed": lambda width: [nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, bias=False)],
}
HEADS = tuple(BETWEEN)


def make(kind: str, width: int) -> nn.Sequential:
    """Make a new head, [N, D] -> [N, 1]."""
    return nn.Sequential(*BETWEEN[kind](width), nn.Linear(width, 1))


def parts_with_weights(kind: str) -> list[int]:
    """Return the numbers of a head's parts that have weights.

    >>> parts_with_weights("pooled")
    [0, 2]
    """
    return [number for number, part in enumerate(make(kind, 1)) if list(part.parameters())]
