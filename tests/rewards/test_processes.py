"""Reward functions in processes of their own: the same rewards, and nothing that outlives its use."""

from __future__ import annotations

import functools
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from compared import without_times

import grpo
from grpo.errors import ConfigError, RewardError
from grpo.rewards import RewardSuite, resolve_rewards, reward_function

REWARDS = '''\
"""Rewards that a test runs in processes."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np


def everything(prompts, completions, completion_ids, level, scale, trainer_state, log_extra, log_metric):
    log_extra("seen", [f"{prompt} {text}" for prompt, text in zip(prompts, completions)])
    log_metric("level", level[0])
    values = [scale * (len(text) + one + trainer_state.global_step) for text, one in zip(completions, level)]
    return [None if text == "1.1" else [value] * len(ids) if text == "1.2" else value
            for text, ids, value in zip(completions, completion_ids, values)]


def process(completions):
    return [float(os.getpid())] * len(completions)


def draws(completions):
    return [random.random() + np.random.rand() for _ in completions]


def order_of_a_set(completions):
    return [float(int("".join(str(ord(letter) % 10) for letter in {"a", "b", "c", "d", "e"}))) for _ in completions]


def threads(completions):
    return [float(os.environ["OMP_NUM_THREADS"])] * len(completions)


def raises(prompts, completions):
    return [1 / 0 if prompt == "question 1" else 1.0 for prompt in prompts]


def bad_values(completions):
    return [{"0.0": float("nan"), "0.1": ValueError("cannot tell")}.get(text, 1.0) for text in completions]


def leaves(prompts, completions):
    if prompts[0] == "question 1":
        sys.exit("by the side door")
    return [float(os.getpid())] * len(completions)


def dies(prompts, completions, how):
    if prompts[0] == "question 1":
        os._exit(3) if how == "exit" else os.kill(os.getpid(), 9)
    return [1.0] * len(completions)


def hangs(prompts, completions, notes):
    if prompts[0] == "question 1":
        sleeps = [sys.executable, "-c", "import time; time.sleep(600)"]
        child, apart = subprocess.Popen(sleeps), subprocess.Popen(sleeps, start_new_session=True)
        # Its own parent ends at once.
        quiet = "start_new_session=True, stdout=-3, stderr=-3"
        starts = f"import subprocess; print(subprocess.Popen({sleeps!r}, {quiet}).pid)"
        daemon = subprocess.run([sys.executable, "-c", starts], capture_output=True, text=True, check=True).stdout
        Path(notes).write_text(f"{os.getpid()} {child.pid} {apart.pid} {daemon}")
        time.sleep(600)
    return [1.0] * len(completions)


def meets(prompts, completions, notes):
    """Each group waits for all the others to have begun."""
    Path(notes, prompts[0]).touch()
    while len(os.listdir(notes)) < 3:
        time.sleep(0.005)
    return [1.0] * len(completions)


def odd_exception(completions):
    class Odd(Exception):
        def __init__(self, one, two):
            super().__init__(f"{one} and {two}")
    raise Odd("this", "that")


def talks(completions):
    print("hello from the other side", flush=True)
    return [1.0] * len(completions)


class Counts:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, completions):
        return [self.factor * len(text) for text in completions]


triple = Counts(3.0)
'''


@pytest.fixture
def file(tmp_path) -> str:
    path = tmp_path / "my_rewards.py"
    path.write_text(REWARDS)
    return str(path)


@pytest.fixture
def steps(group):
    """Score a step of three groups with one reward, and close it."""

    def run(spec, *, step=0, sizes=(2, 3, 2), **options):
        groups = [group(f"question {n}", [2] * size, {"level": float(n)}) for n, size in enumerate(sizes)]
        texts = [f"{n}.{index}" for n, size in enumerate(sizes) for index in range(size)]
        suite = RewardSuite(resolve_rewards([spec]), **{"max_failed_share": 1.0, **options})
        try:
            return suite.score(groups, texts, step=step, max_steps=9)
        finally:
            suite.close()

    return run


