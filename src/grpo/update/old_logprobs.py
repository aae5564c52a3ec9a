"""Log-probabilities without gradient that a step's losses compare the policy with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from grpo.packing import PackedBatch, PackedStep

__all__ = ["OldLogprobs", "regroup"]


@dataclass(frozen=True, slots=True)
class OldLogprobs:
    """Log-probabilities of the completions of each micro-batch, [B, T] without gradient.

    Attributes:
        policy: of the policy as it was when the completions were sampled (`old_logprobs` in the losses), in the
            trainer's arithmetic.
        reference: of the reference; None without a KL term.
    """

    policy: list[Tensor]
    reference: list[Tensor] | None

    def regroup(self, before: PackedStep, after: PackedStep) -> OldLogprobs:
        """Return the same log-probabilities for the step cut in another way."""
        reference = self.reference and regroup(self.reference, before.batches, after.batches)
        return OldLogprobs(regroup(self.policy, before.batches, after.batches), reference)


def regroup(values: Sequence[Tensor], before: Sequence[PackedBatch], after: Sequence[PackedBatch]) -> list[Tensor]:
    """Return values [B, T] of the completions of `before` as they lie in `after`, which holds the same completions.

    Completions that `before` does not hold, which only fill the step up, get 0.
    """
    rows = {
        rollout: row
        for tensor, batch in zip(values, before, strict=True)
        for rollout, row in zip(batch.rollout_index.tolist(), tensor, strict=True)
    }
    regrouped = []
    for batch in after:
        tensor = values[0].new_zeros(batch.mask.shape)
        for place, rollout in enumerate(batch.rollout_index.tolist()):
            if rollout in rows:
                length = min(tensor.shape[1], len(rows[rollout]))
                tensor[place, :length] = rows[rollout][:length]
        regrouped.append(tensor)
    return regrouped
