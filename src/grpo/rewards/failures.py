"""Exceptions of reward functions in one line, with their place in the user's code."""

from __future__ import annotations

import functools
import importlib
import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["RemoteError", "describe_error", "error_location", "without_partial"]

_PACKAGE = str(Path(__file__).resolve().parents[1])
_IMPORTLIB = str(Path(importlib.__file__).parent)
_LONGEST_MESSAGE = 300
_SIGNALS_NEED_PROCESSES = "a time limit by signals works in a main thread only: give this reward `processes: 1`"


class RemoteError(Exception):
    """An exception from another process; unlike the original, it can always be pickled.

    Attributes:
        line: type and message, from `describe_error`.
        location: place in the user's code, from `error_location`.
        trace: the traceback as text.
    """

    def __init__(self, line: str, location: str | None, trace: str) -> None:
        super().__init__(line, location, trace)
        self.line = line
        self.location = location
        self.trace = trace

    def __str__(self) -> str:
        return f"{self.line}\n{self.trace}"

    @classmethod
    def of(cls, error: BaseException, function: Callable[..., Any] | None = None) -> RemoteError:
        """Return `error`, raised by `function`, in this form."""
        trace = "".join(traceback.format_exception(error))
        return cls(describe_error(error), error_location(error, function), trace)


def describe_error(error: BaseException) -> str:
    """Return an exception's type and message without line breaks, at most some 300 characters."""
    if isinstance(error, RemoteError):
        return error.line
    try:
        message = " ".join(str(error).split())
    except Exception:
        message = "(its message cannot be read)"
    if ("signal" in message and "main thread" in message) or "signal.alarm" in message:
        message = f"{_SIGNALS_NEED_PROCESSES} ({message})"
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[: _LONGEST_MESSAGE - 1]}…"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def error_location(error: BaseException, function: Callable[..., Any] | None = None) -> str | None:
    """Return the origin of an exception in the user's code as `file:line`; None when it is unknown.

    The origin is the innermost line in the function's own file, else the innermost line outside this package,
    else the definition of the function.
    """
    if isinstance(error, RemoteError):
        return error.location
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    code = _code(function)
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [frame for frame in frames if code is not None and frame[0] == code.co_filename]
    others = [frame for frame in frames if not frame[0].startswith((_PACKAGE, "<frozen", _IMPORTLIB))]
    if own or others:
        file, line = (own or others)[-1]
        return f"{file}:{line}"
    return None if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def _code(function: Callable[..., Any] | None) -> Any:
    if function is None:
        return None
    function = inspect.unwrap(without_partial(function))
    if not hasattr(function, "__code__"):
        function = getattr(type(function), "__call__", None)  # noqa: B004
    return getattr(function, "__code__", None)


def without_partial(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function inside any `functools.partial`."""
    while isinstance(function, functools.partial):
        function = function.func
    return function
