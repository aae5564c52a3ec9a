"""Hostile programs, in namespaces and without: each is contained, reported and gone."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest

from grpo.errors import ConfigError, RunError
from grpo.sandbox import Execution, Limits, protections, run_program
from grpo.sandbox.run import namespaces_refused

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the sandbox needs Linux or macOS")

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
needs_namespaces = pytest.mark.skipif(bool(namespaces_refused()), reason="namespaces are not to be had here")
MODES = [pytest.param(True, id="namespaces", marks=needs_namespaces), pytest.param(False, id="without")]
SMALL = Limits(wall_s=1.0, cpu_s=3, memory_mb=160, processes=8, output_kb=32, file_kb=512)


@pytest.fixture(scope="module", autouse=True)
def orphans_come_here() -> Iterator[None]:
    """What escapes from a sandbox becomes a child of this process, where `nothing_is_left` finds it."""
    if sys.platform == "linux":
        from grpo.sandbox.kernel import adopt_orphans

        adopt_orphans()
    yield


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No process and no file of a sandbox outlives the call that made it."""
    from grpo.sandbox.census import descendants

    tmp_path_factory.getbasetemp()  # before there is another place for temporary files
    before = set(descendants(os.getpid()))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # another user's programs run in it
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield
        assert set(descendants(os.getpid())) <= before
        assert list(Path(folder).iterdir()) == []


def run(source: str, *, namespaces: bool | None, limits: Limits = SMALL, **options: object) -> Execution:
    execution = run_program(textwrap.dedent(source), limits=limits, namespaces=namespaces, **options)
    assert execution.seconds <= limits.wall_s + 1
    assert len(execution.stdout) <= limits.output_kb * 1024
    assert len(execution.stderr) <= limits.output_kb * 1024
    return execution


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


@pytest.mark.parametrize("namespaces", MODES)
@pytest.mark.parametrize("name", LOOPS)
def test_a_program_that_does_not_end_is_ended_at_its_wall_limit(name: str, namespaces: bool) -> None:
    limits = Limits(wall_s=0.4, cpu_s=3, memory_mb=160, processes=8)
    execution = run(LOOPS[name], namespaces=namespaces, limits=limits)
    assert execution.timed_out
    assert execution.killed_by == "wall time"
    assert execution.exit_code == -9


@pytest.mark.parametrize("namespaces", MODES)
def test_a_program_that_computes_too_long_is_ended_at_its_cpu_limit(namespaces: bool) -> None:
    execution = run("while True: pass", namespaces=namespaces, limits=Limits(wall_s=20, cpu_s=1))
    assert (execution.killed_by, execution.exit_code, execution.timed_out) == ("cpu time", -24, False)


