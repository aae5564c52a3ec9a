"""Text of others, made fit to be sent, kept and shown."""

from __future__ import annotations

__all__ = ["first_words", "whole_characters"]


def whole_characters(text: str) -> str:
    r"""Return the text with a question mark for each half of a character, which UTF-8 cannot hold.

    Byte-level tokens and JSON's escapes can leave such halves.

    Example:
        >>> whole_characters("fine \ud83d")
        'fine ?'
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def first_words(text: str, longest: int) -> str:
    """Return the text in one line, cut after `longest` characters.

    Example:
        >>> first_words("No such\\nmodel here", 10)
        'No such m…'
    """
    line = " ".join(whole_characters(text).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
