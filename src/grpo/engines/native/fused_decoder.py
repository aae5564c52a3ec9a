"""The forward pass of a common decoder in as few operations as it takes.

In a decode step of a small model the modules' own forward spends most of its time between the products: six
operations a norm, eight a rotation, and Python around each. Here a norm is five, a rotation is one complex product,
and the weights are those of `weights`: fused and packed.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grpo.engines.native.attention import LayerAttention
from grpo.engines.native.weights import FusedLayer, FusedWeights, WeightSource
from grpo.policy.attention import only_logits, placeholder_mask
from grpo.policy.products import LENGTH_MULTIPLE

__all__ = ["Forward", "FusedDecoder", "ModuleForward", "Rotations"]

_FEWEST_POSITIONS = 256

_FEW_ROWS = 8


class Forward(Protocol):
    """Token ids in, next-token logits out, for tokens of prompts or one token of each completion."""

    def begin(self) -> None:
        """Take the weights as they are now; called when no key and no value is cached."""
        ...

    def end(self) -> None:
        """Let go of them; called when the last was dropped."""
        ...

    def __call__(self, token_ids: Tensor, positions: Tensor, attend: LayerAttention, last: Tensor | None) -> Tensor:
        """Return logits [N, V], or those of the tokens `last`.

        Args:
            token_ids, positions: [N] int64.
            last: [P] int64, the last token of each prompt; None: one token a completion, logits of all.
        """
        ...


class ModuleForward:
    """The model's own modules."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._mask = placeholder_mask(next(model.parameters()).device)
        self._options = only_logits(model)

    def begin(self) -> None:
        """Nothing: they always have the present weights."""

    def end(self) -> None:
        """Nothing."""

    def __call__(self, token_ids: Tensor, positions: Tensor, attend: LayerAttention, last: Tensor | None) -> Tensor:
        axis = 1 if last is None else 0
        to_keep: int | Tensor = 1 if last is None else last
        output = self.model(
            input_ids=token_ids.unsqueeze(axis),
            position_ids=positions.unsqueeze(axis),
            attention_mask=self._mask,
            attend=attend,
            use_cache=False,
            logits_to_keep=to_keep,
            **self._options,
        )
        logits = output.logits
        assert isinstance(logits, Tensor)
        if last is None:
            return logits[:, -1]
        # A model without the argument `logits_to_keep` gives the logits of every position.
        return logits[0] if logits.shape[1] == len(last) else logits[0].index_select(0, last)


class Rotations:
    """cos + i sin of each position's angles, as the model's own module computes them: [positions, D / 2] complex64."""

    def __init__(self, rotary: nn.Module, device: torch.device) -> None:
        self._rotary: Any = rotary
        self._table = torch.zeros(0, 0, dtype=torch.complex64, device=device)

    def at(self, positions: Tensor, highest: int) -> Tensor:
        """Return the rows [N, D / 2] of `positions`, of which `highest` is the largest."""
        if highest >= len(self._table):
            self._grow(max(highest + 1, 2 * len(self._table), _FEWEST_POSITIONS))
        return self._table.index_select(0, positions)

    def _grow(self, length: int) -> None:
        device = self._table.device
        cos, sin = self._rotary(torch.zeros(1, device=device), torch.arange(length, device=device)[None])
        half = cos.shape[-1] // 2
        self._table = torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float())


class FusedDecoder:
    """A decoder from `weights`."""

    def __init__(self, source: WeightSource, rotations: Rotations) -> None:
        self._source = source
        self._rotations = rotations
        self._weights: FusedWeights | None = None

    def begin(self) -> None:
        self._weights = self._source.current()

    def end(self) -> None:
        self._weights = None

    def __call__(self, token_ids: Tensor, positions: Tensor, attend: LayerAttention, last: Tensor | None) -> Tensor:
        weights = self._weights
        assert weights is not None
        rows = len(token_ids)
        filling = num_filling_rows(rows)
        hidden = F.embedding(F.pad(token_ids, (0, filling)), weights.embedding)
        rotation = self._rotations.at(positions, attend.highest_position)[:, None]
        for index, layer in enumerate(weights.layers):
            x = _normed(hidden, layer.attention_norm, weights.dtype)
            qkv = _side_by_side(layer.qkv, x).view(len(x), -1, weights.head_width)[:rows]
            qk = _rotated(qkv, rotation, layer, weights)
            query, key = qk[:, : layer.num_heads], qk[:, layer.num_heads :]
            value = qkv[:, layer.num_heads + layer.num_kv_heads :]
            attended = attend.layer(index, query, key, value, layer.scoring).reshape(rows, -1)
            hidden = hidden.add_(layer.output(F.pad(attended, (0, 0, 0, filling)) if filling else attended))
            x = _normed(hidden, layer.feed_forward_norm, weights.dtype)
            hidden = hidden.add_(layer.down(_gated(layer, x)))
        if last is not None:
            hidden = hidden.index_select(0, last)
        return weights.head(_normed(hidden, weights.norm, weights.dtype))[: rows if last is None else None]


def num_filling_rows(rows: int) -> int:
    """Return how many rows without meaning to compute beside `rows`, so that few numbers of rows ever occur.

    oneDNN compiles a kernel for every number of rows, which takes as long as twenty products of a small model.

    Example:
        >>> [rows + num_filling_rows(rows) for rows in (3, 9, 60, 65, 500)]
        [3, 16, 64, 128, 512]
    """
    return 0 if rows <= _FEW_ROWS else -rows % (_FEW_ROWS if rows <= LENGTH_MULTIPLE else LENGTH_MULTIPLE)


def _normed(x: Tensor, norm: tuple[Tensor, Tensor], dtype: torch.dtype) -> Tensor:
    """Return `x` over its root mean square along the last dimension, times weights; computed in float32."""
    weight, epsilon = norm
    x = x.float()
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    inverse = torch.addcmul(epsilon, length, length, value=1 / x.shape[-1]).rsqrt_()
    return (x * inverse).mul_(weight).to(dtype)


def _rotated(qkv: Tensor, rotation: Tensor, layer: FusedLayer, weights: FusedWeights) -> Tensor:
    """Return queries and keys [N, H + H_kv, D], normed, rotated and the queries scaled; dimensions interleaved."""
    rows, _, width = qkv.shape
    qk = qkv[:, : layer.num_heads + layer.num_kv_heads]
    if not weights.interleaved:
        qk = qk.reshape(rows, -1, 2, width // 2).transpose(2, 3).reshape(rows, -1, width)
    qk = qk.float() if layer.head_norm is None else _normed(qk, layer.head_norm, torch.float32)
    turned = torch.view_as_complex(qk.view(*qk.shape[:2], width // 2, 2)) * (rotation * layer.head_scale)
    return torch.view_as_real(turned).flatten(-2).to(weights.dtype)


def _gated(layer: FusedLayer, x: Tensor) -> Tensor:
    if len(layer.gate_up) == 1:
        gate, up = layer.gate_up[0](x).chunk(2, dim=-1)
    else:
        gate, up = (matrix(x) for matrix in layer.gate_up)
    activated: Tensor = layer.activation(gate)
    return activated * up


def _side_by_side(matrices: tuple[Any, ...], x: Tensor) -> Tensor:
    parts = [matrix(x) for matrix in matrices]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
