"""Sums of the figures that the micro-batches of a step report."""

from __future__ import annotations

import copy

from torch import Tensor

from grpo.algorithm import LossMetrics
from grpo.distributed import Processes

__all__ = ["Totals"]


class Totals:
    """Sums over the micro-batches and epochs of a step.

    Attributes:
        mismatch: mean distance a token between the sampler's log-probabilities and the policy's.
        seconds_reference: spent in forward passes of the reference.
    """

    def __init__(self) -> None:
        self.loss = 0.0
        self.metrics: LossMetrics | None = None
        self.entropy = 0.0
        self.num_tokens = 0
        self.correction: float | None = None
        self.grad_norms: tuple[float, ...] = ()
        self.mismatch = 0.0
        self.seconds_reference = 0.0

    def copy(self) -> Totals:
        """Return totals of their own, so that adding to one leaves the other as it is."""
        return copy.copy(self)

    def add(
        self, loss: Tensor, metrics: LossMetrics, mask: Tensor, *, entropy: Tensor | None, correction: Tensor | None
    ) -> None:
        """Add a micro-batch; `entropy` and `correction` are [B, T] as its mask is."""
        self.loss += float(loss)
        self.metrics = metrics if self.metrics is None else self.metrics + metrics
        self.num_tokens += int(mask.sum())
        if entropy is not None:
            self.entropy += float(entropy[mask].sum())
        if correction is not None:
            self.correction = (self.correction or 0.0) + float(correction[mask].sum())

    def end_epoch(self, grad_norm: float) -> None:
        """Count an epoch, which ended with this norm of the gradient on all ranks."""
        self.grad_norms = (*self.grad_norms, grad_norm)

    def over(self, processes: Processes) -> Totals:
        """Return the totals of all ranks together; `mismatch` and `grad_norms` are those of all ranks already."""
        if processes.world_size == 1:
            return self
        moved = self.copy()
        moved.metrics = self.metrics and self.metrics.to("cpu")
        return processes.sum(moved)

    def __add__(self, other: Totals) -> Totals:
        """Return the totals of both ranks; they take as long as the slower one."""
        total = self.copy()
        total.loss += other.loss
        total.entropy += other.entropy
        total.num_tokens += other.num_tokens
        if self.metrics is not None and other.metrics is not None:
            total.metrics = self.metrics + other.metrics
        if self.correction is not None and other.correction is not None:
            total.correction = self.correction + other.correction
        total.seconds_reference = max(self.seconds_reference, other.seconds_reference)
        return total

    def means(self) -> dict[str, float]:
        """Return means over the step's epochs; figures of tokens and ratios are means over those of all epochs."""
        epochs = max(1, len(self.grad_norms))
        means = {
            "loss": self.loss / epochs,
            "grad_norm": sum(self.grad_norms) / epochs,
            "sampler_mismatch": self.mismatch,
        }
        if self.metrics is not None:
            means |= self.metrics.means()
            # Each epoch adds the weighted sum of a whole step.
            means |= {name: means[name] / epochs for name in ("policy_loss", "kl_loss") if name in means}
        if self.num_tokens:
            means["entropy"] = self.entropy / self.num_tokens
        if self.correction is not None:
            means["sampler_correction_mean"] = self.correction / max(1, self.num_tokens)
        return means
