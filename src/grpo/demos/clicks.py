"""Headlines with clicks that follow a rule which is stated here and hidden from whoever learns it.

A headline is clicked with probability σ(score), where the score is a sum over features of its text:

| feature | points | what it is |
|---|---|---|
| – | −2 | every headline |
| `number` | +2 | there is a digit in it |
| `superlative` | +2 | one of the words in `SUPERLATIVE_WORDS` |
| `urgency` | +1.2 | the word breaking, urgent or alert |
| `question` | +1 | a question mark |
| `curiosity` | +0.8 | the word secret, surprise or surprising, or "will not tell" |
| `how_to` | +0.6 | it begins with "how to" |
| `quotation` | −0.7 | a double quotation mark |
| `length` | −0.12 | for each word more or less than seven |
| `repetition` | −1 | for each word of four letters or more that stood there before |

The score is kept within −3 and 2.2, so that the probability stays within 0.05 and 0.9; a text without
words has the least. The topic does not matter. What can be learned from clicks is bounded by their noise:
`attainable_auc` says by how much.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
import re
from collections.abc import Sequence
from string import Formatter
from typing import Any

from grpo.demos.degenerate import degenerate_text
from grpo.demos.headlines import SUPERLATIVES, TEMPLATES, TOPICS, VOCABULARIES, headline, headline_prompt
from grpo.errors import DataError

__all__ = [
    "POINTS",
    "attainable_auc",
    "best_click_probability",
    "best_headline",
    "click_features",
    "click_probability",
    "click_rows",
]

POINTS = {
    "number": 2.0,
    "superlative": 2.0,
    "urgency": 1.2,
    "question": 1.0,
    "curiosity": 0.8,
    "how_to": 0.6,
    "quotation": -0.7,
    "length": -0.12,
    "repetition": -1.0,
}
"""What a feature adds to the score, times its value in `click_features`."""

SUPERLATIVE_WORDS = frozenset(
    (
        *SUPERLATIVES,
        "fewest",
        "greatest",
        "highest",
        "largest",
        "latest",
        "least",
        "lowest",
        "most",
        "newest",
        "smallest",
    )
)

_START = -2.0
_LEAST, _MOST = -3.0, 2.2
_USUAL_WORDS = 7
_WORD = re.compile(r"\w+")
_URGENT = frozenset(("breaking", "urgent", "alert"))
_CURIOUS = frozenset(("secret", "surprise", "surprising"))


def click_features(headline: str) -> dict[str, float]:
    """Return the value of each feature in `POINTS`: 0 or 1, or a count of words for `length` and `repetition`.

    Example:
        >>> {name: value for name, value in click_features("How to bake bread in 5 days").items() if value}
        {'number': 1.0, 'how_to': 1.0}
    """
    words = _WORD.findall(headline.lower())
    long_words = [word for word in words if len(word) >= 4]
    found = {
        "number": any(character.isdigit() for character in headline),
        "superlative": not SUPERLATIVE_WORDS.isdisjoint(words),
        "urgency": not _URGENT.isdisjoint(words),
        "question": "?" in headline,
        "curiosity": not _CURIOUS.isdisjoint(words) or "will not tell" in headline.lower(),
        "how_to": words[:2] == ["how", "to"],
        "quotation": '"' in headline,
        "length": abs(len(words) - _USUAL_WORDS),
        "repetition": len(long_words) - len(set(long_words)),
    }
    return {name: float(value) for name, value in found.items()}


def click_probability(headline: str) -> float:
    """Return the probability, from 0.047 to 0.900, that a headline is clicked; any text has one.

    Example:
        >>> round(click_probability("The best robots of 2027"), 2)
        0.85
        >>> round(click_probability("Robots are back in Seoul"), 2)
        0.1
    """
    score = _START + sum(POINTS[name] * value for name, value in click_features(headline).items())
    if not _WORD.search(headline):
        score = _LEAST
    return 1.0 / (1.0 + math.exp(-min(max(score, _LEAST), _MOST)))


def click_rows(count: int, seed: int = 0, *, junk_share: float = 0.06) -> list[dict[str, Any]]:
    """Return `count` rows `{"text", "label"}`: a headline that was shown, and 1 if it was clicked, else 0.

    Headlines come from all topics alike, and a headline may be shown more than once. A longer list starts with
    the shorter one.

    Args:
        junk_share: how much of it is no headline (`degenerate_text`), clicked by the same rule: a scorer that
            never saw such texts may take a list of numbers for a good headline, and a policy would find that out.

    Raises:
        DataError: `count` is negative, or `junk_share` no share.
    """
    if count < 0:
        raise DataError(f"{count} click rows asked for: use 0 or more")
    if not 0 <= junk_share <= 1:
        raise DataError(f"a junk_share of {junk_share} for click rows: use a share from 0 to 1")
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        topic = rng.choice(TOPICS)
        write = functools.partial(headline, topic, rng)
        text = degenerate_text(headline_prompt(topic), write, rng) if rng.random() < junk_share else write()
        rows.append({"text": text, "label": int(rng.random() < click_probability(text))})
    return rows


def attainable_auc(texts: Sequence[str], labels: Sequence[int] | None = None) -> float:
    """Return the AUC of the hidden rule itself, which no scorer can beat on these texts but by luck.

    Args:
        labels: 0 or 1 a text, as drawn; None: the AUC to be expected over all labels that could be drawn.

    Raises:
        DataError: the labels are all alike or not as many as texts, or there is no text.
    """
    from sklearn.metrics import roc_auc_score

    probabilities = [click_probability(text) for text in texts]
    if labels is None:
        if not texts:
            raise DataError("no texts: the attainable AUC needs at least one")
        # Every text counts as clicked with its probability and as not clicked with the rest.
        weights = [*probabilities, *(1.0 - each for each in probabilities)]
        sides = [1] * len(texts) + [0] * len(texts)
        return float(roc_auc_score(sides, [*probabilities, *probabilities], sample_weight=weights))
    if len(labels) != len(texts) or set(labels) != {0, 1}:
        raise DataError(
            f"{len(texts)} texts and {len(labels)} labels out of {sorted(set(labels))}: give one label a text, "
            f"some of them 0 and some 1"
        )
    return float(roc_auc_score(list(labels), probabilities))


def best_click_probability(topic: str) -> float:
    """Return the greatest `click_probability` of all headlines that the templates can make for `topic`.

    It is the ceiling of the mean click probability of a policy that writes such headlines.

    Raises:
        DataError: no such topic.
    """
    return click_probability(best_headline(topic))


def best_headline(topic: str) -> str:
    """Return the first headline of `topic` that no other beats by the rule.

    Raises:
        DataError: no such topic.
    """
    if topic not in VOCABULARIES:
        raise DataError(f"no headline topic {topic!r}: use one of {', '.join(TOPICS)}")
    words = _choices(topic)
    return max((text for template in TEMPLATES for text in _filled(template, words)), key=click_probability)


def _choices(topic: str) -> dict[str, tuple[str, ...]]:
    vocabulary = VOCABULARIES[topic]
    return {
        "people": vocabulary.people,
        "things": vocabulary.things,
        "deed": vocabulary.deeds,
        "place": vocabulary.places,
        "superlative": SUPERLATIVES,
        # The rule does not tell one number from another.
        "number": ("7",),
        "percent": ("50",),
        "year": ("2027",),
    }


def _filled(template: str, words: dict[str, tuple[str, ...]]) -> list[str]:
    """Return every headline that a template can become; the rule does not see capitals either."""
    slots = sorted({name.lower() for _, name, _, _ in Formatter().parse(template) if name})
    texts = []
    for chosen in itertools.product(*(words[slot] for slot in slots)):
        filling = dict(zip(slots, chosen, strict=True))
        texts.append(template.format_map(filling | {slot.capitalize(): word for slot, word in filling.items()}))
    return texts
