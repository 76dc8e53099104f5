"""Candidates: the pool of a batch, caches and stores of encoded candidates, and search among millions of them."""
