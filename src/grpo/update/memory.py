"""Estimate of the token budget of a micro-batch, and detection of failed allocations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from grpo.machine import is_out_of_memory
from grpo.packing import PackedBatch, Segment
from grpo.policy import Policy
from grpo.policy.flash import flash_works
from grpo.policy.products import LENGTH_MULTIPLE
from grpo.policy.shared_prefix import LONG_PROMPT

__all__ = ["activation_bytes_per_token", "is_out_of_memory", "token_budget"]

_MOST_TOKENS = {"cpu": 16_384, "cuda": 65_536}
"""Largest budget by device: beyond it a micro-batch takes more memory and its matrix products get no faster."""

_ENOUGH_BYTES = {"cpu": 256 * 2**20}
"""Bytes of activations beyond which no step on that device gets faster. Other devices use all free memory."""

_LEAST_TOKENS = 256
"""Smallest budget: below it the work around the matrix products costs more than the products themselves."""

_SHARE = 0.5
"""Share of the free memory that activations may take by estimate. The rest is for the gradients of the backward pass, a
few chunks of logits in the output head, and gaps of the allocator."""

_PROBE_TOKENS = (64, 512)
"""Least and most tokens of the shorter of the two measured rows; the longer one has twice as many."""

_BYTES_OF_TRAINING = 12
"""Bytes of a trained parameter's gradient and AdamW's two moments, float32 each, which the first step allocates."""


def token_budget(
    policy: Policy, *, free_bytes: float | None, prompt_length: int, completion_length: int, group_size: int
) -> int:
    """Return the most tokens that a micro-batch should have: a power of two or, for long prompts, about three prompts.

    Such round numbers seldom differ between two similar machines, or between two starts on one. They should not:
    the way a step is cut decides the last bits of its sums.

    Args:
        free_bytes: free memory, of which gradients and optimizer will take their part; None: unknown.
        prompt_length, completion_length, group_size: of a typical group, in tokens. If attention copies a prompt
            for each of its completions, a token takes more memory the longer its prompt is.
    """
    most = _MOST_TOKENS.get(policy.device.type, _MOST_TOKENS["cpu"])
    left = math.inf
    if free_bytes is not None:
        left = max(0.0, _SHARE * (free_bytes - _BYTES_OF_TRAINING * policy.num_trainable_parameters))
    each = activation_bytes_per_token(
        policy, prompt_length=prompt_length, completion_length=completion_length, group_size=group_size
    )
    group = prompt_length + group_size * completion_length
    fitting = _power_of_two_below(left / max(each, 1.0))
    enough = _power_of_two_below(_ENOUGH_BYTES.get(policy.device.type, left) / max(each, 1.0))
    # A group that is cut reads its prompt twice, which costs little time if the prompt is a small part of the row.
    uncut = _LEAST_TOKENS * math.ceil(min(group, 3 * prompt_length) / _LEAST_TOKENS)
    return max(_LEAST_TOKENS, min(most, fitting, max(enough, uncut)))


def _power_of_two_below(number: float) -> int:
    """Return the greatest power of two that is at most `number`, at least 1."""
    return 1 << max(int(min(number, 2**40)), 1).bit_length() - 1


def activation_bytes_per_token(policy: Policy, *, prompt_length: int, completion_length: int, group_size: int) -> float:
    """Return the bytes that the forward of a packed token keeps for its backward, for any architecture.

    They are measured on two short rows in the proportions of a typical group. Gradient checkpointing keeps the input of
    each layer, and the activations of one layer at a time.
    """
    shorter = _probe_tokens(prompt_length, prompt_length + group_size * completion_length)
    rows = [_probe(most, prompt_length, completion_length, group_size) for most in (shorter, 2 * shorter)]
    fewer, more = (LENGTH_MULTIPLE * math.ceil(len(row.token_ids) / LENGTH_MULTIPLE) for row in rows)
    with _without_checkpointing(policy.model) as checkpointed:
        small, large = (_saved_bytes(policy, row) for row in rows)
    each = (large - small) / (more - fewer)
    if not checkpointed:
        return each
    config = policy.model.config.get_text_config()  # type: ignore[operator,union-attr]
    width = policy.compute_dtype.itemsize * config.hidden_size
    return float(width * config.num_hidden_layers + each / config.num_hidden_layers)


def _probe_tokens(prompt_length: int, group_length: int) -> int:
    """Return the length of a row whose prompt is long enough for attention to take the same path as for a real one."""
    wanted = LONG_PROMPT * group_length / prompt_length if prompt_length >= LONG_PROMPT else 0
    least, most = _PROBE_TOKENS
    return LENGTH_MULTIPLE * math.ceil(min(max(wanted, least), most) / LENGTH_MULTIPLE)


def _saved_bytes(policy: Policy, row: PackedBatch) -> int:
    """Return the bytes of all tensors that the forward of `row` saves, weights excepted."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in policy.model.parameters()}
    # The tensors stay alive until all are counted: otherwise two of them could have the same address.
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    # The first forward of a process would try these kernels, and what the trial saves would be counted.
    for grouped in (False, True):
        flash_works(grouped=grouped)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        policy.token_logprobs(row, temperature=1.0)
    return sum(tensor.untyped_storage().nbytes() for place, tensor in saved.items() if place not in weights)


@contextmanager
def _without_checkpointing(model: nn.Module) -> Iterator[bool]:
    """Switch gradient checkpointing off; yields whether it was on."""
    layers = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False) is True]
    for layer in layers:
        layer.gradient_checkpointing = False  # type: ignore[assignment]
    try:
        yield bool(layers)
    finally:
        for layer in layers:
            layer.gradient_checkpointing = True  # type: ignore[assignment]


def _probe(most: int, prompt_length: int, completion_length: int, group_size: int) -> PackedBatch:
    """Return a row of about `most` tokens: one group in the given proportions, on the CPU."""
    shrink = most / (prompt_length + group_size * completion_length)
    prompt = max(1, round(prompt_length * shrink))
    length = max(1, round(completion_length * shrink))
    size = max(1, min(group_size, (most - prompt) // length))
    starts = prompt + length * torch.arange(size)[:, None]
    columns = torch.arange(length)
    predicted_by = starts + columns - 1
    predicted_by[:, 0] = prompt - 1
    shape = (size, length)
    own = (prompt + columns).repeat(size)
    return PackedBatch(
        token_ids=torch.zeros(prompt + size * length, dtype=torch.long),
        positions=torch.cat((torch.arange(prompt), own)),
        segments=(Segment(0, prompt, (length,) * size),),
        predicted_by=predicted_by,
        targets=torch.zeros(shape, dtype=torch.long),
        mask=torch.ones(shape, dtype=torch.bool),
        sampling_logprobs=torch.zeros(shape),
        advantages=torch.zeros(shape),
        rollout_index=torch.arange(size),
    )
