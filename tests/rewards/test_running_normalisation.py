from __future__ import annotations

import json
import math
import random
import statistics
import threading

import pytest
import torch

from grpo.errors import CheckpointError, ConfigError, RewardError
from grpo.rewards import RewardSuite, reward_function
from grpo.rewards.normalisation import RunningNormalisation


def draw(count, centre=1e6, seed=0):
    rng = random.Random(seed)
    return [rng.gauss(centre, 3.0) for _ in range(count)]


def normalised_after(running, rewards):
    running.update(rewards)
    return [running.normalise(reward) for reward in rewards]


@pytest.mark.parametrize("sizes", [[40], [1, 39], [2, 5, 1, 32]])
def test_the_figures_are_those_of_all_rewards_however_they_came_in(sizes):
    rewards = draw(40)
    running = RunningNormalisation()
    start = 0
    for size in sizes:
        found = normalised_after(running, rewards[start : start + size])
        start += size
    assert running.count == 40
    assert running.mean == pytest.approx(statistics.fmean(rewards), rel=1e-14)
    assert running.std == pytest.approx(statistics.stdev(rewards), rel=1e-9)
    expected = [(reward - statistics.fmean(rewards)) / statistics.stdev(rewards) for reward in rewards[-sizes[-1] :]]
    assert found == pytest.approx(expected, abs=1e-5)


def test_what_is_saved_as_json_goes_on_to_the_last_bit():
    whole, first, second = RunningNormalisation(), RunningNormalisation(), RunningNormalisation()
    whole.update(draw(7))
    first.update(draw(7))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert normalised_after(whole, draw(5, seed=1)) == normalised_after(second, draw(5, seed=1))
    assert whole.state_dict() == second.state_dict()


def test_equal_rewards_and_the_very_first_one_become_nothing():
    assert normalised_after(RunningNormalisation(), [7.5]) == [0.0]
    assert normalised_after(RunningNormalisation(), [7.5] * 4) == [0.0] * 4
    assert normalised_after(RunningNormalisation(), []) == []


def test_what_is_no_number_stays_none_and_does_not_spoil_the_figures():
    spoilt, clean = RunningNormalisation(), RunningNormalisation()
    first = normalised_after(spoilt, [1.0, math.nan, 3.0, math.inf])
    assert [math.isnan(value) for value in first] == [False, True, False, True]
    assert [first[0], first[2]] == normalised_after(clean, [1.0, 3.0])
    assert spoilt.state_dict() == clean.state_dict()


def test_a_state_of_something_else_is_refused():
    with pytest.raises(CheckpointError, match="count, mean and squares are needed"):
        RunningNormalisation().load_state_dict({"count": 3})


def taste(completions, **columns):
    """A reward on a scale of its own."""
    return [float(text) if text.isdigit() else None for text in completions]


def normalised(**options):
    return reward_function(taste).with_options(normalise="running", **options)


def rewards_of(result, name="taste"):
    return [one.score.rewards[name] for group in result.groups for one in group.rollouts]


def test_a_reward_counts_as_its_deviation_over_the_run_and_is_logged_as_it_was(group):
    suite = RewardSuite([normalised()])
    seen = []
    for step, texts in enumerate((["2", "3", "44"], ["100", "200", "400"])):
        values = [float(text) for text in texts]
        seen += values
        result = suite.score([group("?", [1, 1, 1])], texts, step=step, max_steps=2)
        mean, std = statistics.fmean(seen), statistics.stdev(seen)
        expected = [(value - mean) / (std + 1e-6) for value in values]
        assert rewards_of(result) == pytest.approx(expected, rel=1e-6)
        assert [one.score.total for one in result.groups[0].rollouts] == pytest.approx(expected, rel=1e-6)
        assert result.metrics["rewards/taste/mean"] == pytest.approx(statistics.fmean(values))
    assert suite.state_dict()["normalisations"]["taste"]["count"] == 6


def test_an_evaluation_sees_plain_rewards_and_leaves_the_figures_alone(group):
    suite = RewardSuite([normalised()])
    suite.score([group("?", [1, 1])], ["2", "3"], step=0, max_steps=1)
    before = suite.state_dict()
    with suite.evaluating():
        result = suite.score([group("?", [1, 1])], ["7", "8"], step=1, max_steps=1)
    assert rewards_of(result) == [7.0, 8.0]
    assert suite.state_dict() == before
    suite.score([group("?", [1, 1])], ["7", "8"], step=1, max_steps=1)
    assert suite.state_dict() != before


