"""The command `grpo`: arguments in, exit code and one clear line out."""

import inspect
import io
import json
import os
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest
from typer.main import get_command

import grpo
from grpo import recipes
from grpo.cli import main, script
from grpo.cli.commands import app
from grpo.config import GRPOConfig, load_config
from grpo.config.sections import SECTIONS
from grpo.errors import DataError, RewardError

COMMANDS = get_command(app).commands


class Recorder(types.ModuleType):
    """A replacement for `grpo.assembly` that records its calls, so that arguments are tested without a run."""

    def __init__(self):
        super().__init__("grpo.assembly")
        self.calls = []
        self.signal_number = None
        self.error = None

    def train(self, config):
        self.calls.append(("train", config))
        if self.error is not None:
            raise self.error
        return types.SimpleNamespace(signal_number=self.signal_number)

    def resume(self, run_directory, overrides):
        self.calls.append(("resume", run_directory, overrides))
        return types.SimpleNamespace(signal_number=self.signal_number)

    def find_weights(self, config):
        return config, None

    def evaluate(self, config):
        self.calls.append(("evaluate", config))
        return {
            "prompts": 64,
            "samples_per_prompt": 4,
            "accuracy": 0.5,
            "accuracy_ci95": [0.4, 0.6],
            "accuracy_lenient": 0.75,
            "pass_at_k": {"1": 0.5, "2": 0.7},
            "reward": None,
        }

    def generate(self, config, prompts, *, prompts_file, num_completions):
        self.calls.append(("generate", config, prompts, prompts_file, num_completions))
        for prompt in prompts:
            yield {"prompt": prompt, "completions": [f"{prompt}!{number}" for number in range(num_completions)]}


@pytest.fixture
def assembly(monkeypatch, tmp_path):
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "grpo.assembly", recorder)
    monkeypatch.setattr(grpo, "assembly", recorder, raising=False)
    monkeypatch.chdir(tmp_path)
    return recorder


def write_run(path, **options):
    Path(path).mkdir(parents=True)
    (Path(path) / "config.yaml").write_text(GRPOConfig(**options).to_yaml(), encoding="utf-8")


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_the_command_line_imports_nothing_heavy():
    code = (
        "import sys, grpo, grpo.cli\n"
        "grpo.cli.main(['--help']); grpo.cli.main(['--version'])\n"
        "names = ('torch', 'transformers', 'pydantic', 'datasets', 'peft', 'numpy', 'rich', 'yaml')\n"
        "print('heavy:', [name for name in names if name in sys.modules])\n"
        "grpo.cli.main(['generate', '--help'])\n"
        "print('heavy:', [name for name in names if name in sys.modules])\n"
    )
    shown = run_python(code)
    assert "heavy: []" in shown
    # Typer reads options by pydantic.
    assert "heavy: ['pydantic']" in shown


def test_the_options_are_listed_without_importing_torch():
    code = "import sys, grpo.cli; grpo.cli.main(['train', '--help']); print('torch:', 'torch' in sys.modules)"
    assert "torch: False" in run_python(code)


def test_the_public_face_is_complete_and_lazy():
    assert grpo.GRPOConfig is GRPOConfig
    assert grpo.load_config is load_config
    assert grpo.__version__
    assert dir(grpo) == sorted(grpo.__all__)
    with pytest.raises(AttributeError, match="GRPOTrainr"):
        _ = grpo.GRPOTrainr
    for name in set(grpo.__all__) - {"GRPOTrainer"}:
        assert getattr(grpo, name) is not None


def test_the_trainer_is_part_of_the_public_face():
    assert inspect.isclass(grpo.GRPOTrainer)


def test_build_takes_what_the_command_line_gives():
    from grpo import assembly

    config = GRPOConfig()
    inspect.signature(assembly.train).bind(config)
    inspect.signature(assembly.resume).bind("runs/latest", ["steps=3"])
    inspect.signature(assembly.evaluate).bind(config)
    inspect.signature(assembly.generate).bind(config, ["prompt"], prompts_file=None, num_completions=1)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_the_commands(words, capsys):
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize("group", [[], ["reward"]], ids=["grpo", "reward"])
def test_summaries_of_commands_fit_80_columns(group, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*group, "--help"]) == 0
    commands = capsys.readouterr().out.partition("\nCommands:\n")[2]
    assert commands
    assert "..." not in commands


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    assert main([name, "--help"]) == 0
    first = capsys.readouterr().out
    assert first.startswith(f"Usage: grpo {name} ")
    assert main(["help", name]) == 0
    assert capsys.readouterr().out == first


