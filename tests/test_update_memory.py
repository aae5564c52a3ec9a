from __future__ import annotations

import pytest
import torch

from grpo.packing import PackedBatch
from grpo.policy import Policy, load_policy
from grpo.policy.flash import flash_works
from grpo.update import activation_bytes_per_token, is_out_of_memory, token_budget
from grpo.update.memory import _probe, _saved_bytes

SHAPE = {"prompt_length": 40, "completion_length": 60, "group_size": 8}


def test_what_torch_raises_when_memory_cannot_be_had_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def assert_is_a_row(row: PackedBatch) -> None:
    (segment,) = row.segments
    assert len(row.token_ids) == len(row.positions) == segment.prompt_length + sum(segment.completion_lengths)
    assert int(row.predicted_by.max()) == len(row.token_ids) - 2


@pytest.mark.parametrize("shape", [(40, 60, 8), (1000, 32, 32), (1, 2000, 2), (5000, 1, 2)])
def test_short_rows_have_the_proportions_of_long_groups(shape: tuple[int, int, int]) -> None:
    row = _probe(192, *shape)
    assert_is_a_row(row)
    assert 96 <= len(row.token_ids) <= 300
    prompt, completion, size = shape
    share = prompt / (prompt + size * completion)
    assert row.segments[0].prompt_length / len(row.token_ids) == pytest.approx(share, abs=0.2)


def test_two_short_rows_tell_what_a_long_one_keeps_for_its_backward(tiny_policy: Policy) -> None:
    each = activation_bytes_per_token(tiny_policy, **SHAPE)
    row = _probe(1500, *SHAPE.values())
    assert _saved_bytes(tiny_policy, row) == pytest.approx(each * len(row.token_ids), rel=0.3)
    # Every layer keeps several tensors of the hidden size at the least.
    config = tiny_policy.model.config
    assert each > 4 * 4 * config.hidden_size * config.num_hidden_layers


def test_the_first_measurement_of_a_process_gives_what_later_ones_give(tiny_policy: Policy) -> None:
    activation_bytes_per_token(tiny_policy, **SHAPE)
    later = activation_bytes_per_token(tiny_policy, **SHAPE)
    flash_works.cache_clear()
    assert activation_bytes_per_token(tiny_policy, **SHAPE) == later


def test_recomputed_activations_take_less_and_the_model_stays_as_it_was() -> None:
    plain = load_policy("tiny", dtype="float32", device="cpu")
    frugal = load_policy("tiny", dtype="float32", device="cpu", gradient_checkpointing=True)
    flags = [getattr(module, "gradient_checkpointing", None) for module in frugal.model.modules()]
    assert True in flags
    each = activation_bytes_per_token(plain, **SHAPE)
    config = plain.model.config
    # Each layer's input stays, in float32, and one layer at a time is computed again.
    kept = 4 * config.hidden_size * config.num_hidden_layers + each / config.num_hidden_layers
    assert activation_bytes_per_token(frugal, **SHAPE) == pytest.approx(kept, rel=0.02)
    assert kept < each / 2
    assert [getattr(module, "gradient_checkpointing", None) for module in frugal.model.modules()] == flags


def test_measuring_leaves_no_gradients(tiny_policy: Policy) -> None:
    activation_bytes_per_token(tiny_policy, **SHAPE)
    assert all(parameter.grad is None for parameter in tiny_policy.trainable_parameters())


def test_the_budget_is_a_power_of_two_that_fits_into_half_of_what_is_free(tiny_policy: Policy) -> None:
    each = activation_bytes_per_token(tiny_policy, **SHAPE)
    training = 12 * tiny_policy.num_trainable_parameters

    def budget(free: float | None) -> int:
        return token_budget(tiny_policy, free_bytes=free, **SHAPE)

    assert budget(training + 2 * each * 5000) == 4096
    assert budget(training + 2 * each * 4097) == 4096
    assert budget(training + 2 * each * 4090) == 2048
    assert budget(0.0) == budget(training) == 256
    assert budget(1e15) == budget(None)
    assert budget(None) * each <= 256 * 2**20 < 2 * budget(None) * each


def test_a_typical_group_is_not_cut_where_memory_allows(tiny_policy: Policy) -> None:
    long = {"prompt_length": 6000, "completion_length": 100, "group_size": 16}
    assert token_budget(tiny_policy, free_bytes=None, **long) >= 6000 + 16 * 100
    assert token_budget(tiny_policy, free_bytes=0.0, **long) == 256
