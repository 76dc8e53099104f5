"""The transformer of ParlAI's own agents as a HuggingFace model, in its variants aiayn, xlm, bart and prelayernorm.

    h_0 = norm_e(scale E[token] + P[position] + S[segment])
    h'  = norm_1(h + attention(h)),          h = norm_2(h' + feed(h'))              aiayn, xlm, bart
    h'  = h + attention(norm_1(h)),          h = h' + feed(norm_2(h'))              prelayernorm

aiayn has no norm_e; prelayernorm has it after the last layer instead. The last norm multiplies its output by ParlAI's
`--output-scaling`. The parts of a layer are named as in `encoders.layers.Layer`, so every ranker can run them.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutput

from poly_agents.encoders import attention, layers


class TransformerConfig(PretrainedConfig):
    """Configuration of a post-norm encoder."""

    model_type = "parlai"

    def __init__(
        self,
        vocab_size: int = 1,
        hidden_size: int = 2,
        num_hidden_layers: int = 1,
        num_attention_heads: int = 1,
        intermediate_size: int = 1,
        hidden_act: str = "relu",
        max_position_embeddings: int = 1,
        learnt_positions: bool = True,
        type_vocab_size: int = 0,
        embeddings_norm: bool = True,
        embeddings_scale: float = 1.0,
        output_scale: float = 1.0,
        layer_norm_eps: float = 1e-5,
        **general,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        self.learnt_positions = learnt_positions
        self.type_vocab_size = type_vocab_size
        self.embeddings_norm = embeddings_norm
        self.embeddings_scale = embeddings_scale
        self.output_scale = output_scale
        self.layer_norm_eps = layer_norm_eps
        super().__init__(**general)


class PreNormConfig(TransformerConfig):
    """Configuration of a pre-norm encoder. `embeddings_norm` is not used."""

    model_type = "parlai-prenorm"

    def __init__(self, **given):  # without it transformers generates another constructor
        super().__init__(**given)


class ScaledEmbedding(nn.Embedding):
    """An embedding multiplied by a number."""

    def __init__(self, count: int, width: int, scale: float):
        super().__init__(count, width)
        self.scale = scale

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) * self.scale


class ScaledNorm(nn.LayerNorm):
    """A layer norm whose output is multiplied by a number."""

    def __init__(self, width: int, eps: float, scale: float):
        super().__init__(width, eps)
        self.scale = scale

    def forward(self, states: Tensor) -> Tensor:
        return super().forward(states) * self.scale


class Embeddings(nn.Module):
    """The sum of word, position and segment embeddings, with or without a norm."""

    def __init__(self, config: TransformerConfig, norm: bool):
        super().__init__()
        width = config.hidden_size
        self.words = ScaledEmbedding(config.vocab_size, width, config.embeddings_scale)
        self.positions = nn.Embedding(config.max_position_embeddings, width)
        self.positions.weight.requires_grad_(config.learnt_positions)
        self.segments = nn.Embedding(config.type_vocab_size, width) if config.type_vocab_size else None
        self.norm = nn.LayerNorm(width, config.layer_norm_eps) if norm else nn.Identity()
        self.dropout = nn.Dropout(0.0)

    def forward(
        self,
        input_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Embed ids [N, L], or finish the embeddings of words [N, L, D] -> [N, L, D]."""
        states = self.words(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = torch.arange(states.shape[1], device=states.device)
        states = states + self.positions(position_ids)
        if self.segments is not None:
            states = states + (self.segments.weight[0] if token_type_ids is None else self.segments(token_type_ids))
        return self.dropout(self.norm(states))


class PostNormLayer(nn.Module):
    """A layer that normalises the sum of its input and output."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        width, wide = config.hidden_size, config.intermediate_size
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.attention_norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.up, self.activation, self.down = nn.Linear(width, wide), ACT2FN[config.hidden_act], nn.Linear(wide, width)
        self.output_norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.heads = config.num_attention_heads
        self.attend = fused_attention if config._attn_implementation == "sdpa" else attention.attend
        self.dropout = nn.Dropout(0.0)

    def forward(self, hidden_states: Tensor, mask: Tensor) -> Tensor:
        """Run the layer: states [N, L, D] and mask [N, 1, 1, L] -> [N, L, D]."""
        return layers.layer_output(self, self.attended(hidden_states, mask), hidden_states, self.dropout_now)

    def attended(self, states: Tensor, mask: Tensor) -> Tensor:
        """Run attention without its output map: states [N, L, D] and mask [N, 1, 1, L] -> merged heads [N, L, D]."""
        queries, keys, values = (
            attention.split(part(states), self.heads) for part in (self.query, self.key, self.value)
        )
        return attention.merge(self.attend(queries, attention.KeysValues(keys, values, mask), self.dropout_now))

    @property
    def dropout_now(self) -> float:
        """Return the dropout of this run: 0 outside of training."""
        return self.dropout.p if self.training else 0.0


def fused_attention(queries: Tensor, context: attention.KeysValues, dropout: float) -> Tensor:
    """Attend as `attention.attend` does, by torch's fused kernel."""
    return scaled_dot_product_attention(queries, context.keys, context.values, context.mask, dropout)


class PreNormLayer(PostNormLayer):
    """A layer that normalises the input of attention and of the feed-forward network."""

    def forward(self, hidden_states: Tensor, mask: Tensor) -> Tensor:
        attended = self.out(self.attended(self.attention_norm(hidden_states), mask))
        states = hidden_states + self.dropout(attended)
        return states + self.dropout(self.down(self.activation(self.up(self.output_norm(states)))))


class Transformer(PreTrainedModel):
    """A post-norm encoder."""

    config_class = TransformerConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    layer = PostNormLayer

    def __init__(self, config: TransformerConfig):
        super().__init__(config)
        self.embeddings = Embeddings(config, self.norms_embeddings(config))
        self.layers = nn.ModuleList(self.layer(config) for _ in range(config.num_hidden_layers))
        self.scale_output(ScaledNorm(config.hidden_size, config.layer_norm_eps, config.output_scale))
        self.post_init()

    @staticmethod
    def norms_embeddings(config: TransformerConfig) -> bool:
        """Tell whether the embeddings are normalised."""
        return config.embeddings_norm

    def scale_output(self, norm: ScaledNorm) -> None:
        """Put the last norm of the encoder in its place."""
        self.layers[-1].output_norm = norm

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.words

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings.words = value

    def finish(self, states: Tensor) -> Tensor:
        """Apply what comes after the last layer."""
        return states

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> BaseModelOutput:
        """Run the encoder: ids (or embeddings of words), mask and segments [N, L] -> states [N, L, D]."""
        states = self.embeddings(input_ids, token_type_ids, inputs_embeds=inputs_embeds)
        mask = attention_mask.bool()[:, None, None]  # [N, 1, 1, L]
        for layer in self.layers:
            states = layer(states, mask)
        return BaseModelOutput(self.finish(states))


class PreNormTransformer(Transformer):
    """A pre-norm encoder, with a norm after its last layer."""

    config_class = PreNormConfig
    layer = PreNormLayer

    @staticmethod
    def norms_embeddings(config: TransformerConfig) -> bool:
        return False

    def scale_output(self, norm: ScaledNorm) -> None:
        self.norm = norm

    def finish(self, states: Tensor) -> Tensor:
        return self.norm(states)


def register() -> None:
    """Register these models with transformers, which then finds them by the `model_type` of a configuration."""
    for kind in (Transformer, PreNormTransformer):
        AutoConfig.register(kind.config_class.model_type, kind.config_class, exist_ok=True)
        AutoModel.register(kind.config_class, kind, exist_ok=True)
