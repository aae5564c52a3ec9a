"""News headlines on a topic, written from templates, and prompts that ask for one.

The headlines differ in what readers may react to: numbers, questions, superlatives, quotations,
urgency and length. Which of these attract clicks is for a scorer's data to say, not for this module.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from grpo.errors import DataError
from grpo.tasks.answers import find_format

__all__ = ["TOPICS", "headline", "headline_of", "headline_prompt", "headline_reasoning"]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words of one topic: who acts (plural), what is talked about (plural), what people do, where it happens."""

    people: tuple[str, ...]
    things: tuple[str, ...]
    deeds: tuple[str, ...]
    places: tuple[str, ...]


VOCABULARIES: Mapping[str, Vocabulary] = {
    "technology": Vocabulary(
        ("engineers", "startups", "chip makers", "hackers"),
        ("phones", "robots", "chips", "apps", "electric cars"),
        ("protect your data", "speed up your laptop", "choose a phone", "write better code"),
        ("Silicon Valley", "Seoul", "the lab"),
    ),
    "sports": Vocabulary(
        ("champions", "coaches", "young players", "fans"),
        ("matches", "records", "teams", "stadiums"),
        ("run faster", "win a final", "train at home", "pick a team"),
        ("Madrid", "the final", "the stadium"),
    ),
    "finance": Vocabulary(
        ("banks", "investors", "traders", "savers"),
        ("stocks", "bonds", "funds", "loans", "markets"),
        ("save more money", "cut your debt", "read the market", "plan for retirement"),
        ("Wall Street", "London", "Tokyo"),
    ),
    "health": Vocabulary(
        ("doctors", "nurses", "patients", "researchers"),
        ("vaccines", "diets", "hospitals", "treatments"),
        ("sleep better", "eat well", "lower stress", "stay fit"),
        ("clinics", "the hospital", "Boston"),
    ),
    "travel": Vocabulary(
        ("tourists", "pilots", "families", "guides"),
        ("beaches", "islands", "hotels", "flights", "trains"),
        ("pack light", "find cheap flights", "see the coast", "travel alone"),
        ("Lisbon", "the Alps", "Bali"),
    ),
    "science": Vocabulary(
        ("scientists", "astronomers", "students", "physicists"),
        ("planets", "fossils", "telescopes", "experiments", "stars"),
        ("measure the universe", "read the stars", "grow crystals", "study the ocean"),
        ("the Moon", "Geneva", "Antarctica"),
    ),
    "politics": Vocabulary(
        ("voters", "ministers", "mayors", "protesters"),
        ("elections", "laws", "budgets", "debates"),
        ("win a debate", "read a budget", "change a law", "count the votes"),
        ("Brussels", "the capital", "parliament"),
    ),
    "food": Vocabulary(
        ("chefs", "farmers", "bakers", "home cooks"),
        ("recipes", "restaurants", "desserts", "street markets"),
        ("bake bread", "cook rice", "eat for less", "make fresh pasta"),
        ("Naples", "your kitchen", "Bangkok"),
    ),
    "music": Vocabulary(
        ("singers", "bands", "composers", "producers"),
        ("songs", "concerts", "albums", "festivals"),
        ("write a song", "learn the piano", "sing in tune", "record at home"),
        ("Vienna", "Nashville", "the studio"),
    ),
    "climate": Vocabulary(
        ("farmers", "activists", "cities", "researchers"),
        ("storms", "floods", "heat waves", "wind farms"),
        ("save energy", "cool your home", "plant trees", "cut emissions"),
        ("the Arctic", "the coast", "Kenya"),
    ),
}

TOPICS = tuple(VOCABULARIES)

TEMPLATES = (
    "{People} in {place} praise new {things}",
    "{People} warn about {things}",
    "{People} in {place} say {things} will never be the same",
    "New {things} surprise {people} in {place}",
    "{Things} are back in {place}",
    "{number} ways to {deed}",
    "{number} {things} that {people} love",
    "{number} facts about {things} that surprise even {people}",
    "{percent}% of {people} now worry about {things}",
    "How to {deed} in {number} days",
    "How to {deed}",
    "Why do {people} love {things}?",
    "Are {things} worth it? {People} in {place} answer",
    "Can {people} learn to {deed}?",
    "The best {things} of {year}",
    "The {superlative} {things} in {place}",
    "The {superlative} way to {deed}, according to {people}",
    "The secret of {people} who {deed}",
    "Breaking: {things} shake {place}",
    "Breaking: {people} stop all {things}",
    '"We need more {things}," say {people}',
    "What {people} in {place} will not tell you about {things}",
    "{Things}: what {people} should know before {year} ends",
    "A quiet year for {things}, {people} report",
)
SUPERLATIVES = ("best", "biggest", "cheapest", "fastest", "safest", "strangest", "worst")

THOUGHTS = (
    "The topic is {topic}.",
    "Readers of {topic} news like {things}.",
    "A number makes it concrete.",
    "A question makes people curious.",
    "It should be short and clear.",
    "I will mention {people}.",
    "{Things} in {place} are a good story.",
    "Many {people} want to {deed}.",
)


def headline(topic: str, rng: random.Random) -> str:
    """Return a headline of one line about `topic`.

    Raises:
        DataError: no such topic.
    """
    return rng.choice(TEMPLATES).format_map(_words(topic, rng))


def headline_prompt(topic: str) -> str:
    """Return the prompt that asks for a headline."""
    return f"Write a headline about {topic}."


def headline_reasoning(topic: str, rng: random.Random) -> str:
    """Return one to three sentences of thought that may go before a headline.

    Raises:
        DataError: no such topic.
    """
    words = _words(topic, rng)
    return " ".join(thought.format_map(words) for thought in rng.sample(THOUGHTS, rng.randint(1, 3)))


def headline_of(text: str) -> str:
    """Return the headline in a completion: what is between answer tags, else what follows its thoughts, else all.

    A completion that ran out of tokens in its thoughts has none: "".

    Example:
        >>> headline_of("<think>Short is good.</think> Robots win")
        'Robots win'
        >>> headline_of("<think>Short is")
        ''
    """
    answers, thoughts = find_format("answer_tags"), find_format("think_tags")
    after = thoughts.extract(text) or "" if "</think>" in text else text
    if "<answer>" in after:
        return answers.extract(after) or ""
    is_unfinished = "<think>" in after or "<reasoning>" in after
    return "" if is_unfinished else after.strip()


def _words(topic: str, rng: random.Random) -> dict[str, str]:
    if topic not in VOCABULARIES:
        raise DataError(f"no headline topic {topic!r}: use one of {', '.join(TOPICS)}")
    vocabulary = VOCABULARIES[topic]
    people, things = rng.choice(vocabulary.people), rng.choice(vocabulary.things)
    return {
        "topic": topic,
        "people": people,
        "People": _capitalised(people),
        "things": things,
        "Things": _capitalised(things),
        "deed": rng.choice(vocabulary.deeds),
        "place": rng.choice(vocabulary.places),
        "number": str(rng.randint(3, 20)),
        "percent": str(rng.randint(11, 89)),
        "year": str(rng.randint(2024, 2030)),
        "superlative": rng.choice(SUPERLATIVES),
    }


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]
