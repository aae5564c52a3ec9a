"""Weights under the names and in the form of `save_pretrained`, one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from grpo.policy import ExportedWeights
from grpo.policy.export import tensor_checksum


def qwen3(*, tied: bool) -> nn.Module:
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, tie_word_embeddings=tied,
        )
    )  # fmt: skip


def mixtral() -> nn.Module:
    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, num_local_experts=3, num_experts_per_tok=2,
        )
    )  # fmt: skip


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32))


@pytest.mark.parametrize(
    "make",
    [lambda: qwen3(tied=False), lambda: qwen3(tied=True), mixtral, gpt2],
    ids=["qwen3", "tied", "experts", "gpt2"],
)
def test_exported_tensors_are_those_of_the_saved_file(make: object, tmp_path: Path) -> None:
    model = make()  # type: ignore[operator]
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    exported = list(ExportedWeights(model).tensors())
    assert sorted(name for name, _ in exported) == sorted(saved)
    for name, tensor in exported:
        assert torch.equal(tensor, saved[name]), name


def lora(model: nn.Module) -> nn.Module:
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.2)
    return wrapped


def test_merged_tensors_are_those_that_peft_merges(tmp_path: Path) -> None:
    wrapped = lora(qwen3(tied=True))
    # Copies, because PEFT merges into the tensors that unadapted weights are exported as.
    exported = {name: tensor.clone() for name, tensor in ExportedWeights(wrapped).tensors()}
    wrapped.merge_and_unload().save_pretrained(tmp_path)  # type: ignore[operator]
    saved = load_file(tmp_path / "model.safetensors")
    assert exported.keys() == saved.keys()
    for name, tensor in exported.items():
        torch.testing.assert_close(tensor, saved[name], msg=name)


def test_tensors_apart_are_the_base_and_the_saved_adapter(tmp_path: Path) -> None:
    base = qwen3(tied=True)
    base.save_pretrained(tmp_path / "base")
    wrapped = lora(base)
    wrapped.save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "base/model.safetensors") | load_file(tmp_path / "adapter/adapter_model.safetensors")
    exported = dict(ExportedWeights(wrapped).tensors("apart"))
    assert exported.keys() == saved.keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in exported.items())


def test_a_checksum_tells_bits_dtype_and_shape_apart() -> None:
    tensor = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    others = [tensor.flatten(), tensor.bfloat16(), torch.nextafter(tensor, tensor + 1), -tensor]
    digests = {tensor_checksum(found) for found in (tensor, *others)}
    assert len(digests) == 5
    assert tensor_checksum(tensor.clone()) in digests
