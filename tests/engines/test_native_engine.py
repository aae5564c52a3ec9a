"""The verbs of the native engine on a tiny model."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from sampling_helpers import generate
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from grpo.engines.native import NativeEngine
from grpo.errors import ConfigError, InputError, ModelError, RunError
from grpo.types import Completion, Request, SamplingParams

PROMPTS = ((3, 1, 4, 1, 5), (9, 2, 6), (5, 3, 5, 8, 9, 7, 9))


def requests(completions: int = 3, prompts: Sequence[tuple[int, ...]] = PROMPTS, **sampling: float) -> list[Request]:
    options = SamplingParams(**{"max_tokens": 12, **sampling})  # type: ignore[arg-type]
    return [
        Request(number, prompt, tuple(range(100 * number, 100 * number + completions)), options)
        for number, prompt in enumerate(prompts)
    ]


def plain_logprobs(
    model: nn.Module, prompt: Sequence[int], completion: Sequence[int], temperature: float
) -> list[float]:
    """Log-probabilities of one plain forward pass over prompt and completion, dropout off."""
    training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
    model.train(training)
    logprobs = (logits / temperature).log_softmax(dim=-1)
    return logprobs.gather(1, torch.tensor(completion)[:, None])[:, 0].tolist()


def token_ids(rollouts: list[tuple[Completion, ...]]) -> list[list[tuple[int, ...]]]:
    return [[rollout.token_ids for rollout in group] for group in rollouts]


def by_seed(engine: NativeEngine) -> dict[tuple[int, int], Completion]:
    """Return what has ended since the last call, by request and index of the seed."""
    return {(request_id, index): completion for request_id, index, completion in engine.collect()}


def in_order(collected: dict[tuple[int, int], Completion]) -> list[tuple[Completion, ...]]:
    return [tuple(collected[number, index] for index in range(3)) for number in range(3)]


def test_the_same_seeds_give_the_same_completions_and_others_give_others(model: nn.Module) -> None:
    engine = NativeEngine(model, end_ids=[7])
    first = generate(engine, requests())
    assert first == generate(engine, requests())
    flat = [ids for group in token_ids(first) for ids in group]
    assert len(set(flat)) == len(flat)


def test_completions_end_at_any_end_token_or_at_the_budget(model: nn.Module) -> None:
    ends = {7, 11, 30, 41}
    rollouts = [
        rollout for group in generate(NativeEngine(model, end_ids=sorted(ends)), requests(20)) for rollout in group
    ]
    assert {rollout.finish_reason for rollout in rollouts} == {"stop", "length"}
    assert len({rollout.token_ids[-1] for rollout in rollouts if rollout.finish_reason == "stop"}) > 1
    for rollout in rollouts:
        assert not ends & set(rollout.token_ids[:-1])
        if rollout.finish_reason == "stop":
            assert rollout.token_ids[-1] in ends
        else:
            assert len(rollout.token_ids) == 12
            assert rollout.token_ids[-1] not in ends


def test_without_end_tokens_only_length_ends_a_completion(model: nn.Module) -> None:
    for (rollout,) in generate(NativeEngine(model, end_ids=[]), requests(1, max_tokens=1)):
        assert len(rollout.token_ids) == 1
        assert rollout.finish_reason == "length"


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_logprobs_and_scores_are_those_of_a_plain_forward(model: nn.Module, temperature: float) -> None:
    engine = NativeEngine(model, end_ids=[7, 11])
    groups = generate(engine, requests(temperature=temperature))
    prompts = [prompt for prompt, group in zip(PROMPTS, groups, strict=True) for _ in group]
    rollouts = [rollout for group in groups for rollout in group]
    scores = engine.score(prompts, [rollout.token_ids for rollout in rollouts], temperature=temperature)
    for prompt, rollout, score in zip(prompts, rollouts, scores, strict=True):
        expected = plain_logprobs(model, prompt, rollout.token_ids, temperature or 1.0)
        assert list(rollout.logprobs) == pytest.approx(expected, abs=1e-5)
        assert list(score) == pytest.approx(expected, abs=1e-5)


def test_scoring_sees_a_change_of_one_weight_and_leaves_requests_in_hand_alone(model: nn.Module) -> None:
    engine = NativeEngine(model, end_ids=[7], max_sequences=2)
    undisturbed = generate(engine, requests())
    for request in requests():
        engine.add(request)
    before = engine.score(PROMPTS, [(1, 2, 3), (), (4,)])
    assert [len(row) for row in before] == [3, 0, 1]
    collected = {}
    while engine.has_work:
        engine.step()
        assert engine.score(PROMPTS, [(1, 2, 3), (), (4,)]) == before
        collected.update(by_seed(engine))
    assert in_order(collected) == undisturbed
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 5] += 0.5
    assert engine.score(PROMPTS, [(1, 2, 3), (), (4,)]) != before


def test_requests_may_come_while_others_run(model: nn.Module) -> None:
    engine = NativeEngine(model, end_ids=[7], max_sequences=4)
    expected = generate(engine, requests())
    collected: dict[tuple[int, int], Completion] = {}
    for request in requests():
        engine.add(request)
        engine.step()
        engine.step()
        collected.update(by_seed(engine))
    while engine.has_work:
        engine.step()
        collected.update(by_seed(engine))
    assert token_ids(in_order(collected)) == token_ids(expected)


def test_the_cache_is_empty_when_the_work_is_done(model: nn.Module) -> None:
    engine = NativeEngine(model, end_ids=[7])
    for request in requests():
        engine.add(request)
    engine.step()
    engine.step()
    assert engine.num_cache_bytes > 0
    while engine.has_work:
        engine.step()
        engine.collect()
    assert engine.num_cache_bytes == 0
    engine.step()
    assert engine.collect() == []


def test_every_module_keeps_its_mode_and_dropout_is_off_while_sampling(model: nn.Module) -> None:
    expected = token_ids(generate(NativeEngine(model.eval(), end_ids=[7]), requests()))
    model.train()
    model.model.layers[0].eval()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    modes = [module.training for module in model.modules()]
    engine = NativeEngine(model, end_ids=[7])
    assert token_ids(generate(engine, requests())) == expected
    assert [module.training for module in model.modules()] == modes
    model(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert model.lm_head.weight.grad is not None


def test_the_policys_own_module_is_sampled_from_as_it_is_now(model: nn.Module) -> None:
    engine = NativeEngine(model, end_ids=[7])
    before = generate(engine, requests())
    with torch.no_grad():
        model.lm_head.weight.mul_(-1)
    engine.load_weights(model, version=4)
    after = generate(engine, requests())
    assert engine.policy_version == 4
    assert {version for group in before for found in group for version in found.policy_versions} == {0}
    assert {version for group in after for found in group for version in found.policy_versions} == {4}
    assert token_ids(before) != token_ids(after)


@pytest.mark.parametrize("as_state", [False, True])
def test_weights_of_another_module_are_copied(model: nn.Module, as_state: bool) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.lm_head.weight.mul_(-1)
    expected = token_ids(generate(NativeEngine(other, end_ids=[7]), requests()))
    engine = NativeEngine(model, end_ids=[7])
    engine.load_weights(other.state_dict() if as_state else other, version=1)
    with torch.no_grad():
        other.lm_head.weight.zero_()
    assert token_ids(generate(engine, requests())) == expected


def test_weights_that_do_not_fit_are_refused(model: nn.Module) -> None:
    state = dict(model.state_dict())
    del state["lm_head.weight"]
    with pytest.raises(ModelError, match=r"lm_head\.weight"):
        NativeEngine(model, end_ids=[7]).load_weights(state, version=1)


def test_weights_do_not_change_under_running_completions(model: nn.Module) -> None:
    engine = NativeEngine(model, end_ids=[])
    engine.add(requests()[0])
    engine.step()
    with pytest.raises(RunError, match="3 completions are still running"):
        engine.load_weights(model, version=1)
    engine.abort()
    engine.load_weights(model, version=1)
    assert not engine.has_work


def test_a_lora_model_is_sampled_with_its_adapter(model: nn.Module) -> None:
    from peft import LoraConfig, get_peft_model

    plain = token_ids(generate(NativeEngine(model, end_ids=[7]), requests()))
    peft_model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    engine = NativeEngine(peft_model, end_ids=[7])
    assert engine.shares_prompts
    assert token_ids(generate(engine, requests())) == plain
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.5)
    groups = generate(engine, requests())
    assert token_ids(groups) != plain
    rollout = groups[0][0]
    assert list(rollout.logprobs) == pytest.approx(
        plain_logprobs(peft_model, PROMPTS[0], rollout.token_ids, 1.0), abs=1e-5
    )


def test_autocast_computes_in_the_type_that_is_asked_for(model: nn.Module) -> None:
    engine = NativeEngine(model, end_ids=[7], dtype=torch.bfloat16)
    assert engine.shares_prompts
    groups = generate(engine, requests())
    exact = NativeEngine(model, end_ids=[7]).score(PROMPTS, [group[0].token_ids for group in groups])
    rounded = [group[0].logprobs for group in groups]
    assert rounded != exact
    for row, expected in zip(rounded, exact, strict=True):
        assert list(row) == pytest.approx(list(expected), abs=0.3)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_a_long_prompt_batch_is_read_in_pieces(model: nn.Module) -> None:
    whole = NativeEngine(model, end_ids=[7])
    pieces = NativeEngine(model, end_ids=[7], max_prefill_tokens=4)
    assert token_ids(generate(whole, requests())) == token_ids(generate(pieces, requests()))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"prompt_ids": ()}, InputError, "no tokens"),
        ({"prompt_ids": (1, 64)}, InputError, "0 to 63"),
        ({"prompt_ids": (1,) * 90}, ConfigError, "96 positions"),
        ({"prompt_ids": (1,) * 60}, ConfigError, "max_cache_tokens=64: raise it to at least 72"),
        ({"max_tokens": 0}, ConfigError, "at least 1 token"),
        ({"temperature": -1.0}, ConfigError, "temperature=-1.0"),
        ({"temperature": float("nan")}, ConfigError, "temperature=nan"),
        ({"top_p": 0.0}, ConfigError, "0 < top_p ≤ 1"),
        ({"top_k": -1}, ConfigError, "top_k ≥ 0"),
        ({"min_p": 1.5}, ConfigError, "0 ≤ min_p ≤ 1"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_before_anything_runs(
    model: nn.Module, changes: dict[str, object], error: type[InputError], message: str
) -> None:
    engine = NativeEngine(model, end_ids=[7], max_cache_tokens=64)
    prompt = changes.pop("prompt_ids", (1, 2))
    sampling = SamplingParams(**{"max_tokens": 12, **changes})  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        generate(engine, [requests()[0], Request(9, prompt, (0,), sampling)])  # type: ignore[arg-type]
    assert not engine.has_work
    assert len(generate(engine, requests())) == 3


@pytest.mark.parametrize(
    ("prompts", "completions", "error", "message"),
    [
        ([()], [(1,)], InputError, "no tokens"),
        ([(1, 64)], [(1,)], InputError, "0 to 63"),
        ([(1,) * 90], [(1,) * 7], ConfigError, "96 positions"),
        ([(1,), (2,)], [(1,)], InputError, "2 prompts and 1 completions"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    model: nn.Module, prompts: list[Any], completions: list[Any], error: type[InputError], message: str
) -> None:
    engine = NativeEngine(model, end_ids=[7])
    with pytest.raises(error, match=message):
        engine.score(prompts, completions)
    assert [len(row) for row in engine.score([(1,) * 90, (2,)], [(1,) * 6, ()])] == [6, 0]


def test_request_ids_are_unique_among_those_in_hand(model: nn.Module) -> None:
    engine = NativeEngine(model, end_ids=[7])
    engine.add(requests()[0])
    with pytest.raises(InputError, match="request id 0 is taken"):
        engine.add(requests()[0])
    engine.abort()
    assert len(generate(engine, requests())) == 3


def test_a_limit_below_one_is_refused(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match="max_sequences=0"):
        NativeEngine(model, end_ids=[7], max_sequences=0)


def test_diverged_weights_are_an_error_and_the_engine_survives_it(model: nn.Module) -> None:
    engine = NativeEngine(model, end_ids=[7])
    weight = model.lm_head.weight.detach()
    kept = weight[5, 0].item()
    weight[5, 0] = float("nan")
    with pytest.raises(RunError, match="NaN or infinite logits"):
        generate(engine, requests())
    weight[5, 0] = kept
    assert len(generate(engine, requests())) == 3


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_a_model_with_experts_that_would_output_its_routers_logits_is_sampled_as_fast(family: str) -> None:
    experts = {"num_experts_per_tok": 1, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    heads = {"num_key_value_heads": 1, "head_dim": 8, "num_experts": 3, "num_local_experts": 3}
    found = []
    for router_logits in (False, True):
        config = AutoConfig.for_model(family, vocab_size=64, **sizes, **heads, **experts)
        config.output_router_logits = router_logits
        torch.manual_seed(0)
        engine = NativeEngine(AutoModelForCausalLM.from_config(config), end_ids=[7])
        assert engine.shares_prompts
        found.append(generate(engine, requests()))
    assert found[0] == found[1]


def test_a_model_without_exchangeable_attention_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    mamba = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, state_size=4))
    with caplog.at_level(logging.WARNING, logger="grpo"):
        engine = NativeEngine(mamba, end_ids=[7], max_sequences=4)
        groups = generate(engine, requests())
        generate(engine, requests())
    assert not engine.shares_prompts
    assert [record.message for record in caplog.records if "lockstep" in record.message][1:] == []
    assert "MambaForCausalLM cannot share prompts" in caplog.text
    for prompt, group in zip(PROMPTS, groups, strict=True):
        scores = engine.score([prompt] * 3, [rollout.token_ids for rollout in group])
        for rollout, score in zip(group, scores, strict=True):
            expected = plain_logprobs(mamba, prompt, rollout.token_ids, 1.0)
            assert list(rollout.logprobs) == pytest.approx(expected, abs=1e-5)
            assert list(score) == pytest.approx(expected, abs=1e-5)
    assert engine.num_cache_bytes == 0


def test_in_lockstep_a_model_counts_positions_as_it_always_does() -> None:
    from transformers import RobertaConfig, RobertaForCausalLM

    # Its positions begin after those of the padding token.
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=40, is_decoder=True, initializer_range=0.5,
    )  # fmt: skip
    roberta = RobertaForCausalLM(config).eval()
    (group,) = generate(NativeEngine(roberta, end_ids=[7], max_sequences=4), requests(prompts=PROMPTS[:1]))
    for rollout in group:
        ids = torch.tensor([[*PROMPTS[0], *rollout.token_ids]])
        with torch.no_grad():
            logprobs = roberta(input_ids=ids).logits[0, len(PROMPTS[0]) - 1 : -1].log_softmax(-1)
        expected = logprobs.gather(1, torch.tensor(rollout.token_ids)[:, None]).squeeze(1).tolist()
        assert list(rollout.logprobs) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "reorder",
    [None, lambda cache, rows: None, lambda cache, rows: (_ for _ in ()).throw(NotImplementedError("no beams"))],
    ids=["absent", "without effect", "refused"],
)
def test_a_model_whose_cache_cannot_be_reordered_is_sampled_without_it(
    reorder: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import Cache, MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    mamba = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, state_size=4))
    expected = generate(NativeEngine(mamba, end_ids=[7], max_sequences=4), requests())
    caplog.clear()
    if reorder is None:
        monkeypatch.delattr(Cache, "reorder_cache")
    else:
        monkeypatch.setattr(Cache, "reorder_cache", reorder)
    with caplog.at_level(logging.WARNING, logger="grpo"):
        found = generate(NativeEngine(mamba, end_ids=[7], max_sequences=4), requests())
    assert token_ids(found) == token_ids(expected)
    assert reorder is None or "cannot go on from its cache" in caplog.text


def test_in_lockstep_no_more_prompt_tokens_are_scored_at_once_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    from grpo.engines.native.fallback import LockstepRunner

    lengths: list[list[int]] = []
    prefill = LockstepRunner.prefill

    def noted(self: LockstepRunner, prompts: list[tuple[int, ...]]) -> torch.Tensor:
        lengths.append([len(prompt) for prompt in prompts])
        return prefill(self, prompts)

    monkeypatch.setattr(LockstepRunner, "prefill", noted)
    torch.manual_seed(0)
    mamba = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, state_size=4))
    engine = NativeEngine(mamba, end_ids=[7], max_prefill_tokens=6)
    lengths.clear()
    engine.score([(1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5), (1,) * 9], [(1, 2)] * 3 + [(1,), (2,)])
    assert lengths == [[3, 3], [3], [2], [9]]


def test_prompts_are_attended_to_by_the_fast_kernel_where_it_works(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grpo.engines.native import attention
    from grpo.policy.flash import flash_works

    if not flash_works(grouped=False):
        pytest.skip("this version of PyTorch has no such kernel")
    calls: list[torch.Size] = []
    kernel = attention.flash_attention

    def counted(query: torch.Tensor, *others: torch.Tensor, **options: Any) -> Any:
        calls.append(query.shape)
        return kernel(query, *others, **options)

    engine = NativeEngine(model, end_ids=[])
    engine._runner.max_copied_bytes = 0
    monkeypatch.setattr(attention, "flash_attention", counted)
    generate(engine, requests())
    assert calls
