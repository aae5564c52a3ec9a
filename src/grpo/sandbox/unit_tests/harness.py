"""The script that tests a program inside the sandbox; it imports nothing of the package.

It reads a program and the steps of its tests from stdin, and writes the result of each step as a JSON object on one
line. Values are compared outside, so that a program cannot find the expected values here.
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
"""The most characters in the JSON of a value."""
MOST_MEMBERS = 100_000
_LARGEST = 1 << 53


def main() -> None:
    """Test the program in stdin."""
    order = json.load(sys.stdin)
    channel = os.dup(1)

    def report(**facts: Any) -> None:
        data = json.dumps(facts).encode() + b"\n"
        while data:
            data = data[os.write(channel, data) :]

    report(ready=True)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    module = types.ModuleType("program")
    sys.modules["program"] = module
    error = _failure(_load, order["program"], module)
    report(loaded=error)
    for number, step in enumerate([] if error else order["steps"]):
        report(step=number, **_tried(step, vars(module)))
    os._exit(0)  # the program's threads must not delay the result


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


def _tried(step: dict[str, str], names: dict[str, Any]) -> dict[str, Any]:
    """Return the `value` of an expression, or nothing for statements; an `error` when the step raised."""
    result: dict[str, Any] = {}

    def run() -> None:
        kind, source = step["kind"], step["source"]
        if kind in ("value", "members"):
            value = eval(compile(source, "test", "eval"), names)
            result["value"] = _plain(value) if kind == "value" else _members(value)
            if len(json.dumps(result)) > LONGEST:
                raise ValueError("the value is too long")
        elif kind == "case":
            kind, _, method = source.partition(".")
            _run_case(names[kind], method)
        else:
            exec(compile(source, "test", "exec"), names)

    error = _failure(run)
    return {"error": error} if error else result


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


def _failure(function: Any, *arguments: Any) -> str | None:
    """Return the exception of a call in one line; None when the call returned."""
    try:
        function(*arguments)
    except BaseException as error:
        try:
            return f"{type(error).__name__}: {error}"[:300]
        except BaseException:
            return type(error).__name__
    return None


def _members(value: Any) -> Any:
    """Return the members of an iterable, for `in`, or the value itself if it is built in."""
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
    """Return a built-in value in JSON, tagged by type, without calling methods that a subclass redefines.

    Raises:
        TypeError: the value has another type, and could claim to be equal to any value.
        ValueError: the value is nested too deep.
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
    if hasattr(value, "tolist"):  # an array, or a number from an array
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
# These modules are not imported here, because a program with such a value has imported them. A class of the same name
# that a program defines gives an ordinary value, too.
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
