"""Rewards for the answer itself: `int`, `correctness`, `last_integer` and `accuracy`.

`answer` is the data set's column of reference answers. A row without one gives None: not
applicable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from grpo.rewards.texts import Completion, completion_texts
from grpo.tasks.answers import find_format, normalise_number, plain_reference, same_answer, verify
from grpo.tasks.answers import last_integer as find_last_integer

__all__ = ["accuracy", "correctness", "integer_answer", "last_integer"]


def integer_answer(
    completions: Sequence[Completion], *, format: str = "answer_tags", reward: float = 0.5
) -> list[float | None]:
    """Return `reward` for each completion whose marked answer is a whole number and nothing else, 0 for others."""
    marked = find_format(format)
    return [reward * (_whole_number(marked.extract(text)) is not None) for text in completion_texts(completions)]


def correctness(
    completions: Sequence[Completion],
    answer: Sequence[Any],
    *,
    format: str = "answer_tags",
    correct_reward: float = 2.0,
    wrong_reward: float = 0.0,
) -> list[float | None]:
    """Return `correct_reward` where the marked answer equals the reference, else `wrong_reward`.

    The rest of the format does not matter; where several answers are marked, the last one counts.
    """
    marked = find_format(format)
    verdicts = [
        None if reference is None else same_answer(marked.extract(text), reference)
        for text, reference in zip(completion_texts(completions), map(_reference, answer), strict=True)
    ]
    return _rewards(verdicts, correct_reward, wrong_reward)


def last_integer(
    completions: Sequence[Completion],
    answer: Sequence[Any],
    *,
    correct_reward: float = 1.0,
    wrong_reward: float = 0.0,
) -> list[float | None]:
    """Return `correct_reward` where the last whole number of the text equals the reference, else `wrong_reward`.

    A reference that is not a whole number gives None.
    """
    verdicts = [
        None if wanted is None else str(find_last_integer(text)) == wanted
        for text, wanted in zip(completion_texts(completions), map(_whole_number, answer), strict=True)
    ]
    return _rewards(verdicts, correct_reward, wrong_reward)


def accuracy(
    completions: Sequence[Completion],
    answer: Sequence[Any],
    opened_tags: Sequence[str] | None = None,
    *,
    format: str = "answer_tags",
    correct_reward: float = 1.0,
    wrong_reward: float = 0.0,
) -> list[float | None]:
    """Return `correct_reward` where the strict verdict holds (in the format, and right), else `wrong_reward`."""
    wanted = find_format(format)
    verdicts = [
        None if reference is None else verify(text, reference, answer_format=wanted).strict
        for text, reference in zip(completion_texts(completions, opened_tags), map(_reference, answer), strict=True)
    ]
    return _rewards(verdicts, correct_reward, wrong_reward)


def _rewards(verdicts: Sequence[bool | None], correct: float, wrong: float) -> list[float | None]:
    return [None if verdict is None else correct if verdict else wrong for verdict in verdicts]


def _reference(value: Any) -> str | None:
    """Return a reference answer as text; None where there is none (None, NaN or an empty string)."""
    if isinstance(value, float):
        return None if math.isnan(value) else f"{Decimal(repr(float(value))):f}"
    text = "" if value is None else str(value)
    return text if text.strip() else None


def _whole_number(value: Any) -> str | None:
    """Return a value that is one whole number in plain digits, and None for any other."""
    text = _reference(value)
    number = None if text is None else normalise_number(plain_reference(text))
    return number if number is not None and "." not in number else None
