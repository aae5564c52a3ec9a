"""The embedded model: a directory in ordinary Hugging Face format, made by `scripts/build_tiny.py`."""

from __future__ import annotations

from pathlib import Path

__all__ = ["TINY_DIRECTORY"]

TINY_DIRECTORY = Path(__file__).parent
