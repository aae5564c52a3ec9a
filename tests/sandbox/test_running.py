"""Running a program: its input and output, how it ends, its interpreter, and what keeps it from being run."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import pytest

from grpo.errors import ConfigError, SandboxError
from grpo.sandbox import Limits, Tester, run_program, run_tests
from grpo.sandbox import run as sandbox_run
from grpo.sandbox.interpreter import outermost

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

CRASHES = {
    "import ctypes; ctypes.string_at(0)": (-11, "SIGSEGV", ""),
    "import os; os.abort()": (-6, "SIGABRT", ""),
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": (-9, "SIGKILL", ""),
    "import sys; sys.exit(9)": (9, None, ""),
    "def f(): f()\nf()": (1, None, "RecursionError"),
    "1 / 0": (1, None, "ZeroDivisionError"),
    "x = = 1": (1, None, "SyntaxError"),
    "import os; os.execv('/bin/sh', ['sh', '-c', 'exit 4'])": (4, None, ""),
    "import os\nfor n in range(99): os.open('/dev/null', 0)": (1, None, "Too many open files"),
    "print(input())": (1, None, "EOFError"),
    "import sys; sys.setrecursionlimit(10**9)\ndef f(): return [f()]\nf()": (None, None, ""),
    "raise SystemExit(KeyboardInterrupt)": (1, None, ""),
}


@pytest.mark.parametrize("source", CRASHES)
def test_a_program_that_crashes_is_reported_as_it_ended(run, source: str, namespaces: bool) -> None:
    code, killed_by, said = CRASHES[source]
    execution = run(source, namespaces=namespaces)
    assert execution.exit_code != 0
    assert said in execution.stderr
    if code is not None:
        assert (execution.exit_code, execution.killed_by) == (code, killed_by)


def test_a_program_reads_its_input_and_its_output_is_returned(run, namespaces: bool) -> None:
    source = "import sys\nprint(sys.stdin.read()[::-1]); sys.stderr.buffer.write(b'\\xff!')"
    execution = run(source, namespaces=namespaces, stdin="né" * 40_000, limits=Limits(output_kb=200))
    assert execution.stdout == "én" * 40_000 + "\n"
    assert execution.stderr == "\ufffd!"
    assert (execution.exit_code, execution.killed_by, execution.timed_out) == (0, None, False)


def test_a_program_runs_the_same_each_time(run, namespaces: bool) -> None:
    source = "import random\nprint(hash('a'), {str(n) for n in range(9)})"
    assert run(source, namespaces=namespaces).stdout == run(source, namespaces=namespaces).stdout


@pytest.mark.skipif(not Path(numpy.__file__).is_relative_to(sys.prefix), reason="numpy is not installed there")
def test_installed_packages_are_there_on_request(run, namespaces: bool) -> None:
    source = "import numpy; print(numpy.arange(3).sum())"
    limits = Limits(wall_s=20, memory_mb=1024)
    assert "ModuleNotFoundError" in run(source, namespaces=namespaces, limits=limits).stderr
    assert run(source, namespaces=namespaces, limits=limits, packages=True).stdout == "3\n"


def test_programs_run_beside_each_other(monkeypatch: pytest.MonkeyPatch, namespaces: bool) -> None:
    all_have_begun, watch = threading.Barrier(6), sandbox_run.watch

    def watch_together(*given: Any) -> Any:
        all_have_begun.wait(timeout=60)  # each has its launcher by now
        return watch(*given)

    def square(number: int) -> str:
        return run_program(f"print({number} ** 2)", namespaces=namespaces, limits=Limits(wall_s=30)).stdout

    monkeypatch.setattr(sandbox_run, "watch", watch_together)
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(square, range(12))) == [f"{number**2}\n" for number in range(12)]


def test_at_its_deadline_a_program_is_given_up(namespaces: bool) -> None:
    limits = Limits(wall_s=60)  # at which it would be killed, and no TimeoutError
    with pytest.raises(TimeoutError):
        run_program("import time; time.sleep(90)", namespaces=namespaces, limits=limits, deadline=time.monotonic() + 1)
    given = run_program("print(1)", namespaces=namespaces, limits=limits, deadline=time.monotonic() + 60)
    assert given.stdout == "1\n"


def test_an_interpreter_outside_of_an_environment_finds_its_library(namespaces: bool) -> None:
    """As with conda, pyenv or uv, where it lies neither in an environment nor in /usr."""
    base = os.path.realpath(sys.executable)
    source = "import decimal, json, sqlite3, unittest, zoneinfo; print('found')"
    for packages in (False, True):
        execution = run_program(source, python=base, packages=packages, namespaces=namespaces)
        assert (execution.stdout, execution.stderr) == ("found\n", "")


def test_a_link_brings_what_it_points_to_and_places_lie_in_no_other(tmp_path: Path) -> None:
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "name").symlink_to(tmp_path / "real")
    places = [str(tmp_path / name) for name in ("link", "real/inner", "nothing")]
    assert outermost(places) == [str(tmp_path / "link"), str(tmp_path / "real")]
    assert outermost(places[1:], [str(tmp_path / "name")]) == [str(tmp_path / "real/inner"), str(tmp_path / "name")]


@pytest.mark.parametrize("python", ["/no-such-python", "/bin/true"])
def test_what_is_no_interpreter_is_an_error_of_the_configuration(python: str) -> None:
    with pytest.raises(ConfigError, match=f"{python}.*give the path"):
        run_program("pass", python=python)


def test_a_system_that_has_no_sandbox_is_an_error_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(os, "name", "nt")
        with pytest.raises(ConfigError, match="Linux and macOS"):
            Tester()
        with pytest.raises(ConfigError, match="Linux and macOS"):
            run_program("pass", namespaces=False)


@on_linux
def test_an_interpreter_that_the_jail_hides_is_an_error_and_no_execution(monkeypatch, namespaces: bool) -> None:
    python = "/usr/bin/python3"
    if not Path(python).exists():
        pytest.skip("there is no other Python")
    from grpo.sandbox import interpreter

    monkeypatch.setattr(interpreter.Interpreter, "readable", lambda *_, **__: [])
    with pytest.raises(SandboxError, match="sandbox"):
        run_tests("x = 1", "assert x == 1", python=python, namespaces=namespaces)


@on_linux
def test_a_trouble_that_passes_does_not_switch_namespaces_off(monkeypatch, namespaces: bool, caplog) -> None:
    if not namespaces:
        pytest.skip("they are what it is about")
    monkeypatch.setattr(sandbox_run, "_answer", [])
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(tempfile, "tempdir", "/no-such-folder")
        with pytest.raises(SandboxError, match="no-such-folder"):
            run_program("pass")
    assert sandbox_run.namespaces_refused() is None
    assert run_program("import os; print(os.getppid())").stdout == "1\n"


def test_a_refusal_is_remembered_and_said_once(monkeypatch, caplog) -> None:
    asked: list[int] = []

    def refuse(*_: object, **__: object) -> None:
        asked.append(1)
        raise SandboxError("sandbox cannot start", refused="unshare is not permitted")

    monkeypatch.setattr(sandbox_run, "_answer", [])
    monkeypatch.setattr(sandbox_run, "run_reported", refuse)
    monkeypatch.setattr(sys, "platform", "linux")
    with caplog.at_level(logging.WARNING):
        assert [sandbox_run.namespaces_refused() for _ in range(3)] == ["unshare is not permitted"] * 3
    assert len(asked) == 1
    (record,) = caplog.records
    assert "without namespaces" in record.message
    assert "grpo doctor --sandbox" in record.message


def test_only_the_report_before_the_programs_start_names_the_group_to_kill() -> None:
    from grpo.sandbox.watch import _Streams

    streams = _Streams(Limits())
    streams.reports += b"{'started': True, 'group': 7}\n{'ended': 0, 'cpu_s': 0.1, 'group': 1}\n{'group"
    assert streams.first_report()["group"] == 7
    assert streams.report()["ended"] == 0
