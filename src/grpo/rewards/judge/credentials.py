"""Credentials in a judge's options and answers: options are saved in config.yaml, and answers in logs and the cache."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

__all__ = ["check_address", "check_request", "check_variable", "without_key"]

_REMEDY = "set the environment variable that api_key_env names instead (OPENAI_API_KEY by default)"
_NAMES = re.compile(r"api_?key|auth|password|passwd|secret|credential|cookie|(^|_)(token|key|bearer)$")
_VALUES = re.compile(r"^\s*(bearer|basic)\s+\S|\b(sk|gsk|hf|xai|ghp)[-_][A-Za-z0-9_-]{12,}|://[^/\s]*@", re.IGNORECASE)
_SHORTEST_KEY = 8
"""Shorter keys are placeholders such as "none" or "1", which answers may contain."""


def check_address(address: str) -> str:
    """Return an address without a user, a password, a query or a fragment.

    Raises:
        ValueError: it has one of them, or a key in its path; the message does not show it.
    """
    parts = urlsplit(address)
    if "@" in parts.netloc or parts.query or parts.fragment or _VALUES.search(address):
        raise ValueError(f"it should have no user, password, key or '?', since it is written to files: {_REMEDY}")
    return address


def check_variable(name: str) -> str:
    """Return the name of an environment variable.

    Raises:
        ValueError: it is none, and may be the key itself; the message does not show it.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or _VALUES.search(name):
        raise ValueError("it should be the name of an environment variable, and not the key: write OPENAI_API_KEY")
    return name


def check_request(members: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the members of a request.

    Raises:
        ValueError: one of them, at any depth, has the name or the form of a credential; its value is not shown.
    """
    for path, value in _leaves(members or {}):
        names = [re.sub(r"[\s-]+", "_", name.lower()) for name in path]
        if any(map(_NAMES.search, names)) or (isinstance(value, str) and _VALUES.search(value)):
            shown = ".".join(name if not _VALUES.search(name) else "…" for name in path)
            raise ValueError(f"its member {shown!r} should be no credential, since it is written to files: {_REMEDY}")
    return members


def without_key(text: str, key: str | None) -> str:
    """Return an answer with the endpoint's key blanked out, in case the judge repeats it."""
    return text.replace(key, "…") if key and len(key) >= _SHORTEST_KEY else text


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping):
        for name, member in value.items():
            yield from _leaves(member, (*path, str(name)))
    elif isinstance(value, (list, tuple)):
        for member in value:
            yield from _leaves(member, path)
    else:
        yield path, value
