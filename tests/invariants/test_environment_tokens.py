"""Tokens that an environment wrote are read by the policy and are part of nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from grpo.algorithm import METHODS
from grpo.groups import describe_groups
from grpo.policy import Policy
from grpo.types import Prompt, Rollout, Score, ScoredGroup, ScoredRollout
from grpo.update import Learner

MAX_TOKENS = 9


def plain_logits(policy: Policy, prompt: Prompt, rollout: Rollout) -> Tensor:
    """Return [T, V] float32, the logits of each token after the prompt: one sequence, nothing of this package."""
    ids = torch.tensor([[*prompt.token_ids, *rollout.token_ids]])
    logits: Tensor = policy.model(input_ids=ids, use_cache=False).logits[0].float()
    return logits[len(prompt.token_ids) - 1 : -1]


def episodes(policy: Policy) -> list[ScoredGroup]:
    """Return groups of different sizes whose rollouts have tokens that were not sampled, as a turn of a user has."""
    draw = random.Random(0)
    groups = []
    for row, size in enumerate((4, 2, 3)):
        prompt = Prompt(row, "", "", tuple(draw.randrange(30) for _ in range(draw.randint(2, 6))), {})
        members = []
        for _ in range(size):
            length = draw.randint(3, MAX_TOKENS)
            sampled = (True, *(draw.random() < 0.6 for _ in range(length - 2)), True)
            rollout = Rollout(tuple(draw.randrange(30) for _ in sampled), sampled, (0.0,) * length, "stop", 0)
            with torch.no_grad():
                logprobs = plain_logits(policy, prompt, rollout).log_softmax(-1)
            own = logprobs.gather(1, torch.tensor(rollout.token_ids)[:, None])[:, 0].tolist()
            logged = tuple(value if here else 0.0 for value, here in zip(own, sampled, strict=True))
            members.append(ScoredRollout(replace(rollout, logprobs=logged), "", Score({}, {}, draw.random())))
        groups.append(ScoredGroup(prompt, tuple(members)))
    return groups


def flat(groups: list[ScoredGroup]) -> Iterator[tuple[Prompt, Rollout]]:
    return ((group.prompt, member.rollout) for group in groups for member in group.rollouts)


@pytest.mark.parametrize("budget", [None, 25])
@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.scale != "whiten"])
def test_the_packed_gradient_of_episodes_is_that_of_the_plain_forward(
    name: str, budget: int | None, tiny_policy: Policy
) -> None:
    groups, method = episodes(tiny_policy), METHODS[name]
    parameters = tiny_policy.trainable_parameters()
    learner = Learner(
        tiny_policy,
        torch.optim.SGD(parameters, lr=1.0),
        lambda step: 1.0,
        method,
        beta=0.0,
        gamma=1.0,
        temperature=1.0,
        max_completion_length=MAX_TOKENS,
        epochs_per_step=1,
        max_grad_norm=0.0,
        skip_zero_variance_groups=True,
        truncated="keep",
        tokens_per_micro_batch=budget,
        min_micro_batches=1,
        mismatch_limit=1e-3,
        seed=0,
    )
    advantages = learner.advantages(groups)
    packed = learner.pack(groups, advantages)
    before = [parameter.detach().clone() for parameter in parameters]
    metrics = learner.update(packed, 1)
    moved = [parameter.detach() - old for parameter, old in zip(parameters, before, strict=True)]
    with torch.no_grad():
        for parameter, old in zip(parameters, before, strict=True):
            parameter.copy_(old)

    rollouts = list(flat(groups))
    num_sampled = sum(sum(rollout.sampled) for _, rollout in rollouts)
    assert packed.counts.num_rollouts == len(rollouts) == 9
    assert packed.counts.num_tokens == num_sampled < sum(len(rollout.token_ids) for _, rollout in rollouts)
    assert describe_groups(groups, ~advantages.has_gradient).num_tokens == num_sampled

    # By hand: each group's advantages by themselves, each rollout's forward by itself, in one padded table.
    totals = [torch.tensor([[member.score.total for member in group.rollouts]]) for group in groups]
    by_rollout = torch.cat([method.group_advantages(row, row.isfinite())[0] for row in totals])
    shape = (len(rollouts), MAX_TOKENS)
    logprobs, old, entropies = torch.zeros(shape), torch.zeros(shape), []
    mask = torch.zeros(shape, dtype=torch.bool)
    for b, (prompt, rollout) in enumerate(rollouts):
        everything = plain_logits(tiny_policy, prompt, rollout).log_softmax(-1)
        length, sampled = len(rollout.token_ids), torch.tensor(rollout.sampled)
        mask[b, :length] = sampled
        logprobs[b, :length] = everything.gather(1, torch.tensor(rollout.token_ids)[:, None])[:, 0]
        old[b] = logprobs[b].detach()
        entropies.append(-(everything.exp() * everything).sum(-1).detach()[sampled])
    weights = method.token_weights(mask, num_rollouts=9, num_tokens=num_sampled, max_tokens=MAX_TOKENS)
    result = method.loss(logprobs, old, None, advantages=by_rollout[:, None].expand(shape), mask=mask, weights=weights)
    expected = torch.autograd.grad(result.loss, parameters)

    scale = max(float(gradient.abs().max()) for gradient in expected)
    assert scale > 1e-4
    for change, gradient in zip(moved, expected, strict=True):
        torch.testing.assert_close(-change, gradient, atol=2e-5 * max(scale, 1.0), rtol=1e-3)
    assert metrics["loss"] == pytest.approx(float(result.loss.detach()), abs=1e-5)
    assert metrics["entropy"] == pytest.approx(float(torch.cat(entropies).mean()), rel=1e-4)
    assert metrics["sampler_mismatch"] < 1e-5
