"""The options of every ranker, and those of rankers whose encoders take a prompt."""

from dataclasses import dataclass
from typing import Self

from poly_agents.encoders.precision import PRECISIONS
from poly_agents.errors import InputError
from poly_agents.options import Options, flag, option

LARGEST = 2**16  # of every number; a typing error should not take all memory


@dataclass(frozen=True)
class RankerOptions(Options):
    """Options of every ranker."""

    backbone: str = option("minilm", "HuggingFace encoder by name or folder, or a model file; minilm is embedded")
    share_encoders: bool = option(True, "one encoder for contexts and candidates; false: one each, as in the papers")
    freeze_embeddings: bool = option(True, "do not train the word embeddings (Humeau et al. 2020, Table 3)")
    dropout: float = option(0.0, "dropout rate in training; any above 0 costs a seventh of the speed on CPU")
    precision: str = option(
        "auto",
        "number format of the encoder's matrix products; auto: bfloat16 if the processor multiplies it natively, else "
        "float32",
        PRECISIONS,
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.backbone:
            raise InputError("--backbone is empty; give a HuggingFace name, a folder or a model file")
        if not 0 <= self.dropout < 1:
            raise InputError(f"--dropout must be at least 0 and below 1, got {self.dropout}")
        for name, value in vars(self).items():
            if isinstance(value, int | float) and abs(value) > LARGEST:
                raise InputError(f"{flag(name)} must be at most {LARGEST:,}, got {value:,}")

    @property
    def source(self) -> str:
        """Return what the encoder and the tokenizer are loaded from."""
        return self.backbone

    @property
    def embeddings_stay(self) -> bool:
        """Tell whether the word embeddings are frozen."""
        return self.freeze_embeddings

    def over_decoder(self) -> Self:
        """Return these options for a backbone that reads from left to right, with what depends on that filled in.

        Raises:
            ValueError: an option needs states that know the whole text.
        """
        return self


@dataclass(frozen=True)
class PromptOptions(RankerOptions):
    """Options of rankers whose pretrained encoders may have been trained with a prompt before each text."""

    context_prompt: str = option(None, "text before each context, never truncated ('query: ')", fallback="")
    candidate_prompt: str = option(None, "text before each candidate, never truncated ('passage: ')", fallback="")
