"""The command `grpo`: parse, call, print.

Exit codes: 0 done, 1 failed while running, 2 bad input, 130 interrupted. Nothing heavy is imported before
a command is known, so that help appears at once.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from grpo.errors import ConfigError, GrpoError, InputError, StorageError

__all__ = ["COMMANDS", "Command", "main"]


@dataclass(frozen=True, slots=True)
class Command:
    """What one word after `grpo` does.

    Attributes:
        summary: one line for `grpo --help`.
        usage: what `grpo COMMAND --help` prints first.
        run: called with the words after the command; prints its results and returns the exit code.
        lists_options: True when the help goes on with every option of a configuration.
    """

    summary: str
    usage: str
    run: Callable[[list[str]], int]
    lists_options: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = _take_switch(words, "--debug")
    try:
        with _stage(debug):
            code = _dispatch(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _complain("interrupted", debug)
        return 130
    except BrokenPipeError:
        # The reader (`head`, a pager) has left; Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except InputError as error:
        _complain(f"error: {error}", debug)
        return 2
    except GrpoError as error:
        _complain(f"error: {error}", debug)
        return 1
    except Exception as error:
        hint = "" if debug else " (grpo --debug … shows where)"
        _complain(f"error: {type(error).__name__}: {error}{hint}", debug)
        return 1
    return code


@contextmanager
def _stage(debug: bool) -> Iterator[None]:
    """Hold other packages' chatter back, show our own warnings, and find modules where `python` would."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    for package in ("TRANSFORMERS", "DATASETS", "HF_HUB"):
        os.environ.setdefault(f"{package}_VERBOSITY", "error")
    if not sys.stderr.isatty():
        for package in ("HF_HUB", "HF_DATASETS"):
            os.environ.setdefault(f"{package}_DISABLE_PROGRESS_BARS", "1")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    logger = logging.getLogger("grpo")
    logger.addHandler(handler)
    previous, logger.propagate = logger.propagate, False
    try:
        with warnings.catch_warnings():
            if not debug and not sys.warnoptions:
                warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = previous


def _dispatch(words: list[str]) -> int:
    if _take_switch(words, "--version"):
        import grpo

        print(f"grpo {grpo.__version__}")
        return 0
    wants_help = _take_switch(words, "--help", "-h")
    if not words or words == ["help"]:
        print(_overview())
        return 0
    if words[0] == "help":
        words, wants_help = words[1:], True
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(COMMANDS)}"
        raise ConfigError(f"no command {name!r}: {hint}")
    if not wants_help:
        return COMMANDS[name].run(rest)
    print(_help(COMMANDS[name]))
    return 0


def _train(words: list[str]) -> int:
    run = _take_value(words, "--resume")
    dry_run = _take_switch(words, "--dry-run")
    plain, overrides = _split(words)
    if run is not None:
        if plain:
            raise ConfigError(f"--resume {run} takes its recipe from the run: leave out {plain[0]!r}")
        if dry_run:
            raise ConfigError("--dry-run shows what a new run would do: leave it out with --resume")
        from grpo import build

        return _exit_code(build.resume(run, overrides).signal_number)

    from grpo.config import load_config

    config = load_config(_at_most_one(plain, "recipe or file"), overrides)
    for remark in config.remarks():
        print(f"note: {remark}", file=sys.stderr)
    if dry_run:
        print(config.to_yaml(), end="")
        return 0
    from grpo import build

    return _exit_code(build.train(config).signal_number)


def _exit_code(signal_number: int | None) -> int:
    """Return what a shell expects of a process that a signal ended, though ours saved its work first."""
    return 0 if signal_number is None else 128 + signal_number


def _eval(words: list[str]) -> int:
    as_json = _take_switch(words, "--json")
    named = _take_value(words, "--model")
    plain, overrides = _split(words)
    model = named if named is not None else plain.pop(0) if plain else None

    from grpo.config import load_model_config

    config = load_model_config(model, _at_most_one(plain, "recipe or file"), overrides)
    from grpo import build

    metrics = build.evaluate(config)
    if as_json:
        print(json.dumps(dict(metrics), ensure_ascii=False))
    else:
        print(_evaluation_table(config.policy.model, metrics))
    return 0


_NO_PROMPT = (
    'no prompt: write grpo generate "Your question" (after -- if it begins like an option, as x=3 does), '
    "or name a --file of prompts"
)


def _generate(words: list[str]) -> int:
    model = _take_value(words, "--model")
    file = _take_value(words, "--file")
    output = _take_value(words, "--output")
    number = _whole_number("--num", _take_value(words, "--num") or "1")
    as_json = _take_switch(words, "--json")
    prompts, overrides = _split(words)
    if not prompts and file is None:
        if sys.stdin.isatty():
            raise ConfigError(_NO_PROMPT)
        prompts = [sys.stdin.read().strip()]
        if not prompts[0]:
            raise ConfigError(_NO_PROMPT)

    from grpo.config import load_model_config

    config = load_model_config(model, None, overrides, needs_task=False)
    from grpo import build

    answers = build.generate(config, prompts, prompts_file=file, num_completions=number)
    if output is None:
        _write_answers(answers, sys.stdout, as_json=as_json, alone=number == 1 and len(prompts) == 1 and file is None)
        return 0
    try:
        with Path(output).open("w", encoding="utf-8") as stream:
            _write_answers(answers, stream, as_json=True, alone=False)
    except OSError as error:
        raise StorageError(f"cannot write {output}: {error.strerror}") from error
    return 0


