from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from grpo.algorithm import find_method
from grpo.errors import RunError, StaleWeightsError
from grpo.policy import Policy
from grpo.rollout import RolloutCollector, groups_with_spread
from grpo.types import SamplingParams
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
        "skip_uniform_groups": False,
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
    batches, counts = learner.pack(groups, learner.signal(groups))
    metrics = learner.update(batches, counts, 1)
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


def test_skipping_groups_without_spread_changes_nothing_at_beta_zero(
    tiny_policy: Policy, make_collector: MakeCollector
) -> None:
    collector = make_collector(prompts_per_step=8, group_size=2)
    spread = groups_with_spread(collector.collect(1, 0).groups)
    assert spread.any()
    assert not spread.all()
    kept, _ = step_of(tiny_policy, collector)
    skipped, _ = step_of(tiny_policy, collector, skip_uniform_groups=True)
    assert_same_step(kept, skipped)


def test_a_step_in_which_no_group_has_spread_still_ends(tiny_policy: Policy, make_collector: MakeCollector) -> None:
    def equal(completions: list[str], **columns: object) -> list[float]:
        return [1.0] * len(completions)

    moved, metrics = step_of(tiny_policy, make_collector([equal]), skip_uniform_groups=True)
    assert metrics["micro_batches"] == 0
    assert metrics["grad_norm"] == 0
    assert all(not change.any() for change in moved)


def test_masked_truncated_completions_leave_no_trace(tiny_policy: Policy, make_collector: MakeCollector) -> None:
    collector = make_collector([lambda completion_ids, **_: [float(len(ids)) for ids in completion_ids]])
    collector.sampling = SamplingParams(max_tokens=13)
    groups = collector.collect(1, 0).groups
    reasons = {scored.rollout.finish_reason for group in groups for scored in group.rollouts}
    assert reasons == {"stop", "length"}

    learner = make_learner(tiny_policy, truncated="mask")
    batches, counts = learner.pack(groups, learner.signal(groups))
    stopped = [s for group in groups for s in group.rollouts if s.rollout.finish_reason == "stop"]
    assert sum(int(batch.mask.sum()) for batch in batches) == sum(len(s.rollout.token_ids) for s in stopped)
    assert counts.num_rollouts == 12
    assert counts.num_tokens == sum(len(s.rollout.token_ids) for s in stopped)


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
    batches, counts = learner.pack(groups, learner.signal(groups))
    with torch.no_grad():
        for parameter in tiny_policy.trainable_parameters():
            parameter.mul_(1.02)
    with pytest.raises(StaleWeightsError, match="does not sample from the policy"):
        learner.update(batches, counts, 1)


def test_weights_that_are_not_numbers_stop_the_run_in_one_line(
    tiny_policy: Policy, make_collector: MakeCollector
) -> None:
    groups = make_collector().collect(1, 0).groups
    learner = make_learner(tiny_policy, mismatch_limit=float("inf"))
    batches, counts = learner.pack(groups, learner.signal(groups))
    with torch.no_grad():
        tiny_policy.trainable_parameters()[-1].fill_(float("nan"))
    with pytest.raises(RunError, match="lower the learning rate"):
        learner.update(batches, counts, 1)


def test_the_gradient_of_a_step_follows_what_was_rewarded(tiny_policy: Policy, make_collector: MakeCollector) -> None:
    collector = make_collector()
    groups = collector.collect(1, 0).groups
    learner = make_learner(tiny_policy)
    signal = learner.signal(groups)
    batches, counts = learner.pack(groups, signal)

    def weighted_logprob() -> float:
        with torch.no_grad():
            return sum(
                float((tiny_policy.token_logprobs(batch, temperature=1.0).logprobs * batch.advantages).sum())
                for batch in batches
            )

    before = weighted_logprob()
    learner.learning_rate = lambda step: 1e-2
    learner.update(batches, counts, 1)
    assert weighted_logprob() > before
