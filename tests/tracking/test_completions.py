from __future__ import annotations

import pytest
import torch

from grpo.tracking import completion_lines
from grpo.types import FinishReason, Prompt, Rollout, Score, ScoredGroup, ScoredRollout


def scored(text: str, score: Score, finish_reason: FinishReason = "stop") -> ScoredRollout:
    ids = tuple(range(len(text)))
    return ScoredRollout(Rollout(ids, (True,) * len(ids), (-0.5,) * len(ids), finish_reason, 3), text, score)


def test_a_line_has_everything_that_is_known_of_a_completion() -> None:
    sums = Prompt(7, [{"role": "user", "content": "2 + 2?"}], "<user>2 + 2?", (1, 2), {"answer": "4"})
    plain = Prompt(9, "Say something.", "Say something.", (3,), {})
    groups = [
        ScoredGroup(
            sums,
            (
                scored("four", Score({"format": 1.0, "judge": None}, {}, 1.0)),
                scored("4", Score({"format": None, "judge": None}, {"format": "ValueError: no"}, None), "length"),
            ),
        ),
        ScoredGroup(plain, (scored("a", Score({"format": 0.0}, {}, 0.0)), scored("", Score({"format": 0.5}, {}, 0.5)))),
    ]
    lines = completion_lines(12, groups, torch.tensor([[0.5, 0.0], [-0.25, 0.25]]))

    assert [(line["row"], line["index"], line["advantage"]) for line in lines] == [
        (7, 0, 0.5),
        (7, 1, 0.0),
        (9, 0, -0.25),
        (9, 1, 0.25),
    ]
    assert lines[1] == {
        "step": 12,
        "row": 7,
        "index": 1,
        "prompt": [{"role": "user", "content": "2 + 2?"}],
        "completion": "4",
        "rewards": {"format": None, "judge": None},
        "total": None,
        "advantage": 0.0,
        "length": 1,
        "finish_reason": "length",
        "failures": {"format": "ValueError: no"},
        "columns": {"answer": "4"},
    }
    assert "failures" not in lines[0]
    assert lines[2]["prompt"] == "Say something."
    assert "columns" not in lines[2]


def test_advantages_of_another_shape_are_refused() -> None:
    group = ScoredGroup(Prompt(0, "a", "a", (1,), {}), (scored("b", Score({"r": 1.0}, {}, 1.0)),))
    with pytest.raises(ValueError, match="zip"):
        completion_lines(1, [group], [[0.0, 0.0]])
    with pytest.raises(ValueError, match="zip"):
        completion_lines(1, [group], [])


def test_a_group_with_fewer_completions_has_fewer_lines() -> None:
    first, second = (scored(text, Score({"r": 1.0}, {}, 1.0)) for text in "ab")
    prompt = Prompt(0, "a", "a", (1,), {})
    groups = [ScoredGroup(prompt, (first, second)), ScoredGroup(prompt, (first,)), ScoredGroup(prompt, ())]
    lines = completion_lines(1, groups, torch.tensor([[0.5, -0.5], [0.25, 0.0], [0.0, 0.0]]))
    assert [(line["index"], line["advantage"]) for line in lines] == [(0, 0.5), (1, -0.5), (0, 0.25)]
