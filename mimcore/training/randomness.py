"""Randomness as a pure function of (seed, purpose, step), so that resuming needs no state."""

import hashlib

from torch import Generator


def derive(seed: str, purpose: str, step: int = 0) -> int:
    """A 63-bit seed from a run's seed (such as ``s0``), what it is for, and the step."""
    text = f"{seed}/{purpose}/{step}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(seed: str, purpose: str, step: int = 0) -> Generator:
    """A CPU generator for one purpose at one step."""
    return Generator().manual_seed(derive(seed, purpose, step))
