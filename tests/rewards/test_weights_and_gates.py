"""Weights that change over the steps, and rewards that count only where another one holds."""

from __future__ import annotations

import pytest

from grpo.errors import ConfigError
from grpo.rewards import RewardSuite, resolve_rewards

NAN = float("nan")


def gives(name, values):
    """Return a reward of that name which gives these values."""

    def reward(completions):
        return list(values)

    reward.__name__ = name
    return reward


def suite(*specs, **options):
    return RewardSuite(resolve_rewards(list(specs)), **{"max_failed_share": 1.0, **options})


def score(suite, group, count, step=0):
    result = suite.score([group("x", [2] * count)], [f"text {n}" for n in range(count)], step=step, max_steps=10)
    return [rollout.score for rollout in result.groups[0].rollouts], result


def test_a_weight_goes_in_a_straight_line_and_then_stays(group):
    schedule = {"from": 1.0, "to": 3.0, "steps": 4}
    one = suite({"name": gives("steady", [1.0]), "weight": 10.0}, {"name": gives("rising", [1.0]), "weight": schedule})
    found = [score(one, group, 1, step) for step in (0, 1, 3, 4, 100)]
    assert [scores[0].total for scores, _ in found] == [11.0, 11.5, 12.5, 13.0, 13.0]
    assert [result.metrics["rewards/rising/weight"] for _, result in found] == [1.0, 1.5, 2.5, 3.0, 3.0]
    assert not any("rewards/steady/weight" in result.metrics for _, result in found)


def test_whole_numbers_in_a_schedule_give_floats_at_every_step(group):
    one = suite({"name": gives("rising", [1.0]), "weight": {"from": 0, "to": 2, "steps": 2}})
    found = [score(one, group, 1, step)[1].metrics["rewards/rising/weight"] for step in range(3)]
    assert [(type(weight), weight) for weight in found] == [(float, 0.0), (float, 1.0), (float, 2.0)]


def test_a_schedule_may_take_a_single_step(group):
    one = suite({"name": gives("rising", [1.0]), "weight": {"from": 0.0, "to": 3.0, "steps": 1}})
    assert [score(one, group, 1, step)[0][0].total for step in range(2)] == [0.0, 3.0]


def test_an_evaluation_uses_the_weights_that_schedules_end_with_whatever_the_step(group):
    one = suite({"name": gives("rising", [1.0]), "weight": {"from": 0.0, "to": 3.0, "steps": 4}})
    with one.evaluating():
        assert score(one, group, 1, 0)[0][0].total == 3.0
    assert score(one, group, 1, 0)[0][0].total == 0.0


def test_a_weight_that_changes_holds_for_token_rewards_too(group):
    one = suite({"name": gives("steps", [[1.0, 2.0]]), "weight": {"from": 0.0, "to": 1.0, "steps": 2}})
    assert score(one, group, 1, 1)[0][0].token_rewards == (0.5, 1.0)


