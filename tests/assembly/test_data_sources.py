"""Whole runs on files of every kind, on the seeds' own configurations, and on real GSM8K rows."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from short_runs import WORDS, lines_of, sums, write_lines
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo import GRPOConfig
from grpo.assembly.data import make_task
from grpo.assembly.objects import PythonObjects
from grpo.cli import main
from grpo.config import load_config
from grpo.policy.tiny import TINY_DIRECTORY

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k" / "train.jsonl"

S2_CONFIG = """\
model_name: tiny
max_prompt_length: 64
max_completion_length: 16
train_file: data/math_tasks_train.jsonl
eval_file: data/math_tasks_eval.jsonl
num_train_steps: 2
eval_every: 1
save_every: 1
output_dir: checkpoints
group_size: 4
learning_rate: 1e-5
batch_size: 2
max_grad_norm: 1.0
gamma: 1.0
kl_coeff: 0.02
temperature: 0.7
top_p: 0.9
seed: 42
"""

S4_WORDS = """
    --model-name tiny --batch-size 2 --num-epochs 1 --learning-rate 1e-6 --num-generations 2 --max-new-tokens 8
    --kl-coef 0.1 --clip-range 0.2 --temperature 0.7 --gradient-accumulation-steps 2 --max-grad-norm 1.0
    --warmup-steps 100 --output-dir ./my_grpo_model --logging-steps 1 --save-steps 1
    --use-wandb --wandb-project my-project --wandb-run-name grpo-experiment-1 --device cpu
