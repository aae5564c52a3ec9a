import random

import pytest
import torch
from torch import Tensor

from grpo.errors import DataError
from grpo.packing import PackedBatch, PackedStep, StepCounts, count_step, pack
from grpo.types import Prompt, Rollout, Score, ScoredGroup, ScoredRollout
from grpo.update.old_logprobs import regroup


def scored(token_ids: tuple[int, ...], sampled: tuple[bool, ...] | None = None) -> ScoredRollout:
    sampled = (True,) * len(token_ids) if sampled is None else sampled
    rollout = Rollout(token_ids, sampled, tuple(-0.01 * token for token in token_ids), "stop", 0)
    return ScoredRollout(rollout, "", Score({}, {}, 0.0))


def group(row: int, prompt_ids: tuple[int, ...], *completions: tuple[int, ...]) -> ScoredGroup:
    return ScoredGroup(Prompt(row, "", "", prompt_ids, {}), tuple(scored(ids) for ids in completions))


def random_groups(seed: int, *, num_prompts: int = 7, group_size: int = 5) -> tuple[list[ScoredGroup], Tensor]:
    draw = random.Random(seed)

    def tokens(most: int) -> tuple[int, ...]:
        return tuple(draw.randrange(1, 100) for _ in range(draw.randint(1, most)))

    groups = [group(p, tokens(20), *(tokens(15) for _ in range(group_size))) for p in range(num_prompts)]
    advantages = torch.randn(num_prompts, group_size, 15, generator=torch.Generator().manual_seed(seed))
    return groups, advantages


def completions_in(batches: list[PackedBatch]) -> list[int]:
    return [index for batch in batches for index in batch.rollout_index.tolist()]


def assert_rows_hold_what_they_say(batches: list[PackedBatch], groups: list[ScoredGroup], advantages: Tensor) -> None:
    """Read every completion back from its row, token by token."""
    group_size = advantages.shape[1]
    for batch in batches:
        b = 0
        end = 0
        for segment in batch.segments:
            assert segment.start == end
            p = int(batch.rollout_index[b]) // group_size
            prompt = groups[p].prompt.token_ids
            assert batch.token_ids[segment.start : segment.start + segment.prompt_length].tolist() == list(prompt)
            assert batch.positions[segment.start : segment.start + segment.prompt_length].tolist() == list(
                range(len(prompt))
            )
            end += segment.prompt_length
            for length in segment.completion_lengths:
                assert int(batch.rollout_index[b]) // group_size == p
                g = int(batch.rollout_index[b]) % group_size
                rollout = groups[p].rollouts[g].rollout
                assert length == len(rollout.token_ids)
                assert batch.token_ids[end : end + length].tolist() == list(rollout.token_ids)
                assert batch.positions[end : end + length].tolist() == list(range(len(prompt), len(prompt) + length))
                before = [segment.start + len(prompt) - 1, *range(end, end + length - 1)]
                assert batch.predicted_by[b, :length].tolist() == before
                assert batch.targets[b, :length].tolist() == list(rollout.token_ids)
                assert batch.mask[b, :length].tolist() == list(rollout.sampled)
                torch.testing.assert_close(batch.sampling_logprobs[b, :length], torch.tensor(rollout.logprobs))
                assert torch.equal(batch.advantages[b, :length], advantages[p, g, :length])
                for padded in (batch.predicted_by, batch.targets, batch.mask, batch.sampling_logprobs):
                    assert not padded[b, length:].any()
                assert not batch.advantages[b, length:].any()
                b += 1
                end += length
        assert b == len(batch.rollout_index) == len(batch.mask)
        assert end == len(batch.token_ids) == len(batch.positions)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("max_tokens", [None, 200, 60, 30, 10])
@pytest.mark.parametrize("min_batches", [1, 4, 50])
def test_every_completion_is_packed_once_and_reads_back(seed, max_tokens, min_batches):
    groups, advantages = random_groups(seed)
    batches = pack(groups, advantages, max_tokens=max_tokens, min_batches=min_batches)
    assert sorted(completions_in(batches)) == list(range(35))
    assert_rows_hold_what_they_say(batches, groups, advantages)
    assert len(batches) >= min(min_batches, 35)
    for batch in batches:
        alone = len(batch.rollout_index) == 1
        assert max_tokens is None or len(batch.token_ids) <= max_tokens or alone


def test_a_group_that_fits_stays_together():
    groups, advantages = random_groups(0)
    batches = pack(groups, advantages, max_tokens=95)
    assert len(batches) > 1
    assert sum(len(batch.segments) for batch in batches) == len(groups)


def test_a_group_beyond_the_budget_repeats_its_prompt():
    groups = [group(0, (1, 2, 3), (4, 5), (6, 7), (8,), (9, 10))]
    batches = pack(groups, torch.zeros(1, 4, 2), max_tokens=7)
    assert [batch.token_ids.tolist() for batch in batches] == [[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 8, 9, 10]]
    assert completions_in(batches) == [0, 1, 2, 3]


def test_a_completion_beyond_the_budget_gets_a_row_of_its_own():
    groups = [group(0, (1, 2), (3,), tuple(range(50)), (4,))]
    batches = pack(groups, torch.zeros(1, 3, 50), max_tokens=10)
    assert sorted(batch.rollout_index.tolist() for batch in batches) == [[0, 2], [1]]


def test_several_groups_share_a_row():
    groups = [group(0, (1, 2), (3,)), group(1, (4,), (5, 6)), group(2, (7,) * 5, (8,))]
    batches = pack(groups, torch.zeros(3, 1, 2), max_tokens=6)
    assert [batch.token_ids.tolist() for batch in batches] == [[7, 7, 7, 7, 7, 8], [1, 2, 3, 4, 5, 6]]
    assert batches[1].positions.tolist() == [0, 1, 2, 0, 1, 2]
    assert batches[1].predicted_by.tolist() == [[1, 0], [3, 4]]


