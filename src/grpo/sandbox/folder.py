"""The folder that a program has: what it is called, what lies in it and its removal, for caller and launcher.

A fresh folder holds the program's own, `BOX`: what the program may write to is never where it is removed from, so
that it cannot put a link in the place of what is about to be removed.
"""

from __future__ import annotations

import os
import stat
import time

__all__ = ["BOX", "ENTRIES_KB", "NOBODY", "remove_folder", "size_kb"]

BOX = "box"
NOBODY = 65534
"""The user and group that programs run as, where there is a choice."""
ENTRIES_KB = 16
"""What the entries of a program's folder take, which is not counted."""


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
