"""`grpo reward train`, `grpo reward score`, and training on what came of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from short_runs import WORDS, lines_of, write_lines

from grpo import CTRScorer
from grpo.tasks.clicks import click_rows
from grpo.tasks.preferences import preference_pairs

CLICKS = ["scorer_rows=400", "scorer_epochs=1"]
PAIRS = ["scorer_rows=40", "scorer_epochs=1", "scorer_batch_size=16"]


def test_from_clicks_to_a_scorer_to_a_policy(command):
    shown = command("reward", "train", "ctr-headlines", *CLICKS)
    assert (shown.code, shown.err) == (0, "")
    assert "the rule behind the clicks itself" in shown.out
    assert shown.out.rstrip().endswith("grpo train ctr-headlines")
    best = Path("runs/ctr-headlines-scorer/best_model")
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


def test_a_scorer_is_not_replaced_unless_that_is_asked_for(command, refused):
    assert command("reward", "train", "ctr-headlines", *CLICKS).code == 0
    assert "--overwrite" in refused("reward", "train", "ctr-headlines", *CLICKS)
    assert command("reward", "train", "ctr-headlines", *CLICKS, "--overwrite").code == 0


def test_a_missing_scorer_says_how_to_make_it(refused):
    assert "grpo reward train ctr-headlines" in refused("train", "ctr-headlines", *WORDS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "train, check and score"),
        (["teach"], "not 'teach'"),
        (["score"], "needs a scorer"),
        (["score", "nowhere/at-all", "text"], "nowhere/at-all"),
        (["train", "ctr-headlines", "scorer_holdout=0.99999", "scorer_rows=4"], "rows"),
        (["train", "arithmetic", "scorer_train_file=missing.csv"], "missing.csv"),
        (["check", "arithmetic", "--rows", "none"], "--rows"),
    ],
)
def test_what_cannot_be_done_is_refused(words, said, refused):
    assert said in refused("reward", *words)


def test_the_sandbox_says_what_holds_here(command):
    shown = command("doctor", "--sandbox")
    assert shown.code in (0, 1)
    assert len(shown.out.splitlines()) > 5
    assert all(line.startswith(("yes", "NO")) for line in shown.out.splitlines())
