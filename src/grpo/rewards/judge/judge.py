"""A language model's verdicts as rewards."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from grpo.errors import ConfigError
from grpo.rewards.judge.comparisons import Comparison, Row, group_comparisons
from grpo.rewards.judge.endpoint import Endpoint, JudgeAnswer
from grpo.rewards.judge.options import JudgeOptions
from grpo.rewards.judge.parsing import parse_score, parse_winner
from grpo.rewards.judge.rubric import Conversation, load_rubric
from grpo.rewards.judge.usage import Meter, Usage
from grpo.rewards.texts import Completion

__all__ = ["JudgeReward"]

_Reward: TypeAlias = float | Exception | None
"""Of a completion; an error: it has failed; None: not applicable."""


class JudgeReward:
    """Asks a language model what completions are worth; called like any asynchronous reward function.

    In mode `pointwise` the judge gives each completion a score, which is mapped from the scale to [0, 1]. In
    mode `pairwise` it compares two: the reward is the share of comparisons won, ties counting half. Equal
    texts tie without being shown to it. A completion for which there is no valid answer has failed; one whose
    row lacks a column that the rubric names has no reward.

    A call may take `deadline_s`; completions without an answer by then have failed, and the others count. What the
    suite allows a reward (`reward_timeout_s`) has to be longer: it fails the whole call. See `JudgeOptions`.

    Attributes:
        options: what was set.
    """

    # What configuration checks the names of options against.
    __signature__ = inspect.signature(JudgeOptions)

    def __init__(self, model: str = "", **options: Any) -> None:
        """Read the rubric and get ready; nothing is sent yet.

        Args:
            model: the judge, as its endpoint calls it.
            options: as in `JudgeOptions`.

        Raises:
            ConfigError: an option is impossible, there is no such rubric, the key or the `openai` package is missing.
        """
        self.__name__ = "judge"
        self.options = JudgeOptions(model, **options)
        self._rubric = load_rubric(self.options.rubric_in_use, mode=self.options.mode, scale=self.options.score_range)
        self._endpoint = Endpoint(self.options)
        self._meter = Meter()
        self._remembers = True
        reference = self.options.reference_column
        self._columns = list(dict.fromkeys([*self._rubric.columns, *([reference] if reference else [])]))
        # A suite then asks for these columns before the first step, and hands over no others.
        self.__signature__ = _signature(self._columns)

    @property
    def usage(self) -> Usage:
        """What the judge was asked since the run began, calls that were given up included."""
        return self._meter.usage

    @property
    def totals(self) -> dict[str, float]:
        """The counts of `usage` by name, and with prices `cost`."""
        return self._amounts(self.usage)

    def state_dict(self) -> dict[str, int]:
        """Return what a resumed run needs of this one to go on counting; nothing before the first call."""
        return {} if self.usage == Usage() else self.usage.counts()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from `state_dict`; what has been spent here meanwhile stays spent."""
        self._meter.start_from(Usage.of(state))

    @contextmanager
    def without_memory(self) -> Iterator[None]:
        """Ask the judge anew meanwhile: answers on disk are neither looked up, nor added, nor replaced.

        Equal conversations within one call are still asked once.
        """
        before, self._remembers = self._remembers, False
        try:
            yield
        finally:
            self._remembers = before

    async def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Completion],
        *,
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, Sequence[Any]], None] | None = None,
        **columns: Sequence[Any],
    ) -> list[_Reward]:
        """Return one reward from 0 to 1 a completion, an error where it failed, None where it does not apply.

        Logged under `judge/RUBRIC/`: `requests`, `cached`, `input_tokens`, `output_tokens` and with prices `cost`,
        each of this call per completion (`totals` are those of the run). As a column, what the judge wrote (pairwise:
        comparisons that were decided).

        Args:
            prompts: of each completion.
            completions: texts or messages.
            log_metric: takes a figure of this call; None: nobody wants any.
            log_extra: takes one value a completion; likewise.
            columns: of the data set, one value a completion.
        """
        rows = [
            Row(prompt, completion, {name: columns[name][place] for name in self._columns})
            for place, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
        ]
        meter = Meter(onto=self._meter)
        if self.options.mode == "pointwise":
            rewards, extra = await self._score(rows, meter)
        elif self.options.reference_column:
            rewards, extra = await self._compare_with_references(rows, meter)
        else:
            rewards, extra = await self._compare_in_groups(rows, meter)
        name = f"judge/{self._rubric.name}"
        if log_metric is not None and rows:
            for amount, of_call in self._amounts(meter.usage).items():
                log_metric(f"{name}/{amount}", of_call / len(rows))
        if log_extra is not None:
            log_extra(name, extra)
        return rewards

    async def _score(self, rows: Sequence[Row], meter: Meter) -> tuple[list[_Reward], list[Any]]:
        places = [place for place, row in enumerate(rows) if row.applies]
        asked = [self._conversation(rows[place], [rows[place].completion]) for place in places]
        lowest, highest = self.options.score_range
        answers = await self._ask(asked, lambda text: parse_score(text, (lowest, highest)), meter)
        rewards: list[_Reward] = [None] * len(rows)
        texts: list[str | None] = [None] * len(rows)
        for place, answer in zip(places, answers, strict=True):
            rewards[place] = answer.error if answer.value is None else (answer.value - lowest) / (highest - lowest)
            texts[place] = answer.text or None
        return rewards, texts

    async def _compare_with_references(self, rows: Sequence[Row], meter: Meter) -> tuple[list[_Reward], list[Any]]:
        column = self.options.reference_column or ""
        places = [place for place, row in enumerate(rows) if row.applies]
        comparisons = [Comparison(rows[place], rows[place].text, rows[place].reference(column)) for place in places]
        rewards: list[_Reward] = [None] * len(rows)
        for place, points in zip(places, await self._decide(comparisons, meter), strict=True):
            rewards[place] = points
        return rewards, [int(isinstance(reward, float)) for reward in rewards]

    async def _compare_in_groups(self, rows: Sequence[Row], meter: Meter) -> tuple[list[_Reward], list[Any]]:
        applicable = {place: row for place, row in enumerate(rows) if row.applies}
        groups = group_comparisons(applicable, self.options.comparisons)
        points = iter(await self._decide([comparison for group in groups for comparison in group.comparisons], meter))
        rewards: list[_Reward] = [None] * len(rows)
        decided = [0] * len(rows)
        for group in groups:
            for place, reward, count in group.outcomes([next(points) for _ in group.pairs]):
                rewards[place], decided[place] = reward, count
        return rewards, decided

    async def _decide(self, comparisons: Sequence[Comparison], meter: Meter) -> list[float | Exception]:
        """Return the points of the first of each comparison, or why there are none."""
        orders = [comparison.orders(both=self.options.both_orders) for comparison in comparisons]
        asked = [
            self._conversation(comparison.row, texts)
            for comparison, shown in zip(comparisons, orders, strict=True)
            for texts in shown
        ]
        answers = iter(await self._ask(asked, parse_winner, meter))
        return [
            _points(comparison, [next(answers) for _ in shown])
            for comparison, shown in zip(comparisons, orders, strict=True)
        ]

    def _conversation(self, row: Row, completions: Sequence[Completion]) -> Conversation | ConfigError:
        """Return what to ask about a row, or why that cannot be written: it is this row's failure and no other's."""
        try:
            return self._rubric.conversation(row.prompt, completions, row.columns)
        except ConfigError as error:
            return error

    async def _ask(
        self, asked: Sequence[Conversation | ConfigError], read: Callable[[str], float], meter: Meter
    ) -> list[JudgeAnswer]:
        sent = [conversation for conversation in asked if not isinstance(conversation, ConfigError)]
        answers = iter(await self._endpoint.ask_all(sent, read, meter, use_cache=self._remembers))
        return [JudgeAnswer(error=one) if isinstance(one, ConfigError) else next(answers) for one in asked]

    def _amounts(self, usage: Usage) -> dict[str, float]:
        amounts = {name: float(count) for name, count in usage.counts().items()}
        return amounts if self.options.prices is None else {**amounts, "cost": self.options.prices.of(usage)}


def _points(comparison: Comparison, answers: Sequence[JudgeAnswer]) -> float | Exception:
    """Return the points of the first text, or why there are none."""
    for answer in answers:
        if answer.error is not None:
            # Half of a pair of orders would bring back the favour for a place.
            return answer.error
    return comparison.points([answer.value or 0.0 for answer in answers])


def _signature(columns: Sequence[str]) -> inspect.Signature:
    """Return the signature of a function that needs these columns and takes no others.

    Raises:
        ConfigError: a column's name can be no parameter's.
    """
    keyword, needed = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    try:
        given = [
            inspect.Parameter("prompts", inspect.Parameter.POSITIONAL_OR_KEYWORD),
            inspect.Parameter("completions", inspect.Parameter.POSITIONAL_OR_KEYWORD),
            *(inspect.Parameter(column, keyword, default=needed) for column in columns),
            inspect.Parameter("log_metric", keyword, default=None),
            inspect.Parameter("log_extra", keyword, default=None),
        ]
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the judge reward cannot take a column of such a name: {error}: map it to another name"
        ) from error
    return inspect.Signature(given)
