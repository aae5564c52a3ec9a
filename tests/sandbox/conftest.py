from __future__ import annotations

import contextlib
import functools
import os
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from grpo.processes import adopt_orphans, descendants
from grpo.sandbox import Execution, Limits, protections, run_program
from grpo.sandbox import run as sandbox_run

SMALL = Limits(wall_s=30, cpu_s=3, memory_mb=160, processes=8, output_kb=32, file_kb=512)
"""Time enough on a machine that is busy: where the wall limit is what a test is about, it sets its own."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and os.name != "posix":
            item.add_marker(pytest.mark.skip(reason="the sandbox needs Linux or macOS"))


@pytest.fixture(params=[True, False], ids=["namespaces", "without"])
def namespaces(request: pytest.FixtureRequest) -> bool:
    """Each of the two ways to run a program, where this machine has it."""
    refusal = sandbox_run.namespaces_refused() if request.param else None
    if refusal is not None:
        if must_be_there():
            pytest.fail(f"namespaces are refused to root: {refusal}")
        pytest.skip(f"namespaces are not to be had here: {refusal}")
    return bool(request.param)


def must_be_there() -> bool:
    """Whether a protection that is lost is a failure: where tests run for all, nobody reads what was skipped."""
    return bool(os.environ.get("CI")) and sys.platform == "linux" and os.geteuid() == 0


@functools.lru_cache
def _protected(namespaces: bool) -> frozenset[str]:
    return frozenset(one.name for one in protections(namespaces=namespaces) if one.in_force)


@pytest.fixture
def needs(namespaces: bool) -> Callable[[str], None]:
    """Do not even try what nothing would stop."""

    def check(name: str) -> None:
        if name not in _protected(namespaces):
            if must_be_there():
                pytest.fail(f"not in force: {name}")
            pytest.skip(f"not in force here: {name}")

    return check


@pytest.fixture
def small() -> Limits:
    return SMALL


@pytest.fixture
def run() -> Callable[..., Execution]:
    """Run a program, and look whether no more of its output came out than its limits allow."""

    def run_it(
        source: str, *, namespaces: bool | None, limits: Limits = SMALL, stdin: str = "", **options: object
    ) -> Execution:
        execution = run_program(textwrap.dedent(source), limits=limits, namespaces=namespaces, stdin=stdin, **options)
        assert len(execution.stdout) <= limits.output_kb * 1024
        assert len(execution.stderr) <= limits.output_kb * 1024
        return execution

    return run_it


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Take parts of the jail away, as on a machine that lacks them."""
    lines = {
        "filter": "sys.modules['grpo.sandbox.launcher.main'].filter_instructions = lambda **_: None\n",
        "landlock": (
            "def refuse(*_): raise OSError(38, 'no Landlock')\n"
            "sys.modules['grpo.sandbox.launcher.kernel'].restrict_files = refuse\n"
        ),
    }

    def take_away(*parts: str) -> None:
        text = sandbox_run._BOOTSTRAP + "".join(lines[part] for part in parts)
        monkeypatch.setattr(sandbox_run, "_BOOTSTRAP", text)

    return take_away


@pytest.fixture(scope="package", autouse=True)
def orphans_come_here() -> Iterator[None]:
    """What escapes from a sandbox becomes a child of this process, where `nothing_is_left` finds it."""
    adopt_orphans()
    yield


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No process and no file of a sandbox outlives the call that made it."""
    tmp_path_factory.getbasetemp()  # before there is another place for temporary files
    before = set(descendants(os.getpid()))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # another user's programs run in it
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield
        assert set(descendants(os.getpid())) <= before
        assert list(Path(folder).iterdir()) == []


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that belongs to the user and is no business of a program."""
    file = tmp_path / "secret.txt"
    file.write_text("the secret")
    return file


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Wait for something to come about, ten seconds at most."""

    def wait(condition: Callable[[], bool]) -> None:
        for _ in range(400):
            if condition():
                return
            time.sleep(0.025)
        raise AssertionError("it did not come about within ten seconds")

    return wait


@pytest.fixture
def command_line() -> Callable[[int], str]:
    """What a process was started with; nothing when it has ended."""

    def read(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
        except OSError:
            return ""

    return read


@pytest.fixture
def reap(until) -> Callable[[], None]:
    """Wait for what came to this process when its parent was killed."""
    before = set(descendants(os.getpid()))

    def all_gone() -> bool:
        left = set(descendants(os.getpid())) - before
        for pid in left:
            with contextlib.suppress(ChildProcessError):  # a child of one of them, for a moment still
                os.waitpid(pid, os.WNOHANG)
        return not left

    return lambda: until(all_gone)


ATTEMPTS = """
import inspect
def try_all(*attempts):
    for attempt in attempts:
        try:
            result = attempt()
        except (OSError, ValueError):
            continue
        if isinstance(result, int) and result < 0:  # of a system call
            continue
        print("got through:", inspect.getsource(attempt).strip(), result)
"""


@pytest.fixture
def attempts() -> str:
    """The beginning of a program that tries things and prints those that came about."""
    return ATTEMPTS
