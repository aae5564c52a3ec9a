"""Training runs: from a configuration to a run directory, and on from there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from grpo.algorithm import Method
from grpo.build.budgets import take_budgets
from grpo.build.data import Prompts, evaluation_task, make_prompts, make_task
from grpo.build.given import Given, require_objects, write_objects
from grpo.build.parts import (
    decoder,
    make_collector,
    make_engine,
    make_learner,
    make_method,
    make_policy,
    make_rewards,
    number_of_steps,
    offer_base,
    sampling_params,
    take_threads,
)
from grpo.checkpoint import CheckpointStore, Progress, TrainingState
from grpo.config import GRPOConfig
from grpo.engines.native import NativeEngine
from grpo.errors import CheckpointError, ConfigError, InputError
from grpo.evaluate import Evaluator
from grpo.machine import keep_freed_memory
from grpo.policy import Policy
from grpo.rewards import Backbones, RewardSuite
from grpo.storage import require_free_space
from grpo.tasks import Task
from grpo.tracking import Journal, RunDirectory, TensorBoardTracker, Tracker, WandbTracker, find_run, require_empty
from grpo.tracking.console import Console, RunInfo
from grpo.trainer import Outcome, Plan, Trainer

__all__ = ["Parts", "assemble", "resume", "resume_with", "train", "train_parts"]

_FIXED = (
    *("model", "tokenizer", "revision", "lora_rank", "lora_alpha", "lora_targets", "reference_model"),
    *("task", "train_file", "eval_file", "dataset", "dataset_config", "train_split", "eval_split", "train_size"),
    *("prompt_column", "answer_column", "max_prompt_length", "shuffle", "eval_size", "max_operand", "operators"),
    *("seed", "output_dir", "run_name"),
)
"""Options that cannot change in the middle of a run."""

_BYTES_PER_TRAINED_PARAMETER = 12
"""In a checkpoint: the weight and AdamW's two moments, float32 each."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run is made of before anything is written."""

    config: GRPOConfig
    given: Given
    task: Task
    policy: Policy
    prompts: Prompts
    rewards: RewardSuite
    method: Method
    engine: NativeEngine
    evaluator: Evaluator | None


def assemble(
    config: GRPOConfig, given: Given | None = None, *, policy: Policy | None = None, only_evaluate: bool = False
) -> Parts:
    """Return the parts of a run; whatever is wrong with the input shows here, before anything is written.

    Args:
        policy: made of the same configuration before; None: a new one.
        only_evaluate: rows to train on may be missing.
    """
    given = given or Given()
    config = take_threads(config)
    keep_freed_memory()
    if config.rollout.temperature == 0 and not only_evaluate:
        raise ConfigError("temperature is 0: all completions of a group would be the same; train with one above 0")
    method = make_method(config)
    task = evaluation_task(config, given) if only_evaluate else make_task(config, given)
    # Made by whoever needs it first: bad rewards are to show before a large model is loaded.
    the_policy = cache(lambda: make_policy(config, given) if policy is None else policy)
    backbones = Backbones()
    offer_base(backbones, config, given, the_policy)
    rewards = make_rewards(config, given, (task.train or task.evaluation)[0].columns, backbones)
    policy = the_policy()
    prompts = make_prompts(config, task, policy)
    config = take_budgets(config, policy, [*prompts.train, *prompts.evaluation], trains=not only_evaluate)
    engine = make_engine(config, policy)
    evaluator = None
    if prompts.evaluation:
        evaluator = Evaluator(
            engine,
            prompts.evaluation,
            decoder(policy),
            rewards=rewards,
            judge=task.judge,
            sampling=sampling_params(config),
            samples=config.output.eval_samples,
            seed=config.optimizer.seed,
        )
    return Parts(config, given, task, policy, prompts, rewards, method, engine, evaluator)


def train(config: GRPOConfig, given: Given | None = None) -> Outcome:
    """Train in a new run directory and return how it ended.

    Raises:
        InputError: the configuration, data, model or output directory cannot be used; nothing was written.
        RunError: it failed while running; what was saved before is intact.
    """
    if (directory := _output_directory(config)) is not None:
        require_empty(directory)
    return train_parts(assemble(config, given))