def test_what_fails_or_does_not_apply_has_no_part_in_the_figures(group):
    def shaky(completions, **columns):
        return [math.nan if text == "bad" else float(text) if text.isdigit() else None for text in completions]

    suite = RewardSuite([reward_function(shaky, name="taste").with_options(normalise="running")])
    result = suite.score([group("?", [1, 1, 1, 1])], ["2", "bad", "-", "4"], step=0, max_steps=1)
    first, *none, last = rewards_of(result)
    assert none == [None, None]
    assert (first, last) == pytest.approx((-1 / math.sqrt(2), 1 / math.sqrt(2)), rel=1e-5)
    assert suite.state_dict()["normalisations"]["taste"] == {"count": 2, "mean": 3.0, "squares": 2.0}


def test_a_call_that_comes_back_after_its_time_changes_no_figures(group):
    late = threading.Event()

    def slow(completions, **columns):
        late.wait(10)
        return [5.0] * len(completions)

    function = reward_function(slow).with_options(normalise="running")
    suite = RewardSuite([function], timeout_s=0.05, max_failed_share=1.0)
    suite.score([group("?", [1, 1])], ["a", "b"], step=0, max_steps=1)
    late.set()
    assert suite.state_dict()["normalisations"]["slow"]["count"] == 0


def test_a_gate_looks_at_what_the_function_gave(group):
    always = reward_function(lambda completions: [1.0] * len(completions), name="always")
    suite = RewardSuite([normalised(), always.with_options(gate="taste", gate_at=10.0)])
    result = suite.score([group("?", [1, 1])], ["9", "11"], step=0, max_steps=1)
    assert rewards_of(result, "always") == [0.0, 1.0]


def test_rewards_of_tokens_cannot_be_normalised_and_fail(group):
    def each(completions, completion_ids, **columns):
        return [[1.0] * len(ids) for ids in completion_ids]

    suite = RewardSuite([reward_function(each).with_options(normalise="running")], max_failed_share=1.0)
    result = suite.score([group("?", [2])], ["ab"], step=0, max_steps=1)
    assert "one for a completion" in result.groups[0].rollouts[0].score.failures["each"]


def test_a_normalisation_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="normalise='batch': use 'running'"):
        reward_function(taste).with_options(normalise="batch")


class Novelty:
    """A user's reward that remembers."""

    def __init__(self):
        self.seen = {}

    def __call__(self, completions, **_):
        for text in completions:
            self.seen[text] = self.seen.get(text, 0) + 1
        return [1.0 / self.seen[text] for text in completions]

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = dict(state["seen"])


def test_a_user_s_reward_with_a_state_is_saved_and_restored(group):
    first, second = Novelty(), Novelty()
    suites = [RewardSuite([reward_function(one, name="novelty")]) for one in (first, second)]
    suites[0].score([group("?", [1, 1])], ["a", "b"], step=0, max_steps=2)
    suites[1].load_state_dict(json.loads(json.dumps(suites[0].state_dict())))
    assert second.seen == {"a": 1, "b": 1}
    suites[1].load_state_dict({"functions": {"another": {"seen": {}}}})
    assert second.seen == {"a": 1, "b": 1}


def test_a_state_that_a_reward_does_not_take_names_the_reward():
    suite = RewardSuite([reward_function(Novelty(), name="novelty")])
    with pytest.raises(CheckpointError, match=r"reward 'novelty' does not take its saved state \(KeyError: 'seen'\)"):
        suite.load_state_dict({"functions": {"novelty": {}}})


def test_a_state_that_json_cannot_hold_names_the_reward():
    novelty = Novelty()
    novelty.seen = {"a": object()}
    with pytest.raises(RewardError, match=r"state_dict\(\) of reward 'novelty' cannot be saved \(TypeError"):
        RewardSuite([reward_function(novelty, name="novelty")]).state_dict()


class Scores(torch.nn.Module):
    def forward(self, completions):
        return [float(len(text)) for text in completions]


def test_the_weights_of_a_module_are_not_a_state_and_neither_is_nothing():
    functions = [Scores(), lambda completions: [0.0] * len(completions)]
    assert (
        RewardSuite([reward_function(one, name=str(place)) for place, one in enumerate(functions)]).state_dict() == {}
    )
