"""Rewards for a format: `<reasoning>…<answer>…`, or `<think>…` followed by the answer.

A tag that the prompt has opened counts as written by the completion that closes it (`opened_tags`).
"""

from __future__ import annotations

from collections.abc import Sequence

from grpo.errors import ConfigError
from grpo.rewards.texts import Completion, completion_texts
from grpo.tasks.answers import FORMATS, AnswerFormat, find_format

__all__ = ["soft_format", "strict_format", "think_soft_format", "think_strict_format", "think_xmlcount", "xmlcount"]


def strict_format(
    completions: Sequence[Completion],
    opened_tags: Sequence[str] | None = None,
    *,
    format: str = "answer_tags",
    reward: float = 0.5,
) -> list[float | None]:
    """Return `reward` for each completion that is the format and nothing else, 0 for others.

    Every tag stands once and in order, no block is empty, and only white space surrounds the blocks
    (for `think_tags`: the answer follows). Unlike the common GSM8K recipe, line breaks are free.
    """
    tagged = _tagged(format)
    return [reward * tagged.is_strict(text) for text in completion_texts(completions, opened_tags)]


def soft_format(
    completions: Sequence[Completion],
    opened_tags: Sequence[str] | None = None,
    *,
    format: str = "answer_tags",
    reward: float = 0.5,
) -> list[float | None]:
    """Return `reward` for each completion in which the format's tags occur in order, with any text around them."""
    tagged = _tagged(format)
    return [reward * tagged.is_soft(text) for text in completion_texts(completions, opened_tags)]


def xmlcount(
    completions: Sequence[Completion],
    opened_tags: Sequence[str] | None = None,
    *,
    format: str = "answer_tags",
    reward: float = 0.5,
    penalty_per_character: float = 0.001,
) -> list[float | None]:
    """Return for each completion an equal share of `reward` for every tag that stands exactly once.

    With `answer_tags` that is 0.125 for each of four tags; each character after the last `</answer>`,
    white space at the ends aside, then costs `penalty_per_character`. With `think_tags` it is 0.25 for
    each of two, and the text after `</think>` is the answer and costs nothing. Never below 0: in the
    common GSM8K recipe the penalty has no bound, and one long completion dominates its group's standard deviation.
    """
    tagged = _tagged(format)
    return [_count(text, tagged, reward, penalty_per_character) for text in completion_texts(completions, opened_tags)]


def think_strict_format(
    completions: Sequence[Completion], opened_tags: Sequence[str] | None = None, *, reward: float = 0.5
) -> list[float | None]:
    """Return `strict_format` for `think_tags`."""
    return strict_format(completions, opened_tags, format="think_tags", reward=reward)


def think_soft_format(
    completions: Sequence[Completion], opened_tags: Sequence[str] | None = None, *, reward: float = 0.5
) -> list[float | None]:
    """Return `soft_format` for `think_tags`."""
    return soft_format(completions, opened_tags, format="think_tags", reward=reward)


def think_xmlcount(
    completions: Sequence[Completion], opened_tags: Sequence[str] | None = None, *, reward: float = 0.5
) -> list[float | None]:
    """Return `xmlcount` for `think_tags`."""
    return xmlcount(completions, opened_tags, format="think_tags", reward=reward)


def _tagged(name: str) -> AnswerFormat:
    """Return the format of that name.

    Raises:
        ConfigError: there is no such format, or it has no tags.
    """
    found = find_format(name)
    if not found.blocks:
        tagged = sorted(other.name for other in FORMATS.values() if other.blocks)
        raise ConfigError(f"format {name!r} has no tags to reward: use one of {tagged}")
    return found


def _count(text: str, tagged: AnswerFormat, reward: float, penalty: float) -> float:
    tags = tagged.tags
    counted = reward * sum(text.count(tag) == 1 for tag in tags) / len(tags)
    if not tagged.answer_after:
        _, closing, after = text.rpartition(tags[-1])
        counted -= penalty * len(after.strip()) if closing else 0.0
    return max(0.0, counted)