def test_a_program_cannot_ignore_its_cpu_limit() -> None:
    source = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    execution = run(source, namespaces=None, limits=Limits(wall_s=20, cpu_s=1))
    assert (execution.killed_by, execution.exit_code, execution.timed_out) == ("cpu time", -9, False)


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
        while True: threading.Thread(target=time.sleep, args=(9,)).start()
    """,
    "starts shells without end": """
        import os
        while True: os.spawnlp(os.P_NOWAIT, "sh", "sh", "-c", "sleep 9 & sleep 9")
    """,
}


@pytest.mark.parametrize("namespaces", MODES)
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_processes_is_held_back_or_ended(name: str, namespaces: bool) -> None:
    execution = run(FLOODS[name], namespaces=namespaces)
    assert execution.exit_code != 0
    assert execution.killed_by in (None, "processes", "memory", "wall time", "output")


LEAVERS = {
    "a child that stays": "import os, time\nif os.fork() == 0: time.sleep(100)",
    "a daemon": """
        import os, time
        if os.fork() == 0:
            try: os.setsid()
            except OSError: pass
            if os.fork() == 0:
                for n in range(3): os.close(n)
                time.sleep(100)
            os._exit(0)
    """,
    "a shell in the background": "import subprocess; subprocess.Popen('sleep 100 & sleep 100', shell=True)",
    "a child in another group": """
        import os, time
        if os.fork() == 0:
            try: os.setpgid(0, 0)
            except OSError: pass
            time.sleep(100)
    """,
}


@pytest.mark.parametrize("namespaces", MODES)
@pytest.mark.parametrize("name", LEAVERS)
def test_what_a_program_leaves_behind_ends_with_it(name: str, namespaces: bool) -> None:
    execution = run(LEAVERS[name], namespaces=namespaces)
    assert execution.exit_code == 0
    assert execution.seconds < SMALL.wall_s


GREEDY = {
    "allocates in one piece": ("bytearray(1 << 33)", None),
    "allocates bit by bit": ("a = []\nwhile True: a.append(bytearray(1 << 20))", None),
    "allocates in children": (
        """
        import os, time
        for _ in range(5):
            if os.fork() == 0:
                held = b"x" * (60 << 20)
                time.sleep(9)
        time.sleep(9)
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
                time.sleep(9)
        time.sleep(9)
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
@pytest.mark.parametrize("namespaces", MODES)
@pytest.mark.parametrize("name", GREEDY)
def test_a_program_gets_no_more_memory_than_its_limit(name: str, namespaces: bool) -> None:
    source, killed_by = GREEDY[name]
    execution = run(source, namespaces=namespaces, limits=Limits(wall_s=6, memory_mb=160, processes=8))
    assert execution.exit_code != 0
    assert execution.killed_by == killed_by
    if killed_by is None:
        assert "MemoryError" in execution.stderr or "PermissionError" in execution.stderr


@pytest.mark.parametrize("namespaces", MODES)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_program_that_prints_gigabytes_is_ended(stream: str, namespaces: bool) -> None:
    execution = run(f"import sys\nwhile True: sys.{stream}.write('x' * 65536)", namespaces=namespaces)
    assert execution.killed_by == "output"
    assert execution.truncated
    assert not execution.timed_out
    assert getattr(execution, stream) == "x" * (SMALL.output_kb * 1024)


@pytest.mark.parametrize("namespaces", MODES)
def test_output_above_the_limit_is_told_even_when_the_program_ends_by_itself(namespaces: bool) -> None:
    execution = run("print('x' * 33000)", namespaces=namespaces)
    assert (execution.killed_by, execution.truncated) == ("output", True)
    assert run("print('x' * 32000)", namespaces=namespaces).killed_by is None


@pytest.mark.parametrize("namespaces", MODES)
def test_a_large_file_cannot_be_written(namespaces: bool) -> None:
    execution = run("open('big', 'wb').write(b'x' * (1 << 21))", namespaces=namespaces)
    assert execution.exit_code == 1
    assert "OSError" in execution.stderr


@on_linux
@pytest.mark.parametrize("namespaces", MODES)
def test_many_files_cannot_fill_the_disk(namespaces: bool) -> None:
    source = """
        import time
        for number in range(10**6):
            with open(f"file{number}", "wb") as file: file.write(b"x" * 100_000)
            time.sleep(0.002)
    """
    execution = run(source, namespaces=namespaces)
    assert execution.killed_by == (None if namespaces else "files")
    assert namespaces is False or "No space left" in execution.stderr


@pytest.mark.parametrize("namespaces", MODES)
def test_a_folder_that_resists_removal_is_removed(namespaces: bool) -> None:
    source = """
        import os
        os.mkdir("shut"); open("shut/file", "w").close(); os.chmod("shut", 0)
        for _ in range(300):
            os.mkdir("deeper" * 20); os.chdir("deeper" * 20)
    """
    assert run(source, namespaces=namespaces).exit_code in (0, 1)  # the files may be too many for its limit


@functools.lru_cache
def protected(namespaces: bool) -> frozenset[str]:
    return frozenset(one.name for one in protections(namespaces=namespaces) if one.in_force)


