"""Built-in rewards and verdicts of completions that begin inside a block which the prompt has opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from grpo.rewards import RewardSuite, resolve_rewards
from grpo.rollout import judged_texts
from grpo.tasks import FORMATS, AnswerVerifier
from grpo.types import Group

COMPLETIONS = ["2 + 3 is five</think>5", "2 + 3 is five", "a</think>b</think>5", "2 + 3</think>6", "</think>5"]
Opened = Callable[[object, str], Group]

CHAT = [{"role": "user", "content": "2 + 3?"}]


@pytest.fixture
def opened(group: Callable[..., Group]) -> Callable[[object, str], Group]:
    """Make the group of a prompt whose text has an end of its own."""

    def make(raw: object, end: str) -> Group:
        plain = group(raw, [3] * len(COMPLETIONS), {"answer": "5"})
        return replace(plain, prompt=replace(plain.prompt, text=f"2 + 3?<|Assistant|>{end}"))

    return make


def rewards_of(group: Group, *specs: object) -> dict[str, list[float | None]]:
    suite = RewardSuite(resolve_rewards(list(specs)))
    scored = suite.score([group], COMPLETIONS, step=0, max_steps=1)
    return {
        function.name: [member.score.rewards[function.name] for member in scored.groups[0].rollouts]
        for function in suite.functions
    }


@pytest.mark.parametrize("raw", ["2 + 3?", CHAT])
def test_an_answer_that_closes_the_prompt_s_thought_is_well_formed(opened: Opened, raw: object) -> None:
    names = ["think_strict_format", "think_soft_format", "think_xmlcount"]
    accuracy = {"name": "accuracy", "format": "think_tags"}
    length = {"name": "reasoning_length", "format": "think_tags", "target": 4}
    assert rewards_of(opened(raw, "<think>\n"), *names, accuracy, length) == {
        "think_strict_format": [0.5, 0.0, 0.0, 0.5, 0.0],
        "think_soft_format": [0.5, 0.0, 0.5, 0.5, 0.5],
        "think_xmlcount": [0.5, 0.0, 0.25, 0.5, 0.5],
        "accuracy": [1.0, 0.0, 0.0, 0.0, 0.0],
        "reasoning_length": [0.5, 0.0, 0.0, 0.25, 0.0],
    }


def test_without_an_opened_tag_the_same_answers_are_not_well_formed(opened: Opened) -> None:
    assert rewards_of(opened("2 + 3?", ""), "think_strict_format", {"name": "accuracy", "format": "think_tags"}) == {
        "think_strict_format": [0.0] * 5,
        "accuracy": [0.0] * 5,
    }


def test_the_strict_accuracy_counts_the_opened_tag_too(opened: Opened) -> None:
    group = opened(CHAT, "<think>\n")
    verifier = AnswerVerifier(FORMATS["think_tags"])
    verdicts = verifier.verdicts(judged_texts([group], COMPLETIONS), [{"answer": "5"}] * len(COMPLETIONS))
    assert [verdict.strict for verdict in verdicts] == [True, False, False, False, False]
    assert [verdict.well_formed for verdict in verdicts] == [True, False, False, True, False]


def test_an_own_reward_gets_the_opened_tags_and_the_text_as_it_was_written(opened: Opened) -> None:
    seen = []

    def look(completions: list[str], opened_tags: list[str]) -> list[float]:
        seen.extend(zip(completions, opened_tags, strict=True))
        return [0.0] * len(completions)

    rewards_of(opened("2 + 3?", "<think>\n"), look)
    assert seen == [(text, "<think>") for text in COMPLETIONS]
