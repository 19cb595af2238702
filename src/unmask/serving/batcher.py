"""Dynamic batching: texts that wait for the same computation go through the model together.

Some threads compute, each with a part of the cores: two batches side by side, each on one core, are done sooner than one
after the other on both, since the parts of an operation need not wait for each other. While they compute, requests wait;
then a thread takes its share of the texts that can be computed together, one of each request in turn, up to a budget of
tokens. So a request waits only for what is being computed, and one with many texts does not hold up the others. What could
not be done in time is refused at once: if it waited, all would time out in turn. The answers do not depend on what is
computed together, but for rounding in the last bits.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

_TOKENS_OF_A_CORE = 128  # with fewer, a core more does not make a batch faster
_LINGER = 0.25  # of the time of a batch; with nothing new for so many seconds less:
_QUIET = 0.025


@dataclass(frozen=True)
class Task:
    """How to compute the texts of a request.

    Attributes:
        model: name of the model that computes.
        key: texts of tasks with the same key can be computed together.
        compute: returns one result for each text; raises what is wrong with all of them.
        cost: returns about how many tokens go through the model for a text, from the text and its own number of tokens.
        at_once: batches that the model can compute at the same time.
    """

    model: str
    key: Hashable
    compute: Callable[[Sequence[str]], Sequence[Any]]
    cost: Callable[[str, int], int] = lambda _, tokens: tokens
    at_once: int = 1


class QueueFullError(Exception):
    """Too many requests wait."""


class AbandonedError(Exception):
    """Nobody waits for what is being computed any more."""


@dataclass(eq=False)
class _Request:
    """Texts of one request, their results, and who waits for them."""

    task: Task
    texts: Sequence[str]
    costs: Sequence[int]
    deadline: float
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[list[Any]]
    taken: int = 0
    results: dict[int, Any] = field(default_factory=dict)
    given_up: bool = False

    @property
    def cost_left(self) -> int:
        """Tokens of the texts that no thread has taken."""
        return sum(self.costs[self.taken :])

    @property
    def alive(self) -> bool:
        return not self.given_up and time.monotonic() < self.deadline

    def take(self, number: int, result: Any) -> None:
        """Take the result of a text; called in any thread that computes."""
        self.results[number] = result
        if len(self.results) == len(self.texts):
            self.finish()

    def finish(self, error: BaseException | None = None) -> None:
        """Give the results, or the error, to who waits; called in the thread that computes."""
        self.given_up = True

        def settle() -> None:
            if self.future.done():
                return
            if error is None:
                self.future.set_result([self.results[number] for number in range(len(self.texts))])
            else:
                self.future.set_exception(error)

        with contextlib.suppress(RuntimeError):  # the event loop was closed
            self.loop.call_soon_threadsafe(settle)


@dataclass(eq=False)
class _Batch:
    """Texts that are computed together: requests with the numbers of their texts."""

    task: Task
    texts: Sequence[tuple[_Request, int]]
    cost: int
    cores: int

    @property
    def requests(self) -> list[_Request]:
        return list(dict.fromkeys(one for one, _ in self.texts))


class Batcher:
    """Computes the texts of many requests together.

    Args:
        budget: tokens computed together; a text that costs more is computed by itself.
        most_waiting: requests that may wait.
        threads: batches computed at the same time.
        cores: to be shared by the threads.
        use_cores: called in a thread with the cores that it may use for the next batch.
    """

    def __init__(
        self,
        budget: int,
        most_waiting: int,
        *,
        threads: int = 1,
        cores: int = 1,
        use_cores: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.budget, self.most_waiting = budget, most_waiting
        self.batches = self.texts = 0
        self._cores, self._use_cores = cores, use_cores
        self._waiting: deque[_Request] = deque()
        self._running: list[_Batch] = []
        self._mine = threading.local()  # the requests that a thread computes
        self._changed = threading.Condition()
        self._stopping = False
        self._speed = (0.0, 1.0)  # seconds of recent batches, and what those cost
        self._threads = [
            threading.Thread(target=self._work, name=f"unmask-serve-{number}", daemon=True)
            for number in range(threads)
        ]

    def start(self) -> None:
        """Start the threads that compute."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish what waits, then end the threads."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

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
        requests: list[_Request] = getattr(self._mine, "requests", [])
        if requests and not any(one.alive for one in requests):
            raise AbandonedError

    async def run(self, task: Task, texts: Sequence[str], costs: Sequence[int], seconds: float) -> list[Any]:
        """Return a result for each text.

        Args:
            task: what is computed.
            texts: of one request, in order.
            costs: about how many tokens each of them costs.
            seconds: until the request gives up.

        Raises:
            QueueFullError: too many requests wait, or those that wait take more than half of its time already.
            TimeoutError: it took longer.
        """
        loop = asyncio.get_running_loop()
        deadline = time.monotonic() + seconds
        one = _Request(task, texts, costs, deadline, loop, loop.create_future())
        with self._changed:
            self._forget_the_gone()
            if len(self._waiting) >= self.most_waiting or self._seconds_waiting() > seconds / 2:
                raise QueueFullError
            self._waiting.append(one)
            self._changed.notify_all()
        try:
            return await asyncio.wait_for(one.future, seconds)
        finally:
            one.given_up = True

    def _work(self) -> None:
        batch, seconds = None, 0.0
        while batch := self._next(batch, seconds):
            began = time.monotonic()
            self._mine.requests = batch.requests
            try:
                self._use_cores(batch.cores)
                self._compute(batch)
            finally:
                self._mine.requests = []
                seconds = time.monotonic() - began
                self._end(batch, seconds)

    def _next(self, last: _Batch | None, seconds: float) -> _Batch | None:
        """Wait for the next batch of a thread and take it; ``None`` when all is done.

        Args:
            last: what the thread computed last.
            seconds: that it took.
        """
        with self._changed:
            if last and len(last.requests) > 1:
                self._linger(len(last.requests), _LINGER * seconds)
            while not (batch := self._take()):
                if self._stopping and not self._waiting:
                    return None
                self._changed.wait()
            self._running.append(batch)
        return batch

    def _end(self, batch: _Batch, seconds: float) -> None:
        with self._changed:
            self._running.remove(batch)
            self._speed = (0.9 * self._speed[0] + seconds, 0.9 * self._speed[1] + batch.cost)
            self.batches, self.texts = self.batches + 1, self.texts + len(batch.texts)
            self._changed.notify_all()

    def _linger(self, answered: int, seconds: float) -> None:
        """Wait for the next requests of clients that were answered together, while they come in.

        They ask again together, and without this the first of them would be computed alone while the others wait.
        """
        end = time.monotonic() + seconds
        while (before := len(self._waiting)) < answered and not self._stopping and time.monotonic() < end:
            self._changed.wait(_QUIET)
            if len(self._waiting) == before:
                return

    def _seconds_waiting(self) -> float:
        seconds, cost = self._speed
        return sum(one.cost_left for one in self._waiting) * seconds / cost / len(self._threads)

    def _forget_the_gone(self) -> None:
        self._waiting = deque(one for one in self._waiting if one.alive)

    def _is_free(self, task: Task) -> bool:
        """Whether the model of a task can take another batch."""
        return sum(batch.task.model == task.model for batch in self._running) < task.at_once

    def _take(self) -> _Batch | None:
        """Take texts of the oldest request and of others of its key, in turn, up to the budget or a fair share."""
        self._forget_the_gone()
        task = next((one.task for one in self._waiting if self._is_free(one.task)), None)
        if task is None:
            return None
        together = [one for one in self._waiting if one.task.key == task.key]
        cost = sum(one.cost_left for one in together) + sum(batch.cost for batch in self._running)
        share = ceil(cost / min(len(self._threads), task.at_once))
        texts = list(_in_turn(together, min(self.budget, share)))
        cost = sum(one.costs[number] for one, number in texts)
        free = self._cores - sum(batch.cores for batch in self._running)
        batch = _Batch(task, texts, cost, max(1, min(free, cost // _TOKENS_OF_A_CORE)))
        # Requests with texts left go to the end.
        for one in batch.requests:
            self._waiting.remove(one)
        self._waiting.extend(one for one in batch.requests if one.taken < len(one.texts))
        return batch

    def _compute(self, batch: _Batch) -> None:
        try:
            results = batch.task.compute([one.texts[number] for one, number in batch.texts])
        except AbandonedError:
            return
        except Exception as error:
            for one in batch.requests:
                one.finish(error)
            return
        for (one, number), result in zip(batch.texts, results, strict=True):
            one.take(number, result)


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
