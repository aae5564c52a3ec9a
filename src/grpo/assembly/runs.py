"""Training runs: from the parts of a run to a run directory."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

from grpo.assembly.announcement import (
    Changes,
    announce,
    make_trackers,
    remark_on_data,
    remark_on_learning_rate,
    warnings_on,
)
from grpo.assembly.assembly import Parts, assemble
from grpo.assembly.invocation import own_command
from grpo.assembly.objects import PythonObjects, python_command, write_objects
from grpo.assembly.parts import make_collector, make_learner, number_of_steps
from grpo.assembly.run_record import RunRecord
from grpo.checkpoint import (
    CheckpointStore,
    Progress,
    Stateful,
    TrainingState,
    checkpoint_steps,
    require_saveable,
)
from grpo.config import GRPOConfig
from grpo.distributed import connected_processes
from grpo.engines import sync_weights
from grpo.errors import GrpoError, InputError, add_remedy
from grpo.machine import OUT_OF_MEMORY, is_out_of_memory
from grpo.rewards.failures import describe_error
from grpo.storage import expanded, require_free_space, require_short_names
from grpo.tracking import Failure, Journal, RunDirectory, require_empty
from grpo.tracking.console import Console
from grpo.trainer import Outcome, Plan, Trainer

__all__ = ["output_directory", "run_parts", "train", "train_parts"]

_BYTES_PER_TRAINED_PARAMETER = 12
"""In a checkpoint: the weight and AdamW's two moments, float32 each."""


def train(config: GRPOConfig) -> Outcome:
    """Train in a new run directory and return how it ended.

    Raises:
        InputError: the configuration, data, model or output directory cannot be used; nothing was written.
        RunError: it failed while running; what was saved before is intact.
    """
    if (directory := output_directory(config)) is not None:
        require_empty(directory)
    return train_parts(assemble(config))


def train_parts(parts: Parts) -> Outcome:
    """Train the policy of `parts` from where it is, in a new run directory; errors as `train`."""
    directory = output_directory(parts.config)
    needed = _BYTES_PER_TRAINED_PARAMETER * parts.policy.num_trainable_parameters
    require_free_space(directory or Path("runs"), needed)
    with RunDirectory.create(directory, name=parts.task.name) as run:
        run.write_config(parts.config.to_yaml())
        RunRecord.of(parts.config).write(run.path)
        write_objects(run.path, parts.objects.names())
        try:
            return run_parts(parts, run, Progress())
        except (InputError, KeyboardInterrupt, SystemExit) as error:
            evaluated = isinstance(error, InputError) and (run.path / "eval.jsonl").exists()
            if not evaluated and not (run.path / "metrics.jsonl").exists():
                run.discard()
            raise


def output_directory(config: GRPOConfig) -> Path | None:
    """Return the output directory that the configuration names; None: a new one below runs/."""
    output = config.output
    if output.output_dir is not None:
        return require_short_names(expanded(output.output_dir))
    return require_short_names(Path("runs", output.run_name)) if output.run_name is not None else None


def run_parts(
    parts: Parts,
    run: RunDirectory,
    progress: Progress,
    state: TrainingState | None = None,
    *,
    changes: Changes = MappingProxyType({}),
    notes: Sequence[str] = (),
) -> Outcome:
    """Train from `progress` on, in a run directory that is open, and return how it ended.

    Args:
        state: of optimizer and rewards, in a resumed run; the policy has its weights already.
        changes: options that differ from those of the run so far.
        notes: remarks on the resume, for the screen.
    """
    config, policy = parts.config, parts.policy
    steps = number_of_steps(config, len(parts.prompts.train))
    learner = make_learner(config, policy, parts.method, parts.sampler.capabilities, steps=steps)
    stateful: dict[str, Stateful] = {"learner": learner, "rewards": parts.rewards}
    if isinstance(parts.episodes.environment, Stateful):
        stateful["environment"] = parts.episodes.environment
    if state is not None:
        state.restore(stateful)
    require_saveable({name: part for name, part in stateful.items() if part is not learner})
    sync_weights(parts.sampler, policy.export_weights(), version=progress.step)
    with ExitStack() as stack:
        stack.callback(parts.rewards.close)
        console = stack.enter_context(Console(log_every=config.output.log_every, live=config.output.live))
        stack.enter_context(warnings_on(console))
        journal = Journal(
            run,
            console,
            make_trackers(config, run.path),
            log_every=config.output.log_every,
            log_completions=config.output.log_completions,
            options=config.flat(),
        )
        for tracker in journal.trackers:
            tracker.start(config.flat(), step=progress.step)
        console.start(announce(parts, run.path, steps, progress.step, changes))
        for note in notes:
            journal.note(note)
        if changes and progress.step < steps and (lines := run.metrics()):
            remark_on_learning_rate(lines[-1], learner.learning_rate(progress.step + 1), changes, journal)
        if not parts.sampler.capabilities.seeded:
            journal.note(f"engine {config.rollout.engine} cannot repeat completions: a resumed run samples others")
        remark_on_data(parts, journal)
        trainer = Trainer(
            policy=policy,
            sampler=parts.sampler,
            collector=make_collector(
                config, parts.episodes, parts.prompts.train, parts.rewards, parts.method, steps=steps
            ),
            learner=learner,
            evaluator=parts.evaluator,
            journal=journal,
            checkpoints=CheckpointStore(run.path, config.output.keep_checkpoints),
            plan=_plan(config, steps),
            progress=progress,
            parts=stateful,
            processes=connected_processes(),
        )
        try:
            outcome = trainer.train()
        except Exception as error:
            # A disk that is full, for instance, fails these as well; the first error is the one to show.
            with contextlib.suppress(Exception):
                trainer.rescue()
            saved = max(checkpoint_steps(run.path), default=None)
            remedy = "nothing is saved: correct the cause and start again"
            if saved is not None:
                remedy = f"saved after step {saved}; {_resume_with(run.path, parts.objects)}"
                add_remedy(error, remedy)
            with contextlib.suppress(Exception):
                run.write_failure(Failure(trainer.progress.step, _reason(error), remedy))
            with contextlib.suppress(Exception):
                journal.interrupted(trainer.summary())
            raise
        except (KeyboardInterrupt, SystemExit):
            console.clear()
            raise
        if outcome.signal_number is not None:
            step = trainer.progress.step
            done = f"saved after step {step}" if step else "nothing was trained yet"
            journal.interrupted(outcome.summary, f"{done}; {_resume_with(run.path, parts.objects)}")
        return outcome


def _reason(error: Exception) -> str:
    """Return an error in one line."""
    if isinstance(error, GrpoError):
        return " ".join(str(error).split())
    return OUT_OF_MEMORY if is_out_of_memory(error) else describe_error(error)


def _resume_with(run: Path, objects: PythonObjects) -> str:
    if names := objects.names():
        return f"resume with: {python_command(run, names)}"
    return f"resume with: {own_command()} train --resume {shlex.quote(str(run))}"


def _plan(config: GRPOConfig, steps: int) -> Plan:
    return Plan(
        steps=steps,
        eval_every=config.output.eval_every,
        save_every=config.output.save_every,
        seed=config.optimizer.seed,
        eval_at_start=config.output.eval_at_start,
    )
