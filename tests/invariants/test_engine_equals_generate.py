"""Invariant 5, first half: greedy completions are those of transformers' own `generate()`, token for token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from sampling_helpers import generate
from torch import nn

from grpo.engines.native import NativeEngine, runner
from grpo.types import Request, SamplingParams

WINDOW = 6
MAX_TOKENS = 30
END_IDS = (5, 17, 60)
PROMPT_LENGTHS = (3, 19, 9, 9, 1)
SIZES = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
HEADS = {"head_dim": 12}
GEMMA = {**HEADS, "sliding_window": WINDOW, "query_pre_attn_scalar": 12, "tie_word_embeddings": False}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW}
NO_SIZES = {"vocab_size": 96, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}

SHARED = {
    "Llama": ("Llama", SIZES),
    "Qwen2": ("Qwen2", {**SIZES, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2}),
    "Qwen3": ("Qwen3", {**SIZES, **HEADS}),
    "Gemma2": ("Gemma2", {**SIZES, **GEMMA, "attn_logit_softcapping": 3.0}),
    "Gemma3": ("Gemma3Text", {**SIZES, **GEMMA, "layer_types": ["sliding_attention", "full_attention"] * 2}),
    "Mistral": ("Mistral", {**SIZES, "sliding_window": WINDOW}),
    "GptOss": ("GptOss", {**SIZES, **HEADS, **EXPERTS}),
    "GPT2": (
        "GPT2",
        {
            **NO_SIZES,
            "n_embd": 48,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 64,
            "scale_attn_by_inverse_layer_idx": True,
        },
    ),
}
LOCKSTEP = {
    "Mamba": ("Mamba", {**NO_SIZES, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    "Lfm2": ("Lfm2", {**SIZES, "layer_types": ["conv", "full_attention"] * 2}),
    "Rwkv": ("Rwkv", {**NO_SIZES, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 64}),
}


def random_model(name: str, kind: str, options: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**options)
    head = "LMHeadModel" if name == "GPT2" else "ForCausalLM"
    # Eager: the implementation that honours soft caps and sinks, so that it can be the judge.
    config._attn_implementation = "eager"
    model: nn.Module = getattr(transformers, f"{name}{head}")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3 if parameter.ndim > 1 else 0.1)
    return model.eval()


def random_prompts() -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(1)
    return [tuple(torch.randint(1, 96, (length,), generator=generator).tolist()) for length in PROMPT_LENGTHS]


def judge(model: Any, prompt: tuple[int, ...]) -> tuple[int, ...]:
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=MAX_TOKENS,
        eos_token_id=list(END_IDS),
        pad_token_id=0,
    )
    return tuple(output[0, len(prompt) :].tolist())


def greedy_requests(prompts: list[tuple[int, ...]]) -> list[Request]:
    return [Request(i, prompt, (0, 1), SamplingParams(MAX_TOKENS, temperature=0.0)) for i, prompt in enumerate(prompts)]


def check_greedy(name: str, kind: str, options: dict[str, Any], accepts: Callable[[NativeEngine], bool]) -> None:
    model, prompts = random_model(name, kind, options), random_prompts()
    expected = [judge(model, prompt) for prompt in prompts]
    engine = NativeEngine(model, end_ids=END_IDS, max_sequences=7)
    assert accepts(engine)
    found = generate(engine, greedy_requests(prompts))
    assert [[rollout.token_ids for rollout in group] for group in found] == [[ids, ids] for ids in expected]
    for group in found:
        for rollout in group:
            assert (rollout.finish_reason == "stop") == (rollout.token_ids[-1] in END_IDS)
    # All tokens, and not one token over and over: a wrong mask or position would show.
    assert len({token for ids in expected for token in ids}) > 5


@pytest.fixture(params=[0, 2**12, 2**20], ids=["prompts shared", "copied at the end", "prompts copied"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many bytes of a layer's cache may be copies of prompts."""
    monkeypatch.setattr(runner, "COPIED_BYTES", request.param)


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("name", SHARED)
def test_greedy_completions_equal_generate(name: str) -> None:
    check_greedy(name, *SHARED[name], accepts=lambda engine: engine.shares_prompts)


@pytest.mark.parametrize("name", LOCKSTEP)
def test_greedy_completions_equal_generate_for_models_with_their_own_state(name: str) -> None:
    check_greedy(name, *LOCKSTEP[name], accepts=lambda engine: not engine.shares_prompts)


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("name", ["Qwen3", "Gemma2", "Gemma3", "GPT2"])
def test_logprobs_equal_those_of_a_plain_forward_within_1e_4(name: str) -> None:
    model, prompts = random_model(name, *SHARED[name]), random_prompts()
    sampling = SamplingParams(MAX_TOKENS, temperature=0.8, top_p=0.9)
    requests = [Request(i, prompt, (7, 8, 9), sampling) for i, prompt in enumerate(prompts)]
    engine = NativeEngine(model, end_ids=END_IDS)
    groups = generate(engine, requests)
    model.set_attn_implementation("eager")
    for prompt, group in zip(prompts, groups, strict=True):
        for rollout in group:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*prompt, *rollout.token_ids]])).logits[0, len(prompt) - 1 : -1]
            expected = (logits / 0.8).log_softmax(dim=-1).gather(1, torch.tensor(rollout.token_ids)[:, None])[:, 0]
            assert list(rollout.logprobs) == pytest.approx(expected.tolist(), abs=1e-4)
