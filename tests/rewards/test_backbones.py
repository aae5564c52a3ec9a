from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from compared import memory
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

from grpo import assembly
from grpo.assembly import runs
from grpo.config import load_config
from grpo.errors import ConfigError, ModelError
from grpo.policy import LoraSettings, load_policy
from grpo.rewards import Backbones, SequenceClassifierReward, resolve_rewards

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 64,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
PROMPTS = ["1+1=", "what is 2+2? ", "3"]
COMPLETIONS = ["2", "it is 4 i think", ""]
ROW = torch.tensor([[7, 8, 9, 10]])


@pytest.fixture
def base(tmp_path, tokenizer) -> Path:
    """A language model's directory."""
    torch.manual_seed(0)
    Qwen3ForCausalLM(Qwen3Config(**SIZES)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def judge(tmp_path, tokenizer) -> Path:
    """The directory of a classifier with three labels."""
    torch.manual_seed(1)
    Qwen3ForSequenceClassification(Qwen3Config(**SIZES, num_labels=3)).save_pretrained(tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")
    return tmp_path / "judge"


def save_head(base: Path, directory: Path, tokenizer, *, seed: int, num_labels: int = 1, head: bool = True):
    """Save an adapter and a head, both drawn, on `base`; return the classifier they make."""
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=num_labels)
    task = {"task_type": "SEQ_CLS"} if head else {}
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "up_proj"], **task))
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.3)
    wrapped.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return wrapped.eval()


def test_rewards_of_one_directory_share_one_model(judge, monkeypatch):
    monkeypatch.chdir(judge.parent)
    first, second, third = resolve_rewards(
        [{"name": "./judge", "label": 0}, {"name": "./judge/", "label": 1}, {"name": str(judge), "label": 2}]
    )
    models = [reward.function._model for reward in (first, second, third)]
    assert models[0] is models[1] is models[2]
    rewards = [reward.function(PROMPTS, COMPLETIONS) for reward in (first, second, third)]
    assert [sum(column) for column in zip(*rewards, strict=True)] == pytest.approx([1.0] * 3)


def test_without_a_registry_in_common_models_are_loaded_apart(judge):
    first, second = (SequenceClassifierReward(str(judge), label=0) for _ in range(2))
    assert not memory(first._model) & memory(second._model)


