"""What a user sets of a judge → an endpoint, or one clear line."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from grpo.errors import ConfigError
from grpo.rewards.judge.cache import AnswerCache
from grpo.rewards.judge.endpoint import Endpoint
from grpo.rewards.judge.rate_limit import RateLimit
from grpo.rewards.judge.readings import Scale

__all__ = ["DEFAULT_CACHE", "check_number", "check_scale", "open_endpoint"]

DEFAULT_CACHE = "~/.cache/grpo/judge"
_OPENAI = "https://api.openai.com/v1"
# What a server without keys is sent: the openai package insists on one.
_NO_KEY = "none"


def open_endpoint(
    *,
    model: str,
    base_url: str | None,
    api_key_env: str,
    request: Mapping[str, Any],
    concurrency: int,
    retries: int,
    back_off_s: float,
    requests_per_minute: int | None,
    timeout_s: float,
    cache_dir: str | Path | None,
) -> Endpoint:
    """Return the endpoint; nothing is sent yet.

    Args:
        base_url: by default the environment's OPENAI_BASE_URL, else OpenAI's own.
        api_key_env: name of the environment variable with the key; only OpenAI's own endpoint insists on one.
        request: members of every request; those that are None are left out.

    Raises:
        ConfigError: an option is impossible, the key is missing, or the `openai` package is.
    """
    if importlib.util.find_spec("openai") is None:
        raise ConfigError("the judge reward needs the package 'openai': pip install 'grpo-kit[judge]'")
    if not isinstance(model, str) or not model.strip():
        raise ConfigError(f"the judge reward has model={model!r}: name the model that judges, as its endpoint calls it")
    check_number("concurrency", concurrency, at_least=1, whole=True)
    check_number("retries", retries, at_least=0, whole=True)
    check_number("back_off_s", back_off_s, at_least=0.0)
    check_number("timeout_s", timeout_s, above=0.0)
    if requests_per_minute is not None:
        check_number("requests_per_minute", requests_per_minute, at_least=1, whole=True)
    address = (base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI).strip().rstrip("/")
    return Endpoint(
        model=model.strip(),
        base_url=_checked_address(address),
        api_key=_key(api_key_env, address),
        key_name=api_key_env,
        options={name: value for name, value in request.items() if value is not None},
        concurrency=concurrency,
        retries=retries,
        back_off_s=back_off_s,
        timeout_s=timeout_s,
        limit=RateLimit(requests_per_minute),
        cache=None if cache_dir is None else AnswerCache(cache_dir),
    )


def check_number(
    name: str, value: Any, *, at_least: float | None = None, above: float | None = None, whole: bool = False
) -> None:
    """Check that an option is a finite number within its bounds.

    Raises:
        ConfigError: it is not.
    """
    kind: Any = int if whole else (int, float)
    fits = not isinstance(value, bool) and isinstance(value, kind) and math.isfinite(value)
    if fits and (at_least is None or value >= at_least) and (above is None or value > above):
        return
    bound = f"above {above:g}" if at_least is None else f"of at least {at_least:g}"
    raise ConfigError(f"the judge reward has {name}={value!r}: use a {'whole ' if whole else ''}number {bound}")


def check_scale(scale: Any) -> Scale:
    """Return the scale as two floats.

    Raises:
        ConfigError: it is not two finite numbers, the lower one first.
    """
    try:
        lowest, highest = (float(end) for end in scale)
    except (TypeError, ValueError):
        lowest = highest = math.nan
    if not -math.inf < lowest < highest < math.inf:
        raise ConfigError(f"the judge reward has scale={scale!r}: use two numbers, the lower one first, as in [1, 10]")
    return lowest, highest


def _checked_address(address: str) -> str:
    try:
        parts = urlsplit(address)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise ConfigError(f"the judge reward has base_url={address!r}: use an address as in 'http://127.0.0.1:8000/v1'")
    return address


def _key(variable: str, address: str) -> str:
    key = os.environ.get(variable, "").strip()
    if key and not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the key in {variable} has characters that no key has: set it again")
    if not key and address == _OPENAI:
        raise ConfigError(
            f"the judge at {_OPENAI} needs a key, and {variable} is not set: set it, name another variable with "
            f"api_key_env, or give the base_url of a server of your own"
        )
    return key or _NO_KEY
