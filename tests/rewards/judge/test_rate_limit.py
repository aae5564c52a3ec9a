from __future__ import annotations

import asyncio

from grpo.rewards.judge.client import RateLimit


def test_no_more_requests_begin_in_any_minute_than_are_allowed():
    now, begun = 0.0, []

    async def sleep(seconds):
        nonlocal now
        now += seconds

    async def begin(count):
        nonlocal now
        limit = RateLimit(3, clock=lambda: now, sleep=sleep)
        for _ in range(count):
            await limit.wait()
            begun.append(now)
            now += 7.0

    asyncio.run(begin(10))
    assert begun[:6] == [0.0, 7.0, 14.0, 60.0, 67.0, 74.0]
    assert all(later - earlier >= 60.0 for earlier, later in zip(begun, begun[3:], strict=False))
