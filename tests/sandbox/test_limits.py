"""Programs that take more than they may: each is held back or ended, reported and gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from grpo.errors import ConfigError
from grpo.processes import descendants
from grpo.sandbox import Limits, run_program
from grpo.sandbox.launcher.census import census

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

BUSY_S = 15
"""How much longer anything may take on a machine that is busy."""

LOOPS = {
    "loops for ever": "while True: pass",
    "sleeps": "import time; time.sleep(100)",
    "ignores every signal": """
        import signal, time
        for number in range(1, 32):
            if number not in (9, 19):
                signal.signal(number, signal.SIG_IGN)
        while True: time.sleep(1)
    """,
    "stops itself": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    "closes its pipes": "import os, time\nfor n in range(3): os.close(n)\nwhile True: time.sleep(1)",
    "closes every descriptor": "import os, time\nos.closerange(0, 4096)\nwhile True: time.sleep(1)",
    "waits for input": "import threading; threading.Event().wait()",
    "does not come back from a child": "import os\nif os.fork() == 0:\n    while True: pass\nos.wait()",
    "backtracks": "import re; re.match('(a*)*b', 'a' * 40)",
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_program_that_does_not_end_is_ended_at_its_wall_limit(run, name: str, namespaces: bool) -> None:
    limits = Limits(wall_s=0.4, cpu_s=3, memory_mb=160, processes=8)
    began = time.monotonic()
    execution = run(LOOPS[name], namespaces=namespaces, limits=limits)
    assert time.monotonic() - began < limits.wall_s + 1 + BUSY_S
    assert execution.timed_out
    assert execution.killed_by == "wall time"
    assert execution.exit_code == -9


def test_a_program_that_computes_too_long_is_ended_at_its_cpu_limit(run, namespaces: bool) -> None:
    execution = run("while True: pass", namespaces=namespaces, limits=Limits(wall_s=60, cpu_s=1))
    assert (execution.killed_by, execution.exit_code, execution.timed_out) == ("cpu time", -24, False)


def test_a_program_cannot_ignore_its_cpu_limit(run) -> None:
    source = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    execution = run(source, namespaces=None, limits=Limits(wall_s=60, cpu_s=1))
    assert (execution.killed_by, execution.exit_code, execution.timed_out) == ("cpu time", -9, False)


@on_linux
def test_a_program_is_ended_by_its_launcher_when_the_caller_does_not_look(
    namespaces: bool, until, command_line
) -> None:
    source = (
        "from grpo.sandbox import Limits, run_program\n"
        "program = 'import time; time.sleep(60)'\n"
        f"print(run_program(program, limits=Limits(wall_s=0.3), namespaces={namespaces}).killed_by)"
    )
    caller = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    until(lambda: any("program.py" in command_line(pid) for pid in descendants(caller.pid)))
    caller.send_signal(signal.SIGSTOP)
    until(lambda: not any("program.py" in command_line(pid) for pid in descendants(caller.pid)))
    caller.send_signal(signal.SIGCONT)
    assert caller.communicate(timeout=60)[0] == "wall time\n"


FLOODS = {
    "forks without end": "import os\nwhile True: os.fork()",
    "forks without end and hides": """
        import os
        while True:
            try:
                if os.fork() == 0: os.setsid()
            except OSError: pass
    """,
    "starts threads without end": """
        import threading, time
        while True:
            try: threading.Thread(target=time.sleep, args=(60,)).start()
            except RuntimeError: pass
    """,
    "starts shells without end": """
        import os
        while True: os.spawnlp(os.P_NOWAIT, "sh", "sh", "-c", "sleep 60 & sleep 60")
    """,
}


@contextmanager
def most_tasks() -> Iterator[list[int]]:
    """Give a list that in the end holds the largest number of threads that descended from this process."""
    found, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(0.002):
            found[0] = max(found[0], census(os.getpid())[0])

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()


@on_linux
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_processes_and_threads_is_held_back_or_ended(run, small, name: str, namespaces: bool) -> None:
    # What the kernel holds back may try for ever; what it does not, the launcher ends.
    limits = replace(small, wall_s=1.5) if namespaces else small
    # Nothing that root starts is too much for the kernel: as another user, where there is an interpreter for all.
    python = "/usr/bin/python3" if os.geteuid() == 0 and Path("/usr/bin/python3").exists() else sys.executable
    with most_tasks() as most:
        execution = run(FLOODS[name], namespaces=namespaces, limits=limits, python=python)
    assert execution.exit_code != 0
    # In namespaces: the program's, its launcher, and the first process. Without, the kernel lets some more begin
    # until the launcher looks, but not very many.
    assert 1 < most[0] <= small.processes + (3 if namespaces else 3 * small.processes + 64 + 8)
    if not namespaces and "except" in FLOODS[name]:  # else the first refusal may have been its end
        assert execution.killed_by in ("processes", "memory")


def test_as_many_threads_as_are_allowed_can_run(run, small, namespaces: bool) -> None:
    source = f"""
        import threading, time
        threads = [threading.Thread(target=time.sleep, args=(0.1,)) for _ in range({small.processes - 1})]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print("done")
    """
    assert run(source, namespaces=namespaces).stdout == "done\n"


GREEDY = {
    "allocates in one piece": ("bytearray(1 << 33)", None),
    "allocates bit by bit": ("a = []\nwhile True: a.append(bytearray(1 << 20))", None),
    "allocates in children": (
        """
        import os, time
        for _ in range(5):
            if os.fork() == 0:
                held = b"x" * (60 << 20)
                time.sleep(60)
        time.sleep(60)
        """,
        "memory",
    ),
    "allocates shared memory": (
        """
        import mmap, os, time
        for _ in range(5):
            if os.fork() == 0:
                held = mmap.mmap(-1, 60 << 20)
                for page in range(0, len(held), 4096): held[page] = 1
                time.sleep(60)
        time.sleep(60)
        """,
        "memory",
    ),
    "keeps files in memory": (
        """
        import os
        for _ in range(50):
            os.write(os.memfd_create("a"), b"x" * (1 << 19))
        """,
        None,
    ),
}


@on_linux
@pytest.mark.parametrize("name", GREEDY)
def test_a_program_gets_no_more_memory_than_its_limit(run, name: str, namespaces: bool) -> None:
    source, killed_by = GREEDY[name]
    execution = run(source, namespaces=namespaces, limits=Limits(wall_s=30, memory_mb=160, processes=8))
    assert execution.exit_code != 0
    assert execution.killed_by == killed_by
    if killed_by is None:
        assert "MemoryError" in execution.stderr or "PermissionError" in execution.stderr


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_program_that_prints_gigabytes_is_ended(run, small, stream: str, namespaces: bool) -> None:
    execution = run(f"import sys\nwhile True: sys.{stream}.write('x' * 65536)", namespaces=namespaces)
    assert execution.killed_by == "output"
    assert execution.truncated
    assert not execution.timed_out
    assert getattr(execution, stream) == "x" * (small.output_kb * 1024)


def test_output_above_the_limit_is_told_even_when_the_program_ends_by_itself(run, namespaces: bool) -> None:
    execution = run("print('x' * 33000)", namespaces=namespaces)
    assert (execution.killed_by, execution.truncated) == ("output", True)
    assert run("print('x' * 32000)", namespaces=namespaces).killed_by is None


def test_a_large_file_cannot_be_written(run, namespaces: bool) -> None:
    execution = run("open('big', 'wb').write(b'x' * (1 << 21))", namespaces=namespaces)
    assert execution.exit_code == 1
    assert "OSError" in execution.stderr


@on_linux
def test_many_files_cannot_fill_the_disk(run, namespaces: bool) -> None:
    source = """
        import time
        for number in range(10**6):
            with open(f"file{number}", "wb") as file: file.write(b"x" * 100_000)
            time.sleep(0.002)
    """
    execution = run(source, namespaces=namespaces)
    assert execution.killed_by == (None if namespaces else "files")
    assert namespaces is False or "No space left" in execution.stderr


HIDDEN = {
    "unlinked": "files.append(file)",
    # Not by the module mmap, which keeps the file open.
    "unlinked and mapped": "map_it(None, long(100_000), 3, 1, file.fileno(), long(0)); file.close()",
    "in a folder that is shut": "file.close(); os.rename('file', f'shut/file{number}')",
    "in a folder too deep for a path": "file.close(); os.rename('file', f'{number}')",
}


@on_linux
@pytest.mark.parametrize("name", HIDDEN)
def test_files_that_hide_cannot_fill_the_disk(run, name: str, namespaces: bool) -> None:
    before = {
        "in a folder that is shut": "os.mkdir('shut', 0o300)",
        "in a folder too deep for a path": "for _ in range(20): os.mkdir('d' * 250); os.chdir('d' * 250)",
    }
    source = f"""