def scores_of(result):
    return [[member.score for member in group.rollouts] for group in result.groups]


def totals(result):
    return [[one.total for one in row] for row in scores_of(result)]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def soon(condition) -> bool:
    deadline = time.monotonic() + 20
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return held


linux_only = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")


def test_a_function_in_processes_sees_gives_and_logs_what_it_would_in_this_one(file, steps):
    spec = {"name": f"{file}:everything", "scale": 0.5}
    here = steps(spec, step=4)
    there = steps({**spec, "processes": 2}, step=4)
    assert [group.rollouts for group in there.groups] == [group.rollouts for group in here.groups]
    assert totals(there)[0] == [3.5, 3.5]
    assert scores_of(there)[1][1].is_unscored
    assert scores_of(there)[1][2].token_rewards == (4.0, 4.0)
    assert [member.logged for member in there.groups[2].rollouts] == [
        {"seen": "question 2 2.0"},
        {"seen": "question 2 2.1"},
    ]
    assert there.metrics["user/level"] == 1.0


def test_it_runs_in_other_processes_as_many_as_are_asked_for(file, steps, tmp_path):
    assert os.getpid() not in {pid for row in totals(steps({"name": f"{file}:process", "processes": 2})) for pid in row}
    assert {pid for row in totals(steps({"name": f"{file}:process", "processes": 0})) for pid in row} == {os.getpid()}
    (notes := tmp_path / "notes").mkdir()
    met = steps({"name": f"{file}:meets", "processes": 3, "notes": str(notes)}, timeout_s=30)
    assert totals(met) == [[1.0] * 2, [1.0] * 3, [1.0] * 2]


def test_what_it_draws_depends_on_seed_step_and_group_and_not_on_how_many_processes_there_are(file, steps):
    spec = {"name": f"{file}:draws"}
    found = totals(steps({**spec, "processes": 3}, seed=1))
    assert found == totals(steps({**spec, "processes": 1}, seed=1))
    drawn = {value for row in found for value in row}
    assert len(drawn) == 7
    for other in (steps({**spec, "processes": 1}, seed=2), steps({**spec, "processes": 1}, seed=1, step=1)):
        assert not drawn & {value for row in totals(other) for value in row}


def test_the_order_of_a_set_is_the_same_in_every_process_and_each_has_one_thread(file, steps):
    first, again = (totals(steps({"name": f"{file}:order_of_a_set", "processes": 2})) for _ in range(2))
    assert first == again
    assert len({value for row in first for value in row}) == 1
    assert totals(steps({"name": f"{file}:threads", "processes": 1}))[0] == [1.0, 1.0]


def test_an_exception_fails_its_group_and_is_told_with_its_line(file, steps):
    result = steps({"name": f"{file}:raises", "processes": 1})
    assert totals(result) == [[1.0] * 2, [None] * 3, [1.0] * 2]
    assert scores_of(result)[1][0].failures == {"raises": "ZeroDivisionError: division by zero"}
    line = 1 + REWARDS[: REWARDS.index("return [1 / 0")].count("\n")
    with pytest.raises(RewardError, match=rf"ZeroDivisionError: division by zero \(at {file}:{line}\)") as caught:
        steps({"name": f"{file}:raises", "processes": 1}, max_failed_share=0.1)
    assert "return [1 / 0" in str(caught.value.__cause__)


def test_values_that_are_no_numbers_fail_for_their_own_completion_only(file, steps):
    scores = scores_of(steps({"name": f"{file}:bad_values", "processes": 1}))
    assert [one.failures.get("bad_values") for one in scores[0]] == [
        "ValueError: reward is nan, not a finite number",
        "ValueError: cannot tell",
    ]
    assert [one.total for one in scores[1]] == [1.0] * 3


def test_an_exception_that_cannot_be_sent_is_told_all_the_same(file, steps):
    scores = scores_of(steps({"name": f"{file}:odd_exception", "processes": 1}))
    assert scores[0][0].failures == {"odd_exception": "Odd: this and that"}


