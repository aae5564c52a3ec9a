"""The script that tests a program inside the sandbox.

It has two processes. The first one becomes the program's (`program_process`). The other one, forked before anything of
the tests is read, keeps the tests: it sends what a step evaluates beside the program, evaluates `outside` steps
itself, and writes the result of each step as a JSON object on one line. The program's process has neither the tests
nor the pipe of results. Values that are compared with literals are compared in the parent process of the sandbox.

Like the modules that it imports it is carried into the sandbox as text, and imports nothing else of the package.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from grpo.sandbox.unit_tests.plain_values import LONGEST
from grpo.sandbox.unit_tests.program_process import failure, serve, write_line
from grpo.sandbox.unit_tests.proxies import Link, Names

__all__ = ["main"]

_NOBODY = 65534
_SET_DUMPABLE = 4


def main() -> None:
    """Test the program in stdin."""
    (request_reader, request_writer), (reply_reader, reply_writer) = os.pipe(), os.pipe()
    tests = os.fork()
    if tests:
        for other in (request_writer, reply_reader):
            os.close(other)
        _silence()
        serve(request_reader, reply_writer, tests)
    try:
        for other in (request_reader, reply_writer):
            os.close(other)
        _Tests(Link(request_writer, reply_reader)).run()
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}".encode())
    finally:
        os._exit(0)


class _Tests:
    """The process that keeps the tests."""

    def __init__(self, program: Link) -> None:
        self._program = program
        self._names = Names(program)
        self._channel = os.dup(1)

    def run(self) -> None:
        """Read program and steps, and report the result of each step."""
        # The program can write to its own folder: nothing may be imported from there.
        sys.path[:] = [folder for folder in sys.path if folder not in ("", os.path.realpath("."))]
        order = json.load(sys.stdin)
        if any(step["kind"] == "outside" for step in order["steps"]):
            _hide()
        self._report(ready=True)
        _silence()
        error = self._program.ask(kind="load", source=order["program"]).get("error")
        self._report(loaded=None if error is None else str(error)[:300])
        for number, step in enumerate([] if error else order["steps"]):
            result = self._outside(step) if step["kind"] == "outside" else self._beside(step)
            self._report(step=number, **result)

    def _outside(self, step: dict[str, str]) -> dict[str, Any]:
        """Return nothing, or the error of statements that run in this process."""
        error = failure(lambda: exec(compile(step["source"], "test", "exec"), self._names))
        return {} if error is None else {"error": error}

    def _beside(self, step: dict[str, str]) -> dict[str, Any]:
        """Return the result of a step that is evaluated in the program's process."""
        reply = self._program.ask(kind=step["kind"], source=step["source"])
        result: dict[str, Any] = {name: reply[name] for name in ("error", "value") if name in reply}
        return result if len(json.dumps(result)) <= LONGEST else {"error": "ValueError: the value is too long"}

    def _report(self, **facts: Any) -> None:
        write_line(self._channel, json.dumps(facts))


def _silence() -> None:
    """Point the standard streams to nothing."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


def _hide() -> None:
    """Keep the program's process from opening this one's memory and files in /proc.

    Without namespaces Landlock closes /proc to the program. The launcher kills a process that it cannot look into:
    where it runs as the same user, this process stays open.
    """
    if sys.platform == "linux" and os.getuid() == _NOBODY:
        import ctypes

        if ctypes.CDLL(None).prctl(_SET_DUMPABLE, *(ctypes.c_ulong(0),) * 4):
            raise OSError("this process cannot be hidden from the program")