"""


def write_csv(path, rows):
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.jsonl", write_lines),
        ("rows.json", lambda path, rows: Path(path).write_text(json.dumps(rows))),
        ("rows.csv", write_csv),
        ("rows.parquet", write_parquet),
    ],
)
def test_rows_may_be_in_a_file_of_any_kind(train, name, write):
    write(name, sums(12))
    run = train(f"train_file={name}", "eval_size=4")
    prompts = {row["prompt"] for row in sums(12)}
    for line in lines_of(run / "completions.jsonl"):
        assert line["prompt"] in prompts
        assert line["columns"]["answer"].isdigit()
    assert lines_of(run / "eval.jsonl")[-1]["prompts"] == 4


def test_columns_may_have_other_names(train):
    write_lines("rows.jsonl", [{"q": row["prompt"], "a": row["answer"], "level": 1} for row in sums(8)])
    run = train("train_file=rows.jsonl", "prompt_column=q", "answer_column=a", "rewards=last_integer")
    line = lines_of(run / "completions.jsonl")[0]
    assert line["prompt"].startswith("What is")
    assert set(line["columns"]) == {"answer", "level", "a", "q"}


def test_rewards_take_renamed_and_nested_columns_by_their_own_names(train):
    rows = [{"task": {"text": row["prompt"]}, "check": {"solution": row["answer"]}, "solution": "x"} for row in sums(8)]
    write_lines("rows.jsonl", rows)
    Path("mine.py").write_text(
        "def same(completions, answer, solution, check):\n"
        "    assert [each['solution'] for each in check] == answer and set(solution) == {'x'}\n"
        "    return [float(len(text)) for text in completions]\n"
    )
    run = train(
        "train_file=rows.jsonl", "prompt_column=task.text", "answer_column=check.solution", "rewards=mine.py:same"
    )
    for line in lines_of(run / "completions.jsonl"):
        assert line["prompt"].startswith("What is")
        assert line["columns"]["answer"] == line["columns"]["check"]["solution"]
        assert "failures" not in line


def test_the_answer_column_that_was_named_is_the_answer(train):
    write_lines("rows.jsonl", [{"prompt": row["prompt"], "answer": "x", "result": row["answer"]} for row in sums(8)])
    for line in lines_of(train("train_file=rows.jsonl", "answer_column=result") / "completions.jsonl"):
        assert line["columns"]["answer"].isdigit()
        assert line["columns"]["other_answer"] == "x"


def test_prompts_may_be_messages_with_a_system_message_of_their_own(train):
    messages = [
        [{"role": "system", "content": "Answer at once."}, {"role": "user", "content": row["prompt"]}]
        for row in sums(4)
    ]
    write_lines("rows.jsonl", [{"prompt": prompt, "answer": "1"} for prompt in messages])
    run = train("train_file=rows.jsonl")
    assert all(line["prompt"] in messages for line in lines_of(run / "completions.jsonl"))


def test_a_folder_of_files_is_a_data_set(train):
    write_lines("corpus/train.jsonl", sums(8))
    run = train("dataset=corpus")
    assert len(lines_of(run / "completions.jsonl")) == 4


def test_training_rows_that_are_evaluation_rows_are_left_out(command):
    write_lines("train.jsonl", sums(8))
    write_lines("eval.jsonl", sums(4))
    shown = command("train", *WORDS, "train_file=train.jsonl", "eval_file=eval.jsonl", "output_dir=run")
    assert shown.code == 0
    assert "4 rows with the same prompt as a row to evaluate on left out of training" in shown.out
    held_out = {row["prompt"] for row in sums(4)}
    assert not held_out & {line["prompt"] for line in lines_of("run/completions.jsonl")}


def test_prompts_that_are_too_long_are_counted_and_dropped_never_cut(command):
    rows = [*sums(6), {"prompt": "What is " + " + ".join(["1"] * 80) + "?", "answer": "80"}]
    write_lines("rows.jsonl", rows)
    shown = command("train", *WORDS, "train_file=rows.jsonl", "max_prompt_length=40", "output_dir=run", "steps=4")
    assert shown.code == 0
    assert "1 row with prompts longer than 40 tokens left out: raise max_prompt_length" in shown.out
    assert "6 rows to train on" in shown.out
    assert {line["prompt"] for line in lines_of("run/completions.jsonl")} <= {row["prompt"] for row in rows[:6]}


def test_prompts_longer_than_the_model_has_room_for_are_dropped_too(command):
    write_lines("rows.jsonl", [*sums(6), {"prompt": "1 " * 600, "answer": "80"}])
    words = ["train_file=rows.jsonl", "max_prompt_length=100000", "max_completion_length=1500", "steps=1"]
    shown = command("train", *WORDS, *words, "output_dir=run", "temperature=0.1")
    assert shown.code == 0, shown.err
    assert "longer than 548 tokens" in shown.out
    assert "the model has 2048 positions, so lower max_completion_length" in shown.out


def test_a_split_means_nothing_to_a_file(command):
    write_lines("rows.jsonl", sums(8))
    shown = command("train", *WORDS, "train_file=rows.jsonl", "eval_split=test", "output_dir=run")
    assert shown.code == 0
    assert shown.err == "note: eval_split has no effect: dataset is null\n"


def test_train_size_limits_the_rows(train):
    write_lines("rows.jsonl", sums(12))
    run = train("train_file=rows.jsonl", "train_size=2", "steps=3")
    assert {line["row"] for line in lines_of(run / "completions.jsonl")} == {0, 1}


def test_the_config_yaml_of_s2_runs_as_its_document_lists_it(command):
    documented = set(yaml.safe_load(S2_CONFIG))
    Path("config.yaml").write_text(S2_CONFIG)
    write_lines("data/math_tasks_train.jsonl", sums(20))
    write_lines("data/math_tasks_eval.jsonl", sums(24)[20:])
    shown = command("train", "config.yaml")
    assert (shown.code, shown.err) == (0, "")
    assert len(documented) == 18
    assert [line["step"] for line in lines_of("checkpoints/eval.jsonl")] == [0, 1, 2]
    assert len(lines_of("checkpoints/completions.jsonl")) == 2 * 2 * 4
    assert all("last_integer" in line["rewards"] for line in lines_of("checkpoints/completions.jsonl"))

    # The end of its document: use the fine-tuned model.
    model = AutoModelForCausalLM.from_pretrained("checkpoints/final_model")
    tokenizer = AutoTokenizer.from_pretrained("checkpoints/final_model")
    prompt = "What is 12 - 7? Answer with an integer."
    inputs = tokenizer(prompt, return_tensors="pt")
    outputs = model.generate(**inputs, max_new_tokens=16)
    assert tokenizer.decode(outputs[0], skip_special_tokens=True).startswith(prompt)


def test_s2_s_own_loss_runs_with_its_reward_values(train):
    write_lines("rows.jsonl", sums(8))
    run = train(
        "train_file=rows.jsonl", "method=reinforce", "kl_coeff=0.02", "correct_reward=3", "wrong_reward=-1", "steps=2"
    )
    assert {line["total"] for line in lines_of(run / "completions.jsonl")} <= {3.0, -1.0}


def test_the_command_line_of_s4_runs_with_all_its_flags(command, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = shlex.split(S4_WORDS)
    assert len([word for word in words if word.startswith("--")]) == 19
    shown = command("train", *words, "--train-size", "8", "--eval-prompts", "2")
    assert (shown.code, shown.err) == (0, "")
    config = GRPOConfig.from_file("my_grpo_model/config.yaml")
    assert (config.rollout.prompts_per_step, config.optimizer.gradient_accumulation_steps) == (4, 2)
    assert (config.algorithm.beta, config.algorithm.epsilon, config.optimizer.warmup_steps) == (0.1, 0.2, 100)
    assert len(lines_of("my_grpo_model/metrics.jsonl")) == 2
    assert {path.name for path in Path("my_grpo_model").glob("*") if path.is_dir()} >= {
        "checkpoint-1",
        "checkpoint-2",
        "final_model",
        "wandb",
    }
    for folder in ("final_model", "checkpoint-1"):
        names = {path.name for path in Path("my_grpo_model", folder).iterdir()}
        assert names >= {"config.json", "model.safetensors", "tokenizer_config.json", "training_state.pt"}


@pytest.mark.skipif(not GSM8K.is_file(), reason="the GSM8K file is not there")
def test_gsm8k_trains_with_lora_on_real_rows(command):
    shown = command(
        "train", "gsm8k", "model=tiny", f"train_file={GSM8K}", "steps=3", "output_dir=run", "eval_prompts=8"
    )
    assert (shown.code, shown.err) == (0, "")
    assert "rewards  xmlcount, soft_format, strict_format, int, correctness" in shown.out
    lines = lines_of("run/completions.jsonl")
    assert len(lines) == 3 * 8
    assert all(line["columns"]["answer"] for line in lines)
    assert [message["role"] for message in lines[0]["prompt"]] == ["system", "user"]
    names = {path.name for path in Path("run/final_model").iterdir()}
    assert "adapter_model.safetensors" in names
    assert "model.safetensors" not in names


def test_the_examples_run(train):
    examples = Path(__file__).parents[2] / "examples"
    train(
        f"train_file={examples}/arithmetic_train.jsonl",
        f"eval_file={examples}/arithmetic_eval.jsonl",
        output_dir="a",
    )
    run = train(
        "arithmetic",
        f'rewards=[accuracy, {{name: "{examples}/custom_reward.py:answer_first", weight: 0.2}}]',
        output_dir="b",
    )
    assert set(lines_of(run / "completions.jsonl")[0]["rewards"]) == {"accuracy", "answer_first"}
    assert main(["generate", "--file", f"{examples}/sample_prompts.jsonl", "--json", "max_new_tokens=4"]) == 0


def test_gsm8k_of_a_folder_or_a_mirror_is_read_as_gsm8k(train):
    rows = [{"question": f"{left} and 2 apples?", "answer": f"Add.\n#### {left + 2}"} for left in range(8)]
    write_lines("mirror/train.jsonl", rows[:5])
    write_lines("mirror/test.jsonl", rows[5:])
    run = train("gsm8k", "model=tiny", "dataset=mirror", "eval_split=test")
    assert {line["columns"]["answer"] for line in lines_of(run / "completions.jsonl")} <= {"2", "3", "4", "5", "6"}
    assert lines_of(run / "eval.jsonl")[0]["prompts"] == 3
    run = train("task=gsm8k", "dataset=mirror", "eval_size=2", output_dir="held_out")
    assert lines_of(run / "eval.jsonl")[0]["prompts"] == 2


def test_fewer_rows_of_a_generated_task_are_a_sample_and_the_same_each_time(workplace):
    def questions(*words):
        task = make_task(load_config("finance-preferences", list(words)), PythonObjects())
        return [str(row.prompt) for row in task.train]

    ten = questions("train_size=10")
    assert len(set(ten)) == 10
    assert ten == questions("train_size=10")
    assert ten != questions("train_size=10", "seed=1")
    everything = questions()
    assert set(ten) < set(everything)
    assert ten != everything[:10]


def test_variables_of_the_chat_template_come_from_options_and_columns(train):
    model = AutoModelForCausalLM.from_pretrained(TINY_DIRECTORY)
    tokenizer = AutoTokenizer.from_pretrained(TINY_DIRECTORY)
    tokenizer.chat_template = (
        "{% for message in messages %}<|user|>{{ message['content'] }}<|end|>{% endfor %}"
        "{% for tool in tools or [] %}{{ tool['name'] }}{% endfor %}"
        "<|assistant|>{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}"
    )
    model.save_pretrained("thinker")
    tokenizer.save_pretrained("thinker")
    write_lines("rows.jsonl", [{**row, "tools": [{"name": "add"}]} for row in sums(4)])
    Path("mine.py").write_text(
        "from pathlib import Path\n"
        "def seen(completions, opened_tags):\n"
        "    Path('seen').write_text(','.join(opened_tags))\n"
        "    return [float(len(text)) for text in completions]\n"
    )
    words = ["model=thinker", "train_file=rows.jsonl", "rewards=mine.py:seen", "eval_size=0"]
    train(*words, output_dir="thinking")
    assert Path("seen").read_text() == ",".join(["<think>"] * 4)
    run = train(*words, "chat_template_kwargs={enable_thinking: false}", "tools=[{name: subtract}]", output_dir="b")
    assert Path("seen").read_text() == ",,,"
    config = GRPOConfig.from_file(run / "config.yaml")
    assert config.data.chat_template_kwargs == {"enable_thinking": False}
    assert config.data.tools == ({"name": "subtract"},)
