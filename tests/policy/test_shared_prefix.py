import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from grpo.packing import Segment
from grpo.policy import flash, shared_prefix, spans, use_attention
from grpo.policy.attention import Scoring, masked_attention
from grpo.policy.self_check import choose_forward
from grpo.policy.shared_prefix import SharedPrefixLayout

SEGMENTS = (Segment(0, 9, (1, 6, 0, 4)), Segment(20, 3, (9,)), Segment(32, 1, (2, 5)))
NUM_TOKENS = 47
"""The last seven belong to nobody, as those that fill a row up."""

NUM_REAL = 40


def seen_in_row(window: int | None) -> Tensor:
    """Return [N, N] bool, who sees whom, token by token."""
    sequences = []
    for segment in SEGMENTS:
        prompt = list(range(segment.start, segment.start + segment.prompt_length))
        sequences.append((prompt, prompt))
        start = prompt[-1] + 1
        for length in segment.completion_lengths:
            own = list(range(start, start + length))
            sequences.append((prompt + own, own))
            start += length
    seen = torch.eye(NUM_TOKENS, dtype=torch.bool)
    seen[:NUM_REAL] = False
    for sequence, queries in sequences:
        for query in queries:
            place = sequence.index(query)
            first = 0 if window is None else max(0, place - window + 1)
            seen[query, sequence[first : place + 1]] = True
    return seen


@pytest.mark.parametrize("small_block", [0, 1 << 16], ids=["cut", "one block"])
@pytest.mark.parametrize("long_prompt", [0, 1000], ids=["merged", "copied"])
@pytest.mark.parametrize("window", [None, 1, 4, 100])
@pytest.mark.parametrize("extra", ["plain", "softcap", "sinks"])
def test_a_packed_row_gathers_what_a_dense_mask_would(
    small_block: int, long_prompt: int, window: int | None, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_prefix, "LONG_PROMPT", long_prompt)
    monkeypatch.setattr(spans, "SMALL_BLOCK", small_block)
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, NUM_TOKENS, 8, requires_grad=True) for heads in (4, 2, 2))
    scoring = Scoring(
        scaling=0.5,
        sliding_window=window,
        softcap=1.5 if extra == "softcap" else None,
        sinks=torch.randn(4) if extra == "sinks" else None,
    )
    layout = SharedPrefixLayout(SEGMENTS, NUM_TOKENS, "cpu")
    output = layout(nn.Identity(), query, key, value, scoring)
    expected = masked_attention(query, key, value, scoring, mask=seen_in_row(window)).transpose(1, 2)
    torch.testing.assert_close(output[:, :NUM_REAL], expected[:, :NUM_REAL])
    weights = torch.randn_like(output)
    weights[:, NUM_REAL:] = 0
    for mine, dense in zip(
        torch.autograd.grad((output * weights).sum(), (query, key, value)),
        torch.autograd.grad((expected * weights).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(mine, dense, atol=1e-5, rtol=1e-5)
        assert mine[:, :, NUM_REAL:].abs().max() == 0


def test_nothing_as_large_as_the_row_squared_is_made(largest_tensor: Any) -> None:
    segments = tuple(Segment(start, 40, (12,) * 5) for start in range(0, 2000, 100))
    states = torch.randn(1, 1, 2000, 4, requires_grad=True)
    with largest_tensor:
        layout = SharedPrefixLayout(segments, 2000, "cpu")
        layout(nn.Identity(), states, states, states, Scoring(scaling=1.0, softcap=1.5)).sum().backward()
    assert largest_tensor.numel < 2000 * 2000 / 20


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode, functools.partial(torch.autocast, "cpu", torch.bfloat16)]
)
def test_the_kernel_is_found_to_work_whatever_mode_it_is_first_asked_in(mode: Any, grouped: bool) -> None:
    flash.flash_works.cache_clear()
    with mode():
        assert flash.flash_works(grouped=grouped)


def test_large_blocks_hold_little_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    segments, start = [], 0
    for _ in range(6):
        prompt = int(torch.randint(50, 600, (), generator=generator))
        lengths = torch.randint(1, 500, (8,), generator=generator).tolist()
        segments.append(Segment(start, prompt, tuple(lengths)))
        start += prompt + sum(lengths)
    blocks, _ = SharedPrefixLayout(segments, start, "cpu")._blocks
    made = sum(block.size * block.length * (block.prefix + block.length) for block in blocks)
    needed = sum(s.prompt_length**2 + sum(n * (s.prompt_length + n) for n in s.completion_lengths) for s in segments)
    assert needed <= made < 1.3 * needed + spans.SMALL_BLOCK
    assert len(blocks) < 40


