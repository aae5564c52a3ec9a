"""Invariant 6: advantages, KL, losses and their gradients equal TRL's, whose own trainers are run here."""

import math
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("trl", reason="TRL needs Python 3.11")

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from grpo.algorithm import (
    METHODS,
    Method,
    combined_advantages,
    group_advantages,
    truncated_importance_weights,
)
from grpo.packing import count_step
from grpo.types import Prompt, Rollout, Score, ScoredGroup, ScoredRollout

NUM_PROMPTS, GROUP_SIZE, MAX_TOKENS = 4, 4, 7
NUM_ROLLOUTS = NUM_PROMPTS * GROUP_SIZE
EOS, PAD, UNKNOWN, VOCABULARY = 10, 11, 12, 13

TRL_SETTINGS: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "bnpo": {"loss_type": "bnpo"},
    "dapo": {"loss_type": "dapo"},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    "cispo": {"loss_type": "cispo"},
    "sapo": {"loss_type": "sapo"},
}


@dataclass(frozen=True)
class Step:
    """One random step: log-probabilities [B, T] of three policies, advantages [B], and masks [B, T]."""

    logprobs: Tensor
    old_logprobs: Tensor
    reference_logprobs: Tensor
    advantages: Tensor
    completion_mask: Tensor
    tool_mask: Tensor

    @property
    def mask(self) -> Tensor:
        return self.completion_mask & self.tool_mask


