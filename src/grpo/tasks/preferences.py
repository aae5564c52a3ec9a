"""Financial questions with a better and a worse answer, by criteria that are stated here.

A good answer says what the thing is, gives a specific fact, names the risk and how to spread it, and
hedges. A bad one promises, boasts, evades, or stops after the definition. In a pair the
chosen answer always meets more of the criteria than the rejected one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from grpo.errors import DataError

__all__ = [
    "CONCEPTS",
    "CRITERIA",
    "QUESTIONS",
    "Answer",
    "better_answer",
    "criteria_met",
    "financial_question",
    "preference_pairs",
    "worse_answer",
]

CRITERIA = {
    "definition": "says in one clear sentence what the thing is",
    "specific": "gives a fact, a figure or an example that belongs to this thing",
    "risk": "names what can go wrong, or how to spread it",
    "hedge": "suggests politely instead of promising",
}


@dataclass(frozen=True, slots=True)
class Concept:
    """`name` with its article if it needs one, as it stands in a question."""

    name: str
    definition: str
    fact: str
    risk: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and the names of the criteria in `CRITERIA` that it meets."""

    text: str
    meets: frozenset[str]


CONCEPTS = (
    Concept(
        "an index fund",
        "a fund that holds every stock of an index",
        "Fees are often below 0.2% a year.",
        "It falls when the whole market falls.",
    ),
    Concept(
        "a bond",
        "a loan to a company or a state that pays interest",
        "A 5% bond pays $50 a year on $1000.",
        "Its price falls when rates rise.",
    ),
    Concept(
        "a stock",
        "a small share of a company",
        "Over decades stocks returned about 7% a year.",
        "A single company can fail, so spread your money.",
    ),
    Concept(
        "an ETF",
        "a fund that trades on an exchange like a stock",
        "One share can hold 500 companies.",
        "Narrow ones can lose half their value.",
    ),
    Concept(
        "a savings account",
        "a bank account that pays interest",
        "At 2% you earn $20 a year on $1000.",
        "Inflation can be higher than the interest.",
    ),
    Concept(
        "an emergency fund",
        "cash for bad times",
        "Three to six months of expenses is usual.",
        "Cash loses value slowly, so do not keep all in it.",
    ),
    Concept(
        "inflation",
        "the rise of prices over time",
        "At 3% prices double in about 24 years.",
        "It eats savings that pay no interest.",
    ),
    Concept(
        "compound interest",
        "interest on interest",
        "At 7% money doubles in about 10 years.",
        "It works against you when you borrow.",
    ),
    Concept(
        "diversification",
        "spreading money over many assets",
        "30 stocks remove most of the risk of one.",
        "It cannot remove the risk of the whole market.",
    ),
    Concept(
        "a mortgage",
        "a loan to buy a home, with the home as security",
        "A 30 year loan can cost its price twice.",
        "You can lose the home if you cannot pay.",
    ),
    Concept(
        "a credit score",
        "a number that tells lenders how you repay",
        "It often runs from 300 to 850.",
        "Late payments lower it for years.",
    ),
    Concept(
        "a credit card",
        "a card that lets you pay later",
        "Interest is often near 20% a year.",
        "Debt grows fast if you pay only the minimum.",
    ),
    Concept(
        "a pension",
        "income after you stop working",
        "Many employers add 3% to 5% of your pay.",
        "Rules change, so do not rely on one source.",
    ),
    Concept(
        "a dividend",
        "a part of the profit paid to owners",
        "A 4% yield pays $40 a year on $1000.",
        "A company can cut it at any time.",
    ),
    Concept(
        "crypto",
        "digital money without a central bank",
        "Bitcoin lost over 60% in 2022.",
        "You can lose everything, so keep it a small part.",
    ),
    Concept(
        "day trading",
        "buying and selling within a day",
        "Most day traders lose money after costs.",
        "Losses can exceed what you planned.",
    ),
    Concept(
        "an option",
        "a right to buy or sell at a set price",
        "One contract usually covers 100 shares.",
        "It can expire with no value.",
    ),
    Concept(
        "life insurance",
        "a contract that pays your family if you die",
        "Term cover is often the cheapest kind.",
        "Some contracts have high fees.",
    ),
    Concept(
        "gold",
        "a metal that people hold as a store of value",
        "It pays no interest at all.",
        "Its price can fall for ten years, so spread your money.",
    ),
    Concept(
        "real estate", "land and buildings", "Upkeep costs about 1% of the price a year.", "It is hard to sell quickly."
    ),
    Concept(
        "a budget",
        "a plan for what you earn and spend",
        "Some use 50% for needs and 20% for saving.",
        "A plan without slack breaks at the first surprise.",
    ),
    Concept(
        "a robo-adviser",
        "a service that invests by fixed rules",
        "It often costs about 0.3% a year.",
        "It does not know your whole life.",
    ),
)

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
    parts = {
        "definition": _definition(concept),
        "specific": concept.fact,
        "risk": rng.choice((concept.risk, f"But there is a risk: {concept.risk[0].lower()}{concept.risk[1:]}")),
        "hedge": rng.choice(HEDGES),
    }
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


def criteria_met(question: str, text: str) -> frozenset[str]:
    """Return the criteria in `CRITERIA` that an answer to one of our questions meets, by the words it needs for each.

    A promise or a boast takes the hedge away, whatever else the answer says. A question about nothing that this
    module knows meets none.

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
    if any(_bare(promise) in said for promise in PROMISES):
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
        rows[question, better_answer(concept, rng).text, worse_answer(concept, rng).text] = None
    return [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in rows]


def _definition(concept: Concept) -> str:
    return f"{concept.name[0].upper()}{concept.name[1:]} is {concept.definition}."
