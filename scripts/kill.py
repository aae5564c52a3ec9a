"""Kill training runs at random and at delicate moments, resume them, and compare them with undisturbed runs.

    python scripts/kill.py [--kills 60] [--seed 0] [--jobs 1] [--only NAME …] [--keep FOLDER]

Each configuration is run once undisturbed. Then it is run again; its process group gets SIGKILL, `grpo train --resume`
continues it, and so on until the run ends. Half of the kills come at random times of the run, the others at the
moments in `MOMENTS`, which are recognised by the files in the run directory. A run that ends before its kill is
compared and begun again. Several runs share the kills of a configuration.

A killed run must end as the undisturbed one: same files, same bytes of models, evaluations and completions, same
metrics and summary except for measured times and memory, no leftovers in the run directory, beside it or in the folder
for temporary files, and exit code 0 of every process that was not killed. Prints a table; exit code 1 after a
difference. Not part of CI: 60 kills take about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

POLL_S = 0.002
LONGEST_S = 300.0
"""A process that runs longer has failed."""

MOST_OF_A_MOMENT = 0.7
"""Share of a moment in which its kill comes, since moments vary in length."""

SANDBOX_S = 10.0
"""Time in which the sandboxes of a killed run must end and remove their folders."""

KILLS_IN_A_RUN = 6
TRIES = 3
"""Attempts to kill at one moment; an attempt fails when the run ends first."""

MEASURED = ("seconds", "per_s", "memory")
LEFT_BY_SIGKILL = ("torchinductor_", "grpo-rewards-")
"""Temporary folders of a killed process that stay by design: torch's cache, and modules that name reward files."""

REWARDS = '''
"""Rewards with state, made from a file."""


class Novelty:
    """Rewards completions that were not seen before in the run."""

    def __init__(self):
        self.seen = {}

    def __call__(self, completions, **_):
        texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
        rewards = [1.0 / (1 + self.seen.get(text, 0)) for text in texts]
        for text in texts:
            self.seen[text] = self.seen.get(text, 0) + 1
        return rewards

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = dict(state["seen"])


novelty = Novelty()


def right(completions, answer, log_extra, **_):
    texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
    log_extra("last_word", [text.split()[-1] if text.split() else "" for text in texts])
    return [float(str(value) in text) for text, value in zip(texts, answer)]
'''

SMALL = ("threads=1", "prompts_per_step=4", "group_size=4", "eval_samples=2", "keep_checkpoints=2", "log_every=5")


@dataclass(frozen=True)
class Configuration:
    """A run: the arguments of `grpo train`, and the options that tell when it evaluates and saves."""

    name: str
    arguments: tuple[str, ...]
    steps: int
    eval_every: int
    save_every: int

    def command(self, run: Path) -> list[str]:
        """Return the command that starts this run."""
        numbers = (f"{name}={getattr(self, name)}" for name in ("steps", "eval_every", "save_every"))
        return [*GRPO, "train", *self.arguments, *SMALL, *numbers, f"output_dir={run}"]

    def is_evaluated(self, step: int) -> bool:
        """Return whether an evaluation follows a step."""
        return step == self.steps or (step > 0 and step % self.eval_every == 0)


GRPO = [sys.executable, "-m", "grpo"]
CONFIGURATIONS = (
    Configuration("arithmetic", ("arithmetic", "eval_size=16"), steps=40, eval_every=10, save_every=8),
    # The last step has a checkpoint but no regular evaluation.
    Configuration(
        "kl-lora-dropout",
        ("arithmetic", "beta=0.05", "lora_rank=8", "lora_dropout=0.1", "epochs_per_step=2", "eval_size=8"),
        steps=18,
        eval_every=7,
        save_every=6,
    ),
    Configuration(
        "own-rows",
        (
            *("model=tiny", "train_file=rows.jsonl", "eval_size=8", "rewards=rewards.py:right,strict_format"),
            *("answer_format=answer_tags", "max_completion_length=24", "learning_rate=3e-4", "log_completions=true"),
        ),
        steps=30,
        eval_every=8,
        save_every=10,
    ),
    Configuration("programs", ("code", "eval_size=4"), steps=6, eval_every=4, save_every=3),
    # Steps take prompts in numbers that depend on the rewards, and the rewards have states.
    Configuration(
        "stateful-rewards",
        (
            *("arithmetic", "zero_variance_groups=resample", "eval_size=8"),
            "rewards=[{name: 'rewards.py:novelty', normalise: running}, {name: correctness, overlap: true}, "
            "{name: strict_format, weight: {from: 1.0, to: 0.2, steps: 12}}]",
        ),
        steps=16,
        eval_every=6,
        save_every=4,
    ),
)