def test_train_help_lists_every_option_with_default_and_synonyms(capsys):
    main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name, section in SECTIONS.items():
        assert f"{name}: " in shown
        for leaf, field in section.model_fields.items():
            assert f"--{(field.alias or leaf).replace('_', '-')} " in shown
    assert "[1e-06]" in shown
    assert "a task that sets another value. --dry-run prints the values" in shown
    assert "num_generations_per_prompt" in shown


def test_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"grpo {grpo.__version__}\n"


def test_train_without_words_is_the_default_recipe(assembly):
    assert main(["train"]) == 0
    assert assembly.calls == [("train", load_config("arithmetic"))]


def test_train_takes_a_recipe_a_file_and_overrides_in_any_order(assembly):
    Path("my.yaml").write_text("seed: 3\n")
    assert main(["train", "my.yaml", "steps=5", "--learning-rate", "1e-4", "--no-shuffle"]) == 0
    assert main(["train", "--learning-rate=1e-4", "--no-shuffle", "steps=5", "my.yaml"]) == 0
    expected = GRPOConfig(seed=3, steps=5, learning_rate=1e-4, shuffle=False)
    assert assembly.calls == [("train", expected), ("train", expected)]


@pytest.mark.parametrize("words", [["--resume", "runs/a"], ["--resume=runs/a"], ["resume=runs/a"]])
def test_resume_hands_over_the_run_and_the_overrides(assembly, words):
    write_run("runs/a")
    assert main(["train", *words, "steps=200", "--save-steps", "5"]) == 0
    assert assembly.calls == [("resume", "runs/a", ["steps=200", "save_steps=5"])]


def test_resume_remarks_on_options_without_effect(assembly, capsys):
    write_run("runs/a", wandb_project="mine")
    assert main(["train", "--resume", "runs/a", "min_learning_rate_ratio=0.5", "schedule=constant"]) == 0
    remarks = capsys.readouterr().err.splitlines()
    assert "note: min_learning_rate_ratio has no effect: schedule is constant" in remarks
    assert len(assembly.calls) == 1


