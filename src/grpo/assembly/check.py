"""The reward check of a recipe: its rewards on its own rows and on completions of its own model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from grpo.assembly.assembly import Parts, assemble
from grpo.assembly.parts import make_collector, number_of_steps
from grpo.config import GRPOConfig
from grpo.errors import ConfigError
from grpo.reward_check import LONGEST, CheckReport, check_rewards
from grpo.rewards import RewardSuite, resolve_rewards
from grpo.tasks import PromptOrder
from grpo.types import Group, Prompt, ScoredGroup

__all__ = ["check"]


def check(config: GRPOConfig, *, sample_groups: int = 4, rows: int = 16, repeats: int = 3) -> CheckReport:
    """Return the configured rewards of right answers and of junk, with findings; nothing is written or trained.

    Groups are sampled for the first prompts of the run.

    Args:
        sample_groups: groups to sample from the model; 0: none, so no forecast of groups with spread.
        rows: training rows to try the rewards on, at most.
        repeats: calls with the same texts.

    Raises:
        InputError: the configuration, data, model or a reward cannot be used.
    """
    if sample_groups < 0 or rows < 1 or repeats < 1:
        raise ConfigError(
            f"a check of rewards got sample_groups={sample_groups}, rows={rows}, repeats={repeats}: "
            f"sample_groups may be 0, the others are at least 1"
        )
    # The KL term has no part in this, so no reference model is loaded for it.
    parts = assemble(config.replace(beta=0.0))
    try:
        return _check(parts, sample_groups, rows, repeats)
    finally:
        parts.rewards.close()


def _check(parts: Parts, sample_groups: int, rows: int, repeats: int) -> CheckReport:
    config, train = parts.config, parts.prompts.train
    groups = _sample(parts, sample_groups) if sample_groups else ()
    return check_rewards(
        parts.rewards,
        PromptOrder(train, config.optimizer.seed, shuffle=config.data.shuffle).take(0, min(rows, len(train))),
        answer_format=parts.task.answer_format,
        groups=[_without_rewards(group) for group in groups] or None,
        texts=[member.text for group in groups for member in group.rollouts] or None,
        truncated=config.rollout.truncated,
        combine=parts.method.combine,
        repeats=repeats,
        batch_size=config.rollout.prompts_per_step * config.rollout.group_size,
        max_steps=number_of_steps(config, len(train)),
        seed=config.optimizer.seed,
        encode=lambda text: parts.policy.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"],
        # Longer texts are beyond what the policy can write.
        max_characters=min(LONGEST, round(config.rollout.max_completion_length * _characters_a_token(train))),
    )


def _without_rewards(group: ScoredGroup) -> Group:
    """Return a group without the rewards of its environment, which texts of probes do not get."""
    return Group(group.prompt, tuple(replace(member.rollout, rewards={}) for member in group.rollouts))


def _characters_a_token(prompts: Sequence[Prompt]) -> float:
    """Return the mean number of characters that a token of the prompts has, at least 1."""
    characters = sum(len(prompt.text) for prompt in prompts)
    tokens = sum(len(prompt.token_ids) for prompt in prompts)
    return max(1.0, characters / tokens)


def _sample(parts: Parts, count: int) -> Sequence[ScoredGroup]:
    """Return the first groups of the run, scored by a reward that is always 0."""
    config = parts.config.replace(prompts_per_step=count, zero_variance_groups="keep")
    no_rewards = RewardSuite(resolve_rewards([_zero]))
    collector = make_collector(config, parts.episodes, parts.prompts.train, no_rewards, parts.method, steps=1)
    return collector.collect(1, 0).groups


def _zero(completions: Sequence[Any]) -> list[float]:
    return [0.0] * len(completions)
