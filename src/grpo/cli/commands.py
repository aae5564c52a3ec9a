"""The commands: each parses, calls the assembly room and prints. Heavy modules are imported once a command runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grpo.cli import reward
from grpo.cli.arguments import BAD_VERDICT, Args, Arguments, AsJson, Command, read_arguments, take_model
from grpo.cli.printing import aligned, evaluation_table, json_line, show_note, show_remarks, write_answers
from grpo.cli.streams import read_standard_input
from grpo.errors import ConfigError, StorageError
from grpo.storage import expanded

if TYPE_CHECKING:
    from grpo.assembly.answers import Weights
    from grpo.config import GRPOConfig

__all__ = ["app"]

_CONFIG_ENDINGS = (".yaml", ".yml")

Model = Annotated[
    str | None, typer.Option(metavar="RUN|DIR|ID", help="The model; the first argument is then not read as one.")
]

app = typer.Typer(
    # Markup would import rich for the help, which takes longer than all the rest of it.
    rich_markup_mode=None,
    epilog="grpo train by itself trains a small model that is part of the package: nothing to download.",
)
app.add_typer(reward.app, name="reward", help="Train a reward model, check rewards, score texts.")


@app.callback()
def _grpo(
    # main() takes both before Typer sees them, wherever they stand: here they are listed and completed.
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Reinforcement fine-tuning of language models."""


@app.command(cls=Command, options_metavar="[RECIPE|FILE]")
def train(
    ctx: typer.Context,
    args: Args = None,
    *,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Continue a run where it stopped.")] = None,
    ablate: Annotated[
        str | None, typer.Option(metavar="rewards", help="Train with all rewards, then without each, and compare.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the configuration and stop.")] = False,
) -> int:
    """Train a model with GRPO.

    The run follows a recipe (`grpo recipes` lists them) or a YAML file; without either, the recipe `arithmetic`, or
    the defaults when the options name a model or data of your own. A resumed run may get other options:
    grpo train --resume runs/latest steps=200.

    Every option below is written key=value, --key value or, in a file, key: value. In [brackets]: the default without
    a recipe or a task that sets another value. --dry-run prints the values of a run before it starts; the file
    config.yaml in the run's directory holds those that it uses.
    """
    if ablate not in (None, "rewards"):
        raise ConfigError(f"--ablate {ablate}: only rewards can be left out in turn, write --ablate rewards")
    arguments = read_arguments(ctx, args)
    if resume is not None:
        return _resume(resume, arguments, dry_run=dry_run, ablate=ablate is not None)

    from grpo.config import load_config

    config = load_config(arguments.at_most_one("recipe or file"), arguments.overrides)
    show_remarks(config)
    if dry_run:
        print(config.to_yaml(), end="")
        return 0
    if ablate is not None:
        return _ablate(config)
    from grpo import assembly

    return _exit_code(assembly.train(config).signal_number)


def _resume(run: str, arguments: Arguments, *, dry_run: bool, ablate: bool) -> int:
    if source := [*arguments.positionals, *arguments.literals]:
        raise ConfigError(f"--resume {run} takes its recipe from the run: leave out {source[0]!r}")
    if dry_run:
        raise ConfigError("--dry-run shows what a new run would do: leave it out with --resume")
    if ablate:
        raise ConfigError("--ablate begins runs of its own: leave it out with --resume")
    if arguments.overrides:
        from grpo.config import load_run_config

        show_remarks(load_run_config(run, arguments.overrides))
    from grpo import assembly

    return _exit_code(assembly.resume(run, arguments.overrides).signal_number)


def _ablate(config: GRPOConfig) -> int:
    from grpo.assembly.ablation import ablate_rewards
    from grpo.cli.ablation_text import ablation_table

    def announce(left_out: str | None, path: Path) -> None:
        rewards = "all rewards" if left_out is None else f"without {left_out}"
        print(f"\n=== {rewards}: {path}", flush=True)

    ablation = ablate_rewards(config, on_run=announce)
    print("\n" + ablation_table(ablation))
    return _exit_code(ablation.signal_number)


def _exit_code(signal_number: int | None) -> int:
    """Return the code that a shell expects of a process ended by a signal, though the run saved its work first."""
    return 0 if signal_number is None else 128 + signal_number


