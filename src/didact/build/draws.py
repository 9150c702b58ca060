"""Draws that follow from the seed and from what they are drawn for, never from the order in which they are asked."""

from __future__ import annotations

import hashlib


def number(seed: int, *what: object) -> int:
    """A number of 64 bits."""
    text = "\x1f".join(map(str, (seed, *what)))
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def share(seed: int, *what: object) -> float:
    """A number in [0, 1)."""
    return number(seed, *what) / 2**64


def one_of(n: int, seed: int, *what: object) -> int:
    """One of 0 .. n - 1."""
    return number(seed, *what) * n >> 64
