"""What went wrong between us and an endpoint: whether to try again, when, and how to say it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from email.utils import parsedate_to_datetime

from grpo.errors import JudgeError
from grpo.rewards.judge.access import Access
from grpo.rewards.judge.wording import first_words

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


def told(trouble: BaseException, access: Access, *, model: str, requests: int) -> JudgeError:
    """Return the error that says in one line what happened and what to do; the key is not in it.

    Args:
        requests: how many were sent in vain.
    """
    from openai import APIConnectionError, APIStatusError, APITimeoutError, AuthenticationError, PermissionDeniedError

    url = access.base_url
    attempts = f"after {requests} attempts" if requests > 1 else "at the first attempt"
    if isinstance(trouble, (APITimeoutError, asyncio.TimeoutError)):
        message = f"no answer from the judge at {url} within {access.timeout_s:g} s, {attempts}: raise timeout_s"
    elif isinstance(trouble, APIConnectionError):
        reason = _reason(trouble.__cause__ or trouble, access)
        message = f"cannot reach the judge at {url} ({reason}), {attempts}: start it or mend base_url"
    elif isinstance(trouble, (AuthenticationError, PermissionDeniedError)):
        status = _status(trouble, access)
        message = f"the judge at {url} refused the key from {access.key_name} ({status}): set the right one"
    elif isinstance(trouble, APIStatusError) and trouble.status_code == 429:
        message = (
            f"the judge at {url} takes no more requests ({_status(trouble, access)}), {attempts}: "
            f"set requests_per_minute or lower concurrency"
        )
    elif isinstance(trouble, APIStatusError):
        message = f"the judge {model!r} at {url} answered {_status(trouble, access)}, {attempts}"
    else:
        message = f"the judge at {url} sent no chat completion ({_reason(trouble, access)})"
    return JudgeError(message)


def _status(trouble: BaseException, access: Access) -> str:
    status = getattr(trouble, "status_code", "?")
    body = getattr(trouble, "body", None)
    said = body.get("message") if isinstance(body, dict) else None
    return f"{status}: {_short(said, access)}" if isinstance(said, str) and said else f"status {status}"


def _reason(trouble: BaseException, access: Access) -> str:
    return _short(f"{type(trouble).__name__}: {trouble}", access)


def _short(said: str, access: Access) -> str:
    # Blanked out first: half of a key that the cut leaves would not be found any more.
    return first_words(access.without_key(said), _LONGEST_MESSAGE)
