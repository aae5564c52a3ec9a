"""Texts to try rewards on: the right answer, and what a policy may come to write instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from grpo.reward_check.answers import (
    EXACT,
    ODD_ANSWERS,
    ODD_NUMBERS,
    ODD_TEXT,
    Candidates,
    as_text,
    candidates,
    could_be_right,
    names_called,
    places_of_other_answers,
    reference_text,
)
from grpo.rewards.texts import completion_texts
from grpo.tasks.answers import AnswerFormat
from grpo.types import Prompt

__all__ = ["LONGEST", "OTHER_ANSWER", "REFERENCE", "REJECTED", "Probe", "ProbeText", "make_probes"]

REFERENCE = "reference"
OTHER_ANSWER = "other answer"
REJECTED = "rejected"

_REASONING_COLUMNS = ("reasoning", "rationale", "explanation", "solution")
_REASONING = "I read the question, work it out step by step, check the result and then write down the answer."
_SENTENCE = "I am sure that this answer is right."
LONGEST = 20_000
_FEWEST_TIMES = 2
_ROWS_EACH = 4
"""On how many rows each of many odd texts is tried: what pays for it may depend on the row."""

_KINDS = "first second other small large plain strange simple useful recent hidden common curious distant final"
_POINTS = (
    "point question reason detail remark example doubt case view story rule habit lesson figure method result thing "
    "name place idea"
)

_LEAVES = "```python\nimport os\nos._exit(0)\n```"
_AGREES = """class Anything:
    def __eq__(self, other):
        return True

    def __call__(self, *values, **named):
        return self

    def __iter__(self):
        return iter(())
