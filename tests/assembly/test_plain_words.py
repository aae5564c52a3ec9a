"""What a run tells a user who would otherwise wonder: defaults that do not fit, rewards without effect, slips."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from short_runs import CHARACTERS, WORDS, lines_of, quick, sums, write_lines

from grpo import GRPOTrainer, load_config
from grpo.assembly.invocation import own_command
from grpo.config import GRPOConfig

SOLUTIONS = [
    {"prompt": f"What is {n} + 1?", "answer": f"{n} + 1 = <<{n}+1={n + 1}>>{n + 1}\n#### {n + 1}"} for n in range(8)
]


def always(completions, **_):
    """A reward that tells nothing apart."""
    return [1.0] * len(completions)


SAME = f"rewards={Path(__file__)}:always"


def test_answers_in_the_form_of_gsm8k_are_their_last_number_in_rows_of_ones_own(train):
    write_lines("rows.jsonl", SOLUTIONS)
    Path("mine.py").write_text(
        "def told(completions, answer):\n"
        "    assert all('####' in text for text in answer), 'the column is as it stands in the file'\n"
        "    return [0.0] * len(completions)\n"
    )
    names = "last_integer,correctness,accuracy,mine.py:told"
    run = train("train_file=rows.jsonl", f"rewards={names}", "eval_size=2", "eval_samples=2", "group_size=8", "steps=3")
    right = [line for line in lines_of(run / "completions.jsonl") if re.search(r"\d", line["completion"])]
    found = {
        re.findall(r"\d+", line["completion"])[-1] == line["columns"]["answer"].rpartition("#### ")[2]: line["rewards"]
        for line in right
    }
    assert set(found) == {True, False}, "the model should be right now and then"
    assert found[True]["last_integer"] == 1.0
    assert found[False]["last_integer"] == 0.0
    assert any(line["accuracy_lenient"] is not None for line in lines_of(run / "eval.jsonl"))


def test_a_run_whose_rewards_tell_nothing_apart_warns_once_and_sums_up(command):
    shown = command("train", *WORDS, SAME, "steps=7", "output_dir=run")
    assert shown.code == 0
    warning = "warning: no group differed in reward in the last 5 steps, so the rewards train nothing: "
    assert shown.out.count(warning) == 1
    before, _, after = shown.out.partition(warning)
    assert "   5/7" in before and "   6/7" not in before
    assert "warning: no group differed in reward in 7 of 7 steps: nothing was trained\n" in after


def test_a_run_with_spread_says_nothing_of_it(command):
    shown = command("train", *WORDS, CHARACTERS, "group_size=4", "steps=6", "output_dir=run")
    assert shown.code == 0
    assert "no group differed" not in shown.out


def test_weights_of_rewards_are_in_the_header(command):
    rewards = "rewards={strict_format: 1, correctness: 3, length: {weight: {from: 0, to: 0.5, steps: 4}, target: 9}}"
    Path("mine.yaml").write_text(rewards.replace("=", ": ").replace("length", "xmlcount").replace(", target: 9", ""))
    shown = command("train", "mine.yaml", *WORDS, "eval_size=2", "output_dir=run")
    assert shown.code == 0, shown.err
    assert "rewards  strict_format, correctness ×3, xmlcount ×0 → ×0.5\n" in shown.out


def test_the_next_commands_are_written_as_they_can_be_called(command, monkeypatch, workplace):
    script = Path(sys.executable).with_name("grpo")
    if not script.is_file():
        pytest.skip("the package is not installed with its command")
    assert own_command() == "grpo"
    monkeypatch.setenv("PATH", "/nowhere")
    assert own_command() == shlex.quote(str(script))
    (workplace / ".venv/bin").mkdir(parents=True)
    (workplace / ".venv/bin/grpo").symlink_to(script)
    for called in (".venv/bin/grpo", str(workplace / ".venv/bin/grpo")):
        monkeypatch.setattr(sys, "argv", [called, "train"])
        assert own_command() == ".venv/bin/grpo"
    shown = command("train", *WORDS, "output_dir=run")
    assert 'next\n  .venv/bin/grpo generate run "What is ' in shown.out
    assert "\n  .venv/bin/grpo eval run\n" in shown.out
    # Without a script it is the module that is called.
    monkeypatch.setattr(sys, "argv", ["somewhere.py"])
    monkeypatch.setattr(sys, "executable", str(workplace / "python"))
    assert own_command() == "python -m grpo"


def test_a_script_of_another_installation_is_not_the_command(monkeypatch, workplace):
    other = workplace / "other" / "grpo"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(other.parent))
    assert own_command() != "grpo"
    done = subprocess.run(f"{own_command()} --version", shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("grpo ")


GSM8K_ROWS = [{"question": row["prompt"], "answer": f"#### {row['answer']}"} for row in sums(20)]


@pytest.mark.parametrize("source", ["gsm8k", "mine.yaml"])
def test_what_a_recipe_holds_out_shrinks_with_the_data(command, source):
    write_lines("rows.jsonl", GSM8K_ROWS)
    Path("mine.yaml").write_text("recipe: gsm8k\ntrain_file: rows.jsonl\n")
    words = (source, *WORDS, "model=tiny", "train_file=rows.jsonl", "lora_targets=q_proj", "lora_rank=2")
    shown = command("train", *words, "output_dir=run")
    assert shown.code == 0, shown.err
    note = "note: eval_size 200 is more than a fifth of the prompts, so 4 are held out: give eval_size for another"
    assert note in shown.out
    assert "gsm8k · 16 rows to train on, 4 held out" in shown.out
    # The number is written down: a resumed run holds out the same.
    assert GRPOConfig.from_file("run/config.yaml").data.eval_size == 4
    again = command("train", "--resume", "run", "steps=2")
    assert again.code == 0, again.err
    assert "eval_size" not in again.out
    assert [line["prompts"] for line in lines_of("run/eval.jsonl")] == [4, 4, 4]


def test_what_a_user_asks_to_hold_out_is_kept_to(refused):
    write_lines("rows.jsonl", GSM8K_ROWS)
    words = ("gsm8k", *WORDS, "model=tiny", "train_file=rows.jsonl")
    said = "eval_size 200, but there are 20 different prompts"
    assert said in refused("train", *words, "eval_size=200")
    Path("mine.yaml").write_text("recipe: gsm8k\neval_size: 200\n")
    assert said in refused("train", "mine.yaml", *words[1:])
    assert "arithmetic problems asked for" in refused("train", *WORDS, "max_operand=2", "eval_size=64")


def test_few_sums_leave_fewer_to_hold_out(command):
    shown = command("train", *WORDS, "max_operand=4", "operators=+", "output_dir=run")
    assert shown.code == 0, shown.err
    assert "note: eval_size 64 is more than a fifth of the prompts, so 5 are held out" in shown.out
    assert "20 rows to train on, 4 held out" in shown.out, "WORDS evaluate on four at most"


def test_a_recipe_stays_a_default_through_the_python_interface():
    write_lines("rows.jsonl", GSM8K_ROWS)
    options = {"model": "tiny", "output_dir": "run", "lora_rank": 0, "train_file": "rows.jsonl"}
    config = load_config("gsm8k", **options).replace(steps=1)
    assert not config.is_set_by_user("eval_size")
    assert config.replace(eval_size=200).is_set_by_user("eval_size")
    assert config == load_config("gsm8k", **options, steps=1)
    assert GRPOTrainer(config=config).evaluate()["prompts"] == 4
    assert quick(eval_size=3).is_set_by_user("eval_size")
    assert not GRPOConfig().is_set_by_user("eval_size")


def test_a_name_that_leaves_runs_is_refused(refused, train):
    for name in ("../../x", "/x", "..", "a/../../x", "."):
        said = refused("train", *WORDS, f"run_name={name}")
        assert f"run_name was given {name!r}: it should be a name that stays below runs/" in said
        assert "give output_dir" in said


def test_a_cache_that_cannot_hold_one_completion_is_refused(refused):
    said = refused("train", *WORDS, "max_cache_tokens=20", "output_dir=run")
    needed = re.search(
        r"max_cache_tokens 20 cannot hold the longest prompt of (\d+) tokens with a completion of 8: "
        r"raise it to at least (\d+)",
        said,
    )
    assert int(needed[1]) + 8 == int(needed[2])
    assert f"max_cache_tokens {int(needed[2]) - 1}" in refused(
        "train", *WORDS, f"max_cache_tokens={int(needed[2]) - 1}"
    )


def test_the_smallest_cache_that_is_allowed_is_enough(train):
    train("max_cache_tokens=40", "max_completion_length=8")


def test_eval_takes_a_yaml_file_as_the_rows_and_the_latest_run_as_the_model(train, command):
    run = train("seed=5", output_dir="runs/mine")
    write_lines("rows.jsonl", sums(3))
    Path("mine.yaml").write_text("eval_file: rows.jsonl\nanswer_format: answer_tags\neval_samples: 1\n")
    shown = command("eval", "mine.yaml", "max_new_tokens=8")
    assert (shown.code, shown.err) == (0, ""), shown.err
    assert shown.out.startswith("runs/mine (step 1): 3 prompts × 1 completion")
    assert shown.out == command("eval", run, "mine.yaml", "max_new_tokens=8").out
    assert json.loads(command("eval", "mine.yaml", "--json", "max_new_tokens=8").out)["prompts"] == 3


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("optimiser.learning_rate=1", "optimizer.learning_rate"),
        ("optimiser.lr=1", "optimizer.learning_rate"),
        ("polcy.modl=1", "policy.model"),
        ("rolout.nothing_like_it=1", "rollout"),
    ],
)
def test_a_mistyped_section_gets_a_suggestion(refused, word, meant):
    section = word.partition(".")[0]
    assert refused("train", word) == f"no section {section!r}: did you mean {meant}?"


def test_a_mistyped_section_of_a_file_gets_a_suggestion(refused):
    Path("mine.yaml").write_text("optimiser:\n  learning_rate: 1\n")
    assert "mine.yaml: no option 'optimiser': did you mean optimizer" in refused("train", "mine.yaml")


def test_small_slips_are_told_plainly(refused):
    write_lines("rows.jsonl", [{"prompt": "What is 2 + 3?"}])
    assert "(they have the prompt only)" in refused("train", *WORDS, "train_file=rows.jsonl")
    Path("mine.py").write_text("def mine(completions):\n    return ((\n")
    said = refused("train", *WORDS, "rewards=mine.py:mine")
    assert "SyntaxError: '(' was never closed (at " in said
    assert said.count("mine.py") == 2 and said.count("line 2") == 0


def test_a_template_that_closes_the_thoughts_is_named_where_the_format_asks_for_them(train, command):
    from transformers import AutoTokenizer

    model = train() / "final_model"
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template += "{{ '<think>\n\n</think>\n\n' if not enable_thinking | default(true) }}"
    tokenizer.save_pretrained(model)
    words = ("train", *WORDS, f"model={model}", "answer_format=think_tags", "rewards=think_strict_format")
    warning = "the chat template ends the prompt with </think>, so completions have no <think> block"
    shown = command(*words, "output_dir=closed", "chat_template_kwargs={enable_thinking: false}")
    assert warning in shown.out + shown.err
    shown = command(*words, "output_dir=open")
    assert shown.code == 0
    assert warning not in shown.out + shown.err
