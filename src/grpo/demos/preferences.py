"""Financial questions with a better and a worse answer, by stated criteria. The texts stand in `preferences.json`.

A good answer defines the concept, gives a specific fact, names the risk and hedges. A bad answer promises, boasts,
evades, stops after the definition, lacks a part of the better answer, is a good answer about another concept (which
meets no criterion here), or is no answer at all. In each pair the chosen answer meets more of the criteria than the
rejected one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo.demos.degenerate import degenerate_text
from grpo.errors import DataError

__all__ = [
    "CONCEPTS",
    "CRITERIA",
    "JUNK_SHARE",
    "OFF_TOPIC_SHARE",
    "PARTIAL_SHARE",
    "QUESTIONS",
    "Answer",
    "Concept",
    "better_answer",
    "criteria_met",
    "financial_question",
    "partial_answer",
    "preference_pairs",
    "rejected_answer",
    "worse_answer",
]

CRITERIA = {
    "definition": "defines the concept in one clear sentence",
    "specific": "gives a fact, a figure or an example that belongs to this concept",
    "risk": "names a risk, or how to spread it",
    "hedge": "suggests politely instead of promising, in an answer that says something about this concept",
}

OFF_TOPIC_SHARE = 0.35
"""Share of the rejected answers that are good answers about another concept. Without them a reward model learns the
style of a good answer and ignores the question."""

PARTIAL_SHARE = 0.2
"""Share of the rejected answers that are good answers with a part missing. Without them a reward model learns to
recognise bad answers, but not to prefer the answer that meets more of the criteria."""

JUNK_SHARE = 0.1
"""Share of the rejected answers that are a `degenerate_text`. A reward model that never saw such texts may rate a list
of numbers highly, and a policy would exploit that."""


@dataclass(frozen=True, slots=True)
class Concept:
    """A financial concept: its name in a question, with the article if it needs one, and the parts of a good answer."""

    name: str
    definition: str
    fact: str
    risk: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and the names of the criteria in `CRITERIA` that it meets."""

    text: str
    meets: frozenset[str]


_DATA: Mapping[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))

CONCEPTS: Sequence[Concept] = tuple(Concept(**concept) for concept in _DATA["concepts"])
QUESTIONS: Sequence[str] = _DATA["questions"]
HEDGES: Sequence[str] = _DATA["hedges"]
PROMISES: Sequence[str] = _DATA["promises"]
EVASIONS: Sequence[str] = _DATA["evasions"]


def financial_question(rng: random.Random) -> tuple[str, Concept]:
    """Return a question and the concept it is about."""
    concept = rng.choice(CONCEPTS)
    return rng.choice(QUESTIONS).format(name=concept.name), concept


def better_answer(concept: Concept, rng: random.Random) -> Answer:
    """Return an answer that meets at least three of the four criteria."""
    optional = rng.choice(("specific", "hedge", "", ""))
    parts = _parts(concept, rng)
    parts.pop(optional, None)
    return Answer(" ".join(parts.values()), frozenset(parts))


def worse_answer(concept: Concept, rng: random.Random) -> Answer:
    """Return an answer that meets at most one of the criteria: hype, evasion or a bare definition.

    Hype may be as long as a good answer, so that length alone does not separate them.
    """
    definition = _definition(concept)
    match rng.choice(("hyped", "hyped", "hype", "hype", "evasion", "bare")):
        case "hyped":
            promises = rng.sample(PROMISES, rng.randint(1, 3))
            return Answer(" ".join((definition, *promises)), frozenset({"definition"}))
        case "hype":
            return Answer(" ".join(rng.sample(PROMISES, rng.randint(2, 5))), frozenset())
        case "evasion":
            return Answer(rng.choice(EVASIONS), frozenset())
        case _:
            return Answer(definition, frozenset({"definition"}))


def partial_answer(concept: Concept, better: Answer, rng: random.Random) -> Answer:
    """Return an answer that lacks one or two of the criteria that `better` meets, and meets no others."""
    kept = set(rng.sample(sorted(better.meets), len(better.meets) - rng.randint(1, 2)))
    text = " ".join(part for name, part in _parts(concept, rng).items() if name in kept)
    # A hedge alone says nothing about the concept and does not count.
    return Answer(text, frozenset() if kept == {"hedge"} else frozenset(kept))


def rejected_answer(question: str, concept: Concept, better: Answer, rng: random.Random) -> Answer:
    """Return the rejected side of a pair, of a kind drawn by the shares above; the rest is a `worse_answer`."""
    kind = rng.random()
    if kind < OFF_TOPIC_SHARE:
        other = rng.choice([each for each in CONCEPTS if each is not concept])
        return Answer(better_answer(other, rng).text, frozenset())
    if kind < OFF_TOPIC_SHARE + PARTIAL_SHARE:
        return partial_answer(concept, better, rng)
    if kind < OFF_TOPIC_SHARE + PARTIAL_SHARE + JUNK_SHARE:
        text = degenerate_text(question, lambda: rng.choice((*HEDGES, *PROMISES, *EVASIONS)), rng)
        return Answer(text, frozenset())
    return worse_answer(concept, rng)


def criteria_met(question: str, text: str) -> frozenset[str]:
    """Return the criteria in `CRITERIA` that an answer to a generated question meets, found by their exact wording.

    The hedge does not count in an answer with a promise, nor in one that meets no other criterion. An answer to a
    question about an unknown concept meets none.

    Example:
        >>> sorted(criteria_met("What is inflation?", "The rise of prices over time. You cannot lose."))
        ['definition']
    """
    asked, answer = question.lower(), text.lower()
    # The longest name first, because one name may be part of another.
    named = [concept for concept in CONCEPTS if concept.name.lower() in asked]
    concept = max(named, key=lambda concept: len(concept.name), default=None)
    if concept is None:
        return frozenset()
    parts: dict[str, Sequence[str]] = {
        "definition": (concept.definition,),
        "specific": (concept.fact,),
        "risk": (concept.risk,),
        "hedge": HEDGES,
    }
    met = {name for name, wanted in parts.items() if _contains_one(answer, wanted)}
    if met == {"hedge"} or _contains_one(answer, PROMISES):
        met.discard("hedge")
    return frozenset(met)


def preference_pairs(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Return `count` distinct rows `{"prompt", "chosen", "rejected"}`; a longer list starts with the shorter one.

    Raises:
        DataError: `count` is negative or above 20,000, beyond which new pairs become rare.
    """
    most = 20_000
    if not 0 <= count <= most:
        raise DataError(f"{count} preference pairs asked for: use 0 to {most}")
    rng = random.Random(seed)
    rows: dict[tuple[str, str, str], None] = {}
    while len(rows) < count:
        question, concept = financial_question(rng)
        better = better_answer(concept, rng)
        rows[question, better.text, rejected_answer(question, concept, better, rng).text] = None
    return [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in rows]


def _parts(concept: Concept, rng: random.Random) -> dict[str, str]:
    """Return the parts of a good answer, by the criterion that each meets."""
    return {
        "definition": _definition(concept),
        "specific": concept.fact,
        "risk": rng.choice((concept.risk, f"But there is a risk: {concept.risk[0].lower()}{concept.risk[1:]}")),
        "hedge": rng.choice(HEDGES),
    }


def _definition(concept: Concept) -> str:
    return f"{concept.name[0].upper()}{concept.name[1:]} is {concept.definition}."


def _contains_one(text: str, sentences: Sequence[str]) -> bool:
    """Return whether a text in lower case contains one of the sentences, their last mark aside."""
    return any(sentence.lower().rstrip(".!") in text for sentence in sentences)
