"""The file system of a program in namespaces."""

from __future__ import annotations

import os

from grpo.sandbox.folder import ENTRIES_KB, NOBODY
from grpo.sandbox.launcher import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["DEVICES", "WORK", "make_root"]

WORK = "/grpo-sandbox"
"""The program's own folder, as the program sees it."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def make_root(box: str, *, readable: Sequence[str], file_kb: int) -> None:
    """Change to a file system with the readable paths, a few devices and the program's own folder."""
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
    size = file_kb + ENTRIES_KB + len(program) // 1024
    kernel.mount("tmpfs", work, "tmpfs", safe, f"size={size}k,nr_inodes=4096,mode=700,uid={NOBODY},gid={NOBODY}")
    with open(f"{work}/program.py", "wb") as file:
        file.write(program)
    if not os.path.lexists(f"{box}/tmp"):
        os.symlink(WORK[1:], f"{box}/tmp")
    os.mkdir(f"{box}/proc")
    try:
        kernel.mount("proc", f"{box}/proc", "proc", safe)
    except OSError:  # some containers do not allow a second /proc; it is not required
        pass
    kernel.switch_root(box)
    kernel.mount("none", "/", None, kernel.REMOUNT | kernel.BIND | kernel.READ_ONLY | safe)


def _make_place(path: str, place: str) -> None:
    if os.path.isdir(path):
        os.makedirs(place, exist_ok=True)
        return
    os.makedirs(os.path.dirname(place), exist_ok=True)
    os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o644))
