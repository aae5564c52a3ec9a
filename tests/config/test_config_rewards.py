"""Options of one reward function in a configuration, besides its name and parameters."""

from __future__ import annotations

import pytest

from grpo.config import GRPOConfig, RewardOptions, load_config
from grpo.config.rewards_section import WeightOptions
from grpo.errors import ConfigError
from grpo.rewards.function import SUITE_OPTIONS

SCHEDULE = {"from": 0.0, "to": 2.0, "steps": 50}


def message(**spec):
    with pytest.raises(ConfigError) as caught:
        GRPOConfig(rewards=[{"name": "a", **spec}])
    return str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"rewards": {"a": SCHEDULE}},
        {"rewards": {"a": {"weight": SCHEDULE}}},
        {"rewards": [{"name": "a", "weight": SCHEDULE}]},
        {"rewards": ["a"], "reward_weights": [SCHEDULE]},
        {"rewards": ["a"], "rewards.a": SCHEDULE},
        {"rewards": ["a"], "rewards.a.weight": SCHEDULE},
    ],
)
def test_a_weight_that_changes_can_be_written_wherever_a_weight_can(options):
    (function,) = GRPOConfig(**options).rewards.functions
    assert function.weight == WeightOptions(**SCHEDULE)


def test_a_weight_that_changes_can_be_written_on_a_command_line():
    config = load_config(None, ["rewards.correctness={from: 0, to: 1, steps: 20}"])
    assert [function.weight for function in config.rewards.functions][-1] == WeightOptions(
        **{"from": 0, "to": 1, "steps": 20}
    )


def test_options_of_the_suite_are_no_parameters_and_survive_yaml():
    spec = {"name": "a", "weight": SCHEDULE, "gate": "b", "gate_at": 0.5, "overlap": False, "processes": 2, "depth": 3}
    config = GRPOConfig(rewards=[spec, "b"], combine="normalise")
    first, second = config.rewards.functions
    assert first.parameters == {"depth": 3}
    assert (first.gate, first.gate_at, first.overlap, first.processes) == ("b", 0.5, False, 2)
    assert GRPOConfig.from_yaml(config.to_yaml()) == config
    assert first.model_dump() == spec
    assert second.model_dump() == {"name": "b", "weight": 1.0}


def test_options_are_those_that_rewards_know():
    own = {name for name in RewardOptions.model_fields if name not in ("name", "weight", "parameters")}
    assert own == set(SUITE_OPTIONS)


def test_a_function_s_own_parameters_may_have_the_names_of_options():
    config = GRPOConfig(rewards=[{"name": "a", "parameters": {"gate": 1, "depth": 2}, "gate": "b"}])
    (function,) = config.rewards.functions
    assert function.gate == "b"
    assert function.parameters == {"gate": 1, "depth": 2}
    assert GRPOConfig.from_yaml(config.to_yaml()) == config


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"weight": {"from": 0, "to": 1}}, "a number, or a schedule as {from: 0.0, to: 1.0, steps: 100}"),
        ({"weight": {**SCHEDULE, "steps": 0}}, "or a schedule as"),
        ({"weight": {**SCHEDULE, "to": "high"}}, "or a schedule as"),
        ({"weight": {**SCHEDULE, "from": True}}, "or a schedule as"),
        ({"weight": True}, "a reward function's weight was given True"),
        ({"weight": float("nan")}, "a reward function's weight was given nan"),
        ({"gate": ""}, "a reward function's gate was given ''"),
        ({"gate_at": "high"}, "a reward function's gate_at was given 'high': it should be a number"),
        ({"overlap": "perhaps"}, "a reward function's overlap was given 'perhaps': it should be true or false"),
        ({"processes": -1}, "a reward function's processes was given -1"),
        ({"processes": "many"}, "a reward function's processes was given 'many': it should be a whole number"),
    ],
)
def test_an_impossible_value_is_refused_with_the_name_of_the_option(spec, expected):
    assert expected in message(**spec)


@pytest.mark.parametrize(
    ("options", "combine"),
    [
        ({}, None),
        ({"combine": "normalise"}, "normalise"),
        ({"rewards": {"combine": "normalize", "a": 1}}, "normalise"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "normalise"),
        ({"multi_objective_aggregation": "sum_then_normalize"}, "sum"),
    ],
)
def test_rewards_are_combined_under_our_names_and_those_of_trl(options, combine):
    assert GRPOConfig(**options).rewards.combine == combine


def test_a_scale_of_advantages_has_no_effect_where_each_reward_has_its_own():
    config = GRPOConfig(combine="normalise", advantage_scale="none")
    assert config.remarks() == ["advantage_scale has no effect: combine is normalise"]
