"""Invariant 1 for the algorithm: how a step is cut into micro-batches does not change its gradient."""

import random

import pytest
import torch
from torch import Tensor

from grpo.algorithm import METHODS, Method, token_advantages
from grpo.packing import PackedBatch, StepCounts, count_step, pack
from grpo.types import Prompt, Rollout, Score, ScoredGroup, ScoredRollout

VOCABULARY, NUM_PROMPTS, GROUP_SIZE, MAX_TOKENS = 17, 5, 4, 12


class Bigram(torch.nn.Module):
    """A policy that looks at one token back, so that it can be read off a packed row and off a single one alike."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=generator))

    def logprobs(self, previous: Tensor, targets: Tensor) -> Tensor:
        return self.table[previous].log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)

    def packed_logprobs(self, batch: PackedBatch) -> Tensor:
        return self.logprobs(batch.token_ids[batch.predicted_by], batch.targets)


def random_step(seed: int) -> tuple[list[ScoredGroup], Tensor, Tensor]:
    """Groups with ragged completions, some tokens not sampled; their advantages [P, G, T]; a loss mask [P, G]."""
    draw = random.Random(seed)
    groups = []
    for row in range(NUM_PROMPTS):
        prompt_ids = tuple(draw.randrange(VOCABULARY) for _ in range(draw.randint(1, 6)))
        rollouts = []
        for _ in range(GROUP_SIZE):
            length = draw.randint(1, MAX_TOKENS)
            sampled = tuple(draw.random() < 0.8 for _ in range(length))
            rollout = Rollout(
                token_ids=tuple(draw.randrange(VOCABULARY) for _ in range(length)),
                sampled=sampled,
                logprobs=tuple(-4 * draw.random() * is_sampled for is_sampled in sampled),
                finish_reason="stop",
                policy_version=0,
            )
            rollouts.append(ScoredRollout(rollout, "", Score({}, {}, 0.0)))
        groups.append(ScoredGroup(Prompt(row, "", "", prompt_ids, {}), tuple(rollouts)))
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([[len(scored.rollout.token_ids) for scored in group.rollouts] for group in groups])
    advantages = token_advantages(torch.randn(NUM_PROMPTS, GROUP_SIZE, generator=generator), lengths, gamma=0.9)
    return groups, advantages, torch.rand(NUM_PROMPTS, GROUP_SIZE, generator=generator) < 0.8


def gradient(batches: list[PackedBatch], counts: StepCounts, method: Method) -> Tensor:
    """The gradient after one backward pass a micro-batch, the sampler's log-probabilities being the old ones."""
    policy, reference = Bigram(seed=1), Bigram(seed=2)
    for batch in batches:
        weights = method.token_weights(
            batch.mask, num_rollouts=counts.num_rollouts, num_tokens=counts.num_tokens, max_tokens=MAX_TOKENS
        )
        method.loss(
            policy.packed_logprobs(batch),
            batch.sampling_logprobs,
            reference.packed_logprobs(batch).detach(),
            advantages=batch.advantages,
            mask=batch.mask,
            weights=weights,
            beta=0.1,
        ).loss.backward()
    assert policy.table.grad is not None
    return policy.table.grad


def padded_gradient(groups: list[ScoredGroup], advantages: Tensor, loss_mask: Tensor, method: Method) -> Tensor:
    """The gradient of the whole step at once, laid out by hand as one padded batch of completions."""
    rows = [(p, g) for p in range(NUM_PROMPTS) for g in range(GROUP_SIZE)]
    shape = (len(rows), advantages.shape[2])
    previous, targets = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    mask, old = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape)
    for b, (p, g) in enumerate(rows):
        rollout = groups[p].rollouts[g].rollout
        length = len(rollout.token_ids)
        previous[b, :length] = torch.tensor([groups[p].prompt.token_ids[-1], *rollout.token_ids[:-1]])
        targets[b, :length] = torch.tensor(rollout.token_ids)
        mask[b, :length] = torch.tensor(rollout.sampled) & loss_mask[p, g]
        old[b, :length] = torch.tensor(rollout.logprobs)
    policy, reference = Bigram(seed=1), Bigram(seed=2)
    method.loss(
        policy.logprobs(previous, targets),
        old,
        reference.logprobs(previous, targets).detach(),
        advantages=advantages.flatten(0, 1),
        mask=mask,
        weights=method.token_weights(mask, num_rollouts=len(rows), num_tokens=int(mask.sum()), max_tokens=MAX_TOKENS),
        beta=0.1,
    ).loss.backward()
    assert policy.table.grad is not None
    return policy.table.grad


