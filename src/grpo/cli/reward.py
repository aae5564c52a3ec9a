"""`grpo reward train|check|score`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo.cli.printing import show_remarks
from grpo.cli.words import at_most_one, split, take_switch, take_value, whole_number
from grpo.errors import ConfigError

if TYPE_CHECKING:
    from grpo.config import GRPOConfig
    from grpo.reward_models import EpochReport, ScorerReport

__all__ = ["SWITCHES", "USAGE", "run"]

SWITCHES = (
    *("--overwrite", "--json", "--rows", "--groups", "--repeats", "--prompt", "--file", "--device"),
    *("--help", "--debug"),
)

USAGE = (
    "grpo reward train [RECIPE|FILE] [key=value …|--key value …]\n"
    "grpo reward check [RECIPE|FILE] [key=value …|--key value …]\n"
    "grpo reward score SCORER [TEXT …]\n\n"
    "train  trains the reward model that a recipe's section `scorer` describes, for `grpo train` to use:\n"
    "       grpo reward train ctr-headlines\n"
    "  --overwrite    replace one that is there\n\n"
    "check  runs a recipe's rewards on real rows with right answers, empty ones, echoes, repetitions and other\n"
    "       probes, and says what can be hacked, what fails and what it costs; exit code 1 if something is wrong\n"
    "  --rows N       rows to probe (default 16)\n"
    "  --groups N     groups to sample for the forecast of spread (default 4; 0: none)\n"
    "  --repeats N    calls that have to agree (default 3)\n"
    "  --json         print one JSON object\n\n"
    "score  prints what a trained scorer, or any sequence classifier, says of texts: a line each; a text with = in\n"
    "       it goes after --: grpo reward score runs/scorer -- 'E=mc2 explained'\n"
    "  --prompt TEXT  what the texts answer\n"
    "  --file FILE    texts from a file, one a line\n"
    "  --device NAME  auto (default), cpu, cuda or cuda:N\n"
    "  --json         print JSON lines\n\n"
    "  --debug        show the traceback of an error\n\n"
    "Options are those of `grpo train --help`."
)


def run(words: list[str]) -> int:
    """Run the command that the first word names, and return the exit code.

    Raises:
        ConfigError: there is no such command, or the words after it are not what it takes.
    """
    commands: Mapping[str, Callable[[list[str]], int]] = {"train": _train, "check": _check, "score": _score}
    if not words or words[0] not in commands:
        given = f", not {words[0]!r}" if words else ""
        raise ConfigError(f"grpo reward needs one of train, check and score{given}: see grpo reward --help")
    return commands[words[0]](words[1:])


def _train(words: list[str]) -> int:
    overwrite = take_switch(words, "--overwrite")
    as_json = take_switch(words, "--json")
    plain, overrides = split(words, SWITCHES)
    source = at_most_one(plain, "recipe or file")

    from grpo import assembly
    from grpo.config import load_config

    config = load_config(source, overrides)
    show_remarks(config)
    report = assembly.train_scorer(config, overwrite=overwrite, on_epoch=None if as_json else _show_epoch)
    if as_json:
        print(json.dumps(report.to_json()))
        return 0
    _show_report(report)
    print(f"next\n  {_next_command(source, overrides, config)}")
    return 0


def _next_command(source: str | None, overrides: Sequence[str], config: GRPOConfig) -> str:
    """Return how to train a policy on the scorer: by the same recipe if it has it among its rewards."""
    from grpo.assembly.invocation import own_command
    from grpo.config import normalise

    reward = "ctr" if config.scorer.scorer_kind == "ctr" else "preference"
    uses_it = any(function.name == reward for function in config.rewards.functions)
    kept = []
    for override in overrides:
        name = normalise(override.partition("=")[0].removeprefix("scorer."))
        # How the scorer was trained is of no interest any more, unlike where it is.
        if not name.startswith("scorer_") or (name == "scorer_dir" and uses_it):
            kept.append(override)
    if not uses_it:
        kept += [f"scorer_dir={config.scorer.scorer_dir}", f"rewards={reward}"]
    words = [source or "train_file=prompts.jsonl", *kept]
    return " ".join([own_command(), "train", *map(shlex.quote, words)])


def _show_epoch(epoch: EpochReport) -> None:
    found = epoch.evaluation
    measures = {"accuracy": found.accuracy, "AUC": found.auc, "Brier": found.brier}
    told = "  ".join(f"{name} {value:.3f}" for name, value in measures.items() if value is not None)
    mark = "  best so far" if epoch.is_best else ""
    print(f"epoch {epoch.epoch:>2}  loss {epoch.loss:.4f}  {told}  {epoch.seconds:.1f} s{mark}", flush=True)


def _show_report(report: ScorerReport) -> None:
    best, limit = report.best, report.attainable_auc
    print(f"\n{report.num_train} rows to train on, {report.num_eval} held out, {report.seconds:.0f} s")
    if best.auc is not None:
        most = "" if limit is None else f" (the rule behind the clicks itself: {limit:.3f})"
        print(f"AUC       {best.auc:.3f}{most}")
    print(f"accuracy  {best.accuracy:.3f}")
    if best.brier is not None:
        print(f"Brier     {best.brier:.3f}, the lower the better calibrated")
    if report.reliability is not None:
        print(f"picture   {report.reliability}")
    elif best.bins:
        print("picture   none, as matplotlib is missing: pip install matplotlib")
    print(f"model     {report.best_model}")


def _check(words: list[str]) -> int:
    as_json = take_switch(words, "--json")
    rows = whole_number("--rows", take_value(words, "--rows") or "16")
    repeats = whole_number("--repeats", take_value(words, "--repeats") or "3")
    groups = take_value(words, "--groups") or "4"
    sampled = 0 if groups == "0" else whole_number("--groups", groups)
    plain, overrides = split(words, SWITCHES)

    from grpo.assembly.check import check
    from grpo.cli.check_text import report_text
    from grpo.config import load_config

    config = load_config(at_most_one(plain, "recipe or file"), overrides)
    show_remarks(config)
    report = check(config, sample_groups=sampled, rows=rows, repeats=repeats)
    print(json.dumps(report.to_json(), ensure_ascii=False) if as_json else report_text(report))
    return 0 if report.passed else 1


def _score(words: list[str]) -> int:
    prompt = take_value(words, "--prompt")
    file = take_value(words, "--file")
    device = take_value(words, "--device") or "auto"
    as_json = take_switch(words, "--json")
    plain, overrides = split(words, SWITCHES)
    if overrides:
        raise ConfigError(
            f"grpo reward score takes no option {overrides[0]!r}: if it is a text, write it after --, as in "
            f"grpo reward score runs/scorer -- {shlex.quote(overrides[0])}"
        )
    if not plain:
        raise ConfigError("grpo reward score needs a scorer: grpo reward score runs/ctr-headlines-scorer 'A headline'")
    scorer, *texts = plain
    texts += _lines_of(file) if file is not None else []
    if not texts and not sys.stdin.isatty():
        texts = [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not texts:
        raise ConfigError("no text to score: write it after the scorer, or name a --file")

    from grpo import assembly

    scores = assembly.score_texts(scorer, texts, None if prompt is None else [prompt] * len(texts), device=device)
    for text, score in zip(texts, scores, strict=True):
        row: dict[str, Any] = {"text": text, "score": score}
        print(json.dumps(row, ensure_ascii=False) if as_json else f"{score:.4f}  {text}")
    return 0


def _lines_of(file: str) -> list[str]:
    try:
        return [line for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read {file!r}: {reason}") from error
