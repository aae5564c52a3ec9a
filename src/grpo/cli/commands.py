"""What each command does with the words after it. Heavy modules are imported once a command runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from grpo.cli import doctor, reward
from grpo.cli.printing import evaluation_table, show_remarks, write_answers
from grpo.cli.words import at_most_one, split, take_switch, take_value, whole_number
from grpo.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from grpo.assembly.answers import Weights
    from grpo.config import GRPOConfig

__all__ = ["COMMANDS", "Command"]

COMMON_SWITCHES = ("--help", "--debug")

CONFIG_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Command:
    """What one word after `grpo` does.

    Attributes:
        summary: one line for `grpo --help`.
        usage: what `grpo COMMAND --help` prints first.
        switches: what it takes besides options, to suggest when one of them is mistyped.
        run: called with the words after the command; prints its results and returns the exit code.
        lists_options: True when the help goes on with every option of a configuration.
    """

    summary: str
    usage: str
    switches: tuple[str, ...]
    run: Callable[[list[str]], int]
    lists_options: bool = False


def _train(words: list[str]) -> int:
    run = take_value(words, "--resume")
    dry_run = take_switch(words, "--dry-run")
    ablated = take_value(words, "--ablate")
    if ablated not in (None, "rewards"):
        raise ConfigError(f"--ablate {ablated}: only rewards can be left out in turn, write --ablate rewards")
    plain, overrides = split(words, COMMANDS["train"].switches)
    if run is not None:
        if plain:
            raise ConfigError(f"--resume {run} takes its recipe from the run: leave out {plain[0]!r}")
        if dry_run:
            raise ConfigError("--dry-run shows what a new run would do: leave it out with --resume")
        if ablated is not None:
            raise ConfigError("--ablate begins runs of its own: leave it out with --resume")
        if overrides:
            from grpo.config import load_run_config

            show_remarks(load_run_config(run, overrides))
        from grpo import assembly

        return _exit_code(assembly.resume(run, overrides).signal_number)

    from grpo.config import load_config

    config = load_config(at_most_one(plain, "recipe or file"), overrides)
    show_remarks(config)
    if dry_run:
        print(config.to_yaml(), end="")
        return 0
    if ablated is not None:
        return _ablate(config)
    from grpo import assembly

    return _exit_code(assembly.train(config).signal_number)


def _ablate(config: GRPOConfig) -> int:
    from grpo.assembly.ablation import ablate_rewards
    from grpo.cli.ablation_text import ablation_table

    ablation = ablate_rewards(
        config, on_run=lambda left_out, path: print(f"\n=== {_ablated(left_out)}: {path}", flush=True)
    )
    print("\n" + ablation_table(ablation))
    return _exit_code(ablation.signal_number)


def _ablated(left_out: str | None) -> str:
    return "all rewards" if left_out is None else f"without {left_out}"


def _exit_code(signal_number: int | None) -> int:
    """Return what a shell expects of a process that a signal ended, though ours saved its work first."""
    return 0 if signal_number is None else 128 + signal_number


def _eval(words: list[str]) -> int:
    as_json = take_switch(words, "--json")
    named = take_value(words, "--model")
    plain, overrides = split(words, COMMANDS["eval"].switches)
    names_model = plain and not plain[0].endswith(CONFIG_ENDINGS)
    model = named if named is not None else plain.pop(0) if names_model else None

    from grpo.config import load_model_config

    config = load_model_config(model, at_most_one(plain, "recipe or file"), overrides)
    from grpo import assembly

    found, weights = assembly.find_weights(config)
    _remark_on_weights(config, weights)
    metrics = assembly.evaluate(found)
    if as_json:
        print(json.dumps(dict(metrics), ensure_ascii=False))
    else:
        at = "" if weights is None else f" (step {weights.step})"
        print(evaluation_table(f"{config.policy.model}{at}", metrics))
    return 0


def _remark_on_weights(config: GRPOConfig, weights: Weights | None) -> None:
    """Say which weights a run's are, unless they are those of its end or were asked for."""
    if weights is not None and not weights.is_final and not weights.was_chosen:
        print(
            f"note: {config.policy.model} is not finished: these are its weights after step {weights.step}",
            file=sys.stderr,
        )


_NO_PROMPT = (
    'no prompt: write grpo generate "Your question" (after -- if it begins like an option, as x=3 does), '
    "or name a --file of prompts"
)


