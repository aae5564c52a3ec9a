"""The pair scorer: its training, and its files, which other programs load."""

from __future__ import annotations

import json

import pytest
import torch
from short_trainings import QUICK, settings
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from grpo.demos.preferences import preference_pairs
from grpo.errors import ConfigError, ModelError, RunError
from grpo.policy import LoraSettings, load_policy
from grpo.policy.tiny import TINY_DIRECTORY
from grpo.reward_models import hold_out, train_scorer
from grpo.rewards import SequenceClassifierReward
from grpo.rewards.models.backbones import Backbones


def quick(rows, directory, *, model="tiny", **options):
    quickly = settings(**{**QUICK, "batch_size": 16, **options})
    return train_scorer("pair", rows, model=model, output_dir=directory, settings=quickly)


def rewards(directory, rows, side):
    reward = SequenceClassifierReward(str(directory), device="cpu")
    return torch.tensor(reward([row["prompt"] for row in rows], [row[side] for row in rows]))


@pytest.mark.parametrize("lora_rank", [4, 0])
def test_the_saved_classifier_gives_as_reward_what_was_evaluated(tmp_path, lora_rank):
    rows = preference_pairs(120)
    report = quick(rows, tmp_path, lora_rank=lora_rank)
    _, held_out = hold_out("pair", rows, 0.2)
    chosen, rejected = (rewards(report.best_model, held_out, side) for side in ("chosen", "rejected"))
    assert (chosen > rejected).float().mean().item() == pytest.approx(report.best.accuracy)
    loss = -torch.nn.functional.logsigmoid(chosen - rejected).mean().item()
    assert loss == pytest.approx(report.best.loss, abs=1e-4)


def test_pairs_by_stated_criteria_are_learned(tmp_path):
    report = quick(preference_pairs(300), tmp_path, epochs=2, lora_rank=16, learning_rate=1e-3)
    assert report.kind == "pair"
    assert report.best.accuracy > 0.7
    assert report.best.auc is None


def test_the_result_is_an_ordinary_sequence_classifier(tmp_path):
    report = quick(preference_pairs(60), tmp_path)
    model, info = AutoModelForSequenceClassification.from_pretrained(report.best_model, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.num_labels == 1
    assert AutoTokenizer.from_pretrained(report.best_model).pad_token_id == model.config.pad_token_id
    assert (report.best_model / "model.safetensors").is_file()
    assert not list(report.best_model.glob("adapter*"))


def test_what_is_not_trained_is_the_backbones_own(tmp_path):
    report = quick(preference_pairs(40), tmp_path, lora_targets=("q_proj",))
    saved = AutoModelForSequenceClassification.from_pretrained(report.best_model).model.state_dict()
    base = AutoModelForSequenceClassification.from_pretrained(TINY_DIRECTORY, num_labels=1).model.state_dict()
    changed = {name for name in base if not torch.equal(base[name], saved[name])}
    assert changed == {f"layers.{layer}.self_attn.q_proj.weight" for layer in range(3)}


def test_messages_are_written_with_the_chat_template(tmp_path):
    rows = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "chosen": row["chosen"],
            "rejected": [{"role": "assistant", "content": row["rejected"]}],
        }
        for row in preference_pairs(60)
    ]
    report = quick(rows, tmp_path)
    _, held_out = hold_out("pair", rows, 0.2)
    reward = SequenceClassifierReward(str(report.best_model), device="cpu")
    prompts = [row["prompt"] for row in held_out]
    chosen = reward(prompts, [[{"role": "assistant", "content": row["chosen"]}] for row in held_out])
    rejected = reward(prompts, [row["rejected"] for row in held_out])
    loss = -torch.nn.functional.logsigmoid(torch.tensor(chosen) - torch.tensor(rejected)).mean().item()
    assert loss == pytest.approx(report.best.loss, abs=1e-4)


def test_a_margin_asks_for_more_distance_and_a_rows_own_goes_first(tmp_path):
    rows = preference_pairs(40)
    plain = quick(rows, tmp_path / "plain", learning_rate=1e-9)
    wide = quick(rows, tmp_path / "wide", learning_rate=1e-9, margin=5.0)
    own = quick([{**row, "margin": 0.0} for row in rows], tmp_path / "own", learning_rate=1e-9, margin=5.0)
    assert plain.best.loss == pytest.approx(own.best.loss, abs=1e-6)
    assert wide.best.loss > plain.best.loss + 4
    assert wide.epochs[0].loss > plain.epochs[0].loss + 4


