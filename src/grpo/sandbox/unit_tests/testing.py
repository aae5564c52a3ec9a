"""Tests a program in the sandbox, with a result for each test."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grpo.errors import SandboxError
from grpo.sandbox.limits import Execution, Limits
from grpo.sandbox.run import run_program
from grpo.sandbox.unit_tests import harness, plain_values, program_process, proxies
from grpo.sandbox.unit_tests.asserts import Step
from grpo.sandbox.unit_tests.steps import read_steps

__all__ = ["TestRun", "check_tests", "run_tests"]

_REPORT_KB = 8192
"""Limit of the harness's output; the program's own output is discarded."""
_LONGEST_LINE = plain_values.LONGEST + 100
"""A value, and the JSON around it."""


@dataclass(frozen=True, slots=True)
class TestRun:
    """The result of a program's tests.

    Attributes:
        passed: True for each test that passed.
        error: the reason in one line why the program was not tested to the end; None when it was.
        execution: the execution of program and tests together.
    """

    __test__ = False  # not a test of pytest's

    passed: tuple[bool, ...]
    error: str | None
    execution: Execution

    @property
    def share(self) -> float:
        """Share of the tests that passed."""
        return sum(self.passed) / len(self.passed)


def run_tests(
    program: str,
    tests: str | Sequence[str],
    *,
    entry_point: str | None = None,
    limits: Limits | None = None,
    python: str = sys.executable,
    packages: bool = False,
    namespaces: bool | None = None,
    deadline: float | None = None,
) -> TestRun:
    """Run a program and then its tests in the sandbox, and return the result of each test.

    A test is: an `assert` at the top level; another statement there that asserts, or that calls a function of the
    tests that asserts; a call after the last of these; a function `test_…` without arguments; each test of a
    `unittest.TestCase`, or of a class `Test…` without preparation; and each assert of a `check(candidate)` in
    HumanEval's form (the whole function, if it does more than assert), for the function `entry_point`. Other
    statements run in their place. The value of an expression at the program's end becomes `solution`, unless the
    program sets that name itself.

    Two forms keep what they expect from the program. In `assert call == literal` the literal stays outside the sandbox:
    the parent process compares it, by value, with the value of the call. The same holds for other comparisons with
    literals, also of `abs(…)`, `round(…, 2)`, a sum or difference with a literal, and for `math.isclose(call,
    literal)`. A `check(candidate)`, which the tests call with a function of the program or which is called with
    `entry_point`, runs in a process of its own in the sandbox, with the other statements of its tests: each call of
    the program sends its arguments to the program's process and gets back a plain value, or a proxy of another
    object. In both forms, an object that claims to be equal to everything fails.

    All other tests run in the program's process, and a program that searches for them can read and fake them:
    comparisons of two calls or with names, asserts of a truth, `and`, loops, functions and classes of tests. Values
    that they contain are known to the program from then on, also those of safe forms in the same row.

    A program that raises, exits or has a syntax error passes no test; a program that is killed keeps the tests that it
    passed before.

    Args:
        program: Python source.
        tests: Python source, in one piece or several. Other arguments are those of `run_program`.
        entry_point: name of the tested function, where the tests call it `candidate`.

    Raises:
        DataError: the tests are not Python, or some test nothing.
        ConfigError: `python` is no interpreter, or the system neither Linux nor macOS.
        SandboxError: the sandbox could not be set up, or the interpreter does not run in it.
        TimeoutError: the deadline came first.
    """
    steps = read_steps(_joined(tests), entry_point)
    order = {"program": program, "steps": [{"kind": step.kind, "source": step.source} for step in steps]}
    limits = limits or Limits()
    execution = run_program(
        _script(),
        stdin=json.dumps(order),
        limits=replace(limits, output_kb=max(limits.output_kb, _REPORT_KB), processes=limits.processes + 1),
        python=python,
        packages=packages,
        namespaces=namespaces,
        deadline=deadline,
    )
    reports = _reports(execution.stdout)
    if "ready" not in reports:
        reason = " ".join(execution.stderr.split())[-300:] or _ending(execution)
        raise SandboxError(f"{python!r} does not run in the sandbox: {reason}: see `grpo doctor --sandbox`")
    return TestRun(*_outcome(steps, reports, execution), execution)


def check_tests(tests: str | Sequence[str], entry_point: str | None = None) -> int:
    """Return the number of tests.

    Raises:
        DataError: the tests are not Python, or some test nothing.
    """
    return sum(step.is_test for step in read_steps(_joined(tests), entry_point))


def _joined(tests: str | Sequence[str]) -> str:
    return tests if isinstance(tests, str) else "\n".join(tests)


@functools.lru_cache(maxsize=1)
def _script() -> str:
    """Return the program that runs in the sandbox: these modules in one file."""
    parts = {
        module.__name__: Path(str(module.__file__)).read_text(encoding="utf-8")
        for module in (plain_values, program_process, proxies, harness)
    }
    return (
        "import sys\n"
        f"for name, text in {parts!r}.items():\n"
        "    sys.modules[name] = type(sys)(name)\n"
        "    exec(compile(text, name, 'exec'), vars(sys.modules[name]))\n"
        f"{{name: sys.modules.pop(name) for name in {list(parts)!r}}}[{harness.__name__!r}].main()\n"
    )


def _reports(stdout: str) -> dict[int | str, dict[str, Any]]:
    """Return the harness's reports by the number of their step. The program may have written lines in between."""
    reports: dict[int | str, dict[str, Any]] = {}
    for line in stdout.splitlines():
        try:
            facts = json.loads(line) if len(line) < _LONGEST_LINE else None
        except (ValueError, RecursionError):
            continue
        if isinstance(facts, dict):
            key = next((name for name in ("ready", "loaded") if name in facts), facts.get("step"))
            if isinstance(key, (int, str)):
                reports.setdefault(key, facts)
    return reports


def _outcome(
    steps: Sequence[Step], reports: dict[int | str, dict[str, Any]], execution: Execution
) -> tuple[tuple[bool, ...], str | None]:
    """Return the result of each test, and the reason why the program was not tested to the end."""
    passed, failed_before = [], False
    load_error = reports.get("loaded", {}).get("loaded")
    error = None if load_error is None else str(load_error)
    for number, step in enumerate(steps):
        outcome = reports.get(number)
        if step.is_test:
            passed.append(outcome is not None and not failed_before and _holds(step, outcome))
        elif outcome is not None and "error" in outcome:
            failed_before, error = True, error or str(outcome["error"])
    if error is None and len(steps) - 1 not in reports:
        error = _ending(execution)
    return tuple(passed), error


def _holds(step: Step, outcome: dict[str, Any]) -> bool:
    """Return whether a step's outcome passes this test."""
    if "error" in outcome:
        return False
    if step.kind in ("run", "case", "outside"):
        return True
    try:
        return bool(step.holds_for(plain_values.decode(outcome.get("value"))))
    except Exception:  # a value of the wrong form, or not comparable
        return False


def _ending(execution: Execution) -> str:
    if execution.killed_by is not None:
        return f"killed by {execution.killed_by}"
    return f"ended with exit code {execution.exit_code}"
