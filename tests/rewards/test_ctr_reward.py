from __future__ import annotations

import json
import shutil
from pathlib import Path

import compared
import pytest
import torch
from short_trainings import settings
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from grpo import assembly
from grpo.assembly import runs
from grpo.config import load_config
from grpo.demos.clicks import click_rows
from grpo.demos.headlines import headline_of
from grpo.errors import CheckpointError, ConfigError, ModelError
from grpo.policy import LoraSettings, load_policy
from grpo.policy.tiny import TINY_DIRECTORY
from grpo.reward_models import CTRScorer, train_scorer
from grpo.rewards import Backbones, resolve_rewards
from grpo.rewards.models.ctr import CTRReward

HEADLINES = ["7 best robots of 2027", "Robots in the lab", "Is this the greatest phone?"]


def memory(scorer):
    return compared.memory(scorer._backbone.model)


def train(directory: Path, **further) -> Path:
    options = {"epochs": 1, "batch_size": 32, "lora_rank": 4, "learning_rate": 3e-3, "device": "cpu", **further}
    report = train_scorer("ctr", click_rows(96), output_dir=directory, settings=settings(**options))
    return Path(report.best_model)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory) -> Path:
    """A scorer with adapters on the embedded model, trained a little."""
    return train(tmp_path_factory.mktemp("clicks"))


@pytest.mark.parametrize(
    ("completion", "headline"),
    [
        ("Robots win", "Robots win"),
        (" <think>Short is good.</think>\n Robots win \n", "Robots win"),
        ("<think>a</think>b</think> Robots win", "Robots win"),
        ("<reasoning>short</reasoning><answer> Robots win </answer> and so on", "Robots win"),
        ("<think>short</think><answer>Robots win</answer>", "Robots win"),
        ("<answer>Robots win", "Robots win"),
        ("<think>Robots win", ""),
        ("Well: <think>7 best robots", ""),
        ("<reasoning>7 best robots</reasoning>", ""),
        ("<think>7 best robots</think>", ""),
        ("<answer></answer>", ""),
        ("", ""),
    ],
)
def test_the_headline_is_what_a_completion_ends_in_and_not_its_thoughts(completion, headline):
    assert headline_of(completion) == headline


def test_the_reward_is_the_scorer_s_probability_of_the_headline(scorer):
    (reward,) = resolve_rewards({"name": "ctr", "scorer": str(scorer), "weight": 2.0, "batch_size": 2})
    assert (reward.name, reward.weight, reward.columns) == ("ctr", 2.0, ())
    expected = CTRScorer("tiny", scorer).predict_many(HEADLINES)
    assert len(set(expected)) == 3
    completions = [f"<think>7 best best best!</think> {headline}" for headline in HEADLINES]
    assert reward.function(completions) == pytest.approx(expected, abs=1e-5)
    messages = [[{"role": "assistant", "content": text}] for text in completions]
    assert reward.function(messages) == pytest.approx(expected, abs=1e-5)


def test_a_completion_without_a_headline_gets_nothing(scorer):
    reward = CTRReward(scorer)
    assert reward(["<think>7 best robots", "Robots win", "<think>a</think> \n"])[::2] == [0.0, 0.0]
    assert reward([]) == []


def test_the_directory_above_is_as_good(scorer):
    assert CTRReward(scorer.parent)(HEADLINES) == CTRReward(str(scorer))(HEADLINES)


