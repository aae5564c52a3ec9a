"""Linux system calls that Python does not wrap.

The module can be imported on other systems, too. Every function raises OSError when the kernel refuses.
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "bind",
    "bind_read_only",
    "die_with_parent",
    "drop_capabilities",
    "forbid_new_privileges",
    "hide_from_others",
    "install_filter",
    "mount",
    "restrict_files",
    "switch_root",
    "unshare",
]

NEW_MOUNTS, NEW_NAMES, NEW_IPC, NEW_USERS, NEW_PIDS, NEW_NETWORK = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
READ_ONLY, NO_SUID, NO_DEVICES, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_KEPT_FLAGS = 1 | 2 | 4 | 8 | 1024 | 2048  # same numbers in statvfs and mount: ro, nosuid … noatime, nodiratime
_DETACH = 2

_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR, _CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 442, 444, 445, 446

_SET_DEATH_SIGNAL, _SET_DUMPABLE, _SET_SECCOMP, _DROP_BOUND, _NO_NEW_PRIVILEGES = 1, 4, 22, 24, 38
_CAPABILITY_VERSION = 0x20080522
_LAST_CAPABILITY = 63

_FILES_BY_VERSION = {1: 13, 2: 14, 3: 15, 4: 15}
"""Number of Landlock's rights on files by its version; later versions have 16."""
_EXECUTE, _READ_FILE, _READ_DIRECTORY, _WRITE_FILE, _TRUNCATE = 1, 4, 8, 2, 1 << 14
_ON_FILES_ONLY = _EXECUTE | _READ_FILE | _WRITE_FILE | _TRUNCATE

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def _syscall(what: str, number: int, *arguments: ctypes.c_long | ctypes.c_void_p) -> int:
    return _checked(_libc.syscall(ctypes.c_long(number), *arguments), what)


def _prctl(what: str, option: int, value: int | ctypes.c_void_p = 0, other: int | ctypes.c_void_p = 0) -> None:
    wide = [ctypes.c_ulong(each) if isinstance(each, int) else each for each in (value, other, 0, 0)]
    _checked(_libc.prctl(ctypes.c_int(option), *wide), what)


def unshare(flags: int) -> None:
    """Move this process into new namespaces, selected by the flags."""
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mount a file system, as mount(2) does."""
    encoded = [None if text is None else text.encode() for text in (source, target, kind)]
    _checked(_libc.mount(*encoded, ctypes.c_ulong(flags), options.encode() or None), f"mount {target}")


def bind(path: str, target: str) -> None:
    """Make a file or folder, including mounts in it, visible at another path."""
    mount(path, target, None, BIND | RECURSIVE)


def bind_read_only(path: str, target: str) -> None:
    """Make a file or folder visible at another path, read-only."""
    bind(path, target)
    attributes = (ctypes.c_uint64 * 4)(READ_ONLY | NO_SUID | NO_DEVICES, 0, 0, 0)
    place = ctypes.create_string_buffer(target.encode())
    try:
        _syscall(
            "mount_setattr",
            _MOUNT_SETATTR,
            ctypes.c_long(-100),
            ctypes.c_void_p(ctypes.addressof(place)),
            ctypes.c_long(0x8000),
            ctypes.c_void_p(ctypes.addressof(attributes)),
            ctypes.c_long(ctypes.sizeof(attributes)),
        )
    except OSError:  # before Linux 5.12; mounts below keep their flags
        kept = os.statvfs(target).f_flag & _KEPT_FLAGS
        mount("none", target, None, BIND | REMOUNT | READ_ONLY | NO_SUID | NO_DEVICES | kept)


def switch_root(path: str) -> None:
    """Make `path`, which must be a mount point, the root, and detach the old root."""
    os.chdir(path)
    number = _PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(38, f"no number for pivot_root on {os.uname().machine}")
    here = ctypes.create_string_buffer(b".")
    place = ctypes.c_void_p(ctypes.addressof(here))
    _syscall("pivot_root", number, place, place)
    _checked(_libc.umount2(b".", ctypes.c_int(_DETACH)), "umount")
    os.chdir("/")


def die_with_parent() -> None:
    """Have this process killed when its parent dies."""
    _prctl("death signal", _SET_DEATH_SIGNAL, 9)


def hide_from_others() -> None:
    """Prevent processes of the same user from reading this one's memory."""
    _prctl("dumpable", _SET_DUMPABLE, 0)


def forbid_new_privileges() -> None:
    """Make set-user-id programs run with the rights of the user that starts them."""
    _prctl("no new privileges", _NO_NEW_PRIVILEGES, 1)


def drop_capabilities() -> None:
    """Drop every capability, permanently where this process has the right to."""
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            _prctl("bounding set", _DROP_BOUND, capability)
        except OSError:  # not permitted, or no such capability
            break
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    none = (ctypes.c_uint32 * 6)()
    _checked(_libc.capset(ctypes.byref(header), ctypes.byref(none)), "capset")


def install_filter(instructions: bytes) -> None:
    """Apply this filter to each system call of this process and its children."""
    code = ctypes.create_string_buffer(instructions, len(instructions))

    class Program(ctypes.Structure):
        _fields_ = (("count", ctypes.c_ushort), ("code", ctypes.c_void_p))

    program = Program(len(instructions) // 8, ctypes.addressof(code))
    _prctl("seccomp", _SET_SECCOMP, 2, ctypes.c_void_p(ctypes.addressof(program)))


def restrict_files(readable: Sequence[str], writable: Sequence[str]) -> int:
    """Forbid by Landlock access to all other files, outgoing TCP and signals to outsiders, and return its version.

    Version 4 and later forbid TCP, version 6 and later signals and abstract sockets.
    """
    version = _syscall("landlock", _CREATE_RULESET, ctypes.c_void_p(0), ctypes.c_long(0), ctypes.c_long(1))
    files = (1 << _FILES_BY_VERSION.get(version, 16)) - 1
    handled = (ctypes.c_uint64 * 3)(files, 3, 3)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = _syscall(
        "landlock",
        _CREATE_RULESET,
        ctypes.c_void_p(ctypes.addressof(handled)),
        ctypes.c_long(size),
        ctypes.c_long(0),
    )
    for path in readable:
        _allow(rules, path, files & (_EXECUTE | _READ_FILE | _READ_DIRECTORY))
    for path in writable:
        _allow(rules, path, files)
    _syscall("landlock", _RESTRICT_SELF, ctypes.c_long(rules), ctypes.c_long(0))
    os.close(rules)
    return version


def _allow(rules: int, path: str, rights: int) -> None:
    class Rule(ctypes.Structure):
        _pack_ = 1
        _fields_ = (("rights", ctypes.c_uint64), ("place", ctypes.c_int32))

    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = Rule(rights if os.path.isdir(path) else rights & _ON_FILES_ONLY, place)
        _syscall(
            f"landlock {path}",
            _ADD_RULE,
            ctypes.c_long(rules),
            ctypes.c_long(1),
            ctypes.c_void_p(ctypes.addressof(rule)),
            ctypes.c_long(0),
        )
    finally:
        os.close(place)
