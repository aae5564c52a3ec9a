"""The engine's own forward pass against the model's modules."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import transformers
from sampling_helpers import generate
from torch import nn

from grpo.engines.native import NativeEngine
from grpo.engines.native import weights as weights_module
from grpo.engines.native.structure import UnrecognisedError, recognise
from grpo.types import Completion, Request, SamplingParams

SIZES = {
    "vocab_size": 80,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
KINDS = {
    "Llama": ("Llama", {**SIZES, "rope_parameters": LLAMA3_ROPE, "mlp_bias": True}),
    "Qwen2, tied": ("Qwen2", {**SIZES, "tie_word_embeddings": True}),
    "Qwen3": ("Qwen3", {**SIZES, "head_dim": 16}),
    "Mistral": ("Mistral", {**SIZES, "sliding_window": 5, "hidden_act": "gelu"}),
}
PROMPTS = ((3, 1, 4, 1, 5), (9, 2), (5, 3, 5, 8, 9, 7, 9, 3, 2, 3))


def random_model(name: str) -> Any:
    kind, options = KINDS[name]
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**options))
    randomise(model)
    return model.eval()


def randomise(model: nn.Module, scale: float = 0.25) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, scale)


def with_adapter(model: Any, **options: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    options = {"target_modules": "all-linear", **options}
    wrapped = get_peft_model(model, LoraConfig(r=3, lora_alpha=5, **options))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.2)
    return wrapped.eval()


def requests(prompts: tuple[tuple[int, ...], ...] = PROMPTS, max_tokens: int = 14) -> list[Request]:
    sampling = SamplingParams(max_tokens)
    return [Request(i, prompt, tuple(range(10 * i, 10 * i + 2 + i)), sampling) for i, prompt in enumerate(prompts)]


def sampled(engine: NativeEngine) -> list[Completion]:
    return [rollout for group in generate(engine, requests()) for rollout in group]


def plain_logprobs(model: Any, prompt: tuple[int, ...], completion: tuple[int, ...]) -> list[float]:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(dim=-1).gather(1, torch.tensor(completion)[:, None])[:, 0].tolist()


def check_against_modules(model: Any, engine: NativeEngine, tolerance: float = 1e-4) -> None:
    groups = generate(engine, requests())
    for request, group in zip(requests(), groups, strict=True):
        for rollout in group:
            expected = plain_logprobs(model, request.prompt_ids, rollout.token_ids)
            assert list(rollout.logprobs) == pytest.approx(expected, abs=tolerance)


def without_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "COPY_LIMIT_BYTES", 0)


@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_logprobs_are_those_of_the_models_own_modules(name: str, copies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not copies:
        without_copies(monkeypatch)
    model = random_model(name)
    engine = NativeEngine(model, end_ids=[7])
    assert engine.runs_fused
    check_against_modules(model, engine)


@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"target_modules": ["lm_head"]}])
def test_adapters_count_merged_or_beside_the_weights(
    options: dict[str, Any], copies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not copies:
        without_copies(monkeypatch)
    model = with_adapter(random_model("Qwen3" if "target_modules" in options else "Qwen2, tied"), **options)
    engine = NativeEngine(model, end_ids=[7])
    assert engine.runs_fused
    check_against_modules(model, engine)
    with_it = sampled(engine)
    with model.disable_adapter():
        without_it = sampled(engine)
        check_against_modules(model, engine)
    assert with_it != without_it
    assert sampled(engine) == with_it


def test_a_small_adapter_is_not_lost_in_16_bit_weights() -> None:
    model = with_adapter(random_model("Qwen3"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(1e-3)
    completions = [(1, 2, 3, 5, 8, 13)] * len(PROMPTS)
    engine = NativeEngine(model, end_ids=[7], dtype=torch.bfloat16)
    assert engine.runs_fused
    with_it = engine.score(PROMPTS, completions)
    merged = model.merge_and_unload()
    in_32 = torch.tensor([plain_logprobs(merged, prompt, completions[0]) for prompt in PROMPTS])
    assert (torch.tensor(with_it) - in_32).abs().mean() < 0.05
    # Merged into 16 bits, so small a change would have left nearly all weights as they were.
    assert engine._weights is not None
    matrices = [matrix for layer in engine._weights._made.layers for matrix in (*layer.qkv, layer.output, layer.down)]
    assert all(matrix.low_rank is not None and matrix.low_rank[1].abs().max() > 0 for matrix in matrices)


@pytest.mark.parametrize("name", KINDS)
def test_in_bfloat16_logprobs_stay_within_its_rounding(name: str) -> None:
    model = random_model(name)
    engine = NativeEngine(model, end_ids=[7], dtype=torch.bfloat16)
    assert engine.runs_fused
    groups = generate(engine, requests())
    found, exact = [], []
    for request, group in zip(requests(), groups, strict=True):
        for rollout in group:
            found += rollout.logprobs
            exact += plain_logprobs(model, request.prompt_ids, rollout.token_ids)
    distance = (torch.tensor(found) - torch.tensor(exact)).abs()
    assert 1e-5 < distance.mean() < 0.05


def test_a_bfloat16_model_runs_in_bfloat16() -> None:
    model = random_model("Qwen3").to(torch.bfloat16)
    engine = NativeEngine(model, end_ids=[7])
    assert engine.runs_fused
    check_against_modules(model, engine, tolerance=0.3)


def test_a_step_of_the_optimizer_is_sampled_from_even_if_nobody_says_so() -> None:
    model = random_model("Qwen3")
    engine = NativeEngine(model, end_ids=[7])
    before = sampled(engine)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1, 3].backward()
    optimizer.step()
    assert sampled(engine) != before
    check_against_modules(model, engine)


@pytest.mark.parametrize("which", ["model.norm", "model.layers.1.self_attn.q_norm", "model.layers.2.mlp.up_proj"])
def test_a_change_of_any_part_is_noticed(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for copies in (True, False):
        if not copies:
            without_copies(monkeypatch)
        model = random_model("Qwen3")
        engine = NativeEngine(model, end_ids=[7])
        before = sampled(engine)
        with torch.no_grad():
            model.get_submodule(which).weight.mul_(-0.5)
        assert sampled(engine) != before
        check_against_modules(model, engine)


def test_a_change_that_leaves_no_trace_is_seen_after_load_weights() -> None:
    model = random_model("Llama")
    engine = NativeEngine(model, end_ids=[7])
    sampled(engine)
    model.model.layers[0].mlp.down_proj.weight.data.mul_(-1)
    engine.load_weights(model, version=1)
    check_against_modules(model, engine)


def test_the_copy_is_made_once_for_weights_that_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = NativeEngine(random_model("Qwen3"), end_ids=[7])
    made: list[int] = []
    make = weights_module.WeightSource._make
    monkeypatch.setattr(weights_module.WeightSource, "_make", lambda self: made.append(1) or make(self))
    sampled(engine)
    sampled(engine)
    engine.score(PROMPTS, [(1, 2)] * 3)
    assert made == []
    engine.load_weights(engine.model, version=1)
    sampled(engine)
    sampled(engine)
    assert made == [1]


def test_positions_beyond_the_first_table_are_rotated_rightly() -> None:
    model = random_model("Llama")
    engine = NativeEngine(model, end_ids=[])
    prompt = tuple(int(token) for token in torch.randint(0, 80, (253,), generator=torch.Generator().manual_seed(0)))
    ((rollout,),) = generate(engine, [Request(0, prompt, (1,), SamplingParams(300))])
    expected = plain_logprobs(model, prompt, rollout.token_ids)
    assert list(rollout.logprobs) == pytest.approx(expected, abs=1e-4)


def hooked() -> Any:
    model = random_model("Qwen3")
    model.model.layers[1].mlp.register_forward_hook(lambda module, inputs, output: output * 0.5)
    return model


def rotated_dynamically() -> Any:
    options = {**SIZES, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**options))
    randomise(model)
    return model.eval()


def multiplied() -> Any:
    model = transformers.GraniteForCausalLM(transformers.GraniteConfig(**SIZES, residual_multiplier=0.5))
    randomise(model)
    return model.eval()


def with_two_norms_more() -> Any:
    model = transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**SIZES))
    randomise(model)
    return model.eval()


def with_a_part_of_its_own() -> Any:
    model = random_model("Qwen3")
    model.value_head = nn.Linear(2, 2)
    return model


def with_short_embeddings() -> Any:
    model = random_model("Qwen3")
    model.model.embed_tokens.max_norm = 0.5
    return model


def with_trained_head() -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    return get_peft_model(random_model("Qwen3"), config).eval()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (hooked, "hooks on Qwen3MLP"),
        (rotated_dynamically, "rotary embeddings of type dynamic"),
        (multiplied, "its logits would be off"),
        (with_two_norms_more, "Olmo2DecoderLayer differs"),
        (with_a_part_of_its_own, "Qwen3ForCausalLM differs in value_head"),
        (with_short_embeddings, "an embedding of type Embedding"),
        (with_trained_head, "a linear layer of type ModulesToSaveWrapper"),
        (lambda: with_adapter(random_model("Qwen3"), use_dora=True), "more than a product of two matrices"),
    ],
)
def test_what_is_not_recognised_runs_by_its_own_modules_and_says_so_once(
    make: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = make()
    with caplog.at_level(logging.INFO, logger="grpo"):
        engine = NativeEngine(model, end_ids=[7])
        sampled(engine)
    assert not engine.runs_fused
    assert engine.shares_prompts
    (message,) = [record.message for record in caplog.records if "by its own modules" in record.message]
    assert reason in message
    check_against_modules(model, engine)


def test_weights_of_different_types_are_not_recognised() -> None:
    model = random_model("Qwen3")
    recognise(model, [None] * len(model.model.layers))
    model.model.layers[0].mlp.up_proj.bfloat16()
    with pytest.raises(UnrecognisedError, match=r"parameters of types torch\.bfloat16, torch\.float32"):
        recognise(model, [None] * len(model.model.layers))
