from __future__ import annotations

import json
import math
import random
import shutil
import statistics
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Qwen3Config, Qwen3ForSequenceClassification

from grpo import build
from grpo.config import load_config
from grpo.errors import CheckpointError, ConfigError, RewardError
from grpo.policy.tiny import TINY_DIRECTORY
from grpo.rewards import RewardSuite, SequenceClassifierReward, reward_function
from grpo.rewards.models.running import RunningNormalisation


def draw(count, centre=1e6, seed=0):
    rng = random.Random(seed)
    return [rng.gauss(centre, 3.0) for _ in range(count)]


@pytest.mark.parametrize("sizes", [[40], [1, 39], [2, 5, 1, 32]])
def test_the_figures_are_those_of_all_rewards_however_they_came_in(sizes):
    rewards = draw(40)
    running = RunningNormalisation()
    start = 0
    for size in sizes:
        normalised = running.take_in(rewards[start : start + size])
        start += size
    assert running.count == 40
    assert running.mean == pytest.approx(statistics.fmean(rewards), rel=1e-14)
    assert running.std == pytest.approx(statistics.stdev(rewards), rel=1e-9)
    expected = [(reward - statistics.fmean(rewards)) / statistics.stdev(rewards) for reward in rewards[-sizes[-1] :]]
    assert normalised == pytest.approx(expected, abs=1e-5)


def test_what_is_saved_as_json_goes_on_to_the_last_bit():
    whole, first, second = RunningNormalisation(), RunningNormalisation(), RunningNormalisation()
    whole.take_in(draw(7))
    first.take_in(draw(7))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert whole.take_in(draw(5, seed=1)) == second.take_in(draw(5, seed=1))
    assert whole.state_dict() == second.state_dict()


def test_equal_rewards_and_the_very_first_one_become_nothing():
    assert RunningNormalisation().take_in([7.5]) == [0.0]
    assert RunningNormalisation().take_in([7.5] * 4) == [0.0] * 4
    assert RunningNormalisation().take_in([]) == []


def test_what_is_no_number_stays_none_and_does_not_spoil_the_figures():
    spoilt, clean = RunningNormalisation(), RunningNormalisation()
    first = spoilt.take_in([1.0, math.nan, 3.0, math.inf])
    assert [math.isnan(value) for value in first] == [False, True, False, True]
    assert [first[0], first[2]] == clean.take_in([1.0, 3.0])
    assert spoilt.state_dict() == clean.state_dict()


def test_a_state_of_something_else_is_refused():
    with pytest.raises(CheckpointError, match="count, mean and squares are needed"):
        RunningNormalisation().load_state_dict({"count": 3})


def classifier(tokenizer, **options):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen3Config(**sizes, vocab_size=64, num_key_value_heads=1, head_dim=8, num_labels=1)
    return SequenceClassifierReward(Qwen3ForSequenceClassification(config), tokenizer=tokenizer, **options)


def test_a_classifier_gives_deviations_over_the_run_and_logs_what_they_were_before(tokenizer, group):
    plain, normalised = classifier(tokenizer), classifier(tokenizer, normalise="running")
    suite = RewardSuite([reward_function(normalised, name="taste")])
    seen = []
    for step, texts in enumerate((["2", "3", "44"], ["a", "bb", "ccc"])):
        values = plain(["1+1="] * 3, texts)
        seen += values
        result = suite.score([group("1+1=", [1, 1, 1])], texts, step=step, max_steps=2)
        mean, std = statistics.fmean(seen), statistics.stdev(seen)
        found = [one.score.rewards["taste"] for one in result.groups[0].rollouts]
        assert found == pytest.approx([(value - mean) / (std + 1e-6) for value in values], rel=1e-6)
        logged = result.metrics[f"user/{normalised.__name__}/mean_before_normalising"]
        assert logged == pytest.approx(statistics.fmean(values))
    assert suite.state_dict() == {"taste": normalised.running.state_dict()}
    assert normalised.running.count == 6


def test_an_evaluation_sees_plain_rewards_and_leaves_the_figures_alone(tokenizer, group):
    plain, normalised = classifier(tokenizer), classifier(tokenizer, normalise="running")
    suite = RewardSuite([reward_function(normalised, name="taste")])
    suite.score([group("1+1=", [1, 1])], ["2", "3"], step=0, max_steps=1)
    before = suite.state_dict()
    with suite.evaluating():
        result = suite.score([group("1+1=", [1, 1])], ["x", "yy"], step=1, max_steps=1)
    assert [one.score.rewards["taste"] for one in result.groups[0].rollouts] == plain(["1+1="] * 2, ["x", "yy"])
    assert suite.state_dict() == before
    suite.score([group("1+1=", [1, 1])], ["x", "yy"], step=1, max_steps=1)
    assert suite.state_dict() != before


def test_a_normalisation_that_does_not_exist_is_refused(tokenizer):
    with pytest.raises(ConfigError, match="normalise is 'batch' for a reward model: use 'running'"):
        classifier(tokenizer, normalise="batch")


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
    suites[1].load_state_dict({"another": {"seen": {}}})
    assert second.seen == {"a": 1, "b": 1}


def test_a_state_that_json_cannot_hold_names_the_reward():
    novelty = Novelty()
    novelty.seen = {"a": object()}
    with pytest.raises(RewardError, match=r"state_dict\(\) of reward 'novelty' cannot be saved \(TypeError"):
        RewardSuite([reward_function(novelty, name="novelty")]).state_dict()


class Scores(torch.nn.Module):
    def forward(self, completions):
        return [float(len(text)) for text in completions]


def test_the_weights_of_a_module_are_not_a_state_and_neither_is_nothing(tokenizer):
    functions = [Scores(), lambda completions: [0.0] * len(completions), classifier(tokenizer)]
    assert (
        RewardSuite([reward_function(one, name=str(place)) for place, one in enumerate(functions)]).state_dict() == {}
    )


OPTIONS = (
    *("steps=4", "epochs_per_step=2", "beta=0.05", "prompts_per_step=3", "group_size=4", "save_every=2"),
    *("eval_prompts=4", "eval_samples=2", "eval_every=1", "max_completion_length=16", "train_size=40"),
    # The classifier's figures decide how much it weighs beside the other reward.
    "rewards=[{name: strict_format}, {name: ./taste, normalise: running, weight: 0.5}]",
)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_run_with_a_normalised_reward_resumes_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(TINY_DIRECTORY, num_labels=1).save_pretrained("taste")
    AutoTokenizer.from_pretrained(TINY_DIRECTORY).save_pretrained("taste")
    for name in ("alone", "cut"):
        build.train(load_config(None, [*OPTIONS, f"output_dir={name}"]))
    alone, cut = Path("alone"), Path("cut")
    shutil.rmtree(cut / "final_model")
    for checkpoint in cut.glob("checkpoint-*"):
        if checkpoint.name != "checkpoint-2":
            shutil.rmtree(checkpoint)

    build.resume(cut)

    assert contents(cut / "final_model") == contents(alone / "final_model")
    for file in ("completions.jsonl", "eval.jsonl"):
        assert (cut / file).read_bytes() == (alone / file).read_bytes()
    state = torch.load(alone / "final_model" / "training_state.pt", weights_only=True)
    assert state["rewards"]["taste"]["count"] == 4 * 3 * 4, "evaluations are left out"
