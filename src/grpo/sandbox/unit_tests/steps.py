"""Reads tests: Python source → the steps of a test run, each with its condition.

The source of a step goes into the sandbox; the values that it is compared with stay outside.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Sequence
from typing import TypeAlias, TypeGuard

from grpo.errors import DataError
from grpo.sandbox.unit_tests.asserts import Step, assert_step, is_true

__all__ = ["read_steps"]

_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_COMPOUND = (ast.For, ast.While, ast.If, ast.With, ast.Try, ast.Match)
_WANTED = (
    "give lines such as 'assert f(2) == 4', functions test_…() without arguments, a unittest.TestCase class, "
    "or check(candidate) with a column entry_point"
)
_SILENT = ("print",)
"""Functions whose calls are not tests."""
_MAINS = ("unittest.main", "pytest.main")


@functools.lru_cache(maxsize=512)
def read_steps(tests: str, entry_point: str | None = None) -> tuple[Step, ...]:
    """Return the steps of tests; `run_tests` defines a test.

    Args:
        tests: Python source.
        entry_point: name of the function that `check(candidate)` is called with.

    Raises:
        DataError: the tests are not Python, or some test nothing.
    """
    try:
        tree = ast.parse(tests)
        return tuple(_Reader(tests, list(_run_as_script(tree.body)), entry_point).steps())
    except (SyntaxError, ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"tests {tests[:80]!r} are not Python: {error}: {_WANTED}") from error


def _run_as_script(statements: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Return the statements, including those under `if __name__ == "__main__"`, without `unittest.main()`."""
    for statement in statements:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "__name__ == '__main__'":
            yield from _run_as_script(statement.body)
        elif not (isinstance(statement, ast.Expr) and ast.unparse(statement.value).partition("(")[0] in _MAINS):
            yield statement


