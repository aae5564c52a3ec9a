"""The names and objects of a tested program, as the process that keeps the tests sees them.

A check that is run with these sends the arguments of each call to the program's process and gets a plain value back.
Nothing that comes back is executed or unpickled, and no object of the program decides about its own equality with a
plain value. A program sees the arguments of its calls, but neither the check nor the values that the check expects.
"""

from __future__ import annotations

import _thread
import builtins
import io
import json
import os
import sys
import types
from collections.abc import Callable
from typing import Any

from grpo.sandbox.unit_tests.plain_values import decode
from grpo.sandbox.unit_tests.program_process import OPERATIONS, write_line

__all__ = ["Link", "Names", "Proxy"]

_LONGEST_REPLY = 16_000_000
_FUNCTIONS = (types.FunctionType, types.MethodType)


class Link:
    """The channel to the program's process: one request at a time."""

    def __init__(self, requests: int, replies: int) -> None:
        """Take the writing end of the pipe of requests, and the reading end of that of replies."""
        self._requests = requests
        self._replies = os.fdopen(replies, "rb")
        self._lock = _thread.RLock()
        self._count = 0
        self._functions: list[Callable[..., Any]] = []
        self._proxies: dict[int, Proxy] = {}

    def ask(self, **request: Any) -> dict[str, Any]:
        """Return the reply to a request; this process ends when the program's process has ended."""
        with self._lock:
            self._count += 1
            number = self._count
            self._send(request | {"id": number})
            while True:
                reply = self._next_line()
                if "function" in reply:
                    self._send(self._called(reply))
                elif reply.get("id") == number:  # otherwise the program wrote it
                    return reply

    def operation(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Return the value of an operation in the program's process, or raise its exception.

        Raises:
            Exception: the first built-in kind of the exception that the operation raised.
        """
        reply = self.ask(kind="operation", name=name, arguments=self._packed((list(arguments), options)))
        for place, content in dict(reply.get("changed") or {}).items():
            _overwrite(arguments[int(place)], decode(content))
        return self._value(reply, name)

    def name(self, name: str) -> Any:
        """Return the value of a global name of the program.

        Raises:
            KeyError: the program has no such name.
        """
        reply = self.ask(kind="name", name=name)
        shown = reply.get("value")
        if isinstance(shown, list) and shown[:1] == ["module"] and name in sys.stdlib_module_names:
            return __import__(name)  # the check's own, which the program cannot change
        return self._value(reply, "name")

    def _send(self, message: dict[str, Any]) -> None:
        try:
            write_line(self._requests, json.dumps(message))
        except OSError:
            os._exit(0)

    def _next_line(self) -> dict[str, Any]:
        line = self._replies.readline(_LONGEST_REPLY)
        if not line.endswith(b"\n"):
            os._exit(0)
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return {}
        return message if isinstance(message, dict) else {}

    def _value(self, reply: dict[str, Any], operation: str) -> Any:
        if "error" in reply:
            error = _exception(reply)
            if isinstance(error, (StopIteration, StopAsyncIteration)) and operation != "__next__":
                raise RuntimeError("the program raised StopIteration, which would end a loop of the check")
            raise error
        return self._decoded(reply.get("value"))

    def _decoded(self, tagged: Any) -> Any:
        kind, content = tagged if isinstance(tagged, list) and len(tagged) == 2 else (None, 0)
        if kind not in ("object", "module", "coroutine"):
            return decode(tagged)
        proxy = self._proxies.setdefault(int(content), Proxy(self, int(content)))
        return _coroutine(self, proxy) if kind == "coroutine" else proxy

    def _packed(self, values: Any) -> str:
        """Return values in a pickle, with the program's objects and functions of the tests as references."""
        import pickle  # here, because few tests need it

        class Pickler(pickle.Pickler):
            persistent_id = staticmethod(self._reference)

        data = io.BytesIO()
        Pickler(data).dump(values)
        return data.getvalue().hex()

    def _reference(self, value: Any) -> tuple[str, int] | None:
        if type(value) is Proxy:
            return "object", hash(value)
        if type(value) in _FUNCTIONS:
            self._functions.append(value)
            return "function", len(self._functions) - 1
        return None

    def _called(self, call: dict[str, Any]) -> dict[str, Any]:
        """Return the result of one of the tests' functions that the program was given and calls."""
        try:
            function = self._functions[call["function"]]
            value = function(*map(self._decoded, call["arguments"]))
            return {"returned": self._packed(value), "error": None}
        except BaseException as error:
            return {"returned": "", "error": f"{type(error).__name__}: {error}"}


class Proxy:
    """An object of the program that is no plain value: its methods and operators run in the program's process."""

    __slots__ = ("_link", "_number")

    def __init__(self, link: Link, number: int) -> None:
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_number", number)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__name__":
            raise AttributeError(name)
        return self._link.operation("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._link.operation("setattr", self, name, value)

    def __hash__(self) -> int:
        return int(self._number)

    def __exit__(self, *_: object) -> None:
        self._link.operation("__exit__", self)  # its value would suppress a failed assert


def _method(name: str) -> Any:
    def method(self: Proxy, *arguments: Any, **options: Any) -> Any:
        return self._link.operation(name, self, *arguments, **options)

    def comparison(self: Proxy, other: Any) -> Any:
        return method(self, other) if isinstance(other, Proxy) else NotImplemented

    return comparison if name in ("__eq__", "__lt__", "__le__") else method


for _name in (name for name in OPERATIONS if name.startswith("__") and name != "__exit__"):
    setattr(Proxy, _name, _method(_name))


class Names(dict[str, Any]):
    """The global names of tests; a name that they do not define is the program's."""

    def __init__(self, link: Link) -> None:
        super().__init__(__name__="tests", __builtins__=builtins)
        self._link = link

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            raise KeyError(name)
        return self._link.name(name)


def _overwrite(value: Any, content: Any) -> None:
    if type(value) is not type(content):
        return
    if isinstance(value, (list, bytearray)):
        value[:] = content
    elif isinstance(value, (dict, set)):
        value.clear()
        value.update(content)


async def _coroutine(link: Link, proxy: Proxy) -> Any:
    return link.operation("await", proxy)


def _exception(reply: dict[str, Any]) -> BaseException:
    text = str(reply["error"])
    for name in reply.get("kinds") or ["Exception"]:
        kind = getattr(builtins, str(name), None)
        if isinstance(kind, type) and issubclass(kind, BaseException):
            return kind.__new__(kind, text.partition(": ")[2])
    return RuntimeError(text)
