"""Program of a process in a `ProcessPool`: calls one reward function for each request."""

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
from grpo.rewards.calling.call import run_call
from grpo.rewards.failures import RemoteError
from grpo.rewards.output import RewardOutput

__all__ = ["serve"]


def serve(descriptor: int) -> None:
    """Answer requests until the parent process ends.

    The first request is the function, answered by None, or by a `RemoteError` when it cannot be imported. Each
    further request is a call, answered by its `RewardOutput`.

    Args:
        descriptor: of the connection to the parent process.
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
        connection.send_bytes(_reply(function, parameters, *pickle.loads(requests.get())))


def _listen(connection: Connection[Any, Any], requests: queue.SimpleQueue[bytes]) -> None:
    """Queue requests; at the end of the parent process, kill this one and its descendants, busy or not."""
    try:
        while True:
            requests.put(connection.recv_bytes())
    except (EOFError, OSError):
        kill_tree(os.getpid())


def _reply(  # noqa: PLR0917 - a request in its parts
    function: Callable[..., Any],
    parameters: dict[str, Any],
    arguments: dict[str, Any],
    logs: list[str],
    num_tokens: list[int],
    seed: int,
) -> bytes:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
    output = run_call(
        lambda log: function(**arguments, **{name: getattr(log, name) for name in logs}, **parameters), num_tokens
    )
    try:
        return pickle.dumps(output.with_errors(lambda error: RemoteError.of(error, function)))
    except BaseException as error:  # a logged value that cannot be pickled
        return pickle.dumps(RewardOutput.failed(RemoteError.of(error, function), len(num_tokens), output.seconds))
