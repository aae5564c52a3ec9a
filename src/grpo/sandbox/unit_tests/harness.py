"""What runs inside the sandbox to test a program: a script of its own, which imports nothing of the package.

It reads a program and steps of tests from stdin and writes, a JSON object a line, what each step gave. Values go out
as they are and are compared outside, so that a program cannot find out here what is expected of it.
"""

from __future__ import annotations

import ast
import json
import os
import sys
import types
from typing import Any

__all__ = ["LONGEST", "MOST_MEMBERS", "main"]

LONGEST = 200_000
"""Characters that the JSON of a value may have."""
MOST_MEMBERS = 100_000
_LARGEST = 1 << 53


def main() -> None:
    """Test the program that stdin holds."""
    order = json.load(sys.stdin)
    channel = os.dup(1)

    def tell(**facts: Any) -> None:
        data = json.dumps(facts).encode() + b"\n"
        while data:
            data = data[os.write(channel, data) :]

    tell(ready=True)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    module = types.ModuleType("program")
    sys.modules["program"] = module
    error = _failure(_load, order["program"], module)
    tell(loaded=error)
    for number, step in enumerate([] if error else order["steps"]):
        tell(step=number, **_tried(step, vars(module)))
    os._exit(0)  # threads that the program left running do not hold up the result


def _load(source: str, module: types.ModuleType) -> None:
    """Run a program; what the expression at its end is worth becomes `solution`, unless it has set that itself."""
    tree = ast.parse(source, "program")
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        tree.body.pop()
    exec(compile(tree, "program", "exec"), vars(module))
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), "program", "eval"), vars(module))
        vars(module).setdefault("solution", value)


def _tried(step: dict[str, str], names: dict[str, Any]) -> dict[str, Any]:
    """Return the value of an expression, or whether a statement ran; `error` when it raised."""
    told: dict[str, Any] = {}

    def run() -> None:
        kind, source = step["kind"], step["source"]
        if kind in ("value", "members"):
            value = eval(compile(source, "test", "eval"), names)
            told["value"] = _plain(value) if kind == "value" else _members(value)
            if len(json.dumps(told)) > LONGEST:
                raise ValueError("the value is too long")
        elif kind == "case":
            kind, _, method = source.partition(".")
            _run_case(names[kind], method)
        else:
            exec(compile(source, "test", "exec"), names)

    error = _failure(run)
    return {"error": error} if error else told


def _run_case(kind: Any, method: str) -> None:
    """Run one test of a unittest.TestCase; a skipped one has not passed."""
    import unittest

    result = unittest.TestResult()
    unittest.TestSuite([kind(method)]).run(result)
    told = [text for _, text in [*result.errors, *result.failures]]
    if told:
        raise AssertionError(told[0].strip().splitlines()[-1])
    if result.testsRun != 1 or result.skipped or not result.wasSuccessful():
        raise AssertionError(f"{method} did not succeed")


def _failure(function: Any, *arguments: Any) -> str | None:
    """Return what a call raised, in one line; None when it returned."""
    try:
        function(*arguments)
    except BaseException as error:
        try:
            return f"{type(error).__name__}: {error}"[:300]
        except BaseException:
            return type(error).__name__
    return None


def _members(value: Any) -> Any:
    """Return what something that can be iterated holds, for `in`, or itself if it is plain."""
    try:
        return _plain(value)
    except TypeError:
        members = []
        for member in value:
            members.append(_plain(member, 2))
            if len(members) > MOST_MEMBERS:
                raise ValueError("the value has too many members") from None
        return ["list", members]


def _plain(value: Any, depth: int = 0) -> Any:
    """Return a built-in value in JSON, tagged by type. What a subclass redefines does not count.

    An object of another type raises TypeError: it could claim to be equal to anything.
    """
    if depth > 50:
        raise ValueError("the value is nested too deep")
    if value is None or value is True or value is False:
        return value
    for kind, written in _WRITTEN.items():
        if isinstance(value, kind):
            return written(value, depth + 1)
    written = _WRITTEN_BY_NAME.get((type(value).__module__, type(value).__name__))
    if written is not None:
        return written(value, depth + 1)
    if hasattr(value, "tolist"):  # an array, or a number out of one
        return _plain(value.tolist(), depth + 1)
    raise TypeError(f"the value is a {type(value).__name__}, not a plain one")


def _integer(value: int, _: int) -> Any:
    value = int.__add__(value, 0)
    return value if -_LARGEST < value < _LARGEST else ["int", hex(value)]


def _complex(value: complex) -> list[str]:
    return ["complex", value.real.hex(), value.imag.hex()]


def _entries(kind: type, name: str = "") -> Any:
    iterate: Any = kind.__iter__  # type: ignore[attr-defined]
    return lambda value, depth: [name or kind.__name__, [_plain(entry, depth) for entry in iterate(value)]]


def _pairs(value: Any, depth: int) -> list[Any]:
    return [_plain(list(entry), depth)[1] for entry in dict.items(value)]


_WRITTEN: dict[type, Any] = {
    str: lambda value, _: str.__str__(value),
    int: _integer,
    float: lambda value, _: ["float", float.hex(float.__add__(value, 0.0))],
    complex: lambda value, _: _complex(complex.__add__(value, 0j)),
    bytes: lambda value, _: ["bytes", bytes.hex(value)],
    bytearray: lambda value, _: ["bytearray", bytearray.hex(value)],
    dict: lambda value, depth: ["dict", _pairs(value, depth)],
    list: _entries(list),
    tuple: _entries(tuple),
    set: _entries(set),
    frozenset: _entries(frozenset),
    range: lambda value, _: ["range", value.start, value.stop, value.step],
    type({}.keys()): _entries(type({}.keys()), "keys"),
    type({}.values()): _entries(type({}.values()), "values"),
    type({}.items()): lambda value, depth: ["items", [_plain(list(entry), depth)[1] for entry in value]],
    types.MappingProxyType: lambda value, depth: ["dict", _pairs(dict(value), depth)],
}
# Not imported here: a program that gives such a value has. What it gives instead is a value of its own all the same.
_WRITTEN_BY_NAME: dict[tuple[str, str], Any] = {
    ("collections", "deque"): lambda value, depth: ["deque", [_plain(entry, depth) for entry in value]],
    ("fractions", "Fraction"): lambda value, depth: [
        "Fraction",
        _plain(value.numerator, depth),
        _plain(value.denominator, depth),
    ],
    ("decimal", "Decimal"): lambda value, _: ["Decimal", str(value)],
}


if __name__ == "__main__":
    main()
