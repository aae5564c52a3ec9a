"""The training loop. Each line of `Trainer._step` opens one room of the package."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from grpo.checkpoint import CheckpointStore, Progress, Stateful, TrainingState
from grpo.distributed import Processes
from grpo.engines import Sampler, describe_difference, differing_tensors, sync_weights
from grpo.errors import StaleWeightsError
from grpo.evaluate import Evaluator
from grpo.groups import describe_groups
from grpo.interruption import Interruption
from grpo.machine import PeakMemory
from grpo.packing import PackedStep
from grpo.policy import Policy
from grpo.rollout import RolloutCollector
from grpo.seeding import derive_seed, seed_everything
from grpo.tracking import Journal
from grpo.update import Learner

__all__ = ["Outcome", "Plan", "Trainer"]

SECONDS_BETWEEN_CHECKPOINTS = 600.0
"""A run that has saved nothing for so long saves a checkpoint after its step, whatever its plan says."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The length of a run and the intervals of evaluation and checkpoints, in steps; 0 = never.

    Where checkpoints are saved at all, the best weights by evaluation so far are saved as well.
    """

    steps: int
    eval_every: int
    save_every: int
    seed: int
    eval_at_start: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of `Trainer.train`: a summary, and the signal that stopped the run before its last step, if any."""

    summary: Mapping[str, Any]
    signal_number: int | None = None


