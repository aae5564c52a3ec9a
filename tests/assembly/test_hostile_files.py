"""Files that never end, stand for more than they show, or are no text: exit code 2 and one line, soon."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from short_runs import WORDS, sums, write_lines

import grpo
from grpo.errors import CheckpointError, ConfigError, DataError
from grpo.reward_models import read_scorer_rows
from grpo.storage import DamagedError, read_manifest
from grpo.tasks.readers import read_records
from grpo.tracking import RunDirectory

pytestmark = pytest.mark.timeout(120)

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGE_BOMB = "a: &a {x: 1}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join(['*' + old] * 9)}]}}\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.tsv", "rows.parquet"])
@pytest.mark.parametrize("option", ["train_file", "eval_file"])
def test_a_pipe_is_refused_as_a_file_of_rows(refused, name, option):
    os.mkfifo(name)
    write_lines("good.jsonl", sums(8))
    others = ["train_file=good.jsonl"] if option == "eval_file" else []
    said = refused("train", *WORDS, *others, f"{option}={name}")
    assert said.startswith("cannot read /")
    assert said.endswith(f"{name}: it is a pipe, a socket or a device, which may never end: give a regular file")


def test_a_link_to_an_endless_device_is_refused_wherever_a_file_is_read(refused):
    for name in ("rows.jsonl", "rows.json", "conf.yaml", "texts"):
        Path(name).symlink_to("/dev/zero")
    assert "may never end" in refused("train", *WORDS, "train_file=rows.jsonl")
    assert "may never end" in refused("train", *WORDS, "train_file=rows.json")
    assert "may never end" in refused("train", "conf.yaml")
    assert "may never end" in refused("eval", "tiny", "conf.yaml")
    assert "may never end" in refused("reward", "check", "conf.yaml")
    assert "may never end" in refused("reward", "train", "scorer_kind=ctr", "scorer_train_file=rows.jsonl")
    assert "may never end" in refused("reward", "score", "--model", "tiny", "--file", "texts")
    assert "may never end" in refused("generate", "tiny", "--file", "rows.jsonl")


@pytest.mark.parametrize("name", ["adapter_config.json", "model.safetensors", "anything"])
def test_a_pipe_among_the_files_of_a_model_is_refused(train, refused, name):
    model = train() / "final_model"
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name)
    assert f"{name} is a pipe, a socket or a device: remove it" in refused("generate", model, "hello")
    assert f"{name} is a pipe, a socket or a device: remove it" in refused("train", *WORDS, f"model={model}")


@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl", "anything"])
def test_a_pipe_among_the_files_of_a_run_is_refused(train, refused, name):
    run = train()
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    assert f"{name} is a pipe, a socket or a device: remove it" in refused("train", "--resume", run, "steps=9")


def test_a_socket_is_refused(refused):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("rows.jsonl")
        assert "may never end" in refused("train", *WORDS, "train_file=rows.jsonl")


def test_a_link_to_a_file_is_read_by_the_name_of_the_link(train):
    write_lines("blob-without-ending", sums(8))
    Path("rows.jsonl").symlink_to("blob-without-ending")
    train("train_file=rows.jsonl")


@pytest.mark.parametrize("text", [BOMB, MERGE_BOMB], ids=["aliases", "merges"])
def test_aliases_that_stand_for_billions_of_values_are_refused(refused, text):
    Path("conf.yaml").write_text(text)
    assert "it stands for more than 100,000 values, aliases written out" in refused("train", "conf.yaml")


def test_a_value_that_contains_itself_is_refused(refused):
    Path("conf.yaml").write_text("lora_targets: &a [*a]\n")
    assert "a value contains itself" in refused("train", "conf.yaml")


def test_a_few_aliases_are_allowed(command):
    Path("conf.yaml").write_text("policy: {lora_targets: &t [q_proj, v_proj], lora_rank: 2}\noptimizer: &o {seed: 3}\n")
    shown = command("train", "conf.yaml", "--dry-run")
    assert (shown.code, shown.err) == (0, "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x00\x01\x02\xff\xfe", "it is not UTF-8 text"),
        (b"steps: \x00\n", "not valid YAML"),
        (b"rewards: " + b"[" * 5000, "values are nested too deeply"),
        (b"steps: " + b"7" * 4400, "Exceeds the limit (4300 digits)"),
        (b"steps: " + b"7" * 4000, "it should be at most 9223372036854775807"),
        (b"seed: 9223372036854775808", "it should be at most 9223372036854775807"),
        (b"# " + b"x" * 2_000_000, "it has 2.0 MB, and 1.0 MB are allowed"),
        (b"report_to: 5", "report_to was given 5: it should be wandb, tensorboard, all or none"),
        (b"report_to: {wandb: true}", "it should be wandb, tensorboard, all or none"),
        (b"rewards: [correctness, correctness]", "'correctness' is there twice"),
        (b"rewards: [{name: correctness}, correctness]", "'correctness' is there twice"),
        (b"correct_reward: .nan", "correct_reward was given nan: it should be a finite number"),
        (b"rewards: {correctness: {correct_reward: .nan}}", "finite correct_reward"),
        (b"rewards: {reasoning_length: {target: [1, .inf]}}", "finite target"),
        (b"reward_weights: [.nan, 1]", "should be a number"),
        (b'output_dir: "a\\0b"', "text without null characters"),
        (b"steps: 1\nsteps: 2", "the key 'steps' is there twice"),
    ],
)
def test_a_configuration_file_full_of_traps_is_refused(refused, content, said):
    Path("conf.yaml").write_bytes(content)
    message = refused("train", "conf.yaml")
    assert said in message
    assert len(message) < 1000


@pytest.mark.parametrize("value", [5, 5.5, True, [5], object()])
def test_report_to_in_python_is_refused(value):
    with pytest.raises(ConfigError, match="it should be wandb, tensorboard, all or none"):
        grpo.GRPOConfig(report_to=value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "rows.jsonl",
            '{"prompt": "a", "answer": "1", "answer": "2"}\n',
            "rows.jsonl:1: not usable JSON: the key 'answer'",
        ),
        ("rows.jsonl", '{"prompt": "a", "extra": {"b": 1, "b": 1}}\n', "the key 'b' is there twice"),
        ("rows.json", '[{"prompt": "a", "prompt": "b"}]', "the key 'prompt' is there twice"),
        ("rows.jsonl", '{"prompt": "a", "answer": ' + "7" * 4400 + "}\n", "Exceeds the limit (4300 digits)"),
        (
            "rows.jsonl",
            '{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}\n",
            "not usable JSON: maximum recursion depth",
        ),
        ("rows.tsv", "prompt\tprompt\na\tb\n", "column 'prompt' occurs twice"),
    ],
)
def test_a_file_of_rows_full_of_traps_is_refused(refused, name, content, said):
    Path(name).write_text(content)
    assert said in refused("train", *WORDS, f"train_file={name}")


def test_columns_that_occur_twice_are_refused_in_tables():
    pandas = pytest.importorskip("pandas")
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    frame = pandas.DataFrame([["a", "1", "2"]], columns=["prompt", "answer", "answer"])
    with pytest.raises(DataError, match="column 'answer' occurs twice"):
        list(read_records(frame))
    table = arrow.Table.from_arrays([arrow.array(["a"]), arrow.array(["1"])], names=["prompt", "prompt"])
    parquet.write_table(table, "rows.parquet")
    with pytest.raises(DataError, match="column 'prompt' occurs twice"):
        list(read_records("rows.parquet"))


def test_repeated_keys_are_refused_in_the_rows_of_a_scorer():
    Path("rows.jsonl").write_text('{"text": "a", "label": 0, "label": 1}\n')
    with pytest.raises(DataError, match="the key 'label' is there twice"):
        read_scorer_rows("ctr", "rows.jsonl")


@pytest.mark.parametrize("content", [b"\xff\x00", b"[" * 100_000, b'{"a": ' * 50_000, b"5", b"7" * 5000], ids=str)
def test_a_manifest_of_another_kind_is_damage(content):
    Path("manifest.json").write_bytes(content)
    with pytest.raises(DamagedError):
        read_manifest(Path())


def test_a_manifest_that_is_a_pipe_is_damage():
    os.mkfifo("manifest.json")
    with pytest.raises(DamagedError, match="may never end"):
        read_manifest(Path())


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"[" * 5000, b"steps: " + b"1" * 4400], ids=["binary", "deep", "digits"]
)
def test_a_run_whose_files_became_something_else_is_refused(train, refused, content):
    run = train()
    config, record, objects = (run / name for name in ("config.yaml", ".record.json", ".objects.json"))
    whole, recorded = config.read_bytes(), record.read_bytes()
    config.write_bytes(content)
    for words in (["train", "--resume", run], ["eval", run], ["generate", run, "hello"]):
        assert "config.yaml" in refused(*words)
    config.write_bytes(whole)
    record.write_bytes(content)
    assert ".record.json is damaged" in refused("train", "--resume", run)
    record.write_bytes(recorded)
    objects.write_bytes(content)
    assert ".objects.json" in refused("train", "--resume", run)


@pytest.mark.parametrize("line", ["[1]", "{", "[" * 100_000, '{"step": "x"}'])
def test_a_damaged_line_of_metrics_is_named(line):
    with RunDirectory.create("run") as run:
        run.append_metrics({"step": 1})
        with (run.path / "metrics.jsonl").open("a") as file:
            file.write(f"{line}\n")
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl:2 is damaged"):
            run.metrics()
        run.rewind(0)
        assert run.metrics() == []


def test_prompts_of_megabytes_are_dropped_and_counted(command, refused):
    long = {"prompt": "What is 7 + 5? " * 200_000, "answer": "12"}
    write_lines("rows.jsonl", [*sums(8), long])
    shown = command("train", *WORDS, "train_file=rows.jsonl", "output_dir=run")
    assert shown.code == 0
    assert "longer than 512 tokens" in shown.out
    write_lines("rows.jsonl", [{**long, "answer": str(n)} for n in range(3)])
    said = refused("train", *WORDS, "train_file=rows.jsonl", "eval_size=0")
    assert "no prompt left" in said
    assert "raise max_prompt_length" in said


def test_a_prompt_of_megabytes_takes_little_memory():
    Path("rows.jsonl").write_text('{"prompt": "' + "What is 7 + 5? " * 1_300_000 + '", "answer": "12"}\n' * 1)
    with Path("rows.jsonl").open("a") as file:
        file.writelines(f'{{"prompt": "What is {number} + 1?", "answer": "2"}}\n' for number in range(8))
    code = (
        "import resource, sys; from grpo.cli import main; code = main(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr); sys.exit(code)"
    )
    args = [sys.executable, "-c", code, "train", *WORDS, "train_file=rows.jsonl", "output_dir=run"]
    done = subprocess.run(args, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.splitlines()[-1]) < 1500
