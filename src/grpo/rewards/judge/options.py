"""What a user sets of a judge, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from grpo.errors import ConfigError
from grpo.rewards.judge.parsing import Scale
from grpo.rewards.judge.rubric import Mode
from grpo.rewards.judge.usage import Prices

__all__ = ["AGAINST_GROUP", "JudgeOptions"]

AGAINST_GROUP = "group"

_RUBRICS: Mapping[Mode, str] = MappingProxyType({"pointwise": "helpfulness", "pairwise": "preference"})


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """Options of `JudgeReward`.

    Three limits of time fit into each other: an attempt may take `timeout_s`, all attempts of a call `deadline_s`,
    and the call as a whole what the suite allows each reward (`reward_timeout_s`, 60 s by default). At the first two,
    only completions without an answer fail; at the last, all completions of the call do. In a run, `deadline_s` is
    therefore by default some seconds below `reward_timeout_s`.

    Attributes:
        model: the judge, as its endpoint calls it.
        base_url: address of the API; by default the environment's OPENAI_BASE_URL, else OpenAI's own.
        api_key_env: environment variable that holds the key; only OpenAI's own endpoint insists on one.
        rubric: a shipped rubric's name or a Markdown file; by default "helpfulness", pairwise "preference".
        mode: "pointwise", a score for each completion, or "pairwise", comparisons of two.
        scale: lowest and highest score that the judge may give.
        against: pairwise only: "group", the other completions of the same prompt, or a column of references.
        comparisons: with `against="group"`, comparisons that a completion takes part in at most.
        both_orders: show each pair in both orders and take the mean: judges favour a place.
        temperature: None where the endpoint wants none to be given.
        max_tokens: of an answer, reasoning included; likewise.
        request: further members of every request, as in {"max_completion_tokens": 2048}.
        concurrency: requests under way at once.
        retries: further attempts after a rate limit, a server's error, a lost connection or a timeout.
        back_off_s: wait before the first of them, doubled for each one after it; a `Retry-After` of the endpoint
            takes its place, and holds for all requests.
        requests_per_minute: that may begin; None: any number.
        timeout_s: seconds an attempt may take.
        deadline_s: seconds a call may take; None: any number.
        cache_dir: where answers are kept; None: nowhere.
        price_per_million_input_tokens: in any currency; with a price there are metrics of cost.
        price_per_million_output_tokens: likewise.

    Raises:
        ConfigError: an option is impossible.
    """

    model: str = ""
    _: KW_ONLY
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    rubric: str | Path | None = None
    mode: Mode = "pointwise"
    scale: Sequence[float] = (1, 10)
    against: str = AGAINST_GROUP
    comparisons: int = 4
    both_orders: bool = True
    temperature: float | None = 0.0
    max_tokens: int | None = 512
    request: Mapping[str, Any] | None = None
    concurrency: int = 64
    retries: int = 3
    back_off_s: float = 0.5
    requests_per_minute: int | None = None
    timeout_s: float = 20.0
    deadline_s: float | None = 50.0
    cache_dir: str | Path | None = "~/.cache/grpo/judge"
    price_per_million_input_tokens: float | None = None
    price_per_million_output_tokens: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model.strip():
            raise _impossible("model", self.model, "name the model that judges, as its endpoint calls it")
        if self.mode not in _RUBRICS:
            raise _impossible("mode", self.mode, f"use one of {sorted(_RUBRICS)}")
        if self.request is not None and not isinstance(self.request, Mapping):
            raise _impossible("request", self.request, "use a mapping, as in {max_completion_tokens: 2048}")
        for name, numbers in _NUMBERS.items():
            numbers.check(name, getattr(self, name))
        _two_numbers(self.scale)

    @property
    def score_range(self) -> Scale:
        """The scale as two floats."""
        return _two_numbers(self.scale)

    @property
    def rubric_in_use(self) -> str | Path:
        """The rubric that was named, or else the one of the mode."""
        return _RUBRICS[self.mode] if self.rubric is None else self.rubric

    @property
    def reference_column(self) -> str | None:
        """The column with what completions are compared with; None: they are not, or with each other."""
        return self.against if self.mode == "pairwise" and self.against != AGAINST_GROUP else None

    @property
    def members(self) -> dict[str, Any]:
        """What every request has besides model and messages."""
        members = {"temperature": self.temperature, "max_tokens": self.max_tokens, **(self.request or {})}
        return {name: value for name, value in members.items() if value is not None}

    @property
    def prices(self) -> Prices | None:
        """What tokens cost; None: nobody said. With one price only, the other is 0."""
        given = (self.price_per_million_input_tokens, self.price_per_million_output_tokens)
        return None if given == (None, None) else Prices(given[0] or 0.0, given[1] or 0.0)


@dataclass(frozen=True, slots=True)
class _Numbers:
    """The finite numbers that an option may be."""

    at_least: float | None = None
    above: float | None = None
    whole: bool = False
    or_none: bool = False

    def check(self, name: str, value: Any) -> None:
        if value is None and self.or_none:
            return
        kind: Any = int if self.whole else (int, float)
        fits = not isinstance(value, bool) and isinstance(value, kind) and math.isfinite(value)
        if fits and (self.at_least is None or value >= self.at_least) and (self.above is None or value > self.above):
            return
        bound = f"above {self.above:g}" if self.at_least is None else f"of at least {self.at_least:g}"
        raise _impossible(name, value, f"use a {'whole ' if self.whole else ''}number {bound}")


_NUMBERS: Mapping[str, _Numbers] = MappingProxyType(
    {
        "comparisons": _Numbers(at_least=2, whole=True),
        "concurrency": _Numbers(at_least=1, whole=True),
        "retries": _Numbers(at_least=0, whole=True),
        "back_off_s": _Numbers(at_least=0),
        "requests_per_minute": _Numbers(at_least=1, whole=True, or_none=True),
        "timeout_s": _Numbers(above=0),
        "deadline_s": _Numbers(above=0, or_none=True),
        "price_per_million_input_tokens": _Numbers(at_least=0, or_none=True),
        "price_per_million_output_tokens": _Numbers(at_least=0, or_none=True),
    }
)


def _two_numbers(scale: Any) -> Scale:
    try:
        lowest, highest = (float(end) for end in scale)
    except (TypeError, ValueError):
        lowest = highest = math.nan
    if not -math.inf < lowest < highest < math.inf:
        raise _impossible("scale", scale, "use two numbers, the lower one first, as in [1, 10]")
    return lowest, highest


def _impossible(name: str, value: Any, instead: str) -> ConfigError:
    return ConfigError(f"the judge reward has {name}={value!r}: {instead}")