def random_step(seed: int, *, drift: float = 0.3) -> Step:
    """Ragged completions, one of them masked out, tokens that were not sampled, advantages of 0."""
    generator = torch.Generator().manual_seed(seed)
    shape = (NUM_ROLLOUTS, MAX_TOKENS)
    logprobs = -3 * torch.rand(shape, generator=generator)
    lengths = torch.randint(1, MAX_TOKENS + 1, (NUM_ROLLOUTS, 1), generator=generator)
    lengths[5] = 0
    tool_mask = torch.rand(shape, generator=generator) < 0.85
    tool_mask[:, 0] = True
    advantages = torch.randn(NUM_ROLLOUTS, generator=generator)
    advantages[4:6] = 0.0
    return Step(
        logprobs=logprobs,
        old_logprobs=logprobs + drift * torch.randn(shape, generator=generator),
        reference_logprobs=logprobs + 0.5 * torch.randn(shape, generator=generator),
        advantages=advantages,
        completion_mask=torch.arange(MAX_TOKENS) < lengths,
        tool_mask=tool_mask,
    )


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {str(digit): digit for digit in range(10)} | {"<eos>": EOS, "<pad>": PAD, "<unk>": UNKNOWN}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>", padding_side="left"
    )


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory) -> Path:
    """A tiny random model on disk, from where TRL takes the reference as well."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            bos_token_id=None,
            eos_token_id=EOS,
            pad_token_id=PAD,
        )
    )
    directory = tmp_path_factory.mktemp("model")
    model.save_pretrained(directory)
    return directory


@pytest.fixture
def make_trainer(model_directory, tokenizer, tmp_path):
    """A factory of TRL trainers over a tiny random model, with the configuration as given."""

    def make(kind: type = GRPOTrainer, reward: Any = None, **settings: Any) -> Any:
        torch.manual_seed(0)
        config = {GRPOTrainer: GRPOConfig, RLOOTrainer: RLOOConfig}[kind](
            output_dir=str(tmp_path),
            per_device_train_batch_size=NUM_ROLLOUTS,
            num_generations=GROUP_SIZE,
            max_completion_length=MAX_TOKENS,
            report_to=[],
            use_cpu=True,
            bf16=False,
            **settings,
        )
        trainer = kind(
            model=Qwen3ForCausalLM.from_pretrained(model_directory),
            reward_funcs=reward or (lambda completions, **_: [0.0] * len(completions)),
            args=config,
            train_dataset=Dataset.from_list([{"prompt": "1 2 3"}] * NUM_PROMPTS),
            processing_class=tokenizer,
        )
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        return trainer

    return make


def trl_loss(
    trainer: Any, step: Step, logprobs: Tensor, *, with_old: bool = True, importance: Tensor | None = None
) -> Tensor:
    """TRL's loss of the step, its forward pass replaced by the given log-probabilities."""

    def forward(self: Any, *_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
        return logprobs, torch.zeros_like(logprobs), None

    trainer._get_per_token_logps_and_entropies = MethodType(forward, trainer)
    inputs = {
        "prompt_ids": torch.ones(NUM_ROLLOUTS, 2, dtype=torch.long),
        "prompt_mask": torch.ones(NUM_ROLLOUTS, 2, dtype=torch.long),
        "completion_ids": torch.ones(NUM_ROLLOUTS, MAX_TOKENS, dtype=torch.long),
        "completion_mask": step.completion_mask.long(),
        "tool_mask": step.tool_mask.long(),
        "advantages": step.advantages,
        "num_items_in_batch": step.mask.sum(),
        "ref_per_token_logps": step.reference_logprobs,
        "old_logps": (step.old_logprobs * step.completion_mask).sum(1),
    }
    if with_old:
        inputs["old_per_token_logps"] = step.old_logprobs
    if importance is not None:
        # Without a server to sample: only what is made of its log-probabilities.
        trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
        inputs["importance_sampling_ratio"] = importance
    return trainer._compute_loss(trainer.model, inputs)


def our_result(
    method: Method,
    step: Step,
    logprobs: Tensor,
    *,
    beta: float,
    mask: Tensor,
    with_old: bool = True,
    correction: Tensor | None = None,
):
    return method.loss(
        logprobs,
        step.old_logprobs if with_old else logprobs.detach(),
        step.reference_logprobs if beta else None,
        advantages=step.advantages.unsqueeze(1).expand(-1, MAX_TOKENS),
        mask=mask,
        weights=method.token_weights(
            mask, num_rollouts=NUM_ROLLOUTS, num_tokens=int(mask.sum()), max_tokens=MAX_TOKENS
        ),
        beta=beta,
        correction=correction,
    )


def assert_equal_with_gradient(theirs: Tensor, ours: Tensor, their_leaf: Tensor, our_leaf: Tensor) -> None:
    (their_gradient,) = torch.autograd.grad(theirs, their_leaf)
    (our_gradient,) = torch.autograd.grad(ours, our_leaf)
    assert their_gradient.abs().max() > 1e-4
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(our_gradient, their_gradient, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("beta", "correct_kl"), [(0.0, True), (0.04, True), (0.04, False)])
@pytest.mark.parametrize("name", TRL_SETTINGS)
def test_a_loss_and_its_gradient_and_metrics_equal_trls(make_trainer, name, beta, correct_kl, seed):
    method = METHODS[name].override(correct_kl=correct_kl)
    # A drift of the size of GSPO's narrow clip range leaves ratios on either side of it.
    step = random_step(seed, drift=3e-3 if name == "gspo" else 0.3)
    trainer = make_trainer(
        beta=beta,
        use_bias_correction_kl=correct_kl,
        epsilon=method.region.epsilon,
        epsilon_high=method.region.epsilon_high,
        **TRL_SETTINGS[name],
    )
    their_leaf, our_leaf = (step.logprobs.clone().requires_grad_() for _ in range(2))
    theirs = trl_loss(trainer, step, their_leaf)
    ours = our_result(method, step, our_leaf, beta=beta, mask=step.mask)
    assert_equal_with_gradient(theirs, ours.loss, their_leaf, our_leaf)

    logged, means = trainer._metrics["train"], ours.metrics.means()
    if beta:
        assert means["kl"] == pytest.approx(logged["kl"][-1], rel=1e-5)
    if name == "cispo":
        assert means["clip_high"] == pytest.approx(logged["cispo_clip_ratio"][-1], abs=1e-6)
    elif name != "sapo":
        # TRL counts a completion without tokens as one with ratio 1, where ratios are of completions.
        share = (NUM_ROLLOUTS - 1) / NUM_ROLLOUTS if name == "gspo" else 1.0
        assert 0 < means["clip_low"] * share == pytest.approx(logged["clip_ratio/low_mean"][-1], abs=1e-6)
        assert 0 < means["clip_high"] * share == pytest.approx(logged["clip_ratio/high_mean"][-1], abs=1e-6)


@pytest.mark.parametrize("name", TRL_SETTINGS)
def test_a_loss_corrected_for_another_sampler_equals_trls(make_trainer, name):
    step, region, cap = random_step(8), METHODS[name].region, 1.5
    sampling = step.old_logprobs + 0.5 * torch.randn(step.mask.shape, generator=torch.Generator().manual_seed(9))
    # TRL's `token_truncate`, which it computes while it generates.
    importance = torch.exp((step.old_logprobs - sampling) * step.mask).clamp(max=cap)
    correction = truncated_importance_weights(step.old_logprobs, sampling, step.mask, cap=cap)
    torch.testing.assert_close(correction, importance)
    assert (importance == cap).any()

    trainer = make_trainer(beta=0.1, epsilon=region.epsilon, epsilon_high=region.epsilon_high, **TRL_SETTINGS[name])
    their_leaf, our_leaf = (step.logprobs.clone().requires_grad_() for _ in range(2))
    theirs = trl_loss(trainer, step, their_leaf, importance=importance)
    ours = our_result(METHODS[name], step, our_leaf, beta=0.1, mask=step.mask, correction=correction)
    assert_equal_with_gradient(theirs, ours.loss, their_leaf, our_leaf)


@pytest.mark.parametrize("name", TRL_SETTINGS)
def test_on_policy_a_loss_equals_trls_that_keeps_no_old_log_probabilities(make_trainer, name):
    step = random_step(7)
    region = METHODS[name].region
    trainer = make_trainer(beta=0.1, epsilon=region.epsilon, epsilon_high=region.epsilon_high, **TRL_SETTINGS[name])
    their_leaf, our_leaf = (step.logprobs.clone().requires_grad_() for _ in range(2))
    theirs = trl_loss(trainer, step, their_leaf, with_old=False)
    ours = our_result(METHODS[name], step, our_leaf, beta=0.1, mask=step.mask, with_old=False)
    assert_equal_with_gradient(theirs, ours.loss, their_leaf, our_leaf)


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("grpo", {"epsilon": 0.1, "epsilon_high": 0.4}),
        ("grpo", {"epsilon": 0.3}),
        ("dapo", {"epsilon": 0.1}),
        ("grpo", {"epsilon": 0.2, "delta": 1.3}),
        ("cispo", {"epsilon_high": 1.2}),
        ("gspo", {"epsilon": 0.05}),
    ],
)
def test_limits_that_the_user_sets_mean_what_they_mean_in_trl(make_trainer, name, limits):
    step = random_step(8)
    trainer = make_trainer(**limits, **TRL_SETTINGS[name])
    their_leaf, our_leaf = (step.logprobs.clone().requires_grad_() for _ in range(2))
    theirs = trl_loss(trainer, step, their_leaf)
    ours = our_result(METHODS[name].override(**limits), step, our_leaf, beta=0.0, mask=step.mask)
    assert_equal_with_gradient(theirs, ours.loss, their_leaf, our_leaf)


