"""The verbs every engine has, and `generate`, the loop over them.

    for request in requests: engine.add(request)
    while engine.has_work:   engine.step(); engine.collect()

Training, evaluation, chat, server and judge all use these and nothing else of an engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from grpo.errors import RunError
from grpo.types import Request, Rollout

__all__ = ["Engine", "generate"]


class Engine(Protocol):
    """Samples completions from the weights it was last given."""

    @property
    def policy_version(self) -> int:
        """The version of those weights; every rollout carries it."""
        ...

    @property
    def has_work(self) -> bool:
        """Whether any request was added that has not been collected."""
        ...

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises:
            InputError: the prompt is empty, does not fit the model or the cache, or the id is taken.
        """
        ...

    def step(self) -> None:
        """Do the next piece of work, if there is any: at most one token for each running completion."""
        ...

    def collect(self) -> list[tuple[int, tuple[Rollout, ...]]]:
        """Return the requests that finished since the last call: id and rollouts in the order of its seeds."""
        ...

    def abort(self) -> None:
        """Drop every request, whatever has been done of it."""
        ...

    def load_weights(self, source: nn.Module | Mapping[str, Tensor], version: int) -> None:
        """Sample from the weights of `source` from now on."""
        ...

    def score(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], *, temperature: float = 1.0
    ) -> list[tuple[float, ...]]:
        """Return the log-probability of every token of each completion after its prompt.

        It goes the way a sampled token goes, cache and all, so it shows which weights the engine really has.
        Means what `Rollout.logprobs` means.
        """
        ...


def generate(
    engine: Engine,
    requests: Sequence[Request],
    on_finished: Callable[[int, tuple[Rollout, ...]], None] | None = None,
) -> list[tuple[Rollout, ...]]:
    """Return the rollouts of each request, in the order of `requests`.

    Args:
        on_finished: called with the id and the rollouts of each request as soon as it is finished, while others
            are still being generated; what it raises ends the call.

    Raises:
        InputError: a request cannot be served, or two have the same id; the engine is then left empty.
        RunError: the engine has other requests in hand.
    """
    if engine.has_work:
        raise RunError("the engine already has requests in hand: collect or abort them before calling generate()")
    finished: dict[int, tuple[Rollout, ...]] = {}
    try:
        for request in requests:
            engine.add(request)
        while engine.has_work:
            engine.step()
            for id, rollouts in engine.collect():
                finished[id] = rollouts
                if on_finished is not None:
                    on_finished(id, rollouts)
    except BaseException:
        # Otherwise an interrupted call would leave its requests to the next one.
        engine.abort()
        raise
    return [finished[request.id] for request in requests]
