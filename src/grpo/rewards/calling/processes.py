"""Processes for reward functions that compute for long, which in threads would block the run.

They are new interpreters (nothing is forked), start with the first call, stay for the run, and are killed with all
their descendants: after a call that exceeds its time limit, with the suite, and with the run however it ends.
docs/design.md has the reasons against pebble and loky.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pickle
import queue
import subprocess
import sys
import time
import weakref
from concurrent.futures import Future
from multiprocessing import Pipe
from pathlib import Path
from types import FunctionType
from typing import Any

from grpo.errors import ConfigError
from grpo.processes import kill_tree
from grpo.rewards.calling.batch import RewardBatch
from grpo.rewards.calling.call import Call
from grpo.rewards.calling.threads import DaemonThreads
from grpo.rewards.failures import describe_error
from grpo.rewards.function import RewardFunction
from grpo.rewards.imports import FILE_MODULE_PREFIX, import_object
from grpo.rewards.output import CallLog, RewardOutput

__all__ = ["ProcessPool"]

_START_S = 60.0
"""Seconds that a process may take to start and to import the function."""

_LOGS = ("log_extra", "log_metric")
"""Arguments that the process makes itself; their entries return with the output."""

_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
"""One thread each, because processes share out the cores; and the order of a set is the same in each process."""

_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from grpo.rewards.calling.process_worker import serve; serve(int(sys.argv[1]))"
)


class ProcessPool:
    """Calls one reward function in several processes; an output does not depend on the process of its call."""

    def __init__(self, function: RewardFunction) -> None:
        """Pickle the function.

        Raises:
            ConfigError: a new process could not import the function.
        """
        self._function = function
        self._setup = _packed(function)
        self._threads: DaemonThreads | None = None
        self._processes = _Processes(self._setup)

    def start(self, batch: RewardBatch, *, seed: int, timeout_s: float | None) -> Call:
        """Return the call, which waits for a free process.

        Its output fails as a whole with a `RemoteError` for an exception of the function, TimeoutError for more
        than `timeout_s` in its process, or ChildProcessError for the death of the process.

        Args:
            seed: of Python's and NumPy's global generators in this call, and of torch's if it is imported.
        """
        if self._threads is None:
            self._threads = DaemonThreads(self._function.processes, name="grpo-rewards-pool")
            self._processes = _Processes(self._setup)
            weakref.finalize(self, self._processes.end)
        count = len(batch.texts)
        try:
            request = self._request(batch, seed)
        except Exception as error:  # a column holds an object that cannot be pickled
            future: Future[RewardOutput] = Future()
            future.set_result(RewardOutput.failed(error, count))
        else:
            run = functools.partial(self._processes.run, request, count, timeout_s)
            future = self._threads.start(run, count, None).future
        return Call(future, future.cancel)

    def close(self) -> None:
        """End all processes; a later call starts new ones."""
        self._threads = None
        self._processes.end()

    def _request(self, batch: RewardBatch, seed: int) -> bytes:
        available = batch.arguments(CallLog())
        names = self._function.takes(available)
        logs = [name for name in names if name in _LOGS]
        arguments = {name: available[name]() for name in names if name not in logs}
        return pickle.dumps((arguments, logs, batch.num_tokens, seed))


class _Processes:
    """The processes of a pool, each used by one thread at a time."""

    def __init__(self, setup: bytes) -> None:
        self._setup = setup
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._live: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def run(self, request: bytes, count: int, timeout_s: float | None) -> RewardOutput:
        """Return the output of a call of `count` completions in an idle process or a new one."""
        process, began = None, time.perf_counter()
        try:
            process = self._take()
            began = time.perf_counter()
            output: RewardOutput = process.ask(request, timeout_s)
        except BaseException as error:
            if process is not None:
                process.end()
            return RewardOutput.failed(error, count, time.perf_counter() - began)
        self._idle.put(process)
        if self._ended:
            self.end()
        return output

    def _take(self) -> _Process:
        with contextlib.suppress(queue.Empty):
            return self._idle.get_nowait()
        return _Process(self._setup, self._live)

    def end(self) -> None:
        """Kill all processes; calls in them fail."""
        self._ended = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().end()
        for process in list(self._live):
            _kill(process)


class _Pickler(pickle.Pickler):
    """Pickles a function of a user's file by the file's path, as no other process can import its module by name."""

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
    except Exception as error:  # any object in it may raise anything
        raise ConfigError(
            f"reward {function.name!r} has processes={function.processes}, but cannot be sent to one "
            f"({describe_error(error)}): define it at the top of a module or of a file, as in 'file.py:function'"
        ) from error
    return buffer.getvalue()


class _Process:
    """One process and the connection to it."""

    def __init__(self, setup: bytes, live: set[subprocess.Popen[bytes]]) -> None:
        """Start it and import the function there.

        Raises:
            RemoteError: the import raised an exception.
        """
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
        """Return the answer to a request.

        Raises:
            TimeoutError: there is none within `timeout_s`.
            ChildProcessError: the process died.
        """
        try:
            self._connection.send_bytes(request)
            if self._connection.poll(timeout_s):
                return pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise ChildProcessError(f"its process {self.end()}") from error
        raise TimeoutError(f"no result within {timeout_s:g} s")

    def end(self) -> str:
        """Kill the process with its descendants and describe its end, which may have come before."""
        self._live.discard(self._process)
        _kill(self._process)
        code = self._process.wait()
        self._connection.close()
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    # The number of a process that was waited for may belong to another one by now.
    if process.returncode is None:
        kill_tree(process.pid)


def _search_path() -> list[str]:
    return [str(Path(place).absolute()) for place in sys.path]
