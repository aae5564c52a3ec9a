"""Matrix products of linear layers by the faster of PyTorch's two CPU libraries.

PyTorch multiplies float32 matrices on x86 with MKL, which on processors other than Intel's reaches half of what
oneDNN does (docs/performance.md). `use_fast_products` makes a model's linear layers use oneDNN where it is available,
forward and backward; elsewhere it changes nothing.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "LENGTH_MULTIPLE",
    "FastLinear",
    "has_packed_product",
    "outer_product",
    "pack_weight",
    "packed_product",
    "product",
    "use_fast_products",
]

LENGTH_MULTIPLE = 64
"""Divisor of the numbers of rows: oneDNN compiles a kernel for each number, which takes milliseconds and stays in
memory."""

_TOLERANCE = 1e-4
_HALF_TOLERANCE = 0.25


def product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return rows @ weightᵀ + bias, [..., N], as `torch.nn.functional.linear` does, with gradients.

    Args:
        rows: [..., K].
        weight: [N, K]; any strides, so that a transposed view costs no copy.
        bias: [N].
    """
    if not _takes_onednn(rows, weight):
        return F.linear(rows, weight, bias)
    if torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in (rows, weight, bias)):
        # Of two dimensions: oneDNN's output for more is a view, which some models change in place.
        flat: Tensor = _Product.apply(rows.reshape(-1, rows.shape[-1]), weight, bias)  # type: ignore[no-untyped-call]
        return flat.view(*rows.shape[:-1], -1)
    return _onednn(rows, weight, bias)


def has_packed_product(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether `packed_product` is available for matrices of that type on that device."""
    return device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) and _onednn_works(dtype)


def pack_weight(weight: Tensor, num_rows: int) -> Tensor:
    """Return a copy of weight [N, K] in the layout in which oneDNN is fastest, which only `packed_product` reads.

    Args:
        num_rows: about how many rows it will be multiplied with at a time.
    """
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), num_rows)
    return packed


def packed_product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return rows @ weightᵀ + bias, [M, N], by oneDNN and without gradient, for a weight packed or plain."""
    return _onednn(rows, weight, bias)


class FastLinear(nn.Linear):
    """A linear layer that calls `product`; an existing `nn.Linear` becomes one when its class is replaced."""

    def forward(self, input: Tensor) -> Tensor:
        return product(input, self.weight, self.bias)


def use_fast_products(model: nn.Module) -> None:
    """Make every plain linear layer of `model` a `FastLinear`, if this machine has oneDNN.

    Subclasses of `nn.Linear` are left alone: their forward is another one. Parameters, their names and saved files stay
    the same.
    """
    if not _onednn_works():
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FastLinear


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return _onednn(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        for_rows = _onednn(gradient, weight.t(), None) if ctx.needs_input_grad[0] else None
        for_weight = outer_product(gradient, rows) if ctx.needs_input_grad[1] else None
        for_bias = gradient.sum(dim=0) if ctx.needs_input_grad[2] else None
        return for_rows, for_weight, for_bias


def outer_product(left: Tensor, right: Tensor) -> Tensor:
    """Return leftᵀ @ right, [N, K], without gradient: the gradient of a weight.

    Args:
        left: [M, N].
        right: [M, K].
    """
    if not _takes_onednn(left, right):
        return left.t() @ right
    return _onednn(left.t(), right.t(), None)


def _onednn(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return result


def _takes_onednn(rows: Tensor, weight: Tensor) -> bool:
    return (
        rows.dtype == torch.float32 == weight.dtype
        and rows.device.type == "cpu" == weight.device.type
        and rows.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and _onednn_works()
    )


@cache
def _onednn_works(dtype: torch.dtype = torch.float32) -> bool:
    """Return whether oneDNN is available and multiplies correctly, tried once on a small product."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    rows, weight = (torch.randn(size, generator=generator).to(dtype) for size in ((7, 48), (33, 48)))
    with torch.autocast("cpu", enabled=False), torch.no_grad():
        try:
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, 7)
            found = (
                _onednn(rows, weight, None),
                _onednn(rows.t().contiguous(), rows.t(), None),
                _onednn(rows, packed, None),
            )
        # The operators belong to PyTorch but are not public: another version may lack or rename them.
        except (AttributeError, RuntimeError, TypeError):
            return False
        across = rows @ weight.t()
        expected = (across, rows.t() @ rows, across)
    # Sums of 48 products of size 1, rounded at the end.
    tolerance = _TOLERANCE if dtype == torch.float32 else _HALF_TOLERANCE
    return all(torch.allclose(a, b, atol=tolerance) for a, b in zip(found, expected, strict=True))
