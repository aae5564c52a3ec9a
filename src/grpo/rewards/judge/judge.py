"""A language model's verdict as reward: row R11."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo.errors import ConfigError, JudgeError
from grpo.rewards.judge.endpoint import Answer
from grpo.rewards.judge.options import DEFAULT_CACHE, check_number, check_scale, open_endpoint
from grpo.rewards.judge.pairing import Pair, group_bounds, group_pairs, mean_points
from grpo.rewards.judge.readings import parse_score, parse_winner
from grpo.rewards.judge.rubric import Conversation, Mode, load_rubric
from grpo.rewards.texts import Completion, completion_texts

__all__ = ["JudgeReward", "Usage"]

_GROUP = "group"
_RUBRICS: Mapping[str, str] = {"pointwise": "helpfulness", "pairwise": "preference"}
_TIE = 0.5

Verdict = float | JudgeError | None
"""A completion's reward; an error: it has failed; None: not applicable."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a judge has been asked since it was made.

    Attributes:
        requests: sent, further attempts included.
        known: conversations that the cache, or an equal one beside them, answered.
        tokens_in: as the endpoint counted them.
        tokens_out: likewise.
    """

    requests: int = 0
    known: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def __add__(self, other: Usage) -> Usage:
        """Return the sum of both counts."""
        return Usage(
            self.requests + other.requests,
            self.known + other.known,
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
        )


class JudgeReward:
    """Asks a language model what completions are worth; called like any asynchronous reward function.

    In mode `pointwise` the judge gives each completion a score, which is mapped from the scale to [0, 1]. In
    mode `pairwise` it compares two: the reward is the share of comparisons won, ties counting half. Equal
    texts tie without being shown to it. A completion for which there is no valid answer has failed; one whose
    row lacks a column that the rubric names has no reward.

    Attributes:
        usage: requests and tokens so far.
    """

    def __init__(
        self,
        model: str = "",
        *,
        base_url: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        rubric: str | Path | None = None,
        mode: Mode = "pointwise",
        scale: Sequence[float] = (1, 10),
        against: str = _GROUP,
        comparisons: int = 4,
        both_orders: bool = True,
        temperature: float | None = 0.0,
        max_tokens: int | None = 512,
        request: Mapping[str, Any] | None = None,
        concurrency: int = 64,
        retries: int = 3,
        back_off_s: float = 0.5,
        requests_per_minute: int | None = None,
        timeout_s: float = 20.0,
        deadline_s: float | None = 50.0,
        cache_dir: str | Path | None = DEFAULT_CACHE,
        price_in: float | None = None,
        price_out: float | None = None,
    ) -> None:
        """Read the rubric and get ready; nothing is sent yet.

        Args:
            model: the judge, as its endpoint calls it.
            base_url: by default the environment's OPENAI_BASE_URL, else OpenAI's own.
            api_key_env: environment variable that holds the key.
            rubric: a shipped rubric's name or a Markdown file; by default "helpfulness", pairwise "preference".
            scale: lowest and highest score that the judge may give.
            against: pairwise only: "group", the other completions of the same prompt, or a column of references.
            comparisons: with `against="group"`, comparisons that a completion takes part in at most.
            both_orders: show each pair in both orders and take the mean: judges favour a place.
            temperature: None where the endpoint wants none to be given.
            max_tokens: of an answer, reasoning included; likewise.
            request: further members of every request, as in {"max_completion_tokens": 2048}.
            concurrency: requests under way at once.
            retries: further attempts after a rate limit, a server's error, a lost connection or a timeout.
            back_off_s: wait before the first of them; it doubles, and a `Retry-After` takes its place.
            timeout_s: seconds an attempt may take.
            deadline_s: seconds a call may take; completions without an answer by then have failed, the others
                count. Keep it below the suite's own timeout, which fails them all.
            cache_dir: where answers are kept; None: nowhere.
            price_in: of a million tokens sent, in any currency; with `price_out` for the metric `cost`.
            price_out: of a million tokens answered.

        Raises:
            ConfigError: an option is impossible, there is no such rubric, the key or the `openai` package is missing.
        """
        if mode not in _RUBRICS:
            raise ConfigError(f"the judge reward has mode={mode!r}: use one of {sorted(_RUBRICS)}")
        check_number("comparisons", comparisons, at_least=2, whole=True)
        for name, value in (("price_in", price_in), ("price_out", price_out)):
            if value is not None:
                check_number(name, value, at_least=0.0)
        if deadline_s is not None:
            check_number("deadline_s", deadline_s, above=0.0)
        self.__name__ = "judge"
        self.usage = Usage()
        self._rubric = load_rubric(_RUBRICS[mode] if rubric is None else rubric, mode=mode, scale=check_scale(scale))
        self._against = against
        self._comparisons = comparisons
        self._both_orders = both_orders
        self._deadline_s = deadline_s
        self._prices = None if price_in is None and price_out is None else (price_in or 0.0, price_out or 0.0)
        self._endpoint = open_endpoint(
            model=model,
            base_url=base_url,
            api_key_env=api_key_env,
            request={"temperature": temperature, "max_tokens": max_tokens, **(request or {})},
            concurrency=concurrency,
            retries=retries,
            back_off_s=back_off_s,
            requests_per_minute=requests_per_minute,
            timeout_s=timeout_s,
            cache_dir=cache_dir,
        )
        own = [against] if self._uses_references else []
        self._columns = list(dict.fromkeys([*self._rubric.columns, *own]))
        # A suite then asks for these columns before the first step, and hands over no others.
        self.__signature__ = _signature(self._columns)

    @property
    def _uses_references(self) -> bool:
        return self._rubric.mode == "pairwise" and self._against != _GROUP

    async def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Completion],
        *,
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, Sequence[Any]], None] | None = None,
        **columns: Sequence[Any],
    ) -> list[Verdict]:
        """Return one reward from 0 to 1 a completion, an error where it failed, None where it does not apply.

        Logged under `judge/RUBRIC/`, per completion: `requests`, `known`, `tokens_in`, `tokens_out`, and with
        prices `cost`; as a column, what the judge wrote (pairwise: comparisons that were decided).
        """
        rows = [{name: columns[name][place] for name in self._columns} for place in range(len(completions))]
        compare = self._score if self._rubric.mode == "pointwise" else self._compare
        verdicts, extra, usage = await compare(prompts, completions, rows)
        self.usage += usage
        if log_metric is not None and completions:
            for name, amount in self._amounts(usage).items():
                log_metric(f"judge/{self._rubric.name}/{name}", amount / len(completions))
        if log_extra is not None:
            log_extra(f"judge/{self._rubric.name}", extra)
        return verdicts

    async def _score(
        self, prompts: Sequence[Any], completions: Sequence[Completion], rows: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Verdict], list[Any], Usage]:
        places = [place for place, row in enumerate(rows) if self._applies(row)]
        asked = [self._rubric.conversation(prompts[place], [completions[place]], rows[place]) for place in places]
        lowest, highest = self._rubric.scale
        answers, usage = await self._ask(asked, lambda text: parse_score(text, (lowest, highest)))
        verdicts: list[Verdict] = [None] * len(rows)
        texts: list[str | None] = [None] * len(rows)
        for place, answer in zip(places, answers, strict=True):
            verdicts[place] = answer.error if answer.value is None else (answer.value - lowest) / (highest - lowest)
            texts[place] = answer.text or None
        return verdicts, texts, usage

    async def _compare(
        self, prompts: Sequence[Any], completions: Sequence[Completion], rows: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Verdict], list[Any], Usage]:
        count = len(rows)
        texts = completion_texts(completions)
        if self._uses_references:
            texts += [str(row[self._against]) for row in rows]
            pairs = [(place, count + place) for place, row in enumerate(rows) if self._applies(row)]
        else:
            pairs = [
                (start + first, start + second)
                for start, end in group_bounds(prompts)
                for first, second in group_pairs(end - start, self._comparisons)
                if self._applies(rows[start + first])
            ]
        points, usage = await self._decide(pairs, texts, prompts, rows)
        shares = mean_points(len(texts), pairs, [None if isinstance(point, JudgeError) else point for point in points])
        errors = {place: point for pair, point in zip(pairs, points, strict=True) for place in pair}
        verdicts: list[Verdict] = [
            # Without points, what is known of its last comparison is the error that it ended with.
            errors.get(place) if share is None else share
            for place, share in enumerate(shares[:count])
        ]
        decided = [pair for pair, point in zip(pairs, points, strict=True) if not isinstance(point, JudgeError)]
        return verdicts, [sum(place in pair for pair in decided) for place in range(count)], usage

    async def _decide(
        self,
        pairs: Sequence[Pair],
        texts: Sequence[str],
        prompts: Sequence[Any],
        rows: Sequence[Mapping[str, Any]],
    ) -> tuple[list[float | JudgeError], Usage]:
        """Return the points of the first of each pair, or why there are none."""
        orders: list[list[Pair]] = []
        for first, second in pairs:
            shown = [(first, second), (second, first)] if self._both_orders else [(first, second)]
            orders.append([] if texts[first] == texts[second] else shown)
        asked = [
            self._rubric.conversation(prompts[pair[0]], [texts[first], texts[second]], rows[pair[0]])
            for pair, shown in zip(pairs, orders, strict=True)
            for first, second in shown
        ]
        answers, usage = await self._ask(asked, parse_winner)
        left = iter(answers)
        return [_points([next(left) for _ in shown]) for shown in orders], usage

    async def _ask(
        self, conversations: Sequence[Conversation], read: Callable[[str], float]
    ) -> tuple[list[Answer], Usage]:
        answers = await self._endpoint.ask_all(conversations, read, deadline_s=self._deadline_s)
        usage = Usage()
        for answer in answers:
            known = int(answer.requests == 0 and answer.error is None)
            usage += Usage(answer.requests, known, answer.tokens_in, answer.tokens_out)
        return answers, usage

    @staticmethod
    def _applies(row: Mapping[str, Any]) -> bool:
        return all(value is not None and str(value).strip() for value in row.values())

    def _amounts(self, usage: Usage) -> dict[str, float]:
        amounts = {
            "requests": float(usage.requests),
            "known": float(usage.known),
            "tokens_in": float(usage.tokens_in),
            "tokens_out": float(usage.tokens_out),
        }
        if self._prices is not None:
            price_in, price_out = self._prices
            amounts["cost"] = (usage.tokens_in * price_in + usage.tokens_out * price_out) / 1e6
        return amounts


def _points(answers: Sequence[Answer]) -> float | JudgeError:
    """Return the points of the one shown first in the first answer and second in the second, if there is one."""
    if not answers:
        return _TIE
    for answer in answers:
        if answer.error is not None:
            # Half of a pair of orders would bring back the favour for a place.
            return answer.error
    values = [answer.value or 0.0 for answer in answers]
    return values[0] if len(values) == 1 else (values[0] + 1.0 - values[1]) / 2


def _signature(columns: Sequence[str]) -> inspect.Signature:
    """Return the signature of a function that needs these columns and takes no others."""
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
