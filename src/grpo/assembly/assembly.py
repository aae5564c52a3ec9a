"""The parts of a run, assembled and checked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from grpo.algorithm import Method
from grpo.assembly.budgets import take_budgets
from grpo.assembly.data import Prompts, evaluation_task, make_prompts, make_task
from grpo.assembly.objects import PythonObjects
from grpo.assembly.parts import (
    make_episodes,
    make_method,
    make_policy,
    make_rewards,
    offer_base,
    sampling_params,
    take_threads,
    with_fitting_reward,
)
from grpo.assembly.run_record import with_absolute_paths
from grpo.config import GRPOConfig
from grpo.engines import Sampler
from grpo.errors import ConfigError
from grpo.evaluate import Evaluator
from grpo.machine import keep_freed_memory
from grpo.policy import Policy
from grpo.rewards import Backbones, RewardSuite
from grpo.rewards.code import verifier_as_rewarded
from grpo.rollout import EpisodeCollector
from grpo.tasks import Task

__all__ = ["Parts", "assemble"]


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a run, made before anything is written."""

    config: GRPOConfig
    objects: PythonObjects
    task: Task
    policy: Policy
    prompts: Prompts
    rewards: RewardSuite
    method: Method
    episodes: EpisodeCollector
    evaluator: Evaluator | None
    notes: Sequence[str] = ()

    @property
    def sampler(self) -> Sampler:
        """The sampler for training and evaluation."""
        return self.episodes.sampler


def assemble(
    config: GRPOConfig,
    objects: PythonObjects | None = None,
    *,
    policy: Policy | None = None,
    only_evaluate: bool = False,
) -> Parts:
    """Return the parts of a run; errors in the input show here, before anything is written.

    Args:
        policy: made of the same configuration before; None: a new one.
        only_evaluate: rows to train on may be missing.
    """
    objects = objects or PythonObjects()
    config = with_absolute_paths(take_threads(config))
    keep_freed_memory()
    if config.rollout.temperature == 0 and not only_evaluate:
        raise ConfigError("temperature is 0: all completions of a group would be the same; train with one above 0")
    method = make_method(config)
    task = evaluation_task(config, objects) if only_evaluate else make_task(config, objects)
    if task.eval_size_wanted is not None:
        # Stored in the run's configuration, so that a resumed run holds out the same rows.
        config = config.replace(eval_size=len(task.evaluation))
    # Made at first use: errors in rewards show before a large model is loaded.
    the_policy = cache(lambda: make_policy(config, objects) if policy is None else policy)
    backbones = Backbones()
    offer_base(backbones, config, objects, the_policy)
    rows = (*task.train, *task.evaluation)
    columns = [row.columns for row in rows]
    notes: tuple[str, ...] = ()
    if objects.rewards is None:
        config, notes = with_fitting_reward(config, columns)
    rewards = make_rewards(config, objects, columns, backbones, places=[row.place for row in rows])
    policy = the_policy()
    prompts = make_prompts(config, task, policy)
    config = take_budgets(config, policy, [*prompts.train, *prompts.evaluation], trains=not only_evaluate)
    episodes = make_episodes(config, objects, policy)
    evaluator = None
    if prompts.evaluation:
        evaluator = Evaluator(
            episodes,
            prompts.evaluation,
            rewards=rewards,
            verifier=verifier_as_rewarded(task.verifier, rewards.functions),
            is_well_formed=task.answer_format.is_strict if task.answer_format.blocks else None,
            sampling=sampling_params(config),
            samples=config.output.eval_samples,
            seed=config.optimizer.seed,
        )
    return Parts(config, objects, task, policy, prompts, rewards, method, episodes, evaluator, notes)
