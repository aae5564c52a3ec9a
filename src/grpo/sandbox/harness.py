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

__all__ = ["main"]

_LONGEST = 20_000


def main() -> None:
    """Test the program that stdin holds."""
    order = json.load(sys.stdin)
    channel = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    module = types.ModuleType("program")
    sys.modules["program"] = module

    def tell(**facts: Any) -> None:
        os.write(channel, json.dumps(facts).encode() + b"\n")

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
        if step["kind"] == "value":
            told["value"] = _plain(eval(compile(step["source"], "test", "eval"), names))
            if len(json.dumps(told)) > _LONGEST:
                raise ValueError("the value is too long")
        else:
            exec(compile(step["source"], "test", "exec"), names)

    error = _failure(run)
    return {"error": error} if error else told


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
    if hasattr(value, "tolist"):  # an array, or a number out of one
        return _plain(value.tolist(), depth + 1)
    raise TypeError(f"the value is a {type(value).__name__}, not a plain one")


def _complex(value: complex) -> list[str]:
    return ["complex", value.real.hex(), value.imag.hex()]


def _entries(kind: type) -> Any:
    iterate: Any = kind.__iter__  # type: ignore[attr-defined]
    return lambda value, depth: [kind.__name__, [_plain(entry, depth) for entry in iterate(value)]]


_WRITTEN: dict[type, Any] = {
    str: lambda value, _: str.__str__(value),
    int: lambda value, _: ["int", hex(int.__add__(value, 0))],
    float: lambda value, _: ["float", float.hex(float.__add__(value, 0.0))],
    complex: lambda value, _: _complex(complex.__add__(value, 0j)),
    bytes: lambda value, _: ["bytes", bytes.hex(value)],
    bytearray: lambda value, _: ["bytearray", bytearray.hex(value)],
    dict: lambda value, depth: ["dict", [_plain(list(entry), depth)[1] for entry in dict.items(value)]],
    list: _entries(list),
    tuple: _entries(tuple),
    set: _entries(set),
    frozenset: _entries(frozenset),
}


if __name__ == "__main__":
    main()
