"""Log-probabilities of chosen tokens without the [tokens × vocabulary] logits in memory.

The output head runs on a few tokens at a time; the backward pass runs it again on the same few tokens instead
of keeping its logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from grpo.policy.attention import causal_lm
from grpo.policy.products import FastLinear
from grpo.policy.tiled_head import DEFAULT_TILE_BYTES, HeadMath, tiled_logprobs

__all__ = ["DEFAULT_CHUNK_BYTES", "OutputHead", "TokenLogprobs", "chunked_logprobs", "logits_logprobs", "output_head"]

DEFAULT_CHUNK_BYTES = DEFAULT_TILE_BYTES
"""Size of one chunk's float32 logits; about four tensors of this size exist at a time."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities of given tokens under the policy, 0 where the mask is False.

    Attributes:
        logprobs: natural log-probability of each target under softmax(logits / temperature), float32.
        entropy: of that distribution over the whole vocabulary, in nats, without gradient; None if not asked for.
    """

    logprobs: Tensor
    entropy: Tensor | None


@dataclass(frozen=True, slots=True)
class OutputHead:
    """From last hidden state to logits: `softcap(scale · projection(hidden))`.

    Attributes:
        projection: the model's own output layer, adapters and bias included.
        vocabulary_size: V.
        scale: factor on the projection (Cohere, Granite); 1 elsewhere.
        softcap: logits x become softcap · tanh(x / softcap) (Gemma 2); None: as they are.
    """

    projection: nn.Module
    vocabulary_size: int
    scale: float = 1.0
    softcap: float | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return logits [M, V] of hidden states [M, D]."""
        logits: Tensor = self.projection(hidden)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


def output_head(model: nn.Module) -> OutputHead | None:
    """Return the head that the model's configuration describes; None if it has no output layer.

    The caller must check that it gives the model's own logits: an architecture may do more.
    """
    inner = causal_lm(model)
    projection = inner.get_output_embeddings()  # type: ignore[operator]
    if projection is None:
        return None
    config = inner.config.get_text_config()  # type: ignore[operator,union-attr]
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return OutputHead(projection, vocabulary_size=config.vocab_size, scale=scale, softcap=softcap)


def chunked_logprobs(
    head: OutputHead,
    hidden: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    entropy: bool = False,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
) -> TokenLogprobs:
    """Return the log-probability of each target, [M] float32, and on request the entropy, [M] float32.

    Args:
        head: makes logits [M, V] from hidden states.
        hidden: [M, D]; token m is predicted by row m.
        targets: [M] long.
        temperature: divides the logits; 0 (greedy sampling) counts as 1.
        chunk_bytes: the head runs on as many tokens at a time as have this many bytes of float32 logits.
    """
    if _is_plain_matrix(head.projection):
        return _tiled(head, hidden, targets, temperature=temperature, entropy=entropy, tile_bytes=chunk_bytes)
    size = max(1, chunk_bytes // (4 * head.vocabulary_size))

    def run(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        return logits_logprobs(head(hidden), targets, temperature=temperature, entropy=entropy)

    pieces = [
        checkpoint(run, *chunk, use_reentrant=False) if torch.is_grad_enabled() else run(*chunk)
        for chunk in zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
    ]
    return TokenLogprobs(
        logprobs=torch.cat([logprobs for logprobs, _ in pieces]),
        entropy=torch.cat([value for _, value in pieces if value is not None]) if entropy else None,
    )


def _tiled(
    head: OutputHead, hidden: Tensor, targets: Tensor, *, temperature: float, entropy: bool, tile_bytes: int
) -> TokenLogprobs:
    """Return what `chunked_logprobs` returns, for a head that is a plain matrix.

    The tiles are computed inside the call of the head's module: a module whose parameters are sharded gathers them
    when it is called (FSDP), and not before.
    """
    device = hidden.device.type
    math = HeadMath(
        scale=head.scale,
        softcap=head.softcap,
        temperature=temperature or 1.0,
        dtype=torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype,
        tile_bytes=tile_bytes,
    )
    layer: Any = head.projection

    def forward(hidden: Tensor) -> tuple[Tensor, Tensor]:
        return tiled_logprobs(hidden, layer.weight, layer.bias, targets, math)

    with _forward_of(layer, forward):
        logprobs, entropies = layer(hidden)
    return TokenLogprobs(logprobs, entropies if entropy else None)


def _is_plain_matrix(layer: nn.Module) -> bool:
    """Return whether a layer multiplies with its weight, adds its bias and does nothing else.

    The class alone does not say so: FSDP gives a layer a class of its own, with the forward of the old one.
    """
    return type(layer).forward in (nn.Linear.forward, FastLinear.forward)


@contextmanager
def _forward_of(layer: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Run `forward`, between the layer's own hooks, where the layer is called meanwhile."""
    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward


def logits_logprobs(
    logits: Tensor, targets: Tensor, *, temperature: float, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return the targets' log-probabilities [M] and, on request, the entropies [M] under logits [M, V]."""
    logits = logits.float()
    if temperature not in (0.0, 1.0):
        logits = logits / temperature
    normalizer = torch.logsumexp(logits, dim=-1)
    logprobs = logits.gather(1, targets[:, None]).squeeze(1) - normalizer
    if not entropy:
        return logprobs, None
    # Last: the recomputation in backward stops before it, once it has all tensors it needs.
    with torch.no_grad():
        weights = torch.exp(logits - normalizer[:, None])
        return logprobs, normalizer - (weights * logits).sum(dim=-1)
