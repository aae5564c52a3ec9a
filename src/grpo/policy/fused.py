"""Layers between the matrix products, with fewer passes over memory and fewer tensors kept for the backward pass.

transformers writes RMS normalisation (arXiv:1910.07467) and the gated unit (arXiv:2002.05202) as chains of small
operations, each with an intermediate result of its own, which on a CPU cost more than the arithmetic.
`use_fused_layers` gives such layers a forward that keeps only its input; a trial must show first, for each layer, that
the outputs are the same.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FusedGatedUnit", "FusedRMSNorm", "compile_layers", "use_fused_layers"]

_TOLERANCE = 1e-4
"""Largest difference, relative to the largest output; SiLU and GELU differ by a hundred times as much."""


_MOST_VARIANTS = 64


class FusedRMSNorm(nn.Module):
    """weight · x / √(mean(x²) + ε); takes the place of a layer with `weight` and `variance_epsilon`."""

    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        if hidden_states.dtype != torch.float32 or self.weight.dtype != torch.float32:
            return _rms_norm(hidden_states, self.weight, self.variance_epsilon)
        result: Tensor = _RMSNorm.apply(hidden_states, self.weight, self.variance_epsilon)  # type: ignore[no-untyped-call]
        return result

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.variance_epsilon}"


class FusedGatedUnit(nn.Module):
    """down(silu(gate(x)) · up(x)); takes the place of a layer with `gate_proj`, `up_proj` and `down_proj`."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, hidden_states: Tensor) -> Tensor:
        gate, up = self.gate_proj(hidden_states), self.up_proj(hidden_states)
        result: Tensor = self.down_proj(_SiluTimes.apply(gate, up))  # type: ignore[no-untyped-call]
        return result


def use_fused_layers(model: nn.Module) -> None:
    """Give the RMS norms and gated units of `model` their fused forward.

    Parameters, their names and saved files stay the same. Only on the CPU in float32; elsewhere other kernels win.
    """
    for module in model.modules():
        kind = _fused_kind(module)
        if kind is not None and _computes_the_same(module, kind):
            module.__class__ = kind


def compile_layers(model: nn.Module) -> None:
    """Compile the norms and gated units of `model` with `torch.compile` when they first run, for any number of tokens.

    Attention is left out: its layout differs between batches, and each would be compiled again.
    """
    # One function for all norms of a model, in a few variants (of rank, of gradients): the usual limit of 8 is too low.
    torch._dynamo.config.recompile_limit = max(_MOST_VARIANTS, torch._dynamo.config.recompile_limit)
    for module in model.modules():
        if _fused_kind(module) is not None:
            module.compile(dynamic=True)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        factor = torch.rsqrt(norm.square_().div_(rows.shape[-1]).add_(epsilon))
        ctx.save_for_backward(rows, weight, factor)
        return (rows * factor).mul_(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, factor = ctx.saved_tensors
        width = rows.shape[-1]
        product = gradient * rows
        for_weight = None
        if ctx.needs_input_grad[1]:
            for_weight = factor.reshape(1, -1).matmul(product.reshape(-1, width)).squeeze(0)
        along = product.matmul(weight)[..., None].mul_(factor.pow(3)).div_(-width)
        into = torch.mul(gradient, weight, out=product) if product.is_contiguous() else gradient * weight
        return into.mul_(factor).addcmul_(rows, along), for_weight, None


class _SiluTimes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        for_up = F.silu(gate).mul_(gradient)
        return torch.ops.aten.silu_backward(gradient * up, gate), for_up


def _rms_norm(rows: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Return the norm as transformers computes it: in float32, cast back before the weight."""
    wide = rows.float()
    wide = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + epsilon)
    return weight * wide.to(rows.dtype)


def _fused_kind(module: nn.Module) -> type[nn.Module] | None:
    """Return the fused class that fits `module`; None if none does."""
    children, name = dict(module.named_children()), type(module).__name__
    if name.endswith("RMSNorm") and not children and hasattr(module, "variance_epsilon") and hasattr(module, "weight"):
        return FusedRMSNorm
    if {"gate_proj", "up_proj", "down_proj"} <= set(children) <= {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        return FusedGatedUnit
    return None


def _computes_the_same(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Return whether the forward of `kind` gives the output of the module's own, on a few random rows."""
    parameters = list(module.parameters())
    if not parameters or any(each.dtype != torch.float32 or each.device.type != "cpu" for each in parameters):
        return False
    own = type(module)
    try:
        rows = _random_rows(module)
        with torch.no_grad():
            expected = module(rows)
            module.__class__ = kind
            found = module(rows)
    # A layer that cannot be called like this is not one of these.
    except Exception:
        return False
    finally:
        module.__class__ = own
    largest = float(expected.abs().max())
    if not 0.0 < largest < math.inf:
        return False
    return torch.allclose(found, expected, atol=_TOLERANCE * largest, rtol=_TOLERANCE)


def _random_rows(module: nn.Module) -> Tensor:
    """Return rows [3, D] for a norm of width D or a gated unit of D inputs, large enough to tell activations apart."""
    gate = getattr(module, "gate_proj", None)
    if gate is None:
        return torch.randn(3, next(module.parameters()).shape[-1], generator=torch.Generator().manual_seed(0))
    rows = torch.randn(3, gate.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return rows.mul_(4 / gate(rows).std().clamp(min=1e-20))
