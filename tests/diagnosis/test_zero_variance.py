from __future__ import annotations

from typing import Any

from grpo.diagnosis.zero_variance import ZeroVarianceMonitor


def warnings_of(
    shares: list[float], *, key: str = "zero_variance_groups", **metrics: Any
) -> tuple[list[int], str | None]:
    """Return after which steps there was a warning, and the conclusion, for these shares of groups with a gradient."""
    watch = ZeroVarianceMonitor()
    warned = [
        step
        for step, share in enumerate(shares, 1)
        if watch.after_step({key: share if key == "groups_with_spread" else 1 - share, **metrics})
    ]
    return warned, watch.conclusion()


def test_steps_logged_by_an_earlier_version_are_counted_as_well() -> None:
    assert warnings_of([0.0] * 12, key="groups_with_spread") == warnings_of([0.0] * 12)
    assert warnings_of([0.5, 0, 0, 0, 0, 0.25, 0, 0, 0, 0, 0, 0], key="groups_with_spread")[0] == [11]


def test_five_steps_in_a_row_of_zero_variance_groups_are_warned_of_once() -> None:
    assert warnings_of([0.0] * 4)[0] == []
    assert warnings_of([0.0] * 12)[0] == [5]
    assert warnings_of([0.5, 0, 0, 0, 0, 0.25, 0, 0, 0, 0, 0, 0])[0] == [11]


def test_a_run_in_which_nothing_was_trained_says_so_at_its_end() -> None:
    assert warnings_of([0.0, 0.0])[1] == "no group differed in reward in 2 of 2 steps: nothing was trained"
    assert warnings_of([0.0] * 6 + [1.0])[1] == "no group differed in reward in 6 of 7 steps: those trained nothing"
    assert warnings_of([0.0, 1.0])[1] is None
    assert warnings_of([1.0])[1] is None
    assert warnings_of([])[1] is None


def test_weights_that_a_kl_term_moved_were_trained_though_not_by_rewards() -> None:
    conclusion = warnings_of([0.0, 0.0], grad_norm=0.1)[1]
    assert conclusion == "no group differed in reward in 2 of 2 steps: the rewards trained nothing"


def test_a_kl_term_does_not_change_the_conclusion_where_some_steps_had_variance() -> None:
    conclusion = warnings_of([0.0] * 6 + [1.0], grad_norm=0.1)[1]
    assert conclusion == "no group differed in reward in 6 of 7 steps: those trained nothing"
    assert (
        warnings_of([0.0, 0.0], grad_norm=0.0)[1] == "no group differed in reward in 2 of 2 steps: nothing was trained"
    )


def test_steps_of_zero_variance_groups_that_were_warned_of_are_summed_up_and_others_are_not() -> None:
    assert warnings_of([0.0] * 4 + [1.0])[1] is None
    assert warnings_of([0.0] * 3 + [1.0] + [0.0] * 5)[1] == (
        "no group differed in reward in 8 of 9 steps: those trained nothing"
    )
