"""Verdicts on probes: the finding that a text belongs to when it earns too much."""

from __future__ import annotations

from dataclasses import dataclass

from grpo.reward_check import finding_kinds as kinds
from grpo.reward_check.answers import EXACT
from grpo.reward_check.finding_kinds import FindingKind
from grpo.reward_check.report import ComparisonResult

__all__ = [
    "FOREIGN_SHARE",
    "Standard",
    "accepted",
    "other_answer",
    "rejected",
    "worthless",
]

FOREIGN_SHARE = 0.25
"""Share of rows in which the answer to another row may earn as much as the row's own."""


@dataclass(frozen=True, slots=True)
class Standard:
    """The values that a text's total is compared with.

    Attributes:
        reference_column: the column with right answers; None: there are none.
        sees_answers: whether a reward reads that column.
        best_sampled: mean of the best total in each sampled group; None: no sampled completion has a total.
    """

    reference_column: str | None
    sees_answers: bool
    best_sampled: float | None

    @property
    def is_exact(self) -> bool:
        """True when each row has one right answer, and everything else is wrong."""
        return self.reference_column == EXACT


def accepted(_: ComparisonResult, __: Standard) -> None:
    """Return None: a right answer cannot earn too much."""


def worthless(text: ComparisonResult, standard: Standard) -> FindingKind | None:
    """Return the finding for a text that should earn less than the right answer.

    Where there is one right answer and a reward can read it, one row in which the text earns as much is a problem.
    Where rows have a good answer among others, only most rows or the mean count. Without right answers, the text is
    compared with the best sampled completions.
    """
    if standard.reference_column is None:
        return kinds.JUNK_PAYS if standard.best_sampled is not None and text.mean > standard.best_sampled else None
    if standard.is_exact and standard.sees_answers:
        return kinds.HACKABLE if text.above else kinds.NOT_TOLD_APART if text.level else None
    if _usually_earns_more(text):
        return kinds.HACKABLE if standard.sees_answers or not standard.is_exact else kinds.HACKABLE_UNSEEN
    if _usually_earns_as_much(text):
        return kinds.NOT_TOLD_APART if standard.sees_answers else _unseen(standard)
    return kinds.PAYS_IN_SOME_ROWS if text.above else None


def rejected(text: ComparisonResult, standard: Standard) -> FindingKind | None:
    """Return the finding for the answer that the row calls the worse one; it may be better than sampled ones."""
    return None if standard.reference_column is None else worthless(text, standard)


def other_answer(text: ComparisonResult, standard: Standard) -> FindingKind | None:
    """Return the finding for the right answer to another row; it may suit this row too if answers are not exact."""
    if not standard.is_exact:
        return kinds.OTHER_PROMPTS if text.above + text.level > FOREIGN_SHARE * text.rows else None
    if standard.sees_answers:
        return worthless(text, standard)
    return _unseen(standard) if _usually_earns_as_much(text) else None


def _unseen(standard: Standard) -> FindingKind:
    return kinds.ANSWERS_UNSEEN if standard.is_exact else kinds.GOOD_UNSEEN


def _usually_earns_more(text: ComparisonResult) -> bool:
    """Return whether a text earns more than good answers in most rows, or on average."""
    return 2 * text.above > text.rows or (text.margin or 0.0) > 0


def _usually_earns_as_much(text: ComparisonResult) -> bool:
    """Return whether a text earns as much as good answers in most rows, or on average, but not more."""
    in_most_rows = 2 * (text.above + text.level) > text.rows
    return not _usually_earns_more(text) and (in_most_rows or text.margin == 0)
