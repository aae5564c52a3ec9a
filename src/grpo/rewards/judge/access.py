"""Where a judge answers, and with which key."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from grpo.errors import ConfigError
from grpo.rewards.judge.options import JudgeOptions

__all__ = ["Access", "find_access"]

_OPENAI = "https://api.openai.com/v1"
# The openai package insists on a key, servers of one's own seldom do.
_PLACEHOLDER = "none"


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


def find_access(options: JudgeOptions) -> Access:
    """Return where the judge answers; nothing is sent yet.

    Raises:
        ConfigError: the address is none, the key is missing, or the `openai` package is.
    """
    if importlib.util.find_spec("openai") is None:
        raise ConfigError("the judge reward needs the package 'openai': pip install 'grpo-kit[judge]'")
    address = (options.base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI).strip().rstrip("/")
    if not _is_address(address):
        raise ConfigError(f"the judge reward has base_url={address!r}: use an address as in 'http://127.0.0.1:8000/v1'")
    return Access(address, options.api_key_env, _key(options.api_key_env, address), options.timeout_s)


def _is_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _key(variable: str, address: str) -> str | None:
    key = os.environ.get(variable, "").strip()
    if key and not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the key in {variable} has characters that no key has: set it again")
    if not key and address == _OPENAI:
        raise ConfigError(
            f"the judge at {_OPENAI} needs a key, and {variable} is not set: set it, name another variable with "
            f"api_key_env, or give the base_url of a server of your own"
        )
    return key or None
