"""Texts against the right answers of the same rows: in how many rows junk earns more, or as much."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from grpo.rewards.check.measure import Scores
from grpo.rewards.check.probes import REFERENCE, Probe, Try
from grpo.rewards.check.report import Standing
from grpo.types import Prompt, Score

__all__ = ["ROUNDING", "Duel", "duels_of", "share_at_least", "shortened", "standing"]

ROUNDING = 1e-6
"""Relative to a reward's size: what separates two numbers that are meant to be equal."""

_SHOWN_CHARACTERS, _LABEL_CHARACTERS = 100, 30
_Value: TypeAlias = Callable[[Score], "float | None"]


@dataclass(frozen=True, slots=True)
class Duel:
    """A text and the right answer of one row.

    Attributes:
        row: its place among those tried.
        due: of the right answer; None when there is none.
    """

    row: int
    text: Try
    own: Score
    due: Score | None

    def lead(self, value: _Value) -> float | None:
        """Return by how much the text earned more, 0 when that is rounding; None when one of the two has no number."""
        own, due = value(self.own), None if self.due is None else value(self.due)
        if own is None or due is None:
            return None
        return 0.0 if abs(own - due) <= ROUNDING * max(1.0, abs(due)) else own - due


def duels_of(probe: Probe, scores: Scores) -> list[list[Duel]]:
    """Return the duels of each odd answer, or of all texts together where each row has its own.

    What happens to be right where it stands is left out.
    """
    references = {row: score for (row, text), score in scores.items() if text.probe == REFERENCE}
    by_label: dict[str, list[Duel]] = {}
    for row, tries in enumerate(probe.tries):
        for text in tries:
            if text.counts:
                duel = Duel(row, text, scores[row, text], references.get(row))
                by_label.setdefault(text.label, []).append(duel)
    return list(by_label.values())


def standing(duels: Sequence[Duel], rows: Sequence[Prompt], rewards: Sequence[str]) -> Standing | None:
    """Return how the text or texts of these duels stand in total; None when no total is there to compare."""
    leads = [(lead, duel) for duel in duels if (lead := duel.lead(_total)) is not None]
    if leads:
        lead, best = max(leads, key=lambda pair: pair[0])
    else:
        alone = [duel for duel in duels if duel.due is None and duel.own.sum is not None]
        if not alone:
            return None
        best = max(alone, key=_own_total)
    counted = [duel for _, duel in leads] or alone
    return Standing(
        text=shortened(best.text.label, _LABEL_CHARACTERS) if best.text.label else shortened(best.text.text),
        label=bool(best.text.label),
        rows=len(counted),
        mean=statistics.fmean(map(_own_total, counted)),
        above=sum(lead > 0 for lead, _ in leads),
        level=sum(lead == 0 for lead, _ in leads),
        lead=statistics.fmean(lead for lead, _ in leads) if leads else None,
        earned=_own_total(best),
        due=best.due.sum if best.due is not None else None,
        row=rows[best.row].row,
        rewards=tuple(name for name in rewards if any(_pays(name, duel) for lead, duel in leads if lead >= 0)),
    )


def share_at_least(duels: Sequence[Duel], name: str) -> float:
    """Return the share of the rows in which a reward gave at least what it gave the right answer; 0 of no rows."""
    leads = [lead for duel in duels if (lead := duel.lead(lambda score: score.rewards[name])) is not None]
    return sum(lead >= 0 for lead in leads) / len(leads) if leads else 0.0


def shortened(text: str, most: int = _SHOWN_CHARACTERS) -> str:
    """Return a text in one line with its middle left out; an answer stands at the end."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most // 2]}…{line[-most // 2 :]}"


def _total(score: Score) -> float | None:
    return score.sum


def _own_total(duel: Duel) -> float:
    assert duel.own.sum is not None, "only duels with a total are counted"
    return duel.own.sum


def _pays(name: str, duel: Duel) -> bool:
    lead = duel.lead(lambda score: score.rewards[name])
    return lead is not None and lead >= 0
