"""Rewards from a language model that judges, at any endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

from grpo.rewards.judge.judge import JudgeReward
from grpo.rewards.judge.options import JudgeOptions
from grpo.rewards.judge.parsing import parse_score, parse_winner
from grpo.rewards.judge.rubric import Rubric, load_rubric, rubric_names
from grpo.rewards.judge.usage import Usage

__all__ = [
    "JudgeOptions",
    "JudgeReward",
    "Rubric",
    "Usage",
    "load_rubric",
    "parse_score",
    "parse_winner",
    "rubric_names",
]
