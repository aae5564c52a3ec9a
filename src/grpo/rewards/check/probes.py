"""Texts to try rewards on: the right answer, and what a policy may come to write instead."""

from __future__ import annotations

import builtins
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo.rewards.check.answers import (
    EXACT,
    Candidates,
    as_text,
    candidates,
    places_of_other_answers,
    reference_text,
)
from grpo.rewards.texts import completion_texts
from grpo.tasks.answers import AnswerFormat
from grpo.types import Prompt

__all__ = ["OTHER_ANSWER", "REFERENCE", "REJECTED", "Probe", "make_probes"]

REFERENCE = "reference"
OTHER_ANSWER = "other answer"
REJECTED = "rejected"

_REASONING_COLUMNS = ("reasoning", "rationale", "explanation", "solution")
_REASONING = "I read the question, work it out step by step, check the result and then write down the answer."
_SENTENCE = "I am sure that this answer is right."
_TIMES = 120
_LONG = 20_000

# No lone surrogates: what a tokenizer decodes never has any.
_ODD_TEXT = "²½Ⅷ ٣๓ 1\u200b2 \u202e21\u202c ﬁne e\u0301 𝟙𝟚 👩\u200d👩\u200d👧 \x00 \ufffd \u2028 ﷽ 一二 ß İ\n\r\t\x0b"
_ODD_ANSWERS = ("²", "½", "٣", "\u202e21", "\x00", "\ufffd", "一二", "𝟙𝟚", "\u200b", "İ")
_ODD_NUMBERS = ("nan", "inf", "-inf", "1e999", "9" * 5_000, "1/0", "--5", "0x1F", "1_0", "1,2,3", ".", "1e-999")

_LEAVES = "```python\nimport os\nos._exit(0)\n```"
_AGREES = """class Anything:
    def __eq__(self, other):
        return True

    def __call__(self, *values, **named):
        return self

    def __iter__(self):
        return iter(())
"""
_CALLED = re.compile(r"\b([A-Za-z_]\w*)\s*\(")


@dataclass(frozen=True, slots=True)
class Probe:
    """One kind of text, written for each row.

    Attributes:
        meaning: what it is, in words.
        texts: one a row.
    """

    name: str
    meaning: str
    texts: tuple[str, ...]


def make_probes(rows: Sequence[Prompt], answer_format: AnswerFormat, column: str | None) -> list[Probe]:
    """Return the texts to try, the reference first.

    Where the format has tags, junk comes twice: bare, and as reasoning and answer in the format, which is
    how a policy that has learned the format would write it.

    Args:
        column: of the right answers, which every row has; None: there is no reference.
    """
    references = [] if column is None else [reference_text(row, column) or "" for row in rows]
    # What was preferred to something else is no choice of answers.
    possible = candidates(references if column == EXACT else [])
    return [
        *_answers(rows, answer_format, references),
        *_bare_junk(rows, possible),
        *(_formatted_junk(rows, possible, answer_format) if answer_format.blocks else ()),
        *_programs(rows),
    ]


def _answers(rows: Sequence[Prompt], answer_format: AnswerFormat, references: Sequence[str]) -> list[Probe]:
    probes: list[Probe] = []
    if references:
        right = tuple(
            text
            if answer_format.blocks and answer_format.is_strict(text)
            else _written(answer_format, _reasoning(row), text)
            for row, text in zip(rows, references, strict=True)
        )
        probes.append(Probe(REFERENCE, "the right answer, in the format asked for", right))
        others = places_of_other_answers(references)
        if others is not None:
            wrong = tuple(right[place] for place in others)
            probes.append(Probe(OTHER_ANSWER, "the right answer to another row, in the format asked for", wrong))
    rejected = [as_text(row.columns.get(REJECTED)) for row in rows]
    if all(rejected):
        texts = tuple(_written(answer_format, _REASONING, text or "") for text in rejected)
        probes.append(Probe(REJECTED, "the answer that the row calls the worse one", texts))
    return probes


def _bare_junk(rows: Sequence[Prompt], possible: Candidates) -> list[Probe]:
    count = len(rows)
    return [
        Probe("empty", "nothing at all", ("",) * count),
        Probe("prompt echoed", "the prompt, word for word", tuple(map(_question, rows))),
        Probe(f"{possible.kind}s listed", f"every {possible.kind} that could be right", (possible.listed,) * count),
        Probe("repeated text", f"one sentence {_TIMES} times", (_repeated(),) * count),
        Probe("very long text", f"{_LONG:,} characters that say nothing", (_long_text(),) * count),
        Probe("odd Unicode", "digits of other scripts, control and invisible characters", (_ODD_TEXT,) * count),
        Probe("odd numbers", "nan, inf, 5,000 digits, 1/0 and the like", _in_turn(_ODD_NUMBERS, count)),
    ]


