"""Rankers for ParlAI: score a dialogue context against many candidate responses.

Nothing heavy is imported here: this file runs at every interpreter start, because `poly_agents.pth` imports
`poly_agents.plugin`.
"""

__version__ = "0.1.0"


def load(model_file: str, precision: str = "auto"):
    """Open a trained model without ParlAI's loop.

        >>> import poly_agents
        >>> model = poly_agents.load("models/poly/model")       # doctest: +SKIP
        >>> model.rank("how are you?", ["fine, and you?", "it is blue"])  # doctest: +SKIP

    `model_file` is what was given to ParlAI as `-mf`, `zoo:poly_agents/NAME/model` too. See
    `poly_agents.models.textranker.TextRanker` for what comes back.
    """
    from poly_agents.models.textranker import TextRanker

    return TextRanker.load(model_file, precision)
