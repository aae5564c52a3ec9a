"""Rewards for the answer itself: `int`, `correctness`, `last_integer` and `accuracy`.

`answer` is the data set's column of reference answers: texts, numbers, truth values, or lists of these, of which any
entry is right. A row without one gives None: not applicable.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from grpo.rewards.texts import Completion, completion_texts
from grpo.tasks.answers import find_format, normalise_number, plain_reference, same_answer, verify
from grpo.tasks.answers import last_integer as find_last_integer
from grpo.tasks.values import reference_texts

__all__ = ["ANSWER_REWARDS", "accuracy", "correctness", "integer_answer", "last_integer"]


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
        _any(same_answer(marked.extract(text), reference) for reference in references)
        for text, references in zip(completion_texts(completions), map(reference_texts, answer), strict=True)
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

    References that are not whole numbers do not count; a row with no other gives None.
    """
    verdicts = [
        _any(str(find_last_integer(text)) == reference for reference in references)
        for text, references in zip(completion_texts(completions), map(_whole_numbers, answer), strict=True)
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
        _any(verify(text, reference, answer_format=wanted).strict for reference in references)
        for text, references in zip(
            completion_texts(completions, opened_tags), map(reference_texts, answer), strict=True
        )
    ]
    return _rewards(verdicts, correct_reward, wrong_reward)


ANSWER_REWARDS = (accuracy, correctness, last_integer)
"""Rewards that compare with the column `answer`."""


def _rewards(verdicts: Sequence[bool | None], correct: float, wrong: float) -> list[float | None]:
    return [None if verdict is None else correct if verdict else wrong for verdict in verdicts]


def _any(verdicts: Iterable[bool]) -> bool | None:
    """Return whether one of the verdicts holds; None if there are none."""
    found = list(verdicts)
    return any(found) if found else None


def _whole_numbers(value: Any) -> list[str]:
    """Return those of the reference answers that are whole numbers, in plain digits."""
    return [number for text in reference_texts(value) if (number := _whole_number(plain_reference(text))) is not None]


def _whole_number(text: str | None) -> str | None:
    """Return a text that is one whole number in plain digits, and None for any other."""
    number = None if text is None else normalise_number(text)
    return number if number is not None and "." not in number else None
