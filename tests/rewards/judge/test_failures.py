from __future__ import annotations

import socket
import time
from dataclasses import replace
from email.utils import formatdate

import pytest
from judge_server import HANGS, SECRET, Sent, failure, judge_at, judge_server, refuses, rewards_of, says

from grpo.errors import JudgeError


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ("I like it.", "does not end with 'Score: N': 'I like it.'"),
        ("Score: 11", "gave 11.0 on a scale from 0 to 10"),
        (says("", refusal="I cannot judge this."), "refused: 'I cannot judge this.'"),
        (says("", finish_reason="content_filter"), "refused"),
        (says("It is good.\nScore: 1", finish_reason="length"), "cut at its limit of tokens"),
        (says(None), "empty answer"),
        (says(" \n"), "empty answer"),
        (Sent(b"<html>Welcome</html>", kind="text/html"), "no chat completion"),
        (Sent(b'{"choices": [{"mess'), "no chat completion"),
        (Sent(b"{}"), "no chat completion"),
        (Sent(b'{"choices": []}'), "no chat completion"),
        (Sent(b'{"choices": "none"}'), "no chat completion"),
        (Sent(b'{"choices": [{"message": "Score: 3"}]}'), "empty answer|no chat completion"),
        (Sent(b"[1, 2]"), "no chat completion"),
        (Sent(b"\xff\xfe\x00"), "no chat completion"),
        (refuses(404, message="no model m"), "'m' at .* answered 404: no model m"),
        (refuses(400), "answered 400"),
        (refuses(429, headers={"x-should-retry": "false"}), "takes no more requests"),
    ],
)
def test_a_completion_without_a_valid_answer_has_failed_and_the_others_have_not(sent, message):
    with judge_server(lambda asked: sent if asked.shown("answer") == "bad" else "Score: 5") as server:
        judge = judge_at(server.url)
        verdicts = rewards_of(judge, ["good", "bad", "fine"])
    assert verdicts[::2] == [0.5, 0.5]
    failure(verdicts[1])
    with pytest.raises(JudgeError, match=message):
        raise verdicts[1]
    assert len(server.asked) == 3


@pytest.mark.parametrize("sent", [refuses(500), refuses(503), refuses(408), Sent(b'{"choices": [', missing=1)])
def test_a_request_that_may_succeed_later_is_made_again(sent):
    with judge_server(lambda asked: sent if asked.number < 2 else "Score: 5") as server:
        judge = judge_at(server.url)
        assert rewards_of(judge, ["good"]) == [0.5]
    assert judge.usage.requests == len(server.asked) == 3


@pytest.mark.parametrize(
    "moment", [lambda: "0.01", lambda: formatdate(time.time() + 2, usegmt=True)], ids=["s", "date"]
)
def test_retry_after_takes_the_place_of_the_clients_own_wait(monkeypatch, moment):
    for name in ("INITIAL_RETRY_DELAY", "MAX_RETRY_DELAY"):
        monkeypatch.setattr(f"openai._base_client.{name}", 600.0)

    def answer(asked):
        return refuses(429, headers={"Retry-After": moment()}) if asked.number < 2 else "Score: 5"

    with judge_server(answer) as server:
        judge = judge_at(server.url, deadline_s=20.0)
        assert rewards_of(judge, ["good"]) == [0.5]
    assert judge.usage.requests == len(server.asked) == 3


def test_a_pause_that_is_longer_than_a_call_fails_its_completion_at_once():
    def answer(asked):
        return refuses(429, headers={"Retry-After": "3600"}) if asked.shown("answer") == "bad" else "Score: 5"

    with judge_server(answer) as server:
        verdicts = rewards_of(judge_at(server.url, retries=5, deadline_s=None), ["good", "bad"])
    assert verdicts[0] == 0.5
    assert f"the judge at {server.url} takes no more requests (429: no), at the first attempt" in failure(verdicts[1])
    assert len(server.asked) == 2


