"""Random streams without state: every draw is a function of the run's seed and of its purpose.

A resumed run therefore needs no saved generator to continue bit for bit, and the completions of a
prompt do not depend on the other prompts of the batch.
"""

from __future__ import annotations

import hashlib
import random

__all__ = ["derive_seed", "seed_everything"]


def derive_seed(seed: int, *purpose: int | str) -> int:
    """Return a seed in [0, 2**63) that depends on `seed` and on every part of `purpose`.

    Example:
        >>> derive_seed(0, "rollout", 3, 1) == derive_seed(0, "rollout", 3, 1)
        True
        >>> derive_seed(0, "rollout", 31) == derive_seed(0, "rollout", 3, 1)
        False
    """
    text = repr((seed, *purpose)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (dropout, user reward functions)."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)
