"""Options that are not given have the values that the documentation names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from grpo.algorithm import TrustRegion
from grpo.engines.native import NativeEngine
from grpo.policy import LoraSettings
from grpo.rewards import RewardSuite, resolve_rewards
from grpo.sandbox import Limits
from grpo.types import SamplingParams


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the defaults of a function's parameters by name."""
    parameters = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def test_sampling_draws_from_the_whole_distribution() -> None:
    assert asdict(SamplingParams(5)) == {"max_tokens": 5, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def test_adapters_are_of_rank_16_on_all_linear_layers() -> None:
    assert asdict(LoraSettings()) == {"rank": 16, "alpha": 32.0, "dropout": 0.0, "target_modules": "all-linear"}


def test_the_trust_region_is_that_of_the_papers() -> None:
    assert asdict(TrustRegion()) == {
        "epsilon": 0.2,
        "epsilon_high": 0.2,
        "delta": None,
        "temperature_positive": 1.0,
        "temperature_negative": 1.05,
    }


def test_the_engine_has_room_for_a_step() -> None:
    assert defaults(NativeEngine.__init__) == {
        "max_sequences": 256,
        "max_cache_tokens": 2**18,
        "max_prefill_tokens": 2**13,
        "dtype": None,
        "policy_version": 0,
    }


def test_rewards_may_take_a_minute_and_half_of_them_may_fail() -> None:
    expected = {"timeout_s": 60.0, "max_failed_share": 0.5, "seed": 0}
    assert {name: value for name, value in defaults(RewardSuite.__init__).items() if name in expected} == expected


def test_programs_have_the_limits_of_the_documentation() -> None:
    assert asdict(Limits()) == {
        "wall_s": 5.0,
        "cpu_s": None,
        "memory_mb": 256,
        "processes": 16,
        "output_kb": 64,
        "file_kb": 1024,
    }
    (reward,) = resolve_rewards(["unit_tests"])
    limits = reward.function.tester.limits  # type: ignore[attr-defined]
    assert (limits.wall_s, limits.cpu_s, limits.memory_mb) == (5.0, 2.0, 256)
    assert reward.function.deadline_s == 50.0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("strict_format", {"format": "answer_tags", "reward": 0.5}),
        ("soft_format", {"format": "answer_tags", "reward": 0.5}),
        ("xmlcount", {"format": "answer_tags", "reward": 0.5, "penalty_per_character": 0.001}),
        ("int", {"format": "answer_tags", "reward": 0.5}),
        ("correctness", {"format": "answer_tags", "correct_reward": 2.0, "wrong_reward": 0.0}),
        ("accuracy", {"format": "answer_tags", "correct_reward": 1.0, "wrong_reward": 0.0}),
        ("last_integer", {"correct_reward": 1.0, "wrong_reward": 0.0}),
        ("reasoning_length", {"format": "answer_tags", "target": 100, "limit": None, "reward": 0.5}),
        ("think_strict_format", {"reward": 0.5}),
        ("think_xmlcount", {"reward": 0.5}),
    ],
)
def test_rewards_by_rule_pay_what_the_documentation_says(name: str, options: dict[str, Any]) -> None:
    (reward,) = resolve_rewards([name])
    assert dict(reward.parameters) == options
    assert reward.weight == 1.0
