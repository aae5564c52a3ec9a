"""Counts of a judge's requests and tokens."""

from __future__ import annotations

import operator
import threading
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any

__all__ = ["Meter", "Usage"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of requests and tokens.

    Attributes:
        requests: requests sent, retries included.
        cached: conversations without a request of their own: the answer was on disk, or the same call had an equal one.
        input_tokens: tokens of the conversations, as the endpoint counted them; a request that was given up adds none.
        output_tokens: tokens of the answers, likewise.
    """

    requests: int = 0
    cached: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @classmethod
    def of(cls, counts: Mapping[str, Any]) -> Usage:
        """Return the usage with these counts; a missing count is 0."""
        return cls(**{field.name: int(counts.get(field.name, 0)) for field in fields(cls)})

    def __add__(self, other: Usage) -> Usage:
        """Return the sum of both."""
        return Usage(*map(operator.add, astuple(self), astuple(other)))

    def at_least(self, other: Usage) -> Usage:
        """Return the larger of each count."""
        return Usage(*map(max, astuple(self), astuple(other)))


class Meter:
    """Adds up usage at the moment it arises, so that a call that is given up has been counted too.

    Attributes:
        usage: the sum so far.
        last_failure: the reason why the last failed request has failed; empty: none failed.
    """

    def __init__(self, total: Meter | None = None) -> None:
        """Start at zero; `total` counts everything that this meter counts as well."""
        self.usage = Usage()
        self.last_failure = ""
        self._total = total
        self._lock = threading.Lock()

    def count(self, **counts: int) -> None:
        """Add to the counts of `Usage`."""
        with self._lock:
            self.usage += Usage(**counts)
        if self._total is not None:
            self._total.count(**counts)

    def restore(self, usage: Usage) -> None:
        """Raise each count to that of `usage`; nothing lowers a count, since money spent stays spent."""
        with self._lock:
            self.usage = self.usage.at_least(usage)
