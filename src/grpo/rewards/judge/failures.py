"""What went wrong between us and an endpoint: whether to try again, when, and how to say it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from email.utils import parsedate_to_datetime

from grpo.errors import JudgeError

__all__ = ["is_transient", "retry_after_s", "told"]

_TRANSIENT = frozenset({408, 409, 425, 429})
# Too many requests, says the status; no money left, says the code: waiting mends the first only.
_NO_MONEY = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_LONGEST_MESSAGE = 160


def is_transient(trouble: BaseException) -> bool:
    """Return whether the same request may succeed a little later."""
    from openai import APIConnectionError, APIStatusError

    if isinstance(trouble, (APIConnectionError, asyncio.TimeoutError)):
        return True
    if not isinstance(trouble, APIStatusError) or trouble.code in _NO_MONEY:
        return False
    return trouble.status_code in _TRANSIENT or trouble.status_code >= 500


def retry_after_s(trouble: BaseException) -> float | None:
    """Return the seconds that the endpoint asks to wait (`Retry-After`: a number or a date); None: it does not say."""
    from openai import APIStatusError

    if not isinstance(trouble, APIStatusError):
        return None
    said = trouble.response.headers.get("retry-after", "")
    seconds = math.nan
    with contextlib.suppress(ValueError):
        seconds = float(said)
    if math.isnan(seconds):
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            seconds = parsedate_to_datetime(said).timestamp() - time.time()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def told(
    trouble: BaseException,
    *,
    base_url: str,
    model: str,
    key_name: str,
    api_key: str,
    requests: int,
    timeout_s: float,
) -> JudgeError:
    """Return the error that says in one line what happened and what to do; the key is not in it."""
    from openai import APIConnectionError, APIStatusError, APITimeoutError, AuthenticationError, PermissionDeniedError

    attempts = f"after {requests} attempts" if requests > 1 else "at the first attempt"
    if isinstance(trouble, (APITimeoutError, asyncio.TimeoutError)):
        message = f"no answer from the judge at {base_url} within {timeout_s:g} s, {attempts}: raise timeout_s"
    elif isinstance(trouble, APIConnectionError):
        reason = _reason(trouble.__cause__ or trouble)
        message = f"cannot reach the judge at {base_url} ({reason}), {attempts}: start it or mend base_url"
    elif isinstance(trouble, (AuthenticationError, PermissionDeniedError)):
        message = f"the judge at {base_url} refused the key from {key_name} ({_status(trouble)}): set the right one"
    elif isinstance(trouble, APIStatusError) and trouble.status_code == 429:
        message = (
            f"the judge at {base_url} takes no more requests ({_status(trouble)}), {attempts}: "
            f"set requests_per_minute or lower concurrency"
        )
    elif isinstance(trouble, APIStatusError):
        message = f"the judge {model!r} at {base_url} answered {_status(trouble)}, {attempts}"
    else:
        message = f"the judge at {base_url} sent no chat completion ({_reason(trouble)})"
    return JudgeError(message.replace(api_key, "…") if api_key else message)


def _status(trouble: BaseException) -> str:
    status = getattr(trouble, "status_code", "?")
    body = getattr(trouble, "body", None)
    said = body.get("message") if isinstance(body, dict) else None
    return f"{status}: {_short(said)}" if isinstance(said, str) and said else f"status {status}"


def _reason(trouble: BaseException) -> str:
    return _short(f"{type(trouble).__name__}: {trouble}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[: _LONGEST_MESSAGE - 1]}…"
