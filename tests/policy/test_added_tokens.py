"""Adapters that were trained with more tokens than their base has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from grpo.assembly import GRPOTrainer
from grpo.config import GRPOConfig
from grpo.errors import ModelError
from grpo.policy import LoraSettings, load_policy

NUM_TOKENS = 63
ADDED = [61, 62]
"""The tokenizer of these tests has 61 tokens of its own."""

IDS = torch.tensor([[4, 7, *ADDED, 9]])

KINDS: dict[str, dict[str, Any]] = {
    "resized": {"target_modules": ["q_proj"]},
    "whole": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": ADDED},
}


def resized_base(directory: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(directory)
    model.resize_token_embeddings(NUM_TOKENS, mean_resizing=False)
    return model


@pytest.fixture
def make_adapter(tmp_path: Path, make_model: Any, make_tokenizer: Any) -> Any:
    def make(kind: str, *, tied: bool, **saving: Any) -> Path:
        base, directory = tmp_path / "base", tmp_path / "adapter"
        tokenizer = make_tokenizer()
        make_model(tie_word_embeddings=tied).save_pretrained(base)
        tokenizer.save_pretrained(base)
        config = LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False, **KINDS[kind])
        torch.manual_seed(1)
        get_peft_model(resized_base(base), config).save_pretrained(directory, **saving)
        tokenizer.add_tokens(["<first>", "<second>"])
        tokenizer.save_pretrained(directory)
        return directory

    return make


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`", "ignore:Model has `tie_word_embeddings")
@pytest.mark.parametrize(
    ("kind", "tied"), [(kind, tied) for kind in KINDS for tied in (True, False) if tied or kind != "embedding"]
)
def test_an_adapter_with_added_tokens_loads_saves_and_loads_again(
    kind: str, tied: bool, make_adapter: Any, tmp_path: Path
) -> None:
    directory = make_adapter(kind, tied=tied)
    expected = logits(PeftModel.from_pretrained(resized_base(tmp_path / "base"), directory))
    policy = load_policy(directory, device="cpu")
    torch.testing.assert_close(logits(policy.model), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        for parameter in policy.trainable_parameters():
            parameter.add_(0.01)
    trained = logits(policy.model)
    policy.save(tmp_path / "trained")
    again = load_policy(tmp_path / "trained", device="cpu")
    assert torch.equal(logits(again.model), trained)
    policy.load_weights(tmp_path / "trained")
    assert torch.equal(logits(policy.model), trained)
    assert len(again.tokenizer) == NUM_TOKENS


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`", "ignore:Model has `tie_word_embeddings")
@pytest.mark.parametrize("kind", KINDS)
def test_exported_weights_with_added_tokens_give_the_adapters_logits(
    kind: str, make_adapter: Any, tmp_path: Path
) -> None:
    policy = load_policy(make_adapter(kind, tied=True), device="cpu")
    base = resized_base(tmp_path / "base")
    weights = dict(policy.export_weights().tensors())
    if "lm_head.weight" in weights:
        base.lm_head.weight = torch.nn.Parameter(weights["lm_head.weight"].clone())
    base.load_state_dict(weights, strict="lm_head.weight" in weights)
    torch.testing.assert_close(logits(base), logits(policy.model), rtol=1e-5, atol=1e-5)
    assert not any("modules_to_save" in name or "base_layer" in name for name in weights)


def test_an_adapter_that_does_not_bring_its_added_rows_is_one_line_with_sizes(make_adapter: Any) -> None:
    directory = make_adapter("embedding", tied=False, save_embedding_layers=False)
    with pytest.raises(ModelError, match=r"trained with 63 embeddings, the base has 61.*lm_head") as error:
        load_policy(directory, device="cpu")
    assert "\n" not in str(error.value)


def test_adapters_on_a_model_that_was_resized_in_memory_save_its_embeddings(
    model_directory: Path, make_tokenizer: Any, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<first>", "<second>"])
    policy = load_policy(
        resized_base(model_directory), tokenizer=tokenizer, device="cpu", lora=LoraSettings(rank=2, alpha=4.0)
    )
    policy.save(tmp_path / "trained")
    assert torch.equal(logits(load_policy(tmp_path / "trained", device="cpu").model), logits(policy.model))


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`", "ignore:Model has `tie_word_embeddings")
@pytest.mark.parametrize("kind", ["resized", "whole", "tokens"])
def test_an_adapter_with_added_tokens_is_trained_and_resumed_bit_for_bit(
    kind: str, make_adapter: Any, tmp_path: Path
) -> None:
    directory = make_adapter(kind, tied=True)

    def train(name: str, steps: int, **options: Any) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        config = GRPOConfig(
            output_dir=tmp_path / name, steps=steps, prompts_per_step=2, group_size=4, max_completion_length=6,
            learning_rate=1e-2, schedule="constant", live=False, device="cpu", **options,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=directory,
            config=config,
            train_dataset=["4 5 6", "7 8", "9 9 9 9"],
            rewards=lambda completions, **_: [float(len(set(text))) for text in completions],
        )
        resume = tmp_path / name if (tmp_path / name).exists() else None
        trainer.train(resume_from=resume)
        return load_file(tmp_path / name / "final_model/adapter_model.safetensors")

    whole = train("whole", 4)
    train("parts", 2)
    parts = train("parts", 4)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    before = load_policy(directory, device="cpu")
    assert not torch.equal(logits(load_policy(tmp_path / "whole", device="cpu").model), logits(before.model))
