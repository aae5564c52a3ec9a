"""What a step's losses are measured from, and the proof that the engine sampled from the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from grpo.errors import StaleWeightsError
from grpo.packing import PackedBatch, PackedStep

__all__ = ["Anchors", "mean_distance", "prove_engine", "regroup"]


@dataclass(frozen=True, slots=True)
class Anchors:
    """What a step's losses are measured from: for each micro-batch log-probabilities [B, T].

    Attributes:
        reference: of the reference; None without a KL term.
        old: of the policy that sampled, in the trainer's arithmetic.
    """

    reference: list[Tensor] | None
    old: list[Tensor]

    def regroup(self, before: PackedStep, after: PackedStep) -> Anchors:
        """Return the same for the step cut in another way."""
        reference = self.reference and regroup(self.reference, before.batches, after.batches)
        return Anchors(reference, regroup(self.old, before.batches, after.batches))


def regroup(values: Sequence[Tensor], before: Sequence[PackedBatch], after: Sequence[PackedBatch]) -> list[Tensor]:
    """Return values [B, T] of the completions of `before` as they lie in `after`, which holds the same completions."""
    rows = {
        rollout: row
        for tensor, batch in zip(values, before, strict=True)
        for rollout, row in zip(batch.rollout_index.tolist(), tensor, strict=True)
    }
    regrouped = []
    for batch in after:
        tensor = values[0].new_zeros(batch.mask.shape)
        for place, rollout in enumerate(batch.rollout_index.tolist()):
            length = min(tensor.shape[1], len(rows[rollout]))
            tensor[place, :length] = rows[rollout][:length]
        regrouped.append(tensor)
    return regrouped


def prove_engine(batches: Sequence[PackedBatch], logprobs: Sequence[Tensor], *, limit: float) -> float:
    """Return `mean_distance`.

    Raises:
        StaleWeightsError: it is above `limit`, so more than rounding.
    """
    mean = mean_distance(batches, logprobs)
    if mean > limit:
        raise StaleWeightsError(
            f"the engine's log-probabilities differ from the policy's by {mean:.3g} a token on average, "
            f"at most {limit:g} is rounding: the engine does not sample from the policy being trained"
        )
    return mean


def mean_distance(batches: Sequence[PackedBatch], logprobs: Sequence[Tensor]) -> float:
    """Return the mean absolute difference a token between the engine's log-probabilities and the policy's."""
    difference, count = 0.0, 0
    for batch, ours in zip(batches, logprobs, strict=True):
        difference += float((batch.sampling_logprobs.to(ours) - ours)[batch.mask.to(ours.device)].abs().sum())
        count += int(batch.mask.sum())
    return difference / max(1, count)
