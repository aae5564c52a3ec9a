"""What a program can do to other processes and to the system: nothing, and it leaves none behind."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from grpo.processes import descendants

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of system calls are those of x86-64")


def test_no_signal_to_the_first_process_of_its_namespace_does_anything(run, namespaces: bool) -> None:
    if not namespaces:
        pytest.skip("there is none")
    source = """
        import os, time
        for number in range(1, 65):
            os.kill(os.getppid(), number)
            time.sleep(0.005)
            print(number)
    """
    execution = run(source, namespaces=True)
    assert execution.stdout.split() == [str(number) for number in range(1, 65)]
    assert (execution.exit_code, execution.killed_by) == (0, None)


def test_a_launcher_that_dies_is_an_end_of_the_program_and_not_an_error(
    run, *, namespaces: bool, until, reap, command_line
) -> None:
    def kill_it() -> None:
        until(lambda: any("program.py" in command_line(pid) for pid in descendants(os.getpid())))
        launcher = next(pid for pid in descendants(os.getpid()) if "sandbox.launcher" in command_line(pid))
        os.kill(launcher, 9)

    killer = threading.Thread(target=kill_it)
    killer.start()
    execution = run("import time; time.sleep(60)", namespaces=namespaces)
    killer.join()
    assert (execution.exit_code, execution.killed_by) == (-9, "an end of its launcher")
    reap()


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


@pytest.mark.parametrize("filtered", [True, False], ids=["filter", "no-filter"])
@pytest.mark.parametrize("name", LEAVERS)
def test_what_a_program_leaves_behind_ends_with_it(run, *, without, name, filtered, namespaces: bool) -> None:
    if not filtered:
        without("filter")
    execution = run(LEAVERS[name], namespaces=namespaces)
    assert (execution.exit_code, execution.killed_by) == (0, None)


def test_no_process_but_its_own_can_be_signalled_or_looked_into(run, needs, attempts: str, namespaces: bool) -> None:
    needs("signals no other process")
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        source = f"""{attempts}
import fcntl, os, resource, signal
for victim in ({bystander.pid}, {os.getpid()}, *(() if {namespaces} else (os.getppid(),))):
    try_all(
        lambda: resource.prlimit(victim, resource.RLIMIT_CPU, (0, 0)),
        lambda: resource.prlimit(victim, resource.RLIMIT_CPU),
        lambda: fcntl.fcntl(1, fcntl.F_SETOWN, victim),
        lambda: os.setpriority(os.PRIO_PROCESS, victim, 19),
        lambda: os.sched_setaffinity(victim, {{0}}),
        lambda: os.sched_setscheduler(victim, os.SCHED_BATCH, os.sched_param(0)),
        lambda: os.kill(victim, 0),
        lambda: os.kill(victim, signal.SIGSTOP),
        lambda: os.kill(victim, signal.SIGKILL),
        lambda: os.killpg(victim, signal.SIGKILL),
        lambda: signal.pidfd_send_signal(os.pidfd_open(victim), signal.SIGKILL),
        lambda: open(f"/proc/{{victim}}/mem", "r+b"),
        lambda: open(f"/proc/{{victim}}/environ", "rb"),
        lambda: os.listdir(f"/proc/{{victim}}/fd"),
    )
if not {namespaces}:
    try_all(
        lambda: os.kill(-1, 0),
        lambda: os.setsid(),
        lambda: os.setpgid(0, 0),
        lambda: os.setpriority(os.PRIO_PROCESS, 0, 19),
        lambda: fcntl.fcntl(1, fcntl.F_SETOWN, os.getpid()),
    )
print("still here", flush=True)
os.kill(0, signal.SIGKILL)
"""
        execution = run(source, namespaces=namespaces)
        assert execution.stdout == "still here\n"
        assert execution.exit_code in (0, 1, -9)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_the_first_process_and_the_launcher_can_not_be_looked_into(run, without, attempts: str, namespaces) -> None:
    if not namespaces:
        without("landlock", "filter")  # which would not let it go as far as this
    source = f"""{attempts}
import os
first = os.getppid()
try_all(
    lambda: open(f"/proc/{{first}}/mem", "r+b"),
    lambda: open(f"/proc/{{first}}/environ", "rb").read(),
    *([lambda: os.listdir(f"/proc/{{first}}/fd")] if os.getuid() else []),
    *(lambda number=number: open(f"/proc/{{first}}/fd/{{number}}", "wb") for number in range(3, 30)),
)
print("done")
"""
    execution = run(source, namespaces=namespaces)
    assert (execution.stdout, execution.killed_by) == ("done\n", None)


@on_x86
def test_system_calls_that_no_program_needs_are_refused(run, needs, attempts: str, namespaces: bool) -> None:
    needs("makes no unusual system calls")
    source = f"""{attempts}
import ctypes, fcntl, os, time
libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(256)
def call(*given):  # as long numbers: the upper half of shorter ones is left to chance
    return libc.syscall(*(ctypes.c_long(one) if isinstance(one, int) else one for one in given))