def _recipes(words: list[str]) -> int:
    from grpo import recipes

    name = _at_most_one(words, "recipe")
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
        "  --dry-run      print the configuration and stop\n"
        "  --debug        show the traceback of an error\n\n"
        "Every option is written key=value, --key value or, in a file, key: value. In [brackets]: the default.",
        _train,
        lists_options=True,
    ),
    "eval": Command(
        "measure a model's accuracy on held-out rows",
        "grpo eval [RUN|MODEL] [RECIPE|FILE] [key=value …|--key value …]\n\n"
        "Evaluates a run's model, or any other, on rows that are not trained on: those of the recipe or file,\n"
        "else those of the run. Without a model: runs/latest.\n\n"
        "  --json   print one JSON object\n"
        "  --debug  show the traceback of an error\n\n"
        "Options are those of `grpo train --help`, e.g. eval_samples=16 temperature=0.7.",
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
        _generate,
    ),
    "recipes": Command(
        "list recipes, or print one",
        "grpo recipes [NAME]\n\nPrints the recipe NAME, which makes a good start for a file of your own; "
        "without a name, lists them all.",
        _recipes,
    ),
}


def _overview() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    return (
        "grpo: reinforcement fine-tuning of language models\n\n"
        "usage: grpo COMMAND …\n\n"
        f"{commands}\n\n"
        "`grpo train` by itself trains a small model that is part of the package: nothing to download.\n"
        "`grpo COMMAND --help` says more; --version prints the version, --debug shows tracebacks."
    )


def _help(command: Command) -> str:
    if not command.lists_options:
        return f"usage: {command.usage}"
    from grpo.config import option_reference

    return f"usage: {command.usage}\n\n{option_reference()}"


_MEASURES = (
    ("strict", "accuracy", "right and in the format asked for"),
    ("lenient", "accuracy_lenient", "right in any format"),
    ("greedy", "accuracy_greedy", "strict, at temperature 0"),
    ("format", "format_rate", "in the format, right or not"),
    ("reward", "reward", "mean"),
)


def _evaluation_table(model: str, metrics: Mapping[str, Any]) -> str:
    from grpo.tracking.formatting import interval

    head = f"{model}: {metrics['prompts']} prompts × {metrics['samples_per_prompt']} completions"
    rows = [
        f"  {label:<8}{interval(metrics, name):<21}{meaning}"
        for label, name, meaning in _MEASURES
        if metrics.get(name) is not None
    ]
    rows += [
        f"  {'pass@' + k:<8}{share:<21.2f}one of {k} is right"
        for k, share in metrics.get("pass_at_k", {}).items()
        if k != "1"
    ]
    return "\n".join([head, *rows])


def _write_answers(answers: Any, stream: TextIO, *, as_json: bool, alone: bool) -> None:
    for answer in answers:
        if as_json:
            print(json.dumps(dict(answer), ensure_ascii=False), file=stream, flush=True)
        elif alone:
            print(answer["completions"][0], file=stream)
        else:
            print(f"> {_last_words(answer['prompt'])}", *answer["completions"], "", sep="\n", file=stream, flush=True)


def _last_words(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    from grpo.config import split_words

    return split_words(words)


def _take_switch(words: list[str], *names: str) -> bool:
    """Remove a switch from `words` and return whether it was there; words after `--` are left alone."""
    end = words.index("--") if "--" in words else len(words)
    kept = [word for place, word in enumerate(words) if place >= end or word not in names]
    found = len(kept) < len(words)
    words[:] = kept
    return found


def _take_value(words: list[str], name: str) -> str | None:
    """Remove `--name VALUE`, `--name=VALUE` and `name=VALUE` from `words` and return the last value."""
    value: str | None = None
    kept: list[str] = []
    while words:
        word = words.pop(0)
        if word == "--":
            kept += [word, *words]
            break
        key, equals, text = word.partition("=")
        if word == name:
            if not words or words[0].startswith("--"):
                raise ConfigError(f"{name} needs a value: write {name} VALUE")
            value = words.pop(0)
        elif equals and key in (name, name.removeprefix("--")):
            value = text
        else:
            kept.append(word)
    words[:] = kept
    return value


def _at_most_one(words: list[str], kind: str) -> str | None:
    if len(words) > 1:
        raise ConfigError(f"one {kind} is enough: given were {' and '.join(map(repr, words))}")
    return words[0] if words else None


def _whole_number(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{name} was given {text!r}: it should be a whole number of at least 1")
    return int(text)


def _complain(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(" ".join(message.split()), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
