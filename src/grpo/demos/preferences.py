"""Financial questions with a better and a worse answer, by criteria that are stated here.

A good answer says what the thing is, gives a specific fact, names the risk and how to spread it, and
hedges. A bad one promises, boasts, evades, stops after the definition, lacks something that the other one has, is a
good answer to a question about something else, which meets no criterion here, or no answer at all. In a pair the
chosen answer always meets more of the criteria than the rejected one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from grpo.demos.concepts import CONCEPTS, Concept
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
    "better_answer",
    "criteria_met",
    "financial_question",
    "partial_answer",
    "preference_pairs",
    "rejected_answer",
    "worse_answer",
]

CRITERIA = {
    "definition": "says in one clear sentence what the thing is",
    "specific": "gives a fact, a figure or an example that belongs to this thing",
    "risk": "names what can go wrong, or how to spread it",
    "hedge": "suggests politely instead of promising, beside something about this thing",
}

OFF_TOPIC_SHARE = 0.35
"""Of the rejected answers in pairs, good ones about something else: without them a reward model learns how a good
answer sounds, and not to read what was asked."""

PARTIAL_SHARE = 0.2
"""Of the rejected answers in pairs, good ones that lack something: without them a reward model learns what is bad, and
not that more of the criteria is better."""

JUNK_SHARE = 0.1
"""Of the rejected answers in pairs, what is no answer (`degenerate_text`): a reward model that never saw such texts may
like a list of numbers, and a policy would find that out."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and the names of the criteria in `CRITERIA` that it meets."""

    text: str
    meets: frozenset[str]


QUESTIONS = (
    "What is {name}?",
    "Explain {name} to a beginner.",
    "Should I put my money into {name}?",
    "How does {name} work?",
    "Is {name} a good idea for me?",
    "What should I know about {name}?",
)
HEDGES = (
    "It may suit you if your plan is long.",
    "Please compare costs first.",
    "It depends on your goals.",
    "Consider asking an adviser.",
    "You may want to start small.",
)
PROMISES = (
    "It is guaranteed to make you rich.",
    "You cannot lose.",
    "Buy now, everybody does.",
    "Put all your money in today!",
    "It doubles every year, trust me.",
    "Borrow as much as you can for it.",
)
EVASIONS = (
    "It is a money thing.",
    "I do not know.",
    "It is complicated.",
    "Look it up.",
    "Yes.",
    "Money is important to many people.",
)


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

    Hype may be as long as a good answer, so that length alone does not tell them apart.
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
    # A hedge of nothing is no merit.
    return Answer(text, frozenset() if kept == {"hedge"} else frozenset(kept))


def rejected_answer(question: str, concept: Concept, better: Answer, rng: random.Random) -> Answer:
    """Return the worse side of a pair: a `worse_answer`, or, as often as the shares say, a good answer about something
    else, one that lacks something that `better` has, or no answer at all."""
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
    """Return the criteria in `CRITERIA` that an answer to one of our questions meets, by the words it needs for each.

    A promise or a boast takes the hedge away, whatever else the answer says, and so does an answer that has nothing
    about the concept: it is polite about something else. To a question about nothing that this module knows, no
    answer meets any.

    Example:
        >>> sorted(criteria_met("What is inflation?", "The rise of prices over time. You cannot lose."))
        ['definition']
    """
    concept = _concept_of(question)
    if concept is None:
        return frozenset()
    said = text.lower()
    parts = {
        "definition": (concept.definition,),
        "specific": (concept.fact,),
        "risk": (concept.risk,),
        "hedge": HEDGES,
    }
    met = {name for name, wanted in parts.items() if any(_bare(part) in said for part in wanted)}
    if met == {"hedge"} or any(_bare(promise) in said for promise in PROMISES):
        met.discard("hedge")
    return frozenset(met)


def _concept_of(question: str) -> Concept | None:
    """Return the concept that a question names, the longest name first: an option is part of no other name."""
    asked = question.lower()
    named = [concept for concept in CONCEPTS if concept.name.lower() in asked]
    return max(named, key=lambda concept: len(concept.name), default=None)


def _bare(sentence: str) -> str:
    return sentence.lower().rstrip(".!")


def preference_pairs(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Return `count` distinct rows `{"prompt", "chosen", "rejected"}`; a longer list starts with the shorter one.

    Raises:
        DataError: `count` is negative, or more than can be told apart easily.
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
    """Return what an answer is made of, by the criterion that each part meets."""
    return {
        "definition": _definition(concept),
        "specific": concept.fact,
        "risk": rng.choice((concept.risk, f"But there is a risk: {concept.risk[0].lower()}{concept.risk[1:]}")),
        "hedge": rng.choice(HEDGES),
    }


def _definition(concept: Concept) -> str:
    return f"{concept.name[0].upper()}{concept.name[1:]} is {concept.definition}."
