"""The token budget of a micro-batch, which is halved for the rest of a run where memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from grpo.distributed import Processes
from grpo.errors import RunError
from grpo.packing import PackedStep
from grpo.update.memory import is_out_of_memory

__all__ = ["MicroBatchBudget"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


class MicroBatchBudget:
    """The most tokens that a micro-batch should have, the same on all processes.

    Attributes:
        configured: tokens; None: no limit.
        lowered: tokens after memory ran out; None: it never did.
    """

    def __init__(self, configured: int | None, processes: Processes) -> None:
        self.configured = configured
        self.lowered: int | None = None
        self._processes = processes

    @property
    def tokens(self) -> int | None:
        """The budget that holds now; None: no limit."""
        return self.lowered or self.configured

    def attempt(self, packed: PackedStep, run: Callable[[], T]) -> T | None:
        """Return the result of `run`; None, with a lower budget, if memory ran out on any process.

        Args:
            packed: the step whose micro-batches `run` passes through the model. The processes exchange something
                once `run` has ended on all of them; it must exchange nothing itself.

        Raises:
            RunError: memory ran out here although no micro-batch has more than one completion.
        """
        result = None
        try:
            result = run()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the except block, the exception no longer holds the frames in which activations lie.
        ran_out = result is None
        tokens = min(packed.most_tokens, self.lowered or packed.most_tokens)
        too_many = [each for each in self._processes.gather(tokens if ran_out else None) if each is not None]
        if not too_many:
            return result
        if ran_out and not packed.can_be_cut:
            raise RunError(
                f"out of memory in the update with a single completion in a micro-batch ({packed.most_tokens} tokens): "
                f"lower max_completion_length or max_prompt_length, or set gradient_checkpointing=true or a lora_rank"
            )
        self._lower(min(too_many))
        return None

    def _lower(self, tokens: int) -> None:
        self.lowered = max(1, tokens // 2)
        _log.warning(
            "out of memory in the update: micro-batches are cut from %d to %d tokens from here on, and nothing is lost",
            tokens,
            self.lowered,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return both budgets."""
        return {"tokens_per_micro_batch": self.configured, "lowered_budget": self.lowered}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the lowered budget, unless the configured one has changed since."""
        same = state.get("tokens_per_micro_batch", self.configured) == self.configured
        self.lowered = state["lowered_budget"] if same else None
