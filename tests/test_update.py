from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from grpo.algorithm import find_method
from grpo.engines.native import NativeEngine, NativeSampler
from grpo.errors import RunError, StaleWeightsError
from grpo.groups import describe_groups, find_zero_variance_groups
from grpo.packing import PackedBatch
from grpo.policy import LoraSettings, Policy, load_policy
from grpo.rollout import RolloutCollector
from grpo.types import Rollout, SamplingParams, ScoredGroup
from grpo.update import Learner

MakeCollector = Callable[..., RolloutCollector]


def make_learner(policy: Policy, **changes: object) -> Learner:
    """A learner whose update is the gradient itself: plain SGD at rate 1."""
    settings: dict[str, object] = {
        "beta": 0.0,
        "gamma": 1.0,
        "temperature": 1.0,
        "max_completion_length": 20,
        "epochs_per_step": 1,
        "max_grad_norm": 0.0,
        "skip_zero_variance_groups": False,
        "truncated": "keep",
        "tokens_per_micro_batch": None,
        "min_micro_batches": 1,
        "mismatch_limit": 1e-3,
        "seed": 0,
        **changes,
    }
    method = find_method(str(settings.pop("method", "grpo")))
    optimizer = torch.optim.SGD(policy.trainable_parameters(), lr=1.0)
    return Learner(policy, optimizer, lambda step: 1.0, method, **settings)  # type: ignore[arg-type]


def step_of(
    policy: Policy, collector: RolloutCollector, **settings: object
) -> tuple[list[torch.Tensor], dict[str, float]]:
    """Return how far one step moves each parameter, with the policy put back where it was, and the metrics."""
    learner = make_learner(policy, **settings)
    groups = collector.collect(1, 0).groups
    before = [parameter.detach().clone() for parameter in policy.trainable_parameters()]
    packed = learner.pack(groups, learner.advantages(groups))
    metrics = learner.update(packed, 1)
    moved = [parameter.detach() - old for parameter, old in zip(policy.trainable_parameters(), before, strict=True)]
    with torch.no_grad():
        for parameter, old in zip(policy.trainable_parameters(), before, strict=True):
            parameter.copy_(old)
    return moved, metrics