@pytest.mark.parametrize("name", METHODS)
def test_token_budget_and_number_of_micro_batches_do_not_change_the_gradient(name):
    groups, advantages, loss_mask = random_step(seed=3)
    counts = count_step(groups, loss_mask=loss_mask)
    expected = padded_gradient(groups, advantages, loss_mask, METHODS[name])
    assert expected.abs().max() > 1e-3
    numbers_of_batches = set()
    for max_tokens in (None, 100, 30, 1):
        for min_batches in (1, 3, 7, 100):
            batches = pack(groups, advantages, max_tokens=max_tokens, min_batches=min_batches, loss_mask=loss_mask)
            numbers_of_batches.add(len(batches))
            torch.testing.assert_close(gradient(batches, counts, METHODS[name]), expected, atol=1e-6, rtol=1e-4)
    assert {1, 3, 7} < numbers_of_batches


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", METHODS)
def test_order_of_micro_batches_does_not_change_the_gradient(name, seed):
    groups, advantages, _ = random_step(seed)
    batches = pack(groups, advantages, max_tokens=25)
    expected = gradient(batches, count_step(groups), METHODS[name])
    random.Random(seed).shuffle(batches)
    torch.testing.assert_close(gradient(batches, count_step(groups), METHODS[name]), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_number_of_processes_does_not_change_the_gradient(name):
    groups, advantages, loss_mask = random_step(seed=4)
    whole = pack(groups, advantages, max_tokens=None, loss_mask=loss_mask)
    expected = gradient(whole, count_step(groups, loss_mask=loss_mask), METHODS[name])
    shards = [slice(0, 2), slice(2, 5)]
    counts = StepCounts(0, 0)
    for shard in shards:
        counts += count_step(groups[shard], loss_mask=loss_mask[shard])
    reduced = sum(
        gradient(
            pack(groups[shard], advantages[shard], max_tokens=40, loss_mask=loss_mask[shard]), counts, METHODS[name]
        )
        for shard in shards
    )
    torch.testing.assert_close(reduced, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_without_kl_leaving_out_completions_without_advantage_does_not_change_the_gradient(name):
    groups, advantages, _ = random_step(seed=5)
    advantages[1] = 0.0
    advantages[3, 2] = 0.0
    trained = (advantages != 0).any(dim=-1)
    counts = count_step(groups)
    method = METHODS[name]

    def policy_gradient(batches: list[PackedBatch]) -> Tensor:
        policy = Bigram(seed=1)
        for batch in batches:
            weights = method.token_weights(
                batch.mask, num_rollouts=counts.num_rollouts, num_tokens=counts.num_tokens, max_tokens=MAX_TOKENS
            )
            method.loss(
                policy.packed_logprobs(batch),
                batch.sampling_logprobs,
                None,
                advantages=batch.advantages,
                mask=batch.mask,
                weights=weights,
            ).loss.backward()
        assert policy.table.grad is not None
        return policy.table.grad

    everything = pack(groups, advantages, max_tokens=40)
    only_trained = pack(groups, advantages, max_tokens=40, trained=trained)
    assert sum(len(batch.mask) for batch in only_trained) == NUM_PROMPTS * GROUP_SIZE - GROUP_SIZE - 1
    torch.testing.assert_close(policy_gradient(only_trained), policy_gradient(everything), atol=1e-6, rtol=1e-4)
