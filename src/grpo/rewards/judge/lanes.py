"""One client for each event loop: connections and semaphores cannot change loops, and only their own can close them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Lane", "Lanes"]


@dataclass(slots=True)
class Lane:
    """What belongs to one event loop.

    Attributes:
        client: that sends requests.
        places: one for each request that may be under way.
        calls: how many use it at present.
    """

    loop: asyncio.AbstractEventLoop
    client: Any
    places: asyncio.Semaphore
    calls: int = 0


class Lanes:
    """Opens and closes clients as calls come and go."""

    def __init__(self, open_client: Callable[[], Any], concurrency: int) -> None:
        self._open_client = open_client
        self._concurrency = concurrency
        self._lane: Lane | None = None

    @contextlib.asynccontextmanager
    async def enter(self) -> AsyncIterator[Lane]:
        """Yield the lane of this event loop, one for all calls that overlap; the last of them closes its client."""
        loop = asyncio.get_running_loop()
        if self._lane is None or self._lane.loop is not loop:
            self._lane = Lane(loop, self._open_client(), asyncio.Semaphore(self._concurrency))
        lane = self._lane
        lane.calls += 1
        try:
            yield lane
        finally:
            lane.calls -= 1
            if lane.calls == 0:
                self._lane = None if self._lane is lane else self._lane
                await lane.client.close()
