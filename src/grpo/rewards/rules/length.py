"""Reward for the length of the reasoning."""

from __future__ import annotations

import re
from collections.abc import Sequence

from grpo.errors import ConfigError
from grpo.rewards.texts import Completion, completion_texts
from grpo.tasks.answers import FORMATS, find_format

__all__ = ["reasoning_length"]

# Scripts written without spaces count by the character.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def reasoning_length(
    completions: Sequence[Completion],
    opened_tags: Sequence[str] | None = None,
    *,
    format: str = "answer_tags",
    target: int = 100,
    limit: int | None = None,
    reward: float = 0.5,
) -> list[float | None]:
    """Return a reward for the number of words in each completion's reasoning block.

    It rises in proportion from 0 to `reward` at `target` words, stays there up to `limit` (by default
    4 × `target`), falls in proportion to 0 at 2 × `limit` and stays 0, so endless text earns nothing. A
    repeated run of three words counts once, so repetition earns nothing either. The block must be opened once and
    closed once. Each Chinese, Japanese or Korean character is a word.

    Raises:
        ConfigError: the format has no reasoning block, or `limit` is below `target`.
    """
    blocks = find_format(format).blocks
    if not blocks:
        tagged = sorted(other.name for other in FORMATS.values() if other.blocks)
        raise ConfigError(f"format {format!r} has no reasoning block to measure: use one of {tagged}")
    last = 4 * target if limit is None else limit
    if not 1 <= target <= last:
        raise ConfigError(
            f"reasoning_length got target={target}, limit={limit}: it needs 1 <= target <= limit, in words"
        )
    texts = completion_texts(completions, opened_tags)
    return [reward * _share(_fresh_words(text, blocks[0]), target, last) for text in texts]


def _fresh_words(text: str, block: str) -> int:
    """Return the number of words in the block that end a run of three not seen before in it."""
    opening, closing = f"<{block}>", f"</{block}>"
    start, stop = text.find(opening), text.find(closing)
    if text.count(opening) != 1 or text.count(closing) != 1 or stop < start:
        return 0
    words = _WORD.findall(text[start + len(opening) : stop].casefold())
    padded = ["", "", *words]
    return len(set(zip(padded, padded[1:], words, strict=False)))


def _share(words: int, target: int, limit: int) -> float:
    return max(0.0, min(1.0, words / target, 2 - words / limit))
