"""The launcher: a process of its own that makes the jail, starts the program in it and sees to its end.

With namespaces there are three processes: the launcher, the first process of the new process namespace, whose death
is the death of all others in it, and the program. Without them there are two, and the launcher adopts the
program's orphans.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` without the enumerations, which take as long to import as the rest
import errno
import os
import resource
import select
import sys

# All before the root is changed, after which there is nothing left to import from.
from grpo.processes import adopt_orphans
from grpo.sandbox.folder import NOBODY, remove_folder
from grpo.sandbox.launcher import kernel
from grpo.sandbox.launcher.census import tasks_of_user
from grpo.sandbox.launcher.filter import filter_instructions
from grpo.sandbox.launcher.root import DEVICES, WORK, make_root
from grpo.sandbox.launcher.supervisor import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Order", "main"]

_OPEN_FILES = 64
_FAILED = 125
_REMOVE_S = 5.0
_REFUSALS = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.ENODEV, errno.EUSERS)


class Order:
    """What the launcher is to do."""

    def __init__(
        self,
        *,
        command: list[str],
        folder: str,
        box: str,
        readable: list[str],
        environment: dict[str, str],
        limits: dict[str, int],
        start_s: float,
        wall_s: float,
        namespaces: bool,
        user: int | None,
        status: int,
        control: int,
    ) -> None:
        """Note it down.

        Args:
            command: the interpreter and its switches; the program's file is added.
            folder: a fresh one.
            box: the folder in it that is the program's, with `program.py`.
            readable: files and folders that the program may see, none within another.
            environment: the program's, places within its folder aside.
            limits: those of `Limits` that the launcher sees to, in whole numbers.
            start_s: seconds that the program may take to start.
            wall_s: seconds after which the caller ends the program; a little later the launcher does.
            namespaces: whether to make them.
            user: with whose rights the program runs, where the launcher may give them; None: with the launcher's.
            status: descriptor to report on, a Python literal a line.
            control: descriptor to listen to: a byte, or its end, means that all is to end.
        """
        self.command = command
        self.folder = folder
        self.box = box
        self.readable = readable
        self.environment = environment
        self.limits = limits
        self.start_s = start_s
        self.wall_s = wall_s
        self.namespaces = namespaces
        self.user = user
        self.status = status
        self.control = control
        self.starting, self.started = os.pipe()  # the end to read from tells when nobody holds the other any more

    def tell(self, **facts: Any) -> None:
        """Report, if anybody still listens."""
        try:
            os.write(self.status, f"{facts!r}\n".encode("utf-8", errors="replace"))
        except OSError:
            pass

    def is_forsaken(self) -> bool:
        """Return whether who gave the order died before it was carried out.

        Who lives says a byte before closing. Asking for the parent would not do: a process that dies closes what it
        has open before its children get another parent.
        """
        heard, _, _ = select.select([self.control], [], [], 0)
        return bool(heard) and os.read(self.control, 1) == b""


def main(**given: Any) -> None:
    """Carry out the order whose fields are given, and exit."""
    order = Order(**given)
    os.set_inheritable(order.status, False)
    os.set_inheritable(order.control, False)
    os.umask(0o022)
    try:
        if order.namespaces:
            _leave_namespaces(order)
        else:
            adopt_orphans()
        if sys.platform == "linux":  # for its children, too; no sooner: what is hidden cannot map users
            kernel.hide_from_others()
        own_kb = os.stat(f"{order.box}/program.py").st_size // 1024  # asked before there is somebody to remove it
        first = os.fork()
        if first == 0:
            _carefully(order, _first_process if order.namespaces else _become_program)
        os.close(order.started)
        Supervisor(order, first, own_kb=own_kb).watch()
    except OSError as error:
        _tell_error(order, error)
        os._exit(_FAILED)
    if order.is_forsaken():  # who gave it would have removed the folder
        remove_folder(order.folder, within_s=_REMOVE_S)
    os._exit(0)


def _take_signals_as_they_come() -> None:
    """Give every signal its default effect.

    On a namespace's first process it has none then, whoever of that namespace sends it; a handler of Python's would
    run. And the program does not start with signals that Python ignores.
    """
    for number in range(1, _signal.NSIG):
        try:
            _signal.signal(number, _signal.SIG_DFL)
        except (OSError, ValueError):  # SIGKILL, SIGSTOP, and the C library's own
            pass


def _tell_error(order: Order, error: BaseException) -> None:
    refused = isinstance(error, OSError) and error.errno in (*_REFUSALS, errno.ENOSPC)
    order.tell(error=f"{type(error).__name__}: {error}", refused=refused)


def _carefully(order: Order, task: Callable[[Order], None]) -> None:
    """Do what a forked process is for; it never returns to what its parent was doing."""
    try:
        task(order)
    except BaseException as error:
        _tell_error(order, error)
    finally:
        os._exit(_FAILED)


def _leave_namespaces(order: Order) -> None:
    """Leave processes, network and the rest behind; the file system is left by the first process."""
    apart = kernel.NEW_PIDS | kernel.NEW_NETWORK | kernel.NEW_IPC | kernel.NEW_NAMES
    if order.user is not None:
        try:
            kernel.unshare(apart)
            return
        except PermissionError:  # a root without this right, which a namespace of users gives
            pass
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(apart | kernel.NEW_USERS)
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{NOBODY} {user} 1"),
        ("gid_map", f"{NOBODY} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(line)


def _first_process(order: Order) -> None:
    """Make the program's file system, start the program, and wait for it; the namespace ends with this process."""
    _take_signals_as_they_come()
    kernel.die_with_parent()
    kernel.unshare(kernel.NEW_MOUNTS)
    kernel.mount("none", "/", None, kernel.RECURSIVE | kernel.PRIVATE)
    make_root(order.box, readable=order.readable, file_kb=order.limits["file_kb"])
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        kernel.unshare(kernel.NEW_USERS)  # in which the limit on processes counts this program's only
    kernel.drop_capabilities()
    kernel.die_with_parent()  # another user's process has forgotten it
    program = os.fork()
    if program == 0:
        _carefully(order, _become_program)
    os.close(order.started)
    while True:
        pid, status, usage = os.wait4(-1, 0)
        if pid == program:
            order.tell(ended=status, cpu_s=usage.ru_utime + usage.ru_stime)
            os._exit(0)


