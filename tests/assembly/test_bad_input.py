"""What cannot be: one clear line, the right exit code, and nothing on the disk that was not there before."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from short_runs import WORDS, lines_of, sums, tree, write_lines
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from grpo.policy.tiny import TINY_DIRECTORY
from grpo.tracking import RunDirectory


@pytest.fixture
def rows():
    return write_lines("rows.jsonl", sums(8))


def save_model(folder, change=lambda model, tokenizer: None):
    """Save the embedded model, changed, as a user's own."""
    model = AutoModelForCausalLM.from_pretrained(TINY_DIRECTORY)
    tokenizer = AutoTokenizer.from_pretrained(TINY_DIRECTORY)
    change(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lerning_rate=1"], "no option 'lerning_rate': did you mean learning_rate"),
        (["--group-sise", "4"], "no option 'group_sise': did you mean group_size"),
        (["steps=many"], "steps was given 'many': it should be a whole number"),
        (["learning_rate=-1"], "learning_rate was given -1"),
        (["group_size=1"], "group_size was given 1: it should be at least 2"),
        (["temperature=0"], "temperature is 0"),
        (["steps=3", "num_epochs=1"], "steps 3 and num_epochs 1 both say how long to train"),
        (["warmup_steps=2", "warmup_ratio=0.1"], "both say how long the warm-up is"),
        (["train_file=rows.jsonl", "dataset=x"], "both name training rows"),
        (["task=arithmetic", "train_file=rows.jsonl"], "task arithmetic makes its own rows"),
        (["task=rows"], "there are no rows for task rows"),
        (["method=gropo"], "did you mean 'grpo'?"),
        (["method=nowhere:mine"], "cannot load method 'nowhere:mine' (ModuleNotFoundError"),
        (["rewards=corectness"], "no reward named 'corectness' (did you mean 'correctness'?)"),
        (["rewards=nowhere.py:mine"], "no file 'nowhere.py' for a reward"),
        (["rewards=nowhere:mine"], "cannot import reward 'nowhere:mine'"),
        (["rewards=rows.jsonl:mine", "train_file=rows.jsonl"], "rows.jsonl"),
        (["device=cuda:7"], "PyTorch sees no GPU"),
        (["lora_rank=2", "lora_targets=nothing_such"], "no linear module named 'nothing_such'"),
        (["max_completion_length=4000"], "leaves no room for a prompt: the model has 2048 positions"),
        (["max_prompt_length=3"], "no prompt left"),
        (["eval_size=500"], "500"),
        (["model=nowhere/at/all"], "no directory nowhere/at/all"),
        (["gsm8k.yml"], "no recipe or file 'gsm8k.yml'"),
    ],
)
def test_an_option_that_cannot_be_is_refused(refused, rows, words, said):
    if said == "PyTorch sees no GPU" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    message = refused(
        "train",
        *[
            word
            for word in WORDS
            if word.split("=")[0] not in {w.split("=")[0] for w in words}
            and not (word.startswith("steps=") and "num_epochs" in " ".join(words))
        ],
        *words,
    )
    assert said in message


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.jsonl", '{"prompt": "a", "answer": "1"}\n{"prompt": "b", "answer"\n', "rows.jsonl:2: not valid JSON"),
        ("rows.jsonl", '{"prompt": "a"}\n[1]\n', "rows.jsonl:2: a list where an object"),
        ("rows.jsonl", '{"prompt": "a", "answer": "1"}\n\n{"prompt": "", "answer": "1"}\n', "rows.jsonl:3: the prompt"),
        ("rows.jsonl", '{"prompt": "a", "answer": "1"}\n{"prompt": "b"}\n', "rows.jsonl:2: no 'answer', which other"),
        ("rows.jsonl", '{"question": "a", "answer": "1"}\n', "rows.jsonl:1: no column 'prompt': there are ['answer', "),
        ("rows.jsonl", '{"prompt": "a"}\n', "no reward was named, and the rows have no column 'answer'"),
        ("rows.jsonl", "", "rows.jsonl is empty"),
        ("rows.jsonl", b"\xff\xfe\x00", "not UTF-8"),
        ("rows.csv", "prompt,answer\na,1\nb\n", "rows.csv:3: the row does not have the 2 fields"),
        ("rows.csv", "prompt,answer\n", "rows.csv is empty"),
        ("rows.parquet", "nonsense", "rows.parquet: not a Parquet file"),
        ("rows.txt", "a", "its name must end with one of"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_line(refused, name, content, said):
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert said in refused("train", *WORDS, f"train_file={name}", "output_dir=run")


def test_a_missing_file_is_refused_with_the_nearest(refused, rows):
    assert "no file row.jsonl: did you mean rows.jsonl?" in refused("train", *WORDS, "train_file=row.jsonl")
    assert "there is no folder data" in refused("train", *WORDS, "train_file=data/rows.jsonl")
    assert "no file evil.jsonl" in refused("train", *WORDS, "train_file=rows.jsonl", "eval_file=evil.jsonl")


def test_an_evaluation_of_no_rows_is_refused(refused, rows):
    assert "eval_size is 0" in refused("eval", "tiny", "eval_file=rows.jsonl", "eval_size=0")
    assert "eval_size is 0" in refused("eval", "tiny", "eval_size=0")


def test_a_missing_column_is_refused_before_anything_is_loaded(refused, rows):
    assert "no column 'question': there are ['answer', 'prompt']: set prompt_column to one of them" in refused(
        "train", *WORDS, "train_file=rows.jsonl", "prompt_column=question"
    )
    assert "no column 'solution'" in refused("train", *WORDS, "train_file=rows.jsonl", "answer_column=solution")
    Path("mine.py").write_text("def topical(completions, topic, **_):\n    return [1.0] * len(completions)\n")
    said = refused("train", *WORDS, "train_file=rows.jsonl", "rewards=mine.py:topical")
    assert "reward 'topical' needs the column 'topic', the data has ['answer']" in said


def test_a_configuration_file_that_cannot_be_is_refused(refused):
    Path("bad.yaml").write_text("steps: 3\nlearning_rte: 1\n")
    assert "bad.yaml: no option 'learning_rte': did you mean learning_rate" in refused("train", "bad.yaml")
    Path("bad.yaml").write_text("steps: [3\n")
    assert "bad.yaml, line 2: not valid YAML" in refused("train", "bad.yaml")
    assert "did you mean bad.yaml?" in refused("train", "bd.yaml")


def test_chat_prompts_need_a_chat_template(refused):
    def drop_template(model, tokenizer):
        tokenizer.chat_template = None

    save_model("plain", drop_template)
    (Path("plain") / "chat_template.jinja").unlink(missing_ok=True)
    write_lines("rows.jsonl", [{"prompt": [{"role": "user", "content": "What is 1 + 1?"}], "answer": "2"}])
    said = refused("train", *WORDS, "model=plain", "train_file=rows.jsonl", "output_dir=run")
    assert "has no chat template: set chat=false for plain text, or use an instruction-tuned model" in said


def test_texts_need_no_chat_template(train):
    def drop_template(model, tokenizer):
        tokenizer.chat_template = None

    save_model("plain", drop_template)
    (Path("plain") / "chat_template.jinja").unlink(missing_ok=True)
    write_lines("rows.jsonl", sums(4))
    train("model=plain", "train_file=rows.jsonl")


def test_a_model_that_would_never_end_is_refused(refused, rows):
    model = AutoModelForCausalLM.from_pretrained(TINY_DIRECTORY)
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    model.save_pretrained("endless")
    words = models.WordLevel({"<unk>": 0, "What": 1}, unk_token="<unk>")
    backend = Tokenizer(words)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>").save_pretrained("endless")
    said = refused("train", *WORDS, "model=endless", "train_file=rows.jsonl", "output_dir=run")
    assert "names an end token" in said


def test_a_damaged_model_is_refused(refused, rows):
    save_model("mine")
    Path("mine/model.safetensors").write_bytes(b"nonsense")
    assert "the model" in refused("train", *WORDS, "model=mine", "train_file=rows.jsonl")
    Path("mine/model.safetensors").unlink()
    assert "does not load" in refused("train", *WORDS, "model=mine", "train_file=rows.jsonl")
    assert "rows.jsonl is a file" in refused("train", *WORDS, "model=rows.jsonl", "train_file=rows.jsonl")


def test_a_directory_that_holds_something_is_left_alone(train, refused):
    run = train()
    said = refused("train", *WORDS, f"output_dir={run}")
    assert "holds another run: resume it by `grpo train --resume run`" in said
    write_lines("notes/mine.jsonl", [1])
    assert "notes is not empty (it has mine.jsonl)" in refused("train", *WORDS, "output_dir=notes")
    assert "is a file" in refused("train", *WORDS, "output_dir=notes/mine.jsonl")


def test_two_processes_cannot_write_one_run(train, refused):
    run = train()
    with RunDirectory.open(run):
        before = tree(run)
        said = refused("train", "--resume", run, "steps=2")
        assert f"run is in use by process {os.getpid()}" in said
        assert tree(run) == before


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: None, "no run at there"),
        (lambda: Path("there").mkdir(), "there is not a run: it has no config.yaml"),
        (lambda: write_lines("there", []), "there"),
    ],
)
def test_only_a_run_can_be_gone_on_with(refused, make, said):
    make()
    assert said in refused("train", "--resume", "there")


