"""A runner for models whose attention does not go through ours: state-space models, hybrids, old ones.

Keeps the state in whatever cache the model itself returns, and works batch by batch on prompts of one length. No row
is ever padded: not every such model honours a padding mask, and one that does not would sample from garbage.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from grpo.engines.native.cache import vacate
from grpo.policy.attention import causal_lm, only_logits

__all__ = ["LockstepRunner"]

_CACHE_NAMES = ("past_key_values", "cache_params")


class LockstepRunner:
    """Runs completions of equally long prompts side by side until all are done."""

    lockstep = True

    def __init__(self, model: nn.Module, *, keeps_cache: bool = True) -> None:
        """Prepare to run `model`.

        Args:
            keeps_cache: False: read every completion again from its beginning at each token.
        """
        self.model = model
        self.device = next(model.parameters()).device
        self._arguments = frozenset(inspect.signature(causal_lm(model).forward).parameters)
        self._cache_name: str | None = None
        self._cache: Any = None
        self._token_ids = torch.zeros(0, 0, dtype=torch.int64, device=self.device)
        self.keeps_cache = keeps_cache

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        self._token_ids = torch.tensor([list(prompt) for prompt in prompts], device=self.device)
        self._cache = None
        return self._forward(self._token_ids)

    def join(self, slots: NDArray[np.int64]) -> None:
        self._select(slots)

    def decode(self, tokens: Tensor) -> Tensor:
        self._token_ids = torch.cat((self._token_ids, tokens[:, None]), dim=1)
        return self._forward(tokens[:, None] if self._cache is not None else self._token_ids)

    def leave(self, rows: NDArray[np.int64]) -> None:
        if len(rows) == 0:
            return
        size = len(self._token_ids)
        sources, targets = vacate(size, rows)
        kept = np.arange(size)
        kept[targets] = sources
        self._select(kept[: size - len(rows)])

    def forget(self, slots: NDArray[np.int64]) -> None:  # noqa: ARG002 (a prompt's state left with its completions)
        if len(self._token_ids) == 0:
            self._cache = None

    @property
    def num_cache_bytes(self) -> int:
        """Bytes that the cache holds, where its layout is known; 0 otherwise."""
        tensors = [
            value
            for layer in getattr(self._cache, "layers", ())
            for attribute in vars(layer).values()
            for value in (attribute if isinstance(attribute, list) else [attribute])
        ]
        return sum(value.nbytes for value in tensors if isinstance(value, Tensor))

    def _select(self, rows: NDArray[np.int64]) -> None:
        index = torch.from_numpy(rows).to(self.device)
        self._token_ids = self._token_ids.index_select(0, index)
        if self._cache is not None and len(rows):
            self._cache.reorder_cache(index)

    def _forward(self, token_ids: Tensor) -> Tensor:
        """Return the last position's logits [B, V] and keep the cache, if it is one whose rows can be selected."""
        arguments: dict[str, Any] = {"input_ids": token_ids, "use_cache": self.keeps_cache, **only_logits(self.model)}
        if "logits_to_keep" in self._arguments:
            arguments["logits_to_keep"] = 1
        if self._cache is not None:
            assert self._cache_name is not None
            arguments[self._cache_name] = self._cache
            if "position_ids" in self._arguments:
                arguments["position_ids"] = torch.full_like(token_ids, self._token_ids.shape[1] - 1)
        output = self.model(**arguments)
        for name in _CACHE_NAMES:
            cache = getattr(output, name, None)
            if self.keeps_cache and name in self._arguments and hasattr(cache, "reorder_cache"):
                self._cache_name, self._cache = name, cache
        logits = output.logits
        assert isinstance(logits, Tensor)
        return logits[:, -1]
