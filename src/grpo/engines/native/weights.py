"""The engine's own copy of the weights: fused, packed, in its type; made once a step and never once a token.

Above `COPY_LIMIT_BYTES` nothing is copied and the parameters themselves are multiplied with, unless the engine's type
is another than theirs. The limit is a constant and not a share of free memory, so that a run gives the same numbers
whatever else the machine does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from grpo.engines.native.product import Matrix, pack
from grpo.engines.native.structure import Decoder, DecoderLayer, Linear, Norm
from grpo.policy.attention import Scoring

__all__ = ["COPY_LIMIT_BYTES", "FusedLayer", "FusedWeights", "WeightSource", "interleaved"]

COPY_LIMIT_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """One layer as tensors.

    Attributes:
        attention_norm, feed_forward_norm: float32 weights [hidden] and epsilon [1].
        qkv: one matrix, or three whose outputs are laid side by side: queries, keys, values.
        head_norm: float32 weights [H + H_kv, D] and epsilon [1] over each head of queries and keys; None: not normed.
        gate_up: one matrix, or two.
        scoring: its scaling is 1, for the rotation of the queries scales them.
    """

    attention_norm: tuple[Tensor, Tensor]
    qkv: tuple[Matrix, ...]
    head_norm: tuple[Tensor, Tensor] | None
    output: Matrix
    feed_forward_norm: tuple[Tensor, Tensor]
    gate_up: tuple[Matrix, ...]
    activation: nn.Module
    down: Matrix
    scoring: Scoring
    num_heads: int
    num_kv_heads: int
    head_scale: Tensor
    """[H + H_kv, 1] float32: the scaling of scores for queries, 1 for keys."""


@dataclass(frozen=True, slots=True)
class FusedWeights:
    """The whole model as tensors.

    Attributes:
        interleaved: rows of queries and keys lie in the order that `interleaved` gives.
        dtype: of the products.
    """

    embedding: Tensor
    layers: tuple[FusedLayer, ...]
    norm: tuple[Tensor, Tensor]
    head: Matrix
    head_width: int
    interleaved: bool
    dtype: torch.dtype


class WeightSource:
    """Holds a copy of the present weights and renews it when a parameter has changed."""

    def __init__(self, decoder: Decoder, dtype: torch.dtype | None) -> None:
        """Keep the modules to copy from; nothing is copied yet.

        Args:
            dtype: of the products; None: as the parameters are.
        """
        self.decoder = decoder
        self._parameters = decoder.embedding.weight.dtype
        self.dtype = self._parameters if dtype is None else dtype
        self._copies = self.dtype != self._parameters or _num_bytes(decoder) <= COPY_LIMIT_BYTES
        self._made: FusedWeights | None = None
        self._signature: tuple[object, ...] = ()

    def current(self) -> FusedWeights:
        """Return the weights as the parameters are now."""
        signature = self._sign()
        if self._made is None or signature != self._signature:
            self._made = None
            self._made = self._make()
            self._signature = signature
        return self._made

    def invalidate(self) -> None:
        """Forget what was made: parameters changed in a way that leaves no trace (through `.data`)."""
        self._made = None

    def _sign(self) -> tuple[object, ...]:
        """Return a value that differs after a change in place, a replaced tensor or a switched adapter."""
        decoder = self.decoder
        modules = [decoder.embedding, *(linear.module for linear in decoder.linears())]
        tensors = [parameter for module in modules for parameter in module.parameters()]
        tensors += [norm.weight for norm in _norms(decoder)]
        states = tuple(linear.state for linear in decoder.linears())
        # Tensors made under inference mode count no changes: of those only a replaced one is seen.
        versions = [0 if tensor.is_inference() else tensor._version for tensor in tensors]
        return (states, *versions, *(tensor.data_ptr() for tensor in tensors))

    def _make(self) -> FusedWeights:
        decoder = self.decoder
        return FusedWeights(
            embedding=decoder.embedding.weight.detach(),
            layers=tuple(self._layer(layer) for layer in decoder.layers),
            norm=_norm(decoder.norm.weight, decoder.norm.epsilon),
            head=self._fused((decoder.head,))[0],
            head_width=decoder.head_width,
            interleaved=self._copies,
            dtype=self.dtype,
        )

    def _layer(self, layer: DecoderLayer) -> FusedLayer:
        width = self.decoder.head_width
        heads = layer.query.base.out_features // width
        kv_heads = layer.key.base.out_features // width
        scale = torch.ones(heads + kv_heads, 1, device=layer.query.base.weight.device)
        scale[:heads] = layer.scoring.scaling
        return FusedLayer(
            attention_norm=_norm(layer.attention_norm.weight, layer.attention_norm.epsilon),
            qkv=self._fused((layer.query, layer.key, layer.value), rotated=2),
            head_norm=self._head_norm(layer, heads, kv_heads),
            output=self._fused((layer.output,))[0],
            feed_forward_norm=_norm(layer.feed_forward_norm.weight, layer.feed_forward_norm.epsilon),
            gate_up=self._fused((layer.gate, layer.up)),
            activation=layer.activation,
            down=self._fused((layer.down,))[0],
            scoring=Scoring(1.0, layer.scoring.sliding_window),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_scale=scale,
        )

    def _head_norm(self, layer: DecoderLayer, heads: int, kv_heads: int) -> tuple[Tensor, Tensor] | None:
        if layer.query_norm is None or layer.key_norm is None:
            return None
        weights = [
            norm.weight.detach().float().expand(count, -1)
            for norm, count in ((layer.query_norm, heads), (layer.key_norm, kv_heads))
        ]
        weight = torch.cat(weights)[:, interleaved(self.decoder.head_width, weights[0].device)]
        return _norm(weight, layer.query_norm.epsilon)

    def _fused(self, linears: Sequence[Linear], *, rotated: int = 0) -> tuple[Matrix, ...]:
        """Return the matrices of `linears`, as one if copies are made; the first `rotated` feed the rotation."""
        if not self._copies:
            return tuple(
                Matrix(linear.base.weight.detach(), _detached(linear.base.bias), self._low_rank((linear,), [None]))
                for linear in linears
            )
        orders = [self._order(linear) if i < rotated else None for i, linear in enumerate(linears)]
        weight = _joined([_ordered(self._weight(linear), order) for linear, order in zip(linears, orders, strict=True)])
        biases = [linear.base.bias for linear in linears]
        bias = None
        if any(found is not None for found in biases):
            filled = [
                linear.base.weight.new_zeros(linear.base.out_features) if found is None else found.detach()
                for linear, found in zip(linears, biases, strict=True)
            ]
            bias = _joined([_ordered(part, order) for part, order in zip(filled, orders, strict=True)]).to(self.dtype)
        return (Matrix(pack(weight.to(self.dtype)), bias, self._low_rank(linears, orders)),)

    def _weight(self, linear: Linear) -> Tensor:
        """Return the weight [N, K], adapters merged where that loses nothing."""
        weight = linear.base.weight.detach()
        if self._merges:
            for down, up in linear.adapters():
                weight = torch.addmm(weight, up, down)
        return weight

    def _low_rank(self, linears: Sequence[Linear], orders: Sequence[Tensor | None]) -> tuple[Tensor, Tensor] | None:
        """Return A and B of all adapters of `linears` at once, B block by block; None: there are none, or merged."""
        if self._merges:
            return None
        downs: list[Tensor] = []
        ups: list[Tensor] = []
        rank = sum(down.shape[0] for linear in linears for down, _ in linear.adapters())
        for linear, order in zip(linears, orders, strict=True):
            block = torch.zeros(linear.base.out_features, rank, device=linear.base.weight.device)
            for down, up in linear.adapters():
                start = sum(len(other) for other in downs)
                block[:, start : start + len(down)] = up
                downs.append(down)
            ups.append(_ordered(block, order))
        if not downs:
            return None
        return torch.cat(downs).to(self.dtype), torch.cat(ups).to(self.dtype)

    @property
    def _merges(self) -> bool:
        """True if adapters are merged into the copy; in 16 bits a small adapter would vanish in rounding."""
        return self._copies and self.dtype.itemsize >= 4 and self._parameters.itemsize >= 4

    def _order(self, linear: Linear) -> Tensor:
        """Return the order of all rows of a projection to heads."""
        width, device = self.decoder.head_width, linear.base.weight.device
        starts = torch.arange(0, linear.base.out_features, width, device=device)
        return (starts[:, None] + interleaved(width, device)).view(-1)


def interleaved(width: int, device: torch.device) -> Tensor:
    """Return the order [D] that puts dimension i beside dimension i + D / 2, with which it is rotated.

    Example:
        >>> interleaved(6, torch.device("cpu")).tolist()
        [0, 3, 1, 4, 2, 5]
    """
    return torch.arange(width, device=device).view(2, width // 2).T.reshape(width)


def _num_bytes(decoder: Decoder) -> int:
    return sum(linear.base.weight.nbytes for linear in decoder.linears())


def _norms(decoder: Decoder) -> list[Norm]:
    found = [decoder.norm]
    for layer in decoder.layers:
        found += [layer.attention_norm, layer.feed_forward_norm]
        found += [norm for norm in (layer.query_norm, layer.key_norm) if norm is not None]
    return found


def _norm(weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    # A copy even in float32, so that weights in use never change under running completions.
    return weight.detach().float().clone(), torch.full((1,), epsilon, device=weight.device)


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


def _ordered(rows: Tensor, order: Tensor | None) -> Tensor:
    return rows if order is None else rows.index_select(0, order)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
