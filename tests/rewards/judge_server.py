"""A local server of OpenAI's chat completions whose responses a test chooses, and judges that use it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from grpo.errors import GrpoError
from grpo.rewards.judge import JudgeReward

SECRET = "sk-only-for-this-test"


@dataclass(frozen=True)
class Asked:
    """A request as it arrived; `number` counts from 0 in order of arrival."""

    number: int
    path: str
    key: str
    body: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The text of the user message."""
        return str(self.body["messages"][-1]["content"])

    def shown(self, tag: str) -> str:
        """Return what the shipped rubrics show between the tags of this name."""
        return self.text.split(f"<{tag} ", 1)[1].split(">\n", 1)[1].split(f"\n</{tag} ", 1)[0]


@dataclass(frozen=True)
class Sent:
    """A response; without `body` the server never sends it.

    With `missing`, the connection closes that many bytes before the end; `pause_s` is the wait between two bytes.
    """

    body: bytes | None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: str = "application/json"
    missing: int = 0
    pause_s: float = 0.0


HANGS = Sent(None)


def says(text: str | None, *, finish_reason: str = "stop", refusal: str | None = None, tokens: int = 3) -> Sent:
    """Return a chat completion with a usage of 10 tokens for the prompt and `tokens` for the answer."""
    message = {"role": "assistant", "content": text, "refusal": refusal}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}
    body = {"id": "a", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return Sent(json.dumps(body).encode())


def refuses(status: int, *, code: str = "", message: str = "no", headers: Mapping[str, str] | None = None) -> Sent:
    """Return an error in OpenAI's form."""
    return Sent(json.dumps({"error": {"message": message, "code": code}}).encode(), status, headers or {})


class JudgeServer:
    """The state of a server: its address and the requests so far.

    Attributes:
        url: address of the API.
        asked: requests so far, in order of arrival.
        most_at_once: the most requests in progress at one time.
    """

    def __init__(self, port: int, answer: Callable[[Asked], Sent | str]) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self.asked: list[Asked] = []
        self.most_at_once = 0
        self.closing = threading.Event()
        self._answer = answer
        self._at_once = 0
        self._lock = threading.Lock()

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        key = handler.headers.get("authorization", "").removeprefix("Bearer ")
        with self._lock:
            asked = Asked(len(self.asked), handler.path, key, body)
            self.asked.append(asked)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            answer = self._answer(asked)
        finally:
            with self._lock:
                self._at_once -= 1
        sent = says(answer) if isinstance(answer, str) else answer
        if sent.body is None:
            self.closing.wait()
            return
        handler.send_response(sent.status)
        for name, value in {**sent.headers, "content-type": sent.kind}.items():
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(sent.body)))
        handler.end_headers()
        if not sent.pause_s:
            handler.wfile.write(sent.body[: len(sent.body) - sent.missing])
        for byte in sent.body if sent.pause_s else b"":
            handler.wfile.write(bytes([byte]))
            self.closing.wait(sent.pause_s)
        handler.close_connection = sent.missing > 0


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True
    judge: JudgeServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors: clients that give up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        self.server.judge.respond(self)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@contextlib.contextmanager
def judge_server(answer: Callable[[Asked], Sent | str]) -> Iterator[JudgeServer]:
    """Yield a server whose responses `answer` returns; a string is the text of the judge."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.judge = JudgeServer(server.server_address[1], answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.judge
    finally:
        server.judge.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


def judge_at(url: str | None, **options: Any) -> JudgeReward:
    """Return a judge at this address without a cache."""
    settings = {"model": "m", "base_url": url, "cache_dir": None, "scale": (0, 10), "retries": 2}
    return JudgeReward(**{**settings, **options})


def rewards_of(
    judge: JudgeReward, completions: Sequence[Any], prompts: Sequence[Any] | None = None, **columns: Any
) -> list[Any]:
    """Return the rewards of one call of the judge; without `prompts`, all completions have the same prompt."""
    return asyncio.run(judge(prompts or ["1+1?"] * len(completions), completions, **columns))


def failure(reward: Any) -> str:
    """Return the message of a failed completion, after checking that it has one line."""
    assert isinstance(reward, GrpoError)
    assert "\n" not in str(reward)
    return str(reward)


def length_of_answer(asked: Asked) -> str:
    """Score by a criterion that a test can predict: one point for each character."""
    return f"It has so many characters.\nScore: {len(asked.shown('answer'))}"


def longer_one(asked: Asked) -> str:
    """Compare by the same criterion."""
    first, second = len(asked.shown("answer A")), len(asked.shown("answer B"))
    return f"Winner: {'A' if first > second else 'B' if second > first else 'tie'}"
