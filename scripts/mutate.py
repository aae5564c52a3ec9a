"""Measure the tests: change the package in one small place at random, and see whether a test fails.

    python scripts/mutate.py [--count 60] [--seed N] [--modules GLOB …] [--jobs 1] [--results FILE] [--list]

Draws single mutations (see `mutations.py`) of the modules that carry numbers and guarantees, runs the tests that
`TESTS` names for each, cheapest first, until one fails, and prints the score and the mutations that no test noticed.
Without `--seed` each call draws other ones and prints its seed. `--modules` narrows the draw to paths below `src/grpo`
(`rewards/*`, `update`). `--results` keeps a JSON line for each mutation; those that are already in the file are
not run again, so that a measurement that was interrupted continues. Not part of CI: a hundred mutations take about
half an hour on one core.

One process imports torch, transformers and peft, and is forked for each mutation. Each job has a copy of the
repository, which PYTHONPATH names too, so that programs started by tests see the mutation. A test that fails counts
if it passes without the mutation; otherwise it is left out, with a warning. A test that takes longer than
`--test-timeout` seconds counts as failed, and so does a run that takes longer than `--run-timeout`.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import random
import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forked_tests import ROOT, Workplace, import_what_tests_import
from mutations import Mutation, mutations_of

PACKAGE = "src/grpo"

# Whole runs: slow, and what they notice is mostly noticed before.
RUNS = ("tests/invariants/test_resume.py", "tests/assembly/test_trainer_api.py", "tests/assembly/test_going_on.py")
SEEN = "tests/assembly/test_rewards_see_the_run.py"
DEFAULTS = "tests/test_defaults.py"
UPDATE = ("tests/test_update.py", "tests/invariants/test_micro_batching.py")
ENGINE = ("tests/engines/*.py", DEFAULTS, "tests/invariants/test_engine_*.py")
POLICY = ("tests/policy/*.py", "tests/invariants/test_packed_equals_padded.py")
REWARDS = (
    *("tests/rewards/test_reward_suite.py", "tests/rewards/test_weights_and_gates.py"),
    *("tests/rewards/test_running_normalisation.py", "tests/rewards/test_reward_failures.py"),
    *("tests/rewards/test_reward_resolve.py", "tests/rewards/test_overlap.py", "tests/test_rollout.py"),
    *("tests/rewards/test_rewards_against_trl.py", "tests/assembly/test_reward_options_in_runs.py"),
    *("tests/tracking/test_completions.py", SEEN),
    *("tests/assembly/test_rewards_in_runs.py", DEFAULTS),
)

TESTS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("algorithm/*.py",), ("tests/algorithm/*.py", DEFAULTS, "tests/invariants/test_losses_*.py", *UPDATE)),
    (("update/memory.py",), ("tests/test_update_memory.py", "tests/assembly/test_budgets.py", *UPDATE)),
    (("update/*.py",), (*UPDATE, "tests/test_update_*.py", "tests/invariants/test_gradient*.py", *RUNS)),
    (("groups.py",), ("tests/test_groups.py", "tests/test_rollout.py", *UPDATE)),
    (("packing.py",), ("tests/test_packing.py", *UPDATE, "tests/invariants/test_packed_equals_padded.py")),
    (("rollout.py",), ("tests/test_rollout.py", "tests/rewards/test_overlap.py", "tests/environments/*.py", *RUNS)),
    (("evaluate.py", "intervals.py"), ("tests/test_intervals.py", "tests/test_evaluate.py", SEEN, RUNS[1])),
    (("schedules.py",), ("tests/test_schedules.py", "tests/test_update.py", RUNS[1])),
    (("seeding.py",), ("tests/test_seeding.py", "tests/test_rollout.py", "tests/tasks/test_order.py", *RUNS)),
    (
        ("types.py",),
        ("tests/test_groups.py", DEFAULTS, "tests/test_rollout.py", "tests/rewards/test_reward_suite.py", *UPDATE),
    ),
    (("engines/native/*.py",), ENGINE),
    (("rewards/rules/generated.py",), ("tests/demos/*.py", "tests/test_benchmarks.py")),
    (
        ("rewards/rules/*.py",),
        ("tests/rewards/test_[afl]*_rewards.py", "tests/rewards/test_length_reward.py", DEFAULTS),
    ),
    (("rewards/code.py",), ("tests/rewards/test_code_reward.py", DEFAULTS)),
    (("rewards/texts.py",), ("tests/rewards/test_format_rewards.py", "tests/rewards/test_answer_rewards.py", *REWARDS)),
    (("rewards/*.py",), REWARDS),
    (("tasks/program_answers.py",), ("tests/tasks/*.py", "tests/rewards/test_code_reward.py")),
    (("tasks/*.py",), ("tests/tasks/*.py", "tests/rewards/test_answer_rewards.py", "tests/test_evaluate.py")),
    (("policy/adapters.py",), ("tests/policy/test_adapters.py", DEFAULTS, "tests/policy/test_load.py", *RUNS)),
    (("policy/*.py",), POLICY),
    (("checkpoint/*.py",), ("tests/test_checkpoint.py", "tests/test_trainer.py", *RUNS)),
    (("diagnosis/*.py",), ("tests/diagnosis/*.py", "tests/tracking/test_journal.py")),
    (("tracking/*.py",), ("tests/tracking/*.py", "tests/test_cli.py", *RUNS)),
    (
        ("sandbox/unit_tests/*.py",),
        ("tests/sandbox/test_re*.py", "tests/sandbox/test_running.py", "tests/rewards/test_code_reward.py"),
    ),
    (("storage.py",), ("tests/test_storage.py", "tests/assembly/test_budgets.py")),
    (("assembly/budgets.py",), ("tests/assembly/test_budgets.py", "tests/test_update_memory.py")),
    (("assembly/resuming.py",), (*RUNS, "tests/assembly/test_bad_input.py")),
)
"""Test files for each module by globs; the first row that matches counts. The module's own doctests come first."""

