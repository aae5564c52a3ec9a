"""Reports of findings: each finding once while the run trains, and again at its end if it still holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grpo.diagnosis.findings import RunView, find

__all__ = ["Monitor"]


class Monitor:
    """The findings of one run."""

    def __init__(self, options: Mapping[str, Any] | None = None, earlier: Sequence[Mapping[str, Any]] = ()) -> None:
        """Begin with the metrics of the steps that a resumed run has done already."""
        self._options = options or {}
        self._metrics = list(earlier)
        self._reported = set(find(RunView(self._metrics, self._options)))

    def after_step(self, metrics: Mapping[str, Any]) -> list[str]:
        """Return the explanations that hold now and were not reported before."""
        self._metrics.append(metrics)
        found = find(RunView(self._metrics, self._options))
        new = [text for name, text in found.items() if name not in self._reported]
        self._reported |= found.keys()
        return new

    def conclusions(self) -> list[str]:
        """Return the explanations that hold at the end."""
        return list(find(RunView(self._metrics, self._options)).values())
