"""TRL as oracle: its real trainer calls the same reward functions on the same batch."""

from __future__ import annotations

import math

import pytest
import torch

from grpo.rewards import RewardSuite, resolve_rewards

trl = pytest.importorskip("trl")

CHAT = [{"role": "user", "content": "1+1"}]
TEXTS = ["2", "so it is 2", "3", ""]
IDS = [[12, 13], [12, 13, 14, 15], [12], [12, 13, 14]]


def two_where_it_is_said(completions, answer, **kwargs):
    return [
        2.0 if answer in completion[0]["content"] else 0.0
        for completion, answer in zip(completions, answer, strict=True)
    ]


def brief_unless_empty(completions, completion_ids, trainer_state, **kwargs):
    return [
        None if not completion[0]["content"] else 1.0 / (len(ids) + trainer_state.global_step)
        for completion, ids in zip(completions, completion_ids, strict=True)
    ]


async def only_for_hard_ones(prompts, completions, level, **kwargs):
    return [-0.5 if one == "hard" else None for one in level]


def never_says_anything(completions, **kwargs):
    return [None] * len(completions)


def logs(completions, log_extra=None, log_metric=None, **kwargs):
    lengths = [len(completion[0]["content"]) for completion in completions]
    if log_extra:
        log_extra("characters", lengths)
    if log_metric:
        log_metric("longest", max(lengths))
    return [True, False, 3, None]


def trainer(functions, weights, tokenizer, tmp_path):
    from datasets import Dataset
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        vocab_size=64,
    )
    return trl.GRPOTrainer(
        model=Qwen3ForCausalLM(config),
        reward_funcs=functions,
        args=trl.GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=4,
            num_generations=4,
            reward_weights=weights,
            report_to=[],
            use_cpu=True,
            bf16=False,
        ),
        train_dataset=Dataset.from_list([{"prompt": CHAT, "answer": "2", "level": "hard"}]),
        processing_class=tokenizer,
    )


def theirs(functions, weights, levels, tokenizer, tmp_path):
    """Return TRL's rewards by function [4][F] (NaN: not applicable), their totals and the trainer."""
    peer = trainer(functions, weights, tokenizer, tmp_path)
    inputs = [{"prompt": CHAT, "answer": "2", "level": level} for level in levels]
    completions = [[{"role": "assistant", "content": text}] for text in TEXTS]
    rewards = peer._calculate_rewards(inputs, [CHAT] * 4, completions, IDS)
    totals = (rewards * peer.reward_weights).nansum(dim=1)
    totals[torch.isnan(rewards).all(dim=1)] = math.nan
    return rewards.tolist(), totals.tolist(), peer


def ours(functions, weights, levels, group):
    from grpo.types import Group, Rollout

    prompts = [group(CHAT, [], {"answer": "2", "level": level}).prompt for level in levels]
    groups = [
        Group(prompt, (Rollout(tuple(ids), (True,) * len(ids), (0.0,) * len(ids), "stop", 0),))
        for prompt, ids in zip(prompts, IDS, strict=True)
    ]
    suite = RewardSuite(resolve_rewards(functions, weights=weights), max_failed_share=1.0)
    return suite.score(groups, TEXTS, step=0, max_steps=3)


def as_nan(value):
    return math.nan if value is None else value


def same(mine, peers):
    return mine == pytest.approx(peers, rel=1e-6, nan_ok=True)


def test_rewards_and_totals_equal_trls_also_where_functions_do_not_apply(group, tokenizer, tmp_path):
    functions = [two_where_it_is_said, brief_unless_empty, only_for_hard_ones, never_says_anything]
    weights = [1.0, 0.25, 2.0, 3.0]
    levels = ["hard", "easy", "hard", "easy"]
    rewards, totals, _ = theirs(functions, weights, levels, tokenizer, tmp_path)
    result = ours(functions, weights, levels, group)
    scores = [one.rollouts[0].score for one in result.groups]
    for score, row in zip(scores, rewards, strict=True):
        assert same([as_nan(score.rewards[function.__name__]) for function in functions], row)
    assert same([as_nan(score.total) for score in scores], totals)
    assert any(math.isnan(value) for row in rewards for value in row)


def test_a_completion_that_nothing_applies_to_has_no_total_in_both(group, tokenizer, tmp_path):
    functions = [brief_unless_empty, only_for_hard_ones]
    levels = ["hard", "easy", "hard", "easy"]
    _, totals, _ = theirs(functions, None, levels, tokenizer, tmp_path)
    result = ours(functions, None, levels, group)
    assert same([as_nan(one.rollouts[0].score.total) for one in result.groups], totals)
    assert math.isnan(totals[3])


def test_what_a_function_logs_reaches_the_same_columns_and_metrics(group, tokenizer, tmp_path):
    rewards, _, peer = theirs([logs], None, ["easy"] * 4, tokenizer, tmp_path)
    result = ours([logs], None, ["easy"] * 4, group)
    assert same([as_nan(one.rollouts[0].score.total) for one in result.groups], [row[0] for row in rewards])
    logged = [scored.logged for group in result.groups for scored in group.rollouts]
    expected = dict(peer._pending_extra_logs)
    assert {name: [entry[name] for entry in logged] for name in expected} == expected
    assert [result.metrics["user/longest"]] == peer._pending_metrics["longest"]


def test_a_sequence_classifier_gives_the_reward_that_trl_gives(group, tokenizer, tmp_path):
    from transformers import Qwen3Config, Qwen3ForSequenceClassification

    torch.manual_seed(0)
    config = Qwen3Config(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        vocab_size=64,
        num_labels=1,
        pad_token_id=0,
    )
    directory = tmp_path / "classifier"
    Qwen3ForSequenceClassification(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    rewards, _, _ = theirs([str(directory)], None, ["easy"] * 4, tokenizer, tmp_path)
    result = ours([str(directory)], None, ["easy"] * 4, group)
    mine = [one.rollouts[0].score.rewards["classifier"] for one in result.groups]
    assert mine == pytest.approx([row[0] for row in rewards], abs=1e-5)
