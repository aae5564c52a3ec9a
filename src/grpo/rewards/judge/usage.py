"""What a judge has been asked, and what that costs."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["Meter", "Prices", "Usage"]

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of requests and tokens.

    Attributes:
        requests: sent, further attempts included.
        cached: conversations for which none was sent: the answer was on disk, or an equal one was asked beside them.
        input_tokens: of the conversations, as the endpoint counted them; nobody counts those of a request that
            was given up.
        output_tokens: of the answers, likewise.
    """

    requests: int = 0
    cached: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @classmethod
    def of(cls, counts: Mapping[str, Any]) -> Usage:
        """Return the usage that `counts` returned; what is not there is 0."""
        return cls(**{field.name: int(counts.get(field.name, 0)) for field in fields(cls)})

    def counts(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)

    def __add__(self, other: Usage) -> Usage:
        """Return the sum of both."""
        mine, others = self.counts(), other.counts()
        return Usage(**{name: mine[name] + others[name] for name in mine})

    def at_least(self, other: Usage) -> Usage:
        """Return the larger of each count."""
        mine, others = self.counts(), other.counts()
        return Usage(**{name: max(mine[name], others[name]) for name in mine})


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of a million tokens, in any currency."""

    input_tokens: float
    output_tokens: float

    def of(self, usage: Usage) -> float:
        """Return what the usage costs.

        Example:
            >>> Prices(0.5, 2.0).of(Usage(requests=1, input_tokens=1_000_000, output_tokens=250_000))
            1.0
        """
        return (usage.input_tokens * self.input_tokens + usage.output_tokens * self.output_tokens) / _MILLION


class Meter:
    """Adds up usage at the moment it arises, so that a call which is given up has been counted too.

    Attributes:
        usage: so far.
    """

    def __init__(self, onto: Meter | None = None) -> None:
        """Begin at nothing; `onto` counts what this one counts as well."""
        self.usage = Usage()
        self._onto = onto
        self._lock = threading.Lock()

    def count(self, usage: Usage) -> None:
        """Add to the usage so far."""
        with self._lock:
            self.usage += usage
        if self._onto is not None:
            self._onto.count(usage)

    def start_from(self, usage: Usage) -> None:
        """Take over what was spent earlier.

        Nothing takes spending back, not even the state from before it: each count becomes the larger of both.
        """
        with self._lock:
            self.usage = self.usage.at_least(usage)