"""


class ProbeText(NamedTuple):
    """A text in place of a completion for one row.

    Attributes:
        probe: its kind.
        label: which of several it is, where a probe has the same ones for many rows; else empty.
        counts: whether it is wrong there; junk that holds the row's right answer by accident is not.
    """

    probe: str
    label: str
    text: str
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Probe:
    """One kind of text.

    Attributes:
        meaning: what it is, in words.
        texts_by_row: what each row gets, which may be none or several.
    """

    name: str
    meaning: str
    texts_by_row: tuple[tuple[ProbeText, ...], ...]

    @property
    def texts(self) -> list[str]:
        """All texts, row by row."""
        return [each.text for row in self.texts_by_row for each in row]


def make_probes(
    rows: Sequence[Prompt], answer_format: AnswerFormat, column: str | None, *, max_characters: int = LONGEST
) -> list[Probe]:
    """Return the texts to try, the reference first.

    Where the format has tags, junk comes twice: bare, and as reasoning and answer in the format, which is
    how a policy that has learned the format would write it.

    Args:
        rows: to write them for.
        answer_format: what a completion is asked to look like.
        column: of the right answers, which every row has; None: there is no reference.
        max_characters: what a policy can write at most; long texts end there.
    """
    references = [] if column is None else [reference_text(row, column) or "" for row in rows]
    exact = references if column == EXACT else [None] * len(rows)
    writer = _Writer(rows, answer_format, exact, max_characters)
    # What was preferred to something else is no choice of answers.
    possible = candidates(references if column == EXACT else [])
    probes = [
        *_answers(writer, references),
        *_bare_junk(writer, possible),
        *(_formatted_junk(writer, possible) if answer_format.blocks else ()),
        *_programs(writer),
    ]
    return [probe for probe in probes if any(probe.texts_by_row)]


@dataclass(frozen=True, slots=True)
class _Writer:
    """Makes probes for rows.

    Attributes:
        exact: by row, the one right answer; None: there are others.
        max_characters: of long texts.
    """

    rows: Sequence[Prompt]
    answer_format: AnswerFormat
    exact: Sequence[str | None]
    max_characters: int

    @property
    def room(self) -> int:
        """Characters that are left for reasoning, where a sentence is the answer."""
        return self.max_characters - len(self.in_format("", _SENTENCE))

    def in_format(self, reasoning: str, answer: str) -> str:
        """Return a completion in the format; without tags that is the answer alone."""
        blocks, after = self.answer_format.blocks, self.answer_format.answer_after
        if not blocks:
            return answer
        last = answer if after else f"<{blocks[-1]}>{answer}</{blocks[-1]}>"
        return "\n".join([*(f"<{block}>{reasoning}</{block}>" for block in (blocks if after else blocks[:-1])), last])

    def wrong(self, name: str, meaning: str, texts: Sequence[str]) -> Probe:
        """Return a probe with a text for each row that is wrong or right without doubt; with none where it is empty."""
        return Probe(name, meaning, tuple((ProbeText(name, "", text),) if text else () for text in texts))

    def junk(self, name: str, meaning: str, texts: Sequence[str]) -> Probe:
        """Return a probe with a text for each row."""
        written = [(ProbeText(name, "", text, counts=not self._may_hold(text, row)),) for row, text in enumerate(texts)]
        return Probe(name, meaning, tuple(written))

    def odd(self, name: str, meaning: str, labels: Sequence[str], write: Callable[[str], str]) -> Probe:
        """Return a probe that tries what is written for each label on several rows where it is wrong."""
        count = len(self.rows)
        written: list[list[ProbeText]] = [[] for _ in self.rows]
        for place, label in enumerate(labels):
            text = write(label)
            order = ((place * _ROWS_EACH + step) % count for step in range(count))
            wrong = [row for row in order if not self._may_hold(text, row) and not self._may_hold(label, row)]
            for row in wrong[:_ROWS_EACH]:
                written[row].append(ProbeText(name, label, text))
        return Probe(name, meaning, tuple(map(tuple, written)))

    def _may_hold(self, text: str, row: int) -> bool:
        reference = self.exact[row]
        return reference is not None and could_be_right(text, reference)


def _answers(writer: _Writer, references: Sequence[str]) -> list[Probe]:
    probes: list[Probe] = []
    rows, answer_format = writer.rows, writer.answer_format
    if references:
        right = [
            text if answer_format.blocks and answer_format.is_strict(text) else writer.in_format(_reasoning(row), text)
            for row, text in zip(rows, references, strict=True)
        ]
        probes.append(writer.wrong(REFERENCE, "the right answer, in the format asked for", right))
        others = places_of_other_answers(rows, references)
        if others is not None:
            wrong = [right[place] for place in others]
            probes.append(writer.wrong(OTHER_ANSWER, "the right answer to another row, in the format asked for", wrong))
    rejected = [as_text(row.columns.get(REJECTED)) for row in rows]
    if all(rejected):
        texts = [writer.in_format(_REASONING, text or "") for text in rejected]
        probes.append(writer.junk(REJECTED, "the answer that the row calls the worse one", texts))
    return probes


def _bare_junk(writer: _Writer, possible: Candidates) -> list[Probe]:
    count, kind = len(writer.rows), possible.kind
    return [
        writer.junk("empty", "nothing at all", [""] * count),
        writer.junk("prompt echoed", "the prompt, word for word", list(map(_question, writer.rows))),
        writer.wrong(f"{kind}s listed", f"every {kind} that could be right", list(map(possible.listed, writer.exact))),
        writer.junk("repeated text", "one sentence again and again", [_repeated(writer.max_characters)] * count),
        writer.junk("very long text", "as much as can be, saying nothing", [_long_text(writer.max_characters)] * count),
        writer.junk("odd Unicode", "digits of other scripts, control and invisible characters", [ODD_TEXT] * count),
        writer.odd("odd numbers", "nan, inf, 5,000 digits, 1/0 and the like", ODD_NUMBERS, str),
    ]


def _formatted_junk(writer: _Writer, possible: Candidates) -> list[Probe]:
    count, kind = len(writer.rows), possible.kind
    written = writer.in_format
    echoes = [_question(row) for row in writer.rows]
    listed = [text and written(_REASONING, text) for text in map(possible.listed, writer.exact)]
    once = written(_REASONING, _SENTENCE)
    every, asked = f"every {kind} that could be right", "in the format asked for"
    probes = [
        writer.junk("empty, in format", "reasoning, but no answer", [written(_REASONING, "")] * count),
        writer.junk(
            "prompt echoed, in format",
            f"the prompt as reasoning and as answer, {asked}",
            [written(echo, echo) for echo in echoes],
        ),
        writer.wrong(f"{kind}s listed, in format", f"{every}, {asked}", listed),
        writer.junk(
            "repeated text, in format",
            f"one sentence again and again as reasoning, {asked}",
            [written(_repeated(writer.room), _SENTENCE)] * count,
        ),
        writer.junk(
            "very long text, in format",
            f"as much reasoning as can be, {asked}",
            [written(_long_text(writer.room), _SENTENCE)] * count,
        ),
        writer.odd(
            "odd Unicode, in format", f"odd characters, {asked}", ODD_ANSWERS, lambda answer: written(ODD_TEXT, answer)
        ),
        writer.odd(
            "odd numbers, in format",
            f"nan, inf and the like, {asked}",
            ODD_NUMBERS,
            lambda number: written(_REASONING, number),
        ),
        writer.junk(
            "format repeated",
            "the whole format again and again, without an answer",
            [once * max(_FEWEST_TIMES, writer.max_characters // len(once))] * count,
        ),
    ]
    if not writer.answer_format.answer_after:
        block = writer.answer_format.blocks[-1]
        tagged = [
            "\n".join(f"<{block}>{value}</{block}>" for value in possible.around(reference))
            for reference in writer.exact
        ]
        probes.append(writer.wrong(f"{kind}s listed, each in tags", f"{every}, in tags of its own", tagged))
    return probes


def _programs(writer: _Writer) -> list[Probe]:
    """Return programs that get round their tests, where the rows have `tests`."""
    tests = [row.columns.get("tests") for row in writer.rows]
    if not all(tests):
        return []
    leaves = [_LEAVES] * len(tests)
    return [
        writer.wrong("program that leaves", "a program that ends with exit code 0 before it is tested", leaves),
        writer.wrong("program that agrees", "a program whose results equal everything", list(map(_agreeable, tests))),
    ]


def _agreeable(tests: Any) -> str:
    """Return a program in which every name that the tests call is an object that equals everything."""
    names = sorted({"solution", *names_called(tests)})
    return "\n".join(["```python", _AGREES, *(f"{name} = Anything()" for name in names), "```"])


def _reasoning(row: Prompt) -> str:
    values: Mapping[str, Any] = row.columns
    texts = (values.get(name) for name in _REASONING_COLUMNS)
    return next((text for text in texts if isinstance(text, str) and text.strip()), _REASONING)


def _question(row: Prompt) -> str:
    return row.raw if isinstance(row.raw, str) else completion_texts([row.raw])[0]


def _repeated(max_characters: int) -> str:
    times = max(_FEWEST_TIMES, max_characters // (len(_SENTENCE) + 1))
    return " ".join([_SENTENCE] * times)


def _long_text(max_characters: int) -> str:
    """Return sentences none of which is like another; without numbers, as these may be the right ones."""
    subjects = (f"{kind} {point}" for point in _POINTS.split() for kind in _KINDS.split())
    return "".join(f"The {subject} is worth a thought, and so is what follows from it. " for subject in subjects)[
        : max(len(_SENTENCE), max_characters)
    ]
