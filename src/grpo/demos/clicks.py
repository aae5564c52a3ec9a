"""Headlines with generated clicks, and the rule that generates them, which neither scorer nor policy sees.

A headline is clicked with probability σ(score). The score is a sum over features of its text:

| feature | points | condition |
|---|---|---|
| – | −2 | every headline |
| `number` | +2 | contains a digit |
| `superlative` | +2 | contains one of `SUPERLATIVE_WORDS` |
| `urgency` | +1.2 | contains the word breaking, urgent or alert |
| `question` | +1 | contains a question mark |
| `curiosity` | +0.8 | contains the word secret, surprise or surprising, or "will not tell" |
| `how_to` | +0.6 | begins with "how to" |
| `quotation` | −0.7 | contains a double quotation mark |
| `length` | −0.12 | for each word more or less than seven |
| `repetition` | −1 | for each word of four letters or more that occurred before |

The score is clamped to [−3, 2.2], so the probability lies between 0.047 and 0.900; a text without words has the
lowest. The topic does not matter. The noise of the clicks limits the AUC of any scorer: see `attainable_auc`.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from string import Formatter
from typing import Any

from grpo.demos.degenerate import degenerate_text
from grpo.demos.headlines import SUPERLATIVES, TEMPLATES, TOPICS, headline, headline_prompt, vocabulary_of
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
"""Weight of each feature; the score adds the weights times the values in `click_features`."""

SUPERLATIVE_WORDS = frozenset(SUPERLATIVES) | {
    *("fewest", "greatest", "highest", "largest", "latest", "least", "lowest", "most", "newest", "smallest")
}

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
    """Return the probability, from 0.047 to 0.900, that a text is clicked as a headline.

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

    All topics are equally frequent, and a headline may be shown more than once. A longer list starts with the
    shorter one.

    Args:
        junk_share: share of rows with a `degenerate_text` in place of a headline, clicked by the same rule. A scorer
            that never saw such texts may rate a list of numbers highly, and a policy would exploit that.

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
    """Return the AUC of the hidden rule itself: the upper limit for a scorer of these texts, luck aside.

    Args:
        labels: 0 or 1 for each text, as drawn; None: return the expected AUC over all labels that could be drawn.

    Raises:
        DataError: the labels are all equal, their number differs from that of the texts, or there is no text.
    """
    from sklearn.metrics import roc_auc_score

    probabilities = [click_probability(text) for text in texts]
    if labels is None:
        if not texts:
            raise DataError("no texts: give at least one to compute the attainable AUC")
        # Each text counts as clicked with weight p and as not clicked with weight 1 − p.
        weights = [*probabilities, *(1.0 - each for each in probabilities)]
        sides = [1] * len(texts) + [0] * len(texts)
        return float(roc_auc_score(sides, [*probabilities, *probabilities], sample_weight=weights))
    if len(labels) != len(texts) or set(labels) != {0, 1}:
        raise DataError(
            f"{len(texts)} texts and {len(labels)} labels out of {sorted(set(labels))}: give one label for each "
            f"text, some of them 0 and some 1"
        )
    return float(roc_auc_score(list(labels), probabilities))


def best_click_probability(topic: str) -> float:
    """Return the greatest `click_probability` of all headlines that the templates give for `topic`.

    This is the upper limit of the mean click probability of a policy that writes such headlines.

    Raises:
        DataError: no such topic.
    """
    return click_probability(best_headline(topic))


def best_headline(topic: str) -> str:
    """Return the first headline of `topic` with the greatest `click_probability`.

    Raises:
        DataError: no such topic.
    """
    words = {
        **vocabulary_of(topic),
        "superlative": SUPERLATIVES,
        # The rule does not distinguish one number from another.
        "number": ("7",),
        "percent": ("50",),
        "year": ("2027",),
    }
    return max((text for template in TEMPLATES for text in _filled(template, words)), key=click_probability)


def _filled(template: str, words: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield every headline that a template can become, all slots in lower case, because the rule ignores case."""
    slots = sorted({name.lower() for _, name, _, _ in Formatter().parse(template) if name})
    for chosen in itertools.product(*(words[slot] for slot in slots)):
        filling = dict(zip(slots, chosen, strict=True))
        yield template.format_map(filling | {slot.capitalize(): word for slot, word in filling.items()})
