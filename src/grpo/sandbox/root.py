# ruff: noqa: PTH102, PTH103, PTH110, PTH112, PTH114, PTH115, PTH120, PTH123, PTH211, SIM105
"""The file system that a program in namespaces sees."""

from __future__ import annotations

import os

from grpo.sandbox import kernel
from grpo.sandbox.order import NOBODY, Order

__all__ = ["DEVICES", "WORK", "make_root"]

WORK = "/grpo-sandbox"
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def make_root(order: Order) -> None:
    """Change to a file system that holds the readable places, a few devices and the program's own folder."""
    with open(f"{order.box}/program.py", "rb") as file:
        program = file.read()
    safe = kernel.NO_SUID | kernel.NO_DEVICES
    kernel.mount("tmpfs", order.box, "tmpfs", safe, "size=1m,mode=755")
    for path in order.readable:
        place = order.box + path
        if os.path.islink(path):
            os.makedirs(os.path.dirname(place), exist_ok=True)
            os.symlink(os.readlink(path), place)
        else:
            _make_place(path, place)
            kernel.bind_read_only(path, place)
    for path in DEVICES:
        if os.path.exists(path):
            _make_place(path, order.box + path)
            kernel.bind(path, order.box + path)
    work = order.box + WORK
    os.mkdir(work)
    size = f"size={order.limits['file_kb']}k,nr_inodes=4096,mode=700,uid={NOBODY},gid={NOBODY}"
    kernel.mount("tmpfs", work, "tmpfs", safe, size)
    with open(f"{work}/program.py", "wb") as file:
        file.write(program)
    if not os.path.lexists(f"{order.box}/tmp"):
        os.symlink(WORK[1:], f"{order.box}/tmp")
    os.mkdir(f"{order.box}/proc")
    try:
        kernel.mount("proc", f"{order.box}/proc", "proc", safe)
    except OSError:  # some containers do not let it be seen anew; nothing needs it
        pass
    kernel.switch_root(order.box)
    kernel.mount("none", "/", None, kernel.REMOUNT | kernel.BIND | kernel.READ_ONLY | safe)


def _make_place(path: str, place: str) -> None:
    if os.path.isdir(path):
        os.makedirs(place, exist_ok=True)
        return
    os.makedirs(os.path.dirname(place), exist_ok=True)
    os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o644))
