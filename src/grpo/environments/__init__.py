"""Environments: how completions of a prompt become an episode.

`SingleTurn` is the trivial case. An environment of several turns is a class with `reset`, `step` and `close`, which
`MultiTurn` runs, or an object with a `rollout` of its own.
"""

from __future__ import annotations

from grpo.environments.multi_turn import MultiTurn
from grpo.environments.protocol import Environment, EpisodeSampler, StepEnvironment, StepResult
from grpo.environments.single_turn import SingleTurn
from grpo.environments.table import ENVIRONMENTS, make_environment

__all__ = [
    "ENVIRONMENTS",
    "Environment",
    "EpisodeSampler",
    "MultiTurn",
    "SingleTurn",
    "StepEnvironment",
    "StepResult",
    "make_environment",
]
