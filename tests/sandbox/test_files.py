"""What a program sees of the file system, what it may change there, and that all it made is removed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from grpo.errors import SandboxError
from grpo.processes import descendants

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@on_linux
def test_files_outside_its_folder_can_be_neither_read_nor_written(
    run, needs, secret: Path, attempts: str, namespaces: bool
) -> None:
    needs("reads no files outside its folder")
    needs("writes no files outside its folder")
    at_home = next((file for file in Path.home().iterdir() if file.is_file()), secret)
    source = f"""{attempts}
import os
try_all(
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
    lambda: open("/usr/lib/new", "w"),
    lambda: open(os.__file__, "a"),
    lambda: open("/dev/mem", "rb").read(1),
    lambda: open("/dev/shm/new", "w"),
    lambda: os.mkdir("/new"),
    lambda: os.listdir("/usr/src"),
    lambda: os.listdir("/usr/include"),
)
open("mine", "w").write("fine")
print(open("mine").read())
"""
    execution = run(source, namespaces=namespaces)
    assert (execution.stdout, execution.stderr) == ("fine\n", "")
    assert secret.read_text() == "the secret"
    assert sorted(secret.parent.iterdir()) == [secret]


@on_linux
@pytest.mark.parametrize("landlock", [True, False], ids=["landlock", "no-landlock"])
def test_mode_owner_times_attributes_and_length_of_others_files_cannot_be_changed(
    run, *, needs, without, secret: Path, attempts: str, namespaces: bool, landlock: bool
) -> None:
    needs("changes no file's mode, times or length")
    if not landlock:
        without("landlock")
    source = f"""{attempts}
import ctypes, fcntl, os
file, libc = {str(secret)!r}, ctypes.CDLL(None)
def opened(change):
    descriptor = os.open(file, os.O_RDONLY)
    try: return change(descriptor)
    finally: os.close(descriptor)
try_all(
    lambda: os.chmod(file, 0o777),
    lambda: opened(lambda one: os.fchmod(one, 0o777)),
    lambda: libc.syscall(*map(ctypes.c_long, (452, -100)), file.encode(), *map(ctypes.c_long, (0o777, 0))),
    lambda: os.chown(file, os.getuid(), os.getgid()),
    lambda: os.lchown(file, os.getuid(), os.getgid()),
    lambda: opened(lambda one: os.fchown(one, os.getuid(), os.getgid())),
    lambda: os.utime(file, (1, 1)),
    lambda: opened(lambda one: os.utime(one, (1, 1))),
    lambda: os.setxattr(file, "user.grpo", b"x"),
    lambda: opened(lambda one: os.setxattr(one, "user.grpo", b"x")),
    lambda: os.removexattr(file, "user.grpo"),
    lambda: os.truncate(file, 0),
    lambda: os.open(file, os.O_RDONLY | os.O_TRUNC),
    lambda: opened(lambda one: fcntl.ioctl(one, 0x40086602, bytes(8))),
)
print("done")
"""
    before = secret.stat()
    execution = run(source, namespaces=namespaces)
    assert (execution.stdout, execution.stderr) == ("done\n", "")
    after = secret.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_mode,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )


@on_linux
def test_nothing_but_its_own_folder_is_mounted_to_be_written_to(run, namespaces: bool) -> None:
    if not namespaces:
        pytest.skip("it sees everybody's mounts")
    source = """
        import os
        mounts = [line.split()[1] for line in open("/proc/self/mounts")]
        print(len(mounts) > 5, os.statvfs("/").f_flag & 1)
        for place in mounts:
            flags = os.statvfs(place).f_flag
            if not flags & 1 and place != "/grpo-sandbox" and not place.startswith(("/dev/", "/proc")):
                print("can be written to:", place)
            if not flags & 2 and not place.startswith("/dev/"):
                print("set-user-id works:", place)
        print(sorted(os.listdir("/usr")), sorted(os.listdir("/dev")))
    """
    execution = run(source, namespaces=True)
    first, *others = execution.stdout.splitlines()
    assert first == "True 1"
    assert len(others) == 1
    usr, dev = map(eval, others[0].replace("] [", "]\n[").splitlines())
    assert set(usr) <= {"bin", "lib", "lib32", "lib64", "libx32", "local", "sbin", "share"}
    assert dev == ["full", "null", "random", "urandom", "zero"]


@on_linux
def test_nobody_can_write_to_the_input(run, attempts: str, namespaces: bool) -> None:
    source = f"""{attempts}