def assert_same_step(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    scale = max(float(change.abs().max()) for change in first)
    assert scale > 1e-4
    for one, other in zip(first, second, strict=True):
        assert torch.allclose(one, other, atol=2e-5 * max(scale, 1.0), rtol=1e-3)


@pytest.mark.parametrize("method", ["grpo", "dapo", "dr_grpo", "gspo", "reinforce"])
def test_micro_batches_do_not_change_the_gradient_of_a_model(
    method: str, tiny_policy: Policy, make_collector: MakeCollector
) -> None:
    collector = make_collector()
    whole, metrics = step_of(tiny_policy, collector, method=method, beta=0.1)
    for budget, least in ((150, 1), (70, 1), (None, 5)):
        cut, cut_metrics = step_of(
            tiny_policy, collector, method=method, beta=0.1, tokens_per_micro_batch=budget, min_micro_batches=least
        )
        assert cut_metrics["micro_batches"] > metrics["micro_batches"]
        assert cut_metrics["loss"] == pytest.approx(metrics["loss"], abs=1e-5)
        assert_same_step(whole, cut)


def test_skipping_zero_variance_groups_changes_nothing_at_beta_zero(
    tiny_policy: Policy, make_collector: MakeCollector
) -> None:
    collector = make_collector(prompts_per_step=8, group_size=2)
    zero_variance = find_zero_variance_groups(collector.collect(1, 0).groups)
    assert zero_variance.any()
    assert not zero_variance.all()
    kept, _ = step_of(tiny_policy, collector)
    skipped, _ = step_of(tiny_policy, collector, skip_zero_variance_groups=True)
    assert_same_step(kept, skipped)


def test_the_kl_term_of_zero_variance_groups_is_not_skipped(tiny_policy: Policy, make_collector: MakeCollector) -> None:
    def equal(completions: list[str], **columns: object) -> list[float]:
        return [1.0] * len(completions)

    with torch.no_grad():
        for parameter in tiny_policy.trainable_parameters():
            parameter.mul_(1.02)
    for rewards in (None, [equal]):
        collector = make_collector(rewards) if rewards else make_collector(prompts_per_step=8, group_size=2)
        assert find_zero_variance_groups(collector.collect(1, 0).groups).any()
        kept, metrics = step_of(tiny_policy, collector, beta=0.5)
        skipped, skipped_metrics = step_of(tiny_policy, collector, beta=0.5, skip_zero_variance_groups=True)
        assert metrics["kl"] == skipped_metrics["kl"] > 0
        assert_same_step(kept, skipped)


def test_a_step_of_zero_variance_groups_still_ends(tiny_policy: Policy, make_collector: MakeCollector) -> None:
    def equal(completions: list[str], **columns: object) -> list[float]:
        return [1.0] * len(completions)

    moved, metrics = step_of(tiny_policy, make_collector([equal]), skip_zero_variance_groups=True)
    assert metrics["micro_batches"] == 0
    assert metrics["grad_norm"] == 0
    assert all(not change.any() for change in moved)


def test_a_step_without_a_trained_group_moves_the_policy_as_one_with_zero_gradients(
    tiny_policy: Policy, make_collector: MakeCollector
) -> None:
    """AdamW's moments go on, whether zero gradients were computed or left out."""

    def equal(completions: list[str], **columns: object) -> list[float]:
        return [1.0] * len(completions)

    before = copy.deepcopy(tiny_policy.model.state_dict())
    steps = [make_collector(rewards).collect(1, 0).groups for rewards in (("correctness",), [equal])]
    weights = []
    for skip in (False, True):
        tiny_policy.model.load_state_dict(before)
        learner = make_learner(tiny_policy, skip_zero_variance_groups=skip)
        learner.optimizer = torch.optim.AdamW(tiny_policy.trainable_parameters(), lr=1.0)
        learner.learning_rate = lambda step: 1e-3
        learner.mismatch_limit = 1e3  # the second step was sampled before the first moved the policy
        for number, groups in enumerate(steps):
            learner.update(learner.pack(groups, learner.advantages(groups)), number + 1)
        weights.append(copy.deepcopy(tiny_policy.model.state_dict()))
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-6, rtol=1e-5, msg=name)


def test_masked_truncated_completions_leave_no_trace(tiny_policy: Policy, make_collector: MakeCollector) -> None:
    collector = make_collector([lambda completion_ids, **_: [float(len(ids)) for ids in completion_ids]])
    collector.sampling = SamplingParams(max_tokens=13)
    groups = collector.collect(1, 0).groups
    reasons = {scored.rollout.finish_reason for group in groups for scored in group.rollouts}
    assert reasons == {"stop", "length"}

    learner = make_learner(tiny_policy, truncated="mask")
    packed = learner.pack(groups, learner.advantages(groups))
    stopped = [s for group in groups for s in group.rollouts if s.rollout.finish_reason == "stop"]
    assert sum(int(batch.mask.sum()) for batch in packed.batches) == sum(len(s.rollout.token_ids) for s in stopped)
    assert packed.counts.num_rollouts == 12
    assert packed.counts.num_tokens == sum(len(s.rollout.token_ids) for s in stopped)