class Trainer:
    """Trains a policy: `train` is the loop, the parts do the work."""

    def __init__(
        self,
        *,
        policy: Policy,
        sampler: Sampler,
        collector: RolloutCollector,
        learner: Learner,
        evaluator: Evaluator | None,
        journal: Journal,
        checkpoints: CheckpointStore,
        plan: Plan,
        progress: Progress,
        parts: Mapping[str, Stateful],
        processes: Processes | None = None,
    ) -> None:
        self.policy = policy
        self.sampler = sampler
        self.collector = collector
        self.learner = learner
        self.evaluator = evaluator
        self.journal = journal
        self.checkpoints = checkpoints
        self.plan = plan
        self.progress = progress
        self.parts = parts
        self.processes = processes or Processes()
        self.peak_memory = PeakMemory(str(policy.device))
        self._saved_at, self._saved_step = time.monotonic(), progress.step
        self._settled = self._present()

    def train(self) -> Outcome:
        """Run the steps that are left, evaluate, save and sum up; on SIGINT or SIGTERM, finish the step and save.

        Before the first step, a signal raises KeyboardInterrupt or SystemExit.

        The steps before an exception are saved as well (`rescue`). A killed process loses the steps since its last
        checkpoint, which are those of about ten minutes at most.
        """
        with Interruption(self.journal.warn) as interruption, self.processes.stage("training"):
            if self.progress.step == 0 and self.plan.eval_at_start:
                with interruption.at_once():
                    self._evaluate()
            # A signal reaches one process only.
            while (stop := self.processes.max(interruption.signal_number or 0)) == 0 and self._is_unfinished():
                self._step(self.progress.step + 1)
                if _due(self.plan.eval_every, self.progress.step):
                    self._evaluate()
                if self._should_save() or self._is_overdue():
                    self._save()
            if self._is_unfinished():
                if self._saved_step != self.progress.step:
                    self._save()
                return Outcome(self.summary(), stop)
            self._evaluate()
            return Outcome(self._finish())

    def _is_unfinished(self) -> bool:
        return self.progress.step < self.plan.steps

    def _step(self, step: int) -> None:
        began = time.perf_counter()
        self.peak_memory.restart()
        seed_everything(derive_seed(self.plan.seed, "step", step))

        collected = self.collector.collect(step, self.progress.prompts_consumed)
        advantages = self.learner.advantages(collected.groups)
        packed = self.learner.pack(collected.groups, advantages)
        learned = self._update(packed, step)
        sync_weights(self.sampler, self.policy.export_weights(), version=step)

        seconds = time.perf_counter() - began
        described = self.processes.sum(describe_groups(collected.groups, ~advantages.has_gradient))
        self.progress = self.progress.after_step(
            prompts=collected.prompts_taken,
            completion_tokens=collected.tokens_generated,
            seconds=seconds,
        )
        metrics = {
            "step": step,
            **described.means(),
            **learned,
            **collected.metrics,
            "tokens_per_s": collected.tokens_generated / seconds,
            "seconds": seconds,
            "peak_memory_mb": self.peak_memory.since_restart_mb(),
        }
        self.journal.step(step, metrics, collected.groups, advantages.per_completion)
        self._settled = self._present()

    def _update(self, packed: PackedStep, step: int) -> Mapping[str, float]:
        """Update the policy; where the sampler had other weights than it, name the tensors."""
        try:
            return self.learner.update(packed, step)
        except StaleWeightsError as error:
            names = differing_tensors(self.sampler, self.policy.export_weights())
            raise StaleWeightsError(f"{error}; {describe_difference(names)}") from error

    def _evaluate(self) -> None:
        """Evaluate the present policy, unless this step was evaluated already."""
        step = self.progress.step
        if self.evaluator is None or self.progress.evaluated_at(step):
            return
        self.journal.doing("evaluating")
        began = time.perf_counter()
        epoch = self.collector.epoch(self.progress.prompts_consumed)
        metrics = self.evaluator.evaluate(step, self.plan.steps, epoch).metrics
        # All ranks save the best weights, or none does.
        value = self.processes.broadcast(metrics.get("accuracy", metrics.get("reward")))
        self.progress = self.progress.after_evaluation(metrics, value=value, seconds=time.perf_counter() - began)
        self.journal.evaluation(step, metrics)

    def rescue(self) -> int | None:
        """Save the last finished step after an exception and return its number; None if that is not possible.

        Saving is impossible before the first step, once the policy has moved on from the last finished one, and beside
        other processes, which have not failed in the same way.
        """
        moves, states = self._settled
        if self.progress.step == 0 or self.processes.world_size > 1 or moves != self.learner.num_optimizer_steps:
            return None
        if self._saved_step != self.progress.step:
            state = self._state()
            self.checkpoints.save(replace(state, parts={**state.parts, **states}), self.policy.save)
        return self.progress.step

    def _present(self) -> tuple[int, Mapping[str, Mapping[str, Any]]]:
        """Return the number of optimizer steps, and the states of the parts that change while a step is collected."""
        states = {name: part.state_dict() for name, part in self.parts.items() if part is not self.learner}
        return self.learner.num_optimizer_steps, copy.deepcopy(states)

    def _save(self) -> None:
        self.journal.doing("saving")
        self.checkpoints.save(self._state(), self.policy.save, is_best=self.progress.is_best)
        self._saved_at, self._saved_step = time.monotonic(), self.progress.step

    def _is_overdue(self) -> bool:
        return self.processes.any(time.monotonic() - self._saved_at > SECONDS_BETWEEN_CHECKPOINTS)

    def _should_save(self) -> bool:
        return _due(self.plan.save_every, self.progress.step) or (self.plan.save_every > 0 and self.progress.is_best)

    def _finish(self) -> Mapping[str, Any]:
        path = self.checkpoints.save_final(self._state(), self.policy.save)
        summary = {**self.summary(), "final_model": str(path)}
        self.journal.finish(summary)
        return summary

    def _state(self) -> TrainingState:
        return TrainingState.of(self.progress, self.parts)

    def summary(self) -> dict[str, Any]:
        """Return the entries of `summary.json` at this point of the run."""
        progress, totals = self.progress, self.collector.totals()
        return {
            "eval_before": progress.evaluation_at(0),
            "eval_after": progress.evaluation_at(progress.step) if progress.step else None,
            "steps": progress.step,
            "seconds": round(progress.elapsed_s, 3),
            "completion_tokens": progress.completion_tokens,
            "completion_tokens_per_s": round(progress.completion_tokens / max(progress.training_s, 1e-9), 1),
            "peak_memory_mb": round(self.peak_memory.of_all_time_mb(), 1),
            **({"reward_totals": totals} if totals else {}),
        }


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0
