"""The batcher by itself: what it refuses when more is asked than it can compute."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Sequence

from unmask.serving.batcher import Batcher, QueueFullError, Task


def test_too_much_work_is_refused_at_once_and_the_rest_is_done_in_time() -> None:
    def compute(texts: Sequence[str]) -> list[str]:
        time.sleep(0.01 * len(texts))
        return list(texts)

    batcher = Batcher(budget=10, most_waiting=1000)
    outcomes: Counter[str] = Counter()

    async def ask(count: int = 1) -> None:
        try:
            await batcher.run(Task("m", "key", compute), ["a"] * count, [10] * count, 1.0)
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
        await batcher.run(Task("m", "key", list), ["a"], [1], 5.0)
        return time.perf_counter() - began

    async def times() -> list[float]:
        return [await ask() for _ in range(50)]

    try:
        assert sorted(asyncio.run(times()))[10] < 0.002
    finally:
        batcher.stop()


def computed(batcher: Batcher, requests: Sequence[tuple[Task, list[str]]]) -> list[list[str]]:
    """Return the answers to requests that are asked at once."""

    async def ask() -> list[list[str]]:
        return await asyncio.gather(
            *(batcher.run(task, texts, [10] * len(texts), 30.0) for task, texts in requests)
        )

    batcher.start()
    try:
        return asyncio.run(ask())
    finally:
        batcher.stop()


def test_threads_share_the_texts_of_a_request_and_the_answer_is_in_order() -> None:
    met = threading.Barrier(2)  # broken, and an error, unless two batches are computed at once
    cores: list[int] = []

    def compute(texts: Sequence[str]) -> list[str]:
        met.wait(10)
        time.sleep(0.05 if texts[0] == "0" else 0.0)  # the first part is done last
        return [text.upper() for text in texts]

    batcher = Batcher(1000, 10, threads=2, cores=2, use_cores=cores.append)
    texts = [f"{number}" for number in range(20)]
    assert computed(batcher, [(Task("m", "key", compute, at_once=2), texts)]) == [texts]
    assert cores == [1, 1]
    assert (batcher.batches, batcher.texts) == (2, 20)


def test_a_model_that_computes_one_batch_at_a_time_is_not_asked_for_two() -> None:
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()

    def task(model: str, at_once: int, key: int) -> Task:
        def compute(texts: Sequence[str]) -> list[str]:
            running[model] += 1
            most[model] = max(most[model], running[model])
            time.sleep(0.02)
            running[model] -= 1
            return list(texts)

        return Task(model, key, compute, at_once=at_once)

    batcher = Batcher(1000, 100, threads=3)
    asked = [
        (task(model, at_once, key), [model])
        for key in range(6)
        for model, at_once in (("one", 1), ("two", 2))
    ]
    assert computed(batcher, asked) == [texts for _, texts in asked]
    assert most == {"one": 1, "two": 2}


def test_a_batch_that_is_large_gets_the_cores_that_are_free() -> None:
    cores: list[int] = []
    batcher = Batcher(10_000, 10, threads=1, cores=8, use_cores=cores.append)
    task = Task("m", "key", list)

    async def ask() -> None:
        for tokens in (10, 300, 5000):
            await batcher.run(task, ["a"], [tokens], 30.0)

    batcher.start()
    try:
        asyncio.run(ask())
    finally:
        batcher.stop()
    assert cores == [1, 2, 8]
