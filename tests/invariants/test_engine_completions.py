"""Invariant 5, second half: completions follow the model's distribution and depend on nothing but what they should."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sampling_helpers import generate
from scipy import stats
from torch import nn
from transformers import MambaConfig, MambaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from grpo.engines.native import NativeEngine, runner
from grpo.types import Request, SamplingParams

END = 3


def qwen3(vocabulary: int) -> nn.Module:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return with_large_weights(Qwen3ForCausalLM(config))


def mamba(vocabulary: int) -> nn.Module:
    torch.manual_seed(0)
    return with_large_weights(
        MambaForCausalLM(MambaConfig(vocab_size=vocabulary, hidden_size=16, num_hidden_layers=2, state_size=4))
    )


def with_large_weights(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model.eval()


def probabilities_of_pairs(
    model: nn.Module, prompt: tuple[int, ...], temperature: float
) -> dict[tuple[int, ...], float]:
    """Return the probability of every completion of at most two tokens, by plain forward passes."""
    vocabulary = model.config.vocab_size
    with torch.no_grad():
        first = (model(input_ids=torch.tensor([prompt])).logits[0, -1].double() / temperature).softmax(dim=0)
        after = torch.tensor([[*prompt, token] for token in range(vocabulary)])
        second = (model(input_ids=after).logits[:, -1].double() / temperature).softmax(dim=1)
    pairs = {
        (one, two): float(first[one] * second[one, two])
        for one, two in itertools.product(range(vocabulary), repeat=2)
        if one != END
    }
    return {(END,): float(first[END]), **pairs}


@pytest.mark.parametrize("temperature", [0.8, 1.0])
def test_pairs_of_tokens_follow_the_models_distribution(temperature: float) -> None:
    model, prompt, draws = qwen3(12), (1, 5, 2, 9), 6000
    engine = NativeEngine(model, end_ids=[END], max_sequences=1000)
    request = Request(0, prompt, tuple(range(draws)), SamplingParams(2, temperature=temperature))
    (rollouts,) = generate(engine, [request])
    expected = probabilities_of_pairs(model, prompt, temperature)
    counts = dict.fromkeys(expected, 0)
    for rollout in rollouts:
        counts[rollout.token_ids] += 1
    frequent = [ids for ids in expected if expected[ids] * draws >= 5]
    rare = set(expected) - set(frequent)
    observed = [counts[ids] for ids in frequent] + [sum(counts[ids] for ids in rare)] * bool(rare)
    wanted = [expected[ids] * draws for ids in frequent] + [sum(expected[ids] for ids in rare) * draws] * bool(rare)
    assert len(frequent) > 20
    assert stats.chisquare(observed, np.array(wanted) * draws / sum(wanted)).pvalue > 1e-3


def requests(vocabulary: int) -> list[Request]:
    generator = np.random.default_rng(0)
    options = [
        SamplingParams(20),
        SamplingParams(9, temperature=0.0),
        SamplingParams(20, temperature=1.3, top_p=0.9),
        SamplingParams(15, top_k=10, min_p=0.02),
    ]
    return [
        Request(
            id=number,
            prompt_ids=tuple(generator.integers(0, vocabulary, int(generator.integers(1, 14))).tolist()),
            seeds=tuple(generator.integers(0, 2**63, 1 + number % 5).tolist()),
            sampling=options[number % len(options)],
        )
        for number in range(9)
    ]


@pytest.mark.parametrize("copied_bytes", [0, 2**12, 2**20])
@pytest.mark.parametrize("make", [qwen3, mamba])
def test_a_completion_depends_on_weights_prompt_and_its_own_seed_only(
    make: type, copied_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "COPIED_BYTES", copied_bytes)
    model, wanted = make(80), requests(80)

    def completions(chosen: list[Request], **limits: int) -> dict[tuple[int, int], tuple[int, ...]]:
        groups = generate(NativeEngine(model, end_ids=[END, 40], **limits), chosen)
        return {
            (request.id, seed): rollout.token_ids
            for request, group in zip(chosen, groups, strict=True)
            for seed, rollout in zip(request.seeds, group, strict=True)
        }

    together = completions(wanted)
    assert len(set(map(len, together.values()))) > 3
    assert completions(wanted[::-1]) == together
    for max_sequences in (1, 3, 8):
        assert completions(wanted, max_sequences=max_sequences) == together
    assert completions(wanted, max_cache_tokens=120, max_prefill_tokens=10) == together
    # As many engines as one likes, each with some of the requests or some of the seeds of each.
    assert completions(wanted[::2]) | completions(wanted[1::2]) == together
    halves = [
        [Request(request.id, request.prompt_ids, request.seeds[part::2], request.sampling) for request in wanted]
        for part in (0, 1)
    ]
    assert completions(halves[0]) | completions(halves[1]) == together
