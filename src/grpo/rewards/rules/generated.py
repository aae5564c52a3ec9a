"""Rules behind the package's generated data, as rewards.

With weight 0 they only measure: a policy may improve by the rule itself, or only by the reward model that learned it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grpo.demos.clicks import click_probability
from grpo.demos.headlines import headline_of
from grpo.demos.preferences import CRITERIA, criteria_met
from grpo.rewards.texts import Completion, completion_texts

__all__ = ["clicks_by_rule", "criteria_by_rule"]


def clicks_by_rule(completions: Sequence[Completion]) -> list[float]:
    """Return the probability of a click on each completion's headline, by the rule in `demos.clicks`; 0 without one."""
    headlines = [headline_of(text) for text in completion_texts(completions)]
    return [click_probability(text) if text else 0.0 for text in headlines]


def criteria_by_rule(prompts: Sequence[Any], completions: Sequence[Completion]) -> list[float]:
    """Return the share of the criteria in `demos.preferences` that each answer to a financial question meets."""
    questions = [prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in prompts]
    return [
        len(criteria_met(question, text)) / len(CRITERIA)
        for question, text in zip(questions, completion_texts(completions), strict=True)
    ]