def needs(name: str, namespaces: bool) -> None:
    """Do not even try what nothing would stop."""
    if name not in protected(namespaces):
        pytest.skip(f"not in force here: {name}")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that belongs to the user and is no business of a program."""
    file = tmp_path / "secret.txt"
    file.write_text("the secret")
    return file


@on_linux
@pytest.mark.parametrize("namespaces", MODES)
def test_files_outside_its_folder_can_be_neither_read_nor_written(secret: Path, namespaces: bool) -> None:
    needs("reads no files outside its folder", namespaces)
    needs("writes no files outside its folder", namespaces)
    at_home = next((file for file in Path.home().iterdir() if file.is_file()), secret)
    source = f"""
        import os
        for attempt in (
            lambda: open({str(secret)!r}).read(),
            lambda: open({str(secret)!r}, "a").write("x"),
            lambda: open({str(secret.parent / "new")!r}, "w"),
            lambda: os.unlink({str(secret)!r}),
            lambda: open({str(at_home)!r}).read(),
            lambda: os.truncate({str(secret)!r}, 0),
            lambda: os.rename({str(secret)!r}, "taken"),
            lambda: os.link({str(secret)!r}, "linked"),
            lambda: (os.symlink({str(secret)!r}, "pointer"), open("pointer").read()),
            lambda: open("../" * 30 + {str(secret)[1:]!r}).read(),
            lambda: open("/proc/1/root" + {str(secret)!r}).read(),
            lambda: open("/proc/self/root" + {str(secret)!r}).read(),
            lambda: open("/etc/passwd").read(),
            lambda: open("/usr/new", "w"),
            lambda: open(os.__file__, "a"),
            lambda: open("/dev/mem", "rb").read(1),
            lambda: open("/dev/shm/new", "w"),
            lambda: os.mkdir("/new"),
        ):
            try:
                attempt()
            except OSError:
                continue
            import inspect
            print("got through:", inspect.getsource(attempt))
        open("mine", "w").write("fine")
        print(open("mine").read())
    """
    execution = run(source, namespaces=namespaces)
    assert (execution.stdout, execution.stderr) == ("fine\n", "")
    assert secret.read_text() == "the secret"
    assert sorted(secret.parent.iterdir()) == [secret]


@on_linux
@pytest.mark.parametrize("namespaces", MODES)
def test_the_environment_of_the_caller_is_not_to_be_had(monkeypatch: pytest.MonkeyPatch, namespaces: bool) -> None:
    monkeypatch.setenv("SECRET_KEY", "do-not-tell")
    source = f"""
        import glob, os
        print(os.environ.get("SECRET_KEY"))
        for place in [*glob.glob("/proc/[0-9]*/environ"), "/proc/{os.getpid()}/environ"]:
            try:
                print(b"do-not-tell" in open(place, "rb").read())
            except OSError:
                pass
    """
    needs("does not see the caller's environment", namespaces)
    execution = run(source, namespaces=namespaces)
    assert execution.stdout.startswith("None\n")
    assert "True" not in execution.stdout


@on_linux
@pytest.mark.parametrize("namespaces", MODES)
def test_sockets_lead_nowhere(tmp_path: Path, namespaces: bool) -> None:
    needs("reaches no network", namespaces)
    source = """
        import socket, sys
        port, path, name = int(sys.stdin.readline()), sys.stdin.readline().strip(), sys.stdin.readline().strip()
        for attempt in (
            lambda: socket.create_connection(("127.0.0.1", port), timeout=1),
            lambda: socket.create_connection(("::1", port), timeout=1),
            lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port)),
            lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)),
            lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
            lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
            lambda: socket.socket(40, socket.SOCK_STREAM),
            lambda: socket.socket(socket.AF_UNIX).connect(path),
            lambda: socket.socket(socket.AF_UNIX).connect("\\0" + name),
            lambda: socket.getaddrinfo("example.org", 80),
        ):
            try:
                attempt()
            except OSError:
                continue
            import inspect
            print("got through:", inspect.getsource(attempt))
        print("done")
    """
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        name = f"grpo-sandbox-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX) as abstract:
            local.bind(str(tmp_path / "socket"))
            abstract.bind("\0" + name)
            local.listen()
            abstract.listen()
            stdin = f"{server.getsockname()[1]}\n{tmp_path / 'socket'}\n{name}\n"
            execution = run(source, namespaces=namespaces, stdin=stdin)
    assert (execution.stdout, execution.stderr) == ("done\n", "")


@on_linux
@pytest.mark.parametrize("namespaces", MODES)
def test_no_process_but_its_own_can_be_signalled_or_looked_into(namespaces: bool) -> None:
    needs("signals no other process", namespaces)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        source = f"""
            import ctypes, fcntl, os, resource, signal
            victims = [os.getppid(), {bystander.pid}, {os.getpid()}]
            libc = ctypes.CDLL(None, use_errno=True)
            def checked(result):
                if result < 0: raise OSError(ctypes.get_errno())
            for victim in victims:
                for attempt in (
                    lambda: libc.ptrace(16, victim, 0, 0),
                    lambda: libc.syscall(234, victim, victim, 9),
                    lambda: libc.syscall(200, victim, 9),
                    lambda: libc.syscall(129, victim, 9, ctypes.create_string_buffer(128)),
                ):
                    try: checked(attempt())
                    except OSError: continue
                for attempt in (
                    lambda: resource.prlimit(victim, resource.RLIMIT_CPU, (0, 0)),
                    lambda: fcntl.fcntl(1, fcntl.F_SETOWN, victim),
                    lambda: os.setpriority(os.PRIO_PROCESS, victim, 19),
                    lambda: os.kill(victim, signal.SIGSTOP),
                    lambda: os.kill(victim, signal.SIGKILL),
                    lambda: os.killpg(victim, signal.SIGKILL),
                ):
                    try: attempt()
                    except OSError: continue
            try: os.kill(-1, signal.SIGKILL)
            except OSError: pass
            print("still here", flush=True)
            try: os.kill(0, signal.SIGKILL)
            except OSError: pass
        """
        execution = run(source, namespaces=namespaces)
        assert execution.stdout == "still here\n"
        assert execution.exit_code in (0, -9)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@on_linux
@pytest.mark.parametrize("namespaces", MODES)
def test_privileges_cannot_be_gained(namespaces: bool) -> None:
    needs("makes no unusual system calls", namespaces)
    source = """
        import ctypes, os, resource, subprocess
        libc = ctypes.CDLL(None, use_errno=True)
        print(libc.unshare(0x10000000), libc.unshare(0x20000), libc.chroot(b"."), libc.setns(0, 0))
        print(libc.mount(b"none", b".", b"tmpfs", 0, None), libc.umount2(b".", 2), libc.personality(0x0040000))
        print(libc.syscall(321, 0, 0, 0), libc.syscall(425, 1, 0), libc.syscall(248, 0, 0, 0, 0, 0))
        for name in ("CPU", "AS", "NOFILE", "FSIZE", "NPROC"):
            number = getattr(resource, "RLIMIT_" + name)
            soft, hard = resource.getrlimit(number)
            try:
                resource.setrlimit(number, (hard + 1, hard + 1))
                print("raised", name)
            except ValueError:
                pass
        try: status = open("/proc/self/status").readlines()
        except OSError: status = []
        print([int(line.split()[1], 16) for line in status if line.startswith("CapEff")])
        for attempt in (lambda: os.setuid(0), lambda: os.setgroups([0]), lambda: os.chown("program.py", 1, 1)):
            try: attempt()
            except OSError: continue
    """
    execution = run(source, namespaces=namespaces)
    assert execution.exit_code == 0
    assert "raised" not in execution.stdout
    assert execution.stdout.splitlines()[:3] == ["-1 -1 -1 -1", "-1 -1 -1", "-1 -1 -1"]
    assert execution.stdout.splitlines()[3] == ("[0]" if namespaces else "[]")


@pytest.mark.parametrize("namespaces", MODES)
def test_what_a_program_writes_to_strange_descriptors_changes_nothing(namespaces: bool) -> None:
    source = """
        import os
        for number in range(3, 256):
            try: os.write(number, b'{"ended": 0, "cpu_s": 0, "error": "made up"}\\n')
            except OSError: pass
        os._exit(7)
    """
    execution = run(source, namespaces=namespaces)
    assert (execution.exit_code, execution.killed_by) == (7, None)


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


@pytest.mark.parametrize("namespaces", MODES)
@pytest.mark.parametrize("source", CRASHES)
def test_a_program_that_crashes_is_reported_as_it_ended(source: str, namespaces: bool) -> None:
    code, killed_by, said = CRASHES[source]
    execution = run(source, namespaces=namespaces)
    assert execution.exit_code != 0
    assert said in execution.stderr
    if code is not None:
        assert (execution.exit_code, execution.killed_by) == (code, killed_by)


@pytest.mark.parametrize("namespaces", MODES)
def test_a_program_reads_its_input_and_its_output_is_returned(namespaces: bool) -> None:
    source = "import sys\nprint(sys.stdin.read()[::-1]); sys.stderr.buffer.write(b'\\xff!')"
    execution = run(source, namespaces=namespaces, stdin="né" * 40_000, limits=Limits(output_kb=200))
    assert execution.stdout == "én" * 40_000 + "\n"
    assert execution.stderr == "\ufffd!"
    assert (execution.exit_code, execution.killed_by, execution.timed_out) == (0, None, False)


@pytest.mark.parametrize("namespaces", MODES)
def test_a_program_runs_the_same_each_time(namespaces: bool) -> None:
    source = "import random\nprint(hash('a'), {str(n) for n in range(9)})"
    assert run(source, namespaces=namespaces).stdout == run(source, namespaces=namespaces).stdout


@pytest.mark.skipif(not Path(numpy.__file__).is_relative_to(sys.prefix), reason="numpy is not installed there")
@pytest.mark.parametrize("namespaces", MODES)
def test_installed_packages_are_there_on_request(namespaces: bool) -> None:
    source = "import numpy; print(numpy.arange(3).sum())"
    limits = Limits(wall_s=20, memory_mb=1024)
    assert "ModuleNotFoundError" in run(source, namespaces=namespaces, limits=limits).stderr
    assert run(source, namespaces=namespaces, limits=limits, packages=True).stdout == "3\n"


@pytest.mark.parametrize("namespaces", MODES)
def test_programs_run_beside_each_other(namespaces: bool) -> None:
    def square(number: int) -> str:
        return run_program(f"print({number} ** 2)", namespaces=namespaces).stdout

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(square, range(12))) == [f"{number**2}\n" for number in range(12)]


@on_linux
@pytest.mark.parametrize("namespaces", MODES)
def test_when_the_caller_is_killed_the_program_ends(namespaces: bool) -> None:
    caller = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from grpo.sandbox import Limits, run_program\n"
            f"run_program('import time; time.sleep(60)', limits=Limits(wall_s=50), namespaces={namespaces})",
        ]
    )
    from grpo.sandbox.census import descendants

    until(lambda: any("program.py" in command_line(pid) for pid in descendants(caller.pid)))
    started = descendants(caller.pid)
    caller.kill()
    caller.wait()
    until(lambda: not any("program.py" in command_line(pid) or "jail" in command_line(pid) for pid in started))
    for pid in descendants(os.getpid()):  # they came to this process, which is to reap them
        os.waitpid(pid, 0)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(400):
        if condition():
            return
        waiting.wait(0.025)
    raise AssertionError("it did not come about within ten seconds")


@pytest.mark.parametrize("limits", [{"wall_s": 0}, {"memory_mb": -1}, {"processes": True}, {"output_kb": float("inf")}])
def test_limits_that_make_no_sense_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(limits))):
        Limits(**limits)


def test_an_interpreter_that_is_not_there_is_an_error_and_no_execution() -> None:
    with pytest.raises(RunError, match="no-such-python"):
        run_program("pass", python="/no-such-python")


@on_linux
@pytest.mark.parametrize("namespaces", MODES)
def test_protections_are_told_with_their_means(namespaces: bool) -> None:
    told = {one.name: one for one in protections(namespaces=namespaces)}
    assert told["namespaces of its own"].in_force is namespaces
    assert all(one.how for one in told.values())
    if namespaces:
        assert [name for name, one in told.items() if not one.in_force] == []
    assert told["memory of each process"].in_force
    assert told["number of processes"].in_force
