"""Invariant 2: packed log-probabilities and gradients equal the plain padded forward's."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from grpo.packing import PackedBatch, pack
from grpo.policy import Policy, load_policy, shared_prefix, spans, use_attention
from grpo.policy.self_check import choose_forward
from grpo.policy.tiny import TINY_DIRECTORY
from grpo.types import Prompt, Rollout, Score, ScoredGroup, ScoredRollout

VOCABULARY = 67
WINDOW = 7
GROUPS = ((11, (3, 6, 4)), (3, (9,)), (17, (2, 12, 5, 5)))
"""Prompt length and completion lengths; some of both are longer than the window. No completion is a single token, for
that one has no gradient of its own, which a token that fills the row up must not get a share of."""

COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.25,
    "pad_token_id": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": WINDOW},
    "gemma2": {
        "head_dim": 8,
        "sliding_window": WINDOW,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma3_text": {
        "head_dim": 8,
        "sliding_window": WINDOW,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt2": {
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "resid_pdrop": 0,
        "embd_pdrop": 0,
        "attn_pdrop": 0,
    },
    "phi3": {"sliding_window": WINDOW},
    "olmo2": {},
    "granite": {"logits_scaling": 3.0, "attention_multiplier": 0.4},
    "cohere": {"logit_scale": 0.3},
    "gpt_oss": {"head_dim": 8, "sliding_window": WINDOW, "num_local_experts": 2, "num_experts_per_tok": 1},
}


@pytest.mark.parametrize("setting", [{}, {"SMALL_BLOCK": 0}, {"LONG_PROMPT": 1}], ids=["copied", "cut", "merged"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_log_probabilities_and_gradients_equal_the_padded_ones(
    family: str, setting: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in setting.items():
        monkeypatch.setattr(spans if hasattr(spans, name) else shared_prefix, name, value)
    plain = random_model(family)
    model = copy.deepcopy(plain)
    plain.set_attn_implementation("eager")
    assert use_attention(model)
    batch = random_batch()
    weights = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(1))

    forward = choose_forward(model, 0, can_attend=True)
    assert forward.packed and forward.chunked
    logprobs = forward(model, batch, temperature=0.7).logprobs
    (logprobs * weights).sum().backward()
    expected = padded_logprobs(plain, batch, temperature=0.7)
    (expected * weights).sum().backward()

    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=1e-5)
    for (name, parameter), (_, twin) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        assert twin.grad is not None and parameter.grad is not None, name
        scale = max(1.0, twin.grad.abs().max().item())
        torch.testing.assert_close(parameter.grad / scale, twin.grad / scale, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text", "gpt_oss"])
def test_the_sliding_window_matters_in_these_batches(family: str) -> None:
    model = random_model(family)
    wide = random_model(family, sliding_window=64)
    wide.load_state_dict(model.state_dict())
    with torch.no_grad():
        difference = padded_logprobs(model, random_batch(), 1.0) - padded_logprobs(wide, random_batch(), 1.0)
    assert difference.abs().max() > 0.01


def test_padded_fallback_equals_the_plain_forward_for_a_state_space_model() -> None:
    config = AutoConfig.for_model("mamba", vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, state_size=4)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    batch = random_batch()
    forward = choose_forward(model, 0, can_attend=use_attention(model))
    assert not forward.packed
    with torch.no_grad():
        logprobs = forward(model, batch, temperature=1.0).logprobs
        for row, (ids, prompt_length) in enumerate(completions(batch)):
            alone = torch.log_softmax(model(input_ids=ids[None]).logits[0].float(), dim=-1)
            expected = alone[prompt_length - 1 : -1].gather(1, ids[prompt_length:, None]).squeeze(1)
            torch.testing.assert_close(logprobs[row, : len(expected)], expected, atol=1e-5, rtol=1e-5)


def random_model(family: str, **overrides: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**COMMON, **FAMILIES[family], **overrides})
    model = AutoModelForCausalLM.from_config(config)
    # Norms and biases that are not at their start, so that a mistake cannot hide behind ones and zeros.
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.25)
    return model.eval()


def random_batch() -> PackedBatch:
    generator = torch.Generator().manual_seed(0)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(VOCABULARY, (length,), generator=generator).tolist())

    def completion(length: int) -> ScoredRollout:
        rollout = Rollout(tokens(length), (True,) * length, (0.0,) * length, "length", 0)
        return ScoredRollout(rollout, "", Score({}, {}, None))

    groups = [
        ScoredGroup(Prompt(row, "", "", tokens(length), {}), tuple(map(completion, lengths)))
        for row, (length, lengths) in enumerate(GROUPS)
    ]
    (batch,) = pack(groups, torch.zeros(3, 4, 12), max_tokens=None)
    return batch


def completions(batch: PackedBatch) -> Iterator[tuple[Tensor, int]]:
    """Yield prompt and completion as one sequence, and the prompt's length."""
    for segment in batch.segments:
        end = segment.start + segment.prompt_length
        prompt, start = batch.token_ids[segment.start : end], end
        for length in segment.completion_lengths:
            yield torch.cat((prompt, batch.token_ids[start : start + length])), segment.prompt_length
            start += length


def padded_logprobs(model: Any, batch: PackedBatch, temperature: float) -> Tensor:
    """Return [B, T] from rows padded on the right: nothing of this package but the batch."""
    rows = list(completions(batch))
    width = max(len(ids) for ids, _ in rows)
    token_ids = torch.stack([nn.functional.pad(ids, (0, width - len(ids))) for ids, _ in rows])
    mask = torch.stack([torch.arange(width) < len(ids) for ids, _ in rows])
    logits = model(input_ids=token_ids, attention_mask=mask.long(), use_cache=False).logits.float()
    logprobs = torch.log_softmax(logits / temperature, dim=-1)
    values = []
    for row, (ids, prompt_length) in enumerate(rows):
        chosen = logprobs[row, prompt_length - 1 : len(ids) - 1].gather(1, ids[prompt_length:, None]).squeeze(1)
        values.append(nn.functional.pad(chosen, (0, batch.mask.shape[1] - len(chosen))))
    return torch.stack(values)


def moved(policy: Policy) -> Policy:
    with torch.no_grad():
        for number, parameter in enumerate(policy.trainable_parameters()):
            generator = torch.Generator().manual_seed(number)
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return policy


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_reloaded_policy_computes_what_the_trained_one_did(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Buffers that no file holds, as Gemma's scale of embeddings, are in full precision in both."""
    # The root of 24 is not a number in bfloat16.
    size = {"n_embd": 24} if family == "gpt2" else {"hidden_size": 24}
    random_model(family, **size).to(dtype).save_pretrained(tmp_path / "base")
    in_memory = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(TINY_DIRECTORY)
    ids = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
    for number, start in enumerate((tmp_path / "base", in_memory)):
        policy = moved(load_policy(start, tokenizer=tokenizer, device="cpu", dtype="float32"))
        policy.save(tmp_path / f"saved {number}")
        reloaded = AutoModelForCausalLM.from_pretrained(
            tmp_path / f"saved {number}", attn_implementation="eager"
        ).eval()
        with torch.no_grad():
            found, expected = (
                model.eval()(input_ids=ids, use_cache=False).logits for model in (policy.model, reloaded)
            )
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
