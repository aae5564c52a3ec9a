"""Weights are read inside their modules' own calls, so that sharded ones can be gathered there (as FSDP does)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from grpo.packing import PackedBatch
from grpo.policy import LoraSettings, Policy, load_policy

Step = tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]


def step_of(policy: Policy, batch: PackedBatch) -> Step:
    """Return log-probabilities, entropies and gradients."""
    torch.manual_seed(0)
    tokens = policy.token_logprobs(batch, temperature=0.7, entropy=True)
    weights = torch.linspace(-1, 1, tokens.logprobs.numel()).view_as(tokens.logprobs)
    (tokens.logprobs * weights).sum().backward()
    gradients = []
    for parameter in policy.trainable_parameters():
        assert parameter.grad is not None
        gradients.append(parameter.grad.clone())
        parameter.grad = None
    assert tokens.entropy is not None
    return tokens.logprobs.detach(), tokens.entropy, gradients


def gather_on_call(model: nn.Module) -> set[str]:
    """Fill each module's own parameters with NaN except while its forward or backward runs; return the modules seen."""
    stash = {id(parameter): parameter.detach().clone() for parameter in model.parameters()}
    seen: set[str] = set()

    # Through `.data`, as FSDP's own resizing of the storage, which autograd does not count as a change.
    def fill(module: nn.Module) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data.copy_(stash[id(parameter)])

    def empty(module: nn.Module) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data.fill_(torch.nan)

    def hooks(name: str, module: nn.Module) -> None:
        def before(module: nn.Module, *_: Any) -> None:
            seen.add(name)
            fill(module)

        def after(module: nn.Module, *_: Any) -> None:
            empty(module)

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)
        module.register_full_backward_pre_hook(before)
        module.register_full_backward_hook(after)

    for name, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            empty(module)
            hooks(name, module)
    return seen


@pytest.mark.parametrize(
    "options",
    [{}, {"lora": LoraSettings(rank=4, dropout=0.1)}, {"gradient_checkpointing": True}],
    ids=["full", "lora", "checkpointing"],
)
def test_parameters_that_exist_only_while_their_module_is_called_change_nothing(
    options: dict[str, Any], make_batch: Callable[..., PackedBatch]
) -> None:
    batch = make_batch(((5, (3, 1, 4)), (40, (6, 90))))
    expected = step_of(load_policy("tiny", dtype="float32", device="cpu", **options), batch)
    policy = load_policy("tiny", dtype="float32", device="cpu", **options)
    seen = gather_on_call(policy.model)
    assert not seen
    found = step_of(policy, batch)
    assert any(name.endswith("lm_head") for name in seen)
    assert found[0].isfinite().all()
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert len(found[2]) == len(expected[2])
    for ours, theirs in zip(found[2], expected[2], strict=True):
        assert torch.equal(ours, theirs)


def test_a_head_has_its_own_forward_again_after_a_call_that_failed(make_batch: Callable[..., PackedBatch]) -> None:
    policy = load_policy("tiny", dtype="float32", device="cpu")
    head = policy.model.get_output_embeddings()  # type: ignore[operator]

    def broken(*_: object) -> None:
        raise RuntimeError("no memory")

    handle = head.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="no memory"):
        policy.token_logprobs(make_batch(), temperature=1.0)
    handle.remove()
    assert "forward" not in vars(head)
    assert head(torch.zeros(2, head.in_features)).shape == (2, head.out_features)
