"""Useful floating-point operations of a step: the minimum that the model's shape requires in any implementation.

A multiplication and an addition are two operations. W is the number of weights in the linear layers (without head and
embeddings) and H the number of weights in the head. Each layer has attention of `heads` × `head_dim`:

    linear layers    2 W a token
    head             2 H a position that predicts a sampled token
    attention        4 · heads · head_dim a layer and an attended position, the token's own position included

    generate         one forward over each prompt (once for its group) and over every sampled token but the last
    reference        one forward over the prompt (once for its group) and over every sampled token but the last
    update           the same forward, the gradient with respect to inputs (as much again) and with respect to the
                     weights that are trained (as much again for the linear layers and the head; attention has two
                     operands and so twice its forward)

The count has no padding, no repeated prompts and no recomputation. Normalisation, activations, softmax, sampling and
the optimizer are not counted, because they have no matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

__all__ = ["GroupLengths", "ModelShape", "forward_flops", "generation_flops", "shape_of", "update_flops"]


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a dense decoder that determine the count.

    Attributes:
        linear: weights in the linear layers, the head left out.
        trained_linear: the number of those with gradients.
        head: weights in the head, whether it is tied to the embeddings or not.
        trained_head: `head` if the head is trained, else 0.
        attention: 4 · heads · head_dim, the operations of one layer for one query and one key.
        windows: for each layer, the most positions that a token attends to, its own included; None: all.
    """

    linear: int
    trained_linear: int
    head: int
    trained_head: int
    attention: int
    windows: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class GroupLengths:
    """Lengths of a prompt and of its completions in tokens, and whether the group has a gradient."""

    prompt: int
    completions: tuple[int, ...]
    trained: bool = True


def shape_of(model: Any) -> ModelShape:
    """Return the shape of a Hugging Face dense decoder, PEFT-wrapped or not (adapters count as layers of their own).

    Raises:
        ValueError: the model has weights of three dimensions, as mixtures of experts do, where a token uses only some.
    """
    from transformers.pytorch_utils import Conv1D

    if any(parameter.dim() > 2 for parameter in model.parameters()):
        raise ValueError(
            f"{type(model).__name__} is not a dense decoder: its operations cannot be counted from its shape"
        )
    head = model.get_output_embeddings().weight
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Linear | Conv1D)]
    linear = [weight for weight in weights if weight is not head]
    config = model.config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelShape(
        linear=sum(weight.numel() for weight in linear),
        trained_linear=sum(weight.numel() for weight in linear if weight.requires_grad),
        head=head.numel(),
        trained_head=head.numel() if head.requires_grad else 0,
        attention=4 * config.num_attention_heads * head_dim,
        windows=_windows(config),
    )


def generation_flops(shape: ModelShape, group: GroupLengths) -> int:
    """Return the operations of sampling a group, which equal those of one forward over it."""
    return forward_flops(shape, group)


def forward_flops(shape: ModelShape, group: GroupLengths) -> int:
    """Return the operations of one forward over a group that gives the log-probability of every sampled token."""
    return 2 * shape.linear * _tokens(group) + 2 * shape.head * _predictions(group) + _attention(shape, group)


def update_flops(shape: ModelShape, group: GroupLengths) -> int:
    """Return the operations of forward and backward over a group."""
    if not group.trained:
        return 0
    weights = 2 * shape.trained_linear * _tokens(group) + 2 * shape.trained_head * _predictions(group)
    return 2 * forward_flops(shape, group) + weights + _attention(shape, group)


def _windows(config: Any) -> tuple[int | None, ...]:
    has_window = getattr(config, "use_sliding_window", True)
    window: int | None = getattr(config, "sliding_window", None) if has_window else None
    kinds: Sequence[str] = getattr(config, "layer_types", None) or ["sliding_attention"] * int(config.num_hidden_layers)
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _tokens(group: GroupLengths) -> int:
    """Return the number of tokens in a forward pass; the last token of a completion is not an input."""
    return group.prompt + sum(max(0, length - 1) for length in group.completions)


def _predictions(group: GroupLengths) -> int:
    """Return the number of positions that need the head; the last of the prompt serves all its completions."""
    return 1 + sum(max(0, length - 1) for length in group.completions)


def _attention(shape: ModelShape, group: GroupLengths) -> int:
    pairs = 0
    for window in shape.windows:
        pairs += _attended(0, group.prompt, window)
        pairs += sum(_attended(group.prompt, max(0, length - 1), window) for length in group.completions)
    return shape.attention * pairs


def _attended(before: int, count: int, window: int | None) -> int:
    """Return the attended positions of `count` tokens after `before` others, summed over the tokens."""
    last = before + count
    if window is None or last <= window:
        return (last * (last + 1) - before * (before + 1)) // 2
    full = max(0, window - before)
    return _attended(before, full, None) + (count - full) * window