def _become_program(order: Order) -> None:
    """Give up what the program is not to have, and become it."""
    _take_signals_as_they_come()
    os.setsid()
    work = WORK if order.namespaces else order.box
    facts = _restrict(order) if sys.platform == "linux" else {"limited": _limit(order, processes=None)}
    os.chdir(work)
    environment = order.environment | {"HOME": work, "TMPDIR": work, "PWD": work}
    # What this process holds besides its three streams closes when it becomes the program.
    order.tell(started=True, group=None if order.namespaces else os.getpid(), **facts)
    try:
        os.execve(order.command[0], [*order.command, "program.py"], environment)
    except OSError:
        order.tell(started=False)
        raise


def _restrict(order: Order) -> dict[str, Any]:
    """Set limits and give up rights, and return what is in force."""
    facts: dict[str, Any] = {"user": order.user}
    processes = order.limits["processes"]
    if order.namespaces:
        limit = processes + 1
    else:
        if order.user is not None:
            os.setgroups([])
            os.setresgid(order.user, order.user, order.user)
            os.setresuid(order.user, order.user, order.user)
        # The kernel counts all that the user runs: this holds off a flood, the launcher counts exactly.
        limit = tasks_of_user(os.getuid()) + 4 * processes + 64
    facts["limited"] = _limit(order, processes=limit)
    kernel.forbid_new_privileges()
    kernel.drop_capabilities()
    if not order.namespaces:
        try:
            facts["landlock"] = kernel.restrict_files(
                [path for path in order.readable if os.path.exists(path) and not os.path.islink(path)],
                [path for path in (*DEVICES, order.box) if os.path.exists(path)],
            )
        except OSError as error:
            facts["landlock_refused"] = str(error)
    instructions = filter_instructions(shared=not order.namespaces, own_pid=os.getpid())
    if instructions is None:
        facts["filter_refused"] = f"its numbers of system calls on {os.uname().machine} are not known here"
    else:
        try:
            kernel.install_filter(instructions)
            facts["filter"] = True
        except OSError as error:
            facts["filter_refused"] = str(error)
    return facts


def _limit(order: Order, *, processes: int | None) -> list[str]:
    """Set the kernel's limits for this process and its children, and return the names of those it took."""
    memory, cpu = order.limits["memory_mb"] << 20, order.limits["cpu_s"]
    wanted: dict[str, tuple[int, int]] = {
        "CPU": (cpu, cpu + 1),
        "FSIZE": (order.limits["file_kb"] << 10,) * 2,
        "CORE": (0, 0),
        "NOFILE": (_OPEN_FILES, _OPEN_FILES),
        "MEMLOCK": (0, 0),
        "MSGQUEUE": (0, 0),
        "SIGPENDING": (64, 64),
        "STACK": (8 << 20, 8 << 20),
        "AS": (memory, memory),
    }
    if processes is not None:
        wanted["NPROC"] = (processes, processes)
    taken = []
    for name, values in wanted.items():
        number = getattr(resource, f"RLIMIT_{name}", None)
        if number is None:
            continue
        try:
            resource.setrlimit(number, values)
            taken.append(name)
        except (ValueError, OSError):  # above what the user may have, which is then lower still; or unknown
            pass
    return taken