@pytest.mark.parametrize("loss_type", ["dapo", "dr_grpo", "bnpo", "sapo"])
def test_any_weights_with_ratios_of_completions_equal_trls(make_trainer, loss_type):
    step = random_step(9)
    trainer = make_trainer(
        beta=0.04, loss_type=loss_type, importance_sampling_level="sequence", epsilon=0.1, epsilon_high=0.1
    )
    method = METHODS[loss_type].override(ratio="sequence", epsilon=0.1)
    their_leaf, our_leaf = (step.logprobs.clone().requires_grad_() for _ in range(2))
    theirs = trl_loss(trainer, step, their_leaf)
    ours = our_result(method, step, our_leaf, beta=0.04, mask=step.mask)
    assert_equal_with_gradient(theirs, ours.loss, their_leaf, our_leaf)


@pytest.mark.parametrize("seed", range(3))
def test_rloo_and_its_gradient_equal_trls(make_trainer, seed):
    step = random_step(seed)
    trainer = make_trainer(RLOOTrainer, beta=0.0)
    their_leaf, our_leaf = (step.logprobs.clone().requires_grad_() for _ in range(2))
    theirs = trl_loss(trainer, step, their_leaf)
    ours = our_result(METHODS["rloo"], step, our_leaf, beta=0.0, mask=step.completion_mask)
    assert_equal_with_gradient(theirs, ours.loss, their_leaf, our_leaf)


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo"])
def test_the_gradient_of_a_models_parameters_equals_trls(make_trainer, name):
    """TRL's forward pass runs too, on left-padded prompts."""
    step = random_step(10)
    region = METHODS[name].region
    trainer = make_trainer(beta=0.04, epsilon=region.epsilon, epsilon_high=region.epsilon_high, **TRL_SETTINGS[name])
    generator = torch.Generator().manual_seed(1)
    prompt_ids = torch.randint(0, 10, (NUM_ROLLOUTS, 3), generator=generator)
    completion_ids = torch.randint(0, 10, (NUM_ROLLOUTS, MAX_TOKENS), generator=generator)
    prompt_mask = torch.arange(3) >= torch.randint(0, 3, (NUM_ROLLOUTS, 1), generator=generator)
    parameters = [p for p in trainer.model.parameters() if p.requires_grad]
    theirs = trainer._compute_loss(
        trainer.model,
        {
            "prompt_ids": prompt_ids,
            "prompt_mask": prompt_mask.long(),
            "completion_ids": completion_ids,
            "completion_mask": step.completion_mask.long(),
            "tool_mask": step.tool_mask.long(),
            "advantages": step.advantages,
            "num_items_in_batch": step.mask.sum(),
            "old_per_token_logps": step.old_logprobs,
            "ref_per_token_logps": step.reference_logprobs,
        },
    )
    attention_mask = torch.cat([prompt_mask, step.completion_mask], dim=1).long()
    input_ids = torch.cat([prompt_ids, completion_ids], dim=1)
    logits = trainer.model(input_ids=input_ids, attention_mask=attention_mask).logits[:, 2:-1]
    logprobs = logits.log_softmax(-1).gather(-1, completion_ids.unsqueeze(-1)).squeeze(-1)
    ours = our_result(METHODS[name], step, logprobs, beta=0.04, mask=step.mask).loss
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    their_gradients = torch.autograd.grad(theirs, parameters)
    our_gradients = torch.autograd.grad(ours, parameters)
    assert max(gradient.abs().max() for gradient in their_gradients) > 1e-3
    for our_gradient, their_gradient in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(our_gradient, their_gradient, atol=1e-5, rtol=1e-3)


