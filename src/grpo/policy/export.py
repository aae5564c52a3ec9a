"""The policy's weights on their way to a sampler: named tensors, one by one."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from grpo.policy.adapters import TRAINED
from grpo.policy.attention import causal_lm

__all__ = ["ExportedWeights", "tensor_checksum"]

_LAYER = re.compile(r".*?\.\d+\.")
"""Names up to and including a layer's number: the tensors that a weight conversion may join or split together."""


@dataclass(frozen=True, slots=True)
class ExportedWeights:
    """A view of the weights as they are now; nothing is copied until tensors are iterated.

    Attributes:
        module: the module that is trained, PEFT-wrapped under LoRA. A sampler in this process may read its parameters
            in place; all others iterate `tensors`.
    """

    module: nn.Module

    def tensors(self, adapters: Literal["merged", "apart"] = "merged") -> Iterator[tuple[str, Tensor]]:
        """Yield each weight with the name under which `save_pretrained` writes it; tied weights once.

        Sharded parameters are gathered one at a time. Over several ranks this is a collective: all ranks iterate alike.

        Args:
            adapters: `merged` adds the product of adapter matrices to the weights they adapt; `apart` leaves the
                base as it is and yields adapter matrices last, under the names that PEFT writes.
        """
        model: Any = causal_lm(self.module)
        tied = getattr(model, "all_tied_weights_keys", None) or {}
        named = ((name, value) for name, value in model.state_dict(keep_vars=True).items() if name not in tied)
        base = self._base(model, named, merge=adapters == "merged")
        for _, layer in itertools.groupby(base, key=lambda item: _layer_of(item[0])):
            yield from _as_saved(model, dict(layer)).items()
        if adapters == "apart" and hasattr(self.module, "peft_config"):
            yield from self._adapter()

    def checksums(self) -> dict[str, str]:
        """Return `tensor_checksum` of each merged tensor, by name."""
        return {name: tensor_checksum(tensor) for name, tensor in self.tensors()}

    def _base(self, model: nn.Module, named: Iterator[tuple[str, Any]], *, merge: bool) -> Iterator[tuple[str, Tensor]]:
        for name, value in named:
            owner, _, leaf = name.rpartition(".")
            if ".lora_" in f".{name}":
                continue
            adapted = None
            if owner.endswith(".base_layer") and leaf == "weight" and merge:
                adapted = model.get_submodule(owner.removesuffix(".base_layer"))
            yield name.replace(".base_layer.", "."), _whole(value) if adapted is None else _merged(adapted, value)

    def _adapter(self) -> Iterator[tuple[str, Tensor]]:
        from peft import get_peft_model_state_dict

        weights = get_peft_model_state_dict(self.module, adapter_name=TRAINED, save_embedding_layers=False)
        for name in sorted(weights):
            yield name, _whole(weights[name])


def tensor_checksum(tensor: Tensor) -> str:
    """Return a digest of a tensor's dtype, shape and bits."""
    digest = hashlib.blake2b(f"{tensor.dtype}{tuple(tensor.shape)}".encode(), digest_size=16)
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _layer_of(name: str) -> str:
    found = _LAYER.match(name)
    return name.rpartition(".")[0] if found is None else found.group()


def _whole(value: Any) -> Tensor:
    """Return the tensor itself, gathered from all ranks where it is sharded."""
    tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    assert isinstance(tensor, Tensor)
    return tensor.detach()


@torch.no_grad()
def _merged(layer: Any, weight: Any) -> Tensor:
    """Return the weight of a PEFT layer with the adapter that is trained added to it."""
    return _whole(weight) + _whole(layer.get_delta_weight(TRAINED)).to(weight.dtype)


def _as_saved(model: Any, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the tensors of one layer as they lie in files, where transformers loads them in another form."""
    from transformers.core_model_loading import revert_weight_conversion

    converted = revert_weight_conversion(model, dict(tensors))
    return {name: tensor.detach() for name, tensor in converted.items()}
