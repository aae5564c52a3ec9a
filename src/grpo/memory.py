"""How much memory the process has used."""

from __future__ import annotations

import sys

__all__ = ["peak_memory_mb"]


def peak_memory_mb(device: str) -> float:
    """Return the peak in MiB: allocated on the GPU when `device` is one, else resident in this process."""
    if device.startswith("cuda"):
        import torch

        return float(torch.cuda.max_memory_allocated(device) / 2**20)
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