def random_rewards(seed: int) -> Tensor:
    """[P, G] rewards; NaN where missing: a group without any, one with a single one; one without spread."""
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(NUM_PROMPTS, GROUP_SIZE, generator=generator)
    if seed:
        rewards[torch.rand(rewards.shape, generator=generator) < 0.25] = torch.nan
        rewards[1] = torch.nan
        rewards[1, 2] = 0.5
        rewards[2] = 0.5 if seed % 2 else torch.nan
    return rewards


def trl_advantages(make_trainer: Any, kind: type, rewards: Tensor, **settings: Any) -> Tensor:
    """TRL's advantages [P, G] of those rewards, by way of its own sampling and scoring."""
    given = [None if math.isnan(reward) else reward for reward in rewards.flatten().tolist()]
    trainer = make_trainer(kind, lambda completions, **_: given, **settings)
    prompts = [{"prompt": f"{p} 1"} for p in range(NUM_PROMPTS) for _ in range(GROUP_SIZE)]
    return trainer._generate_and_score_completions(prompts)["advantages"].view(NUM_PROMPTS, GROUP_SIZE)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_equal_trls(make_trainer, scale, seed):
    rewards = random_rewards(seed)
    theirs = trl_advantages(make_trainer, GRPOTrainer, rewards, scale_rewards=scale)
    ours = group_advantages(rewards, ~rewards.isnan(), scale=scale)
    assert theirs.any()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("scale", "normalise"), [("none", False), ("whiten", True)])
