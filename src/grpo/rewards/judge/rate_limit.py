"""So many requests a minute and no more, and none while the other side asks for a pause."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

__all__ = ["RateLimit"]


class RateLimit:
    """Lets at most `requests` begin within any `period_s` seconds; None: any number."""

    def __init__(
        self,
        requests: int | None,
        *,
        period_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._begun: deque[float] = deque(maxlen=requests)
        self._requests = requests
        self._period_s = period_s
        self._clock = clock
        self._sleep = sleep
        self._held_until = -float("inf")

    async def turn(self) -> None:
        """Return when the next request may begin, and count it."""
        while (wait_s := self._wait_s()) > 0:
            await self._sleep(wait_s)
        if self._requests is not None:
            self._begun.append(self._clock())

    def hold(self, seconds: float) -> None:
        """Let nothing begin for so long: the other side asked for it."""
        self._held_until = max(self._held_until, self._clock() + seconds)

    @property
    def held_s(self) -> float:
        """Seconds that are left of the pause; 0 when there is none."""
        return max(0.0, self._held_until - self._clock())

    def _wait_s(self) -> float:
        now = self._clock()
        free_at = self._held_until
        if self._requests is not None and len(self._begun) == self._requests:
            free_at = max(free_at, self._begun[0] + self._period_s)
        return free_at - now