@pytest.mark.parametrize(
    "weight",
    [
        {"from": 0.0, "to": 1.0},
        {"from": 0.0, "to": 1.0, "steps": 0},
        {"from": 0.0, "to": 1.0, "steps": 2.5},
        {"from": 0.0, "to": NAN, "steps": 5},
        {"from": "0", "to": 1.0, "steps": 5},
        {"from": 0.0, "to": 1.0, "steps": 5, "kind": "cosine"},
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(weight):
    with pytest.raises(ConfigError, match=r"reward 'xmlcount' has weight .* is written \{from: 0.0, to: 1.0, steps: 1"):
        resolve_rewards([{"name": "xmlcount", "weight": weight}])


def test_a_reward_counts_only_where_its_gate_is_above_zero(group):
    gate = gives("gate", [1.0, 0.0, -1.0, 0.25])
    one = suite(gate, {"name": gives("gated", [5.0, 6.0, 7.0, 8.0]), "gate": "gate", "weight": 2.0})
    scores, result = score(one, group, 4)
    assert [one.total for one in scores] == [11.0, 0.0, -1.0, 16.25]
    assert [one.rewards["gated"] for one in scores] == [5.0, 0.0, 0.0, 8.0]
    assert scores[1].counted == {"gate": (1.0, 0.0), "gated": (2.0, 0.0)}
    assert result.metrics["rewards/gated/mean"] == 13.0 / 4
    assert result.metrics["rewards/gated/gated_out"] == 2.0
    assert "rewards/gate/gated_out" not in result.metrics


def test_what_a_gate_keeps_from_counting_is_shown_beside_the_completion(group):
    one = suite(gives("gate", [1.0, 0.0]), {"name": gives("gated", [5.0, 6.0]), "gate": "gate"})
    _, result = score(one, group, 2)
    assert [rollout.logged for rollout in result.groups[0].rollouts] == [{}, {"gated_out": {"gated": 6.0}}]


def test_a_gate_can_ask_for_more_than_zero_and_its_own_weight_does_not_matter(group):
    gate = {"name": gives("gate", [0.5, 0.6, -0.4]), "weight": 0.0}
    low = suite(gate, {"name": gives("gated", [1.0, 1.0, 1.0]), "gate": "gate", "gate_at": -0.5})
    high = suite(gate, {"name": gives("gated", [1.0, 1.0, 1.0]), "gate": "gate", "gate_at": 0.5})
    assert [one.total for one in score(low, group, 3)[0]] == [1.0, 1.0, 1.0]
    assert [one.total for one in score(high, group, 3)[0]] == [0.0, 1.0, 0.0]


def test_behind_a_shut_gate_a_failure_is_still_a_failure_and_what_does_not_apply_is_still_no_number(group):
    one = suite(gives("gate", [0.0, 0.0, 0.0]), {"name": gives("gated", [NAN, None, 1.0]), "gate": "gate"})
    scores, result = score(one, group, 3)
    assert [one.total for one in scores] == [None, 0.0, 0.0]
    assert list(scores[0].failures) == ["gated"]
    assert [one.rewards["gated"] for one in scores] == [None, None, 0.0]
    assert result.metrics["rewards/gated/gated_out"] == 1.0


def test_a_gate_that_failed_or_does_not_apply_is_shut(group):
    one = suite(gives("gate", [NAN, None]), {"name": gives("gated", [1.0, 1.0]), "gate": "gate"})
    scores, _ = score(one, group, 2)
    assert [one.total for one in scores] == [None, 0.0]
    assert list(scores[0].failures) == ["gate"]


def test_a_gate_that_is_gated_out_itself_is_shut(group):
    first = gives("first", [1.0, 0.0, 1.0])
    second = {"name": gives("second", [1.0, 1.0, 0.0]), "gate": "first"}
    third = {"name": gives("third", [1.0, 1.0, 1.0]), "gate": "second", "gate_at": -1.0}
    scores, _ = score(suite(third, second, first), group, 3)
    assert [one.rewards for one in scores] == [
        {"third": 1.0, "second": 1.0, "first": 1.0},
        {"third": 0.0, "second": 0.0, "first": 0.0},
        {"third": 1.0, "second": 0.0, "first": 1.0},
    ]


def test_rewards_of_tokens_behind_a_gate_are_zero_where_they_were_given(group):
    one = suite(gives("gate", [0.0, 1.0]), {"name": gives("steps", [[None, 2.0], [3.0, None]]), "gate": "gate"})
    scores, result = score(one, group, 2)
    assert [one.token_rewards for one in scores] == [(None, 0.0), (3.0, None)]
    assert result.groups[0].rollouts[0].logged == {"gated_out": {"steps": 2.0}}


def test_a_gate_may_be_named_as_its_reward_is_written(group, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def brief(completions):\n    return [float(len(text) < 3) for text in completions]\n")
    for written, gate in ((f"{file}:brief", f"{file}:brief"), ("xmlcount_reward_func", "xmlcount_reward_func")):
        functions = suite(written, {"name": gives("gated", [1.0]), "gate": gate}).functions
        assert functions[1].gate == functions[0].name


def test_a_gate_that_is_no_reward_of_the_suite_is_refused():
    with pytest.raises(
        ConfigError, match=r"'int' has gate='strict', which is no reward here: use one of \['xmlcount'\]"
    ):
        suite("xmlcount", {"name": "int", "gate": "strict"})


@pytest.mark.parametrize("gates", [["a"], ["b", "a"], ["b", "c", "a"], ["b", "c", "b"]])
def test_rewards_that_gate_each_other_in_a_circle_are_refused(gates):
    specs = [{"name": gives(name, [1.0]), "gate": gate} for name, gate in zip("abc", gates, strict=False)]
    with pytest.raises(ConfigError, match="in a circle"):
        suite(*specs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": ""}, "gate='': give the name of another reward"),
        ({"gate": 3}, "gate=3: give the name of another reward"),
        ({"gate_at": 1.0}, "but no gate: name the reward that gates it"),
        ({"gate": "int", "gate_at": "high"}, "gate_at='high': use a finite number"),
        ({"gate": "int", "gate_at": NAN}, "gate_at=nan: use a finite number"),
        ({"overlap": "yes"}, "overlap='yes': use true or false"),
        ({"processes": -1}, "processes=-1: use a whole number"),
        ({"processes": True}, "processes=True: use a whole number"),
        (
            {"gates": "int"},
            r"no parameter 'gates': it takes \['format', 'reward'\], besides name, weight, gate, gate_at",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        resolve_rewards([{"name": "strict_format", **options}])


def test_a_function_s_own_parameters_may_have_the_names_of_these_options(group):
    def reward(completions, gate):
        return [float(gate)] * len(completions)

    scores, _ = score(suite({"name": reward, "parameters": {"gate": 4}}), group, 1)
    assert scores[0].total == 4.0


@pytest.mark.parametrize(
    "values",
    [
        {"tokens": [[3e38, 1.0], [1.0, 1.0]]},
        {"whole": [3e38, 1.0]},
        {"whole": [1.0, 1.0], "tokens": [[0.5, -3e38], [1.0, 1.0]]},
    ],
    ids=["tokens", "whole", "both"],
)
def test_a_weight_that_makes_a_reward_larger_than_float32_fails_that_completion_alone(group, values):
    one = suite(*({"name": gives(name, rewards), "weight": 2.0} for name, rewards in values.items()))
    scores, result = score(one, group, 2)
    assert scores[0].total is None
    assert "more than float32 holds" in scores[0].failures["all"]
    assert scores[1].total is not None
    assert not scores[1].failures
    assert result.metrics["rewards/failed_completions"] == 1.0