def test_the_first_epoch_of_a_step_is_on_policy(tiny_policy: Policy, make_collector: MakeCollector) -> None:
    _, metrics = step_of(tiny_policy, make_collector())
    assert metrics["ratio_mean"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["ratio_max"] == pytest.approx(1.0, abs=1e-6)


def test_later_epochs_compare_with_the_policy_that_sampled(tiny_policy: Policy, make_collector: MakeCollector) -> None:
    _, metrics = step_of(tiny_policy, make_collector(), epochs_per_step=3)
    assert metrics["ratio_max"] > 1.01


def test_the_parts_of_the_loss_are_those_of_one_epoch(tiny_policy: Policy, make_collector: MakeCollector) -> None:
    _, metrics = step_of(tiny_policy, make_collector(), epochs_per_step=3, beta=0.1, min_micro_batches=2)
    assert metrics["kl_loss"] > 0
    assert metrics["loss"] == pytest.approx(metrics["policy_loss"] + 0.1 * metrics["kl_loss"], rel=1e-4)


def test_an_engine_with_stale_weights_is_found_out(tiny_policy: Policy, make_collector: MakeCollector) -> None:
    groups = make_collector().collect(1, 0).groups
    learner = make_learner(tiny_policy)
    packed = learner.pack(groups, learner.advantages(groups))
    with torch.no_grad():
        for parameter in tiny_policy.trainable_parameters():
            parameter.mul_(1.02)
    with pytest.raises(StaleWeightsError, match="does not sample from the policy that is trained"):
        learner.update(packed, 1)


def test_weights_that_are_not_numbers_stop_the_run_in_one_line(
    tiny_policy: Policy, make_collector: MakeCollector
) -> None:
    groups = make_collector().collect(1, 0).groups
    learner = make_learner(tiny_policy, mismatch_limit=float("inf"))
    packed = learner.pack(groups, learner.advantages(groups))
    with torch.no_grad():
        tiny_policy.trainable_parameters()[-1].fill_(float("nan"))
    with pytest.raises(RunError, match=r"^the loss is nan: lower the learning rate"):
        learner.update(packed, 1)


def test_a_gradient_that_is_not_a_number_stops_the_run_before_the_weights_move(
    tiny_policy: Policy, make_collector: MakeCollector
) -> None:
    groups = make_collector().collect(1, 0).groups
    learner = make_learner(tiny_policy)
    packed = learner.pack(groups, learner.advantages(groups))
    parameter = tiny_policy.trainable_parameters()[0]
    parameter.register_hook(lambda gradient: gradient * float("inf"))
    before = parameter.detach().clone()
    with pytest.raises(RunError, match=r"^the gradient's norm is (nan|inf): lower the learning rate"):
        learner.update(packed, 1)
    assert torch.equal(parameter, before)


def test_the_gradient_of_a_step_follows_what_was_rewarded(tiny_policy: Policy, make_collector: MakeCollector) -> None:
    collector = make_collector()
    groups = collector.collect(1, 0).groups
    learner = make_learner(tiny_policy)
    advantages = learner.advantages(groups)
    packed = learner.pack(groups, advantages)

    def weighted_logprob() -> float:
        with torch.no_grad():
            return sum(
                float((tiny_policy.token_logprobs(batch, temperature=1.0).logprobs * batch.advantages).sum())
                for batch in packed.batches
            )

    before = weighted_logprob()
    learner.learning_rate = lambda step: 1e-2
    learner.update(packed, 1)
    assert weighted_logprob() > before


def fail_above(policy: Policy, limit: int, monkeypatch: pytest.MonkeyPatch, *, from_call: int = 0) -> list[int]:
    """Let the allocator fail for rows of more than `limit` tokens from a call of the training forward on."""
    lengths: list[int] = []
    forward = policy.token_logprobs

    def limited(batch: PackedBatch, **options: object) -> object:
        if torch.is_grad_enabled():
            lengths.append(len(batch.token_ids))
            if len(lengths) > from_call and len(batch.token_ids) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        return forward(batch, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(policy, "token_logprobs", limited)
    return lengths


def restored(
    policy: Policy, learner: Learner, groups: Sequence[ScoredGroup]
) -> tuple[list[torch.Tensor], dict[str, float]]:
    """Return the weights after an update, with the policy put back, and the metrics without times."""
    before = [parameter.detach().clone() for parameter in policy.trainable_parameters()]
    metrics = learner.update(learner.pack(groups, learner.advantages(groups)), 1)
    after = [parameter.detach().clone() for parameter in policy.trainable_parameters()]
    with torch.no_grad():
        for parameter, old in zip(policy.trainable_parameters(), before, strict=True):
            parameter.copy_(old)
    return after, {name: value for name, value in metrics.items() if not name.startswith("seconds")}


def test_a_step_that_runs_out_of_memory_is_the_step_of_a_smaller_budget_to_the_last_bit(
    tiny_policy: Policy,
    make_collector: MakeCollector,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    groups = make_collector().collect(1, 0).groups
    learner = make_learner(tiny_policy, beta=0.1, epochs_per_step=2)
    longest = max(len(batch.token_ids) for batch in learner.pack(groups, learner.advantages(groups)).batches)
    with monkeypatch.context() as patch:
        lengths = fail_above(tiny_policy, longest // 3, patch)
        got, metrics = restored(tiny_policy, learner, groups)
    assert lengths[0] > longest // 3 >= lengths[-1]
    budget = learner.budget.lowered
    assert budget is not None
    assert budget < longest // 3
    assert len(caplog.records) == 2
    assert f"cut from {longest} to {longest // 2} tokens" in caplog.records[0].message

    expected, expected_metrics = restored(
        tiny_policy,
        make_learner(tiny_policy, beta=0.1, epochs_per_step=2, tokens_per_micro_batch=budget),
        groups,
    )
    assert metrics == expected_metrics
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


def test_memory_that_runs_out_in_a_later_epoch_keeps_the_old_log_probabilities(
    tiny_policy: Policy, make_collector: MakeCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = make_collector().collect(1, 0).groups
    options = {"beta": 0.1, "epochs_per_step": 3, "min_micro_batches": 2}
    whole = make_learner(tiny_policy, **options)
    packed = whole.pack(groups, whole.advantages(groups))
    assert len(packed.batches) == 2
    expected, expected_metrics = restored(tiny_policy, whole, groups)
    learner = make_learner(tiny_policy, **options)
    with monkeypatch.context() as patch:
        # The second micro-batch of the second epoch fails, when the first has left its gradient already.
        lengths = fail_above(tiny_policy, packed.most_tokens // 2, patch, from_call=3)
        got, metrics = restored(tiny_policy, learner, groups)
    assert len(lengths) > 4 + 4
    assert metrics["micro_batches"] > 2
    assert metrics["ratio_max"] > 1.01
    for name in ("loss", "kl", "entropy", "ratio_mean", "grad_norm", "sampler_mismatch"):
        assert metrics[name] == pytest.approx(expected_metrics[name], rel=1e-3, abs=1e-5), name
    for one, other in zip(got, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("words", ["DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes", ""])
def test_memory_that_does_not_suffice_for_one_completion_stops_the_run_in_one_line(
    words: str, tiny_policy: Policy, make_collector: MakeCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = make_collector().collect(1, 0).groups
    learner = make_learner(tiny_policy)
    packed = learner.pack(groups, learner.advantages(groups))

    def never(*_: object, **__: object) -> None:
        raise RuntimeError(words) if words else MemoryError

    monkeypatch.setattr(tiny_policy, "token_logprobs", never)
    with pytest.raises(RunError, match=r"single completion.* lower max_completion_length") as caught:
        learner.update(packed, 1)
    assert "\n" not in str(caught.value)


def test_other_failures_of_the_forward_are_not_taken_for_a_lack_of_memory(
    tiny_policy: Policy, make_collector: MakeCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = make_collector().collect(1, 0).groups
    learner = make_learner(tiny_policy)
    packed = learner.pack(groups, learner.advantages(groups))

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(tiny_policy, "token_logprobs", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        learner.update(packed, 1)
    assert learner.budget.lowered is None


@pytest.fixture
def noisy_policy() -> Policy:
    lora = LoraSettings(rank=4, alpha=4.0, dropout=0.3, target_modules="all-linear")
    return load_policy("tiny", dtype="float32", device="cpu", lora=lora, reference="none")


def count_forwards(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Record of each forward whether it was for a backward."""
    forwards: list[bool] = []
    forward = policy.token_logprobs

    def counted(*arguments: Any, **options: Any) -> object:
        forwards.append(torch.is_grad_enabled())
        return forward(*arguments, **options)

    monkeypatch.setattr(policy, "token_logprobs", counted)
    return forwards


@pytest.mark.parametrize(("exact", "extra"), [(True, 1), (False, 4)])
def test_with_dropout_a_sampler_that_agrees_spares_the_forwards_without_it(
    exact: bool,
    extra: int,
    noisy_policy: Policy,
    make_collector: MakeCollector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    collector = make_collector()
    collector.episodes.sampler = NativeSampler(NativeEngine(noisy_policy.model, end_ids=noisy_policy.end_token_ids))
    groups = collector.collect(1, 0).groups
    forwards = count_forwards(noisy_policy, monkeypatch)
    learner = make_learner(noisy_policy, min_micro_batches=4, sampler_is_exact=exact)
    metrics = learner.update(learner.pack(groups, learner.advantages(groups)), 1)
    assert forwards.count(False) == extra
    assert forwards.count(True) == 4
    assert 0 < metrics["sampler_mismatch"] < 1e-4


def test_a_sampler_that_is_off_by_more_than_rounding_is_not_believed(
    noisy_policy: Policy, make_collector: MakeCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = make_collector()
    collector.episodes.sampler = NativeSampler(
        NativeEngine(noisy_policy.model, end_ids=noisy_policy.end_token_ids, dtype=torch.bfloat16)
    )
    groups = collector.collect(1, 0).groups
    forwards = count_forwards(noisy_policy, monkeypatch)
    learner = make_learner(noisy_policy, min_micro_batches=4, mismatch_limit=0.1)
    learner.mismatch_limit = 10 * mismatch(noisy_policy, learner, groups) * 0.99
    forwards.clear()
    learner.update(learner.pack(groups, learner.advantages(groups)), 1)
    assert forwards.count(False) == 4


def mismatch(policy: Policy, learner: Learner, groups: Sequence[ScoredGroup]) -> float:
    """Return the mean distance to the sampler over the first micro-batch."""
    batch = learner.pack(groups, learner.advantages(groups)).batches[0]
    with torch.no_grad():
        ours = policy.token_logprobs(batch, temperature=1.0).logprobs
    return float((ours - batch.sampling_logprobs)[batch.mask].abs().mean())


def test_a_sampler_of_lower_precision_is_corrected_and_measured(
    tiny_policy: Policy, make_collector: MakeCollector
) -> None:
    collector = make_collector()
    exact, exact_metrics = step_of(tiny_policy, collector, sampler_correction=2.0)
    plain, _ = step_of(tiny_policy, collector)
    assert exact_metrics["sampler_correction_mean"] == pytest.approx(1.0, abs=1e-5)
    assert_same_step(exact, plain)

    collector.episodes.sampler = NativeSampler(
        NativeEngine(tiny_policy.model, end_ids=tiny_policy.end_token_ids, dtype=torch.bfloat16)
    )
    options: dict[str, Any] = {"mismatch_limit": 0.1, "epochs_per_step": 2}
    uncorrected, metrics = step_of(tiny_policy, collector, **options)
    corrected, corrected_metrics = step_of(tiny_policy, collector, sampler_correction=2.0, **options)
    assert "sampler_correction_mean" not in metrics
    assert 0 < abs(corrected_metrics["sampler_correction_mean"] - 1) < 0.1
    assert any(not torch.equal(one, other) for one, other in zip(corrected, uncorrected, strict=True))


def test_the_reference_has_a_time_of_its_own(tiny_policy: Policy, make_collector: MakeCollector) -> None:
    _, without = step_of(tiny_policy, make_collector())
    _, metrics = step_of(tiny_policy, make_collector(), beta=0.1)
    assert without["seconds_reference"] == 0
    assert metrics["seconds_reference"] > 0
    assert metrics["seconds_update"] > 0


def test_the_figures_of_an_update_are_those_of_the_plain_model(
    tiny_policy: Policy, make_collector: MakeCollector
) -> None:
    collector = make_collector(temperature=0.7)
    groups = collector.collect(1, 0).groups
    entropies, distances = [], []
    for group in groups:
        for scored in group.rollouts:
            prompt, tokens = list(group.prompt.token_ids), torch.tensor(scored.rollout.token_ids)
            with torch.no_grad():
                logits = tiny_policy.model(torch.tensor([[*prompt, *tokens.tolist()]])).logits[0, len(prompt) - 1 : -1]
            everything = torch.log_softmax(logits.float() / 0.7, dim=-1)
            entropies.append(-(everything.exp() * everything).sum(dim=-1))
            own = everything.gather(1, tokens[:, None]).squeeze(1)
            distances.append((own - torch.tensor(scored.rollout.logprobs)).abs())
    for least in (1, 4):
        moved, metrics = step_of(tiny_policy, collector, temperature=0.7, min_micro_batches=least)
        assert metrics["entropy"] == pytest.approx(float(torch.cat(entropies).mean()), rel=1e-4)
        assert metrics["sampler_mismatch"] == pytest.approx(float(torch.cat(distances).mean()), abs=2e-6)
        assert metrics["grad_norm"] == pytest.approx(float(torch.cat([m.flatten() for m in moved]).norm()), rel=1e-3)
        assert metrics["learning_rate"] == 1.0
        assert metrics["micro_batches"] == least


def test_figures_of_several_epochs_are_means_over_them(tiny_policy: Policy, make_collector: MakeCollector) -> None:
    collector = make_collector()
    groups = collector.collect(1, 0).groups

    def metrics_of(rate: float, epochs: int) -> dict[str, float]:
        learner = make_learner(tiny_policy, epochs_per_step=epochs, beta=0.1)
        learner.learning_rate = lambda step: rate
        return restored(tiny_policy, learner, groups)[1]

    # A policy that does not move gives the same figures in each epoch.
    once, thrice = metrics_of(0.0, 1), metrics_of(0.0, 3)
    for name in ("loss", "policy_loss", "kl_loss", "kl", "entropy", "grad_norm", "ratio_mean", "sampler_mismatch"):
        assert thrice[name] == pytest.approx(once[name], rel=1e-5, abs=1e-9), name
    assert once["grad_norm"] > 0


def test_the_norm_of_a_gradient_is_reported_before_it_is_clipped(
    tiny_policy: Policy, make_collector: MakeCollector
) -> None:
    collector = make_collector()
    free, metrics = step_of(tiny_policy, collector)
    norm = metrics["grad_norm"]
    clipped, clipped_metrics = step_of(tiny_policy, collector, max_grad_norm=norm / 4)
    assert clipped_metrics["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert_same_step([change / 4 for change in free], clipped)


def test_a_step_whose_rewards_all_failed_moves_nothing_and_reports_numbers(
    tiny_policy: Policy, make_collector: MakeCollector
) -> None:
    def broken(completions: list[str], **_: object) -> list[float]:
        raise ValueError("no model behind this reward")

    collector = make_collector([broken])
    collector.rewards.max_failed_share = 1.0
    groups = collector.collect(1, 0).groups
    assert all(scored.score.total is None for group in groups for scored in group.rollouts)
    learner = make_learner(tiny_policy)
    before = [parameter.detach().clone() for parameter in tiny_policy.trainable_parameters()]
    advantages = learner.advantages(groups)
    assert not advantages.per_completion.any()
    assert not advantages.has_gradient.any()
    figures = describe_groups(groups, find_zero_variance_groups(groups)).means()
    metrics = {**learner.update(learner.pack(groups, advantages), 1), **figures}
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["grad_norm"] == 0
    assert "reward" not in metrics
    after = tiny_policy.trainable_parameters()
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_memory_that_runs_out_around_one_long_completion_lowers_the_budget_step_by_step(
    tiny_policy: Policy, make_collector: MakeCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    (group, *_), length = make_collector(prompts_per_step=1).collect(1, 0).groups, 150
    first, *others = group.rollouts
    tokens = first.rollout.token_ids * (1 + length // len(first.rollout.token_ids))
    long = Rollout(tokens[:length], (True,) * length, (-1.0,) * length, "length", 0)
    prompt = len(group.prompt.token_ids)
    groups = [replace(group, rollouts=(replace(first, rollout=long), *others))]
    learner = make_learner(tiny_policy, mismatch_limit=float("inf"))
    forward = tiny_policy.token_logprobs
    # The row with the long completion fits alone; others fit with at most this many tokens.
    limit = prompt + max(len(scored.rollout.token_ids) for scored in others) + 1
    budgets: list[int | None] = []

    def limited(batch: PackedBatch, **options: object) -> object:
        if torch.is_grad_enabled():
            budgets.append(learner.budget.lowered)
            assert len(budgets) < 100, "the budget does not come down"
            if len(batch.rollout_index) > 1 and len(batch.token_ids) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(batch, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(tiny_policy, "token_logprobs", limited)
    metrics = learner.update(learner.pack(groups, learner.advantages(groups)), 1)
    assert metrics["micro_batches"] > 2
    longest = sum(len(scored.rollout.token_ids) for scored in groups[0].rollouts) + prompt
    tried = list(dict.fromkeys(budgets))
    assert tried[0] is None
    # Each time the smaller of the budget and the longest row is halved, though a longer row stays.
    expected = [longest // 2**power for power in range(1, len(tried))]
    assert tried[1:] == expected
    assert learner.budget.lowered == tried[-1]
    assert expected[-1] < prompt + length
    assert len(expected) > 1
