from __future__ import annotations

import pytest

from grpo.errors import JudgeError
from grpo.rewards.judge import parse_score, parse_winner


@pytest.mark.parametrize(
    "text",
    [
        "Score: 7",
        "Good, but long.\n\nscore: 7.0",
        "Score: 2 at first.\n**Score: 7**\n",
        "Why?\n**Score:** 7",
        '{"reason": "good", "score": 7}',
        '```json\n{"score": 7}\n```',
        'Right.\n{"score": 7.0}',
        "<think>Score: 3</think>\nScore: 7",
    ],
)
def test_a_score_is_read_from_the_last_line_or_from_json(text):
    assert parse_score(text, (0, 10)) == 7.0


@pytest.mark.parametrize(
    "text",
    [
        "7",
        "Score: 7/10",
        "Score: 7 or 8",
        "Score: seven",
        "Score: 7\nI hope this helps.",
        "The final Score: 7",
        '{"score": "7"}',
        '{"score": true}',
        '{"score": NaN}',
        '{"score": 7, "score": 9}',
        '{"scores": 7}',
        '[{"score": 7}]',
        '{"score": 7',
        "{" * 5000,
        '{"a":' * 100_000,
        "",
    ],
)
def test_an_answer_that_leaves_room_for_doubt_has_no_score(text):
    with pytest.raises(JudgeError, match="does not end with 'Score: N'"):
        parse_score(text, (0, 10))


@pytest.mark.parametrize("text", ["Score: 11", "Score: -1", '{"score": 10.01}', "Score: " + "9" * 400])
def test_a_score_off_the_scale_is_no_score(text):
    with pytest.raises(JudgeError):
        parse_score(text, (0, 10))


def test_the_ends_of_the_scale_are_on_it():
    assert [parse_score(f"Score: {end}", (-1, 1)) for end in ("-1", "+1")] == [-1.0, 1.0]


def test_a_winner_is_read_as_strictly_as_a_score():
    assert [parse_winner(text) for text in ("Winner: A", "so\n**Winner: B**", '{"winner": "tie"}')] == [1.0, 0.0, 0.5]
    for text in (
        "A",
        "Winner: C",
        "Winner: A or B",
        '{"winner": 1}',
        '{"winner": "A", "winner": "B"}',
        "Winner: A\nHm.",
    ):
        with pytest.raises(JudgeError, match="Winner"):
            parse_winner(text)