def test_an_endpoint_that_always_asks_to_come_back_later_is_given_up_after_the_last_retry():
    with judge_server(lambda asked: refuses(429, headers={"Retry-After": "0.01"})) as server:
        judge = judge_at(server.url, retries=2)
        (verdict,) = rewards_of(judge, ["good"])
    assert "takes no more requests (429: no), after 3 attempts" in failure(verdict)
    assert judge.usage.requests == len(server.asked) == 3


def test_attempts_end():
    with judge_server(lambda asked: refuses(500, message="out of memory")) as server:
        (verdict,) = rewards_of(judge_at(server.url, retries=1), ["good"])
    assert "answered 500: out of memory, after 2 attempts" in failure(verdict)
    assert len(server.asked) == 2


def test_an_endpoint_that_hangs_fails_its_completion_only():
    with judge_server(lambda asked: HANGS if asked.shown("answer") == "bad" else "Score: 5") as server:
        verdicts = rewards_of(judge_at(server.url, retries=0, timeout_s=2.0), ["good", "bad"])
    assert verdicts[0] == 0.5
    assert f"no answer from the judge at {server.url} within 2 s, at the first attempt" in failure(verdicts[1])


def test_an_answer_that_trickles_in_for_longer_than_an_attempt_may_take_has_failed():
    trickle = replace(says("Score: 5"), pause_s=0.3)
    with judge_server(lambda asked: trickle) as server:
        (verdict,) = rewards_of(judge_at(server.url, retries=0, timeout_s=1.0, deadline_s=5.0), ["good"])
    assert "within 1 s" in failure(verdict)


def test_at_the_deadline_the_answers_so_far_count():
    with judge_server(lambda asked: HANGS if asked.shown("answer") == "bad" else "Score: 5") as server:
        judge = judge_at(server.url, timeout_s=600.0, deadline_s=3.0)
        verdicts = rewards_of(judge, ["good", "bad"])
    assert verdicts[0] == 0.5
    assert "raise concurrency, requests_per_minute or deadline_s" in failure(verdicts[1])
    assert judge.usage.requests == 2


def test_at_the_deadline_the_last_failure_is_named():
    with judge_server(lambda asked: refuses(503, headers={"Retry-After": "60"})) as server:
        (verdict,) = rewards_of(judge_at(server.url, deadline_s=1.0), ["good"])
    assert f"{server.url} did not answer within the 1 s of a call: its last failure was status 503" in failure(verdict)


def test_an_endpoint_that_is_down_is_named():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}/v1"
        (verdict,) = rewards_of(judge_at(url), ["good"])
    assert f"cannot reach the judge at {url}" in failure(verdict)


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_is_named_by_its_variable_and_never_shown(monkeypatch, status):
    monkeypatch.setenv("MY_KEY", SECRET)
    with judge_server(lambda asked: refuses(status, message=f"{asked.key} is not valid")) as server:
        (verdict,) = rewards_of(judge_at(server.url, api_key_env="MY_KEY"), ["good"])
    assert "refused the key from MY_KEY" in failure(verdict)
    assert SECRET not in str(verdict)
    assert len(server.asked) == 1


def test_without_a_key_nothing_in_a_message_is_blanked_out():
    with judge_server(lambda asked: refuses(400, message=f"none of the models is {asked.body['model']}")) as server:
        (verdict,) = rewards_of(judge_at(server.url), ["good"])
    assert "none of the models is m" in failure(verdict)


def test_a_key_is_blanked_out_where_a_message_is_cut_as_well(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with judge_server(lambda asked: refuses(400, message=f"{'x' * 150}{asked.key}")) as server:
        (verdict,) = rewards_of(judge_at(server.url), ["good"])
    assert SECRET[:4] not in failure(verdict)


def test_a_lone_surrogate_in_an_endpoints_text_can_be_written_down():
    answers = {"good": "I saw \ud83d.\nScore: 5", "bad": "\ud83d", "worse": refuses(400, message="no \ud83d")}
    extras = {}
    with judge_server(lambda asked: answers[asked.shown("answer")]) as server:
        verdicts = rewards_of(judge_at(server.url), list(answers), log_extra=extras.__setitem__)
    assert verdicts[0] == 0.5
    "".join([*(failure(verdict) for verdict in verdicts[1:]), *filter(None, extras["judge/helpfulness"])]).encode()
