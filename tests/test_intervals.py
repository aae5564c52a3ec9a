from __future__ import annotations

import pytest
from scipy.stats import binomtest

from grpo.intervals import wilson_interval


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