import ctypes, os, time
files, map_it, long = [], ctypes.CDLL(None).mmap, ctypes.c_long
{before.get(name, "")}
for number in range(40):
    file = open("file", "wb+")
    file.write(b"x" * 100_000); file.flush()
    {"os.unlink('file')" if "unlinked" in name else "pass"}
    {HIDDEN[name]}
    time.sleep(0.025)
"""
    execution = run(source, namespaces=namespaces, limits=Limits(wall_s=30, file_kb=512))
    assert execution.killed_by == (None if namespaces else "files")
    assert namespaces is False or "No space left" in execution.stderr


@on_linux
def test_the_kernel_holds_every_limit_of_a_process(run, namespaces: bool) -> None:
    source = """
        import resource
        for name in ("CPU", "FSIZE", "CORE", "NOFILE", "MEMLOCK", "MSGQUEUE", "SIGPENDING", "STACK", "AS"):
            print(name, *resource.getrlimit(getattr(resource, "RLIMIT_" + name)))
        print("NPROC", resource.getrlimit(resource.RLIMIT_NPROC)[0] < 100_000)
    """
    execution = run(source, namespaces=namespaces, limits=Limits(wall_s=30, cpu_s=3, memory_mb=100, file_kb=10))
    assert execution.stdout == textwrap.dedent(f"""\
        CPU 3 4
        FSIZE {10 << 10} {10 << 10}
        CORE 0 0
        NOFILE 64 64
        MEMLOCK 0 0
        MSGQUEUE 0 0
        SIGPENDING 64 64
        STACK {8 << 20} {8 << 20}
        AS {100 << 20} {100 << 20}
        NPROC True
        """)


WRONG = [
    {"wall_s": 0},
    {"wall_s": 1e12},
    {"cpu_s": 1e9},
    {"memory_mb": -1},
    {"memory_mb": 5},
    {"memory_mb": 1e15},
    {"processes": True},
    {"processes": 0.5},
    {"output_kb": float("inf")},
    {"file_kb": float("nan")},
]


@pytest.mark.parametrize("limits", WRONG)
def test_limits_that_make_no_sense_are_refused_with_their_range(limits: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(limits))}.*from .* to "):
        Limits(**limits)


def test_the_least_of_every_limit_but_the_time_is_enough_for_a_small_program(namespaces: bool) -> None:
    least = Limits(wall_s=30, cpu_s=0.01, memory_mb=48, processes=1, output_kb=0.001, file_kb=0.001)
    execution = run_program("print(1)", limits=least, namespaces=namespaces)
    assert (execution.stdout, execution.stderr, execution.killed_by) == ("1\n", "", None)
