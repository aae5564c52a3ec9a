"""The CPU kernel behind PyTorch's SDPA; unlike SDPA, it also returns the log of softmax's sums.

With these sums attention over two sets of keys can be merged, and the gradients of a part follow from the merged output
(arXiv:2205.14135, algorithm 4). The operators belong to PyTorch but are not public, so they are tried once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

__all__ = ["flash_attention", "flash_gradients", "flash_works"]

_GROUPED_SINCE = (2, 9)
"""First version of PyTorch whose kernel takes fewer key heads than query heads; earlier ones read beyond the keys."""


def flash_attention(
    query: Tensor, key: Tensor, value: Tensor, *, scaling: float, causal: bool = False, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the output [B, H, L, D] and the log of the sum of weights [B, H, L] float32, without gradient.

    Args:
        query: [B, H, L, D].
        key, value: [B, H_kv, S, D]; see `flash_works` for H_kv < H.
        scaling: factor on the scores.
        causal: query i sees keys 0 … i.
        mask: added to the scores [B, H, L, S]; not together with `causal`.
    """
    output, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, attn_mask=mask, scale=scaling
    )
    return output, log_sum


def flash_gradients(
    gradient: Tensor, saved: Sequence[Tensor], log_sum: Tensor, *, scaling: float, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the part of these keys in the gradients of query, key and value, given the output and sums of all keys.

    Args:
        gradient: [B, H, L, D], of the output.
        saved: query, key, value and output.
        log_sum: [B, H, L] float32.
    """
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        gradient, *saved, log_sum, 0.0, causal, scale=scaling
    )
    return found


@cache
@torch.inference_mode(False)
@torch.no_grad()
def flash_works(*, grouped: bool) -> bool:
    """Return whether both operators exist and compute correctly, for fewer key heads than query heads if `grouped`."""
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    # Not tried: reading and writing beyond the keys might crash only much later.
    if grouped and version < _GROUPED_SINCE:
        return False
    with torch.autocast("cpu", enabled=False):
        try:
            return _gives_what_softmax_does(repeats=2 if grouped else 1)
        except (AttributeError, RuntimeError, TypeError):
            return False


def _gives_what_softmax_does(repeats: int) -> bool:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 2 * repeats, 3, 8, generator=generator)
    key, value = (torch.randn(2, 2, 5, 8, generator=generator) for _ in range(2))
    weights = torch.randn(query.shape, generator=generator)
    output, log_sum = flash_attention(query, key, value, scaling=0.5)
    found = (output, *flash_gradients(weights, (query, key, value, output), log_sum, scaling=0.5, causal=False))
    with torch.enable_grad():
        leaves = [tensor.requires_grad_() for tensor in (query.clone(), key.clone(), value.clone())]
        keys, values = (tensor.repeat_interleave(repeats, dim=1) for tensor in leaves[1:])
        scores = leaves[0] @ keys.transpose(2, 3) * 0.5
        plain = scores.softmax(dim=-1) @ values
        expected = (plain, *torch.autograd.grad((plain * weights).sum(), leaves))
    pairs = [*zip(found, expected, strict=True), (log_sum, scores.logsumexp(dim=-1))]
    return all(mine.shape == theirs.shape and torch.allclose(mine, theirs, atol=1e-4) for mine, theirs in pairs)
