from __future__ import annotations

import sqlite3
import subprocess
import sys

import pytest
from judge_server import SECRET, failure, judge_at, judge_server, length_of_answer, rewards_of

from grpo.errors import ConfigError
from grpo.rewards.judge.cache import AnswerCache


def test_an_answered_question_is_not_asked_again(tmp_path):
    with judge_server(length_of_answer) as server:
        first = judge_at(server.url, cache_dir=tmp_path / "new" / "folder")
        assert rewards_of(first, ["1", "12"]) == [0.1, 0.2]
        second = judge_at(server.url, cache_dir=tmp_path / "new" / "folder")
        assert rewards_of(second, ["12", "123", "1"]) == [0.2, pytest.approx(0.3), 0.1]
        assert (second.usage.requests, second.usage.cached) == (1, 2)
        for other in ({"model": "n"}, {"temperature": 1.0}, {"scale": (0, 20)}, {"rubric": "correctness"}):
            judge = judge_at(server.url, cache_dir=tmp_path / "new" / "folder", **other)
            rewards_of(judge, ["1"], answer=["2"])
            assert judge.usage.requests == 1


def test_an_answer_that_cannot_be_read_is_not_kept(tmp_path):
    with judge_server(lambda asked: "Hm." if asked.number == 0 else "Score: 5") as server:
        judge = judge_at(server.url, cache_dir=tmp_path)
        failure(rewards_of(judge, ["good"])[0])
        assert rewards_of(judge, ["good"]) == [0.5]
    assert len(server.asked) == 2


def test_neither_the_key_nor_anything_but_answers_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with judge_server(lambda asked: "Score: 5") as server:
        rewards_of(judge_at(server.url, cache_dir=tmp_path), ["a text of the policy"])
    (path,) = tmp_path.iterdir()
    kept = path.read_bytes()
    assert b"Score: 5" in kept
    assert SECRET.encode() not in kept


WRITER = """
import sys
from grpo.rewards.judge.cache import AnswerCache
cache = AnswerCache(sys.argv[1])
for number in range(40):
    cache.put(f"{sys.argv[2]}-{number}", "own")
    cache.put(f"shared-{number}", "shared")
assert len(cache.get_many(f"{sys.argv[2]}-{number}" for number in range(40))) == 40
"""


def test_several_processes_make_and_use_one_cache_at_a_time(tmp_path):
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, str(i)], stderr=subprocess.PIPE) for i in range(3)
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert said == [b"", b"", b""]
    cache = AnswerCache(tmp_path)
    keys = [f"{name}-{number}" for name in ("0", "1", "2", "shared") for number in range(40)]
    assert len(cache.get_many(keys)) == 160


def test_more_keys_than_one_statement_allows_can_be_looked_up(tmp_path):
    cache = AnswerCache(tmp_path)
    cache.put("7", "seven")
    assert cache.get_many(str(number) for number in range(50_000)) == {"7": "seven"}


def test_a_cache_file_with_an_additional_column_still_works(tmp_path):
    with sqlite3.connect(tmp_path / "answers.sqlite3") as connection:
        connection.execute("CREATE TABLE answers (key TEXT PRIMARY KEY, text TEXT, made REAL)")
        connection.execute("INSERT INTO answers VALUES ('old', 'said before', 1.0)")
    connection.close()
    cache = AnswerCache(tmp_path)
    cache.put("new", "said now")
    assert cache.get_many(["old", "new"]) == {"old": "said before", "new": "said now"}


def test_a_file_that_is_no_cache_is_a_configuration_error(tmp_path):
    (tmp_path / "answers.sqlite3").write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigError, match="delete the file, or set cache_dir"):
        judge_at("http://127.0.0.1:1/v1", cache_dir=tmp_path)
    with pytest.raises(ConfigError, match="cannot use"):
        judge_at("http://127.0.0.1:1/v1", cache_dir=tmp_path / "answers.sqlite3" / "inside")


def test_a_cache_that_breaks_later_fails_no_reward(tmp_path, caplog):
    with judge_server(length_of_answer) as server:
        judge = judge_at(server.url, cache_dir=tmp_path)
        assert rewards_of(judge, ["1"]) == [0.1]
        with sqlite3.connect(tmp_path / "answers.sqlite3") as connection:
            connection.execute("DROP TABLE answers")
        connection.close()
        assert rewards_of(judge, ["1", "12"]) == [0.1, 0.2]
    assert caplog.text.count("are not kept") == 1


def test_a_lone_surrogate_in_an_answer_neither_fails_the_call_nor_the_cache(tmp_path):
    def answer(asked):
        return f"I saw \ud83d.\nScore: {len(asked.shown('answer'))}"

    with judge_server(answer) as server:
        judge = judge_at(server.url, cache_dir=tmp_path)
        assert rewards_of(judge, ["1", "12"]) == [0.1, 0.2]
        assert rewards_of(judge, ["1", "12"]) == [0.1, 0.2]
    assert len(server.asked) == 2


def test_a_text_that_the_cache_cannot_write_fails_no_reward(tmp_path, caplog):
    cache = AnswerCache(tmp_path)
    cache.put("key", "\ud83d")
    assert cache.get_many(["key", "\ud83d"]) == {}
    assert caplog.text.count("are not kept") == 1


def test_without_memory_the_judge_is_asked_again_and_the_cache_is_unchanged(tmp_path):
    with judge_server(lambda asked: f"Score: {asked.number}") as server:
        judge = judge_at(server.url, cache_dir=tmp_path)
        assert rewards_of(judge, ["a"]) == [0.0]
        with judge.without_memory():
            assert rewards_of(judge, ["a"]) == [0.1]
            assert rewards_of(judge, ["a"]) == [0.2]
            assert rewards_of(judge, ["b"]) == [pytest.approx(0.3)]
        assert rewards_of(judge, ["a"]) == [0.0]
        assert rewards_of(judge, ["b"]) == [0.4], "answers within the context are not kept"
