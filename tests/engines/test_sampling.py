"""Drawing tokens: distribution, streams, cuts and edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from grpo.engines.native import sampling
from grpo.engines.native.sampling import SamplingRows, draw, stream_of, token_logprobs, uniforms
from grpo.errors import RunError

ALMOST_ONE = 1 - 2.0**-53


def sampling_rows(
    rows: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> SamplingRows:
    return SamplingRows(
        np.full(rows, temperature), np.full(rows, top_k, dtype=np.int64), np.full(rows, top_p), np.full(rows, min_p)
    )


def sample(logits: Tensor, uniform: np.ndarray, how: SamplingRows) -> tuple[Tensor, Tensor]:
    """Sample from a copy of `logits`, which would be overwritten."""
    return sampling.sample(logits.clone(), uniform, how)


def streams(count: int) -> np.ndarray:
    return np.array([stream_of(seed) for seed in range(count)], dtype=np.uint64)


def zeros(count: int) -> np.ndarray:
    return np.zeros(count, dtype=np.int64)


def random_logits(vocabulary: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(seed))


def test_streams_are_those_of_splitmix64() -> None:
    """The first numbers of the generator whose state is 1234567, as its reference implementation gives them."""
    reference = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert stream_of(1234567) == reference[0]
    assert stream_of(1234567 + 2**64) == reference[0]
    found = uniforms(np.full(4, 1234567, dtype=np.uint64), np.arange(4))
    assert found.tolist() == [(number >> 11) / 2**53 for number in reference]


def test_uniforms_are_uniform_over_seeds_and_over_positions() -> None:
    over_seeds = uniforms(streams(20_000), zeros(20_000))
    over_positions = uniforms(np.full(20_000, stream_of(7), dtype=np.uint64), np.arange(20_000))
    for values in (over_seeds, over_positions):
        assert values.min() >= 0
        assert values.max() < 1
        assert stats.kstest(values, "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.03


def test_any_integer_is_a_seed_and_neighbours_have_unrelated_streams() -> None:
    seeds = [0, 1, 2, -1, 2**63 - 1, 2**63, 2**64 - 1 - 5]
    assert len({stream_of(seed) for seed in seeds}) == len(seeds)
    shifted = uniforms(np.array([stream_of(1)], dtype=np.uint64), np.array([0]))
    golden_apart = uniforms(np.array([stream_of(1 - 0x9E3779B97F4A7C15)], dtype=np.uint64), np.array([1]))
    assert shifted != golden_apart


@pytest.mark.parametrize("vocabulary", [1, 2, 5, 33, 500, 1024, 5003])
def test_draw_inverts_the_cumulative_distribution(vocabulary: int) -> None:
    weights = random_logits(vocabulary).exp().expand(2000, -1)
    uniform = torch.rand(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cumulative = weights[0].double().cumsum(0)
    expected = torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)
    tokens = draw(weights, uniform)
    # Sums of blocks are rounded to float32: a uniform within 1e-6 of a boundary may fall on its other side.
    assert (tokens != expected).sum() <= 2
    assert (tokens - expected).abs().max() <= 1


@pytest.mark.parametrize("uniform", [0.0, 1e-300, 0.5, ALMOST_ONE])
@pytest.mark.parametrize("vocabulary", [3, 64, 1000, 4099])
def test_a_token_of_probability_zero_is_never_drawn(vocabulary: int, uniform: float) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    weights = torch.rand(400, vocabulary, generator=generator)
    weights *= torch.rand(400, vocabulary, generator=generator) < torch.rand(400, 1, generator=generator) ** 4
    # Rows of few positive weights, at the edges and in between, some so small that adding them changes nothing.
    weights[:, 0] = torch.where(weights.sum(dim=1) == 0, 1e-30, weights[:, 0])
    tokens = draw(weights, torch.full((400,), uniform, dtype=torch.float64))
    assert (weights.gather(1, tokens[:, None]) > 0).all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 1.7},
        {"top_k": 5},
        {"top_p": 0.7},
        {"min_p": 0.1},
        {"temperature": 1.3, "top_k": 12, "top_p": 0.8, "min_p": 0.05},
    ],
    ids=str,
)
def test_tokens_follow_the_distribution_that_transformers_samples_from(options: dict[str, float]) -> None:
    logits = random_logits(40)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(float(options.get("temperature", 1.0)))])
    if "top_k" in options:
        warpers.append(TopKLogitsWarper(int(options["top_k"])))
    if "top_p" in options:
        warpers.append(TopPLogitsWarper(options["top_p"]))
    if "min_p" in options:
        warpers.append(MinPLogitsWarper(options["min_p"]))
    expected = warpers(torch.zeros(1, 1, dtype=torch.long), logits.clone()).softmax(dim=-1)[0].double().numpy()

    draws = 20_000
    tokens, _ = sample(
        logits.expand(draws, -1), uniforms(streams(draws), zeros(draws)), sampling_rows(draws, **options)
    )
    counts = np.bincount(tokens.numpy(), minlength=40)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    frequent = expected * draws >= 5
    observed = [*counts[frequent], counts[possible & ~frequent].sum()]
    wanted = [*(expected[frequent] * draws), draws * expected[possible & ~frequent].sum()]
    observed, wanted = zip(*[pair for pair in zip(observed, wanted, strict=True) if pair[1] > 0], strict=True)
    wanted = np.array(wanted) * draws / sum(wanted)
    assert stats.chisquare(observed, wanted).pvalue > 1e-3


def test_each_row_samples_by_its_own_options() -> None:
    logits = random_logits(50).expand(4, -1)
    how = SamplingRows(
        np.array([0.0, 1.0, 0.5, 1.0]),
        np.array([0, 1, 0, 0]),
        np.array([1.0, 1.0, 1e-9, 1.0]),
        np.array([0, 0, 0, 1.0]),
    )
    tokens, logprobs = sample(logits, np.full(4, 0.9), how)
    # Greedy, top-1, a nucleus of nothing but the likeliest, and min-p of all of it: the same token four times.
    assert tokens.tolist() == [int(logits[0].argmax())] * 4
    temperatures = torch.tensor([1.0, 1.0, 0.5, 1.0])[:, None]
    expected = (logits / temperatures).log_softmax(dim=-1).amax(dim=-1)
    torch.testing.assert_close(logprobs, expected, atol=1e-6, rtol=1e-6)


def test_logprobs_are_those_of_the_whole_vocabulary_at_the_temperature() -> None:
    logits = random_logits(300).expand(64, -1)
    tokens, logprobs = sample(logits, uniforms(streams(64), zeros(64)), sampling_rows(64, 0.7, top_k=3, top_p=0.9))
    expected = (logits / 0.7).log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(token_logprobs(logits, tokens, 0.7), logprobs)
    assert torch.equal(token_logprobs(logits, tokens, 0.0), token_logprobs(logits, tokens, 1.0))


@pytest.mark.parametrize("temperature", [1e-37, 1.0])
def test_logprobs_of_given_tokens_do_not_overflow(temperature: float) -> None:
    logits = torch.tensor([[300.0, 0.0, 200.0], [-300.0, -300.0, -9e3]])
    expected = torch.tensor([0.0, -math.log(2.0)])
    torch.testing.assert_close(token_logprobs(logits, torch.tensor([0, 1]), temperature), expected)


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    logits = torch.cat([random_logits(700, seed) for seed in range(30)])
    uniform = uniforms(streams(30), zeros(30))
    together, _ = sample(logits, uniform, sampling_rows(30, 1.1))
    alone = [int(sample(logits[i : i + 1], uniform[i : i + 1], sampling_rows(1, 1.1))[0]) for i in range(30)]
    assert together.tolist() == alone


def test_of_equally_likely_tokens_greedy_takes_the_first_and_cuts_keep_all() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 3.0, 3.0]])
    assert sample(logits, np.array([0.99]), sampling_rows(1, 0.0))[0].tolist() == [1]
    draws = 300
    tokens, _ = sample(
        logits.expand(draws, -1), uniforms(streams(draws), zeros(draws)), sampling_rows(draws, top_k=1, top_p=0.1)
    )
    assert set(tokens.tolist()) == {1, 3, 4}


@pytest.mark.parametrize("top_k", [20, 21, 10**9])
def test_a_top_k_of_the_vocabulary_or_more_cuts_nothing(top_k: int) -> None:
    logits, uniform = random_logits(20).expand(500, -1), uniforms(streams(500), zeros(500))
    free, _ = sample(logits, uniform, sampling_rows(500))
    cut, _ = sample(logits, uniform, sampling_rows(500, top_k=top_k))
    assert torch.equal(free, cut)


@pytest.mark.parametrize("temperature", [1e-30, 1e-4])
def test_a_temperature_near_zero_is_greedy(temperature: float) -> None:
    logits = random_logits(100).expand(50, -1)
    tokens, logprobs = sample(logits, uniforms(streams(50), zeros(50)), sampling_rows(50, temperature))
    assert set(tokens.tolist()) == {int(logits[0].argmax())}
    assert logprobs.abs().max() < 1e-6


def test_tokens_that_the_model_rules_out_are_not_drawn() -> None:
    logits = torch.full((200, 10), float("-inf"))
    logits[:, 4] = -1e4
    logits[:, 7] = -1e4
    tokens, logprobs = sample(logits, uniforms(streams(200), zeros(200)), sampling_rows(200, 0.9))
    assert set(tokens.tolist()) == {4, 7}
    torch.testing.assert_close(logprobs, torch.full((200,), 0.5).log())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_numbers_are_an_error(value: float) -> None:
    logits = random_logits(30).repeat(3, 1)
    logits[1, 17] = value
    with pytest.raises(RunError, match="1 of 3 completions"):
        sample(logits, np.zeros(3), sampling_rows(3))
    with pytest.raises(RunError, match="2 of 2 completions"):
        sample(torch.full((2, 5), float("-inf")), np.zeros(2), sampling_rows(2))
