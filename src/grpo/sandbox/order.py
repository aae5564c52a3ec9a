# ruff: noqa: SIM105
"""What the launcher is told to do, and how it answers."""

from __future__ import annotations

import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["NOBODY", "Order"]

NOBODY = 65534
"""The user and group that programs run as, where there is a choice."""


class Order:
    """What the launcher is to do."""

    def __init__(
        self,
        *,
        command: list[str],
        box: str,
        readable: list[str],
        environment: dict[str, str],
        limits: dict[str, int],
        namespaces: bool,
        user: int | None,
        status: int,
        control: int,
    ) -> None:
        """Note it down.

        Args:
            command: the interpreter and its switches; the program's file is added.
            box: a fresh folder with `program.py` in it.
            readable: files and folders that the program may see, none within another.
            environment: the program's, places within its folder aside.
            limits: those of `Limits` that the launcher sees to, in whole numbers.
            namespaces: whether to make them.
            user: with whose rights the program runs; None: with the launcher's.
            status: descriptor to report on, a Python literal a line.
            control: descriptor to listen to: a byte, or its end, means that all is to end.
        """
        self.command = command
        self.box = box
        self.readable = readable
        self.environment = environment
        self.limits = limits
        self.namespaces = namespaces
        self.user = user
        self.status = status
        self.control = control

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
