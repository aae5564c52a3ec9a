"""Standard streams that are closed, full or poor in characters; names of any length; machines without memory."""

from __future__ import annotations

import errno
import json
import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from grpo.cli import main
from grpo.cli.entry import _verdict
from grpo.config import GRPOConfig
from grpo.machine import is_out_of_memory

GRPO = shlex.join([sys.executable, "-m", "grpo"])


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shell(command: str, **environment: str):
    """Run a line of bash in which `grpo` is the command."""
    line = f'grpo() {{ {GRPO} "$@"; }}; {command}'
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, check=False, timeout=100, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("command", ["grpo --help", "grpo recipes", "grpo train --dry-run"])
def test_a_full_standard_output_is_one_line(command):
    done = shell(f"{command} > /dev/full")
    assert done.returncode == 1
    assert done.stderr.decode() == "error: cannot write to standard output: No space left on device\n"


@pytest.mark.parametrize("command", ["grpo --help", "grpo recipes", "grpo train --dry-run", "grpo --version"])
def test_a_closed_standard_output_is_no_error(command):
    done = shell(f"{command} >&-")
    assert (done.returncode, done.stderr) == (0, b"")


def test_with_standard_error_closed_or_full_an_error_is_an_exit_code_and_output_stays_clean():
    for place in ("2>&-", "2>/dev/full", "2>&- >&- <&-"):
        done = shell(f"grpo train stepps=3 {place}")
        assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")
    # A note is lost, and the command goes on.
    done = shell("grpo train --dry-run lora_alpha=3 2>/dev/full")
    assert done.returncode == 0
    assert b"lora_alpha: 3" in done.stdout


def test_a_reader_that_leaves_is_no_error():
    done = shell("set -o pipefail; grpo train --help | head -1")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
