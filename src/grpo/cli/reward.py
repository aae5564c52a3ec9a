"""`grpo reward train|check|score`."""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grpo.cli.arguments import BAD_VERDICT, Args, AsJson, Command, read_arguments, take_model
from grpo.cli.printing import json_line, show_remarks
from grpo.cli.streams import read_standard_input
from grpo.errors import ConfigError
from grpo.storage import expanded, read_text

if TYPE_CHECKING:
    from grpo.config import GRPOConfig
    from grpo.reward_models import EpochReport, ScorerReport

__all__ = ["app"]


_PAUSE_S = 10.0
"""Seconds between lines about the progress within an epoch where they stay, as in a file."""

app = typer.Typer(rich_markup_mode=None)


@app.command(cls=Command, options_metavar="[RECIPE|FILE]")
def train(
    ctx: typer.Context,
    args: Args = None,
    *,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a reward model that is there.")] = False,
    as_json: AsJson = False,
) -> int:
    """Train the reward model that a recipe's section `scorer` describes.

    The rewards `ctr` and `preference` load it in `grpo train`, for example:
    grpo reward train ctr-headlines, then grpo train ctr-headlines.
    Options are those of `grpo train --help`.
    """
    arguments = read_arguments(ctx, args)
    source = arguments.at_most_one("recipe or file")

    from grpo import assembly
    from grpo.config import load_config

    config = load_config(source, arguments.overrides)
    show_remarks(config)
    progress = None if as_json else _Progress()
    report = assembly.train_scorer(
        config,
        overwrite=overwrite,
        on_epoch=None if progress is None else progress.epoch,
        on_progress=progress,
    )
    if as_json:
        print(json_line(report.to_json()))
        return 0
    _show_report(report)
    config = config.replace(scorer_dir=str(report.best_model.parent))
    print(f"next\n  {_next_command(source, arguments.overrides, config)}")
    return 0


def _next_command(source: str | None, overrides: Sequence[str], config: GRPOConfig) -> str:
    """Return the command that trains a policy on the scorer, by the same recipe if its rewards use one."""
    from grpo.assembly.invocation import own_command
    from grpo.config import normalise

    reward = "ctr" if config.scorer.scorer_kind == "ctr" else "preference"
    uses_it = any(function.name == reward for function in config.rewards.functions)
    kept = []
    for override in overrides:
        name = normalise(override.partition("=")[0].removeprefix("scorer."))
        if name in ("output_dir", "run_name", "output.output_dir", "output.run_name"):
            if uses_it:
                kept.append(f"scorer_dir={config.scorer.scorer_dir}")
            continue
        # The policy's training needs the scorer's place, not the options of the scorer's training.
        if not name.startswith("scorer_") or (name == "scorer_dir" and uses_it):
            kept.append(override)
    if not uses_it:
        kept += [f"scorer_dir={config.scorer.scorer_dir}", f"rewards={reward}"]
    args = [source or "train_file=prompts.jsonl", *kept]
    return " ".join([own_command(), "train", *map(shlex.quote, args)])


class _Progress:
    """The present work: on one line that is written over on a terminal, else on a line now and then."""

    def __init__(self) -> None:
        self._is_live = sys.stdout.isatty()
        self._last = -math.inf

    def __call__(self, activity: str) -> None:
        """Show what is done now."""
        is_step = activity.startswith("epoch ")
        now = time.monotonic()
        if is_step and now - self._last < (0.1 if self._is_live else _PAUSE_S):
            return
        if is_step:
            self._last = now
        if self._is_live and is_step:
            print(f"\r\x1b[K{activity}", end="", flush=True)
        else:
            print(activity, flush=True)

    def epoch(self, epoch: EpochReport) -> None:
        """Show the outcome of an epoch."""
        if self._is_live:
            print("\r\x1b[K", end="")
        _show_epoch(epoch)


def _show_epoch(epoch: EpochReport) -> None:
    found = epoch.evaluation
    measures = {"accuracy": found.accuracy, "AUC": found.auc, "Brier": found.brier}
    measured = "  ".join(f"{name} {value:.3f}" for name, value in measures.items() if value is not None)
    mark = "  best so far" if epoch.is_best else ""
    print(f"epoch {epoch.epoch:>2}  loss {epoch.loss:.4f}  {measured}  {epoch.seconds:.1f} s{mark}", flush=True)


