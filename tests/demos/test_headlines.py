"""Headlines are on their topic, varied and reproducible."""

from __future__ import annotations

import random

import pytest

from grpo.demos import headlines_task
from grpo.demos.clicks import best_click_probability, click_probability
from grpo.demos.headlines import TOPICS, headline, headline_prompt, headline_reasoning
from grpo.errors import DataError
from grpo.tasks import find_format


def headlines(topic, count, seed=0):
    rng = random.Random(seed)
    return [headline(topic, rng) for _ in range(count)]


def test_the_prompt_names_the_topic():
    assert headline_prompt("technology") == "Write a headline about technology."


def test_the_seed_decides_the_headlines():
    assert headlines("food", 20, seed=1) == headlines("food", 20, seed=1)
    assert headlines("food", 20, seed=1) != headlines("food", 20, seed=2)


@pytest.mark.parametrize("topic", TOPICS)
def test_a_headline_is_one_capitalised_line_without_open_slots(topic):
    for text in headlines(topic, 300):
        assert text == text.strip()
        assert "\n" not in text
        assert "{" not in text
        assert not text[0].islower()


def test_headlines_of_a_topic_are_varied():
    assert len(set(headlines("science", 500))) > 250


@pytest.mark.parametrize(
    "feature",
    [
        lambda text: any(letter.isdigit() for letter in text),
        lambda text: "?" in text,
        lambda text: "est " in text,
        lambda text: '"' in text,
        lambda text: text.startswith("Breaking"),
        lambda text: len(text) < 25,
        lambda text: len(text) > 50,
    ],
)
def test_each_feature_that_readers_may_react_to_is_in_some_headlines_and_not_in_others(feature):
    texts = [text for topic in TOPICS for text in headlines(topic, 200)]
    assert 0.02 < sum(map(feature, texts)) / len(texts) < 0.7


def test_topics_differ_in_their_words():
    sports, health = (set(" ".join(headlines(topic, 300)).lower().split()) for topic in ("sports", "health"))
    assert "matches" in sports - health
    assert "diets" in health - sports


def test_thoughts_before_a_headline_differ_in_length():
    rng = random.Random(0)
    counts = {headline_reasoning("music", rng).count(".") for _ in range(100)}
    assert counts == {1, 2, 3}


def test_an_unknown_topic_is_refused_with_the_known_ones():
    with pytest.raises(DataError, match="technology"):
        headline("gossip", random.Random(0))


def test_rows_have_a_good_headline_to_compare_with_and_no_right_one():
    task = headlines_task(eval_size=None, answer_format=find_format("think_tags"), seed=0)
    assert len(task.train) == 8 and len(task.evaluation) == 2
    assert task.verifier is None
    for row in [*task.train, *task.evaluation]:
        topic = row.columns["topic"]
        assert click_probability(row.columns["reference"]) == best_click_probability(topic)
        assert topic in row.columns["reasoning"]
        assert "answer" not in row.columns
