"""The table of findings: each is a condition on the metrics of a run and the sentence that explains it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

__all__ = ["FINDINGS", "WINDOW", "Finding", "RunView", "find"]

WINDOW = 5
"""Steps at the end of a run that a finding looks at."""

_LONG = 20
"""Steps after which a reward that does not move says something."""


@dataclass(frozen=True, slots=True)
class RunView:
    """The metrics and options of a run, from which findings are made.

    Attributes:
        metrics: of the steps so far, as in `metrics.jsonl`.
        options: of the run, by name.
    """

    metrics: list[Mapping[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)

    def numbers(self, name: str, *, last: int | None = WINDOW) -> list[float]:
        """Return the finite values of a metric in the last steps, or in all."""
        lines = self.metrics if last is None else self.metrics[-last:]
        return [float(value) for line in lines if (value := line.get(name)) is not None and math.isfinite(value)]

    def mean(self, name: str) -> float | None:
        """Return the mean of a metric over the last steps; None where it is missing in one of them."""
        numbers = self.numbers(name)
        return fmean(numbers) if len(numbers) == WINDOW else None


@dataclass(frozen=True, slots=True)
class Finding:
    """A named condition.

    Attributes:
        explain: run → the cause with its number and what to change; None: the condition does not hold.
    """

    name: str
    explain: Callable[[RunView], str | None]


def find(run: RunView) -> dict[str, str]:
    """Return the explanations that hold for a run now, by name of the finding."""
    found = {finding.name: finding.explain(run) for finding in FINDINGS}
    return {name: text for name, text in found.items() if text is not None}


def _cut_off(run: RunView) -> str | None:
    share = run.mean("truncated_share")
    if share is None or share < 0.8:
        return None
    return (
        f"{share:.0%} of the completions of the last {WINDOW} steps were cut off at "
        f"max_completion_length={run.options.get('max_completion_length')}: raise it, or ask for shorter answers"
    )


def _no_variety(run: RunView) -> str | None:
    temperature, equal, entropy = run.options.get("temperature"), run.mean("zero_variance_groups"), run.mean("entropy")
    if temperature is None or temperature >= 0.7 or equal is None or equal < 0.5:
        return None
    at = "" if entropy is None else f" (entropy {entropy:.2g} a token)"
    return (
        f"temperature={temperature:g} makes the completions of a group alike{at}, {equal:.0%} of the groups of the "
        f"last {WINDOW} steps had equal rewards: raise temperature, 1 is usual"
    )


def _small_groups(run: RunView) -> str | None:
    size, equal = run.options.get("group_size"), run.mean("zero_variance_groups")
    if size is None or size > 3 or equal is None or not 0.5 <= equal < 1.0:
        return None
    return (
        f"with group_size={size}, {equal:.0%} of the groups of the last {WINDOW} steps had equal rewards and trained "
        f"nothing: raise group_size, 8 is usual"
    )


def _no_effect(run: RunView) -> str | None:
    """Compare the mean reward of the last steps with that of the first ones, in standard errors of their difference."""
    rewards, rate = run.numbers("reward", last=None), run.options.get("learning_rate")
    norms = run.numbers("grad_norm")
    if rate is None or rate > 1e-7 or len(rewards) < _LONG or not any(norms):
        return None
    half = len(rewards) // 2
    moved = fmean(rewards[half:]) - fmean(rewards[:half])
    error = math.hypot(stdev(rewards[:half]), stdev(rewards[half:])) / math.sqrt(half)
    if abs(moved) > 2 * error:
        return None
    return (
        f"learning_rate={rate:g} has not moved the reward in {len(rewards)} steps ({moved:+.3f} ± {2 * error:.3f}): "
        f"raise it"
    )


def _collapse(run: RunView) -> str | None:
    rewards, entropies = run.numbers("reward", last=None), run.numbers("entropy", last=None)
    if len(rewards) < 2 * WINDOW or len(entropies) < 2 * WINDOW:
        return None
    before, after = fmean(entropies[:WINDOW]), fmean(entropies[-WINDOW:])
    if 0.05 * before <= after <= 2 * before + 0.1:
        return None
    best = max(fmean(rewards[start : start + WINDOW]) for start in range(len(rewards) - WINDOW))
    now, spread = fmean(rewards[-WINDOW:]), stdev(rewards[:WINDOW])
    if now > best - max(0.3 * abs(best), 3 * spread):
        return None
    return (
        f"the mean reward fell from {best:.3g} to {now:.3g} while the entropy went from {before:.2g} to {after:.2g}: "
        f"lower learning_rate={run.options.get('learning_rate'):g}, or set beta above 0"
    )


FINDINGS: tuple[Finding, ...] = (
    Finding("cut off", _cut_off),
    Finding("no variety", _no_variety),
    Finding("small groups", _small_groups),
    Finding("no effect", _no_effect),
    Finding("collapse", _collapse),
)
"""All findings, in the order in which they are shown."""