import os, sys
try_all(
    lambda: os.write(0, b"new"),
    lambda: os.write(os.open("/proc/self/fd/0", os.O_WRONLY), b"new"),
    lambda: os.write(os.open("/proc/self/fd/0", os.O_RDWR | os.O_TRUNC), b"new"),
    lambda: os.ftruncate(0, 0),
)
print(sys.stdin.read())
"""
    assert run(source, namespaces=namespaces, stdin="the input").stdout == "the input\n"


RESISTING = {
    "is shut": """
        os.mkdir("shut"); open("shut/file", "w").close(); os.mkdir("shut/inner"); os.mkdir("closed", 0)
        try: os.chmod("shut", 0)
        except OSError: pass
    """,
    "is deep": "for _ in range(300): os.mkdir('deeper' * 20); os.chdir('deeper' * 20)",
    "has no bottom": "while True: os.mkdir('d' * 200); os.chdir('d' * 200)",
    "is wide and deep": """
        for number in range(10**6):
            os.mkdir(f"{number}"); open(f"{number}-file", "w").close()
            if number % 7 == 0: os.chdir(f"{number}")
    """,
}


@pytest.mark.parametrize("name", RESISTING)
def test_a_folder_that_resists_removal_is_removed(run, name: str, namespaces: bool) -> None:
    source = f"import os\n{textwrap.dedent(RESISTING[name])}"
    execution = run(source, namespaces=namespaces)
    assert execution.killed_by in (None, "files")


@on_linux
def test_removal_follows_no_link_that_takes_the_place_of_the_folder(run, without, secret: Path) -> None:
    without("landlock", "filter")  # which would not let it go as far as this
    secret.chmod(0o600)
    secret.parent.chmod(0o700)
    source = f"""
        import os
        os.mkdir("shut", 0); os.symlink({str(secret.parent)!r}, "inner")
        here = os.getcwd()
        try:
            os.rename(here, here + "-moved")
            os.symlink({str(secret.parent)!r}, here)
        except OSError: pass
    """
    assert run(source, namespaces=False).exit_code == 0
    assert secret.stat().st_mode & 0o777 == 0o600
    assert secret.parent.stat().st_mode & 0o777 == 0o700
    assert secret.read_text() == "the secret"


@on_linux
@pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/usr/bin/python3").exists(), reason="needs root, and a Python for all"
)
def test_where_root_runs_it_the_program_does_not_own_what_its_folder_lies_in(run) -> None:
    source = """
        import os
        print(os.getuid(), os.stat("..").st_uid, os.access("..", os.W_OK))
    """
    execution = run(source, namespaces=False, python="/usr/bin/python3")
    assert execution.stdout == "65534 0 False\n"


@on_linux
def test_when_the_caller_is_killed_nothing_is_left_however_deep(namespaces: bool, until, reap, command_line) -> None:
    program = "import os, time\nfor _ in range(15): os.mkdir('d' * 200); os.chdir('d' * 200)\ntime.sleep(60)"
    caller = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from grpo.sandbox import Limits, run_program\n"
            f"run_program({program!r}, limits=Limits(wall_s=50), namespaces={namespaces})",
        ]
    )
    until(lambda: any("program.py" in command_line(pid) for pid in descendants(caller.pid)))
    started = descendants(caller.pid)
    caller.kill()
    caller.wait()
    until(lambda: not any("program.py" in command_line(pid) or "launcher" in command_line(pid) for pid in started))
    reap()


MORTAL = """
import os, signal
from pathlib import Path
from grpo.sandbox import Limits, run, run_program

calls = 0


def mortal(verb):
    def act(*args, **options):
        global calls
        calls += 1
        if calls == {at}:
            os.kill(os.getpid(), signal.SIGKILL)
        return verb(*args, **options)

    return act


Path.mkdir, Path.chmod, Path.write_text = map(mortal, (Path.mkdir, Path.chmod, Path.write_text))
run.remove_folder = mortal(run.remove_folder)
run_program("print(1)", limits=Limits(wall_s=50), namespaces={namespaces})
print(calls)
"""


@on_linux
def test_a_caller_that_is_killed_while_it_makes_or_removes_the_folder_leaves_none(
    namespaces: bool, until, reap
) -> None:
    folder = Path(tempfile.gettempdir())
    for at in range(1, 10):
        command = [sys.executable, "-c", MORTAL.format(at=at, namespaces=namespaces)]
        caller = subprocess.run(command, check=False, capture_output=True, text=True)
        if caller.returncode == 0:
            break
        assert caller.returncode == -9, caller.stderr
        until(lambda: list(folder.iterdir()) == [])
        reap()
    # The folder, its mode, the program's folder, the program, and the removal.
    assert (at, caller.stdout) == (6, "5\n")


@on_linux
def test_a_folder_that_cannot_be_written_is_an_error_and_leaves_nothing(run, monkeypatch, namespaces: bool) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(SandboxError, match="No space left on device: free some of it"):
        run("print(1)", namespaces=namespaces)
