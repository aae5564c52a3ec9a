"""Texts of the probes: completions that a policy may learn to write, for one row of the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from grpo.reward_check.answers import (
    EXACT,
    Candidates,
    accepted_texts,
    as_text,
    candidates,
    could_be_right,
    is_unmistakable,
    names_called,
    places_of_other_answers,
)
from grpo.rewards import completion_texts
from grpo.tasks.answers import FORMATS, AnswerFormat
from grpo.types import Prompt

__all__ = ["LEAVES", "ODD_ANSWERS", "ODD_NUMBERS", "ODD_TEXT", "Case", "agrees", "long_text", "make_cases", "repeated"]

# No lone surrogates: a tokenizer never decodes to one.
ODD_TEXT = "²½Ⅷ ٣๓ 1\u200b2 \u202e21\u202c ﬁne e\u0301 𝟙𝟚 👩\u200d👩\u200d👧 \x00 \ufffd \u2028 ﷽ 一二 ß İ\n\r\t\x0b"
ODD_ANSWERS = ("²", "½", "٣", "\u202e21", "\x00", "\ufffd", "一二", "𝟙𝟚", "\u200b", "İ")
ODD_NUMBERS = ("nan", "inf", "-inf", "1e999", "9" * 5_000, "1/0", "--5", "0x1F", "1_0", "1,2,3", ".", "1e-999")

LEAVES = "```python\nimport os\nos._exit(0)\n```"
_EQUALS_EVERYTHING = """class Anything:
    def __eq__(self, other):
        return True

    def __call__(self, *values, **named):
        return self

    def __iter__(self):
        return iter(())
"""

_MARKS = ("\\boxed{{{}}}", "#### {}")
"""Usual marks of a final answer, which prompts may ask for where no format is configured."""

_REASONING = "I read the question, work it out step by step, check the result and then write down the answer."
_REASONING_COLUMNS = ("reasoning", "rationale", "explanation", "solution")
_SENTENCE = "I am sure that this answer is right."
_FEWEST_TIMES = 2

_KINDS = "first second other small large plain strange simple useful recent hidden common curious distant final"
_POINTS = (
    "point question reason detail remark example doubt case view story rule habit lesson figure method result thing "
    "name place idea"
)


@dataclass(frozen=True, slots=True)
class Case:
    """A row of the data, for which probes write texts. A method or property returns None if it has no text for the row.

    Attributes:
        right: the completion with the right answer; None: the row has none.
        other: the completion with the right answer to another row; None: some row has no such other row.
        rejected: the answer that the row calls the worse one; None: some row has none.
        tests: the tests of a program; None: some row has none.
        accepted: the right answers; empty: others are right as well, or none is known.
        other_forms: completions with the right answer in another form, or with another accepted answer; a reward may
            expect one of these. Empty where the answer can be written in one way only.
        marked: completions with the right answer in a form that was not asked for.
        candidates: all answers that could be right.
        max_characters: length of long texts.
        tagged: whether junk is written as reasoning and answer in the format; False: bare.
        label: the odd answer to write, where a probe tries several.
    """

    row: Prompt
    right: str | None
    other: str | None
    rejected: str | None
    tests: Any
    accepted: tuple[str, ...]
    other_forms: tuple[str, ...]
    marked: tuple[str, ...]
    candidates: Candidates
    answer_format: AnswerFormat
    max_characters: int
    tagged: bool = False
    label: str = ""

    @property
    def question(self) -> str:
        """The prompt as text; of a chat, its last message."""
        return self.row.raw if isinstance(self.row.raw, str) else completion_texts([self.row.raw])[0]

    @property
    def listed(self) -> str | None:
        """All answers that could be right, in one line."""
        return self.candidates.separator.join(self.candidates.around(self.accepted)) or None

    @property
    def listed_in_tags(self) -> str | None:
        """All answers that could be right, each in answer tags; None where the format has no such tags."""
        if self.answer_format.answer_after:
            return None
        block = self.answer_format.blocks[-1]
        return "\n".join(f"<{block}>{value}</{block}>" for value in self.candidates.around(self.accepted)) or None

    @property
    def format_repeated(self) -> str:
        """The format with a sentence as the answer, repeated up to `max_characters`."""
        once = _in_format(self.answer_format, _REASONING, _SENTENCE)
        return once * max(_FEWEST_TIMES, self.max_characters // len(once))

    def may_be_right(self, text: str) -> bool:
        """Return whether a generous reader could find this row's right answer in a text."""
        return any(could_be_right(text, answer) for answer in self.accepted)

    def answer(self, text: str | None, *, reasoning: str = _REASONING) -> str | None:
        """Return a text as the answer."""
        return text if text is None or not self.tagged else _in_format(self.answer_format, reasoning, text)

    def reasoning(self, write: Callable[[int], str]) -> str:
        """Return the longest text that `write` returns for a number of characters, as reasoning before a sentence."""
        if not self.tagged:
            return write(self.max_characters)
        room = self.max_characters - len(_in_format(self.answer_format, "", _SENTENCE))
        return _in_format(self.answer_format, write(room), _SENTENCE)


