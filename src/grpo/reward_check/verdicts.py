"""Verdicts on probes: the finding that a text belongs to when it earns too much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grpo.reward_check.answers import EXACT
from grpo.reward_check.report import ComparisonResult, Finding, Severity

__all__ = [
    "FOREIGN_SHARE",
    "PROBE_FINDINGS",
    "FindingKind",
    "Standard",
    "accepted",
    "other_answer",
    "rejected",
    "worthless",
]

FOREIGN_SHARE = 0.25
"""Share of rows in which the answer to another row may earn as much as the row's own."""


@dataclass(frozen=True, slots=True)
class FindingKind:
    """A kind of finding. `message` and `advice` are templates for `str.format`.

    Attributes:
        names_rewards: whether a finding names the rewards that cause it; False where sound rewards behave so as well.
    """

    code: str
    severity: Severity
    message: str
    meaning: str
    advice: str
    names_rewards: bool = True

    def finding(
        self,
        *,
        rewards: Sequence[str] = (),
        probes: Sequence[str] = (),
        severity: Severity | None = None,
        **values: object,
    ) -> Finding:
        """Return a finding of this kind with `values` in its templates; `severity` replaces the kind's own."""
        message, advice = self.message.format(**values), self.advice.format(**values)
        return Finding(
            self.code, severity or self.severity, message, self.meaning, advice, tuple(rewards), tuple(probes)
        )


HACKABLE = FindingKind(
    "hackable",
    "problem",
    "these texts earn more than the right answer: {more}",
    "Training maximises the reward: it will teach the model to write such texts instead of answers.",
    "{remedy}",
)
NOT_TOLD_APART = FindingKind(
    "not-told-apart",
    "problem",
    "these texts earn as much as the right answer: {as_much}",
    "The rewards do not tell these texts from a right answer, so training will not prefer the right one.",
    "{remedy}",
)
ANSWERS_UNSEEN = FindingKind(
    "not-told-apart",
    "warning",
    "these texts earn as much as the right answer: {as_much}",
    "No reward reads the right answers, so a wrong answer in the right form earns as much.",
    "Add a reward that compares with the answer (correctness, accuracy), if answers are to improve.",
)
GOOD_UNSEEN = FindingKind(
    "not-told-apart",
    "warning",
    "these texts earn as much as the good answer: {as_much}",
    "If these texts are worse than good answers, training will not learn that they are.",
    "Read one of these texts and add a reward that it cannot earn, if answers are to improve.",
)
PAYS_IN_SOME_ROWS = FindingKind(
    "pays-in-some-rows",
    "warning",
    "in some rows these texts earn more than the good answer: {more}",
    "In most rows the good answer earns more; training may still find such a text where it does not.",
    "{fixes}",
    names_rewards=False,
)
OTHER_PROMPTS = FindingKind(
    "not-told-apart",
    "warning",
    "good answers to other rows earn as much as the row's own good answer: {as_much}",
    "No reward ties a completion to its prompt, so training may find one answer for all prompts.",
    "Add a reward that reads the prompt, if answers should be about it; otherwise ignore this warning.",
    names_rewards=False,
)
JUNK_PAYS = FindingKind(
    "junk-pays",
    "warning",
    "these texts earn more than the best of {samples.group_size} completions that the model writes now "
    "({samples.best:.3g}): {more}",
    "The rows have no right answers to compare with; if these texts are worthless, training will still find them.",
    "Read one of these texts and add a reward that it cannot earn: a format, a limit on length, a judge.",
)

PROBE_FINDINGS = (HACKABLE, NOT_TOLD_APART, ANSWERS_UNSEEN, GOOD_UNSEEN, PAYS_IN_SOME_ROWS, OTHER_PROMPTS, JUNK_PAYS)
"""All kinds of finding that a verdict returns, in the order of the report. In their templates, `{more}` and
`{as_much}` list the texts with the rows in which they earned more, or at least as much; `{remedy}` and `{fixes}` are
advice."""


@dataclass(frozen=True, slots=True)
class Standard:
    """The yardstick for a text's total.

    Attributes:
        reference_column: the column with right answers; None: there are none.
        sees_answers: whether a reward can read that column.
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
        return JUNK_PAYS if standard.best_sampled is not None and text.mean > standard.best_sampled else None
    if standard.is_exact and standard.sees_answers:
        return HACKABLE if text.above else NOT_TOLD_APART if text.level else None
    if _usually_earns_more(text):
        return HACKABLE
    if _usually_earns_as_much(text):
        return NOT_TOLD_APART if standard.sees_answers else _unseen(standard)
    return PAYS_IN_SOME_ROWS if text.above else None


def rejected(text: ComparisonResult, standard: Standard) -> FindingKind | None:
    """Return the finding for the answer that the row calls the worse one; it may be better than sampled ones."""
    return None if standard.reference_column is None else worthless(text, standard)


def other_answer(text: ComparisonResult, standard: Standard) -> FindingKind | None:
    """Return the finding for the right answer to another row, which may be a good answer here where several are."""
    if not standard.is_exact:
        return OTHER_PROMPTS if text.above + text.level > FOREIGN_SHARE * text.rows else None
    if standard.sees_answers:
        return worthless(text, standard)
    return _unseen(standard) if _usually_earns_as_much(text) else None


def _unseen(standard: Standard) -> FindingKind:
    return ANSWERS_UNSEEN if standard.is_exact else GOOD_UNSEEN


def _usually_earns_more(text: ComparisonResult) -> bool:
    """Return whether a text earns more than good answers in most rows, or on average."""
    return 2 * text.above > text.rows or (text.margin or 0.0) > 0


def _usually_earns_as_much(text: ComparisonResult) -> bool:
    """Return whether a text earns as much as good answers in most rows, or on average, but not more."""
    in_most_rows = 2 * (text.above + text.level) > text.rows
    return not _usually_earns_more(text) and (in_most_rows or text.margin == 0)
