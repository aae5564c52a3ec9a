from __future__ import annotations

from typing import Any

from grpo.tracking.spread import SpreadWatch


def told(shares: list[float], **metrics: Any) -> tuple[list[int], str | None]:
    """Return after which steps there was a warning, and the conclusion."""
    watch = SpreadWatch()
    warned = [
        step for step, share in enumerate(shares, 1) if watch.after_step({"groups_with_spread": share, **metrics})
    ]
    return warned, watch.conclusion()


def test_five_steps_in_a_row_without_spread_are_warned_of_once() -> None:
    assert told([0.0] * 4)[0] == []
    assert told([0.0] * 12)[0] == [5]
    assert told([0.5, 0, 0, 0, 0, 0.25, 0, 0, 0, 0, 0, 0])[0] == [11]


def test_a_run_in_which_nothing_was_trained_says_so_at_its_end() -> None:
    assert told([0.0, 0.0])[1] == "no group differed in reward in 2 of 2 steps: nothing was trained"
    assert told([0.0] * 6 + [1.0])[1] == "no group differed in reward in 6 of 7 steps: those trained nothing"
    assert told([0.0, 1.0])[1] is None
    assert told([1.0])[1] is None
    assert told([])[1] is None


def test_weights_that_a_kl_term_moved_were_trained_though_not_by_rewards() -> None:
    conclusion = told([0.0, 0.0], grad_norm=0.1)[1]
    assert conclusion == "no group differed in reward in 2 of 2 steps: the rewards trained nothing"


def test_a_kl_term_does_not_change_what_is_said_of_a_run_in_which_some_steps_had_spread() -> None:
    conclusion = told([0.0] * 6 + [1.0], grad_norm=0.1)[1]
    assert conclusion == "no group differed in reward in 6 of 7 steps: those trained nothing"
    assert told([0.0, 0.0], grad_norm=0.0)[1] == "no group differed in reward in 2 of 2 steps: nothing was trained"


def test_steps_without_spread_that_were_warned_of_are_summed_up_and_others_are_not() -> None:
    assert told([0.0] * 4 + [1.0])[1] is None
    assert told([0.0] * 3 + [1.0] + [0.0] * 5)[1] == (
        "no group differed in reward in 8 of 9 steps: those trained nothing"
    )
