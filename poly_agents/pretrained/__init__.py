"""Models that others trained: HuggingFace and sentence-transformers checkpoints, and models of ParlAI's own."""