def test_language_models_of_one_name_share_weights_but_not_adapters(base, monkeypatch):
    monkeypatch.chdir(base.parent)
    backbones = Backbones()
    first, second = backbones.language_model("base"), backbones.language_model(str(base))
    assert memory(first) == memory(second)
    before = second(input_ids=ROW).logits
    adapted = get_peft_model(first, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    assert not torch.allclose(adapted(input_ids=ROW).logits, before)
    assert torch.equal(second(input_ids=ROW).logits, before)
    third = backbones.language_model("base", dtype=torch.bfloat16)
    assert not memory(third) & memory(second)


def test_the_policy_s_base_under_lora_is_shared_and_training_does_not_change_what_is_read(base):
    policy = load_policy(base, dtype="float32", device="cpu", lora=LoraSettings(rank=2))
    backbones = Backbones()
    backbones.offer(str(base), lambda: policy.model)
    shared = backbones.language_model(str(base))
    assert memory(shared) == memory(policy.model)
    expected = Qwen3ForCausalLM.from_pretrained(base)(input_ids=ROW).logits
    policy.model.train()
    with torch.no_grad():
        for parameter in policy.trainable_parameters():
            parameter.add_(0.5)
    torch.testing.assert_close(shared(input_ids=ROW).logits, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(policy.model(input_ids=ROW).logits, expected, atol=1e-2)
    assert not shared.training
    assert all(parameter.requires_grad for parameter in policy.trainable_parameters())


def test_what_is_offered_is_made_only_when_it_is_asked_for_and_once(base, judge):
    made = []

    def make():
        made.append(Qwen3ForCausalLM.from_pretrained(base))
        return made[-1]

    backbones = Backbones()
    backbones.offer(str(base), make)
    backbones.classifier(str(judge))
    assert made == []
    assert memory(backbones.language_model(str(base))) == memory(backbones.language_model(str(base)))
    assert len(made) == 1
    other = backbones.language_model(str(base), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in other.parameters()} == {torch.bfloat16}


def test_several_heads_with_adapters_read_with_one_base(base, tmp_path, tokenizer):
    heads = [tmp_path / "kind", tmp_path / "short"]
    whole = [save_head(base, directory, tokenizer, seed=seed) for seed, directory in enumerate(heads)]
    backbones = Backbones()
    rewards = [SequenceClassifierReward(str(head), backbones=backbones) for head in heads]
    assert memory(rewards[0]._model) == memory(rewards[1]._model) == memory(backbones.language_model(str(base)))
    for reward, model in zip(rewards, whole, strict=True):
        expected = SequenceClassifierReward(copy.deepcopy(model), tokenizer=tokenizer)(PROMPTS, COMPLETIONS)
        assert reward(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=1e-5)
    values = [reward(PROMPTS, COMPLETIONS) for reward in rewards]
    assert values[0] != pytest.approx(values[1], abs=1e-3)


def test_a_head_of_several_labels_comes_with_its_adapter(base, tmp_path, tokenizer):
    model = save_head(base, tmp_path / "mood", tokenizer, seed=0, num_labels=3)
    with pytest.raises(ConfigError, match="has 3 labels, got label=None"):
        SequenceClassifierReward(str(tmp_path / "mood"))
    reward = SequenceClassifierReward(str(tmp_path / "mood"), label=2)
    expected = SequenceClassifierReward(model, tokenizer=tokenizer, label=2)(PROMPTS, COMPLETIONS)
    assert reward(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=1e-5)


def test_an_adapter_without_a_head_is_refused(base, tmp_path, tokenizer):
    save_head(base, tmp_path / "headless", tokenizer, seed=0, head=False)
    with pytest.raises(ConfigError, match=r"headless' has no trained classification head \(score.weight is missing\)"):
        SequenceClassifierReward(str(tmp_path / "headless"))


def test_an_adapter_is_no_backbone(base, tmp_path, tokenizer):
    save_head(base, tmp_path / "kind", tokenizer, seed=0)
    with pytest.raises(ModelError, match=r"is an adapter on .*base: merge them, or give the base as backbone"):
        Backbones().language_model(str(tmp_path / "kind"))


@pytest.mark.parametrize(
    ("device", "message"), [("gpu", "no device 'gpu' for a reward"), ("cuda:99", r"PyTorch sees \d+ GPUs")]
)
def test_a_device_that_is_not_there_is_refused(judge, device, message):
    with pytest.raises(ConfigError, match=message) as caught:
        resolve_rewards({"name": str(judge), "label": 0, "device": device})
    assert "\n" not in str(caught.value)


def test_each_reward_can_have_a_device_of_its_own(judge):
    backbones = Backbones()
    here, nowhere = backbones.classifier(str(judge), device="cpu"), backbones.classifier(str(judge), device="meta")
    assert here.device.type == "cpu"
    assert nowhere.device.type == "meta"
    assert backbones.classifier(str(judge)) is here or torch.cuda.is_available()


OPTIONS = (
    *("steps=1", "prompts_per_step=2", "group_size=2", "max_completion_length=8", "eval_prompts=2", "eval_samples=1"),
    *("model=base", "train_file=rows.jsonl", "answer_format=plain", "learning_rate=0.1", "method=dr_grpo"),
)


@pytest.fixture
def workplace(base, tmp_path, tokenizer, monkeypatch) -> Path:
    """A working directory with a base, a head on it and rows."""
    monkeypatch.chdir(tmp_path)
    save_head(base, tmp_path / "kind", tokenizer, seed=0)
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"prompt": "{n}+1="}}\n' for n in range(6)))
    return tmp_path


def test_a_run_with_lora_shares_its_base_with_a_reward_and_leaves_it_as_it_is(workplace):
    parts = runs.assemble(load_config(None, [*OPTIONS, "rewards=./kind", "lora_rank=2", "output_dir=run"]))
    (reward,) = parts.rewards.functions
    assert memory(reward.function._model) == memory(parts.policy.model)
    before = reward.function(PROMPTS, COMPLETIONS)
    start = parts.policy.fingerprint()
    runs.train_parts(parts)
    assert parts.policy.fingerprint() != start
    assert reward.function(PROMPTS, COMPLETIONS) == before


def test_a_run_that_goes_on_training_an_adapter_shares_its_base_as_well(workplace):
    assembly.train(load_config(None, [*OPTIONS, "rewards=./kind", "lora_rank=2", "output_dir=run"]))
    words = [*OPTIONS, "rewards=./kind", "model=run", "output_dir=further"]
    parts = runs.assemble(load_config(None, [word for word in words if word != "model=base"]))
    assert parts.policy.has_adapter
    assert memory(parts.rewards.functions[0].function._model) == memory(parts.policy.model)


def test_a_run_that_trains_all_weights_shares_none_of_them(workplace):
    parts = runs.assemble(load_config(None, [*OPTIONS, "rewards=./kind", "output_dir=run"]))
    assert not memory(parts.rewards.functions[0].function._model) & memory(parts.policy.model)


def test_a_reward_that_does_not_exist_is_told_before_a_model_is_loaded(workplace):
    words = [word for word in OPTIONS if word != "model=base"]
    with pytest.raises(ConfigError, match="no reward named 'kindd'"):
        runs.assemble(load_config(None, [*words, "model=nowhere", "rewards=kindd", "lora_rank=2"]))