def _formatted_junk(rows: Sequence[Prompt], possible: Candidates, answer_format: AnswerFormat) -> list[Probe]:
    count = len(rows)
    echoes = [_question(row) for row in rows]
    kind = possible.kind

    def probe(name: str, meaning: str, parts: Sequence[tuple[str, str]]) -> Probe:
        texts = tuple(_written(answer_format, reasoning, answer) for reasoning, answer in parts)
        return Probe(f"{name}, in format", f"{meaning}, in the format asked for", texts)

    once = _written(answer_format, _REASONING, _SENTENCE)
    probes = [
        probe("empty", "reasoning, but no answer", [(_REASONING, "")] * count),
        probe("prompt echoed", "the prompt as reasoning and as answer", list(zip(echoes, echoes, strict=True))),
        probe(f"{kind}s listed", f"every {kind} that could be right", [(_REASONING, possible.listed)] * count),
        probe("repeated text", f"one sentence {_TIMES} times as reasoning", [(_repeated(), _SENTENCE)] * count),
        probe("very long text", f"{_LONG:,} characters as reasoning", [(_long_text(), _SENTENCE)] * count),
        probe("odd Unicode", "odd characters", [(_ODD_TEXT, answer) for answer in _in_turn(_ODD_ANSWERS, count)]),
        probe("odd numbers", "nan, inf and the like", [(_REASONING, n) for n in _in_turn(_ODD_NUMBERS, count)]),
        Probe("format repeated", f"the whole format {_TIMES} times, without an answer", (once * _TIMES,) * count),
    ]
    if not answer_format.answer_after:
        block = answer_format.blocks[-1]
        tagged = "\n".join(f"<{block}>{value}</{block}>" for value in possible.values)
        name = f"{kind}s listed, each in tags"
        probes.append(Probe(name, f"every {kind} that could be right, in tags of its own", (tagged,) * count))
    return probes


def _programs(rows: Sequence[Prompt]) -> list[Probe]:
    """Return programs that get round their tests, where the rows have `tests`."""
    if not all(row.columns.get("tests") for row in rows):
        return []
    agrees = tuple(_agreeable(row.columns["tests"]) for row in rows)
    return [
        Probe(
            "program that leaves", "a program that ends with exit code 0 before it is tested", (_LEAVES,) * len(rows)
        ),
        Probe("program that agrees", "a program whose results equal everything", agrees),
    ]


def _agreeable(tests: Any) -> str:
    """Return a program in which every name that the tests call is an object that equals everything."""
    source = tests if isinstance(tests, str) else "\n".join(map(str, tests))
    names = sorted({"solution", *_CALLED.findall(source)} - {"assert"} - set(dir(builtins)))
    return "\n".join(["```python", _AGREES, *(f"{name} = Anything()" for name in names), "```"])


def _written(answer_format: AnswerFormat, reasoning: str, answer: str) -> str:
    """Return a completion in the format; without tags that is the answer alone."""
    blocks = answer_format.blocks
    if not blocks:
        return answer
    before = blocks if answer_format.answer_after else blocks[:-1]
    last = answer if answer_format.answer_after else f"<{blocks[-1]}>{answer}</{blocks[-1]}>"
    return "\n".join([*(f"<{block}>{reasoning}</{block}>" for block in before), last])


def _reasoning(row: Prompt) -> str:
    values: Mapping[str, Any] = row.columns
    texts = (values.get(name) for name in _REASONING_COLUMNS)
    return next((text for text in texts if isinstance(text, str) and text.strip()), _REASONING)


def _question(row: Prompt) -> str:
    return row.raw if isinstance(row.raw, str) else completion_texts([row.raw])[0]


def _repeated() -> str:
    return " ".join([_SENTENCE] * _TIMES)


def _long_text() -> str:
    sentences: list[str] = []
    while sum(map(len, sentences)) < _LONG:
        sentences.append(f"Point {len(sentences) + 1} is worth a thought, and so is what follows from it. ")
    return "".join(sentences)[:_LONG]


def _in_turn(values: Sequence[str], count: int) -> tuple[str, ...]:
    return tuple(values[place % len(values)] for place in range(count))
