"""An assert → the expression that the sandbox evaluates, and the condition that its value must fulfil."""

from __future__ import annotations

import ast
import itertools
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Step", "assert_step", "is_true"]

_MOST_DIGITS = 100

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda value, many: value in many,
    ast.NotIn: lambda value, many: value not in many,
}


@dataclass(frozen=True, slots=True)
class Step:
    """One step after the program.

    Attributes:
        kind: "value", an expression whose value is compared outside; "members", the same for the members of an
            iterable; "run", statements; "case", CLASS.METHOD of a unittest.TestCase; or "outside", statements that
            run in another process than the program.
        source: the expression, statements or method.
        is_test: counts as a test.
        holds_for: the condition that a value must fulfil to pass.
    """

    kind: str
    source: str
    is_test: bool
    holds_for: Callable[[Any], Any] = bool


def assert_step(test: ast.expr) -> Step:
    """Return the step of an assert. In a comparison with a literal, the literal stays outside the sandbox.

    The sandbox evaluates the other side, and the parent process compares.
    """
    if isinstance(test, ast.Compare):
        step = _comparison_step(test)
        if step is not None:
            return step
    if isinstance(test, ast.Call) and ast.unparse(test.func) in ("math.isclose", "isclose"):
        step = _closeness_step(test)
        if step is not None:
            return step
    return Step("value", f"not not ({ast.unparse(test)})", is_test=True)


def _comparison_step(test: ast.Compare) -> Step | None:
    operands = [test.left, *test.comparators]
    compare = [_COMPARISONS[type(op)] for op in test.ops]
    known = [_literal(operand) for operand in operands]
    unknown = [place for place, found in enumerate(known) if found is None]
    if len(unknown) != 1 or len(operands) > 3 or (len(operands) == 3 and unknown != [1]):
        return None
    (asked,) = unknown
    inner, seen = _peeled(operands[asked])

    def holds(value: Any) -> bool:
        shown = seen(value)
        values = [shown if found is None else found[0] for found in known]
        return all(one(*pair) for one, pair in zip(compare, itertools.pairwise(values), strict=True))

    is_container = asked == 1 and isinstance(test.ops[0], (ast.In, ast.NotIn))
    return Step("members" if is_container else "value", ast.unparse(inner), True, holds)


def _closeness_step(test: ast.Call) -> Step | None:
    known = [_literal(argument) for argument in test.args]
    options = {keyword.arg: _literal(keyword.value) for keyword in test.keywords}
    if len(known) != 2 or known.count(None) != 1 or None in options.values():
        return None
    asked = known.index(None)
    expected = known[1 - asked]
    tolerances = {str(name): found[0] for name, found in options.items() if found is not None}
    assert expected is not None
    inner, seen = _peeled(test.args[asked])
    return Step("value", ast.unparse(inner), True, lambda value: math.isclose(seen(value), expected[0], **tolerances))


def _peeled(expression: ast.expr) -> tuple[ast.expr, Callable[[Any], Any]]:
    """Return the core of an expression, and the function of the layers around it.

    Layers are `abs`, `round`, and plus or minus a literal.
    """
    found = _layer(expression)
    if found is None or _literal(found[0]) is not None:
        return expression, lambda value: value
    inner, outer = found
    core, seen = _peeled(inner)
    return core, lambda value: outer(seen(value))


def _layer(expression: ast.expr) -> tuple[ast.expr, Callable[[Any], Any]] | None:
    if isinstance(expression, ast.Call) and isinstance(expression.func, ast.Name) and not expression.keywords:
        arguments = expression.args
        if expression.func.id == "abs" and len(arguments) == 1:
            return arguments[0], abs
        if expression.func.id == "round" and len(arguments) == 2:
            digits = _literal(arguments[1])
            if digits is not None and isinstance(digits[0], int) and abs(digits[0]) <= _MOST_DIGITS:
                return arguments[0], lambda value: round(value, digits[0])
    if isinstance(expression, ast.BinOp) and isinstance(expression.op, (ast.Add, ast.Sub)):
        apply = operator.add if isinstance(expression.op, ast.Add) else operator.sub
        left, right = _literal(expression.left), _literal(expression.right)
        if right is not None:
            return expression.left, lambda value: apply(value, right[0])
        if left is not None:
            return expression.right, lambda value: apply(left[0], value)
    return None


def _literal(expression: ast.expr) -> tuple[Any] | None:
    """Return a literal's value in a tuple; None for any other expression."""
    try:
        return (ast.literal_eval(expression),)
    except (ValueError, TypeError, RecursionError):
        return None


def is_true(test: ast.expr) -> bool:
    """Return whether an assert holds for every program."""
    found = _literal(test)
    return found is not None and bool(found[0])
