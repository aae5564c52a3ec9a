"""A second module over the same weights: what reads with the policy's base costs the memory of its adapters only."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from grpo.errors import ModelError

__all__ = ["shared_copy"]


def shared_copy(base: nn.Module) -> nn.Module:
    """Return a module of the same structure in evaluation mode whose weights lie in the memory of `base`'s.

    Parameters are objects of their own over the same storage: whether they are trained, where they are moved and
    what is wrapped around them is the copy's own affair, while a weight that is changed in place in `base`
    changes in the copy as well. It is meant for a base that is frozen, as under LoRA. Adapters on `base`
    (PEFT's) are left out of the copy.

    Raises:
        ModelError: adapters are merged into the weights of `base`, so that it cannot be had without them.
    """
    if any(getattr(module, "merged", False) for module in base.modules()):
        raise ModelError("adapters are merged into the model, so that its base cannot be shared: unmerge them first")
    shared: dict[int, Any] = {id(tensor): _view(tensor) for tensor in (*base.parameters(), *base.buffers())}
    # `deepcopy` takes what is in its memo instead of copying it.
    twin: Any = copy.deepcopy(base, shared)
    if hasattr(twin, "peft_config"):
        twin = twin.unload()
    assert isinstance(twin, nn.Module)
    return twin.eval()


def _view(tensor: Tensor) -> Tensor:
    """Return what stands for a tensor of the original; other classes (quantized weights) carry more than their data."""
    if type(tensor) is nn.Parameter:
        return nn.Parameter(tensor.detach(), requires_grad=False)
    return tensor
