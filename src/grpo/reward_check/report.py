"""What a check of rewards found; plain data that goes into JSON as it is."""

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
"""Relative to a reward's size: what separates two numbers that are meant to be equal."""

Severity: TypeAlias = Literal["problem", "warning"]
"""A problem fails the check; a warning is for the user to judge."""

_MOST_NAMED = 6
_SHOWN_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class Cell:
    """What one reward gave to several texts.

    Attributes:
        mean: of the texts that got a number, as are `lowest` and `highest`; None when none did.
        numbers: texts that got a number.
        absent: texts to which the reward does not apply (None).
        failed: texts on which it failed.
    """

    mean: float | None
    lowest: float | None
    highest: float | None
    numbers: int
    absent: int
    failed: int


@dataclass(frozen=True, slots=True)
class ComparisonResult:
    """How a text compares with the right answers of the rows that it was tried on.

    Rows whose answer it holds by accident are left out, and so are those where one of the two failed.

    Attributes:
        text: as it was given to the row in which it did best, shortened; of odd answers, the answer alone.
        label: whether the same odd answer was tried on several rows; else each row has a text of its own.
        rows: how many there are.
        mean: what it earned in them.
        above: in how many it earned more than the right answer.
        level: in how many as much.
        margin: mean of what it earned more than the right answer; None when there is no right answer.
        earned: in the row where it did best by comparison, and `reference` what the right answer earned there.
        row: number of that row in the data.
        rewards: which gave it at least what they gave the right answer, in a row where that is true of the total.
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
    """What one kind of text earned, over all rows.

    Attributes:
        meaning: what was written in place of a completion.
        example: the first row's text, shortened.
        total: what the suite makes of all rewards together.
        rewards: by reward, before weighting.
        comparisons: of each odd answer, or one of all texts where each row has its own.
        rows_at_least: share of the rows in which it earned at least as much as the reference; None without one.
        fooled: by reward, the largest share, over its texts, of rows in which the reward gave it at least as much as
            the reference.
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
    """How one reward behaves.

    Attributes:
        lowest: over all probes; None when it never gave a number.
        failures: by probe, the first error in one line.
        reacts: whether two texts for one row ever got different values.
        repeat_change: largest change of a text's value when the same call was made again; None: not measured.
        order_change: … when the texts came in another order.
        batch_change: … when each row was scored by itself.
        calls: how many were timed; `median_s`, `p95_s` and `longest_s` are seconds a call.
        completions_per_call: in the largest call.
        completion_ms: milliseconds a completion, the median over calls.
        step_s: seconds that a step of the run is likely to spend here.
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
    """What completions that the policy itself wrote earned.

    Attributes:
        spread: for each group, whether its rewards differ, so that there is something to learn from it.
        share: of groups with spread, the forecast for a step.
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
    """Something that a user should know.

    Attributes:
        code: stable name of the kind, such as "hackable" or "not-repeatable".
        message: what was seen.
        meaning: what that does to a run.
        advice: what to do about it.
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
    """Everything that `check_rewards` found.

    Attributes:
        rows: data rows that were tried.
        reference_column: the column with the right answer; None when the rows have none.
        repeats: how often the same call was made.
        probes: in the order tried, the reference first.
        samples: None when no sampled groups were given.
    """

    rows: int
    reference_column: str | None
    repeats: int
    probes: tuple[ProbeResult, ...]
    rewards: tuple[RewardResult, ...]
    samples: SampleResult | None
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that fail the check."""
        return tuple(finding for finding in self.findings if finding.severity == "problem")

    @property
    def passed(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return the report as dictionaries, lists, texts and numbers, with `passed`."""
        return {"passed": self.passed, **asdict(self)}


def shortened(text: str, num_characters: int = _SHOWN_CHARACTERS) -> str:
    """Return a text in one line with its middle left out; an answer stands at the end.

    Example:
        >>> shortened("The answer\\nis 12.", 10)
        'The a…s 12.'
    """
    line = " ".join(text.split())
    half = num_characters // 2
    return line if len(line) <= num_characters else f"{line[:half]}…{line[-half:]}"


def quoted(names: Collection[str]) -> str:
    """Return names in quotation marks, the first few of many.

    Example:
        >>> quoted(["a", "b", "c"])
        "'a', 'b' and 'c'"
    """
    shown = [repr(name) for name in names]
    if len(shown) > _MOST_NAMED:
        shown = [*shown[:_MOST_NAMED], f"{len(shown) - _MOST_NAMED} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)
