"""What a reward may be besides a function: an object that is called like one and has some of these members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

__all__ = ["ChecksRows", "CountsTotals", "HasMemory", "Remembers"]


@runtime_checkable
class Remembers(Protocol):
    """Has a state, saved with every checkpoint, so that a resumed run goes on as if it had not stopped."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state as numbers, texts, lists and mappings of these."""
        ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on from a state."""
        ...


@runtime_checkable
class ChecksRows(Protocol):
    """Looks at the data set before the first step."""

    def check_rows(self, rows: Sequence[Mapping[str, Any]], /) -> None:
        """Raise a DataError for a row, given by its columns, that the reward cannot work with."""
        ...


@runtime_checkable
class CountsTotals(Protocol):
    """Uses up something, which is shown in each step and at the end of a run."""

    @property
    def totals(self) -> Mapping[str, float]:
        """Amounts by name, since the run began."""
        ...


@runtime_checkable
class HasMemory(Protocol):
    """Keeps answers, which would make it look quicker and steadier to a check than it is."""

    def without_memory(self) -> AbstractContextManager[None]:
        """Answer anew meanwhile."""
        ...
