"""The reward of a program: the share of unit tests that it passes in the sandbox."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from grpo.errors import ConfigError, DataError, RunError
from grpo.rewards.function import RewardFunction
from grpo.rewards.texts import Completion, completion_texts
from grpo.sandbox import Case, Limits, Tester, TestRun, check_tests, namespaces_refused
from grpo.tasks import Verifier
from grpo.tasks.program_answers import ProgramVerifier, row_case, row_tests

__all__ = ["UnitTestReward", "verifier_as_rewarded"]


class UnitTestReward:
    """Tests the programs in completions, each in a sandbox process of its own; called like any reward function.

    Attributes:
        overlaps: programs of groups that are complete are tested while other groups are generated.
        tester: runs the tests, at most `at_once` programs at a time over all calls.
    """

    overlaps = True

    def __init__(
        self,
        *,
        reward: float = 1.0,
        all_or_nothing: bool = False,
        wall_s: float = 5.0,
        cpu_s: float = 2.0,
        memory_mb: int = 256,
        packages: bool = False,
        at_once: int | None = None,
        namespaces: bool | None = None,
        deadline_s: float | None = 50.0,
    ) -> None:
        """Check the options, and that namespaces are available if they are demanded.

        Args:
            reward: for a program that passes every test.
            all_or_nothing: give 0 to a program that fails one test, instead of the share that it passes.
            wall_s: seconds for program and tests together.
            cpu_s: processor seconds of each process; unlike `wall_s` they do not depend on the load of the machine.
            memory_mb: for program and tests.
            packages: whether programs may import packages besides the standard library; NumPy needs a
                `memory_mb` of about 1,000.
            at_once: number of programs tested in parallel; None: one for each core of this process.
            namespaces: True: never without namespaces; None: with them where possible.
            deadline_s: seconds that a call may take; programs that are not tested by then have failed, the others
                count. Keep it below the suite's own timeout, which fails them all, and above the time for a group of
                programs that never end: its size times `cpu_s` (if they compute) or `wall_s`, divided by `at_once`.

        Raises:
            ConfigError: a value is impossible, or namespaces are demanded and not available.
        """
        self.__name__ = "unit_tests"
        if at_once is not None and (isinstance(at_once, bool) or not isinstance(at_once, int) or at_once < 1):
            raise ConfigError(f"unit_tests got at_once={at_once!r}: give a whole number of programs, 1 or more")
        self.reward = _number("reward", reward)
        self.deadline_s = None if deadline_s is None else _number("deadline_s", deadline_s, above=0.0)
        self.all_or_nothing = all_or_nothing
        self.tester = Tester(
            limits=Limits(wall_s=wall_s, cpu_s=cpu_s, memory_mb=memory_mb),
            packages=packages,
            namespaces=namespaces,
            at_once=at_once,
        )
        if namespaces is not False:
            with contextlib.suppress(RunError):  # a passing shortage may be over when the first program runs
                refusal = namespaces_refused()
                if namespaces and refusal is not None:
                    raise ConfigError(f"unit_tests has namespaces=true, but {refusal}: see `grpo doctor --sandbox`")

    def check_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Check before the first step that the tests of rows, given by their columns, can be parsed.

        Raises:
            DataError: those of a row cannot.
        """
        for number, columns in enumerate(rows):
            lines = row_tests(columns.get("tests"))
            if lines:
                try:
                    check_tests(lines, columns.get("entry_point"))
                except DataError as error:
                    raise DataError(f"row {number + 1}: {error}") from error

    def __call__(
        self,
        completions: Sequence[Completion],
        tests: Sequence[Any],
        entry_point: Sequence[Any] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, Iterable[Any]], None] | None = None,
    ) -> list[float | BaseException | None]:
        """Return for each completion the share of its row's tests that its program passes, times `reward`.

        A completion without a program gets 0, as does a program that crashes or is killed before it passes a test. A
        row without tests gives None. A program that cannot be tested (the sandbox does not start, the tests cannot be
        parsed, the deadline has passed) gives the exception: a failure of the completion and not a score.

        Args:
            tests: a row's `assert` lines, as a list or as one text; see `sandbox.run_tests`.
            entry_point: a row's name of the function that they call `candidate`.
        """
        deadline = None if self.deadline_s is None else time.monotonic() + self.deadline_s
        texts = completion_texts(completions)
        names = [None] * len(texts) if entry_point is None else entry_point
        cases = [row_case(*given) for given in zip(texts, tests, names, strict=True)]
        runs = self.tester.run_all([case for case in cases if case is not None and case.program], deadline=deadline)
        outcomes = [None if case is None else runs.get(case) for case in cases]
        done = [run for run in outcomes if isinstance(run, TestRun)]
        if log_metric is not None and done:
            log_metric("unit_tests/all_passed", sum(all(run.passed) for run in done) / len(done))
            log_metric("unit_tests/killed", sum(run.execution.killed_by is not None for run in done) / len(done))
        if log_extra is not None:
            log_extra("unit_tests", list(map(_describe, cases, outcomes)))
        return [None if case is None else self._value(run) for case, run in zip(cases, outcomes, strict=True)]

    def _value(self, run: TestRun | Exception | None) -> float | Exception:
        if run is None:
            return 0.0
        if isinstance(run, Exception):
            return run
        return self.reward * (float(all(run.passed)) if self.all_or_nothing else run.share)


def verifier_as_rewarded(verifier: Verifier | None, functions: Iterable[RewardFunction]) -> Verifier | None:
    """Return a task's verifier; for programs, with the options of the first `UnitTestReward` among functions.

    The verifier then shares the results that the reward has just computed.
    """
    for function in functions:
        if isinstance(function.function, UnitTestReward) and isinstance(verifier, ProgramVerifier):
            return ProgramVerifier(verifier.answer_format, function.function.tester)
    return verifier


def _number(name: str, value: Any, *, above: float = -math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not above < value < math.inf:
        least = f" above {above:g}" if above > -math.inf else ""
        raise ConfigError(f"unit_tests got {name}={value!r}: use a finite number{least}")
    return float(value)


def _describe(case: Case | None, run: TestRun | Exception | None) -> str:
    if case is None:
        return "no tests"
    if run is None:
        return "no program"
    if isinstance(run, Exception):
        return "not tested"
    passed = f"{sum(run.passed)} of {len(run.passed)}"
    return passed if run.error is None else f"{passed}: {run.error}"
