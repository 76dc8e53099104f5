"""ParlAI's own bi-, poly- and cross-encoder, with MiniLM's weights copied into them.

BERT is ParlAI's transformer of the variant `xlm`, with learned positions and segments. The agents use MiniLM's
tokenizer. The cross-encoder reads a candidate without a second [CLS], so that every side reads the same ids. On both
sides contexts and candidates have an encoder each, and word embeddings are not trained.
"""

import torch
from parlai.agents.transformer.biencoder import BiencoderAgent
from parlai.agents.transformer.crossencoder import CrossencoderAgent
from parlai.agents.transformer.polyencoder import PolyencoderAgent
from torch import nn
from transformers import AutoModel

from poly_agents import zoo
from poly_agents.agents.dictionary import TokenizerDictionary
from sides.side import LONG, ParlaiLoop, Run


class Dictionary(TokenizerDictionary):
    """MiniLM's tokenizer. ParlAI frames a text with its start and end token."""

    def __init__(self, opt, shared=None):
        super().__init__(opt, shared)
        self.start_token, self.end_token = "[CLS]", "[SEP]"


def bert() -> nn.Module:
    """Load MiniLM with transformers."""
    return AutoModel.from_pretrained(zoo.backbone("minilm"), dtype=torch.float32).eval()


def copy_minilm(*encoders: nn.Module) -> None:
    """Copy MiniLM's weights into encoders of ParlAI, and freeze their word embeddings."""
    model = bert()
    for encoder in encoders:
        below = model.embeddings
        pairs = [
            (encoder.embeddings, below.word_embeddings),
            (encoder.position_embeddings, below.position_embeddings),
            (encoder.segment_embeddings, below.token_type_embeddings),
            (encoder.norm_embeddings, below.LayerNorm),
        ]
        for own, layer in zip(encoder.layers, model.encoder.layer, strict=True):
            attention = layer.attention
            pairs += [
                (own.attention.q_lin, attention.self.query),
                (own.attention.k_lin, attention.self.key),
                (own.attention.v_lin, attention.self.value),
                (own.attention.out_lin, attention.output.dense),
                (own.norm1, attention.output.LayerNorm),
                (own.ffn.lin1, layer.intermediate.dense),
                (own.ffn.lin2, layer.output.dense),
                (own.norm2, layer.output.LayerNorm),
            ]
        for own, theirs in pairs:
            own.load_state_dict(theirs.state_dict())
            if isinstance(own, nn.LayerNorm):
                own.eps = theirs.eps  # 1e-12 in BERT, 1e-5 in ParlAI, which would move the states by 0.003
        encoder.embeddings.weight.requires_grad_(False)


class ParlaiBi(BiencoderAgent):
    @staticmethod
    def dictionary_class():
        return Dictionary

    def build_model(self, states=None):
        model = super().build_model(states)
        copy_minilm(model.context_encoder, model.cand_encoder)
        return model


class ParlaiPoly(PolyencoderAgent):
    @staticmethod
    def dictionary_class():
        return Dictionary

    def build_model(self, states=None):
        model = super().build_model(states)
        copy_minilm(model.encoder_ctxt, model.encoder_cand)
        return model


class ParlaiCross(CrossencoderAgent):
    @staticmethod
    def dictionary_class():
        return Dictionary

    def build_model(self, states=None):
        model = super().build_model(states)
        copy_minilm(model.encoder)
        return model

    def score_candidates(self, batch, cand_vecs, cand_encs=None):
        return super().score_candidates(batch, cand_vecs[..., 1:], cand_encs)


class Parlai(ParlaiLoop):
    """ParlAI's agents."""

    def flags(self, kind, text, label):
        return (
            f"-m sides.parlai:Parlai{kind.capitalize()} --text-truncate {text} --label-truncate {label + 2} "
            "--embedding-size 384 --n-layers 6 --ffn-size 1536 --n-heads 12 --variant xlm --activation gelu "
            "--learn-positional-embeddings true --n-positions 512 --n-segments 2 --embeddings-scale false "
            f"--share-encoders false --learn-embeddings false --reduction-type {'first' if kind == 'cross' else 'mean'}"
        )

    def encode(self, length: str) -> Run:
        """Encode candidates."""
        agent = self.agent("bi", "-dt valid", label=LONG)

        def encode(turn: int) -> int:
            vectors = agent._make_candidate_encs(agent._make_candidate_vecs(self.texts(length, turn)))
            return len(vectors)

        return encode

    def stored(self, kind):
        return f"-mf {self.folder / kind}"  # ParlAI looks for ids and vectors of the pool beside this file
