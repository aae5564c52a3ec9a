"""System V's shared memory, semaphores and queues: everybody on a machine finds them by a number."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import grpo

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

SYSTEM_PYTHON = Path("/usr/bin/python3")

PROGRAM = """
import ctypes, struct, sys
segment, semaphores, queue = map(int, sys.stdin.read().split())
libc, size, long = ctypes.CDLL(None), ctypes.c_size_t, ctypes.c_long
libc.shmat.restype = ctypes.c_void_p
buffer = ctypes.create_string_buffer(4096)
add_one = struct.pack("Hhh", 0, 1, 0)
attempts = {
    "attach": lambda: libc.shmat(segment, None, 0),
    "look at memory": lambda: libc.shmctl(segment, 2, buffer),
    "remove memory": lambda: libc.shmctl(segment, 0, None),
    "raise": lambda: libc.semop(semaphores, add_one, size(1)),
    "raise in time": lambda: libc.semtimedop(semaphores, add_one, size(1), None),
    "set": lambda: libc.semctl(semaphores, 0, 16, long(5)),
    "remove semaphores": lambda: libc.semctl(semaphores, 0, 0),
    "send": lambda: libc.msgsnd(queue, struct.pack("l", 1), size(0), 0o4000),
    "receive": lambda: libc.msgrcv(queue, buffer, size(99), long(0), 0o4000),
    "remove queue": lambda: libc.msgctl(queue, 0, None),
}
print([name for name, attempt in attempts.items() if attempt() not in (-1, ctypes.c_void_p(-1).value)])
"""

CALLER = """
import ctypes, struct, sys
program, source, namespaces, filtered = sys.argv[1], sys.argv[2], sys.argv[3] == "True", sys.argv[4] == "True"
sys.path.insert(0, source)
from grpo.sandbox import Limits, namespaces_refused, run, run_program
if namespaces and namespaces_refused() is not None:
    sys.exit("refused")
if not filtered:
    run._BOOTSTRAP += "sys.modules['grpo.sandbox.launcher.main'].filter_instructions = lambda **_: None\\n"
libc, size, long = ctypes.CDLL(None), ctypes.c_size_t, ctypes.c_long
libc.shmat.restype = ctypes.c_void_p
segment, semaphores, queue = libc.shmget(0, size(64), 0o1666), libc.semget(0, 1, 0o1666), libc.msgget(0, 0o1666)
try:
    place = ctypes.c_void_p(libc.shmat(segment, None, 0))
    ctypes.memmove(place, b"mine", 4)
    libc.msgsnd(queue, struct.pack("l4s", 1, b"mine"), size(4), 0)
    stdin = f"{segment} {semaphores} {queue}"
    execution = run_program(program, stdin=stdin, namespaces=namespaces, limits=Limits(wall_s=30))
    received = ctypes.create_string_buffer(64)
    libc.msgrcv(queue, received, size(40), long(0), 0o4000)
    value = libc.semctl(semaphores, 0, 12)
    print(execution.stdout + execution.stderr, ctypes.string_at(place, 4), value, received.raw[8:12])
finally:
    libc.shmctl(segment, 0, None), libc.semctl(semaphores, 0, 0), libc.msgctl(queue, 0, None)
"""


def shown(*, namespaces: bool, user: int | None = None, filtered: bool = True) -> str:
    """Return what a caller prints whose program tries to get at what the caller has made."""
    source = Path(grpo.__file__).parents[1]
    python, prefix = sys.executable, []
    if user is not None:
        if os.geteuid() != 0 or not SYSTEM_PYTHON.exists() or not shutil.which("setpriv"):
            pytest.skip("needs root, setpriv and a Python for all")
        if not all(folder.stat().st_mode & 0o005 for folder in (source, *source.parents)):
            pytest.skip("others may not read this package")
        python, prefix = str(SYSTEM_PYTHON), ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        Path(os.environ["TMPDIR"]).chmod(0o1777)
    words = [PROGRAM, str(source), str(namespaces), str(filtered)]
    caller = subprocess.run(
        [*prefix, python, "-B", "-c", CALLER, *words], capture_output=True, text=True, timeout=120, check=False
    )
    if caller.stderr == "refused\n":
        pytest.skip("this user gets no namespaces")
    assert caller.returncode == 0, caller.stderr
    return caller.stdout


@pytest.mark.parametrize("user", [None, 1000], ids=["this user", "user 1000"])
def test_what_the_caller_has_made_is_not_to_be_had(needs, user: int | None, namespaces: bool) -> None:
    needs("reaches no shared memory")
    assert shown(namespaces=namespaces, user=user) == "[]\n b'mine' 0 b'mine'\n"


def test_without_a_filter_and_namespaces_it_would_be() -> None:
    assert "'attach', 'look at memory'" in shown(namespaces=False, filtered=False)