def test_leaving_the_function_by_exit_is_a_failure_and_the_process_goes_on(file, steps):
    result = steps({"name": f"{file}:leaves", "processes": 1})
    first, second, third = totals(result)
    assert second == [None] * 3
    assert scores_of(result)[1][0].failures == {"leaves": "SystemExit: by the side door"}
    assert len({*first, *third}) == 1


@pytest.mark.parametrize(("how", "said"), [("exit", "ended with exit code 3"), ("kill", "was killed by signal 9")])
def test_a_process_that_dies_fails_its_group_and_another_takes_its_place(file, steps, how, said):
    result = steps({"name": f"{file}:dies", "how": how, "processes": 1})
    assert totals(result) == [[1.0] * 2, [None] * 3, [1.0] * 2]
    assert scores_of(result)[1][0].failures == {"dies": f"ChildProcessError: its process {said}"}


@linux_only
def test_a_call_that_takes_too_long_is_killed_with_all_that_it_started(file, steps, tmp_path):
    notes = tmp_path / "notes"
    result = steps({"name": f"{file}:hangs", "notes": str(notes), "processes": 1}, timeout_s=2.0)
    assert totals(result) == [[1.0] * 2, [None] * 3, [1.0] * 2]
    assert scores_of(result)[1][0].failures == {"hangs": "TimeoutError: no result within 2 s"}
    pids = [int(pid) for pid in notes.read_text().split()]
    assert len(pids) == 4
    assert soon(lambda: not any(map(is_alive, pids)))


@linux_only
@pytest.mark.parametrize("how", ["close", "forget"])
def test_processes_end_with_their_suite(file, group, how):
    suite = RewardSuite(resolve_rewards([{"name": f"{file}:process", "processes": 1}]))
    pid = int(suite.score([group("x", [1])], ["a"], step=0, max_steps=1).metrics["rewards/process/mean"])
    assert int(suite.score([group("x", [1])], ["a"], step=1, max_steps=1).metrics["rewards/process/mean"]) == pid
    assert is_alive(pid)
    if how == "close":
        suite.close()
    else:
        del suite
        gc.collect()
    assert soon(lambda: not is_alive(pid))


def test_a_suite_that_was_closed_begins_new_processes(file, group):
    suite = RewardSuite(resolve_rewards([{"name": f"{file}:process", "processes": 1}]))
    pids = set()
    for step in range(2):
        pids.add(suite.score([group("x", [1])], ["a"], step=step, max_steps=1).metrics["rewards/process/mean"])
        suite.close()
    assert len(pids) == 2


def test_calls_that_wait_when_a_suite_is_closed_are_not_made(file, group, tmp_path):
    notes = tmp_path / "notes"
    groups = [group(f"question {place}", [1]) for place in range(1, 4)]
    suite = RewardSuite(resolve_rewards([{"name": f"{file}:hangs", "notes": str(notes), "processes": 1}]))
    scoring = suite.begin([one.prompt for one in groups], step=0, max_steps=1)
    for place, one in enumerate(groups):
        scoring.add(place, one.rollouts, ["a"])
    assert soon(lambda: notes.exists() and len(notes.read_text().split()) == 4)
    suite.close()
    assert soon(lambda: not any(is_alive(int(pid)) for pid in notes.read_text().split()))
    assert soon(lambda: not any(thread.name == "grpo-rewards-pool" for thread in threading.enumerate()))


@linux_only
def test_processes_end_with_the_run_even_if_that_is_killed_and_they_are_busy(file, tmp_path):
    notes = tmp_path / "notes"
    script = textwrap.dedent(
        f"""
        from grpo.rewards import RewardSuite, resolve_rewards
        from grpo.types import Group, Prompt, Rollout

        suite = RewardSuite(resolve_rewards([{{"name": {f"{file}:hangs"!r}, "notes": {str(notes)!r}, "processes": 1}}]))
        rollout = Rollout((1,), (True,), (0.0,), "stop", 0)
        suite.score([Group(Prompt(0, "question 1", "", (1,), {{}}), (rollout,))], ["a"], step=0, max_steps=1)
        """
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(grpo.__file__).parents[1])}
    run = subprocess.Popen([sys.executable, "-c", script], env=environment)
    try:
        assert soon(lambda: notes.exists() and len(notes.read_text().split()) == 4)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert soon(lambda: not any(is_alive(int(pid)) for pid in notes.read_text().split()))


