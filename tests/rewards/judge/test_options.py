from __future__ import annotations

import inspect
import logging
import sys

import pytest
from judge_server import SECRET, judge_at

from grpo.errors import ConfigError
from grpo.rewards.judge import JudgeOptions, JudgeReward


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "model=''"),
        ({"mode": "groupwise"}, "mode='groupwise': it should be 'pointwise' or 'pairwise'"),
        ({"scale": (5, 5)}, r"scale=\(5, 5\): it should be two numbers, the lower one first"),
        ({"scale": "high"}, "scale='high'"),
        ({"scale": (0, float("inf"))}, "scale="),
        ({"concurrency": 0}, "concurrency=0: it should be greater than or equal to 1"),
        ({"retries": -1}, "retries=-1"),
        ({"timeout_s": "5"}, "timeout_s='5': it should be a valid number"),
        ({"deadline_s": 0}, "deadline_s=0"),
        ({"comparisons": 1}, "comparisons=1"),
        ({"requests_per_minute": 0.5}, "requests_per_minute=0.5"),
        ({"price_per_million_input_tokens": -1.0}, "price_per_million_input_tokens=-1.0"),
        ({"request": "fast"}, "request='fast'"),
        ({"base_url": "localhost:8000"}, "base_url='localhost:8000': 'localhost:8000' should be an address as in"),
        ({"base_url": "http://"}, "base_url="),
        ({"base_url": "http://a:99999"}, "base_url="),
        ({"base_url": 5}, "base_url=5: it should be a valid string"),
        ({"rubric": "nice"}, r"no rubric 'nice': use one of \['correctness', "),
        ({"mode": "pairwise", "against": "my column"}, "'my column' is not a valid parameter name"),
    ],
)
def test_an_impossible_option_is_named_before_a_request_is_sent(options, message):
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
    assert list(parameters) == list(JudgeOptions.model_fields)
    assert parameters["concurrency"].default == JudgeOptions(model="m").concurrency


def test_the_nearest_name_is_suggested_for_an_unknown_option_and_its_value_is_not_shown():
    with pytest.raises(
        ConfigError, match=r"no option 'rubrik' \(did you mean 'rubric'\?\): it takes model, base_url, "
    ):
        JudgeReward("m", rubrik="helpfulness")
    with pytest.raises(ConfigError, match="no option 'api_key'") as caught:
        JudgeReward("m", api_key=SECRET)
    assert SECRET not in str(caught.value)


def test_an_address_in_the_environment_is_checked_like_a_given_one(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "127.0.0.1:8000")
    with pytest.raises(ConfigError, match=r"base_url=.*'127\.0\.0\.1:8000' should be an address"):
        judge_at(None)


def test_a_file_that_sets_the_wait_before_retries_still_loads_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        judge_at("http://127.0.0.1:1/v1", back_off_s=0.5)
    assert "back_off_s has no effect" in caplog.text


def test_options_cannot_be_changed_later():
    with pytest.raises(ValueError, match="frozen"):
        judge_at("http://127.0.0.1:1/v1").options.retries = 5
