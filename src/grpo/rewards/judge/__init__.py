"""A language model as judge: rewards from any endpoint that speaks OpenAI's chat completions (row R11)."""

from __future__ import annotations

from grpo.rewards.judge.judge import JudgeReward
from grpo.rewards.judge.readings import parse_score, parse_winner
from grpo.rewards.judge.rubric import Rubric, load_rubric, rubric_names

__all__ = ["JudgeReward", "Rubric", "load_rubric", "parse_score", "parse_winner", "rubric_names"]
