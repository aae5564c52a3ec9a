"""Recipes made for `tiny` with another model: what they change by themselves, and that this is enough."""

from __future__ import annotations

import shlex

import pytest
import torch
from short_runs import WORDS, lines_of
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from grpo import recipes
from grpo.config import load_config, load_model_config
from grpo.errors import ConfigError
from grpo.policy.tiny import TINY_DIRECTORY

OTHER = "model=Qwen/Qwen2.5-3B-Instruct"


@pytest.fixture
def qwen(workplace) -> str:
    """A random Qwen2 in the directory `qwen`, with `tiny`'s tokenizer."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 1024,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "eos_token_id": 5,
        "pad_token_id": 1,
        "bos_token_id": None,
    }
    AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **sizes)).save_pretrained("qwen")
    AutoTokenizer.from_pretrained(TINY_DIRECTORY).save_pretrained("qwen")
    return "model=./qwen"


@pytest.mark.parametrize("recipe", ["ctr-headlines", "finance-preferences", "code", "judge", "reward-model"])
def test_one_override_brings_what_a_larger_model_needs(recipe):
    tiny, other = load_config(recipe), load_config(recipe, [OTHER])
    assert tiny.remarks() == []
    assert (tiny.policy.lora_rank, tiny.policy.dtype) == (0, "float32")
    assert (other.policy.lora_rank, other.policy.dtype) == (16, "auto")
    if recipe == "reward-model":
        assert other.optimizer.learning_rate == tiny.optimizer.learning_rate == 1e-6
    else:
        assert other.optimizer.learning_rate == 1e-5 < tiny.optimizer.learning_rate
    if tiny.scorer.model_fields_set:
        assert other.scorer.scorer_learning_rate == 1e-4 < tiny.scorer.scorer_learning_rate
    (remark,) = other.remarks()
    assert remark.startswith("as the model is Qwen/Qwen2.5-3B-Instruct and not tiny: dtype=auto, ")


def test_the_command_in_the_recipe_of_any_reward_model_keeps_what_it_says_of_the_rewards_scale():
    (line,) = [line for line in recipes.text("reward-model").splitlines() if line.startswith("#     grpo ")]
    words = shlex.split(line.removeprefix("#"))
    assert words[:3] == ["grpo", "train", "reward-model"]
    config = load_config("reward-model", words[3:])
    (reward,) = config.rewards.functions
    assert (reward.name.partition("/")[0], reward.normalise) == ("OpenAssistant", "running")
    assert config.data.task == "rows"
    (remark,) = config.remarks()
    assert remark.startswith("as the model is Qwen/Qwen2.5-1.5B-Instruct and not tiny: dtype=auto, ")


def test_what_the_user_says_wins():
    config = load_config("ctr-headlines", [OTHER, "learning_rate=3e-6", "lora_rank=0"])
    assert (config.optimizer.learning_rate, config.policy.lora_rank) == (3e-6, 0)
    assert " learning_rate=" not in config.remarks()[0]
    assert config.is_set_by_user("learning_rate")
    assert not config.is_set_by_user("max_completion_length")


def test_a_file_has_such_a_table_too_and_wins_over_its_recipe(workplace):
    (workplace / "mine.yaml").write_text(
        "recipe: ctr-headlines\nlearning_rate: 1e-3\nother_models:\n  lora_rank: 8\n", encoding="utf-8"
    )
    tiny, other = load_config("mine.yaml"), load_config("mine.yaml", [OTHER])
    assert (tiny.optimizer.learning_rate, tiny.policy.lora_rank) == (1e-3, 0)
    assert (other.optimizer.learning_rate, other.policy.lora_rank, other.policy.dtype) == (1e-3, 8, "auto")
    assert " learning_rate=" not in other.remarks()[0]
    assert " lora_rank=8," in other.remarks()[0]


def test_what_a_run_made_of_tiny_is_still_tiny(train):
    """Evaluated by the recipe, or trained further, it gets what `tiny` gets."""
    run = train("code", *WORDS, "steps=1", "eval_every=0")
    for model in (str(run), str(run / "final_model")):
        config = load_model_config(model, "code")
        assert config.remarks() == []
        assert (config.rollout.max_completion_length, config.data.program_kinds) == (32, "value")
    assert load_config("code", [f"model={run}/final_model"]).policy.lora_rank == 0


def test_a_scorer_goes_by_its_own_model():
    with_other_scorer = load_config("ctr-headlines", ["scorer_model=Qwen/x"])
    assert with_other_scorer.scorer.scorer_learning_rate == 1e-4
    assert with_other_scorer.policy.lora_rank == 0
    assert with_other_scorer.remarks()[0].startswith("as the model is Qwen/x and not tiny: scorer_")
    with_tiny_scorer = load_config("ctr-headlines", [OTHER, "scorer_model=tiny"])
    assert with_tiny_scorer.scorer.scorer_learning_rate == load_config("ctr-headlines").scorer.scorer_learning_rate
    assert with_tiny_scorer.policy.lora_rank == 16


@pytest.mark.parametrize(
    ("table", "said"), [("3", "it should have lines like"), ("{lerning_rate: 1}", "learning_rate")]
)
def test_a_table_that_cannot_be_is_refused(workplace, table, said):
    (workplace / "mine.yaml").write_text(f"other_models: {table}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        load_config("mine.yaml")


def test_from_clicks_to_a_policy_with_another_model_by_one_override(command, qwen):
    shown = command("reward", "train", "ctr-headlines", qwen, "scorer_rows=300")
    assert shown.code == 0, shown.err
    assert shown.err.startswith("note: as the model is ./qwen and not tiny: ")
    assert shown.out.rstrip().endswith("grpo train ctr-headlines model=./qwen")
    few = ["--rows", "2", "--groups", "1", "--repeats", "1"]
    shown = command("reward", "check", "ctr-headlines", qwen, *few, "max_completion_length=8")
    assert shown.code in (0, 3), shown.err
    shown = command("train", "ctr-headlines", qwen, *WORDS, "steps=2", "output_dir=run")
    assert shown.code == 0, shown.err
    assert len(lines_of("run/metrics.jsonl")) == 2


def test_from_pairs_to_a_policy_with_another_model_by_one_override(command, qwen):
    shown = command("reward", "train", "finance-preferences", qwen, "scorer_rows=60")
    assert shown.code == 0, shown.err
    shown = command("train", "finance-preferences", qwen, *WORDS, "steps=2", "output_dir=run")
    assert shown.code == 0, shown.err
    assert len(lines_of("run/metrics.jsonl")) == 2
