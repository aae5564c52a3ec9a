"""The caller's order to the launcher, and the pipes between both."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Order"]


class Order:
    """A program to run, its limits, and the pipes to the caller."""

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
        """Keep the fields, and open the pipe `starting`, which ends when the program starts.

        Args:
            command: the interpreter and its switches; the program's file is added.
            folder: a fresh folder, which the caller makes after it has started the launcher.
            box: the program's own folder in it, with `program.py`.
            readable: files and folders that the program may see, none within another.
            environment: the program's variables, except for places within its folder.
            limits: the fields of `Limits` that the launcher enforces, as whole numbers.
            start_s: seconds that the program may take to start.
            wall_s: seconds after which the caller ends the program; the launcher does so a little later.
            namespaces: create namespaces for the program.
            user: the user whose rights the program has, where the launcher may give them; None: the launcher's user.
            status: descriptor for reports, one Python literal a line.
            control: descriptor to listen to: the first byte says that the folder is there; another byte, or the end
                of the pipe, is the request to end everything.
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
        self.starting, self.started = os.pipe()  # `starting` ends when no process holds `started` any more

    def report(self, **facts: Any) -> None:
        """Write facts to the caller's pipe; a caller that is gone is ignored."""
        try:
            os.write(self.status, f"{facts!r}\n".encode("utf-8", errors="replace"))
        except OSError:
            pass

    def is_released(self) -> bool:
        """Wait until the folder is there and return True; False if the caller ends the order or dies before that."""
        return os.read(self.control, 1) != b""
