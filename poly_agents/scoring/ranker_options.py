"""The options of every ranker, and those of rankers whose encoders take a prompt."""

from dataclasses import dataclass

from poly_agents.encoders.precision import PRECISIONS
from poly_agents.options import Options, option


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

    @property
    def source(self) -> str:
        """Return what the encoder and the tokenizer are loaded from."""
        return self.backbone

    @property
    def embeddings_stay(self) -> bool:
        """Tell whether the word embeddings are frozen."""
        return self.freeze_embeddings


@dataclass(frozen=True)
class PromptOptions(RankerOptions):
    """Options of rankers whose pretrained encoders may have been trained with a prompt before each text."""

    context_prompt: str = option(None, "text before each context, never truncated ('query: ')", fallback="")
    candidate_prompt: str = option(None, "text before each candidate, never truncated ('passage: ')", fallback="")
