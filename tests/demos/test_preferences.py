"""Financial preference pairs: distinct, and better by the stated criteria."""

from __future__ import annotations

import random

import pytest

from grpo.demos.preferences import (
    CONCEPTS,
    CRITERIA,
    HEDGES,
    JUNK_SHARE,
    OFF_TOPIC_SHARE,
    PARTIAL_SHARE,
    better_answer,
    criteria_met,
    financial_question,
    partial_answer,
    preference_pairs,
    worse_answer,
)
from grpo.errors import DataError


def test_pairs_are_distinct_complete_and_reproducible():
    rows = preference_pairs(500, seed=4)
    assert len({tuple(row.items()) for row in rows}) == 500
    assert all(list(row) == ["prompt", "chosen", "rejected"] for row in rows)
    assert all(row["chosen"] != row["rejected"] for row in rows)
    assert preference_pairs(50, seed=4) == rows[:50]
    assert preference_pairs(50, seed=5) != rows[:50]


def test_five_hundred_pairs_cover_many_questions_and_answers():
    rows = preference_pairs(500)
    assert len({row["prompt"] for row in rows}) > 80
    assert len({row["chosen"] for row in rows}) > 200
    assert len({row["rejected"] for row in rows}) > 50


def test_a_better_answer_meets_more_criteria_than_any_worse_one():
    rng = random.Random(0)
    for _ in range(300):
        _, concept = financial_question(rng)
        better, worse = better_answer(concept, rng), worse_answer(concept, rng)
        assert better.meets | worse.meets <= set(CRITERIA)
        assert len(better.meets) >= 3
        assert len(worse.meets) <= 1


def test_what_an_answer_claims_to_meet_is_in_its_text():
    rng = random.Random(1)
    for _ in range(300):
        _, concept = financial_question(rng)
        for answer in (better_answer(concept, rng), worse_answer(concept, rng)):
            assert ("definition" in answer.meets) == (f"is {concept.definition}." in answer.text)
            assert ("specific" in answer.meets) == (concept.fact in answer.text)
            assert ("risk" in answer.meets) == (concept.risk[1:] in answer.text)


def concept_of(prompt):
    named = [concept for concept in CONCEPTS if concept.name.lower() in prompt.lower()]
    return max(named, key=lambda concept: len(concept.name))


def test_a_stated_share_of_rejected_answers_are_good_ones_about_something_else():
    rows = preference_pairs(1000)
    elsewhere = lacking = 0
    for row in rows:
        others = [concept for concept in CONCEPTS if concept is not concept_of(row["prompt"])]
        elsewhere += any(len(criteria_met(f"What is {other.name}?", row["rejected"])) >= 3 for other in others)
        chosen, rejected = (criteria_met(row["prompt"], row[side]) for side in ("chosen", "rejected"))
        assert len(rejected) < len(chosen) >= 3
        lacking += len(rejected) > 1
    assert abs(elsewhere / 1000 - OFF_TOPIC_SHARE) < 0.05
    echoes = sum(row["prompt"] in row["rejected"] for row in rows)
    assert 0 < echoes / 1000 < JUNK_SHARE
    assert 0.2 < OFF_TOPIC_SHARE < 0.6
    assert PARTIAL_SHARE / 2 < lacking / 1000 < PARTIAL_SHARE


def test_a_good_answer_about_something_else_meets_no_criterion():
    rng = random.Random(3)
    for concept in CONCEPTS:
        for other in CONCEPTS:
            if other is not concept:
                assert not criteria_met(f"What is {concept.name}?", better_answer(other, rng).text)
    assert not criteria_met("What is inflation?", HEDGES[0])


def test_a_partial_answer_meets_what_it_says_and_less_than_the_better_one():
    rng = random.Random(6)
    for _ in range(300):
        question, concept = financial_question(rng)
        better = better_answer(concept, rng)
        partial = partial_answer(concept, better, rng)
        assert partial.meets < better.meets
        assert partial.meets == criteria_met(question, partial.text)


def test_many_worse_answers_are_longer_than_the_shorter_better_ones():
    rng = random.Random(2)
    worse, better = [], []
    for _ in range(400):
        _, concept = financial_question(rng)
        worse.append(len(worse_answer(concept, rng).text))
        better.append(len(better_answer(concept, rng).text))
    shorter_better = sorted(better)[len(better) // 20]
    assert sum(length > shorter_better for length in worse) / len(worse) > 0.15


@pytest.mark.parametrize("count", [-1, 1_000_000])
def test_a_count_that_cannot_be_met_is_refused(count):
    with pytest.raises(DataError):
        preference_pairs(count)
