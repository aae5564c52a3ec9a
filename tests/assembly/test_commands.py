"""The commands on real runs: the files of a run directory, their use by other commands, and resume."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from short_runs import CHARACTERS, WORDS, lines_of, sums, tree, write_lines
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo import GRPOConfig, load_config, recipes
from grpo.assembly.parts import make_method
from grpo.cli import main
from grpo.policy.tiny import TINY_DIRECTORY
from grpo.tracking import find_run


@pytest.fixture
def grpo_command():
    """The console script itself, as the shell would run it."""
    script = Path(sys.executable).with_name("grpo")
    if not script.is_file():
        pytest.skip("the package is not installed with its command")

    def run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(script), *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )

    return run


def test_a_run_leaves_all_that_a_watcher_reads(train):
    run = train("steps=2", "save_every=1", "eval_every=1")
    assert {entry.name for entry in run.iterdir() if not entry.name.startswith(".")} == {
        "config.yaml",
        "metrics.jsonl",
        "completions.jsonl",
        "eval.jsonl",
        "summary.json",
        "checkpoint-1",
        "checkpoint-2",
        "final_model",
    }
    assert [line["step"] for line in lines_of(run / "metrics.jsonl")] == [1, 2]
    assert [line["step"] for line in lines_of(run / "eval.jsonl")] == [0, 1, 2]
    assert len(lines_of(run / "completions.jsonl")) == 2 * 2 * 2
    summary = json.loads((run / "summary.json").read_text())
    evaluated = {"accuracy", "accuracy_ci95", "accuracy_lenient", "accuracy_greedy", "format_rate", "reward"}
    assert evaluated <= set(summary["eval_before"])
    assert evaluated <= set(summary["eval_after"])
    assert summary["steps"] == 2
    assert summary["seconds"] > 0
    assert summary["completion_tokens_per_s"] > 0
    assert summary["peak_memory_mb"] > 0


def test_without_a_directory_runs_are_numbered_by_time_and_latest_is_the_last(command):
    for _ in range(2):
        assert command("train", *WORDS).code == 0
    names = sorted(entry.name for entry in Path("runs").iterdir())
    assert len(names) == 3
    assert names[2] == "latest"
    assert all(name.startswith("arithmetic-2") for name in names[:2])
    assert find_run("runs/latest").name == names[1]


def test_a_run_with_a_name_lies_under_that_name(command):
    assert command("train", *WORDS, "run_name=mine").code == 0
    assert find_run("runs/latest").name == "mine"
    again = command("train", *WORDS, "run_name=mine")
    assert again.code == 2
    assert "runs/mine holds another run" in again.err


def test_every_folder_of_a_run_loads_in_transformers_and_generates(train):
    run = train("save_every=1")
    for folder in ("final_model", "checkpoint-1"):
        model = AutoModelForCausalLM.from_pretrained(run / folder)
        tokenizer = AutoTokenizer.from_pretrained(run / folder)
        inputs = tokenizer("What is 12 - 7? Answer with an integer.", return_tensors="pt")
        outputs = model.generate(**inputs, max_new_tokens=16)
        assert outputs.shape[1] > inputs["input_ids"].shape[1]
        assert tokenizer.decode(outputs[0], skip_special_tokens=True).startswith("What is 12 - 7?")


def test_the_adapter_of_a_lora_run_loads_in_transformers_and_in_peft(train):
    run = train("lora_rank=4", "learning_rate=1e-2", "save_every=1", "beta=0.1", "group_size=4", CHARACTERS)
    inputs = AutoTokenizer.from_pretrained(run / "final_model")("What is 12 - 7?", return_tensors="pt")
    logits = []
    for load in (AutoModelForCausalLM.from_pretrained, peft.AutoPeftModelForCausalLM.from_pretrained):
        for folder in ("final_model", "checkpoint-1"):
            with torch.no_grad():
                logits.append(load(run / folder)(**inputs).logits)
    assert all(torch.equal(logits[0], other) for other in logits[1:])
    with torch.no_grad():
        assert not torch.allclose(AutoModelForCausalLM.from_pretrained(TINY_DIRECTORY)(**inputs).logits, logits[0])


@pytest.mark.parametrize("options", [(), ("lora_rank=4", "lora_targets=q_proj,v_proj")], ids=["full", "lora"])
def test_generate_and_eval_take_a_run_its_final_model_and_its_checkpoints(train, command, options):
    run = train("learning_rate=1e-2", "save_every=1", *options)
    answers = {}
    for place in (run, run / "final_model", run / "checkpoint-1"):
        shown = command("generate", place, "What is 2 + 3?", "max_new_tokens=12")
        assert (shown.code, shown.err) == (0, ""), shown.err
        answers[shown.out] = place
        shown = command("eval", place, "eval_prompts=2", "eval_samples=1", "--json")
        assert (shown.code, shown.err) == (0, ""), shown.err
        assert json.loads(shown.out)["prompts"] == 2
    assert len(answers) == 1


def test_eval_after_training_repeats_the_evaluation_of_the_run(train, command):
    run = train("learning_rate=1e-3", "eval_prompts=8", "eval_samples=2")
    after = lines_of(run / "eval.jsonl")[-1]
    again = json.loads(command("eval", run, "--json").out)
    assert {name: after[name] for name in again} == again


def test_eval_shows_a_table_and_takes_other_rows(command):
    write_lines("held_out.jsonl", sums(6))
    shown = command("eval", "tiny", "eval_file=held_out.jsonl", "eval_samples=2", "max_new_tokens=8")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith("tiny: 6 prompts × 2 completions\n  accuracy ")
    assert "pass@2" in shown.out
    assert not Path("runs").exists()


def test_eval_of_gsm8k_needs_no_training_rows(command):
    write_lines("test.jsonl", [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(3)])
    shown = command("eval", "tiny", "gsm8k", "eval_file=test.jsonl", "--json", "max_new_tokens=8")
    assert (shown.code, shown.err) == (0, "")
    assert json.loads(shown.out)["prompts"] == 3


def test_generate_answers_with_the_embedded_model_where_nothing_was_trained(command):
    shown = command("generate", "temperature=0.1", "--json", "--", "What is 2 + 3? Answer with an integer.")
    assert (shown.code, shown.err) == (0, "")
    assert json.loads(shown.out)["completions"][0].strip()


def test_generate_can_be_greedy(command):
    answers = [
        command("generate", "tiny", "What is 2 + 3?", "temperature=0", f"seed={seed}", "--num", "2", "--json").out
        for seed in (0, 1)
    ]
    assert answers[0] == answers[1]
    first, second = json.loads(answers[0])["completions"]
    assert first == second


def test_generate_reads_files_of_prompts_and_writes_json_lines(train, command):
    write_lines("prompts.jsonl", [{"prompt": row["prompt"]} for row in sums(3)])
    Path("prompts.csv").write_text("prompt,level\nWhat is 1 + 1?,1\n")
    train(output_dir="runs/a")
    for name, count in (("prompts.jsonl", 3), ("prompts.csv", 1)):
        shown = command("generate", "--file", name, "--output", "out.jsonl", "--num", "2", "max_new_tokens=4")
        assert (shown.code, shown.out, shown.err) == (0, "", "")
        lines = lines_of("out.jsonl")
        assert [len(line["completions"]) for line in lines] == [2] * count


def test_a_prompt_that_is_too_long_is_refused_with_its_length(refused):
    said = refused("generate", "tiny", "1 " * 400, "max_prompt_length=40")
    assert "max_prompt_length" in said
    assert "40" in said


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_is_listed_and_can_be_shown_resolved(command, name):
    assert f"\n{name} " in "\n" + command("recipes").out
    shown = command("train", name, "--dry-run")
    assert (shown.code, shown.err) == (0, "")
    assert GRPOConfig.from_yaml(shown.out) == load_config(name)
    assert not Path("runs").exists()


def test_a_run_goes_on_to_more_steps_as_if_it_had_never_stopped(train, command):
    options = ("learning_rate=1e-3", "schedule=constant", "save_every=2", "seed=3", "group_size=4", CHARACTERS)
    whole = train("steps=4", *options, output_dir="whole")
    train("steps=2", *options, output_dir="parts")
    shown = command("train", "--resume", "parts", "steps=4")
    assert (shown.code, shown.err) == (0, "")
    assert "2 done before" in shown.out
    final = [tree(Path(run, "final_model")) for run in (whole, "parts")]
    assert final[0] == final[1]
    for name in ("completions.jsonl", "eval.jsonl"):
        wanted, found = ([line for line in lines_of(Path(run, name)) if line["step"] != 2] for run in (whole, "parts"))
        assert found == wanted
    assert GRPOConfig.from_file("parts/config.yaml").optimizer.steps == 4


def test_a_run_that_is_done_stays_as_it_is(train, command):
    run = train("steps=2")
    before = tree(run / "final_model")
    shown = command("train", "--resume", run)
    assert (shown.code, shown.err) == (0, "")
    assert tree(run / "final_model") == before
    assert len(lines_of(run / "metrics.jsonl")) == 2


def test_a_config_of_a_run_starts_another_like_it(train, command):
    run = train("seed=5")
    shown = command("train", run / "config.yaml", "output_dir=again")
    assert (shown.code, shown.err) == (0, "")
    assert tree(Path("again/final_model")) == tree(run / "final_model")


def test_module_names_are_looked_up_in_the_working_directory(grpo_command):
    Path("my_rewards.py").write_text(
        "def length(completions, **kwargs):\n    return [float(len(c)) for c in completions]\n"
    )
    Path("my_method.py").write_text("from grpo.algorithm import METHODS\nmine = METHODS['dr_grpo']\n")
    write_lines("rows.jsonl", sums(4))
    done = grpo_command(
        *("train", *WORDS, "train_file=rows.jsonl", "output_dir=run"),
        *("rewards=my_rewards:length", "method=my_method:mine"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert all(line["total"] == len(line["completion"]) for line in lines_of("run/completions.jsonl"))


def test_a_custom_method_may_be_a_function(train):
    Path("my_surrogate.py").write_text(
        "def plain(ratio, logprobs, advantages, region):\n    return -ratio * advantages\n"
    )
    run = train("method=my_surrogate:plain", "steps=2")
    assert len(lines_of(run / "metrics.jsonl")) == 2


def test_a_custom_methods_way_to_combine_rewards_holds_unless_the_option_is_set(monkeypatch):
    Path("own_methods.py").write_text(
        "from grpo.algorithm import Method\ngdpo = Method(combine='normalise', scale='none')\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    assert make_method(GRPOConfig(method="own_methods:gdpo")).combine == "normalise"
    assert make_method(GRPOConfig(method="own_methods:gdpo", combine="sum")).combine == "sum"
    assert make_method(GRPOConfig()).combine == "sum"
    assert make_method(GRPOConfig(combine="normalise")).combine == "normalise"


def test_the_default_recipe_starts_without_any_word(grpo_command, monkeypatch):
    # The default run takes a minute; its first evaluation is enough to see that it starts.
    assert main(["train", "--dry-run"]) == 0
    done = grpo_command("train", "steps=1", "eval_prompts=2", "prompts_per_step=2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "next\n  grpo generate runs/latest" in done.stdout
    done = grpo_command("generate", "runs/latest", "What is 6 + 7? Answer with an integer.")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()
