"""Numbers with their nouns in the singular or plural."""

from __future__ import annotations

__all__ = ["counted"]


def counted(count: int, noun: str) -> str:
    """Return a number with its noun.

    Example:
        >>> counted(1, "prompt"), counted(2000, "step")
        ('1 prompt', '2,000 steps')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
