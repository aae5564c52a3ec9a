"""A program's folder: its name, its size and its removal, for caller and launcher.

A fresh folder contains the program's own folder, `BOX`. The program cannot write to the outer folder, so it cannot
replace an entry that is about to be removed by a link.
"""

from __future__ import annotations

import os
import stat
import time

__all__ = ["BOX", "ENTRIES_KB", "NOBODY", "remove_folder", "size_kb"]

BOX = "box"
NOBODY = 65534
"""User and group of programs, where the caller may choose them."""
ENTRIES_KB = 16
"""Kilobytes for the entries of a program's folder, which are not counted."""


def size_kb(folder: str, *, enough_kb: float) -> float:
    """Return the kilobytes of the files in a folder; each file counts one kilobyte more.

    Counting stops above `enough_kb`. A folder that cannot be read (closed, or too deep for a path) counts as more
    than enough, because its files could not be counted.
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
        except FileNotFoundError:  # removed meanwhile
            continue
        except OSError:
            return enough_kb + 1
    return total


def remove_folder(folder: str, *, within_s: float) -> bool:
    """Remove a fresh folder with all its contents, and return whether it is removed in time.

    Entries two levels down are moved up first, so that neither paths nor recursion grow with the depth of a program's
    folders. No link is followed.
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
                        _take(lower)  # a folder without permissions cannot be moved
                        number += 1
                        os.rename(lower, f"{folder}/moved-{number}")
                    else:
                        os.unlink(lower)
                os.rmdir(path)
        os.rmdir(folder)
    except FileNotFoundError:
        return not os.path.lexists(folder)
    except OSError:  # a process still writes there
        return False
    return True


def _is_folder(path: str) -> bool:
    return stat.S_ISDIR(os.lstat(path).st_mode)


def _take(path: str) -> None:
    """Make this process's user the owner of a folder, with access for that user only."""
    if not hasattr(os, "O_PATH"):
        os.chmod(path, 0o700, follow_symlinks=False)
        return
    opened = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.geteuid() == 0:
            try:
                os.chown(f"/proc/self/fd/{opened}", 0, 0)
            except OSError:  # root without capabilities, which owned the folder before
                pass
        os.chmod(f"/proc/self/fd/{opened}", 0o700)
    except FileNotFoundError:  # no /proc
        os.chmod(path, 0o700)
    finally:
        os.close(opened)
