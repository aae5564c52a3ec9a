"""Credentials reach no file, no log and no message, whether they are given in options or repeated by a judge."""

from __future__ import annotations

import sqlite3
import traceback

import pytest
from judge_server import SECRET, Sent, failure, judge_at, judge_server, refuses, rewards_of, says

from grpo import GRPOConfig, GRPOTrainer
from grpo.errors import ConfigError
from grpo.rewards.judge import JudgeReward

WITH_SECRETS = {
    "user and password": {"base_url": f"http://user:{SECRET}@127.0.0.1:1/v1"},
    "user": {"base_url": f"http://{SECRET}@127.0.0.1:1/v1"},
    "no scheme": {"base_url": f"user:{SECRET}@127.0.0.1:1/v1"},
    "impossible port": {"base_url": f"http://user:{SECRET}@127.0.0.1:99999/v1"},
    "query": {"base_url": f"http://127.0.0.1:1/v1?key={SECRET}"},
    "fragment": {"base_url": f"http://127.0.0.1:1/v1#{SECRET}"},
    "path": {"base_url": f"http://127.0.0.1:1/{SECRET}/v1"},
    "address that is a key": {"base_url": SECRET},
    "member": {"request": {"api_key": SECRET}},
    "headers": {"request": {"extra_headers": {"Authorization": f"Bearer {SECRET}"}}},
    "list": {"request": {"tools": [{"server": {"X-Api-Key": "12345"}, "note": SECRET}]}},
    "value": {"request": {"user": f"Bearer {SECRET}"}},
    "address in a member": {"request": {"url": f"https://a:{SECRET}@host/"}},
    "request that is a text": {"request": SECRET},
    "variable": {"api_key_env": SECRET},
    "unknown option": {"api_key": SECRET},
    "other option": {"model": SECRET, "mode": f"Bearer {SECRET}"},
}


@pytest.mark.parametrize("name", WITH_SECRETS)
def test_an_option_with_a_secret_is_refused_in_one_line_that_does_not_show_it(name):
    with pytest.raises(ConfigError) as caught:
        JudgeReward(**{"model": "m", "base_url": "http://127.0.0.1:1/v1", "cache_dir": None, **WITH_SECRETS[name]})
    assert "\n" not in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert "12345" not in str(caught.value)


def test_an_address_with_a_secret_in_the_environment_is_refused_too(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://user:{SECRET}@127.0.0.1:1/v1")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY") as caught:
        judge_at(None)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["user and password", "headers", "variable"])
def test_a_run_with_a_secret_in_its_options_writes_no_file_with_it(name, tmp_path, capsys, caplog):
    judge = {"name": "judge", "model": "m", "base_url": "http://127.0.0.1:1/v1", "cache_dir": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"base_url|request|api_key_env") as caught:
        config = GRPOConfig(
            model="tiny",
            task="arithmetic",
            output_dir=str(tmp_path / "run"),
            rewards={"functions": [judge | WITH_SECRETS[name]]},
            steps=1,
        )
        GRPOTrainer(config=config).train()
    assert SECRET not in str(caught.value)
    assert_nowhere(tmp_path, capsys, caplog)


def assert_nowhere(folder, capsys, caplog):
    assert SECRET not in "".join([*capsys.readouterr(), caplog.text])
    assert not [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_ordinary_members_of_requests_and_addresses_are_accepted():
    members = {
        "max_completion_tokens": 5,
        "stop_token_ids": [1],
        "structured_outputs": {"regex": "Score: ([1-9]|10)", "json": {"properties": {"score": {"type": "number"}}}},
        "reasoning_effort": "low",
        "chat_template_kwargs": {"enable_thinking": False},
        "stop": ["Bearer"],
    }
    for url in ("http://127.0.0.1:1/v1", "https://me.openai.azure.com/openai/v1/", "http://[::1]:8000/v1"):
        assert judge_at(url, request=members).options.request == members


def test_a_key_that_a_judge_repeats_is_in_no_file_log_or_message(monkeypatch, tmp_path, capsys, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    caplog.set_level("DEBUG")
    answers = {
        "good": f"Your key is {SECRET}.\nScore: 5",
        "unclear": f"{'x' * 70} {SECRET}",
        "refused": says("", refusal=f"I refuse {SECRET}"),
        "no completion": Sent(f'{{"key": "{SECRET}"}}'.encode()),
        "page": Sent(f"<html>{SECRET}</html>".encode(), kind="text/html"),
        "error": refuses(400, message=f"{'x' * 150}{SECRET}"),
        "code": refuses(400, code=SECRET, message=""),
    }
    logged = {}
    with judge_server(lambda asked: answers[asked.shown("answer")]) as server:
        verdicts = rewards_of(judge_at(server.url, cache_dir=tmp_path), list(answers), log_extra=logged.__setitem__)
    assert verdicts[0] == 0.5
    assert "Your key is …." in logged["judge/helpfulness"][0]
    for verdict in verdicts[1:]:
        assert SECRET[:6] not in failure(verdict)
        assert SECRET not in "".join(traceback.format_exception(verdict))
    assert SECRET not in str(logged)
    assert_nowhere(tmp_path, capsys, caplog)


def test_a_short_key_of_an_own_server_changes_no_answer(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "5")
    with judge_server(lambda asked: "Score: 5") as server:
        assert rewards_of(judge_at(server.url), ["good"]) == [0.5]


def test_a_key_in_an_answer_that_is_already_in_the_cache_is_not_logged(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with judge_server(lambda asked: "Score: 5") as server:
        judge = judge_at(server.url, cache_dir=tmp_path)
        rewards_of(judge, ["good"])
        with sqlite3.connect(tmp_path / "answers.sqlite3") as connection:
            connection.execute("UPDATE answers SET text = ?", (f"Your key is {SECRET}.\nScore: 7",))
        logged = {}
        assert rewards_of(judge, ["good"], log_extra=logged.__setitem__) == [0.7]
    assert logged["judge/helpfulness"] == ["Your key is ….\nScore: 7"]
