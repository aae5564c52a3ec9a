"""Options of the judge reward."""

from __future__ import annotations

import difflib
import logging
import os
import re
from pathlib import Path
from typing import Annotated, Any, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError

from grpo.errors import ConfigError
from grpo.rewards.judge.credentials import check_address, check_request, check_variable
from grpo.rewards.judge.parsing import Scale
from grpo.rewards.judge.rubric import DEFAULT_RUBRICS, Mode
from grpo.rewards.judge.usage import Usage

__all__ = ["OPENAI", "JudgeOptions"]

OPENAI = "https://api.openai.com/v1"

_logger = logging.getLogger(__name__)
_GROUP = "group"
_MILLION = 1_000_000

_Count: TypeAlias = Annotated[int, Field(ge=1)]
_Seconds: TypeAlias = Annotated[float, Field(gt=0)]
_Price: TypeAlias = Annotated[float, Field(ge=0)]


def _rising(scale: Scale) -> Scale:
    if scale[0] >= scale[1]:
        raise ValueError("it should be two numbers, the lower one first, as in [1, 10]")
    return scale


def _or_default_address(address: Any) -> Any:
    return address or os.environ.get("OPENAI_BASE_URL") or OPENAI


def _address(address: str) -> str:
    parts = urlsplit(check_address(address))
    # Reading an impossible port raises ValueError.
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError(f"{_shown('base_url', address)} should be an address as in 'http://127.0.0.1:8000/v1'")
    return address.rstrip("/")


class JudgeOptions(BaseModel):
    """Options of `JudgeReward`.

    Three limits of time are nested: `timeout_s` for an attempt, `deadline_s` for all attempts of a call, and the
    suite's limit for the call as a whole (`reward_timeout_s`, 60 s by default). At the first two, only completions
    without an answer fail; at the last, all completions of the call fail. In a run, `deadline_s` is therefore by
    default some seconds below `reward_timeout_s`.

    Raises:
        ConfigError: an option is unknown or impossible.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, str_strip_whitespace=True, validate_default=True
    )

    model: str = Field(min_length=1, description="Name of the model that judges, as its endpoint calls it.")
    base_url: Annotated[str, BeforeValidator(_or_default_address), AfterValidator(_address)] = Field(
        "", description="Address of the API; by default the environment's OPENAI_BASE_URL, else OpenAI's own."
    )
    api_key_env: Annotated[str, AfterValidator(check_variable)] = Field(
        "OPENAI_API_KEY", description="Environment variable with the key; only OpenAI's own endpoint requires one."
    )
    rubric: str | Path | None = Field(
        None, description="A shipped rubric's name or a Markdown file; by default 'helpfulness', pairwise 'preference'."
    )
    mode: Mode = Field("pointwise", description="'pointwise' scores each completion, 'pairwise' compares two.")
    scale: Annotated[Scale, Strict(False), AfterValidator(_rising)] = Field(
        (1, 10), description="Lowest and highest score that the judge may give."
    )
    against: str = Field(
        _GROUP, description="Pairwise only: 'group', the prompt's other completions, or a column of references."
    )
    comparisons: int = Field(
        4, ge=2, description="With against='group', the most comparisons that a completion takes part in."
    )
    both_orders: bool = Field(
        True, description="Show each pair in both orders and take the mean: judges favour a position."
    )
    # An int stays one: 0 and 0.0 have different keys in the cache.
    temperature: int | float | None = Field(0.0, description="None where the endpoint does not accept one.")
    max_tokens: _Count | None = Field(512, description="Limit of an answer, reasoning included; None: not sent.")
    request: Annotated[dict[str, Any] | None, AfterValidator(check_request)] = Field(
        None, description="Further members of every request, as in {max_completion_tokens: 2048}."
    )
    concurrency: _Count = Field(64, description="Requests in progress at once.")
    retries: int = Field(
        3, ge=0, description="Further attempts after a rate limit, a server's error, a lost connection or a timeout."
    )
    requests_per_minute: _Count | None = Field(None, description="Requests that may start in 60 s; None: no limit.")
    timeout_s: _Seconds = Field(20.0, description="Seconds for an attempt.")
    deadline_s: _Seconds | None = Field(50.0, description="Seconds for a call; None: no limit.")
    cache_dir: str | Path | None = Field("~/.cache/grpo/judge", description="Directory of the cache; None: no cache.")
    price_per_million_input_tokens: _Price | None = Field(
        None, description="In any currency; with a price, metrics include the cost. A missing other price is 0."
    )
    price_per_million_output_tokens: _Price | None = Field(None, description="Likewise.")
    back_off_s: Annotated[float, Field(ge=0)] | None = Field(
        None, description="No effect: the openai client waits 0.5 s, then twice as long each time, up to 8 s."
    )

    def __init__(self, **options: Any) -> None:
        try:
            super().__init__(**options)
        except ValidationError as error:
            raise _config_error(error) from None
        if self.back_off_s is not None:
            _logger.warning("the judge's option back_off_s has no effect: the openai client decides about waits")

    @property
    def rubric_in_use(self) -> str | Path:
        """The rubric that was named, or else the default of the mode."""
        return DEFAULT_RUBRICS[self.mode] if self.rubric is None else self.rubric

    @property
    def reference_column(self) -> str | None:
        """The column of texts that completions are compared with; None: a mode without references."""
        return self.against if self.mode == "pairwise" and self.against != _GROUP else None

    @property
    def request_members(self) -> dict[str, Any]:
        """Members of every request besides model and messages."""
        members = {"temperature": self.temperature, "max_tokens": self.max_tokens, **(self.request or {})}
        return {name: value for name, value in members.items() if value is not None}

    def cost(self, usage: Usage) -> float | None:
        """Return the price of the tokens in `usage`; None: no price is set.

        Example:
            >>> options = JudgeOptions(model="m", price_per_million_input_tokens=0.5, price_per_million_output_tokens=2)
            >>> options.cost(Usage(requests=1, input_tokens=1_000_000, output_tokens=250_000))
            1.0
        """
        prices = (self.price_per_million_input_tokens, self.price_per_million_output_tokens)
        if prices == (None, None):
            return None
        return (usage.input_tokens * (prices[0] or 0.0) + usage.output_tokens * (prices[1] or 0.0)) / _MILLION


def _config_error(error: ValidationError) -> ConfigError:
    """Return pydantic's first finding as one line: the option, its value, the allowed values."""
    detail = error.errors()[0]
    name = str(detail["loc"][0])
    if detail["type"] == "extra_forbidden":
        known = list(JudgeOptions.model_fields)
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
        return ConfigError(f"the judge reward has no option {name!r}{hint}: it takes {', '.join(known)}")
    if detail["type"] == "missing":
        return ConfigError(f"the judge reward needs the option {name!r}")
    allowed = detail["msg"].removeprefix("Value error, ")
    for start in ("Input should", "String should"):
        allowed = allowed.replace(start, "it should")
    return ConfigError(f"the judge reward has {name}={_shown(name, detail['input'])}: {allowed}")


def _shown(name: str, value: Any) -> str:
    """Return an option's value for a message; a value that may contain a credential is left out."""
    is_plain = name != "api_key_env" and not isinstance(value, (dict, list)) and not re.search("[@?#]", str(value))
    try:
        check_request({"value": value})
    except ValueError:
        is_plain = False
    return repr(value) if is_plain or name == "scale" else "…"
