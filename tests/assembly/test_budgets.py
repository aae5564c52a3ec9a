"""Budgets of memory: chosen, recorded, kept on resume, and lowered for the rest of a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from short_runs import CHARACTERS, lines_of, quick

from grpo import assembly
from grpo.assembly.assembly import assemble
from grpo.assembly.budgets import cache_budget, take_budgets
from grpo.checkpoint import CheckpointStore
from grpo.config import GRPOConfig
from grpo.errors import ConfigError
from grpo.policy import Policy, load_policy
from grpo.types import Prompt

REWARD = {"rewards": [CHARACTERS.partition("=")[2]]}


def test_a_run_writes_down_its_budgets_and_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo.assembly.budgets.free_memory_bytes", lambda device: 300e6)
    assembly.train(quick(save_every=1))
    config = GRPOConfig.from_file("run/config.yaml")
    tokens, cached = config.optimizer.tokens_per_micro_batch, config.rollout.max_cache_tokens
    assert 256 <= tokens < 16_384
    assert 4096 <= cached < 2**18

    monkeypatch.setattr("grpo.assembly.budgets.free_memory_bytes", lambda device: 50e6)
    assembly.resume("run", ["steps=2"])
    again = GRPOConfig.from_file("run/config.yaml")
    assert again.optimizer.tokens_per_micro_batch == tokens
    assert again.rollout.max_cache_tokens == cached


def test_budgets_that_are_given_stay() -> None:
    parts = assemble(quick(tokens_per_micro_batch=300, max_cache_tokens=5000))
    assert parts.config.optimizer.tokens_per_micro_batch == 300
    assert parts.config.rollout.max_cache_tokens == 5000


def test_a_cache_takes_at_most_a_quarter_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_policy("tiny", dtype="float32", device="cpu")
    shape = policy.model.config
    each = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * 4

    def budget(free: float | None, **options: Any) -> int:
        monkeypatch.setattr("grpo.assembly.budgets.free_memory_bytes", lambda device: free)
        return cache_budget(quick(**options), policy)

    assert budget(4 * each * 40_000) == 2**15
    assert budget(4 * each * 40_000, engine_dtype="bfloat16") == 2**16
    assert budget(0) == 2**12
    assert budget(1e15) == budget(None) == 2**18


def test_a_model_that_tells_no_heads_gets_the_largest_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def budget(**shape: Any) -> int:
        config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(**shape))
        model = SimpleNamespace(config=config)
        return cache_budget(quick(), SimpleNamespace(model=model, device="cpu", compute_dtype=torch.float32))

    monkeypatch.setattr("grpo.assembly.budgets.free_memory_bytes", lambda device: 4 * 8192 * 2.0**14)
    # 2 · 4 layers · 2 key heads · 128 wide · 4 bytes = 8 KiB a token.
    whole = {"num_attention_heads": 8, "num_hidden_layers": 4, "hidden_size": 1024}
    assert budget(**whole, num_key_value_heads=2, head_dim=128) == 2**14
    assert budget(**whole, num_key_value_heads=2) == 2**14
    assert budget(**whole, num_key_value_heads=1) == 2**15
    assert budget(**whole) == 2**12
    assert budget(num_hidden_layers=4) == budget(num_attention_heads=8) == 2**18


def test_a_typical_prompt_is_the_one_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def token_budget(policy: object, **shape: Any) -> int:
        asked.append(shape)
        return 512

    monkeypatch.setattr("grpo.assembly.budgets.free_memory_bytes", lambda device: 1e9)
    monkeypatch.setattr("grpo.assembly.budgets.token_budget", token_budget)
    policy = load_policy("tiny", dtype="float32", device="cpu")
    prompts = [Prompt(0, "", "", (1,) * length, {}) for length in (90, 10, 30)]
    config = quick(group_size=4)
    taken = take_budgets(config, policy, prompts, trains=True)
    assert asked == [{"free_bytes": 1e9, "prompt_length": 30, "completion_length": 8, "group_size": 4}]
    assert taken.optimizer.tokens_per_micro_batch == 512
    assert take_budgets(config, policy, prompts, trains=False).optimizer.tokens_per_micro_batch is None
    assert len(asked) == 1
    with pytest.raises(ConfigError, match=r"max_cache_tokens 97 .* prompt of 90 .* of 8: raise it to at least 98"):
        take_budgets(config.replace(max_cache_tokens=97), policy, prompts, trains=False)
    assert (
        take_budgets(config.replace(max_cache_tokens=98), policy, prompts, trains=False).rollout.max_cache_tokens == 98
    )


def test_a_prompt_that_is_longer_than_the_cache_still_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo.assembly.budgets.free_memory_bytes", lambda device: 0.0)
    monkeypatch.setattr("grpo.assembly.budgets._LEAST_CACHE_TOKENS", 8)
    parts = assemble(quick())
    longest = max(len(prompt.token_ids) for prompt in [*parts.prompts.train, *parts.prompts.evaluation])
    assert parts.config.rollout.max_cache_tokens == longest + 8


def lowered_budget() -> int | None:
    return CheckpointStore(Path("run"), 3).newest().state.parts["learner"]["lowered_budget"]


def test_a_budget_that_came_down_stays_down_when_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Policy.token_logprobs

    def limited(self: Policy, batch: Any, **options: Any) -> Any:
        # What is measured before the run is short.
        if torch.is_grad_enabled() and len(batch.segments) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, batch, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Policy, "token_logprobs", limited)
        assembly.train(quick(save_every=1, zero_variance_groups="keep", **REWARD))
    lowered = lowered_budget()
    assert lowered is not None
    assert lowered < 16_384
    assert lines_of("run/metrics.jsonl")[0]["micro_batches"] > 1

    assembly.resume("run", ["steps=2"])
    assert lowered_budget() == lowered
    assert lines_of("run/metrics.jsonl")[1]["micro_batches"] > 1

    # A budget that is given anew is tried anew.
    assembly.resume("run", ["steps=3", "tokens_per_micro_batch=5000"])
    assert lowered_budget() is None
    assert lines_of("run/metrics.jsonl")[2]["micro_batches"] == 1


def test_a_run_that_samples_in_bfloat16_says_what_it_corrects() -> None:
    assembly.train(quick(engine_dtype="bfloat16", zero_variance_groups="keep", **REWARD))
    metrics = lines_of("run/metrics.jsonl")[0]
    assert 0 < metrics["sampler_mismatch"] < 0.1
    assert metrics["sampler_correction_mean"] == pytest.approx(1.0, abs=0.1)
    assert metrics["sampler_correction_mean"] != 1.0


def test_without_a_cap_nothing_is_corrected() -> None:
    assembly.train(quick(engine_dtype="bfloat16", sampler_correction=None, zero_variance_groups="keep", **REWARD))
    assert "sampler_correction_mean" not in lines_of("run/metrics.jsonl")[0]


def test_a_summary_has_the_highest_peak_of_all_steps() -> None:
    summary = assembly.train(quick(steps=2)).summary
    assert summary["peak_memory_mb"] >= max(line["peak_memory_mb"] for line in lines_of("run/metrics.jsonl")) - 0.1
