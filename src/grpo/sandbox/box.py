# ruff: noqa: PTH101, PTH102, PTH103, PTH104, PTH106, PTH108, PTH110, PTH112, PTH114, PTH115,
# ruff: noqa: PTH120, PTH123, PTH208, PTH211, SIM105
"""The folder that a program has: what lies in it, its removal, and in namespaces the file system around it.

A fresh folder holds the program's own, `BOX`: what the program may write to is never where it is removed from, so
that it cannot put a link in the place of what is about to be removed.
"""

from __future__ import annotations

import os
import stat
import time

from grpo.sandbox import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BOX", "DEVICES", "NOBODY", "WORK", "make_root", "remove_folder", "size_kb"]

BOX = "box"
NOBODY = 65534
"""The user and group that programs run as, where there is a choice."""
WORK = "/grpo-sandbox"
"""Where a program in namespaces finds its folder."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_ENTRIES_KB = 16
"""What the entries of a program's file system take, which is not counted."""


def size_kb(folder: str, *, enough_kb: float) -> float:
    """Return what the files in a folder take; their number counts as well, a kilobyte each.

    It stops to count above `enough_kb`. A folder that cannot be read, shut or too deep for a path, counts as more
    than enough: what is in it would not be counted at all.
    """
    total, waiting = 0.0, [folder]
    while waiting and total <= enough_kb:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    try:
                        total += 1 + entry.stat(follow_symlinks=False).st_blocks // 2
                    except FileNotFoundError:
                        continue
        except FileNotFoundError:  # gone meanwhile
            continue
        except OSError:
            return enough_kb + 1
    return total


def remove_folder(folder: str, *, within_s: float) -> bool:
    """Remove a fresh folder and everything in it, and return whether that came about in time.

    What lies two levels down is moved up first, so that neither paths nor recursion grow with how deep a program
    nested its folders. No link is followed.
    """
    end = time.monotonic() + within_s
    number = 0
    try:
        while inner := os.listdir(folder):
            for name in inner:
                path = f"{folder}/{name}"
                if not _is_folder(path):
                    os.unlink(path)
                    continue
                _take(path)
                for entry in os.listdir(path):
                    if time.monotonic() > end:
                        return False
                    lower = f"{path}/{entry}"
                    if _is_folder(lower):
                        _take(lower)  # a folder that is shut cannot be moved
                        number += 1
                        os.rename(lower, f"{folder}/moved-{number}")
                    else:
                        os.unlink(lower)
                os.rmdir(path)
        os.rmdir(folder)
    except FileNotFoundError:
        return not os.path.lexists(folder)
    except OSError:  # somebody still writes there
        return False
    return True


def _is_folder(path: str) -> bool:
    return stat.S_ISDIR(os.lstat(path).st_mode)


def _take(path: str) -> None:
    """Make a folder ours and open to us, and to nobody else."""
    if not hasattr(os, "O_PATH"):
        os.chmod(path, 0o700, follow_symlinks=False)
        return
    opened = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.geteuid() == 0:
            try:
                os.chown(f"/proc/self/fd/{opened}", 0, 0)
            except OSError:  # root without capabilities: then it was ours before
                pass
        os.chmod(f"/proc/self/fd/{opened}", 0o700)
    except FileNotFoundError:  # no /proc
        os.chmod(path, 0o700)
    finally:
        os.close(opened)


def make_root(box: str, *, readable: Sequence[str], file_kb: int) -> None:
    """Change to a file system that holds the readable places, a few devices and the program's own folder."""
    with open(f"{box}/program.py", "rb") as file:
        program = file.read()
    safe = kernel.NO_SUID | kernel.NO_DEVICES
    kernel.mount("tmpfs", box, "tmpfs", safe, "size=1m,mode=755")
    for path in readable:
        place = box + path
        if os.path.islink(path):
            os.makedirs(os.path.dirname(place), exist_ok=True)
            os.symlink(os.readlink(path), place)
        else:
            _make_place(path, place)
            kernel.bind_read_only(path, place)
    for path in DEVICES:
        if os.path.exists(path):
            _make_place(path, box + path)
            kernel.bind(path, box + path)
    work = box + WORK
    os.mkdir(work)
    size = file_kb + _ENTRIES_KB + len(program) // 1024
    kernel.mount("tmpfs", work, "tmpfs", safe, f"size={size}k,nr_inodes=4096,mode=700,uid={NOBODY},gid={NOBODY}")
    with open(f"{work}/program.py", "wb") as file:
        file.write(program)
    if not os.path.lexists(f"{box}/tmp"):
        os.symlink(WORK[1:], f"{box}/tmp")
    os.mkdir(f"{box}/proc")
    try:
        kernel.mount("proc", f"{box}/proc", "proc", safe)
    except OSError:  # some containers do not let it be seen anew; nothing needs it
        pass
    kernel.switch_root(box)
    kernel.mount("none", "/", None, kernel.REMOUNT | kernel.BIND | kernel.READ_ONLY | safe)


def _make_place(path: str, place: str) -> None:
    if os.path.isdir(path):
        os.makedirs(place, exist_ok=True)
        return
    os.makedirs(os.path.dirname(place), exist_ok=True)
    os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o644))
