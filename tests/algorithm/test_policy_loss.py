import pytest
import torch

from grpo.algorithm import METHODS, TrustRegion, policy_loss, ratios, token_weights

COUNTS = {"num_rollouts": 3, "num_tokens": 8, "max_tokens": 10}
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
REGION = TrustRegion()


def random_inputs(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logprobs = -2 * torch.rand(MASK.shape, generator=generator)
    return {
        "logprobs": logprobs.requires_grad_(),
        "old_logprobs": logprobs.detach() + 0.3 * torch.randn(MASK.shape, generator=generator),
        "reference_logprobs": logprobs.detach() + 0.3 * torch.randn(MASK.shape, generator=generator),
        "advantages": torch.randn(MASK.shape, generator=generator),
        "mask": MASK,
    }


@pytest.mark.parametrize(
    ("rule", "total"),
    [("sequence", 2 / 3), ("token", 1.0), ("constant", 8 / 30), ("sum", 8 / 3)],
)
def test_token_weights_add_up_to_what_their_rule_says(rule, total):
    weights = token_weights(MASK, rule, **COUNTS)
    assert weights.sum().item() == pytest.approx(total)
    assert not weights[~MASK].any()
    assert weights.dtype == torch.float32


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no token weights named 'mean'"):
        token_weights(MASK, "mean", **COUNTS)
    with pytest.raises(ValueError, match="no ratio level named 'word'"):
        ratios(torch.zeros(3, 5), torch.zeros(3, 5), MASK, "word")


def test_ratios_of_completions_are_the_mean_and_the_product_of_their_tokens():
    inputs = random_inputs(0)
    by_token = ratios(inputs["logprobs"], inputs["old_logprobs"], MASK, "token")
    by_sequence = ratios(inputs["logprobs"], inputs["old_logprobs"], MASK, "sequence")
    by_product = ratios(inputs["logprobs"], inputs["old_logprobs"], MASK, "product")
    for b in (0, 1):
        product = by_token[b, MASK[b]].prod()
        torch.testing.assert_close(by_product[b, MASK[b]], product.expand(int(MASK[b].sum())))
        geometric_mean = product ** (1 / MASK[b].sum())
        torch.testing.assert_close(by_sequence[b, MASK[b]], geometric_mean.expand(int(MASK[b].sum())))
    for values in (by_token, by_sequence, by_product):
        assert (values[~MASK] == 1).all()


def test_each_token_keeps_its_own_credit_above_token_level():
    inputs = random_inputs(1)
    for name in ("gspo", "rloo"):
        method = METHODS[name].override(epsilon=1e9)
        weights = method.token_weights(MASK, **COUNTS)
        gradients = []
        for bump in (0.0, 1.0):
            advantages = inputs["advantages"].clone()
            advantages[0, 2] += bump
            loss = method.loss(
                inputs["logprobs"], inputs["old_logprobs"], None, advantages=advantages, mask=MASK, weights=weights
            ).loss
            gradients.append(torch.autograd.grad(loss, inputs["logprobs"])[0])
        changed = gradients[0] != gradients[1]
        assert changed.nonzero().tolist() == [[0, 2]]


@pytest.mark.parametrize("name", METHODS)
def test_what_lies_in_padding_does_not_matter(name):
    inputs = random_inputs(2)
    method = METHODS[name]
    weights = method.token_weights(MASK, **COUNTS)
    clean = method.loss(**inputs, weights=weights, beta=0.1).loss
    (clean_gradient,) = torch.autograd.grad(clean, inputs["logprobs"])
    dirty_inputs = {
        key: value.detach().masked_fill(~MASK, torch.nan) if key != "mask" else value for key, value in inputs.items()
    }
    dirty_inputs["logprobs"].requires_grad_()
    result = method.loss(**dirty_inputs, weights=weights, beta=0.1)
    (dirty_gradient,) = torch.autograd.grad(result.loss, dirty_inputs["logprobs"])
    assert torch.equal(clean.detach(), result.loss.detach())
    assert torch.equal(clean_gradient, dirty_gradient)
    assert all(torch.tensor(value).isfinite() for value in result.metrics.means().values())


@pytest.mark.parametrize("name", METHODS)
def test_metrics_of_micro_batches_add_up_to_those_of_the_step(name):
    inputs = random_inputs(3)
    method = METHODS[name]
    weights = method.token_weights(MASK, **COUNTS)
    whole = method.loss(**inputs, weights=weights, beta=0.1)
    first, second = (
        method.loss(**{key: value[rows] for key, value in inputs.items()}, weights=weights[rows], beta=0.1)
        for rows in (slice(0, 1), slice(1, 3))
    )
    assert (first.metrics + second.metrics).means() == pytest.approx(whole.metrics.means(), rel=1e-5)
    total = whole.metrics.policy_loss + 0.1 * whole.metrics.kl_loss
    torch.testing.assert_close(whole.loss.detach(), total)


def test_clip_fractions_count_ratios_outside_the_region_on_the_side_that_clips():
    ratio = torch.tensor([[0.5, 0.5, 1.5, 1.5, 1.0]])
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0]])
    mask = torch.ones(1, 5, dtype=torch.bool)
    result = policy_loss(
        ratio.log(), torch.zeros(1, 5), None, advantages=advantages, mask=mask, weights=mask / 5.0, region=REGION
    )
    means = result.metrics.means()
    assert means["clip_low"] == pytest.approx(1 / 5)
    assert means["clip_high"] == pytest.approx(1 / 5)
    assert means["ratio_mean"] == pytest.approx(1.0)
    assert means["ratio_max"] == pytest.approx(1.5)
    assert "kl" not in means


