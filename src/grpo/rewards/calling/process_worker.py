"""What runs in a process of a `ProcessPool`: one reward function, called for each request that comes in."""

from __future__ import annotations

import os
import pickle
import queue
import random
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from grpo.processes import adopt_orphans, kill_tree
from grpo.rewards.calling.batch import CallResult, Recorder
from grpo.rewards.readout import Failed, Reading, RemoteError, read_rewards

__all__ = ["serve"]


def serve(descriptor: int) -> None:
    """Answer requests until the other side is gone.

    The first request is the function, answered by None, or by a `RemoteError` when it cannot be had.

    Args:
        descriptor: of the connection that requests come by.
    """
    os.set_inheritable(descriptor, False)
    adopt_orphans()
    connection: Connection[Any, Any] = Connection(descriptor)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, requests), daemon=True).start()
    try:
        function, parameters = pickle.loads(requests.get())
    except BaseException as error:
        connection.send_bytes(pickle.dumps(RemoteError.of(error)))
        return
    connection.send_bytes(pickle.dumps(None))
    while True:
        connection.send_bytes(_reply(function, parameters, pickle.loads(requests.get())))


def _listen(connection: Connection[Any, Any], requests: queue.SimpleQueue[bytes]) -> None:
    """Take requests; when the other side is gone, end this process and all that it started, busy or not."""
    try:
        while True:
            requests.put(connection.recv_bytes())
    except (EOFError, OSError):
        kill_tree(os.getpid())


def _reply(function: Callable[..., Any], parameters: dict[str, Any], request: Any) -> bytes:
    arguments, logs, num_tokens, seed = request
    recorder = Recorder()
    try:
        _seed(seed)
        given = arguments | {name: getattr(recorder, name) for name in logs}
        readings = read_rewards(function(**given, **parameters), num_tokens)
        return pickle.dumps(CallResult([_sendable(reading, function) for reading in readings], recorder))
    except BaseException as error:  # `exit()` in a reward must not end the process
        return pickle.dumps(RemoteError.of(error, function))


def _sendable(reading: Reading, function: Callable[..., Any]) -> Reading:
    return Failed(RemoteError.of(reading.error, function)) if isinstance(reading, Failed) else reading


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
