from __future__ import annotations

import pytest
from short_runs import QUICK, sums, tree, write_lines

from grpo.assembly.check import check
from grpo.cli.check_text import report_text
from grpo.config import load_config
from grpo.errors import ConfigError


def test_the_arithmetic_recipe_passes_and_nothing_is_written(workplace):
    before = tree(workplace)
    report = check(load_config("arithmetic", ["output_dir=run"]), rows=8)
    assert report.passed, report.problems
    assert report.samples is not None
    assert len(report.samples.spread) == 4
    assert report.samples.group_size == 8
    assert report.samples.total.numbers == 32
    assert {reward.name for reward in report.rewards} == {"strict_format", "correctness"}
    assert tree(workplace) == before


def test_the_gsm8k_recipe_passes(workplace):
    rows = [{"question": row["prompt"], "answer": f"One adds them.\n#### {row['answer']}"} for row in sums(12)]
    file = write_lines("train.jsonl", rows)
    words = ["model=tiny", f"train_file={file}", "eval_size=2", "lora_rank=0", "max_completion_length=16"]
    report = check(load_config("gsm8k", words), sample_groups=1, rows=8)
    assert report.passed, report.problems
    assert report.probes[0].total.mean == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("code", ["--rows", "2", "--groups", "1", "--repeats", "1", "max_completion_length=8"]),
        ("reward-model", ["--rows", "8", "--groups", "1", "--repeats", "2", "max_completion_length=16"]),
    ],
)
def test_the_other_recipes_pass_on_the_command_line(recipe, words, command):
    if recipe == "reward-model":
        trained = command("reward", "train", "finance-preferences", "scorer_rows=300", "scorer_epochs=3")
        assert trained.code == 0, trained.err
    shown = command("reward", "check", recipe, *words)
    assert shown.code == 0, shown.out
    assert shown.out.splitlines()[-1].startswith("passed: no reward is broken")


def test_what_pays_better_than_a_good_headline_is_a_problem(workplace):
    (workplace / "mine.py").write_text(
        "def likes_digits(completions):\n    return [float(sum(map(str.isdigit, text))) for text in completions]\n",
        encoding="utf-8",
    )
    config = load_config("ctr-headlines", ["rewards=mine.py:likes_digits"])
    report = check(config, sample_groups=0, rows=4)
    assert report.reference_column == "reference"
    finding = next(finding for finding in report.problems if finding.code == "hackable")
    assert "numbers listed, in format" in finding.probes


def test_spread_is_what_training_makes_of_it(workplace):
    (workplace / "mine.py").write_text(
        "def one(completions):\n    return [float(len(text)) for text in completions]\n\n\n"
        "def other(completions):\n    return [-2.0 * len(text) for text in completions]\n",
        encoding="utf-8",
    )
    words = ["rewards={mine.py:one: 2.0, mine.py:other: 1.0}"]
    shares = {}
    for more in ([], ["combine=normalise"], ["combine=normalise", "truncated=mask", "max_completion_length=1"]):
        report = check(load_config("arithmetic", [*words, *more]), sample_groups=2, rows=1, repeats=1)
        assert report.samples is not None
        shares[len(more)] = report.samples.share
    assert shares == {0: 0.0, 1: 1.0, 3: 0.0}


def test_a_bug_in_a_reward_of_ones_own_is_found(workplace):
    (workplace / "mine.py").write_text(
        "def finds_it(completions, answer):\n"
        "    return [float(right in text) for text, right in zip(completions, answer)]\n",
        encoding="utf-8",
    )
    report = check(load_config("arithmetic", ["rewards=mine.py:finds_it"]), sample_groups=0, rows=4)
    assert not report.passed
    assert report.samples is None
    text = report_text(report)
    assert "PROBLEM not-told-apart" in text
    assert "numbers listed, in format" in text
    assert text.endswith("FAILED: 1 problem")


def test_the_report_is_a_table_a_forecast_and_a_verdict(workplace):
    text = report_text(check(load_config("arithmetic", []), rows=4, repeats=2))
    lines = text.splitlines()
    header = next(line for line in lines if "total" in line and "strict_format" in line)
    reference = next(line for line in lines if line.strip().startswith("reference"))
    assert reference.split() == ["reference", "2.5", "0.5", "2"]
    assert header.index("correctness") == reference.index("2", reference.index("0.5") + 3)
    assert "called 2 times" in text
    assert "sampled groups of 8" in text
    assert lines[-1].startswith("passed: no reward is broken, no junk earns as much as the right answer")


def test_a_check_without_rows_is_refused(workplace):
    with pytest.raises(ConfigError, match="rows=0"):
        check(load_config("arithmetic", [f"{name}={value}" for name, value in QUICK.items()]), rows=0)