def test_no_key_of_a_long_prompt_is_copied_for_a_completion(largest_tensor: Any) -> None:
    states = torch.randn(1, 2, 1000, 4, requires_grad=True)
    segments = (Segment(0, 600, (5,) * 80),)
    with largest_tensor:
        layout = SharedPrefixLayout(segments, 1000, "cpu")
        layout(nn.Identity(), states, states, states, Scoring(scaling=1.0)).sum().backward()
    assert largest_tensor.numel <= 2 * states.numel()


def test_a_plain_call_keeps_the_soft_cap_that_sdpa_would_drop(make_model: Any) -> None:
    eager = make_model("gemma2", head_dim=8, attn_logit_softcapping=0.5, sliding_window=4, query_pre_attn_scalar=1)
    ours = copy.deepcopy(eager)
    eager.set_attn_implementation("eager")
    assert use_attention(ours)
    ids = torch.randint(60, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    for given in (None, mask):
        expected, logits = (model(input_ids=ids, attention_mask=given).logits for model in (eager, ours))
        torch.testing.assert_close(logits[0], expected[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits[1, 3:], expected[1, 3:], atol=1e-5, rtol=1e-5)


def test_generate_works_as_before_with_the_attention_in_place(make_model: Any) -> None:
    model = make_model("mistral", sliding_window=4)
    ids = torch.randint(60, (2, 7), generator=torch.Generator().manual_seed(0))
    expected = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert use_attention(model)
    assert model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0).tolist() == expected.tolist()


def test_the_attention_reaches_a_model_inside_peft(make_model: Any) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(make_model(), LoraConfig(target_modules="all-linear"))
    assert use_attention(model)
    assert choose_forward(model, 0, can_attend=True).packed


def test_an_architecture_with_its_own_attention_is_left_as_it_was(make_model: Any) -> None:
    model = make_model("bloom", n_head=4, n_layer=2)
    before = model.config._attn_implementation
    assert not use_attention(model)
    assert model.config._attn_implementation == before


@pytest.mark.parametrize(
    ("family", "reason"),
    [("bloom", "no exchangeable attention"), ("mamba", "linear_attention"), ("stablelm", "off by")],
)
def test_an_architecture_that_cannot_share_prompts_says_so_once(
    family: str, reason: str, make_model: Any, warnings_of_policy: Any
) -> None:
    model = make_model(family, **({"n_head": 4, "n_layer": 2} if family == "bloom" else {}))
    assert not choose_forward(model, 0, can_attend=use_attention(model)).packed
    (warning,) = warnings_of_policy()
    assert reason in warning


def test_layers_that_attend_in_chunks_are_not_served_though_none_is_named_so(
    make_model: Any, warnings_of_policy: Any
) -> None:
    sizes = {"head_dim": 8, "intermediate_size_mlp": 24, "num_local_experts": 2, "attention_chunk_size": 32}
    model = make_model("llama4_text", **sizes, layer_types=["full_attention"] * 2)
    assert not choose_forward(model, 0, can_attend=use_attention(model)).packed
    assert any("attend in chunks" in warning for warning in warnings_of_policy())


def test_a_layer_that_hides_its_window_is_found_out(make_model: Any, warnings_of_policy: Any) -> None:
    model = make_model("qwen2", use_sliding_window=True, sliding_window=32, max_window_layers=0)
    for layer in model.model.layers:
        layer.self_attn.sliding_window = None
    assert not choose_forward(model, 0, can_attend=use_attention(model)).packed
    assert "sliding window" in warnings_of_policy()[0]


def test_gradient_checkpointing_gives_the_same_gradients(make_model: Any, make_batch: Any) -> None:
    model = make_model("gemma3_text", head_dim=8, sliding_window=4)
    forward = choose_forward(model, 0, can_attend=use_attention(model))
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
        model.zero_grad()
        forward(model, make_batch(), temperature=1.0).logprobs.sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], atol=0, rtol=0)


def test_grouped_keys_are_left_to_sdpa_on_the_cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bool]] = []

    def spy(query: Tensor, key: Tensor, value: Tensor, *, enable_gqa: bool, **options: Any) -> Tensor:
        assert key.shape[1] == value.shape[1]
        seen.append((key.shape[1], enable_gqa))
        return query

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", spy)
    for device in ("cpu", "meta"):
        query, key = torch.zeros(1, 4, 5, 8, device=device), torch.zeros(1, 2, 5, 8, device=device)
        masked_attention(query, key, key, Scoring(scaling=1.0), mask=torch.zeros(5, 5, device=device))
    assert seen == [(2, True), (4, False)]