def test_a_ratio_that_would_overflow_gives_a_finite_gradient():
    for level in ("token", "sequence", "product"):
        logprobs = torch.full((1, 4), -1.0, requires_grad=True)
        mask = torch.ones(1, 4, dtype=torch.bool)
        for advantage in (0.0, 1.0, -1.0):
            result = policy_loss(
                logprobs,
                torch.full((1, 4), -200.0),
                None,
                advantages=torch.full((1, 4), advantage),
                mask=mask,
                weights=mask.float(),
                region=REGION,
                ratio=level,
            )
            (gradient,) = torch.autograd.grad(result.loss, logprobs)
            assert gradient.isfinite().all()
            assert gradient.any() == (advantage < 0)


def test_beta_without_a_reference_is_refused():
    inputs = random_inputs(4) | {"reference_logprobs": None}
    with pytest.raises(ValueError, match=r"beta is 0\.1"):
        policy_loss(**inputs, weights=MASK.float(), region=REGION, beta=0.1)


def test_at_beta_zero_a_reference_is_measured_and_has_no_gradient():
    inputs = random_inputs(5)
    weights = METHODS["grpo"].token_weights(MASK, **COUNTS)
    measured = METHODS["grpo"].loss(**inputs, weights=weights)
    without = METHODS["grpo"].loss(**(inputs | {"reference_logprobs": None}), weights=weights)
    assert torch.equal(measured.loss, without.loss)
    assert measured.metrics.means()["kl"] > 0


def test_reinforce_is_the_loss_on_sequence_log_probabilities_with_a_squared_kl():
    inputs = random_inputs(6)
    advantages = torch.randn(3, 1)
    method = METHODS["reinforce"]
    result = method.loss(
        **(inputs | {"advantages": advantages.expand(3, 5)}), weights=method.token_weights(MASK, **COUNTS), beta=0.1
    )
    sequence_logprobs = (inputs["logprobs"] * MASK).sum(-1)
    difference = sequence_logprobs - (inputs["reference_logprobs"] * MASK).sum(-1)
    expected = -(advantages.squeeze(1) * sequence_logprobs).mean() + 0.1 * difference.square().mean()
    torch.testing.assert_close(result.loss, expected)
    gradients = [torch.autograd.grad(loss, inputs["logprobs"])[0] for loss in (result.loss, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("level", ["token", "product"])
@pytest.mark.parametrize("kl", ["k1", "k3"])
def test_a_corrected_kl_has_the_gradient_of_the_kl_with_tokens_of_an_older_policy(kl, level):
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(11, generator=generator).requires_grad_()
    old, reference = torch.randn(2, 11, generator=generator).log_softmax(-1)
    mask = torch.ones(11, 1, dtype=torch.bool)
    result = policy_loss(
        logits.log_softmax(-1).unsqueeze(1),
        old.unsqueeze(1),
        reference.unsqueeze(1),
        advantages=torch.zeros(11, 1),
        mask=mask,
        weights=old.exp().unsqueeze(1),
        region=REGION,
        ratio=level,
        kl=kl,
        beta=1.0,
    )
    expected = (logits.softmax(-1) * (logits.log_softmax(-1) - reference)).sum()
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (result.loss, expected)]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(result.loss, expected)


@pytest.mark.parametrize("kl", ["k2", "squared_sequence"])
def test_correction_leaves_estimators_alone_that_have_the_right_gradient(kl):
    inputs = random_inputs(8)
    plain, corrected = (
        policy_loss(**inputs, weights=MASK.float(), region=REGION, kl=kl, correct_kl=correct_kl, beta=1.0).loss
        for correct_kl in (False, True)
    )
    assert torch.equal(plain, corrected)
