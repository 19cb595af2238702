"""Dynamic batching: texts that wait for the same computation go through the model together.

One thread computes, for all models. While it computes, requests wait; then it takes texts that can be computed together,
one of each request in turn, up to a budget of tokens. So a request waits only for what is being computed, and one with
many texts does not hold up the others. What could not be done in time is refused at once: if it waited, all would time out
in turn. The answers do not depend on what is computed together, but for rounding in the
last bits.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

Compute = Callable[[Sequence[str]], Sequence[Any]]
"""Returns one result for each text; raises what is wrong with all of them."""


class QueueFullError(Exception):
    """Too many requests wait."""


class AbandonedError(Exception):
    """Nobody waits for what is being computed any more."""


@dataclass(eq=False)
class _Request:
    """Texts of one request, their results, and who waits for them."""

    key: Hashable
    compute: Compute
    texts: Sequence[str]
    costs: Sequence[int]
    deadline: float
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[list[Any]]
    taken: int = 0
    results: list[Any] = field(default_factory=list)
    given_up: bool = False

    @property
    def alive(self) -> bool:
        return not self.given_up and time.monotonic() < self.deadline

    def finish(self, error: BaseException | None = None) -> None:
        """Give the results, or the error, to who waits; called in the thread that computes."""
        self.given_up = True

        def settle() -> None:
            if self.future.done():
                return
            if error is None:
                self.future.set_result(self.results)
            else:
                self.future.set_exception(error)

        with contextlib.suppress(RuntimeError):  # the event loop was closed
            self.loop.call_soon_threadsafe(settle)


class Batcher:
    """Computes the texts of many requests together.

    Args:
        budget: tokens computed together; a text that costs more is computed by itself.
        most_waiting: requests that may wait.
    """

    def __init__(self, budget: int, most_waiting: int) -> None:
        self.budget, self.most_waiting = budget, most_waiting
        self.batches = self.texts = 0
        self._waiting: deque[_Request] = deque()
        self._current: list[_Request] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._speed = (0.0, 1.0)  # seconds of recent batches, and what those cost
        self._thread = threading.Thread(target=self._work, name="unmask-serve", daemon=True)

    def start(self) -> None:
        """Start the thread that computes."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what waits, then end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def waiting(self) -> int:
        """Number of requests that wait."""
        return len(self._waiting)

    @property
    def seconds_of_queue(self) -> int:
        """About how many seconds the queue takes, at least 1."""
        return max(1, round(self._seconds_waiting()))

    def check(self) -> None:
        """Stop computing if nobody waits for the result any more; called before every pass through a model.

        Raises:
            AbandonedError: nobody does.
        """
        if threading.current_thread() is self._thread and not any(one.alive for one in self._current):
            raise AbandonedError

    async def run(
        self, key: Hashable, compute: Compute, texts: Sequence[str], costs: Sequence[int], seconds: float
    ) -> list[Any]:
        """Return a result for each text.

        Args:
            key: texts of the same key can be computed together.
            compute: computes texts of this key.
            texts: of one request, in order.
            costs: about how many tokens each of them costs.
            seconds: until the request gives up.

        Raises:
            QueueFullError: too many requests wait, or those that wait take more than half of its time already.
            TimeoutError: it took longer.
        """
        loop = asyncio.get_running_loop()
        deadline = time.monotonic() + seconds
        one = _Request(key, compute, texts, costs, deadline, loop, loop.create_future())
        with self._changed:
            self._forget_the_gone()
            if len(self._waiting) >= self.most_waiting or self._seconds_waiting() > seconds / 2:
                raise QueueFullError
            self._waiting.append(one)
            self._changed.notify()
        try:
            return await asyncio.wait_for(one.future, seconds)
        finally:
            one.given_up = True

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                batch = self._take()
                if not batch and self._stopping and not self._waiting:
                    return
            if batch:
                self._compute(batch)

    def _seconds_waiting(self) -> float:
        seconds, cost = self._speed
        return sum(sum(one.costs[one.taken :]) for one in self._waiting) * seconds / cost

    def _forget_the_gone(self) -> None:
        self._waiting = deque(one for one in self._waiting if one.alive)

    def _take(self) -> list[tuple[_Request, int]]:
        """Take texts of the oldest request and of others of its key, in turn, up to the budget."""
        self._forget_the_gone()
        if not self._waiting:
            return []
        together = [one for one in self._waiting if one.key == self._waiting[0].key]
        batch = list(_in_turn(together, self.budget))
        # Requests with texts left go to the end.
        started = list(dict.fromkeys(one for one, _ in batch))
        for one in started:
            self._waiting.remove(one)
        self._waiting.extend(one for one in started if one.taken < len(one.texts))
        return batch

    def _compute(self, batch: list[tuple[_Request, int]]) -> None:
        began = time.monotonic()
        self._current = list(dict.fromkeys(one for one, _ in batch))
        try:
            results = batch[0][0].compute([one.texts[number] for one, number in batch])
        except AbandonedError:
            return
        except Exception as error:
            for one in self._current:
                one.finish(error)
            return
        finally:
            seconds, cost = (0.9 * value for value in self._speed)
            self._speed = (
                seconds + time.monotonic() - began,
                cost + sum(one.costs[number] for one, number in batch),
            )
        for (one, _), result in zip(batch, results, strict=True):
            one.results.append(result)
            if len(one.results) == len(one.texts):
                one.finish()
        self.batches, self.texts = self.batches + 1, self.texts + len(batch)


def _in_turn(requests: list[_Request], budget: int) -> Iterator[tuple[_Request, int]]:
    """Yield requests with the numbers of their next texts, one of each in turn, up to the budget, at least one."""
    left, first = budget, True
    while requests:
        for one in requests:
            cost = one.costs[one.taken]
            if cost > left and not first:
                return
            yield one, one.taken
            one.taken += 1
            left, first = left - cost, False
        requests = [one for one in requests if one.taken < len(one.texts)]