LEFT_OUT = (
    *("*/__init__.py", "rewards/imports.py", "tasks/hub.py", "tracking/console.py", "tracking/panels.py"),
    *("tracking/formatting.py", "tracking/tensorboard.py", "tracking/wandb_tracker.py", "rewards/hooks.py"),
    *("policy/sources.py", "policy/files.py", "policy/flash.py"),
)
"""Modules of these rooms that carry neither numbers nor guarantees, or need what CI lacks."""


@dataclass(frozen=True)
class Task:
    """One mutation to try."""

    module: str
    mutation: Mutation
    source: bytes
    tests: tuple[str, ...]

    @property
    def key(self) -> str:
        """Name the mutation by what it does, so that results outlive other changes of the repository."""
        text = f"{self.module}\0{hashlib.sha256(self.source).hexdigest()}\0{self.mutation}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def tests_for(module: str) -> tuple[str, ...]:
    """Return the test files of a module, given as a path below `src/grpo`; none when it is not to be mutated."""
    if any(fnmatch.fnmatch(module, pattern) for pattern in LEFT_OUT):
        return ()
    for modules, globs in TESTS:
        # A star does not cross folders: rewards/judge is not meant by rewards/*.py.
        if any(fnmatch.fnmatch(module, each) and module.count("/") == each.count("/") for each in modules):
            found = [path for each in globs for path in sorted(ROOT.glob(each)) if path.name.startswith("test_")]
            doctests = [f"{PACKAGE}/{module}"] if ">>> " in (ROOT / PACKAGE / module).read_text() else []
            return tuple(dict.fromkeys([*doctests, *(str(path.relative_to(ROOT)) for path in found)]))
    return ()


def draw(count: int, seed: int, only: Sequence[str]) -> list[Task]:
    """Return `count` different mutations, any two places of the chosen modules being equally likely."""
    places = []
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        module = str(path.relative_to(ROOT / PACKAGE))
        chosen = not only or any(fnmatch.fnmatch(module, each) or module.startswith(f"{each}/") for each in only)
        tests = tests_for(module) if chosen else ()
        if tests:
            source = path.read_bytes()
            places += [(module, source, tests, place) for place in mutations_of(source)]
    numbers = random.Random(seed)
    numbers.shuffle(places)
    tasks = []
    for module, source, tests, place in places:
        mutation = numbers.choice(place)
        if mutation.is_valid(source):
            tasks.append(Task(module, mutation, source, tests))
        if len(tasks) == count:
            break
    return tasks


