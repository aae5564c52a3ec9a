"""The launcher: a process of its own that makes the jail, starts the program in it and ends it.

With namespaces there are three processes: the launcher, the first process of the new process namespace, whose death
kills all others in it, and the program. Without namespaces there are two, and the launcher adopts the program's
orphans.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` without the enumerations, which take as long to import as the rest
import errno
import os
import resource
import sys

# All imports come before the change of the root, after which no file is left to import from.
from grpo.processes import adopt_orphans
from grpo.sandbox.folder import NOBODY, remove_folder
from grpo.sandbox.launcher import kernel
from grpo.sandbox.launcher.census import tasks_of_user
from grpo.sandbox.launcher.filter import filter_instructions
from grpo.sandbox.launcher.order import Order
from grpo.sandbox.launcher.root import DEVICES, WORK, make_root
from grpo.sandbox.launcher.supervisor import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["main"]

_OPEN_FILES = 64
_FAILED = 125
_REMOVE_S = 5.0
_REFUSALS = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.ENODEV, errno.EUSERS)


def main(**fields: Any) -> None:
    """Carry out the order with these fields, and exit."""
    order = Order(**fields)
    os.set_inheritable(order.status, False)
    os.set_inheritable(order.control, False)
    os.umask(0o022)
    code = _carry_out(order) if order.is_released() else 0
    # The caller may have been killed. A living one removes what is left here, if anything is.
    os.close(order.status)
    remove_folder(order.folder, within_s=_REMOVE_S)
    os._exit(code)


def _carry_out(order: Order) -> int:
    """Run the program, end all its processes, and return the launcher's exit code."""
    try:
        if order.namespaces:
            _leave_namespaces(order)
        else:
            adopt_orphans()
        if sys.platform == "linux":  # children inherit this; not earlier, because a hidden process cannot map users
            kernel.hide_from_others()
        own_kb = os.stat(f"{order.box}/program.py").st_size // 1024  # before the program can remove it
        first = os.fork()
        if first == 0:
            _run_and_exit(order, _first_process if order.namespaces else _become_program)
        os.close(order.started)
        Supervisor(order, first, own_kb=own_kb).watch()
    except OSError as error:
        _report_error(order, error)
        return _FAILED
    return 0


def _reset_signals() -> None:
    """Give every signal its default effect.

    The first process of a namespace then ignores signals from within the namespace, where a handler of Python's would
    run. The program starts without signals that Python ignores.
    """
    for number in range(1, _signal.NSIG):
        try:
            _signal.signal(number, _signal.SIG_DFL)
        except (OSError, ValueError):  # SIGKILL, SIGSTOP, and the C library's own
            pass


def _report_error(order: Order, error: BaseException) -> None:
    refused = isinstance(error, OSError) and error.errno in (*_REFUSALS, errno.ENOSPC)
    order.report(error=f"{type(error).__name__}: {error}", refused=refused)


def _run_and_exit(order: Order, task: Callable[[Order], None]) -> None:
    """Carry out the task of a forked process, which never returns to its parent's code."""
    try:
        task(order)
    except BaseException as error:
        _report_error(order, error)
    finally:
        os._exit(_FAILED)


def _leave_namespaces(order: Order) -> None:
    """Enter new namespaces, except that of mounts, which the first process enters."""
    apart = kernel.NEW_PIDS | kernel.NEW_NETWORK | kernel.NEW_IPC | kernel.NEW_NAMES
    if order.user is not None:
        try:
            kernel.unshare(apart)
            return
        except PermissionError:  # this root lacks the right; a user namespace gives it
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
    _reset_signals()
    kernel.die_with_parent()
    kernel.unshare(kernel.NEW_MOUNTS)
    kernel.mount("none", "/", None, kernel.RECURSIVE | kernel.PRIVATE)
    make_root(order.box, readable=order.readable, file_kb=order.limits["file_kb"])
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        kernel.unshare(kernel.NEW_USERS)  # here the limit on processes counts this program's only
    kernel.drop_capabilities()
    kernel.die_with_parent()  # a change of user clears this setting
    program = os.fork()
    if program == 0:
        _run_and_exit(order, _become_program)
    os.close(order.started)
    while True:
        pid, status, usage = os.wait4(-1, 0)
        if pid == program:
            order.report(ended=status, cpu_s=usage.ru_utime + usage.ru_stime)
            os._exit(0)


def _become_program(order: Order) -> None:
    """Drop the rights that the program must not have, and become the program."""
    _reset_signals()
    os.setsid()
    work = WORK if order.namespaces else order.box
    facts = _restrict(order) if sys.platform == "linux" else {"limited": _limit(order, processes=None)}
    os.chdir(work)
    environment = order.environment | {"HOME": work, "TMPDIR": work, "PWD": work}
    # All descriptors besides the three streams close when this process becomes the program.
    order.report(started=True, group=None if order.namespaces else os.getpid(), **facts)
    try:
        os.execve(order.command[0], [*order.command, "program.py"], environment)
    except OSError:
        order.report(started=False)
        raise


def _restrict(order: Order) -> dict[str, Any]:
    """Set limits and drop rights, and return those in force."""
    facts: dict[str, Any] = {"user": order.user}
    processes = order.limits["processes"]
    if order.namespaces:
        limit = processes + 1
    else:
        if order.user is not None:
            os.setgroups([])
            os.setresgid(order.user, order.user, order.user)
            os.setresuid(order.user, order.user, order.user)
        # The kernel counts all processes of the user: this limit stops a flood, and the launcher counts exactly.
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
        facts["filter_refused"] = f"no table of system calls for {os.uname().machine}"
    else:
        try:
            kernel.install_filter(instructions)
            facts["filter"] = True
        except OSError as error:
            facts["filter_refused"] = str(error)
    return facts


def _limit(order: Order, *, processes: int | None) -> list[str]:
    """Set the kernel's limits for this process and its children, and return the names of those in force."""
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
        except (ValueError, OSError):  # above the user's own limit, which is stricter, or unknown
            pass
    return taken
