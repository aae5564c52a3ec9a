from __future__ import annotations

import pytest
from scipy.stats import binomtest, sem, t

from grpo.intervals import mean_interval, wilson_interval


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (0, 5), (2, 4), (7, 9), (32, 32)])
def test_wilson_s_interval_is_that_of_scipy(hits, count):
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    assert wilson_interval(hits / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_an_interval_never_leaves_the_shares_there_are():
    for count in [*range(1, 3000), 2.5, 0.1]:
        low, high = wilson_interval(1.0, count)
        assert 0.0 < low < high <= 1.0
        low, high = wilson_interval(0.0, count)
        assert 0.0 <= low < high < 1.0


def test_with_one_value_a_row_the_interval_of_a_mean_is_students():
    values = [0.1, 2.0, -0.5, 3.25, 1.0]
    expected = t.interval(0.95, len(values) - 1, loc=sum(values) / len(values), scale=sem(values))
    assert mean_interval([[value] for value in values]) == pytest.approx(expected)


def test_values_of_one_row_that_are_all_the_same_count_once():
    values = [0.1, 2.0, -0.5, 3.25, 1.0]
    once = mean_interval([[value] for value in values])
    assert mean_interval([[value] * 8 for value in values]) == pytest.approx(once)


def test_rows_of_different_length_are_weighted_by_it():
    # m = 2, residual sums of the rows: (4 + 4) - 2 * 2 = 4 and 0 - 4 = -4, both over N = 4.
    low, high = mean_interval([[4.0, 4.0], [0.0, 0.0]])
    half = t.ppf(0.975, 1) * (32 * 2) ** 0.5 / 4
    assert (low, high) == pytest.approx((2 - half, 2 + half))
    low, high = mean_interval([[1.0], [], [3.0, 5.0, 7.0]])
    half = t.ppf(0.975, 1) * ((1 - 4) ** 2 * 2 * 2) ** 0.5 / 4
    assert (low, high) == pytest.approx((4 - half, 4 + half))


@pytest.mark.parametrize("rows", [[], [[]], [[1.0, 2.0]], [[], [3.0]]])
def test_fewer_than_two_rows_have_no_interval_of_a_mean(rows):
    assert mean_interval(rows) is None
