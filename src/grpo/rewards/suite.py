"""Several weighted reward functions as one, with failures kept apart from numbers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from grpo.distributed import Processes
from grpo.errors import ConfigError, DataError, RewardError
from grpo.plurals import counted
from grpo.rewards.calling.caller import Caller
from grpo.rewards.failures import describe_error, error_location
from grpo.rewards.function import RewardFunction, TrainerState
from grpo.rewards.gates import apply_gates, resolve_gates
from grpo.rewards.hooks import ChecksRows, CountsTotals, offers, read_states, restore_states
from grpo.rewards.metrics import RewardFigures, reward_metrics
from grpo.rewards.normalisation import RunningNormalisation, normalise_output
from grpo.rewards.output import RewardOutput
from grpo.rewards.scores import (
    ALL_REWARDS,
    absent_output,
    environment_outputs,
    log_entries,
    scores_of,
)
from grpo.rewards.scoring import Scoring
from grpo.rewards.weights import final_weight, weight_at
from grpo.types import Group, Prompt, Score, ScoredGroup, ScoredRollout

__all__ = ["RewardSuite", "SuiteResult"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """Scores of a step.

    Attributes:
        groups: the groups with their scores and the values that functions gave to `log_extra`.
        outputs: of each function and of each reward of the environment, by name.
        weights: of each of them in this step, by name.
        metrics: over the completions of all processes: `rewards/NAME/mean`, `rewards/NAME/std` (ddof 1; of
            completions that have a number; before it is normalised),
            `rewards/NAME/failed` (completions), `rewards/NAME/seconds` (of the longest call),
            `rewards/NAME/weight` (if it changes), `rewards/NAME/gated_out` (completions; if it has a gate),
            `rewards/NAME/AMOUNT_total` (of `totals`),
            `rewards/failed_completions`, `rewards/unscored` (completions to which no reward applies), and
            `user/METRIC` for numbers that functions gave to `log_metric`.
    """

    groups: tuple[ScoredGroup, ...]
    outputs: Mapping[str, RewardOutput]
    weights: Mapping[str, float]
    metrics: Mapping[str, float]


class RewardSuite:
    """Scores completions with several reward functions.

    Functions that are not async get the completions of a whole step at once and run one after another in the
    order given, in one thread. Async functions, and functions with processes of their own, run beside each other and
    beside these; they get a group at a time, as soon as it is finished, unless their `overlap` is off (an
    async function then gets the whole step). An exception, an exceeded time limit, a return value that is not one
    value a completion, and a value that is an exception, NaN or infinite are failures of the function for
    the completions concerned. Only KeyboardInterrupt passes through.
    """

    def __init__(
        self,
        functions: Sequence[RewardFunction],
        *,
        timeout_s: float | None = 60.0,
        max_failed_share: float = 0.5,
        seed: int = 0,
        processes: Processes | None = None,
        environment_weights: Mapping[str, float] | None = None,
    ) -> None:
        """Take the functions in the order in which logs show them.

        Args:
            timeout_s: seconds that one call of one function may take; None for no limit.
            max_failed_share: share of a step's completions that may lack a reward before the run stops.
            seed: of the run; seeds the generators of functions in processes.
            processes: those that share a step; normalisation, metrics and the share of failures are over the
                completions of all of them.
            environment_weights: of rewards that an environment gives, by name; 1 for a name that is not there.

        Raises:
            ConfigError: there is no function, two have one name, a gate is none of them, or a limit is impossible.
        """
        names = [function.name for function in functions]
        if not names:
            raise ConfigError("no reward function was given: name at least one")
        if len({*names, ALL_REWARDS}) <= len(names):
            raise ConfigError(f"rewards are named {names}: give each a different name; {ALL_REWARDS!r} is reserved")
        if timeout_s is not None and not timeout_s > 0:
            raise ConfigError(f"reward timeout is {timeout_s!r}: use seconds above 0, or none for no limit")
        if not 0 <= max_failed_share <= 1:
            raise ConfigError(f"max_failed_share is {max_failed_share!r}: use a share from 0 to 1")
        self.functions = resolve_gates(functions)
        self.timeout_s = timeout_s
        self.max_failed_share = max_failed_share
        self.processes = processes or Processes()
        self.environment_weights = dict(environment_weights or {})
        self._caller = Caller(self.functions, timeout_s=timeout_s, seed=seed)
        self._warned: set[str] = set()
        self._normalisations = {
            function.name: RunningNormalisation() for function in self.functions if function.normalise
        }
        self._is_evaluating = False

    def check_columns(self, columns: Collection[str]) -> None:
        """Check before the first step that the data set has the columns that the functions need.

        Raises:
            DataError: one is missing.
        """
        for function in self.functions:
            for missing in [name for name in function.columns if name not in columns]:
                raise DataError(
                    f"reward {function.name!r} needs the column {missing!r}, the data has {sorted(columns)}: "
                    f"rename a column of the data, or use another reward (a function may take prompts, completions, "
                    f"completion_ids and any column of the data)"
                )

    def check_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Check the data set before the first step, with the functions that have `check_rows`.

        Args:
            rows: columns of each row.

        Raises:
            DataError: a function cannot work with a row.
        """
        for function in self.functions:
            if isinstance(function.function, ChecksRows) and offers(function.function, ChecksRows):
                function.function.check_rows(rows)

    def score(
        self,
        groups: Sequence[Group],
        texts: Sequence[str],
        *,
        step: int,
        max_steps: int,
        epoch: float = 0.0,
        max_failed_share: float | None = None,
    ) -> SuiteResult:
        """Return the groups scored, with metrics.

        Args:
            texts: decoded completions in order of groups.
            step: optimizer steps done; functions see it with `max_steps` and `epoch` as `trainer_state`.
            max_failed_share: in place of the suite's own.

        Raises:
            RewardError: a larger share than `max_failed_share` failed; its cause is the first exception.
        """
        prompts = [group.prompt for group in groups]
        scoring = self.begin(prompts, step=step, max_steps=max_steps, epoch=epoch)
        remaining = iter(texts)
        for place, group in enumerate(groups):
            scoring.add(place, group.rollouts, [next(remaining) for _ in group.rollouts])
        return self.conclude(scoring, max_failed_share=max_failed_share)

    def begin(
        self, prompts: Sequence[Prompt], *, step: int, max_steps: int, epoch: float = 0.0, first: int = 0
    ) -> Scoring:
        """Return a scoring that takes the groups of these prompts one by one and ends with `conclude`.

        Other arguments are those of `score`.

        Args:
            first: number of the first group among those of all processes.
        """
        weights = {
            function.name: final_weight(function.weight) if self._is_evaluating else weight_at(function.weight, step)
            for function in self.functions
        }
        state = TrainerState(step, max_steps, epoch)
        return Scoring(self.functions, self._caller, prompts, state, weights, first=first)

    def conclude(self, scoring: Scoring, *, max_failed_share: float | None = None) -> SuiteResult:
        """Wait for the calls of a scoring that has all its groups, and return the groups scored.

        Args:
            max_failed_share: in place of the suite's own.

        Raises:
            RewardError: as `score`.
        """
        outputs = scoring.finish()
        if not self._is_evaluating:
            for name, running in self._normalisations.items():
                outputs[name] = normalise_output(outputs[name], running, self.processes)
        outputs = apply_gates(self.functions, outputs)
        groups, texts = scoring.groups, scoring.texts
        outputs |= environment_outputs(groups, taken=outputs)
        weights = {name: self.environment_weights.get(name, 1.0) for name in outputs} | dict(scoring.weights)
        scores = scores_of(outputs, weights)
        self._warn_of_failures(outputs)
        allowed = self.max_failed_share if max_failed_share is None else max_failed_share
        self._check_failed_share(outputs, scores, allowed, scoring.state.global_step)
        self._warn_if_unscored(scores)
        rollouts = (rollout for group in groups for rollout in group.rollouts)
        members = map(ScoredRollout, rollouts, texts, scores, log_entries(outputs, len(texts), self._warned))
        scored = tuple(ScoredGroup(group.prompt, tuple(next(members) for _ in group.rollouts)) for group in groups)
        return SuiteResult(scored, outputs, weights, self._metrics(scored, outputs, weights))

    def metrics_of(self, results: Sequence[SuiteResult]) -> dict[str, float]:
        """Return the metrics of several scorings as if their completions had been scored together."""
        if len(results) == 1:
            return dict(results[0].metrics)
        outputs: dict[str, RewardOutput] = {}
        for name in dict.fromkeys(name for result in results for name in result.outputs):
            parts = [result.outputs.get(name) or absent_output(result.groups) for result in results]
            outputs[name] = RewardOutput.concat(parts, seconds=sum(part.seconds for part in parts))
        return self._metrics([group for result in results for group in result.groups], outputs, results[-1].weights)

    def _metrics(
        self, groups: Sequence[ScoredGroup], outputs: Mapping[str, RewardOutput], weights: Mapping[str, float]
    ) -> dict[str, float]:
        scores = [member.score for group in groups for member in group.rollouts]
        counts = {
            "rewards/failed_completions": float(sum(bool(score.failures) for score in scores)),
            "rewards/unscored": float(sum(score.is_unscored for score in scores)),
        }
        figures = self.processes.sum({name: RewardFigures.of(output) for name, output in outputs.items()})
        metrics = reward_metrics(self.functions, figures, weights)
        for name, amounts in self.totals().items():
            metrics |= {f"rewards/{name}/{amount}_total": number for amount, number in amounts.items()}
        return metrics | self.processes.sum(counts)

    def totals(self) -> dict[str, dict[str, float]]:
        """Return the totals since the run began of functions that count them, as a judge does, by name.

        They are summed over the processes, so all of them call this together.
        """
        totals: dict[str, dict[str, float]] = {}
        for function in self.functions:
            reward: object = function.function
            if isinstance(reward, CountsTotals) and offers(reward, CountsTotals):
                totals[function.name] = self.processes.sum(dict(reward.totals))
        return totals

    def close(self) -> None:
        """End the processes of functions that have any; a later scoring starts new ones."""
        self._caller.close()

    def _warn_of_failures(self, outputs: Mapping[str, RewardOutput]) -> None:
        """Warn once in a run of each reward that fails for some completions, with its first exception."""
        for function in self.functions:
            count, failures = len(outputs[function.name].values), outputs[function.name].failures
            key = f"{function.name} failed"
            if 0 < len(failures) < count and key not in self._warned:
                self._warned.add(key)
                _logger.warning(
                    "reward %r failed for %d of %d completions: %s (shown once; completions.jsonl has them all)",
                    function.name,
                    len(failures),
                    count,
                    _describe(failures[0].error, function),
                )

    def _warn_if_unscored(self, scores: Sequence[Score]) -> None:
        """Warn once in a run of a step in which no reward applies to any completion."""
        if scores and all(score.is_unscored for score in scores) and ALL_REWARDS not in self._warned:
            self._warned.add(ALL_REWARDS)
            _logger.warning(
                "no reward applies to any of %d completions (all returned None), so they train nothing: let a reward "
                "return numbers (shown once)",
                len(scores),
            )

    def _check_failed_share(
        self, outputs: Mapping[str, RewardOutput], scores: Sequence[Score], allowed: float, step: int
    ) -> None:
        failed_here = sum(bool(score.failures) for score in scores)
        totals = self.processes.sum({"failed": failed_here, "scored": len(scores)})
        failed, scored = totals["failed"], totals["scored"]
        if failed <= allowed * scored:
            return
        first, cause = self._first_failure(outputs, scores) if failed_here else ("on another process", None)
        raise RewardError(
            f"{failed} of {scored} completions after {counted(step, 'step')} have no valid reward, "
            f"max_failed_share={allowed:g} allows fewer; first failure: {first}: "
            f"fix the function or raise max_failed_share"
        ) from cause

    def _first_failure(
        self, outputs: Mapping[str, RewardOutput], scores: Sequence[Score]
    ) -> tuple[str, BaseException | None]:
        """Return the first failure in words, and its exception if a function raised one."""
        for function in self.functions:
            for failure in outputs[function.name].failures:
                return f"reward {function.name!r}: {_describe(failure.error, function)}", failure.error
        for name, output in outputs.items():
            for failure in output.failures:
                return f"the environment's reward {name!r}: {describe_error(failure.error)}", failure.error
        line = next(score.failures[ALL_REWARDS] for score in scores if ALL_REWARDS in score.failures)
        return f"all rewards: {line}", None

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Score with the last weights of schedules and without normalisation, whose state stays unchanged.

        Results of different steps can then be compared, and an evaluation does not change the training.
        """
        before, self._is_evaluating = self._is_evaluating, True
        try:
            yield
        finally:
            self._is_evaluating = before

    def state_dict(self) -> dict[str, Any]:
        """Return the states of stateful functions and of normalisations, by name, as JSON has them.

        Raises:
            RewardError: a function's `state_dict()` cannot be saved.
        """
        states = {
            "functions": read_states(self.functions),
            "normalisations": {name: running.state_dict() for name, running in self._normalisations.items()},
        }
        return {kind: by_name for kind, by_name in states.items() if by_name}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; a function without a saved state stays as it is.

        Raises:
            CheckpointError: a state has another form, or a function refuses it.
        """
        restore_states(self.functions, states.get("functions", {}))
        for name, state in states.get("normalisations", {}).items():
            if name in self._normalisations:
                self._normalisations[name].load_state_dict(state)


def _describe(error: BaseException, function: RewardFunction) -> str:
    """Return an exception in one line, with its place in the user's code."""
    location = error_location(error, function.function)
    return describe_error(error) + ("" if location is None else f" (at {location})")
