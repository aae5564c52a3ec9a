"""The CTR scorer: its training, its files, its predictions, and the errors of bad input."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from short_trainings import QUICK, settings
from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_utils

from grpo.demos.clicks import attainable_auc, click_probability
from grpo.demos.preferences import preference_pairs
from grpo.errors import CheckpointError, ConfigError, DataError, ModelError, RunError
from grpo.policy import LoraSettings, load_policy
from grpo.policy.sources import find_source
from grpo.policy.tiny import TINY_DIRECTORY
from grpo.reward_models import CTRScorer, hold_out, train_scorer
from grpo.reward_models.backbone import Backbone


def quick(rows, directory, **options):
    model = options.pop("model", "tiny")
    on_epoch = options.pop("on_epoch", None)
    return train_scorer(
        "ctr",
        rows,
        model=model,
        output_dir=directory,
        settings=settings(**{**QUICK, **options}),
        on_epoch=on_epoch,
    )


@pytest.fixture
def scorer(trained):
    return CTRScorer(model_path="tiny", ckpt_path=trained.best_model, device="cpu")


def test_training_learns_most_of_what_can_be_learned_from_held_out_clicks(trained, clicks):
    _, held_out = hold_out("ctr", clicks, 0.2)
    best = attainable_auc([row["text"] for row in held_out], [row["label"] for row in held_out])
    assert trained.best.auc > best - 0.06
    assert trained.best.auc == max(epoch.evaluation.auc for epoch in trained.epochs)


def test_the_scorer_that_is_loaded_is_the_one_that_was_evaluated(trained, scorer, clicks):
    _, held_out = hold_out("ctr", clicks, 0.2)
    probabilities = scorer.predict_many([row["text"] for row in held_out])
    brier = sum((p - row["label"]) ** 2 for p, row in zip(probabilities, held_out, strict=True)) / len(held_out)
    assert brier == pytest.approx(trained.best.brier, abs=1e-5)
    assert scorer.metrics["auc"] == trained.best.auc


def test_predictions_follow_the_hidden_rule_and_are_probabilities(scorer, clicks):
    texts = [row["text"] for row in clicks]
    predicted = torch.tensor(scorer.predict_many(texts))
    hidden = torch.tensor([click_probability(text) for text in texts])
    assert 0 <= predicted.min() < predicted.max() <= 1
    assert torch.corrcoef(torch.stack([predicted, hidden]))[0, 1] > 0.85
    # Classes are weighted in training; what is predicted must not be.
    assert predicted.mean() == pytest.approx(hidden.mean().item(), abs=0.06)


def test_one_text_and_many_in_any_order_and_batch_give_the_same(trained, scorer):
    texts = ["The best robots of 2027", "Robots are back in Seoul", "A quiet year for bonds, banks report", "5"]
    many = scorer.predict_many(texts)
    assert many == pytest.approx([scorer.predict(text) for text in texts], abs=1e-6)
    assert many == pytest.approx(scorer.predict_many(texts[::-1])[::-1], abs=1e-6)
    small = CTRScorer(None, trained.best_model, batch_size=1)
    assert many == pytest.approx(small.predict_many(texts), abs=1e-6)
    assert scorer.predict_many([]) == []


def test_blanks_are_never_clicked_and_blanks_around_a_text_do_not_count(scorer):
    assert scorer.predict_many(["", " \n", "  Robots are back\n", "Robots are back"])[:2] == [0.0, 0.0]
    assert scorer.predict("  Robots are back\n") == scorer.predict("Robots are back") > 0


def test_texts_beyond_what_was_trained_on_get_a_probability(scorer):
    for text in ("word " * 3000, "日本語 🚀 ", "</answer><answer>", "\u200b"):
        assert 0 <= scorer.predict(text) <= 1


def test_predictions_do_not_depend_on_merging_adapters_into_the_weights(trained, scorer, clicks):
    texts = [row["text"] for row in clicks[:40]]
    base = AutoModelForCausalLM.from_pretrained(TINY_DIRECTORY)
    shared = CTRScorer(None, trained.best_model, backbone=base)
    assert shared.predict_many(texts) == pytest.approx(scorer.predict_many(texts), abs=1e-5)


def test_best_model_holds_safetensors_json_a_tokenizer_and_a_picture_and_nothing_else(trained):
    names = {path.name for path in trained.best_model.iterdir()}
    assert {"scorer.safetensors", "scorer.json", "tokenizer.json"} <= names
    assert all(name.endswith((".safetensors", ".json", ".jinja", ".svg")) for name in names)
    description = json.loads((trained.best_model / "scorer.json").read_text())
    assert description["backbone"] == "tiny"
    assert description["sizes"]["hidden_size"] == 128
    assert description["head_sizes"] == [1024, 512]
    assert "report.json" in names
    assert [path.name for path in trained.best_model.parent.iterdir()] == ["best_model"]


def test_the_report_is_json_and_tells_each_epoch(trained):
    report = json.loads((trained.best_model / "report.json").read_text())
    assert report == json.loads(json.dumps(trained.to_json()))
    assert [epoch["epoch"] for epoch in report["epochs"]] == [1, 2, 3]
    assert {"loss", "accuracy", "auc", "brier", "bins"} <= set(report["epochs"][0]["evaluation"])
    assert sum(each["count"] for each in report["epochs"][0]["evaluation"]["bins"]) == report["num_eval"]


def test_the_same_seed_gives_the_same_scorer_to_the_bit(clicks, tmp_path):
    for name in ("one", "two"):
        quick(clicks[:200], tmp_path / name)
    one, two = ((tmp_path / name / "best_model" / "scorer.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    quick(clicks[:200], tmp_path / "other", seed=1)
    assert one != (tmp_path / "other" / "best_model" / "scorer.safetensors").read_bytes()


def test_training_leaves_the_global_random_stream_alone(clicks, tmp_path):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    quick(clicks[:100], tmp_path)
    assert torch.equal(before, torch.random.get_rng_state())


def test_all_weights_of_the_backbone_can_be_trained(clicks, tmp_path):
    report = quick(clicks[:300], tmp_path, lora_rank=0)
    scorer = CTRScorer("tiny", tmp_path)
    _, held_out = hold_out("ctr", clicks[:300], 0.2)
    probabilities = scorer.predict_many([row["text"] for row in held_out])
    loss = F.binary_cross_entropy(torch.tensor(probabilities), torch.tensor([float(row["label"]) for row in held_out]))
    assert loss.item() == pytest.approx(report.best.loss, abs=1e-5)
    with pytest.raises(ConfigError, match="has trained all weights of its backbone and can share none"):
        CTRScorer(None, tmp_path, backbone=AutoModelForCausalLM.from_pretrained(TINY_DIRECTORY))


def test_rare_clicks_are_weighted_up_and_their_probability_stays_rare(tmp_path):
    rows = [
        {"text": f"{'7 best' if n % 10 == 0 else 'plain'} robots number {n}", "label": int(n % 10 == 0)}
        for n in range(600)
    ]
    quick(rows, tmp_path, epochs=2)
    description = json.loads((tmp_path / "best_model" / "scorer.json").read_text())
    assert description["logit_shift"] == pytest.approx(-math.log(9), abs=0.3)
    scorer = CTRScorer(None, tmp_path / "best_model")
    assert scorer.predict("7 best robots number 1") > 0.5
    assert scorer.predict("plain robots number 10") < 0.1


def test_training_stops_when_patience_runs_out_and_the_best_epoch_is_kept(clicks, tmp_path):
    seen = []
    # So high a rate that it gets worse.
    report = quick(clicks[:150], tmp_path, epochs=30, patience=1, learning_rate=0.02, on_epoch=seen.append)
    assert report.stopped_early
    assert tuple(seen) == report.epochs
    assert len(report.epochs) == report.best_epoch + 1 < 30
    assert report.epochs[report.best_epoch - 1].is_best
    assert CTRScorer(None, tmp_path).metrics["epoch"] == report.best_epoch


def test_any_causal_language_model_can_be_the_backbone(small_backbone, clicks, tmp_path):
    directory = small_backbone("gpt2", n_embd=16, n_layer=2, n_head=4, n_positions=128)
    quick(clicks[:200], tmp_path / "run", model=directory)
    assert 0 <= CTRScorer(None, tmp_path / "run").predict("The best robots of 2027") <= 1


def test_bfloat16_computes_about_the_same(clicks, tmp_path):
    report = quick(clicks[:300], tmp_path, dtype="bfloat16")
    exact = CTRScorer(None, tmp_path, dtype="float32")
    rough = CTRScorer(None, tmp_path, dtype="bfloat16")
    texts = [row["text"] for row in clicks[:20]]
    assert report.best.auc > 0.5
    assert exact.predict_many(texts) == pytest.approx(rough.predict_many(texts), abs=0.03)


def test_a_checkpoint_of_another_backbone_is_refused_with_both_sizes(trained, small_backbone):
    with pytest.raises(
        CheckpointError, match=r"tiny \(hidden size 128, .*cannot be put on .*\(hidden size 16,"
    ) as caught:
        CTRScorer(small_backbone(), trained.best_model)
    assert "\n" not in str(caught.value)
    other = AutoModelForCausalLM.from_pretrained(small_backbone())
    with pytest.raises(CheckpointError, match=r"hidden size 128.*hidden size 16"):
        CTRScorer(None, trained.best_model, backbone=other)


def test_a_missing_or_damaged_checkpoint_is_named(trained, tmp_path):
    with pytest.raises(CheckpointError, match="train one first: grpo reward train"):
        CTRScorer("tiny", tmp_path)
    copy = tmp_path / "best_model"
    copy.mkdir()
    for path in trained.best_model.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    whole = (copy / "scorer.safetensors").read_bytes()
    (copy / "scorer.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"scorer.safetensors cannot be read"):
        CTRScorer("tiny", tmp_path)
    (copy / "scorer.safetensors").write_bytes(whole)
    text = (copy / "scorer.json").read_text()
    (copy / "scorer.json").write_text(text.replace("512", "256"))
    with pytest.raises(CheckpointError, match=r"are not those that scorer\.json describes"):
        CTRScorer("tiny", tmp_path)
    (copy / "scorer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"scorer.json cannot be read"):
        CTRScorer("tiny", tmp_path)


def test_an_adapter_is_no_backbone(tmp_path, clicks):
    load_policy("tiny", device="cpu", lora=LoraSettings(rank=2)).save(tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"is an adapter on .*: merge them, or give the base"):
        quick(clicks, tmp_path / "run", model=tmp_path / "adapter")


def test_a_loss_that_is_not_a_number_ends_the_training(small_backbone, clicks, tmp_path):
    directory = small_backbone()
    model = AutoModelForCausalLM.from_pretrained(directory)
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(float("nan"))
    model.save_pretrained(directory)
    with pytest.raises(RunError, match=r"loss is nan at step 1: lower scorer_learning_rate"):
        quick(clicks[:100], tmp_path / "run", model=directory)
    assert not (tmp_path / "run").exists()


def test_evaluation_rows_of_ones_own_are_used_and_checked_and_not_trained_on(clicks, tmp_path, caplog):
    quickly = {"output_dir": tmp_path, "settings": settings(**QUICK)}
    report = train_scorer("ctr", clicks[:100], eval_rows=clicks[100:160], **quickly)
    texts = {row["text"] for row in clicks[100:160]}
    apart = sum(row["text"] not in texts for row in clicks[:100])
    assert (report.num_train, report.num_eval) == (apart, 60)
    assert apart < 100
    assert f"{100 - apart} of 100 training rows are held-out rows as well" in caplog.text
    with pytest.raises(DataError, match="one class only"):
        train_scorer("ctr", clicks[:100], eval_rows=[{"text": "a", "label": 1}], **quickly)


def test_a_training_that_cannot_begin_leaves_an_earlier_scorer_in_place(clicks, tmp_path):
    quick(clicks[:100], tmp_path)
    before = (tmp_path / "best_model" / "scorer.safetensors").read_bytes()
    with pytest.raises(ModelError):
        quick(clicks[:100], tmp_path, model="./no-such-model")
    assert (tmp_path / "best_model" / "scorer.safetensors").read_bytes() == before
    quick(clicks[:100], tmp_path, seed=3)
    assert (tmp_path / "best_model" / "scorer.safetensors").read_bytes() != before
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_texts_are_cut_at_max_length_in_training_and_after(clicks, tmp_path):
    quick(clicks[:100], tmp_path, max_length=4)
    scorer = CTRScorer(None, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(TINY_DIRECTORY)
    text = "The best robots in Seoul are back again"
    start = tokenizer.decode(tokenizer(text)["input_ids"][:4])
    assert scorer.predict(text) == pytest.approx(scorer.predict(start), abs=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_no_more_is_read_than_the_backbone_has_positions(small_backbone, clicks, tmp_path, family):
    directory = small_backbone(family, n_embd=16, n_layer=2, n_head=4, n_positions=64, max_position_embeddings=64)
    rows = [*clicks[:100], {"text": "robots " * 200, "label": 0}]
    quick(rows, tmp_path / "run", model=directory)
    assert json.loads((tmp_path / "run" / "best_model" / "scorer.json").read_text())["max_length"] == 64
    assert 0 <= CTRScorer(None, tmp_path / "run").predict("robots " * 300) <= 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lora", {"rank": 16}),
        ("lora", []),
        ("lora", {"rank": 0, "alpha": 16.0, "target_modules": "all-linear"}),
        ("logit_shift", None),
        ("max_length", "many"),
        ("max_length", 0),
        ("head_sizes", [-1]),
        ("head_sizes", 512),
        ("backbone", None),
        ("sizes", {}),
        ("sizes", {"hidden_size": 128}),
        ("metrics", 3),
        ("revision", 1),
        ("surprise", 1),
    ],
)
def test_a_description_that_cannot_be_is_named_with_what_is_wrong(trained, tmp_path, name, value):
    description = json.loads((trained.best_model / "scorer.json").read_text())
    (tmp_path / "scorer.json").write_text(json.dumps({**description, name: value}))
    with pytest.raises(CheckpointError, match=rf"scorer.json cannot be read \({name}.*: train the scorer again"):
        CTRScorer(None, tmp_path)


def test_the_budget_of_tokens_and_computing_activations_again_change_nothing(clicks, tmp_path):
    plain = quick(clicks[:200], tmp_path / "plain", head_dropout=0.0)
    parts = quick(clicks[:200], tmp_path / "parts", head_dropout=0.0, tokens_per_micro_batch=64)
    again = quick(clicks[:200], tmp_path / "again", head_dropout=0.0, gradient_checkpointing=True)
    for other in (parts, again):
        assert other.epochs[0].loss == pytest.approx(plain.epochs[0].loss, abs=1e-5)
        assert other.best.loss == pytest.approx(plain.best.loss, abs=1e-4)


def test_no_forward_pass_has_more_tokens_than_the_budget_not_even_of_an_evaluation(clicks, tmp_path, monkeypatch):
    sizes = []
    last_hidden = Backbone.last_hidden

    def measured(backbone, token_ids):
        sizes.append(token_ids.numel())
        return last_hidden(backbone, token_ids)

    monkeypatch.setattr(Backbone, "last_hidden", measured)
    quick(clicks[:200], tmp_path / "clicks", tokens_per_micro_batch=64)
    train_scorer(
        "pair",
        preference_pairs(40),
        output_dir=tmp_path / "pairs",
        settings=settings(**QUICK, tokens_per_micro_batch=256),
    )
    assert max(sizes) <= 256


def test_activations_are_computed_again_where_that_is_asked_for(clicks, tmp_path, monkeypatch):
    calls = []
    checkpoint = modeling_utils.checkpoint
    monkeypatch.setattr(
        modeling_utils, "checkpoint", lambda *given, **named: calls.append(1) or checkpoint(*given, **named)
    )
    quick(clicks[:64], tmp_path / "plain")
    assert not calls
    quick(clicks[:64], tmp_path / "again", gradient_checkpointing=True)
    assert calls


def test_a_training_can_stop_early_by_default():
    defaults = settings()
    assert 0 < defaults.patience < defaults.epochs - 1


def test_the_tokenizer_that_is_asked_for_is_used_and_kept(clicks, tmp_path):
    other = tmp_path / "tokenizer"
    tokenizer = AutoTokenizer.from_pretrained(TINY_DIRECTORY)
    tokenizer.model_max_length = 7
    tokenizer.save_pretrained(other)
    quick(clicks[:64], tmp_path / "run", tokenizer=str(other))
    assert json.loads((tmp_path / "run" / "best_model" / "scorer.json").read_text())["max_length"] == 7


def test_a_revision_is_asked_for_and_kept(clicks, tmp_path, monkeypatch):
    asked = []

    def found(model, *, revision=None):
        asked.append(revision)
        return find_source(model)

    monkeypatch.setattr("grpo.reward_models.backbone.find_source", found)
    quick(clicks[:64], tmp_path, revision="v2")
    CTRScorer(None, tmp_path)
    assert asked == ["v2", "v2"]
