from __future__ import annotations

import inspect
import sys
from dataclasses import fields

import pytest
from judge_server import judge_at

from grpo.errors import ConfigError
from grpo.rewards.judge import JudgeOptions, JudgeReward


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "model=''"),
        ({"mode": "groupwise"}, r"mode='groupwise': use one of \['pairwise', 'pointwise'\]"),
        ({"scale": (5, 5)}, "scale="),
        ({"scale": "high"}, "scale='high'"),
        ({"scale": (0, float("inf"))}, "scale="),
        ({"concurrency": 0}, "concurrency=0: use a whole number of at least 1"),
        ({"retries": -1}, "retries=-1"),
        ({"timeout_s": "5"}, "timeout_s='5': use a number above 0"),
        ({"deadline_s": 0}, "deadline_s=0"),
        ({"comparisons": 1}, "comparisons=1"),
        ({"requests_per_minute": 0.5}, "requests_per_minute=0.5"),
        ({"price_per_million_input_tokens": -1.0}, "price_per_million_input_tokens=-1.0"),
        ({"request": "fast"}, "request='fast'"),
        ({"base_url": "localhost:8000"}, "base_url='localhost:8000'"),
        ({"base_url": "http://"}, "base_url="),
        ({"rubric": "nice"}, r"no rubric 'nice': use one of \['correctness', "),
        ({"mode": "pairwise", "against": "my column"}, "'my column' is not a valid parameter name"),
    ],
)
def test_an_impossible_option_is_named_before_anything_is_sent(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        judge_at("http://127.0.0.1:1/v1", **options) if "base_url" not in options else judge_at(
            **{"url": None, **options}
        )
    assert "\n" not in str(caught.value)


def test_openais_own_endpoint_needs_a_key(monkeypatch):
    with pytest.raises(ConfigError, match="OPENAI_API_KEY is not set"):
        judge_at(None)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\u2026")
    with pytest.raises(ConfigError, match="has characters that no key has"):
        judge_at(None)


def test_without_the_package_the_command_that_installs_it_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match=r"pip install 'grpo-kit\[judge\]'"):
        judge_at("http://127.0.0.1:1/v1")


def test_configuration_sees_every_option_and_its_default():
    parameters = inspect.signature(JudgeReward).parameters
    assert list(parameters) == [field.name for field in fields(JudgeOptions)]
    assert parameters["concurrency"].default == JudgeOptions("m").concurrency