def test_more_rows_than_completions_cannot_be_forced():
    groups = [group(0, (1,), (2,), (3,)), group(1, (4,), (5,))]
    assert len(pack(groups, torch.zeros(2, 2, 1), max_tokens=None, min_batches=10)) == 3


def test_groups_are_split_only_when_there_are_not_enough_of_them():
    groups, advantages = random_groups(1)
    batches = pack(groups, advantages, max_tokens=None, min_batches=4)
    assert len(batches) == 4
    assert sum(len(batch.segments) for batch in batches) == len(groups)
    sizes = [len(batch.token_ids) for batch in batches]
    assert max(sizes) < sum(sizes) / 2


def test_untrained_and_masked_out_completions_are_left_out():
    groups, advantages = random_groups(2)
    generator = torch.Generator().manual_seed(0)
    trained = torch.rand(7, 5, generator=generator) < 0.6
    loss_mask = torch.rand(7, 5, generator=generator) < 0.6
    trained[3] = False
    batches = pack(groups, advantages, max_tokens=60, trained=trained, loss_mask=loss_mask)
    assert sorted(completions_in(batches)) == (trained & loss_mask).flatten().nonzero().flatten().tolist()
    assert_rows_hold_what_they_say(batches, groups, advantages)


def test_completions_without_sampled_tokens_are_left_out():
    prompt = Prompt(0, "", "", (1, 2), {})
    rollouts = (scored(()), scored((3, 4), (False, False)), scored((5, 6, 7), (True, False, True)))
    batches = pack([ScoredGroup(prompt, rollouts)], torch.ones(1, 3, 3), max_tokens=None)
    assert completions_in(batches) == [2]
    assert batches[0].mask.tolist() == [[True, False, True]]
    assert batches[0].token_ids.tolist() == [1, 2, 5, 6, 7]


def test_nothing_to_train_on_gives_no_batches():
    groups, advantages = random_groups(3)
    nothing = torch.zeros(7, 5, dtype=torch.bool)
    assert pack(groups, advantages, max_tokens=100, min_batches=3, trained=nothing) == []
    assert pack([], torch.zeros(0, 5, 0), max_tokens=100) == []


def test_packing_is_deterministic():
    groups, advantages = random_groups(4)
    first, second = (pack(groups, advantages, max_tokens=60, min_batches=9) for _ in range(2))
    assert [batch.token_ids.tolist() for batch in first] == [batch.token_ids.tolist() for batch in second]
    assert completions_in(first) == completions_in(second)


def test_an_empty_prompt_is_refused_with_its_row():
    with pytest.raises(DataError, match="prompt of row 12 has no tokens"):
        pack([group(12, (), (1,))], torch.zeros(1, 1, 1), max_tokens=None)


def test_a_batch_moves_to_a_device_whole():
    groups, advantages = random_groups(5)
    (batch,) = pack(groups, advantages, max_tokens=None)
    moved = batch.to("meta")
    for name in ("token_ids", "positions", "predicted_by", "targets", "mask", "sampling_logprobs", "advantages"):
        assert getattr(moved, name).device.type == "meta"
        assert getattr(moved, name).shape == getattr(batch, name).shape
    assert moved.rollout_index.device.type == "meta"
    assert moved.segments == batch.segments


def test_tensors_have_the_documented_types():
    (batch,) = pack(*random_groups(6), max_tokens=None)
    for name in ("token_ids", "positions", "predicted_by", "targets", "rollout_index"):
        assert getattr(batch, name).dtype == torch.long
    assert batch.mask.dtype == torch.bool
    assert batch.sampling_logprobs.dtype == batch.advantages.dtype == torch.float32


def test_masked_out_completions_count_as_completions_without_tokens():
    groups = [
        group(0, (1,), (2, 3), (4,)),
        ScoredGroup(Prompt(1, "", "", (5,), {}), (scored((6, 7, 8), (True, False, True)), scored((9,)))),
    ]
    assert count_step(groups) == StepCounts(num_rollouts=4, num_tokens=6)
    loss_mask = torch.tensor([[False, True], [True, True]])
    assert count_step(groups, loss_mask=loss_mask) == StepCounts(num_rollouts=4, num_tokens=4)
    assert StepCounts(1, 2) + StepCounts(3, 4) == StepCounts(4, 6)


def test_values_of_completions_go_with_them_into_other_rows():
    groups, advantages = random_groups(seed=6)
    before = pack(groups, advantages, max_tokens=None)
    for max_tokens in (90, 40, 1):
        after = pack(groups, advantages, max_tokens=max_tokens)
        regrouped = regroup([batch.sampling_logprobs for batch in before], before, after)
        assert len(after) > 1
        for values, batch in zip(regrouped, after, strict=True):
            assert torch.equal(values, batch.sampling_logprobs)
        back = regroup(regrouped, after, before)
        assert torch.equal(back[0], before[0].sampling_logprobs)


def test_a_step_can_be_cut_until_each_row_has_one_completion():
    groups, advantages = random_groups(seed=7, num_prompts=2)
    step = PackedStep(
        pack(groups, advantages, max_tokens=None),
        count_step(groups),
        lambda budget: pack(groups, advantages, max_tokens=budget),
    )
    assert step.can_be_cut
    assert step.most_tokens == len(step.batches[0].token_ids)
    cut = step.under(1)
    assert not cut.can_be_cut
    assert len(cut.batches) == 10
    assert cut.counts == step.counts
    assert PackedStep([], step.counts, step.recut).most_tokens == 0