def _show_report(report: ScorerReport) -> None:
    from grpo.plurals import counted

    best, limit = report.best, report.attainable_auc
    print(f"\n{counted(report.num_train, 'row')} to train on, {report.num_eval} held out, {report.seconds:.0f} s")
    if best.auc is not None:
        most = "" if limit is None else f" (the rule behind the clicks itself: {limit:.3f})"
        print(f"AUC       {best.auc:.3f}{most}")
    print(f"accuracy  {best.accuracy:.3f}")
    if best.brier is not None:
        print(f"Brier     {best.brier:.3f}, mean squared error of the probabilities (lower is better)")
    if report.reliability is not None:
        print(f"picture   {report.reliability}")
    elif best.bins:
        print("picture   none, as matplotlib is missing: pip install matplotlib")
    print(f"model     {report.best_model}")


@app.command(cls=Command, options_metavar="[RECIPE|FILE]")
def check(
    ctx: typer.Context,
    args: Args = None,
    *,
    rows: Annotated[int, typer.Option(metavar="N", min=1, help="Rows to probe.")] = 16,
    groups: Annotated[
        int, typer.Option(metavar="N", min=0, help="Groups to sample, to estimate how many can train; 0: none.")
    ] = 4,
    repeats: Annotated[int, typer.Option(metavar="N", min=1, help="Equal calls, to compare values.")] = 3,
    as_json: AsJson = False,
) -> int:
    """Probe a recipe's rewards before a run.

    The probes are right answers, empty ones, echoes, repetitions and other texts, for real rows. The report names
    rewards that can be hacked or that fail, and their cost; exit code 3 if something is wrong. Options are those of
    `grpo train --help`.
    """
    arguments = read_arguments(ctx, args)

    from grpo.assembly.check import check as check_rewards
    from grpo.cli.check_text import report_text
    from grpo.config import load_config

    config = load_config(arguments.at_most_one("recipe or file"), arguments.overrides)
    show_remarks(config)
    report = check_rewards(config, sample_groups=groups, rows=rows, repeats=repeats)
    print(json_line(report.to_json()) if as_json else report_text(report))
    return 0 if report.passed else BAD_VERDICT


@app.command(cls=Command, options_metavar="[MODEL] [TEXT …]")
def score(
    ctx: typer.Context,
    args: Args = None,
    *,
    model: Annotated[str | None, typer.Option(metavar="DIR|ID", help="The model; all arguments are texts.")] = None,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="The prompt that the texts answer.")] = None,
    file: Annotated[str | None, typer.Option(metavar="FILE", help="Texts from a file, one a line.")] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: AsJson = False,
) -> int:
    """Print a reward model's score of each text, one a line.

    MODEL is a directory of `grpo reward train`, or any sequence classifier's directory or Hub id. Without a text, the
    lines of standard input are texts. With --model, and after --, every argument is a text:
    grpo reward score runs/scorer -- "E=mc2 explained"
    """
    arguments = read_arguments(ctx, args)
    if arguments.overrides:
        option = arguments.overrides[0]
        raise ConfigError(
            f"grpo reward score takes no option {option!r}: if it is a text, write it after --, as in "
            f"grpo reward score runs/scorer -- {shlex.quote(option)}"
        )
    model, arguments = take_model(model, arguments, "grpo reward score runs/scorer")
    if model is None:
        raise ConfigError("grpo reward score needs a model: grpo reward score runs/ctr-headlines-scorer 'A headline'")
    texts = [*arguments.positionals, *arguments.literals, *(_lines_of(file) if file is not None else [])]
    if not texts and not sys.stdin.isatty():
        texts = [line for line in read_standard_input().splitlines() if line.strip()]
    if not texts:
        raise ConfigError(f"no text to score: write it after the model, {model}, or name a --file")

    from grpo import assembly

    scores = assembly.score_texts(model, texts, None if prompt is None else [prompt] * len(texts), device=device)
    for text, value in zip(texts, scores, strict=True):
        row: dict[str, Any] = {"text": text, "score": value}
        print(json_line(row) if as_json else f"{value:.4f}  {text}")
    return 0


def _lines_of(file: str) -> list[str]:
    return [line for line in read_text(expanded(file)).splitlines() if line.strip()]