def write_files(folder: Path) -> None:
    """Write the files that the configurations name."""
    rows = [{"prompt": f"What is {a} + {b}?", "answer": str(a + b)} for a in range(8) for b in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "rewards.py").write_text(REWARDS, encoding="utf-8")


# The run directory as a moment sees it


@dataclass
class View:
    """The progress of one process, read from its run directory; files of earlier processes do not count."""

    configuration: Configuration
    run: Path
    before: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    step: int = 0
    evaluated: frozenset[int] = frozenset()
    _sizes: dict[str, int] = field(default_factory=dict)

    def look(self) -> None:
        """Read the directory again."""
        now = stamps(self.run)
        self.names = frozenset(name for name, stamp in now.items() if self.before.get(name) != stamp)
        if "metrics.jsonl" in self.names and self._has_changed("metrics.jsonl"):
            self.step = last_step(self.run)
        if self._has_changed("eval.jsonl"):
            self.evaluated = frozenset(steps_in(self.run / "eval.jsonl"))

    def has_partial_checkpoint(self) -> bool:
        """Return whether a checkpoint is being written."""
        return any(name.startswith(".checkpoint-") for name in self.names)

    def _has_changed(self, name: str) -> bool:
        try:
            size = (self.run / name).stat().st_size
        except FileNotFoundError:
            return False
        changed, self._sizes[name] = self._sizes.get(name) != size, size
        return changed


def stamps(directory: Path) -> dict[str, tuple[int, int]]:
    """Return the entries of a directory with their numbers and times."""
    found = {}
    for path in directory.iterdir() if directory.is_dir() else ():
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        found[path.name] = (status.st_ino, status.st_mtime_ns)
    return found


def steps_in(log: Path) -> list[int]:
    """Return the steps of the whole lines of a log."""
    whole = log.read_bytes().rpartition(b"\n")[0].splitlines()
    return [int(json.loads(line)["step"]) for line in whole]


def last_step(run: Path) -> int:
    """Return the last step that a run has logged, in this or an earlier process."""
    log = run / "metrics.jsonl"
    return max(steps_in(log), default=0) if log.exists() else 0


def is_evaluating(view: View) -> bool:
    """Return whether an evaluation is due and not yet logged."""
    return view.configuration.is_evaluated(view.step) and view.step not in view.evaluated


def has_saved(view: View) -> bool:
    """Return whether the last step's checkpoint is in place, while older ones are removed."""
    return f"checkpoint-{view.step}" in view.names


def is_ending(view: View) -> bool:
    """Return whether the last step is done and the final model is not yet begun."""
    return view.step == view.configuration.steps and not {".final_model.partial", "final_model"} & view.names


MOMENTS: Mapping[str, Callable[[View], bool]] = {
    "beginning": lambda view: "config.yaml" not in view.names and bool(view.names),
    "evaluation": is_evaluating,
    "checkpoint": View.has_partial_checkpoint,
    "saved": has_saved,
    "last step": is_ending,
    "final model": lambda view: ".final_model.partial" in view.names,
    "finished": lambda view: "final_model" in view.names,
}
"""Moments by name: is a process at this moment, by its run directory?"""

RANDOM = "random"
AIMED = tuple(MOMENTS)
SHORT_S = {"saved": 0.03, "finished": 0.05}
"""The interesting part of moments that last longer."""


