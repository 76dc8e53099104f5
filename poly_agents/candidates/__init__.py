"""Candidates: the pools of a batch, encodings in memory and on disk, and search among millions of them."""
