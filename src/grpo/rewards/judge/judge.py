"""The judge reward: a language model scores or compares completions."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, TypeAlias

from grpo.errors import ConfigError
from grpo.rewards.judge.comparisons import TIE, Comparison, Row, group_comparisons
from grpo.rewards.judge.endpoint import Endpoint, JudgeAnswer
from grpo.rewards.judge.options import JudgeOptions
from grpo.rewards.judge.parsing import parse_score, parse_winner
from grpo.rewards.judge.rubric import Conversation, load_rubric
from grpo.rewards.judge.usage import Meter, Usage
from grpo.rewards.texts import Completion, completion_texts

__all__ = ["JudgeReward"]

_Reward: TypeAlias = float | Exception | None
"""Reward of a completion; an error: it has failed; None: not applicable."""

_Outcome: TypeAlias = tuple[_Reward, Any]
"""Reward and logged value of a completion: the judge's text, or in pairwise mode the number of decided comparisons."""


class JudgeReward:
    """Asks a language model for a verdict on completions; called like any asynchronous reward function.

    In mode `pointwise` the judge gives each completion a score, which is mapped from the scale to [0, 1]. In
    mode `pairwise` it compares two: the reward is the share of comparisons won, where ties count half. Equal
    texts tie without being shown to it. A completion without a valid answer has failed; a completion whose
    row lacks a column that the rubric names has no reward.

    A call may take `deadline_s`; completions without an answer by then have failed, and the others count. The
    suite's limit (`reward_timeout_s`) must be longer, because it fails the whole call.

    Attributes:
        options: the options in use.
    """

    # Configuration checks the names of options against this signature.
    __signature__ = inspect.signature(JudgeOptions)

    def __init__(self, model: str = "", **options: Any) -> None:
        """Read the rubric and check all options; sends nothing.

        Args:
            model: the judge, as its endpoint calls it.
            options: as in `JudgeOptions`.

        Raises:
            ConfigError: an option is impossible, the rubric does not exist, the key or the `openai` package is missing.
        """
        self.__name__ = "judge"
        self.options = JudgeOptions(model=model, **options)
        self._rubric = load_rubric(self.options.rubric_in_use, mode=self.options.mode, scale=self.options.scale)
        self._endpoint = Endpoint(self.options)
        self._meter = Meter()
        self._uses_cache = True
        reference = self.options.reference_column
        self._columns = list(dict.fromkeys([*self._rubric.columns, *([reference] if reference else [])]))
        # A suite then requires these columns before the first step, and passes no others.
        self.__signature__ = _signature(self._columns)

    @property
    def usage(self) -> Usage:
        """Requests and tokens since the run began, including calls that were given up."""
        return self._meter.usage

    @property
    def totals(self) -> dict[str, float]:
        """The counts of `usage` by name, and with prices `cost`."""
        return self._amounts(self.usage)

    def state_dict(self) -> dict[str, int]:
        """Return the counts of `usage`, for a resumed run; nothing before the first call."""
        return {} if self.usage == Usage() else asdict(self.usage)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue counting from `state_dict`; no count decreases, since money spent stays spent."""
        self._meter.restore(Usage.of(state))

    @contextmanager
    def without_memory(self) -> Iterator[None]:
        """Bypass the cache within the context: answers on disk are neither looked up, nor added, nor replaced.

        Equal conversations within one call are still asked once.
        """
        before, self._uses_cache = self._uses_cache, False
        try:
            yield
        finally:
            self._uses_cache = before

    async def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Completion],
        *,
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, Sequence[Any]], None] | None = None,
        **columns: Sequence[Any],
    ) -> list[_Reward]:
        """Return one reward from 0 to 1 for each completion, an error where it failed, None where it does not apply.

        Logs under `judge/RUBRIC/`: `requests`, `cached`, `input_tokens`, `output_tokens` and with prices `cost`,
        each of this call per completion (`totals` has those of the run). Logs as a column the judge's texts
        (pairwise: the number of decided comparisons).

        Args:
            prompts: the prompt of each completion.
            completions: texts or messages.
            log_metric: takes the name and the value of a metric.
            log_extra: takes a name and one value for each completion.
            columns: columns of the data set, one value for each completion.
        """
        rows = [
            Row(prompt, text, {name: columns[name][place] for name in self._columns})
            for place, (prompt, text) in enumerate(zip(prompts, completion_texts(completions), strict=True))
        ]
        applicable = {place: row for place, row in enumerate(rows) if row.applies}
        meter = Meter(self._meter)
        not_applicable: _Outcome = (None, None if self.options.mode == "pointwise" else 0)
        outcomes = dict.fromkeys(range(len(rows)), not_applicable) | await self._outcomes(applicable, meter)
        name = f"judge/{self._rubric.name}"
        if log_metric is not None and rows:
            for amount, of_call in self._amounts(meter.usage).items():
                log_metric(f"{name}/{amount}", of_call / len(rows))
        if log_extra is not None:
            log_extra(name, [logged for _, logged in outcomes.values()])
        return [reward for reward, _ in outcomes.values()]

    async def _outcomes(self, rows: Mapping[int, Row], meter: Meter) -> dict[int, _Outcome]:
        """Return the outcomes of rows, both by their positions in the call."""
        if self.options.mode == "pointwise":
            return await self._score(rows, meter)
        if self.options.reference_column is None:
            return await self._compare_in_groups(rows, meter)
        return await self._compare_with_references(rows, self.options.reference_column, meter)

    async def _score(self, rows: Mapping[int, Row], meter: Meter) -> dict[int, _Outcome]:
        lowest, highest = scale = self.options.scale
        questions = [(row, (row.text,)) for row in rows.values()]
        answers = await self._ask(questions, lambda text: parse_score(text, scale), meter)
        outcomes: dict[int, _Outcome] = {}
        for place, answer in zip(rows, answers, strict=True):
            score = answer.value
            reward = score if isinstance(score, Exception) else (score - lowest) / (highest - lowest)
            outcomes[place] = (reward, answer.text or None)
        return outcomes

    async def _compare_with_references(self, rows: Mapping[int, Row], column: str, meter: Meter) -> dict[int, _Outcome]:
        comparisons = [(row, row.text, row.reference(column)) for row in rows.values()]
        points = await self._compare(comparisons, meter)
        return {place: (reward, int(isinstance(reward, float))) for place, reward in zip(rows, points, strict=True)}

    async def _compare_in_groups(self, rows: Mapping[int, Row], meter: Meter) -> dict[int, _Outcome]:
        groups = group_comparisons(rows, self.options.comparisons)
        comparisons = [comparison for group in groups for comparison in group.comparisons]
        points = iter(await self._compare(comparisons, meter))
        return {
            place: (reward, num_decided)
            for group in groups
            for place, reward, num_decided in group.outcomes([next(points) for _ in group.pairs])
        }

    async def _compare(self, comparisons: Sequence[Comparison], meter: Meter) -> list[float | Exception]:
        """Return the points of the first text of each comparison, or the reason why there are none."""
        num_orders = 2 if self.options.both_orders else 1
        # Equal texts tie without a question.
        questions = [
            [] if first == second else [(row, (first, second)), (row, (second, first))][:num_orders]
            for row, first, second in comparisons
        ]
        answers = iter(await self._ask(list(itertools.chain(*questions)), parse_winner, meter))
        return [_points([next(answers) for _ in own]) for own in questions]

    async def _ask(
        self,
        questions: Sequence[tuple[Row, Sequence[str]]],
        read: Callable[[str], float],
        meter: Meter,
    ) -> list[JudgeAnswer]:
        """Return one answer for each question. A row that does not fit the rubric fails its own question only.

        Args:
            questions: a row, and the texts that the judge sees.
            read: returns the value of an answer's text, or raises JudgeError.
            meter: counts the usage.
        """
        conversations: dict[int, Conversation] = {}
        answers: dict[int, JudgeAnswer] = {}
        for number, (row, texts) in enumerate(questions):
            try:
                conversations[number] = self._rubric.conversation(row.prompt, texts, row.columns)
            except ConfigError as error:
                answers[number] = JudgeAnswer(error)
        asked = await self._endpoint.ask_all(list(conversations.values()), read, meter, use_cache=self._uses_cache)
        answers |= zip(conversations, asked, strict=True)
        return [answers[number] for number in range(len(questions))]

    def _amounts(self, usage: Usage) -> dict[str, float]:
        amounts = {name: float(count) for name, count in asdict(usage).items()}
        cost = self.options.cost(usage)
        return amounts if cost is None else {**amounts, "cost": cost}


def _points(answers: Sequence[JudgeAnswer]) -> float | Exception:
    """Return the points of the first text from the answers in no, one or both orders; an error if any has failed."""
    points: list[float] = []
    for answer in answers:
        if isinstance(answer.value, Exception):
            # One order alone would favour a position.
            return answer.value
        points.append(answer.value)
    if len(points) == 2:
        return (points[0] + 1.0 - points[1]) / 2
    return points[0] if points else TIE


def _signature(columns: Sequence[str]) -> inspect.Signature:
    """Return the signature of a function that needs these columns and takes no others.

    Raises:
        ConfigError: a column's name cannot be a parameter's name.
    """
    positional, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    try:
        return inspect.Signature(
            [
                *(inspect.Parameter(name, positional) for name in ("prompts", "completions")),
                *(inspect.Parameter(column, keyword) for column in columns),
                *(inspect.Parameter(name, keyword, default=None) for name in ("log_metric", "log_extra")),
            ]
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the judge reward cannot take a column of such a name: {error}: map it to another name"
        ) from error
