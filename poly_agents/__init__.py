"""Rankers for ParlAI: score a dialogue context against many candidate responses.

Nothing heavy is imported here: this file runs at every interpreter start, because `poly_agents.pth` imports
`poly_agents.plugin`.
"""

from typing import TYPE_CHECKING, Any

from poly_agents import plugin

if TYPE_CHECKING:
    from poly_agents.models.textranker import TextRanker
    from poly_agents.text.turns import Dialogue

__version__ = "0.1.0"
__all__ = ["Dialogue", "load", "start"]

plugin.install_old_names()


def __getattr__(name: str) -> Any:
    """Import `Dialogue` when it is asked for."""
    if name != "Dialogue":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from poly_agents.text.turns import Dialogue

    return Dialogue


def load(model_file: str, precision: str = "auto") -> "TextRanker":
    """Load a trained model. Neither ParlAI nor a vector database is imported.

    Args:
        model_file: what was given to ParlAI as `-mf`. `zoo:poly_agents/NAME/model` is fetched first. An address of
            ParlAI's own zoo needs ParlAI, which fetches it.
        precision: of the encoder: auto (bfloat16 where the machine multiplies it natively), float32, bfloat16, float16.

    Raises:
        ValueError: a file is missing, damaged, or of another kind, or there is no such name. The message names it.

    >>> import poly_agents
    >>> model = poly_agents.load("models/poly/model")  # doctest: +SKIP
    >>> model.rank("how are you?", ["fine, and you?", "it is blue"])  # doctest: +SKIP
    """
    from poly_agents import zoo
    from poly_agents.models.textranker import TextRanker

    if str(model_file).startswith("zoo:") and not str(model_file).startswith(zoo.PREFIX):
        from poly_agents.agents.model_file import local
    else:
        from poly_agents.zoo import local
    return TextRanker.load(local(model_file), precision)


def start(
    agent: str,
    text_truncate: int | None = None,
    label_truncate: int | None = None,
    persona_share: float = 0.5,
    **options: Any,
) -> "TextRanker":
    """Make a ranker over pretrained weights, not yet trained.

    Args:
        agent: the name of the ranker: bi, cross, early, ed2lm, late, mix, poly, uni.
        text_truncate: tokens of a context that are kept, the newest ones; None: 360 (`early`: 250), or as many as the
            backbone has room for.
        label_truncate: tokens of a candidate that are kept, the first ones; None: 72, or as many as it has room for.
        persona_share: of the tokens of a context, what "your persona:" lines may take at most while turns are cut.
        options: those of the ranker, named as its flags: `backbone="intfloat/e5-small-v2"`, `poly_codes=16`.

    Raises:
        ValueError: there is no such ranker or option, an option or the checkpoint does not suit the ranker, or lengths
            that are given need more positions than the backbone has.

    >>> import poly_agents
    >>> model = poly_agents.start("bi")  # doctest: +SKIP
    """
    from poly_agents import rankers, zoo
    from poly_agents.models.textranker import TextRanker

    source = zoo.backbone(rankers.options_of(agent, options).source)
    return TextRanker.start(agent, source, text_truncate, label_truncate, persona_share, **options)
