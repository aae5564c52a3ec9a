"""News headlines on a topic, written from the templates in `headlines.json`, and prompts that ask for one.

The headlines differ in features that readers may react to: numbers, questions, superlatives, quotations, urgency and
length. `clicks.py` states how readers react to each.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo.errors import DataError
from grpo.tasks.answers import find_format

__all__ = [
    "SUPERLATIVES",
    "TEMPLATES",
    "TOPICS",
    "headline",
    "headline_of",
    "headline_prompt",
    "headline_reasoning",
    "vocabulary_of",
]

_DATA: Mapping[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
_VOCABULARIES: Mapping[str, Mapping[str, Sequence[str]]] = _DATA["vocabularies"]

TOPICS: Sequence[str] = tuple(_VOCABULARIES)
TEMPLATES: Sequence[str] = _DATA["templates"]
SUPERLATIVES: Sequence[str] = _DATA["superlatives"]


def headline(topic: str, rng: random.Random) -> str:
    """Return a headline of one line about `topic`.

    Raises:
        DataError: no such topic.
    """
    return rng.choice(TEMPLATES).format_map(_filling(topic, rng))


def headline_prompt(topic: str) -> str:
    """Return the prompt that asks for a headline."""
    return f"Write a headline about {topic}."


def headline_reasoning(topic: str, rng: random.Random) -> str:
    """Return one to three sentences of thought that may precede a headline.

    Raises:
        DataError: no such topic.
    """
    filling = _filling(topic, rng)
    return " ".join(thought.format_map(filling) for thought in rng.sample(_DATA["thoughts"], rng.randint(1, 3)))


def headline_of(text: str) -> str:
    """Return the headline in a completion: the text between answer tags, else after the thoughts, else all of it.

    A completion that ran out of tokens inside its thoughts has none: the result is "".

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


def vocabulary_of(topic: str) -> Mapping[str, Sequence[str]]:
    """Return the words of a topic by the slot of a template that they fill.

    Raises:
        DataError: no such topic.
    """
    if topic not in _VOCABULARIES:
        raise DataError(f"no headline topic {topic!r}: use one of {', '.join(TOPICS)}")
    return _VOCABULARIES[topic]


def _filling(topic: str, rng: random.Random) -> dict[str, str]:
    """Return a random word for each slot of a template."""
    words = {slot: rng.choice(choices) for slot, choices in vocabulary_of(topic).items()}
    return {
        "topic": topic,
        **words,
        "People": words["people"][0].upper() + words["people"][1:],
        "Things": words["things"][0].upper() + words["things"][1:],
        "number": str(rng.randint(3, 20)),
        "percent": str(rng.randint(11, 89)),
        "year": str(rng.randint(2024, 2030)),
        "superlative": rng.choice(SUPERLATIVES),
    }
