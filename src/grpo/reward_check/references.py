"""Right answers as the rewards recognise them: in another form where they refuse the one that was written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from grpo.reward_check.answers import accepted_texts, is_unmistakable
from grpo.reward_check.probes import EMPTY, REFERENCE, Probe, ProbeText
from grpo.reward_check.report import ROUNDING
from grpo.reward_check.scoring import Scores, SuiteRunner, reading_columns
from grpo.reward_check.texts import make_cases
from grpo.tasks.answers import AnswerFormat
from grpo.types import Prompt, Score

__all__ = ["References", "find_references"]


@dataclass(frozen=True, slots=True)
class References:
    """The right answers of the rows, and the rows where no right answer was tried.

    Attributes:
        texts: by place of the row, the text that counts as its right answer.
        scores: of texts that no probe has.
        untried: rows whose right answer the rewards do not recognise, though it could be written in another way.
        unasked: rows where they recognise it only in a form that completions are not asked to have.
    """

    texts: Mapping[int, ProbeText]
    scores: Scores
    untried: frozenset[int] = frozenset()
    unasked: frozenset[int] = frozenset()

    def put_into(self, probe: Probe) -> Probe:
        """Return the probe of right answers with the texts that count; any other probe as it is."""
        return replace(probe, texts=tuple(self.texts.values())) if probe.name == REFERENCE else probe


def find_references(
    runner: SuiteRunner, probes: Sequence[Probe], scores: Scores, answer_format: AnswerFormat, column: str | None
) -> References:
    """Return the right answers; a row whose answer is refused is tried with its other forms.

    An answer is refused if every reward that reads columns gives it what it gives an empty answer.
    """
    written = {text.row: text for probe in probes if probe.name == REFERENCE for text in probe.texts}
    reading = reading_columns(runner.suite, runner.rows)
    if column is None or not reading:
        return References(written, {})
    empty = {text.row: scores[text] for probe in probes if probe.name.startswith(EMPTY) for text in probe.texts}
    refused = {row for row, text in written.items() if _is_refused(scores[text], empty[row], reading)}
    cases = make_cases(runner.rows, answer_format, column, max_characters=0)
    asked = {row: [ProbeText(row, REFERENCE, "", form) for form in cases[row].other_forms] for row in refused}
    unasked = {row: [ProbeText(row, REFERENCE, "", form) for form in cases[row].marked] for row in refused}
    layout = [texts for row in sorted(refused) if (texts := [*asked[row], *unasked[row]])]
    tried = runner.score(layout) if layout else {}
    chosen: dict[int, ProbeText] = {}
    for row in sorted(refused):
        recognised = [
            text for text in (*asked[row], *unasked[row]) if not _is_refused(tried[text], empty[row], reading)
        ]
        best = max(recognised, key=lambda text: tried[text].sum or 0.0, default=None)
        if best is not None and (tried[best].sum or 0.0) > (scores[written[row]].sum or 0.0):
            chosen[row] = best
    return References(
        texts={**written, **chosen},
        scores={text: tried[text] for text in chosen.values()},
        untried=frozenset(row for row in refused - chosen.keys() if not _is_known(runner.rows[row], column)),
        unasked=frozenset(row for row, text in chosen.items() if text in unasked[row]),
    )


def _is_known(row: Prompt, column: str) -> bool:
    return is_unmistakable(row, accepted_texts(row, column))


def _is_refused(score: Score, empty: Score, rewards: Collection[str]) -> bool:
    """Return whether all of these rewards give a text what they give an empty answer."""
    return all(_are_equal(score.rewards[name], empty.rewards[name]) for name in rewards) and not score.failures


def _are_equal(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= ROUNDING * max(1.0, abs(other))
