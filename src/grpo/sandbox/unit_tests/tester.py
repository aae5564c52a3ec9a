"""Tests many programs in parallel."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

from grpo.sandbox.limits import Limits
from grpo.sandbox.run import check_system
from grpo.sandbox.unit_tests.testing import TestRun, run_tests

__all__ = ["Case", "Tester"]

_REMEMBERED = 1024
_LIMITS = Limits(wall_s=5.0, cpu_s=2.0)


class Case(NamedTuple):
    """A program and its tests; `entry_point` as `run_tests` takes it."""

    program: str
    tests: tuple[str, ...]
    entry_point: str | None = None


class Tester:
    """Tests programs in parallel with the same limits; at most `at_once`, over all calls."""

    __test__ = False  # not a test of pytest's

    def __init__(
        self,
        *,
        limits: Limits = _LIMITS,
        packages: bool = False,
        namespaces: bool | None = None,
        at_once: int | None = None,
    ) -> None:
        """Keep the options of `run_tests`; `at_once` None: one for each core of this process.

        Raises:
            ConfigError: this system cannot run programs in a sandbox.
        """
        check_system()
        self.limits = limits
        self.packages = packages
        self.namespaces = namespaces
        self.at_once = at_once or _cores()
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._known: OrderedDict[Case, TestRun] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        """Create a new tester in another process, because threads cannot be pickled."""
        options = {name: getattr(self, name) for name in ("limits", "packages", "namespaces", "at_once")}
        return functools.partial(Tester, **options), ()

    def run_all(
        self, cases: Sequence[Case], *, deadline: float | None = None, known: bool = False
    ) -> dict[Case, TestRun | Exception]:
        """Return the result of each distinct case, or the exception that prevented its test.

        Args:
            cases: programs with their tests.
            deadline: on the clock of `time.monotonic`; a case that is not tested by then has a TimeoutError.
            known: reuse results of earlier calls, except for those that depend on the load of the machine.
        """
        distinct = dict.fromkeys(cases)
        with self._lock:
            found: dict[Case, TestRun | Exception] = (
                {case: self._known[case] for case in distinct if case in self._known} if known else {}
            )
            self._pool = self._pool or ThreadPoolExecutor(self.at_once, thread_name_prefix="grpo-sandbox")
        left = [case for case in distinct if case not in found]
        futures: list[Future[TestRun | Exception]] = []
        try:
            futures += [self._pool.submit(self._run, case, deadline) for case in left]
            return found | {case: future.result() for case, future in zip(left, futures, strict=True)}
        finally:
            for future in futures:
                future.cancel()

    def _run(self, case: Case, deadline: float | None) -> TestRun | Exception:
        try:
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError("the deadline came before its turn")
            run = run_tests(
                case.program,
                case.tests,
                entry_point=case.entry_point,
                limits=self.limits,
                packages=self.packages,
                namespaces=self.namespaces,
                deadline=deadline,
            )
        except Exception as error:
            return error
        run = replace(run, execution=replace(run.execution, stdout="", stderr=""))
        if not run.execution.timed_out:
            self._remember(case, run)
        return run

    def _remember(self, case: Case, run: TestRun) -> None:
        with self._lock:
            self._known[case] = run
            self._known.move_to_end(case)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
