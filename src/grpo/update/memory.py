"""How many tokens a micro-batch may have, and how to tell that it had too many."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from grpo.packing import PackedBatch, Segment
from grpo.policy import Policy
from grpo.policy.flash import flash_works
from grpo.policy.products import LENGTH_MULTIPLE
from grpo.policy.shared_prefix import LONG_PROMPT

__all__ = ["activation_bytes_per_token", "is_out_of_memory", "token_budget"]

_MOST_TOKENS = {"cpu": 16_384, "cuda": 65_536}
"""Beyond these a micro-batch only takes memory: the matrix products are as large as they get any faster for."""

_ENOUGH_BYTES = {"cpu": 256 * 2**20}
"""Activations beyond these make no step on that device faster; they only take memory. Elsewhere: what there is."""

_LEAST_TOKENS = 256
"""Below this the work around the matrix products costs more than they do; a row that still fails is halved."""

_SHARE = 0.5
"""Of the free memory, what activations may take by estimate: the backward pass has gradients of its own, the output
head a few chunks of logits, and the allocator gaps."""

_PROBE_TOKENS = (64, 512)
"""The shorter of the two rows that are measured has at least and at most so many tokens, the longer twice as many."""

_BYTES_OF_TRAINING = 12
"""A trained parameter's gradient and AdamW's two moments, float32 each, which come only with the first step."""

_ALLOCATION_FAILED = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that memory could not be had, of the GPU or of the machine."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _ALLOCATION_FAILED)


def token_budget(
    policy: Policy, *, free_bytes: float | None, prompt_length: int, completion_length: int, group_size: int
) -> int:
    """Return the most tokens that a micro-batch should have: a power of two or, for long prompts, three prompts' worth.

    So it seldom differs between two machines, or between two starts on one: how a step is cut decides the last
    bits of its sums.

    Args:
        free_bytes: memory that can still be had, gradients and optimizer not yet counted; None: nobody knows.
        prompt_length, completion_length, group_size: of a typical group, in tokens. Where attention copies a prompt
            for each of its completions, a token is the dearer the longer the prompt is.
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
    # A group that is cut reads its prompt twice: not to be noticed if that is a small part of what is read.
    uncut = _LEAST_TOKENS * math.ceil(min(group, 3 * prompt_length) / _LEAST_TOKENS)
    return max(_LEAST_TOKENS, min(most, fitting, max(enough, uncut)))


def _power_of_two_below(number: float) -> int:
    """Return the greatest power of two that is at most `number`, at least 1."""
    return 1 << max(int(min(number, 2**40)), 1).bit_length() - 1


def activation_bytes_per_token(policy: Policy, *, prompt_length: int, completion_length: int, group_size: int) -> float:
    """Return what a packed token's forward keeps for its backward, in bytes, whatever the architecture.

    It is measured on two short rows in the proportions of a typical group. Under gradient checkpointing a layer's input
    stays, and one layer at a time is computed again.
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
    """Return the length of a row whose prompt is as long as it takes to be attended to like the real one."""
    wanted = LONG_PROMPT * group_length / prompt_length if prompt_length >= LONG_PROMPT else 0
    least, most = _PROBE_TOKENS
    return LENGTH_MULTIPLE * math.ceil(min(max(wanted, least), most) / LENGTH_MULTIPLE)


def _saved_bytes(policy: Policy, row: PackedBatch) -> int:
    """Return the size of all that the forward of `row` saves, the weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in policy.model.parameters()}
    # The tensors stay alive until all are counted: otherwise a place in memory could come twice.
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
    """Keep activations as if there were no gradient checkpointing; yields whether there is."""
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
