"""The process of a tested program: it carries out the requests of the process that keeps the tests.

It has no secrets: a program can find everything in this process, and can answer a request as it likes.
"""

from __future__ import annotations

import ast
import io
import operator
import os
import sys
import types
from json import dumps, loads
from typing import Any

from grpo.sandbox.unit_tests.plain_values import LONGEST, encode, encode_members

__all__ = ["OPERATIONS", "failure", "serve", "write_line"]

_MUTABLE = (list, dict, set, bytearray)


def _awaited(value: Any) -> Any:
    import asyncio

    return asyncio.run(value)


OPERATIONS: dict[str, Any] = {
    "getattr": getattr,
    "setattr": setattr,
    "await": _awaited,
    "__call__": lambda function, *arguments, **options: function(*arguments, **options),
    "__instancecheck__": lambda kind, value: isinstance(value, kind),
    "__enter__": lambda value: value.__enter__(),
    "__exit__": lambda value: value.__exit__(None, None, None),
    "__len__": len,
    "__iter__": iter,
    "__next__": next,
    "__bool__": bool,
    "__str__": str,
    "__repr__": repr,
    "__getitem__": operator.getitem,
    "__setitem__": operator.setitem,
    "__delitem__": operator.delitem,
    "__eq__": operator.eq,
    "__lt__": operator.lt,
    "__le__": operator.le,
}
"""Operations of a check on an object of the program, each under a name of its own or that of a method.

Arithmetic is not among them: an object that answers `value - 3` decides itself whether it is near 3.
"""


def serve(requests: int, replies: int, sender: int) -> None:
    """Carry out requests until their sender, a child of this process, ends; exit, or die of its signal.

    Args:
        requests: reading end of a pipe.
        replies: writing end of a pipe.
        sender: process id.
    """
    program = _Program(requests, replies)
    try:
        while program.carry_out_next():
            pass
        _, status = os.waitpid(sender, 0)
        if os.WIFSIGNALED(status):
            import signal

            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
            os.kill(os.getpid(), os.WTERMSIG(status))
    finally:
        os._exit(0)  # the program's threads must not delay the result


def failure(function: Any, *arguments: Any) -> str | None:
    """Return the exception of a call in one line; None when the call returned."""
    try:
        function(*arguments)
    except BaseException as error:
        return _described(error)
    return None


def _described(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:300]
    except BaseException:
        return type(error).__name__


class _Program:
    """The program's module, its objects that the tests refer to, and the channel to the tests."""

    def __init__(self, requests: int, replies: int) -> None:
        self._requests = os.fdopen(requests, "rb")
        self._replies = replies
        self._module = types.ModuleType("program")
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}
        sys.modules["program"] = self._module

    def carry_out_next(self) -> bool:
        """Carry out one request and send its reply; return False at the end of the requests."""
        line = self._requests.readline()
        if not line:
            return False
        request = loads(line)
        self._reply(request)
        return True

    def _reply(self, request: dict[str, Any]) -> None:
        reply: dict[str, Any] = {}
        try:
            reply = self._carried_out(request["kind"], request)
            text = dumps(reply | {"id": request["id"]})
        except BaseException as error:
            # The sender raises the first of these exceptions that is built in.
            kinds = [kind.__name__ for kind in type(error).__mro__]
            text = dumps({"error": _described(error), "kinds": kinds, "id": request["id"]})
        write_line(self._replies, text)

    def _carried_out(self, kind: str, request: dict[str, Any]) -> dict[str, Any]:
        names = vars(self._module)
        if kind == "load":
            _load(request["source"], self._module)
        elif kind in ("value", "members"):
            value = eval(compile(request["source"], "test", "eval"), names)
            shown = encode(value) if kind == "value" else encode_members(value)
            if len(dumps({"value": shown})) > LONGEST:
                raise ValueError("the value is too long")
            return {"value": shown}
        elif kind == "case":
            case, _, method = request["source"].partition(".")
            _run_case(names[case], method)
        elif kind == "name":
            return {"value": self._shown(names[request["name"]])}
        elif kind == "operation":
            return self._operation(request["name"], *self._received(request["arguments"]))
        else:
            exec(compile(request["source"], "test", "exec"), names)
        return {}

    def _operation(self, name: str, arguments: list[Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return the value of an operation, and the arguments that it has changed in place, by their positions."""
        before = {place: _contents(argument) for place, argument in enumerate(arguments) if type(argument) in _MUTABLE}
        value = self._shown(OPERATIONS[name](*arguments, **options))
        after = {place: _contents(arguments[place]) for place in before}
        changed = {place: content for place, content in after.items() if content and content != before[place]}
        return {"value": value, "changed": changed} if changed else {"value": value}

    def _received(self, data: str) -> Any:
        """Return arguments, where the program's own objects and the tests' functions were sent by their numbers."""
        import pickle  # here, because few tests need it

        class Unpickler(pickle.Unpickler):
            persistent_load = staticmethod(self._referred)

        return Unpickler(io.BytesIO(bytes.fromhex(data))).load()

    def _referred(self, reference: tuple[str, int]) -> Any:
        kind, number = reference
        if kind == "object":
            return self._objects[number]

        def function(*arguments: Any) -> Any:
            call = {"function": number, "arguments": [self._shown(argument) for argument in arguments]}
            write_line(self._replies, dumps(call))
            while "returned" not in (request := loads(self._requests.readline())):
                self._reply(request)  # the function calls the program
            if request["error"]:
                raise Exception(request["error"])
            return self._received(request["returned"])

        return function

    def _shown(self, value: Any) -> Any:
        """Return a plain value as JSON; another as its kind and number."""
        try:
            return encode(value)
        except (TypeError, ValueError):
            pass
        number = self._numbers.setdefault(id(value), len(self._objects))
        if number == len(self._objects):
            self._objects.append(value)
        kind = {types.CoroutineType: "coroutine", types.ModuleType: "module"}.get(type(value), "object")
        return [kind, number]


def write_line(pipe: int, line: str) -> None:
    data = line.encode() + b"\n"
    while data:
        data = data[os.write(pipe, data) :]


def _contents(value: Any) -> Any:
    try:
        return encode(value)
    except (TypeError, ValueError):
        return None


def _load(source: str, module: types.ModuleType) -> None:
    """Run a program; the value of an expression at its end becomes `solution`, unless the program has set that name."""
    tree = ast.parse(source, "program")
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        tree.body.pop()
    exec(compile(tree, "program", "exec"), vars(module))
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), "program", "eval"), vars(module))
        vars(module).setdefault("solution", value)


def _run_case(kind: Any, method: str) -> None:
    """Run one test of a unittest.TestCase; a skipped test has not passed."""
    import unittest

    result = unittest.TestResult()
    unittest.TestSuite([kind(method)]).run(result)
    problems = [text for _, text in [*result.errors, *result.failures]]
    if problems:
        raise AssertionError(problems[0].strip().splitlines()[-1])
    if result.testsRun != 1 or result.skipped or not result.wasSuccessful():
        raise AssertionError(f"{method} did not succeed")