def try_mutation(task: Task, place: Workplace) -> dict[str, Any]:
    """Return the line of the results for one mutation."""
    began = time.monotonic()
    changed = task.mutation.apply(task.source)
    result = place.try_change(f"{PACKAGE}/{task.module}", task.source, changed, task.tests)
    return {
        "key": task.key,
        "module": task.module,
        "line": task.mutation.line,
        "diff": task.mutation.diff(task.source),
        "outcome": "survived" if result.passed else "timeout" if result.timed_out else "killed",
        "by": result.failed,
        "seconds": round(time.monotonic() - began, 1),
    }


def run_job(tasks: Sequence[Task], place: Workplace, results: Path) -> None:
    """Try mutations one after the other and append a line for each."""
    for task in tasks:
        line = try_mutation(task, place)
        with results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        where = f"{task.module}:{line['line']}"
        print(f"{line['outcome']:8} {line['seconds']:6.1f} s  {where}  {line['by'][:90]}", flush=True)


def known_results(results: Path, tasks: Sequence[Task]) -> dict[str, dict[str, Any]]:
    """Return the lines of these mutations by their keys."""
    keys = {task.key for task in tasks}
    lines: Iterator[dict[str, Any]] = map(json.loads, results.read_text().splitlines() if results.exists() else [])
    return {line["key"]: line for line in lines if line["key"] in keys}


def report(lines: Sequence[dict[str, Any]], seed: int) -> str:
    """Return the score and the survivors as small diffs."""
    survivors = [line for line in lines if line["outcome"] == "survived"]
    killed = len(lines) - len(survivors)
    shown = [f"{PACKAGE}/{line['module']}:{line['line']}\n{line['diff']}" for line in survivors]
    timeouts = sum(line["outcome"] == "timeout" for line in lines)
    score = f"seed {seed}: {killed} of {len(lines)} killed ({killed / max(1, len(lines)):.1%}), {timeouts} by time"
    return "\n\n".join([*shown, score])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--modules", nargs="*", default=[], metavar="GLOB")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--test-timeout", type=float, default=120.0, metavar="SECONDS")
    parser.add_argument("--run-timeout", type=float, default=1200.0, metavar="SECONDS")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "grpo-mutations")
    parser.add_argument("--list", action="store_true", help="print the mutations without trying them")
    arguments = parser.parse_args()
    seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    tasks = draw(arguments.count, seed, arguments.modules)
    if not tasks:
        parser.error(f"no module is called {arguments.modules}: give paths below {PACKAGE}, as rewards/*.py")
    print(f"seed {seed}: {len(tasks)} mutations", flush=True)
    if arguments.list:
        print("\n".join(f"{task.module}:{task.mutation.line}\n{task.mutation.diff(task.source)}" for task in tasks))
        return

    arguments.work.mkdir(parents=True, exist_ok=True)
    results = arguments.results or arguments.work / f"results-{seed}.jsonl"
    done = known_results(results, tasks)
    open_tasks = [task for task in tasks if task.key not in done]
    import_what_tests_import()
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        jobs = []
        for job in range(arguments.jobs):
            process = os.fork()
            if not process:
                code = 1
                try:
                    limits = {"test_timeout_s": arguments.test_timeout, "run_timeout_s": arguments.run_timeout}
                    place = Workplace(Path(folder) / f"job-{job}", **limits)
                    run_job(open_tasks[job :: arguments.jobs], place, results)
                    code = 0
                finally:
                    os._exit(code)
            jobs.append(process)
        for process in jobs:
            os.waitpid(process, 0)
    done = known_results(results, tasks)
    print(report([done[task.key] for task in tasks if task.key in done], seed))


if __name__ == "__main__":
    main()
