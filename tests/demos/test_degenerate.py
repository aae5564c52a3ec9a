"""Degenerate texts: their kinds, and their share in the click rows."""

from __future__ import annotations

import functools
import itertools
import random

import pytest

from grpo.demos.clicks import click_probability, click_rows
from grpo.demos.degenerate import degenerate_text
from grpo.demos.headlines import TOPICS, headline, headline_prompt
from grpo.errors import DataError


def some(count, seed=0):
    rng = random.Random(seed)
    topics = [rng.choice(TOPICS) for _ in range(100)]
    return [
        degenerate_text(headline_prompt(topic), functools.partial(headline, topic, rng), rng)
        for topic in itertools.islice(itertools.cycle(topics), count)
    ]


def test_degenerate_texts_are_of_many_kinds_and_never_blank():
    texts = some(600)
    assert all(text.strip() for text in texts)
    assert sum(len(text.split()) <= 3 for text in texts) > 40
    assert sum(len(text.split()) >= 20 for text in texts) > 40
    assert sum(any(ord(character) > 0xA0 for character in text) for text in texts) > 40
    assert sum(len(set(text.lower().split())) == 1 and " " in text for text in texts) > 20
    assert sum(all(word.strip(",;").isdigit() for word in text.split() if word != "and") for text in texts) > 40
    assert sum(any(headline_prompt(topic) in text for topic in TOPICS) for text in texts) > 40


def test_readers_hardly_click_on_most_of_them_and_the_seed_decides():
    probabilities = [click_probability(text) for text in some(600)]
    assert sum(probabilities) / 600 < 0.2
    assert some(50) == some(80)[:50] != some(50, seed=1)


def test_a_stated_share_of_click_rows_is_degenerate_and_labelled_by_the_same_rule():
    def share(rows):
        return sum(len(row["text"].split()) > 14 for row in rows) / len(rows)

    assert share(click_rows(2000, junk_share=0.0)) == 0
    assert 0.01 < share(click_rows(2000)) < 0.1
    rows = click_rows(2000, junk_share=1.0)
    expected = sum(click_probability(row["text"]) for row in rows)
    assert abs(sum(row["label"] for row in rows) - expected) < 80
    with pytest.raises(DataError, match="a junk_share of 2"):
        click_rows(10, junk_share=2)
