"""The distance between the sampler's log-probabilities and the policy's, and the proof that it is only rounding."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from grpo.distributed import Processes
from grpo.errors import StaleWeightsError
from grpo.packing import PackedBatch

__all__ = ["check_sampler_mismatch", "sampler_mismatch"]


def check_sampler_mismatch(
    batches: Sequence[PackedBatch], logprobs: Sequence[Tensor], *, limit: float, processes: Processes
) -> float:
    """Return `sampler_mismatch`.

    Raises:
        StaleWeightsError: it is above `limit`, so more than rounding; on all ranks.
    """
    mean = sampler_mismatch(batches, logprobs, processes=processes)
    if not mean <= limit:  # NaN is no agreement
        raise StaleWeightsError(
            f"the sampler's log-probabilities differ from the policy's by {mean:.3g} a token on average, "
            f"at most {limit:g} is rounding: the sampler does not sample from the policy that is trained"
        )
    return mean


def sampler_mismatch(batches: Sequence[PackedBatch], logprobs: Sequence[Tensor], *, processes: Processes) -> float:
    """Return the mean absolute difference a token between the sampler's log-probabilities and the policy's.

    Args:
        logprobs: for each micro-batch the policy's, [B, T].
        processes: the mean is over the micro-batches of all ranks.
    """
    difference, count = 0.0, 0
    for batch, ours in zip(batches, logprobs, strict=True):
        difference += float((batch.sampling_logprobs.to(ours) - ours)[batch.mask.to(ours.device)].abs().sum())
        count += int(batch.mask.sum())
    totals = processes.sum({"difference": difference, "count": count})
    return totals["difference"] / max(1, totals["count"])
