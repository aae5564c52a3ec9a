"""An openai client whose retries keep to a judge's limits and are counted."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from grpo.errors import ConfigError
from grpo.rewards.judge.options import OPENAI, JudgeOptions
from grpo.rewards.judge.usage import Meter

__all__ = ["RateLimit", "open_client", "read_key"]

# The openai package insists on a key; a user's own server seldom does.
_PLACEHOLDER = "none"
_MINUTE_S = 60.0


def read_key(options: JudgeOptions) -> str | None:
    """Return the key in the environment; None: there is none, and the endpoint needs none.

    Raises:
        ConfigError: the key is invalid or missing, or the `openai` package is missing.
    """
    if importlib.util.find_spec("openai") is None:
        raise ConfigError("the judge reward needs the package 'openai': pip install 'grpo-kit[judge]'")
    name = options.api_key_env
    key = os.environ.get(name, "").strip()
    if key and not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the key in {name} has characters that no key has: set it again")
    if not key and options.base_url == OPENAI:
        raise ConfigError(
            f"the judge at {OPENAI} needs a key, and {name} is not set: set it, name another variable with "
            f"api_key_env, or give the base_url of your own server"
        )
    return key or None


class RateLimit:
    """A limit of the requests that start within 60 seconds."""

    def __init__(
        self,
        requests: int | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Start with no request counted.

        Args:
            requests: the most requests that start within any 60 s; None: no limit.
            clock: returns the time in seconds.
            sleep: waits for a number of seconds.
        """
        self._starts: deque[float] = deque(maxlen=requests)
        self._requests = requests
        self._clock = clock
        self._sleep = sleep

    async def wait(self) -> None:
        """Return when the next request may start, and count it."""
        if self._requests is None:
            return
        while len(self._starts) == self._requests and (wait_s := self._starts[0] + _MINUTE_S - self._clock()) > 0:
            await self._sleep(wait_s)
        self._starts.append(self._clock())


def open_client(
    options: JudgeOptions, key: str | None, meter: Meter, *, limit: RateLimit, slots: asyncio.Semaphore
) -> Any:
    """Return a new `AsyncOpenAI` for the running event loop.

    The openai client decides about retries: it retries after a lost connection, a timeout, the statuses 408, 409,
    429 and 5xx, and as the header `x-should-retry` says. It waits as `Retry-After` asks, up to two minutes, and fails
    at once where the endpoint asks for more. Without that header it waits 0.5 s, doubled up to 8 s.

    Args:
        options: address, number of retries, and `timeout_s` for an attempt up to the last byte of its answer.
        key: the endpoint's key, if it needs one.
        meter: counts each attempt when it starts, and keeps the reason of the last failed one.
        limit: delays each attempt.
        slots: one for each attempt in progress.
    """
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    # The client retries after exceptions of its own HTTP library: httpx2 since openai 3, httpx before.
    httpx = importlib.import_module(DefaultAsyncHttpxClient.__base__.__module__)

    class LimitedClient(DefaultAsyncHttpxClient):  # type: ignore[misc]  # mypy skips openai
        async def send(self, request: Any, **send_options: Any) -> Any:
            async with slots:
                await limit.wait()
                meter.count(requests=1)
                try:
                    # The library limits the time of each read only: an answer may trickle in for hours.
                    response = await asyncio.wait_for(super().send(request, **send_options), options.timeout_s)
                except asyncio.TimeoutError as error:
                    meter.last_failure = f"no answer within {options.timeout_s:g} s"
                    raise httpx.ReadTimeout(meter.last_failure, request=request) from error
                except httpx.TransportError as error:
                    meter.last_failure = type(error).__name__
                    raise
                if response.is_error:
                    meter.last_failure = f"status {response.status_code}"
                return response

    return AsyncOpenAI(
        base_url=options.base_url,
        api_key=key or _PLACEHOLDER,
        max_retries=options.retries,
        timeout=options.timeout_s,
        http_client=LimitedClient(),
    )
