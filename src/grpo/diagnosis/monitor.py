"""Reports of findings: each finding once while the run trains, and again at its end if it still holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grpo.diagnosis.findings import RunView, find
from grpo.diagnosis.zero_variance import ZeroVarianceMonitor

__all__ = ["Monitor"]


class Monitor:
    """The findings of one run."""

    def __init__(self, options: Mapping[str, Any] | None = None, earlier: Sequence[Mapping[str, Any]] = ()) -> None:
        """Begin with the metrics of the steps that a resumed run has done already."""
        self._run = RunView(list(earlier), options or {})
        self._reported = set(find(self._run))
        self._zero_variance = ZeroVarianceMonitor()
        for line in earlier:
            self._zero_variance.after_step(line)

    def after_step(self, metrics: Mapping[str, Any]) -> list[str]:
        """Return the explanations that hold now and were not reported before."""
        self._run.metrics.append(metrics)
        warning = self._zero_variance.after_step(metrics)
        found = find(self._run)
        new = [text for name, text in found.items() if name not in self._reported]
        self._reported |= found.keys()
        return ([] if warning is None else [warning]) + new

    def conclusions(self) -> list[str]:
        """Return the explanations that hold at the end."""
        conclusion = self._zero_variance.conclusion()
        return ([] if conclusion is None else [conclusion]) + list(find(self._run).values())
