"""Clicks follow the stated rule, and the bounds that are derived from it hold."""

from __future__ import annotations

import math
import random

import pytest

from grpo.demos.clicks import (
    POINTS,
    attainable_auc,
    best_click_probability,
    best_headline,
    click_features,
    click_probability,
    click_rows,
)
from grpo.demos.headlines import TOPICS, headline
from grpo.errors import DataError


def log_odds(text):
    probability = click_probability(text)
    return math.log(probability / (1 - probability))


PAIRS = {
    "number": ("Chefs in Naples praise many new desserts", "Chefs in Naples praise 12 new desserts"),
    "superlative": ("Chefs in Naples praise the new desserts", "Chefs in Naples praise the best desserts"),
    "urgency": ("Tonight farmers in Kenya fear new storms", "Breaking: farmers in Kenya fear new storms"),
    "question": ("Voters in the capital love new laws", "Voters in the capital love new laws?"),
    "curiosity": ("The habit of singers who sing well", "The secret of singers who sing well"),
    "how_to": ("When to bake fresh bread at home", "How to bake fresh bread at home"),
    "quotation": ("We need more bonds, say all banks", '"We need more bonds," say all banks'),
    "length": ("Robots in Seoul meet the young engineers", "Robots in Seoul meet the young engineers again"),
    "repetition": ("Bands in Vienna write songs about albums", "Bands in Vienna write songs about songs"),
}


def test_there_is_a_pair_of_headlines_for_every_feature():
    assert set(PAIRS) == set(POINTS) == set(click_features(""))


@pytest.mark.parametrize("name", PAIRS)
def test_a_feature_moves_the_log_odds_by_its_points(name):
    without, with_it = PAIRS[name]
    assert log_odds(with_it) - log_odds(without) == pytest.approx(POINTS[name])


@pytest.mark.parametrize(
    "text", ["", "   ", "?!", "best " * 500, "7" * 5000, "\n\n\t", "日本語の見出し 5", "</answer>", "\ud800"]
)
def test_any_text_has_a_probability_between_the_bounds(text):
    assert 0.04 < click_probability(text) < 0.91


def test_a_text_without_words_is_clicked_least():
    assert click_probability("?") == min(click_probability(row["text"]) for row in [*click_rows(500), {"text": "?"}])


def test_saying_a_good_word_again_and_again_does_not_pay():
    assert click_probability("best best best best best best best") < 0.1 < click_probability("The best robots of Seoul")


def test_a_longer_list_of_rows_starts_with_the_shorter_one_and_the_seed_decides():
    assert click_rows(50) == click_rows(80)[:50]
    assert click_rows(50, seed=1) != click_rows(50, seed=2)
    assert click_rows(0) == []


def test_rows_cover_all_topics_and_clicks_come_as_often_as_the_rule_says():
    rows = click_rows(6000)
    texts = [row["text"] for row in rows]
    vocabulary = " ".join(texts).lower()
    assert all(word in vocabulary for word in ("robots", "stadiums", "bonds", "diets", "beaches", "fossils", "songs"))
    for low in (0.0, 0.2, 0.4, 0.6):
        chosen = [row for row in rows if low <= click_probability(row["text"]) < low + 0.2]
        expected = sum(click_probability(row["text"]) for row in chosen) / len(chosen)
        observed = sum(row["label"] for row in chosen) / len(chosen)
        assert abs(observed - expected) < 4 * math.sqrt(expected * (1 - expected) / len(chosen))


def test_a_negative_count_is_refused():
    with pytest.raises(DataError, match="-1 click rows"):
        click_rows(-1)


def test_the_attainable_auc_is_the_share_of_pairs_that_the_rule_orders_right():
    rows = click_rows(300)
    clicked = [click_probability(row["text"]) for row in rows if row["label"]]
    others = [click_probability(row["text"]) for row in rows if not row["label"]]
    wins = sum((a > b) + 0.5 * (a == b) for a in clicked for b in others)
    found = attainable_auc([row["text"] for row in rows], [row["label"] for row in rows])
    assert found == pytest.approx(wins / (len(clicked) * len(others)))


def test_without_labels_it_is_the_mean_over_labels_that_could_be_drawn():
    texts = [row["text"] for row in click_rows(1500)]
    rng = random.Random(0)
    draws = [[int(rng.random() < click_probability(text)) for text in texts] for _ in range(40)]
    mean = sum(attainable_auc(texts, labels) for labels in draws) / len(draws)
    assert attainable_auc(texts) == pytest.approx(mean, abs=0.005)


def test_there_is_something_to_learn_and_there_is_noise():
    assert 0.7 < attainable_auc([row["text"] for row in click_rows(2000)]) < 0.9


def test_labels_that_allow_no_auc_are_refused():
    with pytest.raises(DataError, match="some of them 0 and some 1"):
        attainable_auc(["a", "b"], [1, 1])
    with pytest.raises(DataError, match="2 texts and 1 labels"):
        attainable_auc(["a", "b"], [1])
    with pytest.raises(DataError, match="no texts"):
        attainable_auc([])


@pytest.mark.parametrize("topic", TOPICS)
def test_no_headline_beats_the_best_and_some_reach_it(topic):
    rng = random.Random(0)
    found = [click_probability(headline(topic, rng)) for _ in range(2000)]
    assert max(found) == pytest.approx(best_click_probability(topic))
    assert sum(found) / len(found) < best_click_probability(topic) - 0.3


def test_the_best_of_an_unknown_topic_is_refused():
    with pytest.raises(DataError, match="technology"):
        best_click_probability("gossip")


@pytest.mark.parametrize("topic", TOPICS)
def test_the_best_headline_is_a_headline_and_always_the_same(topic):
    best = best_headline(topic)
    assert best == best_headline(topic)
    assert click_probability(best) == best_click_probability(topic)
    assert "{" not in best and best[0].isupper()