@pytest.mark.parametrize("command", ["grpo --help", "grpo train --help", "grpo recipes finance-preferences"])
def test_help_can_be_printed_in_poor_encodings(encoding, command):
    done = shell(command, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    done.stdout.decode(encoding)


def test_json_stays_json_in_a_poor_encoding():
    from grpo.cli.printing import json_line

    with Path("out").open("w", encoding="latin-1") as stream:
        assert json.loads(json_line({"text": "½ → 日"}, stream)) == {"text": "½ → 日"}
        print(json_line({"text": "½ → 日"}, stream), file=stream)
    with Path("utf").open("w", encoding="utf-8") as stream:
        assert json_line({"text": "½ → 日"}, stream) == '{"text": "½ → 日"}'


@pytest.mark.parametrize("command", ["grpo generate tiny", "grpo reward score runs/none"])
def test_a_standard_input_that_never_ends_is_refused(command):
    done = shell(f"yes | {command}")
    assert done.returncode == 2
    assert done.stderr.decode().startswith("error: standard input has more than")
    done = shell(f"printf '\\xff\\xfe' | {command}")
    assert done.returncode == 2
    assert done.stderr.decode() == "error: standard input is not UTF-8 text: name a --file\n"


LONG = "x" * 300


@pytest.mark.parametrize(
    "args",
    [
        ["train", f"output_dir={LONG}"],
        ["train", f"run_name={LONG}"],
        ["train", f"output_dir=runs/{LONG}/a"],
        ["train", f"model={LONG}"],
        ["train", f"model=./{LONG}"],
        ["train", f"tokenizer={LONG}"],
        ["train", f"train_file={LONG}.jsonl"],
        ["train", f"eval_file={LONG}.jsonl", "train_file=rows.jsonl"],
        ["train", f"rewards={LONG}.py:f"],
        ["train", f"environment={LONG}.py:f"],
        ["train", f"{LONG}.yaml"],
        ["train", "--resume", LONG],
        ["eval", LONG],
        ["eval", "tiny", LONG],
        ["generate", "--model", LONG, "hello"],
        ["generate", "tiny", "--file", f"{LONG}.jsonl"],
        ["reward", "train", "scorer_kind=ctr", f"scorer_dir={LONG}"],
        ["reward", "train", "scorer_kind=ctr", f"scorer_train_file={LONG}.jsonl"],
        ["reward", "score", "--model", LONG, "hello"],
        ["reward", "score", "--model", "tiny", "--file", LONG],
    ],
    ids=lambda args: " ".join(args).replace(LONG, "LONG"),
)
def test_a_name_longer_than_names_may_be_is_bad_input(args, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("rows.jsonl").write_text("".join(f'{{"prompt": "{n}", "answer": "{n}"}}\n' for n in range(9)))
    before = sorted(Path().rglob("*"))
    code = main([*args, *(["steps=1"] if args[0] == "train" and args[1] != "--resume" else [])])
    shown = capsys.readouterr()
    assert (code, shown.err.count("\n")) == (2, 1), shown
    assert "Traceback" not in shown.err
    assert sorted(Path().rglob("*")) == before


def test_a_tilde_is_the_home_directory_and_of_nobody_a_name(monkeypatch, workplace):
    from grpo.assembly.runs import output_directory
    from grpo.tracking import RunDirectory, find_run

    monkeypatch.setenv("HOME", str(workplace / "home"))
    assert output_directory(GRPOConfig(output_dir="~/runs/a")) == workplace / "home/runs/a"
    with RunDirectory.create("~/runs/a") as run:
        run.write_config("{}")
    assert find_run("~/runs/a") == workplace / "home/runs/a"
    assert not (workplace / "~").exists()
    for args in (
        ["eval", "~no-such-user/x"],
        ["train", "~no-such-user/x.yaml"],
        ["train", "train_file=~x-y/a.csv"],
    ):
        assert main(args) == 2


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("could not create a primitive"),
        RuntimeError("could not create a primitive descriptor for the matmul primitive"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("unable to mmap 2884 bytes from file <model.safetensors>: Cannot allocate memory (12)"),
        RuntimeError("std::bad_alloc"),
        torch.OutOfMemoryError("CUDA out of memory."),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        MemoryError(),
    ],
    ids=str,
)
def test_every_way_to_lack_memory_is_recognised_and_one_line(error):
    assert is_out_of_memory(error)
    code, message = _verdict(error, debug=False)
    assert code == 1
    assert message is not None
    assert message.startswith("error: out of memory: take a smaller model")


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    for error in (
        RuntimeError("shapes differ"),
        OSError(errno.ENOENT, "no"),
        ValueError("out of memory"),
    ):
        assert not is_out_of_memory(error)


def test_a_model_that_finds_no_memory_is_one_line():
    # The import of torch fits, little more does.
    def limit():
        resource.setrlimit(resource.RLIMIT_DATA, (600 << 20, 600 << 20))

    args = [sys.executable, "-m", "grpo", "train", "steps=1", "threads=1", "output_dir=run"]
    big = {
        "hidden_size": 4096,
        "intermediate_size": 16384,
        "num_hidden_layers": 8,
        "layer_types": ["full_attention"] * 8,
    }
    from transformers import AutoConfig, AutoTokenizer

    from grpo.policy.tiny import TINY_DIRECTORY

    config = AutoConfig.from_pretrained(TINY_DIRECTORY)
    config.update(big)
    config.save_pretrained("big")
    AutoTokenizer.from_pretrained(TINY_DIRECTORY).save_pretrained("big")
    _write_hollow_weights(config)
    done = subprocess.run(
        [*args, "model=big"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode in (1, 2), done
    assert done.stderr.count("\n") == 1, done.stderr
    assert "memory" in done.stderr


def _write_hollow_weights(config) -> None:
    """Write weights of 3 GB that take no place on the disk."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    entries, place = {}, 0
    for name, value in model.state_dict().items():
        size = 4 * value.numel()
        entries[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [place, place + size]}
        place += size
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    with Path("big/model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + place)
