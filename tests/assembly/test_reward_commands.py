"""`grpo reward train`, `grpo reward score`, and training on what came of it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from short_runs import WORDS, lines_of, tree, write_lines

from grpo import CTRScorer, GRPOConfig
from grpo.assembly.scorers import scorer_settings
from grpo.config import load_config
from grpo.demos.clicks import click_rows
from grpo.demos.preferences import preference_pairs
from grpo.reward_models import read_scorer_rows

CLICKS = ["scorer_rows=400", "scorer_epochs=1"]
PAIRS = ["scorer_rows=40", "scorer_epochs=1", "scorer_batch_size=16"]


def test_from_clicks_to_a_scorer_to_a_policy(command):
    shown = command("reward", "train", "ctr-headlines", *CLICKS)
    assert (shown.code, shown.err) == (0, "")
    assert "the rule behind the clicks itself" in shown.out
    assert shown.out.rstrip().endswith("grpo train ctr-headlines")
    best = Path("runs/ctr-headlines-scorer/best_model")
    assert set(tree(best)) >= {"scorer.json", "report.json", "scorer_config.yaml", "rows.jsonl"}
    assert list(best.parent.iterdir()) == [best]
    scorer = CTRScorer(model_path="tiny", ckpt_path=str(best), device="cpu")

    shown = command("reward", "score", "runs/ctr-headlines-scorer", "10 ways to bake bread", "Farmers say", "--json")
    rows = [json.loads(line) for line in shown.out.splitlines()]
    assert [row["score"] for row in rows] == pytest.approx([scorer.predict(row["text"]) for row in rows], abs=1e-6)

    shown = command("train", "ctr-headlines", *WORDS, "output_dir=run")
    assert shown.code == 0, shown.err
    line = lines_of("run/completions.jsonl")[0]
    assert {"ctr", "clicks_by_rule", "think_strict_format"} <= set(line["rewards"])
    assert 0 <= line["rewards"]["ctr"] <= 1


def test_from_pairs_to_a_classifier_to_a_policy(command):
    shown = command("reward", "train", "finance-preferences", *PAIRS)
    assert (shown.code, shown.err) == (0, "")
    assert "accuracy" in shown.out
    shown = command("reward", "score", "runs/finance-preferences-scorer", "Yes.", "--prompt", "What is gold?")
    assert shown.code == 0
    assert shown.out.endswith("  Yes.\n")
    for recipe in ("finance-preferences", "reward-model"):
        shown = command("train", recipe, *WORDS, f"output_dir={recipe}")
        assert shown.code == 0, shown.err
        assert len(lines_of(f"{recipe}/metrics.jsonl")) == 1
    assert "preference" in lines_of("finance-preferences/completions.jsonl")[0]["rewards"]


def test_rows_of_ones_own_train_the_same_scorer_as_generated_ones(command):
    write_lines("clicks.jsonl", click_rows(400))
    write_lines("pairs.jsonl", preference_pairs(40))
    for kind, file, options in (("ctr", "clicks.jsonl", CLICKS), ("pair", "pairs.jsonl", PAIRS)):
        answers = []
        for source in ([], [f"scorer_train_file={file}"]):
            place = f"scorer_dir={kind}-{len(source)}"
            shown = command("reward", "train", "arithmetic", f"scorer_kind={kind}", *options, *source, place, "--json")
            assert shown.code == 0, shown.err
            answers.append(json.loads(shown.out)["epochs"][0]["loss"])
        assert answers[0] == answers[1]


def test_generated_rows_are_written_and_train_the_same_scorer_again(command):
    for recipe, options, kind in (("ctr-headlines", CLICKS, "ctr"), ("finance-preferences", PAIRS, "pair")):
        assert command("reward", "train", recipe, *options, f"scorer_dir={recipe}").code == 0
        rows = f"{recipe}/best_model/rows.jsonl"
        assert (
            len(read_scorer_rows(kind, rows))
            == len(lines_of(rows))
            == {"ctr-headlines": 400, "finance-preferences": 40}[recipe]
        )
        again = [f"scorer_train_file={rows}", "scorer_dir=again", "--overwrite"]
        assert command("reward", "train", recipe, *options, *again).code == 0
        weights = [path for path in Path(recipe, "best_model").iterdir() if path.suffix == ".safetensors"]
        assert all(path.read_bytes() == Path("again/best_model", path.name).read_bytes() for path in weights)
        assert not list(Path("again").rglob("*.jsonl"))


def test_fewer_rows_leave_none_of_more_behind(command):
    assert command("reward", "train", "finance-preferences", *PAIRS, "scorer_dir=x").code == 0
    assert (
        command("reward", "train", "finance-preferences", *PAIRS, "scorer_rows=30", "scorer_dir=x", "--overwrite").code
        == 0
    )
    (rows,) = Path("x").rglob("*.jsonl")
    assert len(lines_of(rows)) == 30


def test_the_example_of_financial_pairs_is_what_the_generator_writes():
    file = Path(__file__).parents[2] / "examples" / "financial_rewards_500.jsonl"
    assert lines_of(file) == preference_pairs(500, GRPOConfig().optimizer.seed)
    assert len(read_scorer_rows("pair", file)) == 500


def test_how_a_scorer_was_made_lies_beside_it(command):
    assert command("reward", "train", "finance-preferences", *PAIRS, "seed=5", "scorer_dir=x").code == 0
    config = GRPOConfig.from_yaml(Path("x/best_model/scorer_config.yaml").read_text(encoding="utf-8"))
    assert (config.optimizer.seed, config.scorer.scorer_rows, config.scorer.scorer_kind) == (5, 40, "pair")


@pytest.mark.parametrize(
    ("words", "last"),
    [
        (["ctr-headlines", "scorer_dir=my scorer", "seed=3"], "grpo train ctr-headlines 'scorer_dir=my scorer' seed=3"),
        (["arithmetic", "scorer_kind=ctr", "scorer_dir=x"], "grpo train arithmetic scorer_dir=x rewards=ctr"),
        (
            ["arithmetic", "scorer_kind=ctr", "wandb_project=scorer_dir"],
            "grpo train arithmetic wandb_project=scorer_dir scorer_dir=runs/scorer rewards=ctr",
        ),
    ],
)
def test_the_next_command_is_one_that_runs(command, words, last):
    shown = command("reward", "train", *words, *CLICKS)
    assert shown.code == 0, shown.err
    assert shown.out.rstrip().splitlines()[-1].strip() == last
    shown = command(*shlex.split(last)[1:], *WORDS, "output_dir=run")
    assert shown.code == 0, shown.err
    assert "ctr" in lines_of("run/completions.jsonl")[0]["rewards"]


def test_without_matplotlib_one_line_says_so(command, monkeypatch):
    monkeypatch.setattr("grpo.reward_models.train.draw_reliability", lambda bins, path: None)
    shown = command("reward", "train", "ctr-headlines", *CLICKS)
    assert "picture   none, as matplotlib is missing: pip install matplotlib" in shown.out


def test_the_rule_is_not_compared_on_rows_of_ones_own(command):
    write_lines("eval.jsonl", click_rows(100, 7))
    shown = command("reward", "train", "ctr-headlines", *CLICKS, "scorer_eval_file=eval.jsonl", "--json")
    assert shown.code == 0
    assert "training rows are held-out rows as well" in shown.err
    answer = json.loads(shown.out)
    assert (answer["attainable_auc"], answer["num_eval"]) == (None, 100)


def test_an_adapter_scorer_of_pairs_is_a_reward_too(command):
    assert command("reward", "train", "finance-preferences", *PAIRS, "scorer_merge=false").code == 0
    assert Path("runs/finance-preferences-scorer/best_model/adapter_model.safetensors").is_file()
    shown = command("train", "finance-preferences", *WORDS, "output_dir=run", "lora_rank=4")
    assert shown.code == 0, shown.err


def test_bfloat16_where_the_device_has_it_is_the_default_and_an_option():
    assert GRPOConfig().scorer.scorer_dtype == "auto"
    config = GRPOConfig(
        scorer_dtype="bfloat16", scorer_head_dropout=0.3, scorer_merge=False, revision="v2", dtype="auto"
    )
    settings = scorer_settings(config)
    assert (settings.dtype, settings.head_dropout, settings.merge, settings.revision) == ("bfloat16", 0.3, False, "v2")
    assert scorer_settings(config.replace(scorer_model="tiny")).revision is None
    assert scorer_settings(GRPOConfig(gradient_checkpointing=True)).gradient_checkpointing
    defaults = scorer_settings(GRPOConfig(scorer_kind="pair"))
    assert (defaults.dtype, defaults.epochs, defaults.patience) == ("auto", 4, 2)


def test_the_next_command_begins_as_the_program_is_called_here(command, monkeypatch):
    monkeypatch.setattr("grpo.assembly.invocation.own_command", lambda: ".venv/bin/grpo")
    shown = command("reward", "train", "ctr-headlines", *CLICKS)
    assert shown.out.endswith("next\n  .venv/bin/grpo train ctr-headlines\n")


def test_options_without_effect_are_remarked_on(command):
    shown = command("reward", "train", "finance-preferences", *PAIRS, "lora_dropout=0.1")
    assert shown.err == "note: lora_dropout has no effect: lora_rank is 0\n"
    few = ["--rows", "2", "--groups", "0", "--repeats", "1"]
    assert command("reward", "check", "arithmetic", *few, "lora_dropout=0.1").err == shown.err


@pytest.mark.parametrize(
    ("recipe", "options", "said"),
    [
        (
            "ctr-headlines",
            ["scorer_margin=1", "scorer_merge=false"],
            [f"scorer_{name} has no effect: scorer_kind is ctr" for name in ("merge", "margin")],
        ),
        (
            "finance-preferences",
            ["scorer_head_dropout=0.3"],
            ["scorer_head_dropout has no effect: scorer_kind is pair"],
        ),
        (
            "finance-preferences",
            ["scorer_train_file=x", "scorer_rows=9"],
            ["scorer_rows has no effect: scorer_train_file is x"],
        ),
        # What the recipe says of generated rows is no slip of the user's.
        ("finance-preferences", ["scorer_train_file=x", "scorer_margin=1", "scorer_merge=false"], []),
        ("ctr-headlines", ["scorer_head_dropout=0.3", "scorer_rows=9"], []),
    ],
)
def test_scorer_options_without_effect_are_remarked_on(recipe, options, said):
    assert load_config(recipe, options).remarks() == said


def test_a_text_may_look_like_an_option_after_two_dashes(command, refused):
    assert command("reward", "train", "ctr-headlines", *CLICKS, "scorer_dir=x").code == 0
    shown = command("reward", "score", "x", "--device", "cpu", "--", "E=mc2 explained", "file=3 tips")
    assert [line.split("  ")[1] for line in shown.out.splitlines()] == ["E=mc2 explained", "file=3 tips"]
    assert "write it after --, as in grpo reward score runs/scorer -- 'a=b c'" in refused(
        "reward", "score", "x", "a=b c"
    )
    assert "--device" in command("reward", "score", "--help").out


def test_a_model_of_answers_that_gets_no_prompt_says_so(command):
    assert command("reward", "train", "finance-preferences", *PAIRS, "scorer_dir=x").code == 0
    shown = command("reward", "score", "x", "Yes.")
    assert (shown.code, len(shown.out.splitlines())) == (0, 1)
    assert "no prompt" in shown.err
    assert command("reward", "score", "x", "Yes.", "--prompt", "What is gold?").err == ""


def test_a_scorer_is_not_replaced_unless_that_is_asked_for(command, refused):
    assert command("reward", "train", "ctr-headlines", *CLICKS).code == 0
    assert "--overwrite" in refused("reward", "train", "ctr-headlines", *CLICKS)
    assert command("reward", "train", "ctr-headlines", *CLICKS, "--overwrite").code == 0


def test_a_scorer_that_a_kill_has_left_put_aside_is_found_and_not_replaced(command, refused):
    assert command("reward", "train", "finance-preferences", *PAIRS, "scorer_dir=x").code == 0
    score = ("Yes.", "--prompt", "What is gold?")
    before = command("reward", "score", "x", *score).out
    Path("x/best_model").rename("x/.best_model.former-scorer")
    assert "--overwrite" in refused("reward", "train", "finance-preferences", *PAIRS, "scorer_dir=x")
    assert (
        command("reward", "score", "x", *score).out == command("reward", "score", "x/best_model", *score).out == before
    )
    assert command("train", "finance-preferences", *WORDS, "output_dir=run", "scorer_dir=x").code == 0


def test_what_a_stopped_training_leaves_is_no_scorer_until_it_is_named(command, refused):
    assert command("reward", "train", "finance-preferences", *PAIRS, "scorer_dir=x").code == 0
    Path("x/unfinished").mkdir()
    Path("x/best_model").rename("x/unfinished/best_model")
    how = "train it first: grpo reward train finance-preferences"
    assert how in refused("train", "finance-preferences", *WORDS, "scorer_dir=x")
    assert "no scorer in x: train one first (grpo reward train)" in refused("reward", "score", "x", "Yes.")
    assert command("reward", "score", "x/unfinished", "Yes.").code == 0


def test_a_missing_scorer_says_how_to_make_it(refused):
    assert "grpo reward train ctr-headlines" in refused("train", "ctr-headlines", *WORDS)
    for recipe in ("finance-preferences", "reward-model"):
        assert "grpo reward train finance-preferences" in refused("train", recipe, *WORDS)


def test_the_other_kind_of_scorer_is_refused(command):
    assert command("reward", "train", "ctr-headlines", *CLICKS, "scorer_dir=x").code == 0
    shown = command("train", "finance-preferences", *WORDS, "scorer_dir=x")
    assert shown.code == 2
    assert "holds a scorer of clicks: name the reward 'ctr'" in shown.err
    assert command("reward", "train", "finance-preferences", *PAIRS, "scorer_dir=y").code == 0
    shown = command("train", "ctr-headlines", *WORDS, "scorer_dir=y")
    assert shown.code == 2
    assert "if it is a reward model of answers, name the reward 'preference'" in shown.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "use one of train, check, score"),
        (["teach"], "No such command 'teach': use one of train, check, score"),
        (["score"], "needs a model"),
        (["score", "nowhere/at-all", "text"], "nowhere/at-all"),
        (["score", "runs/nowhere", "text"], "no directory runs/nowhere"),
        (["score", "runs/nowhere/best_model", "text"], "no directory runs/nowhere/best_model"),
        (["score", "x", "--file", "nowhere.txt"], "cannot read nowhere.txt: No such file or directory"),
        (["train", "code"], "there is no scorer to train"),
        (["train"], "there is no scorer to train"),
        (["train", "arithmetic", "scorer_kind=ctr", "scorer_dir=x", "scorer_model=./nowhere"], "no directory"),
        (["train", "ctr-headlines", "scorer_dir=x", "scorer_merge=perhaps"], "scorer_merge"),
        (["train", "ctr-headlines", "scorer_holdout=1.5"], "scorer_holdout"),
        (["train", "ctr-headlines", "scorer_holdout=0.99999", "scorer_rows=4"], "rows"),
        (["train", "arithmetic", "scorer_train_file=missing.csv"], "missing.csv"),
        (["check", "arithmetic", "--rows", "none"], "--rows"),
    ],
)
def test_what_cannot_be_done_is_refused(words, said, refused):
    assert said in refused("reward", *words)


def test_the_sandbox_says_what_holds_here(command):
    shown = command("doctor", "--sandbox")
    assert shown.code in (0, 3)
    assert shown.code == (3 if "\nNO" in f"\n{shown.out}" else 0)
    assert len(shown.out.splitlines()) > 5
    assert all(line.startswith(("yes", "NO")) for line in shown.out.splitlines())


@pytest.mark.parametrize("option", ["output_dir=mine/scorer", "output.output_dir=mine/scorer"])
def test_a_scorer_is_written_where_output_dir_says_and_shows_progress(command, option):
    shown = command("reward", "train", "ctr-headlines", *CLICKS, option)
    assert (shown.code, shown.err) == (0, "")
    assert Path("mine/scorer/best_model/scorer.json").is_file()
    assert not Path("runs").exists()
    first, *_, last = shown.out.splitlines()
    assert first == "reward model: ctr, in mine/scorer"
    assert "loading tiny" in shown.out
    assert "epoch 1/1: 32 of 3" in shown.out
    # What it says to type next finds the scorer, and does not train into its directory.
    assert last.endswith("grpo train ctr-headlines scorer_dir=mine/scorer")


def test_two_directories_for_one_scorer_are_refused(refused):
    said = refused("reward", "train", "ctr-headlines", *CLICKS, "output_dir=a", "scorer_dir=b")
    assert said == "a and scorer_dir b both name the directory of the reward model: give one of them"


def test_a_scorer_with_a_run_name_lies_below_runs(command):
    shown = command("reward", "train", "ctr-headlines", *CLICKS, "run_name=clicks", "--json")
    assert shown.code == 0, shown.err
    assert Path("runs/clicks/best_model/scorer.json").is_file()
    json.loads(shown.out)
