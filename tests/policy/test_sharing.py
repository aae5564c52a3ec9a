"""A shared copy has its base's weights, and nothing that is done to it reaches the base."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from grpo.errors import ModelError
from grpo.policy import LoraSettings, load_policy
from grpo.policy.adapters import add_adapter
from grpo.policy.sharing import shared_copy
from grpo.policy.tiny import TINY_DIRECTORY

IDS = torch.tensor([[10, 20, 30, 40]])


def tiny():
    return AutoModelForCausalLM.from_pretrained(TINY_DIRECTORY)


def places(model):
    return {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}


def test_every_weight_of_the_copy_lies_where_the_originals_does():
    base = tiny().train()
    twin = shared_copy(base)
    assert places(twin) == places(base)
    assert list(twin.state_dict()) == list(base.state_dict())
    assert twin is not base
    assert not twin.training
    assert base.training
    assert torch.equal(twin(IDS).logits, base.eval()(IDS).logits)


def test_weights_that_are_tied_stay_tied():
    twin = shared_copy(tiny())
    assert twin.lm_head.weight is twin.model.embed_tokens.weight


def test_what_is_trained_in_the_original_stays_trained_and_is_seen_in_the_copy():
    base = tiny().requires_grad_(True)
    twin = shared_copy(base)
    assert all(parameter.requires_grad for parameter in base.parameters())
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    with torch.no_grad():
        base.model.norm.weight.mul_(2.0)
    assert torch.equal(twin(IDS).logits, base(IDS).logits)


def test_adapters_on_the_copy_do_not_touch_the_original():
    base = tiny().requires_grad_(True)
    before = base(IDS).logits
    wrapped = add_adapter(shared_copy(base), LoraSettings(rank=4), seed=0)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    assert not torch.allclose(wrapped(IDS).logits, before)
    assert torch.equal(base(IDS).logits, before)
    assert all(parameter.requires_grad for parameter in base.parameters())
    assert not any("lora" in name for name, _ in base.named_parameters())


def test_moving_the_copy_leaves_the_original_where_it_is():
    base = tiny()
    shared_copy(base).to(torch.bfloat16)
    assert {parameter.dtype for parameter in base.parameters()} == {torch.float32}


def test_the_copy_of_a_policy_under_lora_is_its_base():
    policy = load_policy("tiny", device="cpu", dtype="float32", lora=LoraSettings(rank=4))
    start = tiny()(IDS).logits
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    moved = policy.model(IDS).logits
    twin = shared_copy(policy.model)
    torch.testing.assert_close(twin(IDS).logits, start, atol=1e-4, rtol=1e-4)
    assert not any("lora" in name for name, _ in twin.named_parameters())
    assert places(twin) < places(policy.model)
    assert torch.equal(policy.model(IDS).logits, moved)
    assert any(parameter.requires_grad for parameter in policy.model.parameters())


def test_merged_adapters_cannot_be_left_out():
    policy = load_policy("tiny", device="cpu", dtype="float32", lora=LoraSettings(rank=4))
    policy.model.merge_adapter()
    with pytest.raises(ModelError, match="adapters are merged"):
        shared_copy(policy.model)
