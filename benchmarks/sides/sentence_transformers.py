"""sentence-transformers with the same MiniLM."""

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer, util
from torch.nn.functional import normalize

from poly_agents import zoo
from sides.side import LONG, Run, Side, with_separators


class SentenceTransformers(Side):
    """sentence-transformers in float32, its default."""

    precision = torch.float32

    def encoder(self) -> SentenceTransformer:
        """Load MiniLM as a bi-encoder."""
        model = SentenceTransformer(zoo.backbone("minilm"), device="cpu", model_kwargs={"dtype": self.precision})
        model.max_seq_length = LONG + 2
        return model

    def cross_encoder(self) -> CrossEncoder:
        """Load MiniLM as a cross-encoder. Its head is random."""
        own = {"dtype": self.precision}
        return CrossEncoder(zoo.backbone("minilm"), num_labels=1, device="cpu", max_length=256, model_kwargs=own)

    def encode(self, length: str) -> Run:
        """Encode candidates."""
        model = self.encoder()
        return lambda turn: len(model.encode(self.texts(length, turn), show_progress_bar=False))

    def chat(self, kind: str) -> Run:
        """Find the best candidate of the pool for one context a turn."""
        model = self.encoder()
        pool = normalize(torch.load(self.folder / "pool.pt"), dim=-1).to(self.precision)

        def reply(turn: int) -> int:
            context = with_separators(self.context(turn))
            query = model.encode([context], convert_to_tensor=True, show_progress_bar=False)
            return len(util.semantic_search(query, pool, top_k=1, score_function=util.dot_score))

        return reply

    def pairs(self, kind: str) -> Run:
        """Score one context with 100 candidates a turn."""
        model = self.cross_encoder()

        def predict(turn: int) -> int:
            context = with_separators(self.context(turn))
            return len(model.predict([(context, c) for c in self.candidates(turn)], show_progress_bar=False))

        return predict


class SentenceTransformers16(SentenceTransformers):
    """sentence-transformers in bfloat16."""

    precision = torch.bfloat16