def test_dry_run_prints_the_configuration_and_trains_nothing(assembly, capsys):
    assert main(["train", "gsm8k", "--dry-run", "lora_rank=0"]) == 0
    shown = capsys.readouterr()
    assert GRPOConfig.from_yaml(shown.out) == load_config("gsm8k", ["lora_rank=0"])
    assert shown.err == "note: lora_alpha has no effect: lora_rank is 0\n"
    assert assembly.calls == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'?"),
        (["zzz"], "No such command 'zzz': use one of train, eval"),
        (["train", "lerning_rate=1"], "no option 'lerning_rate': did you mean learning_rate"),
        (["train", "arithmetc"], "did you mean arithmetic?"),
        (["train", "arithmetic", "gsm8k"], "one recipe or file is allowed, not"),
        (["train", "group_size=1"], "group_size was given 1: it should be at least 2"),
        (["train", "--steps"], "--steps needs a value"),
        (["train", "--resum", "runs/a"], "no option 'resum': did you mean --resume?"),
        (["train", "--resum=runs/a"], "no option 'resum': did you mean --resume?"),
        (["train", "--dryrun"], "did you mean --dry-run?"),
        (["train", "--dbug"], "did you mean --debug?"),
        (["train", "--hlep"], "did you mean --help?"),
        (["--verison"], "No such option: --verison (Possible options: --version)"),
        (["eval", "--modle", "tiny"], "did you mean --model"),
        (["eval", "--jsn"], "did you mean --json?"),
        (["generate", "x", "--modl", "tiny"], "did you mean --model"),
        (["generate", "--fil", "x.jsonl"], "did you mean --file"),
        (["generate", "x", "--nums", "2"], "did you mean --num"),
        (["generate", "x", "--outptu", "x.jsonl"], "did you mean --output"),
        (["train", "--resume"], "--resume needs a value"),
        (["train", "--resume", "runs/a", "gsm8k"], "leave out 'gsm8k'"),
        (["train", "--resume", "runs/a", "--dry-run"], "leave it out with --resume"),
        (["generate", "x", "--num", "0"], "Invalid value for '--num'"),
        (["eval", "tiny", "arithmetic", "gsm8k"], "one recipe or file is allowed, not"),
        (["recipes", "zzz"], "no recipe 'zzz'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(assembly, capsys, words, said):
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert said in shown.err
    assert assembly.calls == []


def commands_with_options():
    """Return each command that takes options of the configuration, with its own options as its help lists them."""
    reward = [("reward", name) for name in COMMANDS["reward"].commands]
    for words in [("train",), ("eval",), ("generate",), *reward]:
        command = COMMANDS[words[0]] if len(words) == 1 else COMMANDS["reward"].commands[words[1]]
        for param in command.params:
            yield from ((words, option) for option in param.opts if option.startswith("--"))


@pytest.mark.parametrize(("words", "option"), commands_with_options())
def test_each_own_option_is_in_the_help_and_suggested_when_mistyped(words, option, assembly, capsys):
    assert main([*words, "--help"]) == 0
    assert re.search(rf"^  {option} ", capsys.readouterr().out, re.MULTILINE)
    assert main([*words, f"{option}x", "y"]) == 2
    assert f"did you mean {option}" in capsys.readouterr().err


def test_a_switch_of_another_command_is_not_suggested(assembly, capsys):
    assert main(["eval", "--resum", "runs/a"]) == 2
    assert "--resume" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("rows.jsonl:3: no\ncolumn"), 2, "error: rows.jsonl:3: no column\n"),
        (RewardError("all failed"), 1, "error: all failed\n"),
        (ZeroDivisionError("by zero"), 1, "error: ZeroDivisionError: by zero (grpo --debug … shows where)\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_exit_codes_say_what_happened(assembly, capfd, error, code, said):
    assembly.error = error
    assert main(["train"]) == code
    assert capfd.readouterr().err == said
    assert main(["--debug", "train"]) == code
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize(("signal_number", "code"), [(None, 0), (2, 130), (15, 143)])
def test_a_run_that_saved_after_a_signal_ends_as_one_that_was_stopped(assembly, signal_number, code):
    assembly.signal_number = signal_number
    assert main(["train"]) == code
    assert main(["train", "--resume", "runs/a"]) == code


def test_a_reader_that_leaves_is_no_error():
    # Python's standard output is a pipe whose reading end is closed before anything is written to it.
    code = (
        "import os, sys; reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 1)\n"
        "from grpo.cli import main; sys.exit(main(['recipes', 'gsm8k']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_module_is_the_command_and_its_exit_code_is_the_process():
    done = subprocess.run([sys.executable, "-m", "grpo", "trian"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: No such command 'trian'. Did you mean 'train'?\n"


def test_eval_prints_a_table_or_json(assembly, capsys):
    assert main(["eval", "tiny", "eval_samples=2"]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[0] == "tiny: 64 prompts × 4 completions"
    assert "accuracy  0.50 [0.40, 0.60]  right\n" in shown
    assert "pass@2    0.70 " in shown
    assert "reward" not in shown
    assert main(["eval", "--model", "tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == 0.5
    assert assembly.calls[0][1].output.eval_samples == 2


def test_eval_takes_a_model_and_then_a_recipe(assembly):
    assert main(["eval", "tiny", "gsm8k", "train_file=x.jsonl"]) == 0
    config = assembly.calls[0][1]
    assert (config.policy.model, config.data.task, config.policy.lora_rank) == ("tiny", "gsm8k", 0)


def test_generate_prints_one_answer_alone_and_several_under_their_prompts(assembly, capsys):
    assert main(["generate", "tiny", "What is 2+3=5?", "--max-new-tokens", "9", "temperature=0.5"]) == 0
    assert capsys.readouterr().out == "What is 2+3=5?!0\n"
    _, config, prompts, file, number = assembly.calls[0]
    assert (config.policy.model, config.rollout.max_completion_length, config.rollout.temperature) == ("tiny", 9, 0.5)
    assert (prompts, file, number) == (["What is 2+3=5?"], None, 1)
    assert main(["generate", "tiny", "--num", "2", "a", "b"]) == 0
    assert capsys.readouterr().out == "> a\na!0\na!1\n\n> b\nb!0\nb!1\n\n"


def test_generate_writes_json_lines(assembly, capsys):
    assert main(["generate", "tiny", "a", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"prompt": "a", "completions": ["a!0"]}
    assert main(["generate", "tiny", "é", "--output", "out.jsonl"]) == 0
    assert Path("out.jsonl").read_text(encoding="utf-8") == '{"prompt": "é", "completions": ["é!0"]}\n'
    assert main(["generate", "tiny", "a", "--output", "nowhere/out.jsonl"]) == 1
    assert "cannot write nowhere/out.jsonl: No such file" in capsys.readouterr().err


def test_generate_reads_prompts_from_a_file_or_standard_input(assembly, capsys, monkeypatch):
    assert main(["generate", "--file", "prompts.jsonl", "--model", "tiny"]) == 0
    assert assembly.calls[0][2:] == ([], "prompts.jsonl", 1)
    monkeypatch.setattr(sys, "stdin", io.StringIO("from a\npipe\n"))
    assert main(["generate"]) == 0
    assert assembly.calls[1][2] == ["from a\npipe"]


def test_words_after_two_dashes_are_prompts(assembly):
    assert main(["generate", "--", "seed=1", "--help"]) == 0
    assert assembly.calls[0][2] == ["seed=1", "--help"]


def test_words_before_two_dashes_may_still_name_the_model(assembly):
    assert main(["generate", "tiny", "a", "--", "seed=1", "--"]) == 0
    assert assembly.calls[0][1].policy.model == "tiny"
    assert assembly.calls[0][2] == ["a", "seed=1", "--"]


@pytest.mark.parametrize("named", [["--model", "tiny"], ["--model=tiny"], ["model=tiny"], ["model_name=tiny"]])
def test_with_a_named_model_all_positionals_are_prompts(assembly, named):
    assert main(["generate", "What is 7 + 5?", *named, "runs/latest"]) == 0
    _, config, prompts, _, _ = assembly.calls[0]
    assert (config.policy.model, prompts) == ("tiny", ["What is 7 + 5?", "runs/latest"])


@pytest.mark.parametrize("prompt", ["What is 7 + 5?", "7+5", "why?", "-what is this", "long " * 100])
def test_a_prompt_in_the_place_of_the_model_is_refused_with_the_way_to_write_it(assembly, capsys, prompt):
    assert main(["generate", prompt]) == 2
    error = capsys.readouterr().err
    assert f"{prompt!r} is not a model" in error
    assert f"grpo generate runs/latest {shlex.quote(prompt)}" in error
    assert assembly.calls == []


def test_the_help_shows_how_a_prompt_is_put_to_the_default_model(assembly, capsys):
    assert main(["generate", "--help"]) == 0
    assert 'If no model is named, as in grpo generate -- "What is 7 + 5?", it is' in " ".join(
        capsys.readouterr().out.split()
    )
    assert main(["generate", "--", "What is 7 + 5?"]) == 0
    _, config, prompts, _, _ = assembly.calls[0]
    assert (config.policy.model, prompts) == ("tiny", ["What is 7 + 5?"])


def test_a_single_word_is_read_as_the_model_and_the_message_says_so(assembly, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["generate", "hello"]) == 2
    assert "no prompt" in (error := capsys.readouterr().err)
    assert "'hello' was read as the model" in error
    assert assembly.calls == []


def test_a_directory_with_blanks_in_its_name_is_a_model(assembly):
    write_run("my run")
    assert main(["generate", "my run", "a"]) == 0
    assert assembly.calls[0][1].policy.model == "my run"


def test_eval_of_a_recipe_asks_for_the_model_first(assembly, capsys):
    assert main(["eval", "gsm8k"]) == 2
    assert "'gsm8k' is a recipe: name the model first, as in grpo eval runs/latest gsm8k" in capsys.readouterr().err
    assert main(["eval", "--model", "tiny", "arithmetic"]) == 0
    assert main(["eval", "arithmetic", "model_name=tiny"]) == 0
    assert [(config.policy.model, config.data.task) for _, config in assembly.calls] == [("tiny", "arithmetic")] * 2


def test_a_shell_completes_commands_options_recipes_and_options_of_the_configuration(tmp_path):
    def complete(line):
        words = line.split(" ")
        shell = {"_GRPO_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        command = [sys.executable, "-m", "grpo"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **shell})
        return done.stdout.split()

    assert complete("grpo tr") == ["train"]
    assert complete("grpo reward ch") == ["check"]
    assert complete("grpo train --res") == ["--resume"]
    assert complete("grpo train gsm") == ["gsm8k"]
    assert complete("grpo train gsm8k learning_r") == ["learning_rate="]


def test_generate_without_a_task_asks_the_question_as_it_is(assembly):
    assert main(["generate", "Qwen/Qwen3-0.6B", "a"]) == 0
    data = assembly.calls[0][1].data
    assert (data.task, data.answer_format, data.system_prompt) == ("rows", "plain", None)


def test_recipes_are_listed_and_printed(capsys):
    assert main(["recipes"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == recipes.names()
    assert main(["recipes", "gsm8k"]) == 0
    assert capsys.readouterr().out == recipes.text("gsm8k")


def test_an_interrupt_while_the_command_is_imported_is_one_line(monkeypatch, capsys):
    class Interrupts:
        def find_spec(self, name, path=None, target=None):
            if name == "grpo.cli.entry":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "grpo.cli.entry", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupts(), *sys.meta_path])
    with pytest.raises(SystemExit) as caught:
        script()
    assert caught.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
