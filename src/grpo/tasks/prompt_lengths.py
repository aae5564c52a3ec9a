"""Texts far longer than a limit of tokens, recognised without the tokens of the whole text.

A tokenizer takes some two hundred bytes of memory for each character, so a text of 20 MB would take gigabytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grpo.tasks.rows import Row

__all__ = ["enough_of", "without_overlong"]

_CHARACTERS_PER_TOKEN = 16
"""Characters for each token of the limit that are tokenised at first; few texts have so many."""

_LEAST = 4096


def enough_of(text: str, tokenizer: Any, limit: int, *, end: bool = False) -> str:
    """Return `text`, or a part of it that has more than twice `limit` tokens.

    The first `limit` tokens of that part are those of the whole text: a cut changes only the tokens beside it.

    Args:
        end: the part is the end of the text instead of its beginning, and has the same last tokens.
    """
    length = max(_LEAST, _CHARACTERS_PER_TOKEN * limit)
    while length < len(text):
        part = text[-length:] if end else text[:length]
        if len(tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]) > 2 * limit:
            return part
        length *= 2
    return text


def without_overlong(rows: Sequence[Row], tokenizer: Any, limit: int | None) -> list[Row]:
    """Return the rows whose prompts may have at most `limit` tokens, which only tokenising them shows."""
    if limit is None:
        return list(rows)
    return [row for row in rows if not any(_is_overlong(text, tokenizer, limit) for text in _texts(row))]


def _is_overlong(text: str, tokenizer: Any, limit: int) -> bool:
    return len(enough_of(text, tokenizer, limit)) < len(text)


def _texts(row: Row) -> list[str]:
    prompt = row.prompt
    return [prompt] if isinstance(prompt, str) else [str(message.get("content") or "") for message in prompt]