def test_long_texts_keep_their_end_and_the_classifier_cuts_them_alike(tmp_path):
    report = quick(preference_pairs(60), tmp_path, max_length=6)
    reward = SequenceClassifierReward(str(report.best_model), device="cpu")
    assert AutoTokenizer.from_pretrained(report.best_model).model_max_length == 6
    end = "It may suit you if your plan is long."
    first, second = reward(["What is a bond?", "Explain gold to a beginner."], [f"A. {end}", f"B. {end}"])
    assert first == pytest.approx(second, abs=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_other_architectures_make_classifiers_too(small_backbone, tmp_path, family):
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 256} if family == "gpt2" else {}
    rows = preference_pairs(40)
    report = quick(rows, tmp_path / "run", model=small_backbone(family, **sizes), learning_rate=5e-3)
    _, held_out = hold_out("pair", rows, 0.2)
    chosen, rejected = (rewards(report.best_model, held_out, side) for side in ("chosen", "rejected"))
    loss = -torch.nn.functional.logsigmoid(chosen - rejected).mean().item()
    assert loss == pytest.approx(report.best.loss, abs=1e-4)


def test_an_architecture_without_a_classifier_is_refused_before_training(small_backbone, tmp_path):
    directory = small_backbone("granite")
    with pytest.raises(ModelError, match="transformers has no sequence classifier for granite"):
        quick(preference_pairs(20), tmp_path / "run", model=directory)
    assert not (tmp_path / "run" / "best_model").exists()


def test_messages_need_a_chat_template(small_backbone, tmp_path):
    directory = small_backbone()
    (directory / "chat_template.jinja").unlink()
    row = {"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b"}
    with pytest.raises(ModelError, match="has no chat template but the prompts are messages"):
        quick([row, {**row, "chosen": "c"}], tmp_path / "run", model=directory)


def test_a_loss_that_is_not_a_number_ends_the_training(small_backbone, tmp_path):
    directory = small_backbone()
    model = AutoModelForCausalLM.from_pretrained(directory)
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(float("nan"))
    model.save_pretrained(directory)
    with pytest.raises(RunError, match="the scorer's loss is nan at step 1"):
        quick(preference_pairs(40), tmp_path / "run", model=directory)


def test_the_report_is_written(tmp_path):
    report = quick(preference_pairs(40), tmp_path)
    assert json.loads((report.best_model / "report.json").read_text()) == json.loads(json.dumps(report.to_json()))
    assert report.num_train + report.num_eval == 40


def test_adapters_and_head_alone_reward_as_the_whole_model_and_share_the_policys_base(tmp_path):
    rows = preference_pairs(60)
    whole = quick(rows, tmp_path / "whole")
    apart = quick(rows, tmp_path / "apart", merge=False)
    assert apart.best == whole.best
    assert not (apart.best_model / "model.safetensors").exists()
    torch.testing.assert_close(
        rewards(apart.best_model, rows, "chosen"), rewards(whole.best_model, rows, "chosen"), atol=1e-5, rtol=1e-5
    )
    policy = load_policy("tiny", device="cpu", dtype="float32", lora=LoraSettings(rank=4))
    backbones = Backbones()
    backbones.offer("tiny", lambda: policy.model)
    shared = SequenceClassifierReward(str(apart.best_model), device="cpu", backbones=backbones)
    prompts, answers = ([row[side] for row in rows] for side in ("prompt", "chosen"))
    torch.testing.assert_close(
        torch.tensor(shared(prompts, answers)), rewards(whole.best_model, rows, "chosen"), atol=1e-4, rtol=1e-4
    )
    theirs = {value.data_ptr() for value in policy.model.parameters()}
    own = {name for name, value in shared._model.named_parameters() if value.data_ptr() not in theirs}
    assert own
    assert all("lora_" in name or "score" in name for name in own)


def test_adapters_alone_are_an_ordinary_adapter_of_a_classifier_for_peft(tmp_path):
    rows = preference_pairs(40)
    report = quick(rows, tmp_path, merge=False)
    model = AutoModelForSequenceClassification.from_pretrained(report.best_model, num_labels=1).eval()
    tokenizer = AutoTokenizer.from_pretrained(report.best_model)
    text = rows[0]["prompt"] + rows[0]["chosen"]
    with torch.no_grad():
        found = model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits.item()
    assert found == pytest.approx(rewards(report.best_model, rows[:1], "chosen").item(), abs=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"lora_rank": 0}, "no adapters to save"), ({"revision": "v2"}, "base is at revision 'v2'")],
)
def test_adapters_that_could_not_be_loaded_again_are_refused(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        quick(preference_pairs(40), tmp_path, merge=False, **options)


def test_a_pair_has_no_more_tokens_than_the_backbone_has_positions(small_backbone, tmp_path):
    directory = small_backbone("gpt2", n_embd=16, n_layer=2, n_head=4, max_position_embeddings=32)
    report = quick(preference_pairs(40), tmp_path / "run", model=directory)
    assert AutoTokenizer.from_pretrained(report.best_model).model_max_length == 32
