"""Invariant 11: after an update the sampler is proven to hold the trainer's weights, or the tensor is named."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import nn

from grpo.engines import describe_difference, differing_tensors, sync_weights
from grpo.engines.native import NativeEngine, NativeSampler
from grpo.errors import StaleWeightsError
from grpo.policy import ExportedWeights


class Remote(NativeSampler):
    """A sampler with weights of its own, one of whose tensors never arrives."""

    lost = "lm_head.weight"
    version_is_stuck = False
    knows_checksums = True

    def __init__(self, engine: NativeEngine) -> None:
        super().__init__(engine)
        self.capabilities = replace(self.capabilities, in_process=False)

    async def update_weights(self, weights: ExportedWeights, version: int) -> None:
        own = self.engine.model.state_dict()
        arrived = {name: own[name] if name == self.lost else tensor for name, tensor in weights.tensors()}
        self.engine.load_weights(arrived, 0 if self.version_is_stuck else version)

    async def checksums(self) -> Mapping[str, str] | None:
        return ExportedWeights(self.engine.model).checksums() if self.knows_checksums else None


def remote_and_trained(model: nn.Module) -> tuple[Remote, ExportedWeights]:
    trained = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1.5)
    return Remote(NativeEngine(model, end_ids=[7])), ExportedWeights(trained)


def test_a_tensor_that_did_not_arrive_is_named(model: nn.Module) -> None:
    sampler, weights = remote_and_trained(model)
    with pytest.raises(StaleWeightsError, match=r"version 4 the sampler holds other values of lm_head\.weight$"):
        sync_weights(sampler, weights, version=4)


def test_weights_that_arrived_pass(model: nn.Module) -> None:
    sampler, weights = remote_and_trained(model)
    sampler.lost = ""
    sync_weights(sampler, weights, version=4)
    assert sampler.policy_version == 4
    assert differing_tensors(sampler, weights) == []


def test_a_version_that_stays_behind_is_refused(model: nn.Module) -> None:
    sampler, weights = remote_and_trained(model)
    sampler.version_is_stuck = True
    with pytest.raises(StaleWeightsError, match="reports weights of version 0 after it was given version 4"):
        sync_weights(sampler, weights, version=4)


def test_a_sampler_without_checksums_says_so(model: nn.Module) -> None:
    sampler, weights = remote_and_trained(model)
    sampler.knows_checksums = False
    sync_weights(sampler, weights, version=4)
    assert differing_tensors(sampler, weights) is None


def test_differences_are_told_in_one_line() -> None:
    assert describe_difference(None) == "the sampler has no checksums that would name the tensor"
    assert describe_difference([]).startswith("the sampler holds all tensors of the policy")
    assert describe_difference(list("abcdefg")) == "the sampler holds other values of a, b, c, d, e and 2 more"
