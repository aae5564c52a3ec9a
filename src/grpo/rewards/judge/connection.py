"""The way to an endpoint: its address and key, one client for each event loop, and a limit of requests a minute."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from grpo.errors import ConfigError

__all__ = ["Access", "LoopClient", "LoopClients", "RateLimit", "find_access"]

_OPENAI = "https://api.openai.com/v1"
# The openai package insists on a key, servers of one's own seldom do.
_PLACEHOLDER = "none"
_MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class Access:
    """An address and the key that it takes.

    Attributes:
        base_url: as in `http://127.0.0.1:8000/v1`.
        key_name: the environment variable that was looked into for the key, for messages.
        key: sent with every request, in no message and no file; None: there is none.
        timeout_s: seconds a request may take.
    """

    base_url: str
    key_name: str
    key: str | None = field(repr=False)
    timeout_s: float

    def open_client(self) -> Any:
        """Return a new `AsyncOpenAI`, which belongs to the running event loop."""
        from openai import AsyncOpenAI

        # Its own further attempts would pass by our limit and our count.
        return AsyncOpenAI(
            base_url=self.base_url, api_key=self.key or _PLACEHOLDER, timeout=self.timeout_s, max_retries=0
        )

    def without_key(self, text: str) -> str:
        """Return what an endpoint said, with the key blanked out."""
        return text.replace(self.key, "…") if self.key else text


def find_access(base_url: str | None, api_key_env: str, timeout_s: float) -> Access:
    """Return where the judge answers; nothing is sent yet.

    Args:
        base_url: the address; None: the environment's OPENAI_BASE_URL, else OpenAI's own.
        api_key_env: the environment variable that holds the key.
        timeout_s: seconds a request may take.

    Raises:
        ConfigError: the address is none, the key is missing, or the `openai` package is.
    """
    if importlib.util.find_spec("openai") is None:
        raise ConfigError("the judge reward needs the package 'openai': pip install 'grpo-kit[judge]'")
    address = (base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI).strip().rstrip("/")
    if not _is_address(address):
        raise ConfigError(f"the judge reward has base_url={address!r}: use an address as in 'http://127.0.0.1:8000/v1'")
    return Access(address, api_key_env, _key(api_key_env, address), timeout_s)


def _is_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _key(variable: str, address: str) -> str | None:
    """Return the key in an environment variable; None: it holds none, and the address needs none.

    Raises:
        ConfigError: it can be no key, or is missing where one is needed.
    """
    key = os.environ.get(variable, "").strip()
    if key and not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the key in {variable} has characters that no key has: set it again")
    if not key and address == _OPENAI:
        raise ConfigError(
            f"the judge at {_OPENAI} needs a key, and {variable} is not set: set it, name another variable with "
            f"api_key_env, or give the base_url of a server of your own"
        )
    return key or None


@dataclass(slots=True)
class LoopClient:
    """The client of one event loop: connections and semaphores cannot change loops.

    Attributes:
        loop: to which it belongs; only in there can it be closed.
        client: that sends requests.
        slots: one for each request that may be under way.
        num_calls: how many use it at present.
    """

    loop: asyncio.AbstractEventLoop
    client: Any
    slots: asyncio.Semaphore
    num_calls: int = 0


class LoopClients:
    """Opens and closes clients as calls come and go."""

    def __init__(self, open_client: Callable[[], Any], concurrency: int) -> None:
        """Open nothing yet.

        Args:
            open_client: makes a client for the running event loop.
            concurrency: requests that may be under way at once in a loop.
        """
        self._open_client = open_client
        self._concurrency = concurrency
        self._current: LoopClient | None = None

    @contextlib.asynccontextmanager
    async def enter(self) -> AsyncIterator[LoopClient]:
        """Yield the client of this event loop, one for all calls that overlap; the last of them closes it."""
        loop = asyncio.get_running_loop()
        if self._current is None or self._current.loop is not loop:
            self._current = LoopClient(loop, self._open_client(), asyncio.Semaphore(self._concurrency))
        entered = self._current
        entered.num_calls += 1
        try:
            yield entered
        finally:
            entered.num_calls -= 1
            if entered.num_calls == 0:
                self._current = None if self._current is entered else self._current
                await entered.client.close()


class RateLimit:
    """So many requests a minute and no more, and none while the other side asks for a pause."""

    def __init__(
        self,
        requests: int | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Begin with nothing counted.

        Args:
            requests: that may begin within any 60 s; None: any number.
            clock: the time in seconds.
            sleep: waits for so many seconds.
        """
        self._begun: deque[float] = deque(maxlen=requests)
        self._requests = requests
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
            free_at = max(free_at, self._begun[0] + _MINUTE_S)
        return free_at - now
