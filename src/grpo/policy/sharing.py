"""A second module over the same weights: a reward model on the policy's base needs memory for its adapters only."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from grpo.errors import ModelError

__all__ = ["shared_copy"]


def shared_copy(base: nn.Module) -> nn.Module:
    """Return a module of the same structure in evaluation mode whose weights lie in the memory of `base`'s.

    Parameters are separate objects over the same storage. The copy may be frozen, moved or wrapped without effect on
    `base`, while a weight that is changed in place in `base` changes in the copy as well. The base should be frozen,
    as under LoRA. PEFT's adapters on `base` are left out of the copy.

    Raises:
        ModelError: adapters are merged into the weights of `base`, so a copy without them is impossible.
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
    """Return a parameter over the same storage; the tensor itself if it is of another class (quantized weights)."""
    if type(tensor) is nn.Parameter:
        return nn.Parameter(tensor.detach(), requires_grad=False)
    return tensor
