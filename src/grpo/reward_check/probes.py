"""The table of probes: each kind of text, the function that writes it for a row, and the verdict on its rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

from grpo.reward_check.finding_kinds import FindingKind
from grpo.reward_check.report import ComparisonResult
from grpo.reward_check.texts import (
    LEAVES,
    ODD_ANSWERS,
    ODD_NUMBERS,
    ODD_TEXT,
    Case,
    agrees,
    long_text,
    make_cases,
    repeated,
)
from grpo.reward_check.verdicts import Standard, accepted, other_answer, rejected, worthless
from grpo.tasks.answers import AnswerFormat
from grpo.types import Prompt

__all__ = ["EMPTY", "LONGEST", "OTHER_ANSWER", "PROBES", "REFERENCE", "Probe", "ProbeKind", "ProbeText", "make_probes"]

LONGEST = 20_000

_ROWS_EACH = 4
"""Number of rows on which each odd answer is tried: the reward for it may depend on the row."""


@dataclass(frozen=True, slots=True)
class ProbeKind:
    """One row of `PROBES`.

    Attributes:
        name: of the probe; `{kind}` stands for "number" or "answer".
        meaning: description of the text.
        write: returns the text for a row; None: there is none for it.
        verdict: returns the finding that a text belongs to, given what it earned; None: it did not earn too much.
        fixes: advice on rewards that pay for the text.
        fixes_reading: whether that advice is for rewards that read an answer.
        labels: odd answers, each tried on several rows where it is wrong; empty: every row gets a text.
        needs_tags: whether the probe is left out where the format has no tags.
        twice: True: if the format has tags, a second probe writes the text in the format.
        always_counts: False: leave out rows whose right answer the text contains by accident; True: count all rows.
    """

    name: str
    meaning: str
    write: Callable[[Case], str | None]
    verdict: Callable[[ComparisonResult, Standard], FindingKind | None]
    fixes: tuple[str, ...]
    fixes_reading: bool = False
    labels: tuple[str, ...] = ()
    needs_tags: bool = False
    twice: bool = False
    always_counts: bool = False


_COMPARE_WHOLE = "Compare the whole marked answer with the right one; that it occurs somewhere is not enough."
_REFUSE_UNREADABLE = "Give a text that cannot be read as an answer a reward of 0."
_REPORT_TESTS = "Let the tests report their own result, and compare types as well as values."

# fmt: off
PROBES = (
    ProbeKind("reference", "the right answer, in the format asked for", lambda case: case.right, accepted, (),
              always_counts=True),
    ProbeKind("other answer", "the right answer to another row, in the format asked for",
              lambda case: case.other, other_answer,
              ("Check whether the rewards expect another format, and whether one compares with the row's answer.",),
              fixes_reading=True, always_counts=True),
    ProbeKind("rejected", "the answer that the row calls the worse one", lambda case: case.rejected, rejected,
              ("Check whether the sign, or the label that is rewarded, is the wrong one.",)),
    ProbeKind("empty", "an empty answer", lambda case: case.answer(""), worthless,
              ("Give an empty text, or an empty answer, a reward of 0.",), twice=True),
    ProbeKind("prompt echoed", "the prompt, word for word",
              lambda case: case.answer(case.question, reasoning=case.question), worthless,
              ("Do not pay for the prompt's own words.",), twice=True),
    ProbeKind("{kind}s listed", "every {kind} that could be right", lambda case: case.answer(case.listed), worthless,
              (_COMPARE_WHOLE,), fixes_reading=True, twice=True, always_counts=True),
    ProbeKind("repeated text", "one sentence again and again", lambda case: case.reasoning(repeated), worthless,
              ("Put a limit on what length earns, and do not pay for the same words twice.",), twice=True),
    ProbeKind("very long text", "a text of the greatest length, without content",
              lambda case: case.reasoning(long_text), worthless,
              ("Put a limit on what length earns.",), twice=True),
    ProbeKind("odd Unicode", "digits of other scripts, control and invisible characters",
              lambda case: case.answer(ODD_TEXT), worthless,
              (_REFUSE_UNREADABLE,), fixes_reading=True),
    ProbeKind("odd Unicode, in format", "odd characters as reasoning and as answer, in the format asked for",
              lambda case: case.answer(case.label, reasoning=ODD_TEXT), worthless,
              (_REFUSE_UNREADABLE,), fixes_reading=True, labels=ODD_ANSWERS, needs_tags=True),
    ProbeKind("odd numbers", "nan, inf, 5,000 digits, 1/0 and the like",
              lambda case: case.answer(case.label), worthless,
              ("Give an answer that is not a finite number a reward of 0: NaN and infinity pass many comparisons.",),
              fixes_reading=True, labels=ODD_NUMBERS, twice=True),
    ProbeKind("format repeated", "the whole format again and again, without an answer",
              lambda case: case.format_repeated, worthless,
              ("Pay for each tag once, and for nothing after the last tag.",), needs_tags=True),
    ProbeKind("{kind}s listed, each in tags", "every {kind} that could be right, in tags of its own",
              lambda case: case.listed_in_tags, worthless,
              (_COMPARE_WHOLE, "Take one answer, the last, and ignore the others."),
              fixes_reading=True, needs_tags=True, always_counts=True),
    ProbeKind("program that leaves", "a program that ends with exit code 0 before it is tested",
              lambda case: LEAVES if case.tests else None, worthless,
              (_REPORT_TESTS,), fixes_reading=True, always_counts=True),
    ProbeKind("program that agrees", "a program whose results equal everything",
              lambda case: agrees(case.tests) if case.tests else None, worthless,
              (_REPORT_TESTS,), fixes_reading=True, always_counts=True),
)
# fmt: on
"""All probes. A row is a name, its meaning, the writer, the verdict, advice, and the exceptions."""

REFERENCE, OTHER_ANSWER, EMPTY = PROBES[0].name, PROBES[1].name, PROBES[3].name


class ProbeText(NamedTuple):
    """A text in place of a completion for one row.

    Attributes:
        row: place among the rows tried.
        probe: name of the probe.
        label: the odd answer, where a probe tries the same ones on many rows; else empty.
        counts: False where the text contains the row's right answer by accident.
    """

    row: int
    probe: str
    label: str
    text: str
    counts: bool = True

    @property
    def kind(self) -> tuple[str, str]:
        """Probe and label."""
        return self.probe, self.label


@dataclass(frozen=True, slots=True)
class Probe:
    """The texts of one kind, row by row: each row has none, one or several.

    Attributes:
        in_format: whether the texts are written in the format asked for.
    """

    kind: ProbeKind
    name: str
    meaning: str
    texts: tuple[ProbeText, ...]
    in_format: bool = False


def make_probes(
    rows: Sequence[Prompt], answer_format: AnswerFormat, column: str | None, *, max_characters: int = LONGEST
) -> list[Probe]:
    """Return the probes that have a text for some row: those of bare texts first, then those that use the format.

    Args:
        answer_format: the format that completions are asked to have.
        column: the column of the right answers, which every row has; None: there is no reference.
        max_characters: length of the longest completion; long texts end there.
    """
    cases = make_cases(rows, answer_format, column, max_characters)
    probes = [_probe(kind, cases) for kind in PROBES if not kind.needs_tags]
    if answer_format.blocks:
        tagged = [replace(case, tagged=True) for case in cases]
        probes += [_probe(kind, tagged) for kind in PROBES if kind.needs_tags or kind.twice]
    return [probe for probe in probes if probe.texts]


def _probe(kind: ProbeKind, cases: Sequence[Case]) -> Probe:
    word, in_format = cases[0].candidates.kind, cases[0].tagged and kind.twice
    name = kind.name.format(kind=word) + ", in format" * in_format
    meaning = kind.meaning.format(kind=word) + ", in the format asked for" * in_format
    texts: list[ProbeText] = []
    for row, case in enumerate(cases if not kind.labels else ()):
        if (text := kind.write(case)) is not None:
            counts = kind.always_counts or not case.may_be_right(text)
            texts.append(ProbeText(row, name, "", text, counts))
    for place, label in enumerate(kind.labels):
        order = ((place * _ROWS_EACH + step) % len(cases) for step in range(len(cases)))
        written = (ProbeText(row, name, label, kind.write(replace(cases[row], label=label)) or "") for row in order)
        wrong = (each for each in written if not any(map(cases[each.row].may_be_right, (each.text, label))))
        texts += islice(wrong, _ROWS_EACH)
    ordered = tuple(sorted(texts, key=lambda each: each.row))
    return Probe(kind, name, meaning, ordered, in_format or kind.needs_tags)