@app.command("eval", cls=Command, options_metavar="[MODEL] [RECIPE|FILE]")
def evaluate(ctx: typer.Context, args: Args = None, *, model: Model = None, as_json: AsJson = False) -> int:
    """Measure a model's accuracy on held-out rows.

    MODEL is a run, a directory, a Hub id or tiny; by default runs/latest. The rows are those of the recipe or YAML
    file, by default those of the run.

    Options are those of `grpo train --help`, such as eval_samples=16 temperature=0.7.
    """
    from grpo import recipes
    from grpo.config import load_model_config

    arguments = read_arguments(ctx, args)
    if not next(iter(arguments.positionals), "").endswith(_CONFIG_ENDINGS):
        model, arguments = take_model(model, arguments, "grpo eval runs/latest")
    if model in recipes.names() and not Path(model).exists():
        raise ConfigError(f"{model!r} is a recipe: name the model first, as in grpo eval runs/latest {model}")
    config = load_model_config(model, arguments.at_most_one("recipe or file"), arguments.overrides)
    from grpo import assembly

    found, weights = assembly.find_weights(config)
    _note_unfinished(config, weights)
    metrics = assembly.evaluate(found)
    if as_json:
        print(json_line(dict(metrics)))
    else:
        at = "" if weights is None else f" (step {weights.step})"
        print(evaluation_table(f"{config.policy.model}{at}", metrics))
    return 0


def _note_unfinished(config: GRPOConfig, weights: Weights | None) -> None:
    """Print the step of a run's weights, unless the run is finished or the user chose the step."""
    if weights is not None and not weights.is_final and not weights.was_chosen:
        show_note(f"{config.policy.model} is not finished: these are its weights after step {weights.step}")


_NO_PROMPT = (
    'no prompt: write grpo generate runs/latest "Your question" (after -- if it begins like an option, as x=3 does), '
    "or name a --file of prompts"
)


@app.command(cls=Command, options_metavar="[MODEL] [PROMPT …]")
def generate(
    ctx: typer.Context,
    args: Args = None,
    *,
    model: Model = None,
    file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Prompts from JSONL, CSV or Parquet with a column `prompt`.")
    ] = None,
    num: Annotated[int, typer.Option(metavar="N", min=1, help="Completions for each prompt.")] = 1,
    output: Annotated[str | None, typer.Option(metavar="FILE", help="Write JSON lines there.")] = None,
    as_json: AsJson = False,
) -> int:
    """Answer prompts with a trained model.

    MODEL, a run, a directory, a Hub id or tiny, is the first argument, and prompts follow. With --model, or after --,
    every argument is a prompt. Without a prompt, standard input is read as one. If no model is named, as in
    grpo generate -- "What is 7 + 5?", it is runs/latest if there is one, else tiny.

    Options are those of `grpo train --help`, such as temperature=0.7 max_new_tokens=64 seed=1.
    """
    model, arguments = take_model(model, read_arguments(ctx, args), "grpo generate runs/latest")
    prompts = [*arguments.positionals, *arguments.literals]
    if not prompts and file is None:
        prompts = [] if sys.stdin.isatty() else [read_standard_input().strip()]
        if not any(prompts):
            raise ConfigError(_NO_PROMPT if model is None else f"{_NO_PROMPT}; {model!r} was read as the model")

    from grpo.config import load_model_config

    named = load_model_config(model, None, arguments.overrides, needs_task=False)
    from grpo import assembly

    config, weights = assembly.find_weights(named)
    _note_unfinished(named, weights)
    answers = assembly.generate(config, prompts, prompts_file=file, num_completions=num)
    if output is None:
        write_answers(answers, sys.stdout, as_json=as_json, alone=num == 1 and len(prompts) == 1 and file is None)
        return 0
    try:
        with expanded(output).open("w", encoding="utf-8") as stream:
            write_answers(answers, stream, as_json=True)
    except OSError as error:
        raise StorageError(f"cannot write {output}: {error.strerror}") from error
    return 0


@app.command()
def doctor(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="The run; by default the newest one.")] = None,
    *,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Try the sandbox of the reward unit_tests.")] = False,
) -> int:
    """Report the state and problems of a run, or test the sandbox.

    Exit code 3: something is wrong.
    """
    if not sandbox:
        from grpo.cli.run_text import run_report

        lines, is_bad = run_report(run)
        print("\n".join(lines))
        return BAD_VERDICT if is_bad else 0
    if run is not None:
        raise ConfigError(f"--sandbox tests this machine and not a run: leave out {run!r}")

    from grpo.sandbox import protections

    found = protections()
    rows = [("yes" if protection.in_force else "NO", protection.name, protection.how) for protection in found]
    print("\n".join(aligned(rows)))
    return 0 if all(protection.in_force for protection in found) else BAD_VERDICT


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="The recipe to print; without it, all are listed.")] = None,
) -> int:
    """List recipes, or print one: a good start for a file of your own."""
    from grpo import recipes as shipped

    if name is None:
        print("\n".join(aligned([(recipe, shipped.summary(recipe)) for recipe in shipped.names()])))
    elif name in shipped.names():
        print(shipped.text(name), end="")
    else:
        raise ConfigError(f"no recipe {name!r}: use one of {', '.join(shipped.names())}")
    return 0