# Processes


class FailedRunError(Exception):
    """A process ended with another exit code than 0."""


@dataclass
class Killed:
    """The result of one attempt to kill.

    Attributes:
        kind: name of the moment, or "random".
        was_killed: False if the run ended first.
        hit: whether the run was still at that moment.
        step: the last that is logged.
    """

    kind: str
    was_killed: bool
    hit: bool
    step: int


def start(configuration: Configuration, run: Path) -> subprocess.Popen[bytes]:
    """Start the run, or resume it when it has a configuration."""
    is_begun = (run / "config.yaml").exists()
    command = [*GRPO, "train", "--resume", str(run)] if is_begun else configuration.command(run)
    folder = run.parent.parent
    temporary = folder / "temporary"
    temporary.mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(temporary)}
    output = (folder / "output.txt").open("wb")
    # A run in a process group of its own, which is killed as a whole.
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )


def finish(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait for the end of a run.

    Raises:
        FailedRunError: it failed.
    """
    try:
        code = process.wait(timeout=LONGEST_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    if code != 0:
        raise FailedRunError(f"exit code {code}: {(folder / 'output.txt').read_text(errors='replace')[-300:].strip()}")


def has_opened(process: subprocess.Popen[bytes], run: Path) -> bool:
    """Return whether a process has locked the run directory."""
    try:
        return f"process {process.pid} " in (run / ".lock").read_text()
    except (FileNotFoundError, UnicodeDecodeError):
        return False


@dataclass(frozen=True)
class Spans:
    """Durations in the undisturbed run: from the lock to the end, and of each moment."""

    whole_s: float
    moments_s: Mapping[str, float]


def run_undisturbed(configuration: Configuration, run: Path) -> Spans:
    """Run a configuration to its end and return its durations."""
    view, process = View(configuration, run), start(configuration, run)
    began: float | None = None
    durations: dict[str, list[float]] = {name: [] for name in MOMENTS}
    present: dict[str, float] = {}
    while process.poll() is None:
        time.sleep(POLL_S)
        view.look()
        now = time.monotonic()
        if began is None and has_opened(process, run):
            began = now
        for name, is_now in MOMENTS.items():
            if is_now(view):
                present.setdefault(name, now)
            elif name in present:
                durations[name].append(now - present.pop(name))
    finish(process, run.parent.parent)
    end = time.monotonic()
    for name, since in present.items():
        durations[name].append(end - since)
    means = {name: sum(each) / len(each) if each else 0.0 for name, each in durations.items()}
    return Spans(end - (began or end), {name: min(mean, SHORT_S.get(name, mean)) for name, mean in means.items()})


def kill(configuration: Configuration, run: Path, kind: str, spans: Spans, draw: random.Random) -> Killed:
    """Start or resume the run, kill it at a moment, and return whether it was still running.

    Raises:
        FailedRunError: it ended with an exit code other than 0 before that.
    """
    view = View(configuration, run, before=stamps(run))
    left = 1 - max(checkpoint_steps(run), default=0) / configuration.steps
    process = start(configuration, run)
    folder = run.parent.parent
    delay = draw.random() * (spans.whole_s * left if kind == RANDOM else MOST_OF_A_MOMENT * spans.moments_s[kind])
    limit = time.monotonic() + LONGEST_S
    while process.poll() is None and time.monotonic() < limit:
        view.look()
        if has_opened(process, run) if kind == RANDOM else MOMENTS[kind](view):
            break
        time.sleep(POLL_S)
    try:
        process.wait(timeout=delay)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    if process.wait() == -signal.SIGKILL:
        view.look()
        wait_for_sandboxes(folder)
        return Killed(kind, was_killed=True, hit=kind == RANDOM or MOMENTS[kind](view), step=last_step(run))
    finish(process, folder)
    return Killed(kind, was_killed=False, hit=False, step=last_step(run))


def checkpoint_steps(run: Path) -> list[int]:
    """Return the steps of the checkpoints in a run directory."""
    return [int(path.name.rpartition("-")[2]) for path in run.glob("checkpoint-*")]


def wait_for_sandboxes(folder: Path) -> None:
    """Wait until the sandboxes of a killed run have removed their folders, or should have."""
    end = time.monotonic() + SANDBOX_S
    while any((folder / "temporary").glob("grpo-sandbox-*")) and time.monotonic() < end:
        time.sleep(0.05)


# Comparison


def differences(run: Path, alone: Path) -> Iterator[str]:
    """Yield what a killed run has otherwise than the undisturbed one."""
    names, expected = entries(run), entries(alone)
    if names != expected:
        yield f"entries of the run: {sorted(names ^ expected)}"
    for name in sorted(names & expected):
        if name.endswith(".safetensors") or name.startswith("final_model/"):
            if (run / name).read_bytes() != (alone / name).read_bytes():
                yield f"{name} has other bytes"
        elif name in ("eval.jsonl", "completions.jsonl") and (run / name).read_bytes() != (alone / name).read_bytes():
            yield f"{name} differs: {first_difference(lines_of(run / name), lines_of(alone / name))}"
    metrics = [[without_measurements(line) for line in lines_of(place / "metrics.jsonl")] for place in (run, alone)]
    if metrics[0] != metrics[1]:
        yield f"metrics.jsonl differs: {first_difference(*metrics)}"
    summaries = [without_measurements(json.loads((place / "summary.json").read_text())) for place in (run, alone)]
    if any(summary | {"final_model": None} != summaries[0] | {"final_model": None} for summary in summaries):
        yield f"summary.json differs: {first_difference(*([summary] for summary in summaries))}"
    folder = run.parent.parent
    if beside := {path.name for path in run.parent.iterdir()} - {"alone", "killed", "latest"}:
        yield f"left in {run.parent.name}/: {sorted(beside)}"
    if left := [path.name for path in (folder / "temporary").iterdir() if not path.name.startswith(LEFT_BY_SIGKILL)]:
        yield f"left in the folder for temporary files: {sorted(left)}"


def entries(run: Path) -> set[str]:
    """Return the paths of all files and folders of a run."""
    return {str(path.relative_to(run)) for path in run.rglob("*")}


def lines_of(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def without_measurements(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics without measured times and memory."""
    return {name: value for name, value in metrics.items() if not any(word in name for word in MEASURED)}


def first_difference(found: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> str:
    """Return the first entry in which lines differ, or their numbers."""
    for ours, theirs in zip(found, expected, strict=False):
        for name in {**theirs, **ours}:
            if ours.get(name) != theirs.get(name):
                shown = (str(ours.get(name))[:60], str(theirs.get(name))[:60])
                return f"{name} at step {theirs.get('step')} is {shown[0]} and not {shown[1]}"
    return f"{len(found)} lines and not {len(expected)}"


def has_each_step_once(configuration: Configuration, run: Path) -> bool:
    """Return whether the logs of the undisturbed run have one line a step, evaluation and completion."""
    steps = range(configuration.steps + 1)
    evaluations = [step for step in steps if step == 0 or configuration.is_evaluated(step)]
    rows = lines_of(run / "completions.jsonl")
    return (
        steps_in(run / "metrics.jsonl") == list(steps[1:])
        and steps_in(run / "eval.jsonl") == evaluations
        and len({(row["step"], row["row"], row["index"]) for row in rows}) == len(rows)
    )


# The whole


@dataclass
class Result:
    """The kills of one configuration and the differences they made."""

    name: str
    kills: list[Killed] = field(default_factory=list)
    runs: int = 0
    found: list[str] = field(default_factory=list)

    def row(self) -> str:
        """Return a line of the table."""
        total = Counter(each.kind for each in self.kills)
        hits = Counter(each.kind for each in self.kills if each.hit)
        cells = [str(total[RANDOM]), *(f"{hits[kind]}/{total[kind]}" for kind in AIMED)]
        verdict = "equal" if not self.found else f"{len(self.found)} differences"
        return " | ".join([self.name, str(self.runs), str(len(self.kills)), *cells, verdict])


def plan(kinds: Sequence[str], draw: random.Random) -> list[list[str]]:
    """Return the kinds of kills, shared out among runs; in a run, kills at its end come last."""
    shuffled = draw.sample(kinds, len(kinds))
    num_runs = max(1, round(len(kinds) / KILLS_IN_A_RUN))
    order = {"beginning": -1, "last step": 1, "final model": 2, "finished": 3}
    return [sorted(shuffled[number::num_runs], key=lambda kind: order.get(kind, 0)) for number in range(num_runs)]


def try_configuration(configuration: Configuration, kinds: Sequence[str], seed: int, root: Path) -> Result:
    """Run a configuration undisturbed and with kills of these kinds, and return the differences."""
    folder, draw = root / configuration.name, random.Random(f"{seed}/{configuration.name}")
    folder.mkdir()
    write_files(folder)
    alone, run = folder / "runs" / "alone", folder / "runs" / "killed"
    result = Result(configuration.name)
    spans = run_undisturbed(configuration, alone)
    if not has_each_step_once(configuration, alone):
        result.found.append("the undisturbed run does not have each line once")
    shown = ", ".join(f"{name} {span:.2f}" for name, span in spans.moments_s.items())
    say(configuration, f"undisturbed: {spans.whole_s:.1f} s ({shown})")

    def complete() -> None:
        result.runs += 1
        found = list(differences(run, alone))
        result.found += found
        for difference in found:
            say(configuration, f"DIFFERENCE in run {result.runs}: {difference}")
        if found:
            run.rename(folder / f"different-{result.runs}")
        else:
            shutil.rmtree(run)

    def kill_once(kind: str) -> None:
        for _ in range(TRIES):
            killed = kill(configuration, run, kind, spans, draw)
            if killed.was_killed:
                result.kills.append(killed)
                missed = "" if killed.hit else " (moment missed)"
                say(configuration, f"kill {len(result.kills)} {killed.kind}{missed} after step {killed.step}")
                return
            complete()

    def guarded(act: Callable[[], None]) -> None:
        try:
            act()
        except FailedRunError as failure:
            result.found.append(str(failure))
            say(configuration, f"FAILURE {failure}")
            run.rename(folder / f"failed-{len(result.found)}")

    def end() -> None:
        if run.exists():
            finish(start(configuration, run), folder)
            complete()

    for planned in plan(kinds, draw):
        for kind in planned:
            guarded(partial(kill_once, kind))
        guarded(end)
    return result


def say(configuration: Configuration, text: str) -> None:
    print(f"{configuration.name}: {text}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="configurations by name")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write the runs here and keep them")
    arguments = parser.parse_args()
    chosen = [each for each in CONFIGURATIONS if not arguments.only or each.name in arguments.only]
    if not chosen:
        parser.error(f"no configuration is called {arguments.only}: there are {[each.name for each in CONFIGURATIONS]}")
    aimed = itertools.cycle(AIMED)
    shares = [len(range(place, arguments.kills, len(chosen))) for place in range(len(chosen))]
    kinds = [[RANDOM] * (share - share // 2) + list(itertools.islice(aimed, share // 2)) for share in shares]
    with tempfile.TemporaryDirectory(prefix="grpo-kill-") as temporary, ThreadPoolExecutor(arguments.jobs) as jobs:
        root = arguments.keep or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        tried = [
            jobs.submit(try_configuration, each, share, arguments.seed, root)
            for each, share in zip(chosen, kinds, strict=True)
        ]
        results = [each.result() for each in tried]
    print(" | ".join(["configuration", "runs", "kills", RANDOM, *AIMED, "result"]))
    print(*(result.row() for result in results), sep="\n")
    print(*(f"{result.name}: {each}" for result in results for each in result.found), sep="\n")
    return 1 if any(result.found for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
