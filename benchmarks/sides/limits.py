"""The limits of the machine: products and memory reads a second."""

import torch

from sides.side import Run, Side


class Products32(Side):
    """Products of square matrices in float32. Work is counted in FLOP."""

    dtype = torch.float32

    def encode(self, length: str) -> Run:
        size = 512 if self.quick else 2048
        left, right = torch.randn(2, size, size).to(self.dtype)
        for _ in range(3):
            left @ right

        def multiply(turn: int) -> int:
            for _ in range(4):
                left @ right
            return 4 * 2 * size**3

        return multiply


class Products16(Products32):
    """Products of square matrices in bfloat16."""

    dtype = torch.bfloat16


class Memory(Side):
    """Reads of a matrix much larger than any cache. Work is counted in bytes."""

    def encode(self, length: str) -> Run:
        pool, vector = torch.ones(100_000, 768), torch.ones(768)

        def read(turn: int) -> int:
            torch.mv(pool, vector)
            return pool.nbytes

        return read
