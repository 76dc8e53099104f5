"""Heads of cross-encoders: the layers between states and score, as the classifiers of each model family have them.

linear        W                        Humeau et al. 2020
pooled        W tanh(V)                BERT, RoBERTa, XLM-R, CamemBERT, MPNet
gelu          W gelu(V)                ELECTRA, DeBERTa v2 and v3
relu          W relu(V)                DistilBERT
normed        W norm(gelu(V))          ModernBERT
"""

from torch import nn

ACTIVATIONS = {"linear": None, "pooled": nn.Tanh, "gelu": nn.GELU, "relu": nn.ReLU, "normed": nn.GELU}
HEADS = tuple(ACTIVATIONS)


def make(kind: str, width: int) -> nn.Sequential:
    """Make a new head, [N, D] -> [N, 1].

    Args:
        kind: one of `HEADS`.
        width: D.
    """
    layers: list[nn.Module] = []
    if activation := ACTIVATIONS[kind]:
        layers += [nn.Linear(width, width), activation()]
    if kind == "normed":
        layers.append(nn.LayerNorm(width, bias=False))
    return nn.Sequential(*layers, nn.Linear(width, 1))


def parts_with_weights(kind: str) -> list[int]:
    """Return the positions of a head's layers that have weights.

    >>> parts_with_weights("pooled")
    [0, 2]
    """
    return [position for position, layer in enumerate(make(kind, 1)) if list(layer.parameters())]
