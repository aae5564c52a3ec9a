"""The report of a reward check: plain data that converts to JSON without loss."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

__all__ = [
    "ROUNDING",
    "Cell",
    "CheckReport",
    "ComparisonResult",
    "Finding",
    "ProbeResult",
    "RewardResult",
    "SampleResult",
    "Severity",
    "quoted",
    "shortened",
]

ROUNDING = 1e-6
"""Largest difference, relative to a reward's size, between two values that count as equal."""

Severity: TypeAlias = Literal["problem", "warning"]
"""A problem fails the check; a warning is for the user to judge."""

_MOST_NAMED = 6
_SHOWN_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class Cell:
    """Summary of the values that one reward gave to several texts.

    Attributes:
        mean, lowest, highest: over the texts that got a number; None when no text got one.
        numbers: texts that got a number.
        absent: texts to which the reward does not apply (None).
        failed: texts on which the reward failed.
    """

    mean: float | None
    lowest: float | None
    highest: float | None
    numbers: int
    absent: int
    failed: int


@dataclass(frozen=True, slots=True)
class ComparisonResult:
    """Comparison of a probe's text with the right answers of the rows that it was tried on.

    Rows where the text contains the right answer by accident, or one of the two has no total, do not count.

    Attributes:
        text: the shortened text of the row where it did best; for odd answers, the answer alone.
        label: whether the same odd answer was tried on several rows; else each row has a text of its own.
        rows: rows that count.
        mean: mean total of the text.
        above: rows in which the text earned more than the right answer.
        level: rows in which it earned as much.
        margin: mean of the text's total minus the right answer's; None when there is no right answer.
        earned, reference: totals of the text and of the right answer in the row where the text did best.
        row: number of that row in the data.
        rewards: rewards that gave the text at least as much as the right answer, in a row where the total did so too.
    """

    text: str
    label: bool
    rows: int
    mean: float
    above: int
    level: int
    margin: float | None
    earned: float
    reference: float | None
    row: int
    rewards: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Rewards of one kind of text, over all rows.

    Attributes:
        meaning: description of the text.
        example: the first row's text, shortened.
        total: the weighted sum of all rewards.
        rewards: by reward, before weighting.
        comparisons: one for each odd answer, or one for all texts where each row has its own.
        rows_at_least: share of the rows in which a text earned at least as much as the reference; None without one.
        fooled: by reward, the share of rows where it gave a text at least as much as the reference (the largest share
            over the probe's odd answers).
    """

    name: str
    meaning: str
    example: str
    total: Cell
    rewards: Mapping[str, Cell]
    comparisons: tuple[ComparisonResult, ...]
    rows_at_least: float | None
    fooled: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RewardResult:
    """Range, repeatability and cost of one reward.

    Attributes:
        lowest, highest: over all probes; None when the reward never gave a number.
        failures: by probe, the first error in one line.
        reacts: whether two texts for one row ever got different values.
        repeat_change: largest change of a text's value when the same call was made again; None: not measured.
        order_change: largest change when the texts came in another order.
        batch_change: largest change when each row was scored by itself.
        calls: timed calls.
        completions_per_call: completions in the largest call.
        median_s, p95_s, longest_s: seconds a call.
        completion_ms: milliseconds a completion, the median over calls.
        step_s: expected seconds in each step of the run.
    """

    name: str
    lowest: float | None
    highest: float | None
    failures: Mapping[str, str]
    reacts: bool
    repeat_change: float | None
    order_change: float | None
    batch_change: float | None
    calls: int
    completions_per_call: int
    median_s: float
    p95_s: float
    longest_s: float
    completion_ms: float
    step_s: float


@dataclass(frozen=True, slots=True)
class SampleResult:
    """Rewards of completions that the policy sampled.

    Attributes:
        spread: for each group, whether its rewards differ, so that training can learn from it.
        share: share of groups with spread, the forecast for a step.
        interval: 95% interval of that share (Wilson).
        best: mean over groups of the best total in a group; None when there is no number.
    """

    group_size: int
    spread: tuple[bool, ...]
    share: float
    interval: tuple[float, float]
    total: Cell
    rewards: Mapping[str, Cell]
    best: float | None


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of the rewards, its effect on a run, and advice.

    Attributes:
        code: stable name of the kind, such as "hackable" or "not-repeatable".
        message: the observation.
        meaning: its effect on a run.
        advice: the remedy.
        rewards: names of the rewards concerned.
        probes: names of the probes concerned.
    """

    code: str
    severity: Severity
    message: str
    meaning: str
    advice: str
    rewards: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckReport:
    """All measurements and findings of `check_rewards`.

    Attributes:
        rows: number of data rows tried.
        reference_column: the column with the right answers; None when the rows have none.
        untried_rows: rows in which the rewards do not recognise the right answer as it was written, though it could be
            written in another way; texts are compared with nothing there.
        unasked_rows: rows in which they recognise it only in a form that completions are not asked to have.
        repeats: number of identical calls.
        probes: in the order tried, the reference first.
        samples: None when no sampled groups were given.
    """

    rows: int
    reference_column: str | None
    untried_rows: int
    unasked_rows: int
    repeats: int
    probes: tuple[ProbeResult, ...]
    rewards: tuple[RewardResult, ...]
    samples: SampleResult | None
    findings: tuple[Finding, ...]

    @property
    def has_right_answers(self) -> bool:
        """True when a right answer was tried in some row."""
        return self.reference_column is not None and self.untried_rows < self.rows

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that fail the check."""
        return tuple(finding for finding in self.findings if finding.severity == "problem")

    @property
    def passed(self) -> bool:
        """True when there is no problem."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return the report as dictionaries, lists, strings and numbers, with `passed`."""
        return {"passed": self.passed, **asdict(self)}


def shortened(text: str, num_characters: int = _SHOWN_CHARACTERS) -> str:
    """Return a text in one line without its middle; the end stays, since an answer stands there.

    Example:
        >>> shortened("The answer\\nis 12.", 10)
        'The a…s 12.'
    """
    line = " ".join(text.split())
    half = num_characters // 2
    return line if len(line) <= num_characters else f"{line[:half]}…{line[-half:]}"


def quoted(names: Collection[str]) -> str:
    """Return names in quotation marks, at most six of them.

    Example:
        >>> quoted(["a", "b", "c"])
        "'a', 'b' and 'c'"
    """
    shown = [repr(name) for name in names]
    if len(shown) > _MOST_NAMED:
        shown = [*shown[:_MOST_NAMED], f"{len(shown) - _MOST_NAMED} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)
