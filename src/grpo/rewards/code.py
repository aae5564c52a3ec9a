"""The reward of a program: the share of unit tests that it passes in the sandbox (row R12)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

from grpo.errors import ConfigError
from grpo.rewards.texts import Completion, completion_texts
from grpo.sandbox import Limits, TestRun, run_tests
from grpo.tasks.programs import extract_program

__all__ = ["UnitTestReward"]

_Case: TypeAlias = tuple[str, tuple[str, ...]]
"""A program and its tests."""


class UnitTestReward:
    """Tests the programs in completions, each in a sandbox process of its own; called like any reward function."""

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
    ) -> None:
        """Take the options.

        Args:
            reward: what passing every test is worth.
            all_or_nothing: give nothing to a program that fails one test, not the share that it passes.
            wall_s: seconds for program and tests together.
            cpu_s: processor seconds of each process; unlike `wall_s` they do not depend on how busy the machine is.
            memory_mb: for program and tests.
            packages: whether programs may import what is installed beside the standard library; NumPy needs a
                `memory_mb` of about 1,000.
            at_once: how many are tested side by side; None: as many as there are cores for this process.
            namespaces: True: never without namespaces; None: with them where possible.

        Raises:
            ConfigError: a value makes no sense.
        """
        self.__name__ = "unit_tests"
        if at_once is not None and at_once < 1:
            raise ConfigError(f"unit_tests got at_once={at_once}: test at least one program at a time")
        self.reward = float(reward)
        self.all_or_nothing = all_or_nothing
        self.limits = Limits(wall_s=wall_s, cpu_s=cpu_s, memory_mb=memory_mb)
        self.packages = packages
        self.at_once = at_once or _cores()
        self.namespaces = namespaces

    def __call__(
        self,
        completions: Sequence[Completion],
        tests: Sequence[Any],
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, Iterable[Any]], None] | None = None,
    ) -> list[float | BaseException | None]:
        """Return for each completion the share of its row's tests that its program passes, times `reward`.

        A completion without a program gets 0, like one that crashes or is killed before it passes anything. A row
        without tests gives None. What cannot be tested, because the sandbox does not start or the tests are no
        Python, is that exception: it is the completion's failure and not its score.

        Args:
            tests: a row's `assert` lines, as a list or as one text; see `sandbox.run_tests`.
        """
        cases = [_case(text, wanted) for text, wanted in zip(completion_texts(completions), tests, strict=True)]
        runs = self._run_all([case for case in cases if case is not None and case[0]])
        if log_metric is not None and runs:
            done = [run for case in cases if isinstance(run := runs.get(case), TestRun)]
            log_metric("unit_tests/all_passed", sum(all(run.passed) for run in done) / max(1, len(done)))
            log_metric(
                "unit_tests/killed", sum(run.execution.killed_by is not None for run in done) / max(1, len(done))
            )
        if log_extra is not None:
            log_extra("unit_tests", [_in_words(case, runs.get(case)) for case in cases])
        return [None if case is None else self._value(runs.get(case)) for case in cases]

    def _run_all(self, cases: Sequence[_Case]) -> dict[_Case | None, TestRun | BaseException]:
        """Return what became of each different case: equal programs with equal tests run once."""
        distinct = list(dict.fromkeys(cases))
        if not distinct:
            return {}
        with ThreadPoolExecutor(min(self.at_once, len(distinct)), thread_name_prefix="grpo-sandbox") as pool:
            return dict(zip(distinct, pool.map(self._run, distinct), strict=True))

    def _run(self, case: _Case) -> TestRun | BaseException:
        program, tests = case
        try:
            return run_tests(program, tests, limits=self.limits, packages=self.packages, namespaces=self.namespaces)
        except Exception as error:
            return error

    def _value(self, run: TestRun | BaseException | None) -> float | BaseException:
        if run is None:
            return 0.0
        if isinstance(run, BaseException):
            return run
        return self.reward * (float(all(run.passed)) if self.all_or_nothing else run.share)


def _case(text: str, tests: Any) -> _Case | None:
    """Return the program in a completion with its tests; None when the row has none."""
    lines = (tests,) if isinstance(tests, str) else tuple(str(line) for line in (() if tests is None else tests))
    return (extract_program(text), lines) if any(line.strip() for line in lines) else None


def _in_words(case: _Case | None, run: TestRun | BaseException | None) -> str:
    if case is None:
        return "no tests"
    if run is None:
        return "no program"
    if isinstance(run, BaseException):
        return "not tested"
    passed = f"{sum(run.passed)} of {len(run.passed)}"
    return passed if run.error is None else f"{passed}: {run.error}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
