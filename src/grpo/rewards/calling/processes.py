"""Processes of their own for reward functions that compute for long, so that threads of this one would wait for them.

They are new interpreters (nothing is forked), begin with the first call, stay for the run, and are killed with all
that they started: after a call that takes too long, with the suite, and with the run however that ends.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import Future
from multiprocessing import Pipe
from pathlib import Path
from types import FunctionType
from typing import Any

from grpo.errors import ConfigError
from grpo.processes import kill_tree
from grpo.rewards.calling.batch import Recorder, RewardBatch
from grpo.rewards.calling.threads import Outcome, Pending, wait_until
from grpo.rewards.function import RewardFunction
from grpo.rewards.imports import FILE_MODULE_PREFIX, import_object
from grpo.rewards.readout import in_one_line

__all__ = ["ProcessPool"]

_START_S = 60.0
"""Seconds that a process may take to start and to import the function."""

_LOGS = ("log_extra", "log_metric")
"""Arguments that the process makes itself and sends the contents of."""

_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
"""Processes are what shares out the work, and the order of a set is the same in each of them."""

_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from grpo.rewards.calling.process_worker import serve; serve(int(sys.argv[1]))"
)


class ProcessPool:
    """Calls one reward function in several processes; which of them takes a call makes no difference to it."""

    def __init__(self, function: RewardFunction) -> None:
        """Make ready; processes begin with the first call.

        Raises:
            ConfigError: a new process could not import the function.
        """
        self._function = function
        self._setup = _packed(function)
        self._calls: queue.SimpleQueue[Any] | None = None
        self._end: Any = None

    def start(self, batch: RewardBatch, *, seed: int, timeout_s: float | None) -> Pending:
        """Begin a call and return at once; it waits for a process that is free.

        Its outcome is a `CallResult`, or an error: a `RemoteError` for what the function raised, TimeoutError
        for a call that took more than `timeout_s` in its process, ChildProcessError when that died.

        Args:
            seed: what Python's and NumPy's generators begin with in this call, and torch's if it is imported.
        """
        future: Future[Outcome] = Future()
        try:
            request = self._request(batch, seed)
        except Exception as error:  # a column holds what cannot be sent
            future.set_result(Outcome(None, error, 0.0))
        else:
            self._open().put((request, timeout_s, future))

        def outcome() -> Outcome:
            wait_until(future, None)
            return future.result()

        return Pending(outcome, future.cancel, future.done)

    def close(self) -> None:
        """End all processes; a later call would begin new ones."""
        if self._end is not None:
            self._end()
        self._calls = None

    def _request(self, batch: RewardBatch, seed: int) -> bytes:
        available = batch.arguments(Recorder())
        names = self._function.takes(available)
        logs = [name for name in names if name in _LOGS]
        arguments = {name: available[name]() for name in names if name not in logs}
        return pickle.dumps((arguments, logs, batch.num_tokens, seed))

    def _open(self) -> queue.SimpleQueue[Any]:
        if self._calls is None:
            self._calls = queue.SimpleQueue()
            count, live = self._function.processes, set[subprocess.Popen[bytes]]()
            for _ in range(count):
                threading.Thread(
                    target=_work, args=(self._calls, self._setup, live), name="grpo-rewards-pool", daemon=True
                ).start()
            self._end = weakref.finalize(self, _end_all, self._calls, count, live)
        return self._calls


class _Pickler(pickle.Pickler):
    """Sends what a user's file defines by the file's path: its module has no name that another process knows."""

    def reducer_override(self, obj: Any) -> Any:
        module = getattr(obj, "__module__", None)
        if not isinstance(obj, (FunctionType, type)) or not isinstance(module, str) or "<" in obj.__qualname__:
            return NotImplemented
        if module == "__main__":
            raise pickle.PicklingError(f"{obj.__qualname__} is part of the script that runs")
        if module.startswith(FILE_MODULE_PREFIX):
            return import_object, (f"{sys.modules[module].__file__}:{obj.__qualname__}",)
        return NotImplemented


def _packed(function: RewardFunction) -> bytes:
    buffer = io.BytesIO()
    try:
        _Pickler(buffer).dump((function.function, dict(function.parameters)))
    except Exception as error:  # whatever the objects in it raise
        raise ConfigError(
            f"reward {function.name!r} has processes={function.processes}, but cannot be sent to one "
            f"({in_one_line(error)}): define it at the top of a module or of a file, as in 'file.py:function'"
        ) from error
    return buffer.getvalue()


class _Process:
    """One process, and the connection to it."""

    def __init__(self, setup: bytes, live: set[subprocess.Popen[bytes]]) -> None:
        """Start it and have it import the function; what that raises is raised here, as RemoteError."""
        self._live = live
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), *_search_path()],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=os.environ | _ENVIRONMENT,
            )
        live.add(self._process)
        try:
            refusal = self.ask(setup, _START_S)
            if refusal is not None:
                raise refusal
        except BaseException:
            self.end()
            raise

    def ask(self, request: bytes, timeout_s: float | None) -> Any:
        try:
            self._connection.send_bytes(request)
            if self._connection.poll(timeout_s):
                return pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise ChildProcessError(f"its process {self.end()}") from error
        raise TimeoutError(f"no result within {timeout_s:g} s")

    def end(self) -> str:
        """Kill the process and all that it started, and return how it ended (perhaps by itself, before)."""
        self._live.discard(self._process)
        _kill(self._process)
        code = self._process.wait()
        self._connection.close()
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _work(calls: queue.SimpleQueue[Any], setup: bytes, live: set[subprocess.Popen[bytes]]) -> None:
    """Serve calls with one process, begun anew after each that had to be killed, until there is None in their place."""
    process: _Process | None = None
    while (item := calls.get()) is not None:
        request, timeout_s, future = item
        if not future.set_running_or_notify_cancel():
            continue
        began = time.perf_counter()
        try:
            if process is None:
                process = _Process(setup, live)
                began = time.perf_counter()
            reply = process.ask(request, timeout_s)
        except BaseException as error:
            if process is not None:
                process.end()
                process = None
            reply = error
        seconds = time.perf_counter() - began
        failed = isinstance(reply, BaseException)
        future.set_result(Outcome(None if failed else reply, reply if failed else None, seconds))
        del item, request, future, reply
    if process is not None:
        process.end()


def _end_all(calls: queue.SimpleQueue[Any], count: int, live: set[subprocess.Popen[bytes]]) -> None:
    with contextlib.suppress(queue.Empty):
        while True:
            _, _, future = calls.get_nowait()
            future.cancel()
    for _ in range(count):
        calls.put(None)
    for process in list(live):
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    # One that was waited for has given its number back, perhaps to somebody else.
    if process.returncode is None:
        kill_tree(process.pid)  # it is the parent of all whose own parent has ended


def _search_path() -> list[str]:
    return [str(Path(place).absolute()) for place in sys.path]