class _Reader:
    """The tests of one row."""

    def __init__(self, text: str, statements: list[ast.stmt], entry_point: str | None) -> None:
        if entry_point is not None and not all(map(str.isidentifier, entry_point.split("."))):
            raise DataError(f"entry_point {entry_point!r} is no function's name: give one such as 'add'")
        self._text = text
        self._statements = statements
        self._entry_point = entry_point
        self._functions = {each.name: each for each in statements if isinstance(each, _Function)}
        self._classes = {each.name: each for each in statements if isinstance(each, ast.ClassDef)}
        self._checkers: set[str] = set()
        while found := [name for name in self._functions if name not in self._checkers and self._is_checker(name)]:
            self._checkers |= set(found)

    def steps(self) -> list[Step]:
        """Return the steps in order."""
        at_end = [*self._functions_steps(), *self._classes_steps()]
        tests = [place for place, statement in enumerate(self._statements) if self._checks(statement)]
        last = len(self._statements) if at_end else max(tests, default=-1)
        steps = [
            step
            for place, statement in enumerate(self._statements)
            if (step := self._step(statement, is_test=place in tests or (place > last and _is_call(statement))))
        ]
        steps += at_end
        if any(step.kind == "outside" for step in steps):
            steps = self._kept_outside(steps)
        if not any(step.is_test for step in steps):
            raise self._wrong("test nothing")
        return steps

    def _kept_outside(self, steps: list[Step]) -> list[Step]:
        """Return the steps with all preparation outside; beside the program only if other tests need it there.

        No function that asserts is defined beside the program, unless a test there needs it.
        """
        needed = "\n".join(step.source for step in steps if step.is_test and step.kind != "outside")
        names = {node.id for node in ast.walk(ast.parse(needed)) if isinstance(node, ast.Name)} if needed else set()
        hidden = [ast.unparse(self._functions[name]) for name in self._checkers - names]
        kept: list[Step] = []
        for step in steps:
            if step.is_test:
                kept.append(step)
                continue
            kept.append(Step("outside", step.source, is_test=False))
            if needed and step.source not in hidden:
                kept.append(step)
        return kept

    def _is_check_of_program(self, statement: ast.stmt) -> bool:
        """Return whether a statement calls a check with a function of the program, as in `check(add)`."""
        call = statement.value if isinstance(statement, ast.Expr) else None
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in self._checkers):
            return False
        if call.keywords or len(call.args) != 1 or _required(self._functions[call.func.id]) != 1:
            return False
        name = ast.unparse(call.args[0])
        defined = {node.id for each in self._statements for node in ast.walk(each) if _is_stored(node)}
        return (
            all(map(str.isidentifier, name.split(".")))
            and name.split(".")[0] not in defined | self._functions.keys() | self._classes.keys()
        )

    def _step(self, statement: ast.stmt, *, is_test: bool) -> Step | None:
        if isinstance(statement, ast.Assert):
            return None if is_true(statement.test) else assert_step(statement.test)
        kind = "outside" if is_test and self._is_check_of_program(statement) else "run"
        return Step(kind, ast.unparse(statement), is_test=is_test)

    def _is_checker(self, name: str) -> bool:
        return any(self._checks(statement, inside=True) for statement in self._functions[name].body)

    def _checks(self, statement: ast.stmt, *, inside: bool = False) -> bool:
        """Return whether a statement checks the program, and so may fail on purpose."""
        if isinstance(statement, ast.Assert):
            return not is_true(statement.test)
        if not inside and not isinstance(statement, (*_COMPOUND, ast.Expr)):
            return False
        if isinstance(statement, ast.With) and any("raises" in ast.unparse(item).lower() for item in statement.items):
            return True
        return any(
            isinstance(node, ast.Assert)
            or (isinstance(node, ast.Raise) and (not inside or _says_assertion(node)))
            or (isinstance(node, ast.Name) and node.id in self._checkers)
            for node in ast.walk(statement)
        )

    def _functions_steps(self) -> list[Step]:
        """Return calls of the test functions that no statement calls."""
        called = {
            node.id
            for statement in self._statements
            if self._checks(statement) and not isinstance(statement, _DEFINITIONS)
            for node in ast.walk(statement)
            if isinstance(node, ast.Name)
        }
        steps: list[Step] = []
        for name, function in self._functions.items():
            if name in called or not (name.startswith("test") or (name == "check" and name in self._checkers)):
                continue
            required = _required(function)
            if not self._can_fail(function):
                raise self._wrong(f"have {name}, which asserts nothing")
            given = "" if required == 0 else self._entry_point
            if required > 1 or given is None:
                shown = ", ".join(argument.arg for argument in function.args.args)
                raise self._wrong(f"define {name}({shown}) and never call it")
            asserts = _asserts_about(function, given) if given else []
            call = f"{name}({given})"
            call = f"__import__('asyncio').run({call})" if isinstance(function, ast.AsyncFunctionDef) else call
            steps += asserts or [Step("outside" if given else "run", call, is_test=True)]
        return steps

    def _classes_steps(self) -> list[Step]:
        """Return a step for each test method."""
        steps: list[Step] = []
        for name, kind in self._classes.items():
            is_case = self._is_case(kind)
            if not is_case and not name.startswith("Test"):
                continue
            methods = self._methods(kind)
            for method in (each for each in methods.values() if each.name.startswith("test")):
                if _required(method) != 1 or (not is_case and not _TEST_PREPARATION.isdisjoint(methods)):
                    raise self._wrong(f"have {name}.{method.name}, which needs pytest")
                if not self._can_fail(method):
                    raise self._wrong(f"have {name}.{method.name}, which asserts nothing")
                source = f"{name}.{method.name}" if is_case else f"{name}().{method.name}()"
                steps.append(Step("case" if is_case else "run", source, is_test=True))
        return steps

    def _can_fail(self, function: _Function) -> bool:
        """Return whether a function contains an assert, a raise or a call."""
        return any(
            isinstance(node, (ast.Assert, ast.Raise))
            or _is_call(node)
            or (isinstance(node, ast.Name) and node.id in self._checkers)
            for node in ast.walk(function)
        )

    def _is_case(self, kind: ast.ClassDef) -> bool:
        bases = [ast.unparse(base).rpartition(".")[2] for base in kind.bases]
        return any(
            base.endswith("TestCase") or (base in self._classes and self._is_case(self._classes[base]))
            for base in bases
            if base != kind.name
        )

    def _methods(self, kind: ast.ClassDef) -> dict[str, _Function]:
        methods: dict[str, _Function] = {}
        for base in kind.bases:
            if isinstance(base, ast.Name) and base.id in self._classes and base.id != kind.name:
                methods |= self._methods(self._classes[base.id])
        return methods | {each.name: each for each in kind.body if isinstance(each, _Function)}

    def _wrong(self, problem: str) -> DataError:
        return DataError(f"tests {self._text[:80]!r} {problem}: {_WANTED}")


_TEST_PREPARATION = frozenset({"setup_method", "setup_class", "setup", "teardown_method", "teardown_class"})


def _says_assertion(statement: ast.Raise) -> bool:
    return statement.exc is not None and ast.unparse(statement.exc).startswith("AssertionError")


def _is_call(statement: ast.AST) -> bool:
    """Return whether a statement is a call whose result is not used."""
    if not isinstance(statement, ast.Expr):
        return False
    value = statement.value.value if isinstance(statement.value, ast.Await) else statement.value
    return isinstance(value, ast.Call) and ast.unparse(value.func) not in _SILENT


def _required(function: _Function) -> int:
    """Return the number of arguments that a call must have."""
    given = function.args
    return len(given.posonlyargs) + len(given.args) - len(given.defaults) + given.kw_defaults.count(None)


def _is_stored(node: ast.AST) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def _asserts_about(function: _Function, name: str) -> list[Step]:
    """Return the asserts in a function of one argument, applied to `name`; none if it contains other statements."""
    if isinstance(function, ast.AsyncFunctionDef):
        return []
    argument = [*function.args.posonlyargs, *function.args.args][0].arg
    steps: list[Step] = []
    for statement in function.body:
        if isinstance(statement, ast.Assert):
            if not is_true(statement.test):
                source = f"assert (lambda {argument}: {ast.unparse(statement.test)})({name})"
                steps.append(Step("outside", source, is_test=True))
        elif not isinstance(statement, ast.Pass) and not (
            isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        ):
            return []
    return steps