child = os.fork()
if child == 0: time.sleep(60)
piece = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 8)
try_all(
    lambda: call(101, 16, child, 0, 0),               # ptrace
    lambda: call(310, os.getpid(), piece, 1, piece, 1, 0),  # process_vm_readv
    lambda: call(311, os.getpid(), piece, 1, piece, 1, 0),
    lambda: call(438, os.pidfd_open(os.getpid()), 1, 0),  # pidfd_getfd
    lambda: call(135, 0xffffffff),                    # personality
    lambda: call(425, 1, buffer),                     # io_uring_setup
    lambda: call(319, b"a", 0),                       # memfd_create
    lambda: call(272, 0x10000000),                    # unshare users
    lambda: call(272, 0x00020000),
    lambda: call(56, 0x10000000 | 17, 0, 0, 0, 0) or os._exit(0),  # clone, with a new namespace of users
    lambda: call(435, buffer, 88),                    # clone3
    lambda: call(437, -100, b".", buffer, 24),        # openat2
    lambda: call(0x40000000 + 39),                    # getpid as x32 numbers it
    lambda: fcntl.ioctl(0, 0x5412, b"x"),             # TIOCSTI
    lambda: call(302, 1, 0, 0, buffer),               # prlimit of another
    lambda: call(248, b"user", b"a", b"b", 1, -3),    # add_key
    lambda: call(298, buffer, 0, -1, -1, 0),          # perf_event_open
    lambda: call(321, 0, buffer, 16),                 # bpf
    lambda: call(161, b"."),                          # chroot
    lambda: call(165, b"none", b".", b"tmpfs", 0, 0), # mount
    lambda: call(29, 0, 4096, 0o1600),                # shmget
    lambda: call(64, 0, 1, 0o1600),                   # semget
    lambda: call(68, 0, 0o1600),                      # msgget
)
if not {namespaces}:
    try_all(
        lambda: call(200, child, 0),                  # tkill
        lambda: call(129, os.getpid(), 18, buffer),   # rt_sigqueueinfo
        lambda: call(297, os.getpid(), os.getpid(), 18, buffer),
        lambda: call(424, os.pidfd_open(os.getpid()), 18, 0, 0),  # pidfd_send_signal
        lambda: call(41, 1, 1, 0),                    # socket
    )
    for given in (
        (241, b"a"),                  # mq_unlink
        (256, child, 0, 0, 0),        # migrate_pages
        (279, child, 0, 0, 0, 0, 0),  # move_pages
    ):
        if call(*given) != -1 or ctypes.get_errno() != 1:  # else it is only not there
            print("got through:", given)
print("done")
"""
    execution = run(source, namespaces=namespaces)
    assert (execution.stdout, execution.stderr) == ("done\n", "")


def test_privileges_cannot_be_gained(run, needs, attempts: str, namespaces: bool) -> None:
    needs("gains no privileges")
    source = f"""{attempts}
import ctypes, os, resource, struct
libc = ctypes.CDLL(None)
header, held = struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
long = ctypes.c_ulong
print(libc.prctl(39, *[long(0)] * 4), libc.capget(header, held), any(held.raw))
print([number for number in range(64) if libc.prctl(23, long(number), *[long(0)] * 3) == 1] if {namespaces} else [])
wanted = ctypes.create_string_buffer(bytes([255]) * 24, 24)
try_all(
    lambda: libc.capset(header, wanted),
    lambda: os.setgroups([0]),
    lambda: os.chown("program.py", 1, 1),
    lambda: os.setuid(1),
    *(
        lambda name=name: resource.setrlimit(name, (resource.getrlimit(name)[1] + 1,) * 2)
        for name in (getattr(resource, "RLIMIT_" + name) for name in ("CPU", "AS", "NOFILE", "FSIZE", "NPROC"))
    ),
)
"""
    execution = run(source, namespaces=namespaces)
    assert execution.exit_code == 0
    assert execution.stdout == "1 0 False\n[]\n"


def test_the_environment_of_the_caller_is_not_to_be_had(run, needs, monkeypatch, namespaces: bool) -> None:
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
    needs("does not see the caller's environment")
    execution = run(source, namespaces=namespaces)
    assert execution.stdout.startswith("None\n")
    assert "True" not in execution.stdout


def test_sockets_lead_nowhere(run, needs, attempts: str, tmp_path: Path, namespaces: bool) -> None:
    needs("reaches no network")
    source = f"""{attempts}
import socket, sys
port, path, name = int(sys.stdin.readline()), sys.stdin.readline().strip(), sys.stdin.readline().strip()
try_all(
    lambda: socket.create_connection(("127.0.0.1", port), timeout=1),
    lambda: socket.create_connection(("::1", port), timeout=1),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port)),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
    lambda: socket.socket(40, socket.SOCK_STREAM),
    lambda: socket.socket(socket.AF_UNIX).connect(path),
    lambda: socket.socket(socket.AF_UNIX).connect(chr(0) + name),
    lambda: socket.getaddrinfo("example.org", 80),
)
first, second = socket.socketpair()
first.send(b"done")
print(second.recv(9).decode())
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


def test_what_a_program_writes_to_strange_descriptors_changes_nothing(run, without, namespaces: bool) -> None:
    without("landlock", "filter")
    source = """
        import os
        lines = b'{"ended": 0, "cpu_s": 0, "error": "made up", "group": 1, "started": False}\\n'
        for place in [*range(3, 256), *(f"/proc/{os.getppid()}/fd/{number}" for number in range(3, 64))]:
            try: os.write(place if isinstance(place, int) else os.open(place, os.O_WRONLY), lines)
            except OSError: pass
        os._exit(7)
    """
    execution = run(source, namespaces=namespaces)
    assert (execution.exit_code, execution.killed_by) == (7, None)
