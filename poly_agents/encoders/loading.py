"""Load a model of transformers, and tell what kind it is."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

from poly_agents.encoders.precision import attention
from poly_agents.errors import InputError, first_line

T5 = ("t5", "mt5", "umt5")  # families of encoder-decoders whose encoder is one of texts by itself


def load_pretrained(auto: type, source: str) -> nn.Module:
    """Load a model of transformers in float32.

    Args:
        auto: `AutoModel`, or another class that makes the model.
        source: HuggingFace name or folder.

    Raises:
        ValueError: the checkpoint is damaged or lacks weights. They are never filled with random numbers.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # loading takes a moment, and the bar would break up ParlAI's lines
    with load_report_held_back():
        try:
            model, report = auto.from_pretrained(
                source, dtype=torch.float32, attn_implementation=attention(), output_loading_info=True
            )
        except Exception as error:  # which one depends on the file and on the version of transformers
            raise InputError(f"the backbone {source} cannot be loaded: {first_line(error)}") from error
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise InputError(
            f"the checkpoint {source} lacks {len(missing)} weights, first {missing[0]!r}; give a complete one"
        )
    return model


def text_model(family: str) -> type:
    """Return the class of transformers that makes the encoder of a model family."""
    from transformers import AutoModel, AutoModelForTextEncoding

    return AutoModelForTextEncoding if family in T5 else AutoModel


def is_causal(model: nn.Module) -> bool:
    """Tell whether a model reads from left to right: the state of a token knows nothing of what comes after it."""
    from transformers.models.auto import modeling_auto

    if getattr(model.config, "is_encoder_decoder", False):
        return False  # every state knows the encoder's
    told = [module.is_causal for module in model.modules() if isinstance(getattr(module, "is_causal", None), bool)]
    if told:
        return any(told)
    family = model.config.model_type
    generates, fills_gaps = (
        family in names
        for names in (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    )
    return generates and not fills_gaps and family != "xlnet"  # which sees everything unless it generates


@contextmanager
def load_report_held_back() -> Iterator[None]:
    """Hold back the report of weights that transformers did not use or find. It is shown if loading fails.

    A checkpoint often has a head that no system here reads, and `load_pretrained` itself checks what is missing.
    """
    logger, held = logging.getLogger("transformers.modeling_utils"), []

    def passes(record: logging.LogRecord) -> bool:
        is_report = "LOAD REPORT" in record.getMessage()
        if is_report:
            held.append(record)
        return not is_report

    logger.addFilter(passes)
    try:
        yield
    except Exception:
        logger.removeFilter(passes)
        for record in held:
            logger.handle(record)
        raise
    finally:
        logger.removeFilter(passes)


def without_values() -> AbstractContextManager:
    """Return a context in which new modules get memory but no values. What is loaded next need not be drawn first."""
    from transformers.initialization import no_init_weights

    return no_init_weights()