@pytest.mark.parametrize("place", [None, "nowhere", "."])
def test_without_a_scorer_it_says_how_to_train_one(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parameters = {} if place is None else {"scorer": place}
    with pytest.raises(ConfigError, match="train it first: grpo reward train ctr-headlines") as caught:
        resolve_rewards({"name": "ctr", **parameters})
    assert "\n" not in str(caught.value)


def test_a_parameter_that_it_does_not_have_is_refused(scorer):
    message = r"reward 'ctr' has no parameter 'scores': it takes \['scorer', 'model', 'device', 'batch_size'\]"
    with pytest.raises(ConfigError, match=message):
        resolve_rewards({"name": "ctr", "scores": str(scorer)})


def test_a_damaged_description_is_told(scorer, tmp_path):
    shutil.copytree(scorer, tmp_path / "scorer")
    (tmp_path / "scorer" / "scorer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="train the scorer again"):
        resolve_rewards({"name": "ctr", "scorer": str(tmp_path / "scorer")})


def test_a_backbone_of_another_size_is_refused_with_both_sizes(scorer, tmp_path):
    vocabulary = json.loads((TINY_DIRECTORY / "config.json").read_text())["vocab_size"]
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen3Config(**sizes, vocab_size=vocabulary, num_key_value_heads=1, head_dim=8)
    Qwen3ForCausalLM(config).save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(TINY_DIRECTORY).save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"hidden size \d+.*hidden size 16"):
        resolve_rewards({"name": "ctr", "scorer": str(scorer), "model": str(tmp_path / "other")})
    with pytest.raises(ModelError, match="no directory"):
        resolve_rewards({"name": "ctr", "scorer": str(scorer), "model": "./no-such-model"})


def test_several_scorers_on_one_backbone_read_with_one_copy_of_it(scorer, tmp_path):
    other = train(tmp_path / "other", seed=1)
    first, second = resolve_rewards([{"name": "ctr", "scorer": str(scorer)}, {"name": "ctr", "scorer": str(other)}])
    assert (first.name, second.name) == ("ctr", "ctr_2")
    assert memory(first.function.scorer) == memory(second.function.scorer)
    for reward, directory in ((first, scorer), (second, other)):
        alone = CTRReward(directory)
        assert not memory(alone.scorer) & memory(first.function.scorer)
        assert reward.function(HEADLINES) == pytest.approx(alone(HEADLINES), abs=1e-5)
    assert first.function(HEADLINES) != pytest.approx(second.function(HEADLINES), abs=1e-3)


def test_a_scorer_that_trained_all_weights_has_its_own(tmp_path):
    whole = train(tmp_path / "whole", lora_rank=0, learning_rate=1e-3)
    backbones = Backbones()
    backbones.offer("tiny", lambda: pytest.fail("it has a backbone of its own"))
    (reward,) = resolve_rewards({"name": "ctr", "scorer": str(whole)}, backbones=backbones)
    assert reward.function(HEADLINES) == pytest.approx(CTRScorer(None, whole).predict_many(HEADLINES), abs=1e-6)


def test_it_shares_the_base_of_a_policy_under_lora_and_not_its_adapters(scorer):
    policy = load_policy("tiny", dtype="float32", device="cpu", lora=LoraSettings(rank=2))
    backbones = Backbones()
    backbones.offer("tiny", lambda: policy.model)
    reward = CTRReward(scorer, backbones=backbones)
    own = {value.data_ptr() for value in policy.model.parameters()}
    assert memory(reward.scorer) <= own
    before = reward(HEADLINES)
    assert before == pytest.approx(CTRReward(scorer)(HEADLINES), abs=1e-5)
    fingerprint = policy.fingerprint()
    with torch.no_grad():
        for parameter in policy.trainable_parameters():
            parameter.add_(0.1)
    assert reward(HEADLINES) == before
    assert policy.fingerprint() != fingerprint
    assert policy.model.peft_config.keys() == {"default"}


OPTIONS = (
    *("model=tiny", "train_file=rows.jsonl", "answer_format=think_tags", "steps=2", "prompts_per_step=2"),
    *("group_size=4", "max_completion_length=24", "eval_prompts=2", "eval_samples=1", "learning_rate=1e-2"),
    *("save_every=1", "output_dir=run", "lora_rank=4", "epochs_per_step=1"),
)


def test_a_run_with_lora_holds_its_base_once_and_resumes_bit_for_bit(scorer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"Write a headline about {topic}."} for topic in ("sports", "technology", "science", "health")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rewards = f"rewards=[{{name: think_soft_format}}, {{name: ctr, scorer: {scorer}}}]"
    parts = runs.assemble(load_config(None, [*OPTIONS, rewards]))
    reward = parts.rewards.functions[1].function
    assert memory(reward.scorer) <= {value.data_ptr() for value in parts.policy.model.parameters()}
    runs.train_parts(parts)
    lines = [json.loads(line) for line in Path("run/completions.jsonl").read_text().splitlines()]
    assert len(lines) == 16
    expected = CTRScorer("tiny", scorer).predict_many([headline_of(line["completion"]) for line in lines])
    assert [line["rewards"]["ctr"] for line in lines] == pytest.approx(expected, abs=1e-4)
    final = {path.name: path.read_bytes() for path in Path("run/final_model").iterdir()}
    shutil.rmtree("run/final_model")
    shutil.rmtree("run/checkpoint-2")
    assembly.resume("run")
    assert {path.name: path.read_bytes() for path in Path("run/final_model").iterdir()} == final