def make_cases(
    rows: Sequence[Prompt], answer_format: AnswerFormat, column: str | None, max_characters: int
) -> list[Case]:
    """Return a case for each row.

    Args:
        column: the column of the right answers, which every row has; None: there are none.
    """
    accepted = [] if column is None else [accepted_texts(row, column) or ("",) for row in rows]
    references = [texts[0] for texts in accepted]
    right = [_right_completion(row, text, answer_format) for row, text in zip(rows, references, strict=False)]
    others = places_of_other_answers(rows, accepted) if accepted else None
    rejected = [as_text(row.columns.get("rejected")) for row in rows]
    tests = [row.columns.get("tests") for row in rows]
    # A preferred answer is not one of a set that could be listed.
    possible = candidates(references if column == EXACT else [])
    return [
        Case(
            row=row,
            right=right[place] if right else None,
            other=right[others[place]] if others else None,
            rejected=_in_format(answer_format, _REASONING, rejected[place] or "") if all(rejected) else None,
            tests=tests[place] if all(tests) else None,
            accepted=accepted[place] if column == EXACT else (),
            other_forms=_other_forms(row, accepted[place], answer_format) if accepted else (),
            marked=_marked(row, references[place]) if accepted and not answer_format.blocks else (),
            candidates=possible,
            answer_format=answer_format,
            max_characters=max_characters,
        )
        for place, row in enumerate(rows)
    ]


def _right_completion(row: Prompt, answer: str, answer_format: AnswerFormat) -> str:
    if answer_format.blocks and answer_format.is_strict(answer):
        return answer
    texts = (row.columns.get(name) for name in _REASONING_COLUMNS)
    reasoning = next((text for text in texts if isinstance(text, str) and text.strip()), _REASONING)
    return _in_format(answer_format, reasoning, answer)


def _other_forms(row: Prompt, accepted: Sequence[str], answer_format: AnswerFormat) -> tuple[str, ...]:
    """Return completions with another accepted answer, with all of them, or with the answer as a block of code."""
    if is_unmistakable(row, accepted):
        return ()
    first, *more = accepted
    answers = [*more, ", ".join(accepted), "\n".join(accepted)] if more else []
    if row.columns.get("tests"):
        answers += [f"```python\n{answer}\n```" for answer in (first, *more)]
    return tuple(_right_completion(row, answer, answer_format) for answer in answers)


def _marked(row: Prompt, answer: str) -> tuple[str, ...]:
    """Return completions with the answer in every format that has tags, and behind other marks."""
    if row.columns.get("tests"):
        return ()
    tagged = (_right_completion(row, answer, each) for each in FORMATS.values() if each.blocks)
    return (*tagged, *(mark.format(answer) for mark in _MARKS))


def _in_format(answer_format: AnswerFormat, reasoning: str, answer: str) -> str:
    """Return a completion in the format; without tags, the answer alone."""
    blocks, after = answer_format.blocks, answer_format.answer_after
    if not blocks:
        return answer
    last = answer if after else f"<{blocks[-1]}>{answer}</{blocks[-1]}>"
    return "\n".join([*(f"<{block}>{reasoning}</{block}>" for block in (blocks if after else blocks[:-1])), last])


def repeated(num_characters: int) -> str:
    """Return one sentence repeated up to a length, at least twice."""
    return " ".join([_SENTENCE] * max(_FEWEST_TIMES, num_characters // (len(_SENTENCE) + 1)))


def long_text(num_characters: int) -> str:
    """Return different sentences up to a length; they hold no numbers, as these may be right answers."""
    subjects = (f"{kind} {point}" for point in _POINTS.split() for kind in _KINDS.split())
    text = "".join(f"The {subject} is worth a thought, and so is what follows from it. " for subject in subjects)
    return text[: max(len(_SENTENCE), num_characters)]


def agrees(tests: Any) -> str:
    """Return a program in which every name that the tests call is an object equal to everything."""
    names = sorted({"solution", *names_called(tests)})
    return "\n".join(["```python", _EQUALS_EVERYTHING, *(f"{name} = Anything()" for name in names), "```"])