def test_leave_one_out_advantages_equal_trls(make_trainer, scale, normalise, seed):
    rewards = random_rewards(seed)
    theirs = trl_advantages(make_trainer, RLOOTrainer, rewards, normalize_advantages=normalise, beta=0.0)
    ours = group_advantages(rewards, ~rewards.isnan(), scale=scale, baseline="leave_one_out")
    assert theirs.any()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_advantages_of_rewards_that_are_normalised_one_by_one_equal_trls(make_trainer, seed):
    rewards = torch.stack([random_rewards(seed), random_rewards(seed + 100)], dim=-1)
    weights = [1.0, 0.25]

    def reward(part: int) -> Any:
        given = [None if math.isnan(one) else one for one in rewards[..., part].flatten().tolist()]
        return lambda completions, **_: given

    settings = {"multi_objective_aggregation": "normalize_then_sum", "reward_weights": weights}
    trainer = make_trainer(GRPOTrainer, [reward(0), reward(1)], **settings)
    prompts = [{"prompt": f"{p} 1"} for p in range(NUM_PROMPTS) for _ in range(GROUP_SIZE)]
    theirs = trainer._generate_and_score_completions(prompts)["advantages"].view(NUM_PROMPTS, GROUP_SIZE)
    ours = combined_advantages(rewards, ~rewards.isnan(), torch.tensor(weights))
    assert theirs.any()
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mask_truncated", [False, True])
def test_the_tokens_of_a_step_are_counted_as_in_trl(make_trainer, mask_truncated):
    trainer = make_trainer(mask_truncated_completions=mask_truncated)
    generated: list[list[int]] = []
    original = trainer._generate

    def remember(self: Any, prompts: list[Any]) -> Any:
        output = original(prompts)
        generated.extend(output[1])
        return output

    trainer._generate = MethodType(remember, trainer)
    prompts = [{"prompt": f"{p} 1"} for p in range(NUM_PROMPTS) for _ in range(GROUP_SIZE)]
    output = trainer._generate_and_score_completions(prompts)
    rollouts = [
        ScoredRollout(Rollout(tuple(ids), (True,) * len(ids), (0.0,) * len(ids), "stop", 0), "", Score({}, {}, 0.0))
        for ids in generated
    ]
    groups = [
        ScoredGroup(Prompt(p, "", "", (1,), {}), tuple(rollouts[p * GROUP_SIZE : (p + 1) * GROUP_SIZE]))
        for p in range(NUM_PROMPTS)
    ]
    finished = torch.tensor([ids[-1] in (EOS, PAD) for ids in generated]).view(NUM_PROMPTS, GROUP_SIZE)
    assert finished.any()
    assert not finished.all()
    counts = count_step(groups, loss_mask=finished if mask_truncated else None)
    assert counts.num_tokens == int(output["num_items_in_batch"]) == int(output["completion_mask"].sum())
    assert counts.num_rollouts == len(output["completion_mask"])
