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

from grpo.policy.adapters import TRAINED, adapter_weights
from grpo.policy.attention import causal_lm

__all__ = ["ExportedWeights", "tensor_checksum"]

_LAYER = re.compile(r".*?\.\d+\.")
"""Names up to and including a layer's number: the tensors that a weight conversion may join or split together."""

_OF_ADAPTERS = (".lora_", ".trainable_tokens_")
"""Parts of the names of an adapter's own tensors."""

_WRAPPERS = (".token_adapter.base_layer.", ".base_layer.", ".original_module.")
"""Parts that PEFT puts into the names of the base's tensors."""


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
        base = self._base(model, merge=adapters == "merged")
        for _, layer in itertools.groupby(base, key=lambda item: _layer_of(item[0])):
            yield from _as_saved(model, dict(layer)).items()
        if adapters == "apart" and hasattr(self.module, "peft_config"):
            yield from self._adapter()

    def checksums(self) -> dict[str, str]:
        """Return `tensor_checksum` of each merged tensor, by name."""
        return {name: tensor_checksum(tensor) for name, tensor in self.tensors()}

    def _base(self, model: nn.Module, *, merge: bool) -> Iterator[tuple[str, Tensor]]:
        """Yield weights by the names of the model without PEFT's modules."""
        state = model.state_dict(keep_vars=True)
        tied = getattr(model, "all_tied_weights_keys", None) or {}
        trained_copy = f".modules_to_save.{TRAINED}."
        for full_name, value in state.items():
            name, copies, _ = full_name.partition(".modules_to_save.")
            if any(part in f".{full_name}" for part in _OF_ADAPTERS) or (copies and trained_copy not in full_name):
                continue
            if copies if not merge else ".original_module." in full_name:
                continue
            name = full_name.replace(trained_copy, ".")
            for part in _WRAPPERS:
                name = name.replace(part, ".")
            # An adapter on one of two tied weights makes them differ.
            if name in tied and full_name == name and tied[name] in state:
                continue
            owner, wrapper, leaf = full_name.rpartition(".base_layer.")
            adapted = model.get_submodule(owner) if merge and wrapper and leaf == "weight" else None
            yield name, _whole(value) if adapted is None else _merged(adapted, value)

    def _adapter(self) -> Iterator[tuple[str, Tensor]]:
        weights = adapter_weights(self.module)
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
    if hasattr(layer, "trainable_tokens_delta"):
        merged: Tensor = layer.get_merged_weights([TRAINED])
        return _whole(merged)
    return _whole(weight) + _whole(layer.get_delta_weight(TRAINED)).to(weight.dtype)


def _as_saved(model: Any, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the tensors of one layer as they lie in files, where transformers loads them in another form."""
    from transformers.core_model_loading import revert_weight_conversion

    converted = revert_weight_conversion(model, dict(tensors))
    return {name: tensor.detach() for name, tensor in converted.items()}