def _generate(words: list[str]) -> int:
    model = take_value(words, "--model")
    file = take_value(words, "--file")
    output = take_value(words, "--output")
    number = whole_number("--num", take_value(words, "--num") or "1")
    as_json = take_switch(words, "--json")
    prompts, overrides = split(words, COMMANDS["generate"].switches)
    if not prompts and file is None:
        if sys.stdin.isatty():
            raise ConfigError(_NO_PROMPT)
        prompts = [sys.stdin.read().strip()]
        if not prompts[0]:
            raise ConfigError(_NO_PROMPT)

    from grpo.config import load_model_config

    named = load_model_config(model, None, overrides, needs_task=False)
    from grpo import assembly

    config, weights = assembly.find_weights(named)
    _remark_on_weights(named, weights)
    answers = assembly.generate(config, prompts, prompts_file=file, num_completions=number)
    if output is None:
        write_answers(answers, sys.stdout, as_json=as_json, alone=number == 1 and len(prompts) == 1 and file is None)
        return 0
    try:
        with Path(output).open("w", encoding="utf-8") as stream:
            write_answers(answers, stream, as_json=True)
    except OSError as error:
        raise StorageError(f"cannot write {output}: {error.strerror}") from error
    return 0


def _recipes(words: list[str]) -> int:
    from grpo import recipes

    name = at_most_one(words, "recipe")
    if name is None:
        width = max(map(len, recipes.names()))
        print("\n".join(f"{name:<{width}}  {recipes.summary(name)}" for name in recipes.names()))
    elif name in recipes.names():
        print(recipes.text(name), end="")
    else:
        raise ConfigError(f"no recipe {name!r}: use one of {', '.join(recipes.names())}")
    return 0


COMMANDS: Mapping[str, Command] = {
    "train": Command(
        "train a model with GRPO",
        "grpo train [RECIPE|FILE] [key=value …|--key value …]\n"
        "grpo train --resume RUN [key=value …|--key value …]\n\n"
        "Trains by a recipe (`grpo recipes` lists them) or a YAML file; without either, by the recipe `arithmetic`,\n"
        "or from the defaults when a model or data of your own are given.\n\n"
        "  --resume RUN   go on with a run where it stopped, e.g. grpo train --resume runs/latest steps=200\n"
        "  --ablate rewards  run with all rewards, then without each in turn, and compare\n"
        "  --dry-run      print the configuration and stop\n"
        "  --debug        show the traceback of an error\n\n"
        "Every option is written key=value, --key value or, in a file, key: value. In [brackets]: the default.",
        ("--resume", "--dry-run", "--ablate", *COMMON_SWITCHES),
        _train,
        lists_options=True,
    ),
    "eval": Command(
        "measure a model's accuracy on held-out rows",
        "grpo eval [RUN|MODEL] [RECIPE|FILE] [key=value …|--key value …]\n\n"
        "Evaluates a run's model, or any other, on rows that are not trained on: those of the recipe or file,\n"
        "else those of the run. Without a model: runs/latest; what ends in .yaml is a FILE.\n\n"
        "  --json   print one JSON object\n"
        "  --debug  show the traceback of an error\n\n"
        "Options are those of `grpo train --help`, e.g. eval_samples=16 temperature=0.7.",
        ("--model", "--json", *COMMON_SWITCHES),
        _eval,
    ),
    "generate": Command(
        "answer prompts with a trained model",
        "grpo generate [PROMPT …] [--model RUN|DIR|ID] [key=value …|--key value …]\n\n"
        "Answers each prompt; without any, the text on standard input. Words after -- are prompts in any case.\n\n"
        "  --model RUN|DIR|ID  default: runs/latest if there is one, else tiny\n"
        "  --file FILE         prompts from a file (JSONL, CSV or Parquet with a column `prompt`)\n"
        "  --num N             completions for each prompt (default 1)\n"
        "  --output FILE       write JSON lines there\n"
        "  --json              print JSON lines\n"
        "  --debug             show the traceback of an error\n\n"
        "Options are those of `grpo train --help`, e.g. temperature=0.7 top_p=0.9 max_new_tokens=64 seed=1.",
        ("--model", "--file", "--num", "--output", "--json", *COMMON_SWITCHES),
        _generate,
    ),
    "reward": Command(
        "train, check or ask a reward",
        reward.USAGE,
        reward.SWITCHES,
        reward.run,
    ),
    "doctor": Command(
        "say what holds on this machine",
        doctor.USAGE,
        doctor.SWITCHES,
        doctor.run,
    ),
    "recipes": Command(
        "list recipes, or print one",
        "grpo recipes [NAME]\n\nPrints the recipe NAME, which makes a good start for a file of your own; "
        "without a name, lists them all.",
        COMMON_SWITCHES,
        _recipes,
    ),
}
