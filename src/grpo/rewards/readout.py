"""What a reward function returned → numbers, "not applicable" and failures; and how failures are told."""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import numbers
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence, Set, Sized
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

__all__ = [
    "LARGEST_FLOAT32",
    "Failed",
    "Reading",
    "RemoteError",
    "TokenRewards",
    "in_one_line",
    "origin",
    "read_rewards",
    "reward_sum",
]

_PACKAGE = str(Path(__file__).resolve().parents[1])
_IMPORTLIB = str(Path(importlib.__file__).parent)
LARGEST_FLOAT32 = 3.4028234663852886e38
_LONGEST_MESSAGE = 300

TokenRewards: TypeAlias = tuple[float | None, ...]


class RemoteError(Exception):
    """What a function raised in a process of its own.

    Attributes:
        line: type and message, as `in_one_line` has them.
        place: where it comes from, as `origin` has it.
        trace: the traceback as text.
    """

    def __init__(self, line: str, place: str | None, trace: str) -> None:
        super().__init__(line, place, trace)
        self.line = line
        self.place = place
        self.trace = trace

    def __str__(self) -> str:
        return f"{self.line}\n{self.trace}"

    @classmethod
    def of(cls, error: BaseException, function: Callable[..., Any] | None = None) -> RemoteError:
        """Return what is to be told of `error`; unlike the exception itself, it can always be sent."""
        return cls(in_one_line(error), origin(error, function), "".join(traceback.format_exception(error)))


@dataclass(frozen=True, slots=True)
class Failed:
    """A completion for which a function gave no usable value, and why."""

    error: BaseException


Reading: TypeAlias = float | TokenRewards | Failed | None
"""One completion's reward, its rewards token by token, a failure, or None: not applicable."""


def read_rewards(returned: Any, num_tokens: Sequence[int]) -> list[Reading]:
    """Return one reading a completion from what a reward function returned.

    Accepted are lists, tuples, tensors, arrays and other iterables of numbers (booleans included) and
    None; in place of a number, a list with one number or None for each token of the completion, or an
    exception, which says that this completion could not be scored, and why.
    Exceptions, NaN, infinity and what does not fit float32 fail for their own completion only.

    Args:
        num_tokens: length of each completion.

    Raises:
        TypeError: it is no sequence of rewards.
        ValueError: it is too long or too short.
    """
    count = len(num_tokens)
    values = returned.tolist() if hasattr(returned, "tolist") else returned
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes, Mapping, Set)):
        raise TypeError(f"returned {_kind(returned)}, not a list of {count} rewards")
    values = list(itertools.islice(values, count + 1))  # it may have no end
    if len(values) != count:
        found = len(returned) if isinstance(returned, Sized) else "more" if len(values) > count else len(values)
        raise ValueError(f"returned {found} rewards for {count} completions")
    return [_read(value, length) for value, length in zip(values, num_tokens, strict=True)]


def _read(value: Any, num_tokens: int) -> Reading:
    if isinstance(value, BaseException):
        return Failed(value)
    if hasattr(value, "tolist"):
        value = value.tolist()
    try:
        if not isinstance(value, (list, tuple)):
            return _number(value)
        if len(value) != num_tokens:
            raise ValueError(f"{len(value)} token rewards for {num_tokens} tokens")
        rewards = tuple(_number(entry) for entry in value)
        return None if all(reward is None for reward in rewards) else rewards
    except (TypeError, ValueError, OverflowError) as error:
        return Failed(error)


def reward_sum(reading: Reading) -> float | None:
    """Return the number that a reading stands for, of token rewards their sum; None where there is none."""
    if isinstance(reading, tuple):
        return sum(reward for reward in reading if reward is not None)
    return None if isinstance(reading, Failed) else reading


def _number(value: Any) -> float | None:
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


def in_one_line(error: BaseException) -> str:
    """Return an exception's type and message without line breaks, at most some 300 characters."""
    if isinstance(error, RemoteError):
        return error.line
    try:
        message = " ".join(str(error).split())
    except Exception:
        message = "(its message cannot be read)"
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[: _LONGEST_MESSAGE - 1]}…"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def origin(error: BaseException, function: Callable[..., Any] | None = None) -> str | None:
    """Return as `file:line` where an exception comes from in the user's code; None when that is unknown.

    That is the innermost line in the function's own file, else the innermost line outside this package,
    else where the function is defined.
    """
    if isinstance(error, RemoteError):
        return error.place
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    code = _code(function)
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [place for place in frames if code is not None and place[0] == code.co_filename]
    others = [place for place in frames if not place[0].startswith((_PACKAGE, "<frozen", _IMPORTLIB))]
    if own or others:
        file, line = (own or others)[-1]
        return f"{file}:{line}"
    return None if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def _code(function: Callable[..., Any] | None) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    if function is None:
        return None
    function = inspect.unwrap(function)
    if not hasattr(function, "__code__"):
        function = getattr(type(function), "__call__", None)  # noqa: B004
    return getattr(function, "__code__", None)