def train_parts(parts: Parts) -> Outcome:
    """Train the policy of `parts` from where it is, in a new run directory; errors as `train`."""
    directory = _output_directory(parts.config)
    needed = _BYTES_PER_TRAINED_PARAMETER * parts.policy.num_trainable_parameters
    require_free_space(directory or Path("runs"), needed)
    with RunDirectory.create(directory, name=parts.task.name) as run:
        run.write_config(parts.config.to_yaml())
        write_objects(run.path, parts.given.names())
        try:
            return _run(parts, run, Progress())
        except InputError:
            if not (run.path / "metrics.jsonl").exists() and not (run.path / "eval.jsonl").exists():
                run.discard()
            raise


def _output_directory(config: GRPOConfig) -> Path | None:
    """Return where the run was told to go; None: a new place below runs/."""
    output = config.output
    if output.output_dir is not None:
        return Path(output.output_dir)
    return Path("runs", output.run_name) if output.run_name is not None else None


def resume(path: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Outcome:
    """Go on with a run from its newest good checkpoint (from its beginning when there is none).

    Args:
        overrides: options that change from here on, as `steps=200`.

    Raises:
        CheckpointError: no run is there, or all its checkpoints are damaged.
        ConfigError: an option cannot change in the middle of a run, or objects are needed that only Python can give.
    """
    return resume_with(path, assemble, overrides)[0]


def resume_with(
    path: str | Path,
    make_parts: Callable[[GRPOConfig], Parts],
    overrides: Sequence[str] | Mapping[str, Any],
    objects: Collection[str] = (),
) -> tuple[Outcome, Parts]:
    """Go on with a run, as `resume`, with the parts that `make_parts` makes of its configuration; return both.

    Args:
        objects: names of what is given from Python.
    """
    directory = find_run(path)
    require_objects(directory, objects)
    before = GRPOConfig.from_file(directory / "config.yaml")
    config = _changed(before, overrides)
    with RunDirectory.open(path) as run:
        checkpoint = CheckpointStore(run.path, config.output.keep_checkpoints).newest()
        progress = Progress() if checkpoint is None else checkpoint.state.progress
        if "tokens_per_micro_batch" in before.differences(config):
            progress = replace(progress, lowered_budget=None)
        if checkpoint is None and "model" in objects:
            raise CheckpointError(
                f"{directory} has no checkpoint, and its model is in memory, perhaps trained since: start a new run"
            )
        parts = make_parts(config)
        if number_of_steps(config, len(parts.prompts.train)) < progress.step:
            raise ConfigError(f"{directory} has done {progress.step} steps already: give more, as steps=N")
        run.write_config(parts.config.to_yaml())
        if checkpoint is None:
            run.rewind(-1)
            return _run(parts, run, progress), parts
        parts.policy.load_weights(checkpoint.path)
        run.rewind(progress.step)
        return _run(parts, run, progress, checkpoint.state), parts


def _changed(config: GRPOConfig, overrides: Sequence[str] | Mapping[str, Any]) -> GRPOConfig:
    if not overrides:
        return config
    if not isinstance(overrides, Mapping):
        from grpo.config.overrides import parse_overrides

        overrides = parse_overrides(overrides)
    changed = config.replace(**overrides)
    fixed = [name for name in config.differences(changed) if name in _FIXED]
    if fixed:
        was, wanted = config.differences(changed)[fixed[0]]
        raise ConfigError(
            f"{fixed[0]} is {was!r} in this run and cannot become {wanted!r} in the middle of it: start a new run"
        )
    return changed


def _run(parts: Parts, run: RunDirectory, progress: Progress, state: TrainingState | None = None) -> Outcome:
    config, policy = parts.config, parts.policy
    steps = number_of_steps(config, len(parts.prompts.train))
    learner = make_learner(config, policy, parts.method, steps=steps, lowered_budget=progress.lowered_budget)
    if state is not None:
        learner.optimizer.load_state_dict(dict(state.optimizer))
        parts.rewards.load_state_dict(state.rewards)
    parts.engine.load_weights(policy.model, version=progress.step)
    with ExitStack() as stack:
        console = stack.enter_context(Console(log_every=config.output.log_every, live=config.output.live))
        stack.enter_context(_warnings_on(console))
        trackers = _trackers(config, run.path)
        for tracker in trackers:
            tracker.start(config.flat(), step=progress.step)
        console.start(_run_info(parts, run.path, steps, progress.step))
        journal = Journal(
            run,
            console,
            trackers,
            log_every=config.output.log_every,
            log_completions=config.output.log_completions,
        )
        _remark(parts, journal)
        trainer = Trainer(
            policy=policy,
            engine=parts.engine,
            collector=make_collector(config, policy, parts.engine, parts.prompts.train, parts.rewards, steps=steps),
            learner=learner,
            evaluator=parts.evaluator,
            journal=journal,
            checkpoints=CheckpointStore(run.path, config.output.keep_checkpoints),
            plan=Plan(
                steps=steps,
                eval_every=config.output.eval_every,
                save_every=config.output.save_every,
                seed=config.optimizer.seed,
                eval_at_start=config.output.eval_at_start,
            ),
            progress=progress,
        )
        outcome = trainer.train()
        if outcome.signal_number is not None:
            for tracker in trackers:
                tracker.finish(outcome.summary)
            console.close()
            done = f"saved after step {trainer.progress.step}" if trainer.progress.step else "nothing was trained yet"
            journal.note(f"{done}; go on with: grpo train --resume {run.path}")
        return outcome


def _remark(parts: Parts, journal: Journal) -> None:
    """Say what was left out of the data."""
    if parts.prompts.dropped:
        journal.warn(
            f"{parts.prompts.dropped} rows have prompts longer than {parts.prompts.limit} tokens and were left out: "
            f"{_way_to_longer_prompts(parts)} to keep them"
        )
    if parts.task.removed:
        journal.warn(f"{parts.task.removed} training rows are also evaluation rows and were left out of training")
    if parts.evaluator is None:
        journal.note("nothing is held out, so nothing is evaluated: give eval_file or eval_size to see accuracy")


def _way_to_longer_prompts(parts: Parts) -> str:
    if parts.prompts.limit == parts.config.data.max_prompt_length:
        return "raise max_prompt_length"
    return f"the model has {parts.policy.context_length} positions, so lower max_completion_length"


def _run_info(parts: Parts, path: Path, steps: int, first_step: int) -> RunInfo:
    config, policy = parts.config, parts.policy
    example = parts.prompts.evaluation or parts.prompts.train
    raw = example[0].raw
    return RunInfo(
        model=config.policy.model if parts.given.model is None else f"{type(parts.given.model).__name__} (object)",
        trained_parameters=policy.num_trainable_parameters,
        total_parameters=policy.num_parameters,
        task=parts.task.name,
        train_rows=len(parts.prompts.train),
        eval_rows=len(parts.prompts.evaluation),
        method=config.algorithm.method,
        group_size=config.rollout.group_size,
        prompts_per_step=config.rollout.prompts_per_step,
        steps=steps,
        run_path=path,
        first_step=first_step,
        rewards=[function.name for function in parts.rewards.functions],
        device=str(policy.device),
        example_prompt=raw if isinstance(raw, str) else str(raw[-1]["content"]),
    )


def _trackers(config: GRPOConfig, path: Path) -> list[Tracker]:
    trackers: list[Tracker] = []
    if config.output.tensorboard:
        trackers.append(TensorBoardTracker(path))
    if config.output.wandb:
        trackers.append(
            WandbTracker(path, project=config.output.wandb_project or "grpo", name=config.output.wandb_run_name)
        )
    return trackers


@contextmanager
def _warnings_on(console: Console) -> Iterator[None]:
    """Send what the package's parts log to the run's screen, where it does not break the live display."""
    logger = logging.getLogger("grpo")
    handlers, propagate = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [_ConsoleHandler(console)], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(level=logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.warn(record.getMessage())
