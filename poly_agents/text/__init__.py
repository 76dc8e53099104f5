"""Text -> ids -> tokens: turns joined to one text, tokenizers, padding, special tokens."""
