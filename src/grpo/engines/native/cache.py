"""The key-value cache between forward passes.

Two tables a model: prompts, one row a group, and completions, one row a sequence. Rows in use are always 0 … n - 1: a
row that leaves is filled with the last one, so that the batch never holds dead rows and little is copied.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["KeyValueTable", "vacate"]


def vacate(size: int, leaving: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which rows move (sources) and where to (targets) so that the rows that stay are the first ones.

    Args:
        size: rows in use.
        leaving: rows that leave, sorted, each once.

    Example:
        >>> [rows.tolist() for rows in vacate(5, np.array([1, 4]))]
        [[3], [1]]
    """
    remaining = size - len(leaving)
    targets = leaving[leaving < remaining]
    stays = np.ones(size - remaining, dtype=bool)
    stays[leaving[leaving >= remaining] - remaining] = False
    return np.flatnonzero(stays).astype(np.int64) + remaining, targets


class KeyValueTable:
    """Keys [rows, H_kv, length, D] and values [rows, H_kv, length, D_v] of every layer.

    Both grow as needed. Places that were never written hold zeros: attention multiplies them by zero weights.
    """

    def __init__(self, *, block: int) -> None:
        self.block = block
        self.rows = 0
        self.length = 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def reserve(self, rows: int, length: int) -> None:
        """Make room for that many rows of that many tokens, with a reserve so that growth is rare."""
        if rows <= self.rows and length <= self.length:
            return
        if rows > self.rows:
            self.rows = max(rows, self.rows + self.rows // 4)
        if length > self.length:
            wanted = max(length, self.length + self.length // 2)
            self.length = -(-wanted // self.block) * self.block
        for index, (keys, values) in self._layers.items():
            self._layers[index] = (self._grown(keys), self._grown(values))

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values; `key` and `value` [N, H_kv, D] show their shape and type."""
        found = self._layers.get(index)
        if found is None:
            found = (
                key.new_zeros(self.rows, key.shape[1], self.length, key.shape[-1]),
                value.new_zeros(self.rows, value.shape[1], self.length, value.shape[-1]),
            )
            self._layers[index] = found
        return found

    def copy_from(
        self,
        source: KeyValueTable,
        source_rows: NDArray[np.int64],
        rows: NDArray[np.int64],
        *,
        source_start: int = 0,
        start: int = 0,
        length: int,
    ) -> None:
        """Copy `length` tokens from `source_start` of rows of another table to `start` of `rows`."""
        for index, (from_keys, from_values) in source._layers.items():
            keys, values = self.layer(index, from_keys[:, :, 0], from_values[:, :, 0])
            these, those = (torch.from_numpy(numbers).to(keys.device) for numbers in (source_rows, rows))
            keys[those, :, start : start + length] = from_keys[these, :, source_start : source_start + length]
            values[those, :, start : start + length] = from_values[these, :, source_start : source_start + length]

    def move(self, sources: NDArray[np.int64], targets: NDArray[np.int64], length: int) -> None:
        """Copy the first `length` tokens of the rows `sources` to the rows `targets`."""
        if len(sources) == 0 or not self._layers:
            return
        device = next(iter(self._layers.values()))[0].device
        source, target = torch.from_numpy(sources).to(device), torch.from_numpy(targets).to(device)
        for keys, values in self._layers.values():
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]

    def clear(self) -> None:
        """Free everything."""
        self.rows = self.length = 0
        self._layers.clear()

    @property
    def layer_token_bytes(self) -> int:
        """Memory that a token holds in one layer, the largest of them."""
        pairs = self._layers.values()
        return max(sum(tensor[0, :, 0].nbytes for tensor in pair) for pair in pairs) if pairs else 0

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        return sum(tensor.nbytes for pair in self._layers.values() for tensor in pair)

    def _grown(self, old: Tensor) -> Tensor:
        rows, heads, length, width = old.shape
        new = old.new_zeros(self.rows, heads, self.length, width)
        new[:rows, :, :length] = old
        return new