def test_what_cannot_change_in_the_middle_of_a_run_is_refused(train, refused):
    run = train()
    assert "seed is 0 in this run and cannot become 1" in refused("train", "--resume", run, "seed=1")
    assert "shuffle is True in this run and cannot become False" in refused("train", "--resume", run, "--no-shuffle")
    assert "max_prompt_length is 512 in this run" in refused("train", "--resume", run, "max_prompt_length=64")
    assert "model is 'tiny' in this run" in refused("train", "--resume", run, "model=other")
    train("steps=3", output_dir="long")
    assert "long has done 3 steps already: give more, as steps=N" in refused("train", "--resume", "long", "steps=2")


def damage(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_told(train, command):
    run = train("steps=3", "save_every=1")
    whole = tree(run / "final_model")
    shutil.rmtree(run / "final_model")
    damage(run / "checkpoint-3" / "model.safetensors")
    shown = command("train", "--resume", run)
    assert shown.code == 0, shown.err
    assert "checkpoint-3 is damaged: the checksum of model.safetensors is wrong; falling back to step 2" in shown.err
    assert shown.err.count("\n") == 1
    assert tree(run / "final_model") == whole
    assert [line["step"] for line in lines_of(run / "metrics.jsonl")] == [1, 2, 3]


def test_a_run_with_nothing_but_damaged_checkpoints_is_refused(train, refused):
    run = train("steps=2", "save_every=1")
    for folder in ("final_model", "checkpoint-1", "checkpoint-2"):
        damage(run / folder / "training_state.pt")
    said = refused("train", "--resume", run, "steps=4")
    assert "no usable checkpoint in run" in said
    assert "start a new run" in said


def test_the_model_of_a_run_with_nothing_but_damage_is_refused_and_the_damage_named(train, refused):
    run = train("save_every=1")
    for folder in ("final_model", "checkpoint-1"):
        damage(run / folder / "model.safetensors")
    for words in (["eval", run], ["generate", run, "What is 2 + 3?"]):
        said = refused(*words)
        for folder in ("final_model", "checkpoint-1"):
            assert f"{folder} is damaged: the checksum of model.safetensors is wrong" in said
        assert "holds no model" not in said
    shutil.rmtree(run / "checkpoint-1")
    assert "final_model is damaged" in refused("eval", run)


def test_a_model_whose_files_are_damaged_is_not_used(train, command):
    run = train("save_every=1")
    damage(run / "final_model" / "model.safetensors")
    shown = command("generate", "What is 2 + 3?", "--model", run)
    assert shown.code == 0
    assert "warning: " in shown.err
    assert "falling back to step 1" in shown.err


@pytest.fixture
def small_disk(workplace):
    """A file system that is soon full."""
    folder = workplace / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs to be root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_too_small_is_refused_before_the_run(small_disk, command):
    (small_disk / "ballast").write_bytes(b"x" * (20 << 20))
    shown = command("train", *WORDS, "output_dir=disk/run")
    assert (shown.code, shown.out) == (1, "")
    assert "not enough space for the run in disk/run" in shown.err
    assert not (small_disk / "run").exists()


def test_a_disk_that_fills_up_while_saving_loses_nothing(small_disk, command):
    shown = command("train", *WORDS, "steps=5", "save_every=1", "keep_checkpoints=9", "output_dir=disk/run")
    assert shown.code == 1
    assert shown.err.startswith("error: cannot save disk/run/checkpoint-3: No space left on device")
    ending = "saved after step 2; resume with: grpo train --resume disk/run\n"
    assert shown.err.endswith(f"checkpoint-2 is intact: free some space; {ending}")
    assert shown.err.count("\n") == 1
    run = small_disk / "run"
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == ["checkpoint-1", "checkpoint-2"]
    shutil.rmtree(run / "checkpoint-1")
    # As it says: with space again it goes on.
    shown = command("train", "--resume", "disk/run", "steps=3", "save_every=0")
    assert shown.code == 0, shown.err
    assert [line["step"] for line in lines_of(run / "metrics.jsonl")] == [1, 2, 3]


def test_a_place_that_may_not_be_written_is_refused(small_disk, command):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    shown = command("train", *WORDS, "output_dir=disk/run")
    assert (shown.code, shown.out) == (1, "")
    assert "disk/run" in shown.err
    assert shown.err.count("\n") == 1


@pytest.mark.timeout(60)
def test_without_a_network_a_name_of_the_hub_is_refused_soon(refused, rows, monkeypatch):
    # An address where nothing answers, whether or not this machine has a network.
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    said = refused("train", *WORDS, "model=Qwen/Qwen2.5-0.5B-Instruct-none", "train_file=rows.jsonl")
    assert "no model 'Qwen/Qwen2.5-0.5B-Instruct-none'" in said
    assert "the Hub cannot be reached" in said
    assert "no model 'tony'" in (said := refused("generate", "tony", "hello"))
    assert "(did you mean tiny?)" in said
    said = refused("train", *WORDS, "dataset=nobody/nothing-at-all")
    assert "data set 'nobody/nothing-at-all': the Hub cannot be reached" in said
    said = refused("train", "gsm8k", "model=tiny")
    assert "openai/gsm8k" in said
    assert "give a local .jsonl, .json, .csv or .parquet file" in said


def test_tracking_that_cannot_start_leaves_no_run_behind(refused, train, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "pip install wandb" in refused("train", *WORDS, "wandb=true")
    assert "pip install wandb" in refused("train", *WORDS, "wandb=true", "output_dir=some/where")
    train(output_dir="runs/before")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    assert "pip install tensorboard" in refused("train", *WORDS, "tensorboard=true")
    assert Path("runs/latest").resolve().name == "before"


def test_prompts_that_are_too_long_are_counted_in_the_singular_and_plural(refused):
    words, long = ("generate", "--model", "tiny", "max_prompt_length=19", "5"), "What is 2 + 3?"
    assert "1 of 2 prompts is longer than 19 tokens: shorten" in refused(*words, long)
    assert "2 of 3 prompts are longer than 19 tokens: shorten" in refused(*words, long, long)


def test_generate_and_eval_refuse_what_cannot_be(refused, rows, monkeypatch):
    assert "no file prompts.jsonl" in refused("generate", "--file", "prompts.jsonl")
    assert "no option 'temprature': did you mean temperature" in refused("generate", "tiny", "a", "temprature=1")
    assert "nothing_such" in refused("eval", "tiny", "nothing_such")
    assert "eval_file" in refused("eval", "tiny", "train_file=rows.jsonl")
    assert "the prompt is empty" in refused("generate", "tiny", " ")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert 'no prompt: write grpo generate runs/latest "Your question"' in refused("generate")
    assert "after -- if it begins like an option" in refused("generate", "x=3, what is x?")
    assert "after -- if it begins like an option" in refused("generate", "tiny", "x=3, what is x?")


@pytest.mark.parametrize("answer", [{"value": 5}, [[5]], 1e999])
def test_answers_that_no_text_can_equal_are_refused_with_row_and_column(command, answer):
    write_lines("rows.jsonl", [*sums(3), {"prompt": "2 + 3?", "answer": answer}])
    shown = command("train", *WORDS, "train_file=rows.jsonl", "rewards=last_integer", "output_dir=run")
    assert shown.code == 2
    assert "rows.jsonl:4, column 'answer': a" in shown.err
    assert "use a text, a number, or a list of these (reward 'last_integer' compares with it)" in shown.err
    assert shown.err.count("\n") == 1
    assert not Path("run").exists()


def test_objects_as_answers_are_for_own_rewards(command):
    write_lines("rows.jsonl", [{**row, "answer": {"value": row["answer"]}} for row in sums(4)])
    Path("mine.py").write_text(
        "def value(completions, answer):\n"
        "    return [float(entry['value'] in text) for text, entry in zip(completions, answer)]\n"
    )
    shown = command("train", *WORDS, "train_file=rows.jsonl", "rewards=mine.py:value", "output_dir=run")
    assert (shown.code, shown.err) == (0, "")
