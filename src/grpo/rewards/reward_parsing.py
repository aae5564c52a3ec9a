"""Return values of reward functions → one float, token rewards, failure or None for each completion."""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Iterable, Mapping, Sequence, Set, Sized
from decimal import Decimal
from typing import Any

from grpo.rewards.output import Failure, RewardValue

__all__ = ["LARGEST_FLOAT32", "parse_rewards"]

LARGEST_FLOAT32 = 3.4028234663852886e38


def parse_rewards(returned: Any, num_tokens: Sequence[int]) -> list[RewardValue]:
    """Return one value a completion from the return value of a reward function.

    Accepted are lists, tuples, tensors, arrays and other iterables of numbers (booleans included) and
    None; in place of a number, a list with one number or None for each token of the completion, or an
    exception that explains why this completion has no reward.
    An exception, NaN, infinity or a number beyond float32 fails its own completion only.

    Args:
        num_tokens: length of each completion.

    Raises:
        TypeError: `returned` is no sequence of rewards.
        ValueError: it is too long or too short.
    """
    count = len(num_tokens)
    values = returned.tolist() if hasattr(returned, "tolist") else returned
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes, Mapping, Set)):
        raise TypeError(f"returned {_kind(returned)}, not a list of {count} rewards")
    values = list(itertools.islice(values, count + 1))  # an iterator may be endless
    if len(values) != count:
        found = len(returned) if isinstance(returned, Sized) else "more" if len(values) > count else len(values)
        raise ValueError(f"returned {found} rewards for {count} completions")
    return [_parse_value(value, length) for value, length in zip(values, num_tokens, strict=True)]


def _parse_value(value: Any, num_tokens: int) -> RewardValue:
    if isinstance(value, BaseException):
        return Failure(value)
    if hasattr(value, "tolist"):
        value = value.tolist()
    try:
        if not isinstance(value, (list, tuple)):
            return _parse_number(value)
        if len(value) != num_tokens:
            raise ValueError(f"{len(value)} token rewards for {num_tokens} tokens")
        rewards = tuple(_parse_number(entry) for entry in value)
        return None if all(reward is None for reward in rewards) else rewards
    except (TypeError, ValueError, OverflowError) as error:
        return Failure(error)


def _parse_number(value: Any) -> float | None:
    if value is None:
        return None
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, (numbers.Real, Decimal)):
        raise TypeError(f"reward is {_kind(value)}, not a number or None")
    number = float(value)
    if not abs(number) <= LARGEST_FLOAT32:
        raise ValueError(f"reward is {number}, not a finite number")
    return number


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