def test_what_a_file_defines_can_be_sent_in_whatever_holds_it(file, steps, group):
    assert totals(steps({"name": f"{file}:triple", "processes": 1}))[0] == [9.0, 9.0]
    function = resolve_rewards([f"{file}:everything"])[0].function
    partial = reward_function(functools.partial(function, scale=2.0), name="partial").with_options(processes=1)
    suite = RewardSuite([partial])
    result = suite.score([group("x", [1], {"level": 1.0})], ["abc"], step=0, max_steps=1)
    suite.close()
    assert totals(result) == [[8.0]]


def test_built_in_functions_run_in_processes_too(steps):
    assert totals(steps({"name": "strict_format", "processes": 1})) == [[0.0] * 2, [0.0] * 3, [0.0] * 2]


def test_without_overlap_it_is_still_called_group_by_group(file, steps):
    function = resolve_rewards([{"name": f"{file}:meets", "processes": 1, "overlap": False}])[0]
    assert function.by_group
    assert not function.overlap
    spec = {"name": f"{file}:draws", "processes": 1}
    assert without_times(steps({**spec, "overlap": False})) == without_times(steps(spec))


def test_columns_that_cannot_be_sent_fail_the_call(file, group):
    suite = RewardSuite(
        resolve_rewards([{"name": f"{file}:everything", "scale": 1, "processes": 1}]), max_failed_share=1
    )
    result = suite.score([group("x", [1], {"level": lambda: 0})], ["a"], step=0, max_steps=1)
    (failure,) = scores_of(result)[0][0].failures.values()
    assert "pickle" in failure


class Remembers:
    def __call__(self, completions):
        return [1.0] * len(completions)

    def state_dict(self):
        return {"calls": 1}

    def load_state_dict(self, state):
        pass


async def later(completions):
    return [1.0] * len(completions)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda completions: [1.0], r"cannot be sent to one \(PicklingError: .*'file.py:function'"),
        (later, "but it is async: leave them out"),
        (Remembers(), "but a state that a run saves, which they would not share"),
    ],
)
def test_a_function_that_cannot_have_processes_is_refused_before_anything_runs(function, message):
    with pytest.raises(ConfigError, match=message):
        RewardSuite(resolve_rewards([{"name": function, "processes": 1}]))


def test_a_function_of_the_script_that_runs_is_refused_with_what_to_do(monkeypatch):
    def mine(completions):
        return [1.0] * len(completions)

    mine.__module__, mine.__qualname__ = "__main__", "mine"
    monkeypatch.setattr(sys.modules["__main__"], "mine", mine, raising=False)
    with pytest.raises(ConfigError, match=r"mine is part of the script that runs.*as in 'file.py:function'"):
        RewardSuite(resolve_rewards([{"name": mine, "processes": 1}]))


def test_a_function_that_a_new_process_cannot_import_fails_with_the_reason(group, tmp_path, monkeypatch):
    module = tmp_path / "only_here_for_a_while.py"
    module.write_text("def reward(completions):\n    return [1.0] * len(completions)\n")
    monkeypatch.syspath_prepend(tmp_path)
    suite = RewardSuite(
        resolve_rewards([{"name": "only_here_for_a_while:reward", "processes": 1}]), max_failed_share=1.0
    )
    module.unlink()
    result = suite.score([group("x", [1])], ["a"], step=0, max_steps=1)
    suite.close()
    assert scores_of(result)[0][0].failures == {
        "reward": "ModuleNotFoundError: No module named 'only_here_for_a_while'"
    }


def test_what_a_function_prints_harms_nothing(file, steps, capfd):
    assert totals(steps({"name": f"{file}:talks", "processes": 1}))[0] == [1.0, 1.0]
    assert "hello from the other side" in capfd.readouterr().out
