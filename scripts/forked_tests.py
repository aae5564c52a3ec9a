"""Tests of a changed copy of the repository, each run in a fork of a process that has the heavy packages already."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import sys
import time
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Result", "Workplace", "import_what_tests_import"]

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("src", "tests", "benchmarks", "scripts", "examples", "docs", "README.md", "LICENSE", "pyproject.toml")
NO_SUCH_TEST = (4, 5)
"""Exit codes of pytest when a name given to it means no test."""


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a run of tests.

    Attributes:
        failed: the first test that failed, or the file that could not be collected; "" when none did.
        timed_out: whether it failed for taking too long, or the whole run did.
    """

    passed: bool
    failed: str = ""
    timed_out: bool = False


class FirstFailure:
    """A pytest plug-in that writes down the first failure."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note a test that failed, or whose fixtures did."""
        self._note(report)

    def pytest_collectreport(self, report: Any) -> None:
        """Note a file that cannot be collected."""
        self._note(report)

    def _note(self, report: Any) -> None:
        if report.failed and not self.file.exists():
            kind = "timeout" if "Timeout (>" in str(report.longrepr) else "failure"
            self.file.write_text(f"{kind} {report.nodeid}")


class Workplace:
    """A copy of the repository in which files can be changed and tests run.

    Attributes:
        broken: tests that failed without any change; they are left out from then on.
    """

    def __init__(self, folder: Path, *, test_timeout_s: float, run_timeout_s: float) -> None:
        self.folder = folder
        self.test_timeout_s = test_timeout_s
        self.run_timeout_s = run_timeout_s
        self.broken: list[str] = []
        self._trusted: set[str] = set()
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns(".pytest_cache"))
            elif source.exists():
                shutil.copy2(source, folder / name)

    def write(self, path: str, source: bytes) -> None:
        """Change a module."""
        file = self.folder / path
        file.write_bytes(source)
        # Compiled files are recognised by time and size, which a mutation may leave as they are.
        for compiled in file.parent.glob(f"__pycache__/{file.stem}.*.pyc"):
            compiled.unlink()

    def try_change(self, path: str, before: bytes, after: bytes, tests: Sequence[str]) -> Result:
        """Return how tests end with a module changed; a test that fails without the change does not count."""
        while True:
            self.write(path, after)
            try:
                result = self.run(tests)
            finally:
                self.write(path, before)
            if result.passed or "::" not in result.failed or self._is_trusted(result.failed):
                return result
            print(f"{result.failed} fails without any change, so it is left out", file=sys.stderr, flush=True)
            self.broken.append(result.failed)

    def run(self, tests: Sequence[str]) -> Result:
        """Run tests in order until one fails."""
        note = self.folder / "first_failure.txt"
        note.unlink(missing_ok=True)
        code = _wait(self._fork(tests, note), self.run_timeout_s)
        kind, _, name = note.read_text().partition(" ") if note.exists() else ("", "", "")
        if not name and code is not None and code not in (0, 1):
            name = f"exit code {code}"
        return Result(code == 0, name, timed_out=code is None or kind == "timeout")

    def _is_trusted(self, test: str) -> bool:
        """Return whether a test passes without any change."""
        if test not in self._trusted:
            note = self.folder / "first_failure.txt"
            if _wait(self._fork([test], note), self.run_timeout_s) not in (0, *NO_SUCH_TEST):
                return False
            self._trusted.add(test)
        return True

    def _fork(self, tests: Sequence[str], note: Path) -> int:
        """Start the tests in a forked process that leads a group of its own, and return its id."""
        sys.stdout.flush()
        process = os.fork()
        if process:
            return process
        code = 70
        try:
            os.setsid()
            code = self._run_here(tests, note)
        finally:
            os._exit(code)

    def _run_here(self, tests: Sequence[str], note: Path) -> int:
        output = os.open(self.folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(output, stream.fileno())
        os.chdir(self.folder)
        source = str(self.folder / "src")
        os.environ["PYTHONPATH"] = source
        sys.path[:0] = [source, str(self.folder)]
        sys.argv = ["pytest"]
        # Programs that multiprocessing starts would import this script.
        sys.modules["__main__"] = types.ModuleType("__main__")
        import pytest

        left_out = [word for test in self.broken for word in ("--deselect", test)]
        options = ["-x", "--tb=line", "-p", "no:cacheprovider", "-p", "no:xdist", f"--timeout={self.test_timeout_s}"]
        return int(
            pytest.main([*options, *left_out, f"--basetemp={self.folder}/tmp", *tests], plugins=[FirstFailure(note)])
        )


def _wait(process: int, limit_s: float) -> int | None:
    """Return the exit code of a child that leads a group, or None when it was stopped for taking too long."""
    deadline = time.monotonic() + limit_s
    code: int | None = None
    while code is None and time.monotonic() < deadline:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
        else:
            time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    if code is None:
        os.waitpid(process, 0)
    return code


def import_what_tests_import() -> None:
    """Import the heavy packages once, before any process is forked."""
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    for name in ("torch", "transformers", "peft", "datasets", "pytest", "pydantic", "rich", "yaml", "sklearn.metrics"):
        importlib.import_module(name)
    for name in ("transformers.models.qwen3.modeling_qwen3", "transformers.models.llama.modeling_llama"):
        importlib.import_module(name)
