"""The batcher by itself: what it refuses when more is asked than it can compute."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from unmask.serving.batcher import Batcher, QueueFullError


def test_too_much_work_is_refused_at_once_and_the_rest_is_done_in_time() -> None:
    def compute(texts: Sequence[str]) -> list[str]:
        time.sleep(0.01 * len(texts))
        return list(texts)

    batcher = Batcher(budget=10, most_waiting=1000)
    outcomes: Counter[str] = Counter()

    async def ask(count: int = 1) -> None:
        try:
            await batcher.run("key", compute, ["a"] * count, [10] * count, 1.0)
            outcomes["done"] += 1
        except QueueFullError:
            outcomes["refused"] += 1
            assert batcher.seconds_of_queue >= 1
        except TimeoutError:
            outcomes["late"] += 1

    async def overload() -> None:
        await ask(5)  # now it knows how fast it is
        # Twice what it can compute, for three seconds.
        asked = []
        for _ in range(600):
            asked.append(asyncio.ensure_future(ask()))
            await asyncio.sleep(0.005)
        await asyncio.gather(*asked)

    batcher.start()
    try:
        asyncio.run(overload())
    finally:
        batcher.stop()
    assert outcomes["refused"] > 50
    assert outcomes["done"] > 4 * outcomes["late"]


def test_one_answer_does_not_wait_for_company() -> None:
    batcher = Batcher(budget=10, most_waiting=10)
    batcher.start()

    async def ask() -> float:
        began = time.perf_counter()
        await batcher.run("key", list, ["a"], [1], 5.0)
        return time.perf_counter() - began

    async def times() -> list[float]:
        return [await ask() for _ in range(50)]

    try:
        assert sorted(asyncio.run(times()))[10] < 0.002
    finally:
        batcher.stop()
