"""Signs of life: each process of a run says through the store of ``torchrun`` that it lives, and what it does.

One that died or hangs can so be named by the others.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store

_BETWEEN = 1.0  # seconds


class Pulse:
    """Signs of life of all processes, in the store.

    Attributes:
        doing: what this process does.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.store, self.rank, self.size = store, rank, size
        self.doing = "starting"
        self._seen: dict[int, tuple[str, float]] = {}
        self._ended = threading.Event()

    @staticmethod
    def start(rank: int, size: int, run: str) -> Pulse:
        """Begin to give signs of life, in a thread."""
        store = dist.distributed_c10d._get_default_store().clone()  # type: ignore[attr-defined]
        pulse = Pulse(PrefixStore(f"unmask/{run}", store), rank, size)
        pulse.beat(0)
        threading.Thread(target=pulse._run, daemon=True, name="signs of life").start()
        return pulse

    def stop(self) -> None:
        """Give no more."""
        self._ended.set()

    def failed(self) -> dict[str, Any] | None:
        """Return why a process failed, if one did."""
        try:
            if not self.store.check(["failed"]):
                return None
            content: dict[str, Any] = json.loads(self.store.get("failed"))
            return content
        except dist.DistError:  # the host of the store is gone
            return None

    def silence(self, rank: int) -> float:
        """Return for how many seconds a process has given no sign of life, as far as this one has looked."""
        now, value = time.monotonic(), self._value(rank)
        before = self._seen.get(rank)
        if before is None or before[0] != value:
            self._seen[rank] = value, now
            return 0.0
        return now - before[1]

    def host(self, rank: int) -> str:
        """Return the host of a process."""
        return self._value(rank).partition("\t")[0] or "an unknown host"

    def last(self, rank: int) -> str:
        """Return what a process did at its last sign of life."""
        return self._value(rank).rpartition("\t")[2] or "not started"

    def _run(self) -> None:
        number = 0
        while not self._ended.wait(_BETWEEN):
            number += 1
            try:
                self.beat(number)
            except dist.DistError:  # the host of the store is gone, and soon this process
                return

    def beat(self, number: int) -> None:
        """Give a sign of life."""
        self.store.set(f"pulse/{self.rank}", f"{socket.gethostname()}\t{number}\t{self.doing}")

    def _value(self, rank: int) -> str:
        key = f"pulse/{rank}"
        try:
            return str(self.store.get(key).decode()) if self.store.check([key]) else ""
        except dist.DistError:  # the store was in a process that ended
            return self._seen.get(rank, ("", 0.0))[0]
