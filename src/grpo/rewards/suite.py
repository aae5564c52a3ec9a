"""Several weighted reward functions as one: scores, and failures kept apart from numbers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from grpo.distributed import Processes
from grpo.errors import ConfigError, DataError, RewardError
from grpo.rewards.calling.caller import Caller
from grpo.rewards.columns import NO_REWARD, Column, figures, joined, logged_values, score_at
from grpo.rewards.function import RewardFunction, TrainerState
from grpo.rewards.gates import apply_gates, with_gates_found
from grpo.rewards.hooks import ChecksRows, CountsTotals
from grpo.rewards.normalisation import RunningNormalisation, normalised_column
from grpo.rewards.readout import Failed, in_one_line, origin
from grpo.rewards.scoring import Scoring
from grpo.rewards.state import read_states, restore_states
from grpo.rewards.weights import final_weight, weight_at
from grpo.types import Group, Prompt, Score, ScoredGroup, ScoredRollout

__all__ = ["RewardSuite", "SuiteResult"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """A step's scores.

    Attributes:
        groups: the groups that were given, scored; with what functions gave to `log_extra`.
        columns: what each function said, in order of the functions.
        metrics: `rewards/NAME/mean`, `rewards/NAME/std` (ddof 1; of completions that have a number; before it is
            normalised),
            `rewards/NAME/failed` (completions), `rewards/NAME/seconds` (of the longest call),
            `rewards/NAME/weight` (if it changes), `rewards/NAME/gated_out` (completions; if it has a gate),
            `rewards/NAME/AMOUNT_total` (of `totals`),
            `rewards/failed_completions`, and `user/METRIC` for what functions gave to `log_metric`.
    """

    groups: tuple[ScoredGroup, ...]
    columns: tuple[Column, ...]
    metrics: Mapping[str, float]


class RewardSuite:
    """Scores completions with several reward functions.

    Functions that are not async get the completions of a whole step at once and run one after another in the
    order given, in one worker thread. Async ones, and those with processes of their own, run beside each other and
    beside these; they get a group at a time, as soon as it is there, unless they are told not to overlap (then
    async ones get the whole step). Whatever a function does wrong is a failure of that function for
    the completions concerned: it raised, took too long, returned something else than one value a
    completion, or a value that is an exception, NaN or infinite. Only KeyboardInterrupt passes through.
    """

    def __init__(
        self,
        functions: Sequence[RewardFunction],
        *,
        timeout_s: float | None = 60.0,
        max_failed_share: float = 0.5,
        seed: int = 0,
        processes: Processes | None = None,
    ) -> None:
        """Take the functions in the order in which logs show them.

        Args:
            timeout_s: seconds that one call of one function may take; None for no limit.
            max_failed_share: share of a step's completions that may lack a reward before the run stops.
            seed: of the run; functions in processes of their own draw from it.
            processes: those that share a step; the share of failures is over the completions of all of them.

        Raises:
            ConfigError: there is no function, two have one name, a gate is none of them, or a limit makes no sense.
        """
        names = [function.name for function in functions]
        if not names:
            raise ConfigError("no reward function was given: name at least one")
        if len({*names, NO_REWARD}) <= len(names):
            raise ConfigError(f"rewards are named {names}: give each its own name, and none {NO_REWARD!r}")
        if timeout_s is not None and not timeout_s > 0:
            raise ConfigError(f"reward timeout is {timeout_s!r}: use seconds above 0, or none for no limit")
        if not 0 <= max_failed_share <= 1:
            raise ConfigError(f"max_failed_share is {max_failed_share!r}: use a share from 0 to 1")
        self.functions = with_gates_found(functions)
        self.timeout_s = timeout_s
        self.max_failed_share = max_failed_share
        self.processes = processes or Processes()
        self._caller = Caller(self.functions, timeout_s=timeout_s, seed=seed)
        self._said: set[str] = set()
        self._running = {function.name: RunningNormalisation() for function in self.functions if function.normalise}
        self._evaluates = False

    def check_columns(self, columns: Collection[str]) -> None:
        """Check before the first step that the data set has the columns that the functions need.

        Raises:
            DataError: one is missing.
        """
        for function in self.functions:
            for missing in [name for name in function.columns if name not in columns]:
                raise DataError(
                    f"reward {function.name!r} needs the column {missing!r}, the data has {sorted(columns)}: "
                    f"map a column to that name, or use another reward (one is called with prompts, completions, "
                    f"completion_ids and the data's columns by name)"
                )

    def check_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Let functions that can look at the data set, row by row, before the first step.

        Args:
            rows: columns of each row.

        Raises:
            DataError: a function cannot work with a row.
        """
        for function in self.functions:
            if isinstance(function.function, ChecksRows):
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
            step: optimizer steps done; with `max_steps` and `epoch` what functions see as `trainer_state`.
            max_failed_share: in place of the suite's own.

        Raises:
            RewardError: a larger share than `max_failed_share` failed; its cause is the first exception.
        """
        prompts = [group.prompt for group in groups]
        scoring = self.begin(prompts, step=step, max_steps=max_steps, epoch=epoch)
        left = iter(texts)
        for place, group in enumerate(groups):
            scoring.add(place, group.rollouts, [next(left) for _ in group.rollouts])
        return self.conclude(scoring, max_failed_share=max_failed_share)

    def begin(self, prompts: Sequence[Prompt], *, step: int, max_steps: int, epoch: float = 0.0) -> Scoring:
        """Return what takes the groups of these prompts one by one; `conclude` makes of it what `score` returns.

        Arguments are those of `score`.
        """

        weights = {
            function.name: final_weight(function.weight) if self._evaluates else weight_at(function.weight, step)
            for function in self.functions
        }
        return Scoring(self.functions, self._caller, prompts, TrainerState(step, max_steps, epoch), weights)

    def conclude(self, scoring: Scoring, *, max_failed_share: float | None = None) -> SuiteResult:
        """Wait for the calls of a scoring that has all its groups, and return them scored.

        Args:
            max_failed_share: in place of the suite's own.

        Raises:
            RewardError: as `score`.
        """
        columns = apply_gates([self._normalised(column) for column in scoring.finish()])
        groups, texts = scoring.groups, scoring.texts
        scores = [score_at(columns, place) for place in range(len(texts))]
        self._say_failures(columns, len(texts))
        allowed = self.max_failed_share if max_failed_share is None else max_failed_share
        self._check_failed_share(columns, scores, allowed, scoring.state.global_step)
        logged = logged_values(columns, len(texts), self._said)
        scored = iter(map(ScoredRollout, (r for group in groups for r in group.rollouts), texts, scores, logged))
        scored_groups = tuple(ScoredGroup(one.prompt, tuple(next(scored) for _ in one.rollouts)) for one in groups)
        return SuiteResult(scored_groups, tuple(columns), self._metrics(columns, scored_groups))

    def metrics_of(self, results: Sequence[SuiteResult]) -> dict[str, float]:
        """Return the metrics of several scorings as if their completions had been scored together."""
        columns = [joined(parts) for parts in zip(*(result.columns for result in results), strict=True)]
        return self._metrics(columns, [group for result in results for group in result.groups])

    def _metrics(self, columns: Sequence[Column], groups: Sequence[ScoredGroup]) -> dict[str, float]:
        metrics = figures(columns)
        for name, amounts in self.totals().items():
            metrics |= {f"rewards/{name}/{amount}_total": number for amount, number in amounts.items()}
        failed = sum(bool(member.score.failures) for group in groups for member in group.rollouts)
        return metrics | {"rewards/failed_completions": float(failed)}

    def _normalised(self, column: Column) -> Column:
        running = self._running.get(column.function.name)
        return column if running is None or self._evaluates else normalised_column(column, running)

    def totals(self) -> dict[str, dict[str, float]]:
        """Return by name what functions that count it have used since the run began, as a judge does."""
        objects: list[tuple[str, object]] = [(function.name, function.function) for function in self.functions]
        return {name: dict(thing.totals) for name, thing in objects if isinstance(thing, CountsTotals)}

    def close(self) -> None:
        """End the processes of the functions that have any; scoring again would begin new ones."""
        self._caller.close()

    def _say_failures(self, columns: Sequence[Column], count: int) -> None:
        """Warn of a reward that failed for some completions, with its first exception, once in a run."""
        for column in columns:
            failed = [reading for reading in column.readings if isinstance(reading, Failed)]
            key = f"{column.function.name} failed"
            if 0 < len(failed) < count and key not in self._said:
                self._said.add(key)
                _logger.warning(
                    "reward %r failed for %d of %d completions: %s (said once; completions.jsonl has them all)",
                    column.function.name,
                    len(failed),
                    count,
                    _told(failed[0], column),
                )

    def _check_failed_share(
        self, columns: Sequence[Column], scores: Sequence[Score], allowed: float, step: int
    ) -> None:
        failed_here = sum(bool(score.failures) for score in scores)
        totals = self.processes.sum({"failed": failed_here, "scored": len(scores)})
        failed, scored = totals["failed"], totals["scored"]
        if failed <= allowed * scored:
            return
        said, error = _first_failure(columns, scores) if failed_here else ("on another process", None)
        raise RewardError(
            f"{failed} of {scored} completions after {step} steps have no valid reward, max_failed_share="
            f"{allowed:g} allows fewer; first failure: {said}: "
            f"mend the function or raise max_failed_share"
        ) from error

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Score so that results of different steps can be compared, and that training does not notice.

        Weights are those that schedules end with, and nothing is normalised over the run.
        """
        before, self._evaluates = self._evaluates, True
        try:
            yield
        finally:
            self._evaluates = before

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as JSON has it: what functions remember, by name, and running figures.

        Raises:
            RewardError: a function's `state_dict()` cannot be saved.
        """
        states = {
            "functions": read_states(self.functions),
            "normalisations": {name: running.state_dict() for name, running in self._running.items()},
        }
        return {kind: by_name for kind, by_name in states.items() if by_name}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; a function that is not in it stays as it is.

        Raises:
            CheckpointError: it is something else, or a function does not take it.
        """
        restore_states(self.functions, states.get("functions", {}))
        for name, figures_so_far in states.get("normalisations", {}).items():
            if name in self._running:
                self._running[name].load_state_dict(figures_so_far)


def _first_failure(columns: Sequence[Column], scores: Sequence[Score]) -> tuple[str, BaseException | None]:
    """Return what failed, in words, and the exception if a function raised one."""
    for column in columns:
        for reading in column.readings:
            if isinstance(reading, Failed):
                return f"reward {column.function.name!r}: {_told(reading, column)}", reading.error
    return f"all rewards: {next(score.failures[NO_REWARD] for score in scores if NO_REWARD in score.failures)}", None


def _told(reading: Failed, column: Column) -> str:
    """Return a failure in words, with its place in the user's code."""
    place = origin(reading.error, column.function.function)
    return in_one_line(reading.error) + ("" if place is None else f" (at {place})")
