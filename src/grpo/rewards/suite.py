"""Several weighted reward functions as one: scores, and failures kept apart from numbers."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo.errors import ConfigError, DataError, RewardError
from grpo.rewards.batch import Recorder, RewardBatch
from grpo.rewards.function import RewardFunction, TrainerState
from grpo.rewards.readout import Failed, Reading, in_one_line, origin, read_rewards
from grpo.rewards.workers import AsyncWorker, Outcome, SyncWorker
from grpo.types import Group, Score, ScoredGroup, ScoredRollout

__all__ = ["NO_REWARD", "RewardSuite", "SuiteResult"]

NO_REWARD = "all"
"""The name under which `Score.failures` says that every function returned None."""

_NOTHING_APPLIES = ValueError("no reward applies, every function returned None")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """A step's scores.

    Attributes:
        groups: the groups that were given, scored; with what functions gave to `log_extra`.
        metrics: `rewards/NAME/mean`, `rewards/NAME/std` (ddof 1; of completions that have a number),
            `rewards/NAME/failed` (completions), `rewards/NAME/seconds`, `rewards/failed_completions`, and
            `user/METRIC` for what functions gave to `log_metric`.
    """

    groups: tuple[ScoredGroup, ...]
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Column:
    """One function's readings of all completions, and what it logged."""

    function: RewardFunction
    readings: Sequence[Reading]
    seconds: float
    recorder: Recorder


