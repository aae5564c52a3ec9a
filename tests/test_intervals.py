from __future__ import annotations

import pytest
from scipy.stats import binomtest

from grpo.intervals import wilson_interval


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (0, 5), (2, 4), (7, 9), (32, 32)])
def test_wilson_s_interval_is_that_of_scipy(hits, count):
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    assert wilson_interval(hits / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)
