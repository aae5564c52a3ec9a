"""Processes that train one policy together: sums, agreement and the main rank.

One process is the trivial case: nothing is exchanged, and values come back as they are. Several processes talk through
the default group of `torch.distributed`, which their launcher has initialised.

All ranks must make the same exchanges in the same order, so every decision that changes what a rank does next goes
through `any`, `all_agree` or `max`. An exchange is one all-gather of small messages. A rank that fails inside a `stage`
takes part in the next exchange with its error in place of a value; the others then stop with that error instead of
waiting for a rank that has ended.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeVar

from grpo.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Processes", "connected_processes"]

T = TypeVar("T")

_MAIN = 0

_BUCKET = 1 << 24
"""Numbers that travel at once in `sum_gradients`: 64 MiB of float32."""


@dataclass(frozen=True, slots=True)
class _Message:
    """A rank's part of an exchange.

    Attributes:
        operation: name of the method; all ranks must have called the same.
        failure: the error that ended the rank, in one line; None: there was none.
    """

    operation: str
    value: Any = None
    failure: str | None = None


class Processes:
    """The ranks 0 … world_size - 1 of a run, seen from one of them.

    Attributes:
        rank: of this process.
        world_size: number of processes; 1 without `torch.distributed`.

    Example:
        >>> alone = Processes()
        >>> alone.sum({"tokens": 3}), alone.all_agree(False), alone.share(4)
        ({'tokens': 3}, False, range(0, 4))
    """

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank = rank
        self.world_size = world_size
        self._has_failed = False

    @property
    def is_main(self) -> bool:
        """True on the rank that writes files and prints."""
        return self.rank == _MAIN

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in order of rank; anything that can be pickled, tensors on the CPU.

        Raises:
            RunError: another rank has failed, is at another point of the program, or does not answer. So do all
                other methods that exchange something.
        """
        return self._exchange("gather", value)

    def broadcast(self, value: T) -> T:
        """Return the main rank's value; those of the other ranks are ignored."""
        return self._exchange("broadcast", value if self.is_main else None)[_MAIN]  # type: ignore[return-value]

    def sum(self, value: T) -> T:
        """Return the sum over all ranks, the same on each: of numbers, tensors of one shape, or anything with `+`.

        Mappings are added key by key; a rank that lacks a key adds nothing to it.
        """
        if self.world_size == 1:
            return value
        device = getattr(value, "device", None)
        if device is None:
            return reduce(_add, self._exchange("sum", value))
        tensor: Any = value
        total: Any = reduce(_add, self._exchange("sum", tensor.detach().cpu()))
        return total.to(device)  # type: ignore[no-any-return]

    def max(self, value: int) -> int:
        """Return the greatest value of all ranks."""
        return max(self._exchange("max", value))

    def any(self, flag: bool) -> bool:
        """Return whether the flag is True on at least one rank."""
        return any(self._exchange("any", flag))

    def all_agree(self, ok: bool) -> bool:
        """Return whether the flag is True on all ranks."""
        return all(self._exchange("all_agree", ok))

    def share(self, count: int) -> range:
        """Return the positions 0 … count - 1 that belong to this rank: blocks in order of rank, of about equal size.

        Nothing is exchanged. Seeds are made from these positions, so the number of ranks does not change them.
        """
        return range(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    def place(self, count: int) -> tuple[int, int]:
        """Return the global position of the first of this rank's `count` items, and the number of items on all ranks.

        Items are numbered in order of rank. `share` is the case in which the ranks' counts are known beforehand.
        """
        counts = self._exchange("place", count)
        return sum(counts[: self.rank]), sum(counts)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each parameter's gradient by its sum over all ranks; every rank has gradients of the same shapes."""
        if self.world_size == 1:
            return
        import torch
        from torch import distributed

        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buckets = list(_buckets(gradients))
        # Reserved before the exchange: memory that runs out later on one rank would leave the others waiting.
        size = max((sum(gradient.numel() for gradient in bucket) for bucket in buckets), default=0)
        flats = {kind: gradient.new_empty(size) for kind, gradient in {g.dtype: g for g in gradients}.items()}
        self._exchange("sum_gradients", None)
        for bucket in buckets:
            sizes = [gradient.numel() for gradient in bucket]
            flat = flats[bucket[0].dtype][: sum(sizes)]
            torch.cat([gradient.flatten() for gradient in bucket], out=flat)
            with self._connection():
                distributed.all_reduce(flat)
            for gradient, total in zip(bucket, torch.split(flat, sizes), strict=True):
                gradient.copy_(total.view_as(gradient))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Return from a part of the program once all ranks have finished it; raise on all ranks if one of them failed.

        Stages may contain exchanges and other stages. `KeyboardInterrupt` and the like are not announced: the process
        ends, and the others notice the lost connection.

        Args:
            name: continues "failed while", as "collecting completions".

        Raises:
            RunError: another rank failed.
        """
        try:
            yield
        except Exception as error:
            self._announce(f"failed while {name} with {type(error).__name__}: {_first_line(error)}")
            raise
        self._exchange(f"stage {name}", None)

    def _exchange(self, operation: str, value: T) -> list[T]:
        if self.world_size == 1:
            return [value]
        if self._has_failed:
            raise RunError("this run has failed on a rank before: start it again")
        messages = self._all_gather(_Message(operation, value))
        for rank, message in enumerate(messages):
            if message.failure is not None:
                self._has_failed = True
                raise RunError(f"rank {rank} {message.failure}: rank {self.rank} stops as well")
        operations = {message.operation: rank for rank, message in enumerate(messages)}
        if len(operations) > 1:
            self._has_failed = True
            places = ", ".join(f"rank {rank} at {name!r}" for name, rank in operations.items())
            raise RunError(f"processes of one run are at different points of the program: {places}")
        return [message.value for message in messages]

    def _announce(self, failure: str) -> None:
        """Send a failure as this rank's part of the next exchange, once."""
        if self.world_size == 1 or self._has_failed:
            return
        self._has_failed = True
        # The announced error must reach the user even if no other rank is left to receive it.
        with suppress(RunError):
            self._all_gather(_Message("failure", failure=failure))

    def _all_gather(self, message: _Message) -> list[_Message]:
        from torch import distributed

        messages: list[Any] = [None] * self.world_size
        with self._connection():
            distributed.all_gather_object(messages, message)
        return messages

    @contextmanager
    def _connection(self) -> Iterator[None]:
        """Turn an error of the transport into a RunError."""
        try:
            yield
        except RuntimeError as error:
            self._has_failed = True
            raise RunError(
                f"rank {self.rank} gets no answer from the other processes ({_first_line(error)}): "
                f"one of them has ended or hangs, its own output says why"
            ) from error


_connected: dict[str, Any] = {}
"""The default group, and the one object for its processes."""


def connected_processes() -> Processes:
    """Return the processes of the default group of `torch.distributed`; this one alone if there is no group.

    All parts of a run get the same object, so that each of them knows of a failure that one of them has met.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return Processes()
    group = distributed.group.WORLD
    if _connected.get("group") is not group:
        _connected.update(group=group, processes=Processes(distributed.get_rank(), distributed.get_world_size()))
    processes: Processes = _connected["processes"]
    return processes


def _add(left: Any, right: Any) -> Any:
    if isinstance(left, Mapping):
        both = {key: left[key] + value for key, value in right.items() if key in left}
        return {**left, **right, **both}
    return left + right


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the gradients in order, in lists of one data type and at most `_BUCKET` numbers, at least one tensor."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        size = sum(each.numel() for each in bucket)
        if bucket and (size + gradient.numel() > _BUCKET or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