class RewardSuite:
    """Scores completions with several reward functions.

    Functions that are not async run one after another in the order given, in one worker thread; async ones
    run beside each other and beside these. Whatever a function does wrong is a failure of that function
    for the completions concerned: it raised, took too long, returned something else than one value a
    completion, or a value that is NaN or infinite. Only KeyboardInterrupt passes through.
    """

    def __init__(
        self,
        functions: Sequence[RewardFunction],
        *,
        timeout_s: float | None = 60.0,
        max_failed_share: float = 0.5,
    ) -> None:
        """Take the functions in the order in which logs show them.

        Args:
            timeout_s: seconds that one call of one function may take; None for no limit.
            max_failed_share: share of a step's completions that may lack a reward before the run stops.

        Raises:
            ConfigError: there is no function, two have one name, or a limit makes no sense.
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
        self.functions = tuple(functions)
        self.timeout_s = timeout_s
        self.max_failed_share = max_failed_share
        self._sync = SyncWorker()
        self._async = AsyncWorker()
        self._said: set[str] = set()

    def check_columns(self, columns: Collection[str]) -> None:
        """Check before the first step that the data set has the columns that the functions need.

        Raises:
            DataError: one is missing.
        """
        for function in self.functions:
            for missing in [name for name in function.columns if name not in columns]:
                raise DataError(
                    f"reward {function.name!r} needs the column {missing!r}, the data has {sorted(columns)}: "
                    f"map a column to that name, or use another reward"
                )

    def score(
        self, groups: Sequence[Group], texts: Sequence[str], *, step: int, max_steps: int, epoch: float = 0.0
    ) -> SuiteResult:
        """Return the groups scored, with metrics.

        Args:
            texts: decoded completions in order of groups.
            step: optimizer steps done; with `max_steps` and `epoch` what functions see as `trainer_state`.

        Raises:
            RewardError: a larger share than `max_failed_share` failed; its cause is the first exception.
        """
        batch = RewardBatch.of(groups, texts, TrainerState(step, max_steps, epoch))
        columns = self._call_all(batch)
        scores = [_score(columns, place) for place in range(len(batch))]
        self._check_failed_share(columns, scores, step)
        metrics = _metrics(columns)
        metrics["rewards/failed_completions"] = float(sum(bool(score.failures) for score in scores))
        logged = self._logged_columns(columns, len(batch))
        return SuiteResult(_regroup(groups, texts, scores, logged), metrics)

    def _call_all(self, batch: RewardBatch) -> list[_Column]:
        recorders = [Recorder() for _ in self.functions]
        calls = list(zip(self.functions, recorders, strict=True))
        # The async ones start before the others so that both run at the same time.
        waiting = {
            function.name: self._async.start(_async_call(function, batch, recorder), self.timeout_s)
            for function, recorder in calls
            if function.is_async
        }
        done = {
            function.name: self._sync.run(_sync_call(function, batch, recorder), self.timeout_s)
            for function, recorder in calls
            if not function.is_async
        }
        done |= {name: outcome() for name, outcome in waiting.items()}
        return [_column(function, done[function.name], recorder, len(batch)) for function, recorder in calls]

    def _check_failed_share(self, columns: Sequence[_Column], scores: Sequence[Score], step: int) -> None:
        failed = sum(bool(score.failures) for score in scores)
        if failed <= self.max_failed_share * len(scores):
            return
        name, error, place = _first_failure(columns)
        where = "" if place is None else f" (at {place})"
        raise RewardError(
            f"{failed} of {len(scores)} completions after {step} steps have no valid reward, max_failed_share="
            f"{self.max_failed_share:g} allows fewer; first failure: {name}: {in_one_line(error)}{where}: "
            f"mend the function or raise max_failed_share"
        ) from error

    def _logged_columns(self, columns: Sequence[_Column], count: int) -> dict[str, Sequence[Any]]:
        logged: dict[str, Sequence[Any]] = {}
        for column in columns:
            for name, values in column.recorder.columns.items():
                key = name if name not in logged else f"{column.function.name}/{name}"
                if len(values) == count:
                    logged[key] = tuple(values)
                elif key not in self._said:
                    self._said.add(key)
                    _logger.warning(
                        "reward %r logged %d values in column %r for %d completions: not shown (said once)",
                        column.function.name,
                        len(values),
                        name,
                        count,
                    )
        return logged


def _sync_call(function: RewardFunction, batch: RewardBatch, recorder: Recorder) -> Callable[[], list[Reading]]:
    # Read in the worker as well: an iterator that is returned runs the user's code.
    return lambda: read_rewards(function.call(batch.arguments(recorder)), batch.num_tokens)


def _async_call(function: RewardFunction, batch: RewardBatch, recorder: Recorder) -> Callable[[], Any]:
    async def call() -> list[Reading]:
        return read_rewards(await function.call(batch.arguments(recorder)), batch.num_tokens)

    return call


def _column(function: RewardFunction, outcome: Outcome, recorder: Recorder, count: int) -> _Column:
    """Return the readings of a call; one that failed as a whole fails for every completion and logs nothing."""
    if isinstance(outcome.error, KeyboardInterrupt):
        raise outcome.error
    if outcome.error is None:
        return _Column(function, outcome.value, outcome.seconds, recorder)
    return _Column(function, [Failed(outcome.error)] * count, outcome.seconds, Recorder())


def _score(columns: Sequence[_Column], place: int) -> Score:
    rewards: dict[str, float | None] = {}
    failures: dict[str, str] = {}
    total, has_number = 0.0, False
    token_rewards: list[float | None] | None = None
    for column in columns:
        name, weight, reading = column.function.name, column.function.weight, column.readings[place]
        rewards[name] = _value(reading)
        if isinstance(reading, Failed):
            failures[name] = in_one_line(reading.error)
        elif isinstance(reading, tuple):
            has_number = True
            token_rewards = _added(token_rewards or [None] * len(reading), reading, weight)
        elif reading is not None:
            has_number = True
            total += weight * reading
    if not failures and not has_number:
        failures[NO_REWARD] = in_one_line(_NOTHING_APPLIES)
    return Score(
        rewards=rewards,
        failures=failures,
        total=None if failures else total,
        token_rewards=None if token_rewards is None else tuple(token_rewards),
    )


def _value(reading: Reading) -> float | None:
    """Return the number that logs show: of token rewards their sum."""
    if isinstance(reading, tuple):
        return sum(reward for reward in reading if reward is not None)
    return None if isinstance(reading, Failed) else reading


def _added(sums: Sequence[float | None], rewards: Sequence[float | None], weight: float) -> list[float | None]:
    return [
        before if reward is None else (before or 0.0) + weight * reward
        for before, reward in zip(sums, rewards, strict=True)
    ]


def _first_failure(columns: Sequence[_Column]) -> tuple[str, BaseException, str | None]:
    for column in columns:
        for reading in column.readings:
            if isinstance(reading, Failed):
                place = origin(reading.error, column.function.function)
                return f"reward {column.function.name!r}", reading.error, place
    return "all rewards", _NOTHING_APPLIES, None


def _metrics(columns: Sequence[_Column]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    logged: dict[str, list[float]] = {}
    for column in columns:
        name = f"rewards/{column.function.name}"
        values = [value for value in map(_value, column.readings) if value is not None]
        if values:
            mean = sum(values) / len(values)
            deviations = sum((value - mean) ** 2 for value in values)
            metrics[f"{name}/mean"] = mean
            metrics[f"{name}/std"] = math.sqrt(deviations / max(1, len(values) - 1))
        metrics[f"{name}/failed"] = float(sum(isinstance(reading, Failed) for reading in column.readings))
        metrics[f"{name}/seconds"] = column.seconds
        for metric, numbers in column.recorder.metrics.items():
            logged.setdefault(f"user/{metric}", []).extend(numbers)
    return metrics | {name: sum(numbers) / len(numbers) for name, numbers in logged.items()}


def _regroup(
    groups: Sequence[Group], texts: Sequence[str], scores: Sequence[Score], columns: Mapping[str, Sequence[Any]]
) -> tuple[ScoredGroup, ...]:
    logged = [{name: values[place] for name, values in columns.items()} for place in range(len(scores))]
    scored = iter(zip(texts, scores, logged, strict=True))
    return tuple(
        ScoredGroup(group.prompt, tuple(ScoredRollout(rollout, *next(scored)) for rollout in group.rollouts))
        for group in groups
    )
