"""A click scorer on the policy's base costs its adapters and head only."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from grpo.errors import ModelError
from grpo.policy import LoraSettings, load_policy
from grpo.policy.tiny import TINY_DIRECTORY
from grpo.reward_models import CTRScorer

IDS = torch.tensor([[10, 20, 30, 40]])


def places(model):
    return {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}


def test_a_scorer_on_the_policys_base_costs_its_adapters_and_head_and_ignores_the_policys(trained, clicks):
    policy = load_policy("tiny", device="cpu", dtype="float32", lora=LoraSettings(rank=4))
    alone = CTRScorer("tiny", trained.best_model)
    shared = CTRScorer(None, trained.best_model, backbone=policy.model)
    texts = [row["text"] for row in clicks[:30]]
    before = policy.model(IDS).logits
    assert shared.predict_many(texts) == pytest.approx(alone.predict_many(texts), abs=1e-5)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    assert not torch.allclose(policy.model(IDS).logits, before)
    assert shared.predict_many(texts) == pytest.approx(alone.predict_many(texts), abs=1e-5)
    own = places(shared._backbone.model) - places(policy.model)
    names = {name for name, value in shared._backbone.model.named_parameters() if value.data_ptr() in own}
    assert names
    assert all("lora_" in name for name in names)


def test_a_shared_backbone_must_be_a_causal_language_model(trained):
    with pytest.raises(ModelError, match="a shared backbone is a Hugging Face causal LM"):
        CTRScorer(None, trained.best_model, backbone=AutoModelForCausalLM.from_pretrained(TINY_DIRECTORY).model)
