"""Scored groups → advantages → packed micro-batches → an updated policy: the second half of a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from grpo.algorithm import LossMetrics, Method, token_advantages
from grpo.errors import RunError, StaleWeightsError
from grpo.packing import PackedBatch, StepCounts, count_step, pack
from grpo.policy import Policy
from grpo.rollout import groups_with_spread, reward_tensors, step_reward_tensor
from grpo.seeding import derive_seed, seed_everything
from grpo.types import ScoredGroup

__all__ = ["Learner", "Signal", "Truncated"]

Truncated: TypeAlias = Literal["keep", "mask"]
"""What becomes of completions that ran out of tokens; `mask` leaves them out of the loss (arXiv:2503.14476 §3.4)."""


@dataclass(frozen=True, slots=True)
class Signal:
    """What a step's rewards say.

    Attributes:
        advantages: [P, G] float32, of each completion.
        token_advantages: [P, G, T] float32.
        spread: [P] bool, whether a group's rewards differ.
    """

    advantages: Tensor
    token_advantages: Tensor
    spread: Tensor


class Learner:
    """Turns scored groups into an update of the policy."""

    def __init__(
        self,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        learning_rate: Callable[[int], float],
        method: Method,
        *,
        beta: float,
        gamma: float,
        temperature: float,
        max_completion_length: int,
        epochs_per_step: int,
        max_grad_norm: float,
        skip_uniform_groups: bool,
        truncated: Truncated,
        tokens_per_micro_batch: int | None,
        min_micro_batches: int,
        mismatch_limit: float,
        seed: int,
    ) -> None:
        self.policy = policy
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.method = method
        self.beta = beta
        self.gamma = gamma
        self.temperature = temperature
        self.max_completion_length = max_completion_length
        self.epochs_per_step = epochs_per_step
        self.max_grad_norm = max_grad_norm
        self.skip_uniform_groups = skip_uniform_groups
        self.truncated = truncated
        self.tokens_per_micro_batch = tokens_per_micro_batch
        self.min_micro_batches = min_micro_batches
        self.mismatch_limit = mismatch_limit
        self.seed = seed

    def signal(self, groups: Sequence[ScoredGroup]) -> Signal:
        """Return the advantages of a step's completions and of their tokens."""
        rewards, valid = reward_tensors(groups)
        advantages = self.method.group_advantages(rewards, valid)
        lengths = torch.tensor([[len(member.rollout.token_ids) for member in group.rollouts] for group in groups])
        step_rewards = step_reward_tensor(groups)
        per_token = token_advantages(
            advantages, lengths, gamma=self.gamma, step_rewards=step_rewards, valid=valid, scale=self.method.scale
        )
        return Signal(advantages, per_token, groups_with_spread(groups))

    def pack(self, groups: Sequence[ScoredGroup], signal: Signal) -> tuple[list[PackedBatch], StepCounts]:
        """Return the step's micro-batches, and the counts of the whole step that its token weights are made from."""
        loss_mask = None
        if self.truncated == "mask":
            loss_mask = torch.tensor(
                [[member.rollout.finish_reason != "length" for member in group.rollouts] for group in groups]
            )
        trained = signal.spread.unsqueeze(1).expand_as(signal.advantages) if self.skip_uniform_groups else None
        batches = pack(
            groups,
            signal.token_advantages,
            max_tokens=self.tokens_per_micro_batch,
            min_batches=self.min_micro_batches,
            trained=trained,
            loss_mask=loss_mask,
        )
        return batches, count_step(groups, loss_mask=loss_mask)

    def update(self, batches: Sequence[PackedBatch], counts: StepCounts, step: int) -> dict[str, float]:
        """Train the policy on a step's micro-batches, once an epoch, and return metrics of the whole step.

        The first epoch's log-probabilities are the old ones of the later epochs, since the policy moves only
        once all micro-batches have been seen; with dropout, which noises them, they are computed apart. They
        also prove that the engine sampled from this policy.

        Raises:
            StaleWeightsError: the engine's log-probabilities are not this policy's.
            RunError: the loss is not a number.
        """
        began = time.perf_counter()
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = self.learning_rate(step)
        on_device = [batch.to(self.policy.device) for batch in batches]
        references = [self._reference(batch) for batch in on_device]
        old = self._logprobs_without_dropout(on_device) if self.policy.has_dropout else []
        totals = _Totals()
        for epoch in range(self.epochs_per_step):
            for index, batch in enumerate(on_device):
                seed_everything(derive_seed(self.seed, "dropout", step, epoch, index))
                known = old[index] if index < len(old) else None
                logprobs = self._backward(batch, counts, known, references[index], totals)
                if known is None:
                    old.append(logprobs)
            if epoch == 0:
                totals.mismatch = self._prove_engine(on_device, old)
            totals.grad_norms.append(self._optimizer_step())
        return {
            **totals.means(),
            "learning_rate": self.learning_rate(step),
            "micro_batches": float(len(on_device)),
            "seconds_update": time.perf_counter() - began,
        }

    def _reference(self, batch: PackedBatch) -> Tensor | None:
        if self.beta == 0.0:
            return None
        return self.policy.reference_logprobs(batch, temperature=self.temperature)

    @torch.no_grad()
    def _logprobs_without_dropout(self, batches: Sequence[PackedBatch]) -> list[Tensor]:
        return [self.policy.token_logprobs(batch, temperature=self.temperature).logprobs for batch in batches]

    def _backward(
        self, batch: PackedBatch, counts: StepCounts, old: Tensor | None, reference: Tensor | None, totals: _Totals
    ) -> Tensor:
        """Add the micro-batch's share of the gradient and of the metrics; return its detached log-probabilities."""
        output = self.policy.token_logprobs(batch, temperature=self.temperature, entropy=True)
        weights = self.method.token_weights(
            batch.mask,
            num_rollouts=counts.num_rollouts,
            num_tokens=counts.num_tokens,
            max_tokens=self.max_completion_length,
        )
        detached = output.logprobs.detach()
        result = self.method.loss(
            output.logprobs,
            detached if old is None else old,
            reference,
            advantages=batch.advantages,
            mask=batch.mask,
            weights=weights,
            beta=self.beta,
        )
        if not torch.isfinite(result.loss):
            raise RunError(
                f"the loss is {result.loss.item()}: lower the learning rate or max_grad_norm, or train in float32"
            )
        result.loss.backward()  # type: ignore[no-untyped-call]
        totals.add(result.loss.detach(), result.metrics, output.entropy, batch.mask)
        return detached

    def _prove_engine(self, batches: Sequence[PackedBatch], logprobs: Sequence[Tensor]) -> float:
        """Return the mean absolute difference a token between the engine's log-probabilities and the policy's."""
        difference, count = 0.0, 0
        for batch, ours in zip(batches, logprobs, strict=True):
            difference += float((batch.sampling_logprobs - ours)[batch.mask].abs().sum())
            count += int(batch.mask.sum())
        mean = difference / max(1, count)
        if mean > self.mismatch_limit:
            raise StaleWeightsError(
                f"the engine's log-probabilities differ from the policy's by {mean:.3g} a token on average, "
                f"at most {self.mismatch_limit:g} is rounding: the engine does not sample from the policy being trained"
            )
        return mean

    def _optimizer_step(self) -> float:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for parameter in parameters:
            # A step without a trained group must do what one with zero gradients does.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm or float("inf"))
        if not torch.isfinite(norm):
            raise RunError(f"the gradient's norm is {norm.item()}: lower the learning rate, or train in float32")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)


class _Totals:
    """Adds up what the micro-batches of a step report."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.metrics: LossMetrics | None = None
        self.entropy = 0.0
        self.num_tokens = 0
        self.grad_norms: list[float] = []
        self.mismatch = 0.0

    def add(self, loss: Tensor, metrics: LossMetrics, entropy: Tensor | None, mask: Tensor) -> None:
        self.loss += float(loss)
        self.metrics = metrics if self.metrics is None else self.metrics + metrics
        if entropy is not None:
            self.entropy += float(entropy[mask].sum())
            self.num_tokens += int(mask.sum())

    def means(self) -> dict[str, float]:
        """Return means over the step's epochs; of tokens and ratios, over all that the epochs saw."""
        epochs = max(1, len(self.grad_norms))
        means = {
            "loss": self.loss / epochs,
            "grad_norm": sum(self.grad_norms) / epochs,
            "sampler_mismatch": self.mismatch,
        }
        if self.metrics is not None:
            means |= self.metrics.means()
            # Weighted sums of a whole step, of which there was one an epoch.
            means |= {name: means[name] / epochs for name in ("policy_loss", "kl_loss") if name in means}
        if self.num_tokens:
            means["entropy"] = self.entropy / self.num_tokens
        return means
