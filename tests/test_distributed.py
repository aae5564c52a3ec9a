"""Two processes that share a step (gloo over the loopback device); `distributed_ranks.py` has what they do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import grpo
from grpo.distributed import Processes, connected_processes

_TIMEOUT_S = 280

Results = list[dict[str, Any]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Return by rank how each scenario ended."""
    directory = tmp_path_factory.mktemp("ranks")
    source = Path(grpo.__file__).parent.parent
    script = Path(__file__).with_name("distributed_ranks.py")
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(directory)],
            env={**os.environ, "PYTHONPATH": str(source)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=_TIMEOUT_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    files = [directory / f"rank-{rank}.json" for rank in range(2)]
    assert all(file.exists() for file in files), "\n".join(outputs)
    return [json.loads(file.read_text()) for file in files]


def results(ranks: Results, scenario: str) -> list[Any]:
    """Return what the scenario returned on each rank."""
    for rank in ranks:
        assert "result" in rank[scenario], rank[scenario]
    return [rank[scenario]["result"] for rank in ranks]


def test_one_process_is_the_trivial_case() -> None:
    alone = connected_processes()
    assert (alone.rank, alone.world_size, alone.is_main) == (0, 1, True)
    value = {"tokens": 3}
    assert alone.sum(value) is value
    assert (alone.any(True), alone.any(False), alone.all_agree(False), alone.max(3)) == (True, False, False, 3)
    assert (alone.gather("a"), alone.broadcast("a"), alone.place(4), alone.share(4)) == (["a"], "a", (0, 4), range(4))
    with pytest.raises(ValueError, match="as it is"), alone.stage("training"):
        raise ValueError("as it is")
    with alone.stage("training"):
        assert alone.max(2) == 2


@pytest.mark.parametrize(("count", "world_size"), [(8, 2), (5, 2), (7, 3), (2, 4), (0, 3)])
def test_shares_cover_all_positions_in_order_of_rank(count: int, world_size: int) -> None:
    shares = [Processes(rank, world_size).share(count) for rank in range(world_size)]
    assert [position for share in shares for position in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_ranks_add_up_agree_and_know_their_place(ranks: Results) -> None:
    for rank, found in enumerate(results(ranks, "arithmetic")):
        assert found == {
            "mapping": {"both": 2, "rank 0": 0.5, "rank 1": 0.5},
            "tensor": [3.0, 1.0],
            "counts": True,
            "max": 10,
            "any": [True, False],
            "all_agree": [False, True],
            "gather": [["of", 0], ["of", 1]],
            "broadcast": "from 0",
            "share": [[[0, 1], [2, 3, 4]][rank], [[], [0]][rank]],
            "place": [[0, 5], [2, 5]][rank],
            "is_main": rank == 0,
            "one object": True,
        }
    assert results(ranks, "gradients") == [[[3.0] * 3, [21.0] * 2]] * 2


def test_a_deviation_over_the_step_is_over_all_ranks(ranks: Results) -> None:
    assert results(ranks, "deviations_over_the_step") == [{"batch": True, "whiten": True, "normalise": True}] * 2


@pytest.mark.parametrize("method", ["grpo", "dapo", "reinforce"])
def test_a_step_on_two_ranks_is_the_step_on_one(method: str, ranks: Results) -> None:
    first, second = (found[method] for found in results(ranks, "a_step_in_two_parts"))
    assert first["weights"] == second["weights"]
    # The rank with one group makes as many passes, some of them over nothing.
    assert first["passes"] == second["passes"] >= 2 * 2
    assert first["shortest"] == 2 < second["shortest"]
    for found in (first, second):
        assert_like_on_one_rank(found)


def assert_like_on_one_rank(found: dict[str, Any]) -> None:
    assert found["scale"] > 1e-4
    assert found["error"] < 1e-3
    assert {"loss", "kl", "entropy", "grad_norm", "ratio_max", "reward_std", "completion_length"} <= set(
        found["metrics"]
    )
    for name, (mine, whole) in found["metrics"].items():
        assert mine == pytest.approx(whole, rel=1e-3, abs=1e-5), name


def test_memory_that_runs_out_on_one_rank_halves_the_budget_of_both(ranks: Results) -> None:
    first, second = results(ranks, "out_of_memory_on_one_rank")
    assert first["lowered_budget"] == second["lowered_budget"] is not None
    assert first["lowered_budget"] <= 40 < second["longest"]
    assert first["weights"] == second["weights"]
    for found in (first, second):
        assert_like_on_one_rank(found)


def test_memory_may_run_out_on_one_rank_while_dropout_is_on(ranks: Results) -> None:
    first, second = results(ranks, "dropout_and_too_little_memory")
    assert first == second


def test_memory_that_does_not_suffice_on_one_rank_ends_both(ranks: Results) -> None:
    first, second = (rank["out_of_memory_for_one_completion"]["error"] for rank in ranks)
    assert second.startswith("RunError: out of memory in the update with a single completion")
    assert first.startswith("RunError: rank 1 failed while updating the policy with RunError: out of memory")
    assert first.endswith(": rank 0 stops as well")


def test_an_error_on_one_rank_ends_the_other_with_that_error(ranks: Results) -> None:
    first, second = (rank["an_error_on_one_rank"]["error"] for rank in ranks)
    assert second == "ValueError: no such file\nand more"
    assert first == (
        "RunError: rank 1 failed while collecting completions with ValueError: no such file: rank 0 stops as well"
    )


def test_ranks_at_different_points_are_found_out(ranks: Results) -> None:
    for rank in ranks:
        assert rank["ranks_at_different_points"]["error"] == (
            "RunError: processes of one run are at different points of the program: rank 0 at 'any', rank 1 at 'max'"
        )


def test_a_rank_that_ends_without_a_word_leaves_no_other_waiting(ranks: Results) -> None:
    error = ranks[0]["one_rank_ends_without_a_word"]["error"]
    assert error.startswith("RunError: rank 0 gets no answer from the other processes (")
    assert "one_rank_ends_without_a_word" not in ranks[1]


def test_ranks_resample_for_as_many_rounds_and_sample_what_one_process_would(ranks: Results) -> None:
    first, second = results(ranks, "resampling")
    # Rank 0 wants one useful group and never gets it, in three rounds; rank 1 has its two after the first.
    assert (first["groups"], second["groups"]) == (1, 2)
    assert first["taken"] == second["taken"] == 3 + 1 + 1
    for found in (first, second):
        assert found["as on one"]
        assert found["tokens"][0] == found["tokens"][1]


def test_the_share_of_failed_rewards_is_that_of_all_ranks(ranks: Results) -> None:
    first, second = results(ranks, "failed_rewards")
    assert first[0] == second[0] == "scored"
    for found in (first[1], second[1]):
        assert found == ("4 of 8 completions after 0 steps have no valid reward, max_failed_share=0.4 allows fewer")


def test_rewards_are_normalised_and_reported_over_all_ranks(ranks: Results) -> None:
    first, second = results(ranks, "rewards_of_both_ranks")
    assert (first["rows"], second["rows"]) == ([0], [1, 2])
    whole = first["whole"]
    assert first["own"]["totals"] + second["own"]["totals"] == whole["totals"]
    assert whole["metrics"]["rewards/counted/mean"] == 9.0
    assert whole["metrics"]["rewards/kind/mean"] == 0.5
    for found in (first, second):
        own = found["own"]
        assert own["state"] == whole["state"]
        # Each rank calls the function for its own completions, twice in all.
        assert own["reward_totals"] == {"counted": {"calls": 4.0}}
        calls = {"rewards/counted/calls_total": 4.0, "user/longest": 1.5}
        assert own["metrics"] == {**whole["metrics"], **calls}


def test_the_share_of_failed_episodes_is_that_of_all_ranks(ranks: Results) -> None:
    first, second = results(ranks, "failed_episodes")
    assert (first[0], second[0]) == ([2, 2], [0, 0])
    expected = "4 of 8 episodes failed in the environment, max_failed_share=0.4 allows fewer; first failure: "
    assert first[1] == expected + "on another process"
    assert second[1] == expected + "ValueError: no episode"


def test_a_signal_to_one_rank_stops_both_after_the_same_step(ranks: Results) -> None:
    assert results(ranks, "a_signal_to_one_rank") == [[2, 15], [2, 15]]
