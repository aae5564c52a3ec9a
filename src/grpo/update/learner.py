"""Scored groups → advantages → packed micro-batches → an updated policy: the second half of a step."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from grpo.algorithm import Method, truncated_importance_weights
from grpo.distributed import Processes
from grpo.errors import RunError
from grpo.groups import Truncated, counted_completions
from grpo.packing import PackedBatch, PackedStep, StepCounts, count_step, pack
from grpo.policy import Policy
from grpo.seeding import derive_seed, seed_everything
from grpo.types import ScoredGroup
from grpo.update.advantages import StepAdvantages, step_advantages
from grpo.update.budget import MicroBatchBudget
from grpo.update.memory import is_out_of_memory
from grpo.update.old_logprobs import OldLogprobs
from grpo.update.sampler_mismatch import check_sampler_mismatch, sampler_mismatch
from grpo.update.totals import Totals

__all__ = ["Learner"]

T = TypeVar("T")

_AGREEMENT = 0.1
"""Largest mismatch, as a share of its limit, at which the sampler's log-probabilities may replace the trainer's."""


class Learner:
    """Turns scored groups into an update of the policy.

    Each of several processes passes its own groups; counts, deviations, gradients and metrics are those of the whole
    step, and all processes run the same number of micro-batches.

    Attributes:
        budget: the most tokens that a micro-batch should have.
        num_optimizer_steps: that were begun by this object.
        skip_zero_variance_groups: pack no group whose gradient is 0; with a KL term no group is left out.
        mismatch_limit: greatest mean distance a token of the sampler's log-probabilities that counts as rounding.
        sampler_is_exact: the sampler computes in the policy's own arithmetic, so its log-probabilities may
            replace the policy's where those would cost a forward pass.
        sampler_correction: cap of `truncated_importance_weights`; None: no correction.
        processes: those that share a step; None: this one alone.
    """

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
        skip_zero_variance_groups: bool,
        truncated: Truncated,
        tokens_per_micro_batch: int | None,
        min_micro_batches: int,
        mismatch_limit: float,
        seed: int,
        sampler_is_exact: bool = True,
        sampler_correction: float | None = None,
        processes: Processes | None = None,
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
        self.skip_zero_variance_groups = skip_zero_variance_groups
        self.truncated = truncated
        self.min_micro_batches = min_micro_batches
        self.mismatch_limit = mismatch_limit
        self.seed = seed
        self.sampler_is_exact = sampler_is_exact
        self.sampler_correction = sampler_correction
        self.processes = processes or Processes()
        self.num_optimizer_steps = 0
        self.budget = MicroBatchBudget(tokens_per_micro_batch, self.processes)

    def advantages(self, groups: Sequence[ScoredGroup]) -> StepAdvantages:
        """Return the advantages of a step's completions and of their tokens."""
        return step_advantages(
            groups, self.method, gamma=self.gamma, truncated=self.truncated, processes=self.processes
        )

    def pack(self, groups: Sequence[ScoredGroup], advantages: StepAdvantages) -> PackedStep:
        """Return the step's micro-batches, and the counts of the whole step that its token weights are made from."""
        loss_mask = counted_completions(groups, self.truncated)
        trained = None
        # The KL term has a gradient in every group.
        if self.skip_zero_variance_groups and self.beta == 0:
            trained = advantages.has_gradient.unsqueeze(1).expand_as(advantages.per_completion)

        def cut(max_tokens: int | None) -> list[PackedBatch]:
            return pack(
                groups,
                advantages.per_token,
                max_tokens=max_tokens,
                min_batches=self.min_micro_batches,
                trained=trained,
                loss_mask=loss_mask,
            )

        counts = self.processes.sum(count_step(groups, loss_mask=loss_mask))
        return self._of_equal_number(PackedStep(cut(self.budget.tokens), counts, cut))

    def _of_equal_number(self, packed: PackedStep) -> PackedStep:
        """Return the step with as many micro-batches as the process that has most, so that all call the same passes."""
        return packed.filled_up(self.processes.max(len(packed.batches)))

    def update(self, packed: PackedStep, step: int) -> dict[str, float]:
        """Train the policy on a step's micro-batches, once an epoch, and return metrics of the whole step.

        The first epoch's log-probabilities are the old log-probabilities of all epochs, because the optimizer steps
        after the last micro-batch of an epoch. Dropout would make them noisy: then the old log-probabilities are
        computed without dropout, or taken from the sampler. They are compared with the sampler's, to check that the
        sampler has this policy's weights. When memory runs out on any process, all processes repeat the epoch with
        micro-batches of half the size.

        Raises:
            StaleWeightsError: the sampler's log-probabilities are not this policy's.
            RunError: the loss is not a number, there is not enough memory for a single completion, or another
                process failed.
        """
        with self.processes.stage("updating the policy"):
            return self._update(packed, step)

    def _update(self, packed: PackedStep, step: int) -> dict[str, float]:
        began = time.perf_counter()
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = self.learning_rate(step)
        totals = Totals()
        old: OldLogprobs | None = None
        while (epoch := len(totals.grad_norms)) < self.epochs_per_step:
            attempt = self._attempt(packed, step, epoch, old, totals.copy())
            if attempt is None:
                before, packed = packed, self._of_equal_number(packed.under(self.budget.tokens))
                old = old and old.regroup(before, packed)
                continue
            old, totals = attempt
            totals.end_epoch(self._optimizer_step())
        totals = totals.over(self.processes)
        return {
            **totals.means(),
            "learning_rate": self.learning_rate(step),
            "micro_batches": float(len(packed.batches)),
            "seconds_reference": totals.seconds_reference,
            "seconds_update": time.perf_counter() - began - totals.seconds_reference,
        }

    def _attempt(
        self, packed: PackedStep, step: int, epoch: int, old: OldLogprobs | None, totals: Totals
    ) -> tuple[OldLogprobs, Totals] | None:
        """Add the gradients of an epoch; return its old log-probabilities, and the totals with the epoch's figures.

        Return None, without gradients and with a lower budget, if memory ran out on any process. Processes exchange
        something only between passes that may run out of memory, never within them.
        """
        num_compared = len(packed.batches)
        known = old or self._within_memory(packed, lambda: self._known_beforehand(packed.batches, totals))
        if known is None:
            return None
        if old is None and self._sampler_agrees(packed.batches, known):
            known.policy.extend(batch.sampling_logprobs.to(self.policy.device) for batch in packed.batches[1:])
            num_compared = 1
        done = self._within_memory(packed, lambda: self._epoch(packed, step, epoch, known, totals))
        if done is None:
            return None
        if old is None:
            totals.mismatch = check_sampler_mismatch(
                packed.batches[:num_compared],
                done.policy[:num_compared],
                limit=self.mismatch_limit,
                processes=self.processes,
            )
        return done, totals

    def _within_memory(self, packed: PackedStep, run: Callable[[], T]) -> T | None:
        """Return the result of `run`; None, without gradients and with a lower budget, if memory ran out anywhere."""
        result = self.budget.attempt(packed, run)
        if result is None:
            self.optimizer.zero_grad(set_to_none=True)
            gc.collect()
            if self.policy.device.type == "cuda":
                torch.cuda.empty_cache()
        return result

    def _known_beforehand(self, batches: Sequence[PackedBatch], totals: Totals) -> OldLogprobs:
        """Return the log-probabilities that the first epoch begins with.

        They are the reference model's. With dropout and an exact sampler they include the policy's for the first
        micro-batch: if the sampler's agree with these, the sampler's are used for the other micro-batches.
        """
        old = OldLogprobs([], self._references(batches, totals))
        if self.policy.has_dropout and self.sampler_is_exact and len(batches) > 1:
            old.policy.append(self._without_dropout(batches[0]))
        return old

    def _sampler_agrees(self, batches: Sequence[PackedBatch], old: OldLogprobs) -> bool:
        """Return whether the sampler's log-probabilities may replace the policy's: they differ by rounding only."""
        if not old.policy:
            return False
        distance = sampler_mismatch(batches[:1], old.policy, processes=self.processes)
        return distance <= _AGREEMENT * self.mismatch_limit

    def _epoch(self, packed: PackedStep, step: int, epoch: int, old: OldLogprobs, totals: Totals) -> OldLogprobs:
        """Add the gradients of all micro-batches; return `old`, which has the policy's log-probabilities now."""
        for index, batch in enumerate(packed.batches):
            if index == len(old.policy) and self.policy.has_dropout:
                old.policy.append(self._without_dropout(batch))
            place = index * self.processes.world_size + self.processes.rank
            seed_everything(derive_seed(self.seed, "dropout", step, epoch, place))
            known = old.policy[index] if index < len(old.policy) else None
            reference = None if old.reference is None else old.reference[index]
            logprobs = self._backward(batch.to(self.policy.device), packed.counts, known, reference, totals)
            if known is None:
                old.policy.append(logprobs)
        return old

    def _references(self, batches: Sequence[PackedBatch], totals: Totals) -> list[Tensor] | None:
        if self.beta == 0.0:
            return None
        began = time.perf_counter()
        references = [self.policy.reference_logprobs(batch, temperature=self.temperature) for batch in batches]
        if self.policy.device.type == "cuda":
            torch.cuda.synchronize(self.policy.device)
        totals.seconds_reference += time.perf_counter() - began
        return references

    @torch.no_grad()
    def _without_dropout(self, batch: PackedBatch) -> Tensor:
        return self.policy.token_logprobs(batch, temperature=self.temperature).logprobs

    def _backward(
        self, batch: PackedBatch, counts: StepCounts, old: Tensor | None, reference: Tensor | None, totals: Totals
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
        old = detached if old is None else old
        correction = None
        if self.sampler_correction is not None:
            correction = truncated_importance_weights(
                old, batch.sampling_logprobs, batch.mask, cap=self.sampler_correction
            )
        result = self.method.loss(
            output.logprobs,
            old,
            reference,
            advantages=batch.advantages,
            mask=batch.mask,
            weights=weights,
            beta=self.beta,
            correction=correction,
        )
        if not torch.isfinite(result.loss):
            raise RunError(
                f"the loss is {result.loss.item()}: lower the learning rate or max_grad_norm, or train in float32"
            )
        result.loss.backward()  # type: ignore[no-untyped-call]
        totals.add(result.loss.detach(), result.metrics, batch.mask, entropy=output.entropy, correction=correction)
        return detached

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the optimizer and of the budget."""
        return {"optimizer": self.optimizer.state_dict(), **self.budget.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state that `state_dict` returned."""
        self.optimizer.load_state_dict(dict(state["optimizer"]))
        self.budget.load_state_dict(state)

    def _optimizer_step(self) -> float:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for parameter in parameters:
            # A step without a trained group must do what one with zero gradients does.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.processes.sum_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm or float("inf"))
        if not torch.isfinite(norm):
            raise RunError(f"the gradient's norm is {norm.item()}: lower the learning rate, or train in float32")
        self.num_optimizer_steps += 1
        try:
            self.optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise RunError(
                f"out of memory for the optimizer's moments of {self.policy.num_trainable_parameters:,} parameters: "
                f"train fewer (lora_rank=16) or take a smaller model"
            ) from error
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)
