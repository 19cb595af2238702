"""The processes of a run that ``torchrun`` starts: their messages, and what each knows of the others.

Tensors are summed by the backend of their device (gloo or NCCL). The number of targets of the next step is agreed on while one is computed, through a
group of its own. Each process says through the store of ``torchrun`` that it lives and what it does; so one that died or
hangs can be named, and a long preparation by the main process is waited for without a message that could time out. In a
single process all of this costs nothing.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from unmask.errors import ERRORS, ConfigError, DataError, LostProcess, UnmaskError, plural
from unmask.machine import processes
from unmask.training.pulse import Pulse

Result = TypeVar("Result")

TIMEOUT_MINUTES = 10.0
"""So long a process waits in a step for the others."""

_POLL = 0.2
_READABLE = 60  # characters of two values; those of two digests are more
_SILENT = 5.0  # a process without a sign of life for so many seconds is gone, or stopped


@dataclass
class World:
    """The processes of a run.

    Attributes:
        rank: this process, from 0.
        size: how many there are.
        timeout: seconds that a process waits for the others.
        gone: processes that ended or hang, as far as this one knows.
        apart: hosts that do not see the files of the main process.
        leader: the process that prepares files for this one: the main process, or where this host does not see its
            files, the first one of this host.
    """

    rank: int = 0
    size: int = 1
    timeout: float = TIMEOUT_MINUTES * 60
    leader: int = 0
    gone: list[int] = field(default_factory=list)
    apart: list[str] = field(default_factory=list)
    _control: Any = None
    _pulse: Pulse | None = None
    _waits: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def join(device: torch.device, timeout: float = TIMEOUT_MINUTES * 60) -> World:
        """Join the processes that ``torchrun`` started, if any.

        Raises:
            LostProcess: not all of them came.
        """
        if processes() == 1:
            return World()
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        rank, size, limit = int(os.environ["RANK"]), processes(), timedelta(seconds=timeout)
        try:
            if not dist.is_initialized():
                store, rank, size = next(rendezvous("env://", timeout=limit))
                # The store of torchrun outlives a restart, and the addresses in it are those of ended processes.
                attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), os.environ.get("MASTER_PORT", "")
                store = PrefixStore("/".join(attempt), store)
                backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
                dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
            control = dist.new_group(backend="gloo", timeout=limit)
            # Neither an earlier run of these processes nor one before a restart may be taken for this one.
            name = [uuid4().hex]
            dist.broadcast_object_list(name, src=0, device=torch.device("cpu"))
        except (RuntimeError, dist.DistError) as error:
            raise LostProcess(
                f"process {rank} of {size} on {socket.gethostname()} does not reach the others "
                f"({str(error).splitlines()[0][:200]}); look at what they say, and at the network"
            ) from None
        return World(rank, size, timeout, _control=control, _pulse=Pulse.start(rank, size, name[0]))

    @staticmethod
    def will_be_main() -> bool:
        """Whether this process will be the main one once it has joined."""
        return os.environ.get("RANK", "0") == "0"

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, which alone writes files and logs."""
        return self.rank == 0

    @property
    def first_of_host(self) -> bool:
        """Whether this is the first process of its host."""
        return os.environ.get("LOCAL_RANK", "0") == "0"

    @property
    def here(self) -> int:
        """How many processes this host has."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.size))

    @property
    def group(self) -> Any:
        """The group for messages of the thread that plans steps; ``None`` in a single process."""
        return self._control

    def meet(self, sees_files: bool) -> None:
        """Find out which processes see the files of the main one."""
        if self.size == 1:
            return
        apart: dict[str, int] = {}
        for rank, (host, sees) in enumerate(self.collect((socket.gethostname(), sees_files))):
            if not sees:
                apart.setdefault(host, rank)
        if not sees_files:
            self.leader = apart[socket.gethostname()]
        self.apart = sorted(apart)

    @property
    def speaks(self) -> bool:
        """Whether this process writes in the run folder: the main one, or where that is gone, the first that is left."""
        first = min(set(range(self.size)) - set(self.gone), default=0)
        return self.rank == first and self.shares_files

    @property
    def shares_files(self) -> bool:
        """Whether this process sees the files of the main one."""
        return self.leader == 0

    @property
    def leads_apart(self) -> bool:
        """Whether this process writes for a host that does not see the files of the main one."""
        return self.rank == self.leader != 0

    def doing(self, what: str) -> None:
        """Say what this process does, for the others' messages about it."""
        if self._pulse is not None:
            self._pulse.doing = what

    # Messages

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, values: list[float], group: Any = None) -> np.ndarray:
        """Return the values of all processes, ``float64 [size, len(values)]``; by ``group`` off the main thread."""
        own = torch.tensor([values], dtype=torch.float64)
        if self.size == 1:
            return own.numpy()
        rows = torch.empty(self.size, len(values), dtype=torch.float64)
        dist.all_gather(list(rows.split(1)), own, group=group)
        return rows.numpy()

    def rows(self, own: Tensor) -> tuple[Tensor, int]:
        """Return the ``[n, ...]`` rows of all processes end to end, and which is the first of this one."""
        if self.size == 1:
            return own, 0
        counts = self.gather([len(own)])[:, 0].astype(int).tolist()
        padded = own.new_zeros(max(counts), *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        whole = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
        return whole, sum(counts[: self.rank])

    def max(self, value: float) -> float:
        """Return the largest of the processes' values."""
        return value if self.size == 1 else float(self.gather([value]).max())

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is true in any process."""
        return bool(self.max(float(flag)))

    def from_main(self, value: Result) -> Result:
        """Return the main process's value, which can be pickled; the others' is ignored."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def collect(self, value: Result) -> list[Result]:
        """Return the value of each process, which can be pickled."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def in_turn(self, own: list[Result]) -> list[Result]:
        """Return the results of all processes, to which the work was dealt in turn; each has as many."""
        return [result for turn in zip(*self.collect(own), strict=True) for result in turn]

    def wait(self) -> None:
        """Wait until every process is here."""
        self.gather([0.0])

    def main_first(self, work: Callable[[], Result], what: str) -> Result | None:
        """Have the main process do something that may take long.

        Returns:
            The result in that process; ``None`` in the others, which have waited for it.

        Raises:
            LostProcess: that process is gone, or hangs.
            UnmaskError: it failed; the error is the one that it had.
        """
        return self._first(0, work, what)

    def leader_first(self, work: Callable[[], Result], what: str) -> Result | None:
        """As :meth:`main_first`, but by one process of each host that has files of its own."""
        return self._first(self.leader, work, what)

    def _first(self, leader: int, work: Callable[[], Result], what: str) -> Result | None:
        if self._pulse is None:
            return work()
        self.doing(what)
        number = self._waits[what] = self._waits.get(what, 0) + 1
        key = f"done/{what}/{number}/{leader}"
        if self.rank == leader:
            result = work()
            self._pulse.store.set(key, "1")
            return result
        try:
            while not self._pulse.store.check([key]):
                self._raise_failure()
                if self._pulse.silence(leader) > self.timeout:
                    raise self._lost([leader])
                time.sleep(_POLL)
        except dist.DistError:  # the store was in a process that ended
            raise self._lost([0]) from None
        return None

    def require_same(self, facts: dict[str, Any]) -> None:
        """Compare plain values of all processes with those of the main one.

        Raises:
            ConfigError: one differs; the message says where, and in what.
        """
        if self.size == 1:
            return
        own = {key: json.dumps(value, sort_keys=True, default=str) for key, value in facts.items()}
        rows = self.collect((socket.gethostname(), own))
        host, wanted = rows[0]
        for rank, (other, found) in enumerate(rows):
            different = [
                _difference(key, found.get(key), wanted.get(key))
                for key in sorted({*wanted, *found})
                if wanted.get(key) != found.get(key)
            ]
            if different:
                raise ConfigError(
                    f"process {rank} on {other} and process 0 on {host} differ in {', '.join(different[:3])}, but all must train "
                    f"the same model on the same text; give all of them the same versions, settings and files"
                )

    # Failures

    def fail(self, error: BaseException) -> None:
        """Tell the others why this process ends."""
        if self._pulse is None or self._pulse.failed():
            return
        code = getattr(error, "exit_code", 1)
        text = str(error) or type(error).__name__
        lost = self.gone if isinstance(error, LostProcess) else None
        content = {
            "rank": self.rank,
            "host": socket.gethostname(),
            "code": code,
            "text": text[:2000],
            "lost": lost,
        }
        with suppress(dist.DistError):  # the store was in a process that ended
            self._pulse.store.set("failed", json.dumps(content))

    def explained(self, error: BaseException) -> BaseException:
        """Return the error of a failed message as one that names the process that is to blame; others unchanged.

        Files may be absent since another process failed and removed them.
        """
        of_messages = _is_of_messages(error)
        if self._pulse is None or not (of_messages or isinstance(error, DataError | OSError)):
            return error
        gone = self._silent() if of_messages and not self._pulse.failed() else []
        try:
            self._raise_failure()
        except UnmaskError as failure:
            return failure
        return self._lost(gone) if of_messages else error

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Raise an error of the block as :meth:`explained` has it."""
        try:
            yield
        except BaseException as error:
            failure = self.explained(error)
            if failure is error:
                raise
            raise failure from error

    def _silent(self) -> list[int]:
        """Return the processes that give no sign of life while this one looks, which takes some seconds."""
        pulse = self._pulse
        assert pulse is not None
        for rank in range(self.size):
            pulse.silence(rank)
        time.sleep(_SILENT)
        return [rank for rank in range(self.size) if rank != self.rank and pulse.silence(rank) >= _SILENT]

    def leave(self) -> None:
        """Leave the other processes."""
        if self._pulse is not None:
            self._pulse.stop()
            self._pulse = None

    def _raise_failure(self) -> None:
        failure = self._pulse and self._pulse.failed()
        if failure and failure["rank"] != self.rank:
            self.gone = failure["lost"] or [failure["rank"]]
            if failure["lost"] is not None:  # that process tells of another one
                raise LostProcess(failure["text"])
            kind = ERRORS.get(failure["code"], LostProcess)
            raise kind(f"process {failure['rank']} on {failure['host']}: {failure['text']}")

    def _lost(self, ranks: list[int]) -> LostProcess:
        assert self._pulse is not None
        self.gone = ranks
        if ranks:
            return LostProcess("; ".join(map(self._last_of, ranks)))
        found = [
            f"process {rank} on {self._pulse.host(rank)} ({self._pulse.last(rank)})"
            for rank in range(self.size)
        ]
        return LostProcess(
            f"a message to the other processes failed, though all of them live: {'; '.join(found)}"
        )

    def _last_of(self, rank: int) -> str:
        """Return what this process knows of one that is lost."""
        assert self._pulse is not None
        seconds = int(self._pulse.silence(rank))
        silent = f": no sign of life for {plural(seconds, 'second')}" if seconds else ""
        return f"process {rank} on {self._pulse.host(rank)} ended or hangs{silent}"


def _difference(key: str, own: str | None, wanted: str | None) -> str:
    """Return what differs, with both values where they say more than digests do."""
    values = f"{own} and {wanted}"
    return key if len(values) > _READABLE else f"{key} ({values})"


@contextmanager
def joined(device: torch.device, minutes: float = TIMEOUT_MINUTES) -> Iterator[World]:
    """Yield the processes of a run, which end together: after an error of one of them, or when all are done.

    Raises:
        LostProcess: another one ended or hangs, or not all of them came.
        UnmaskError: another one failed, of the kind of its error.
    """
    world = World.join(device, minutes * 60)
    atexit.unregister(_end)  # of an earlier run; with a lost process it might wait for ever
    try:
        with world.explaining():
            yield world
            world.wait()  # the main process may hold the store through which the others see that it is done
        atexit.register(_end)
    except BaseException as error:
        world.fail(error)
        raise
    finally:
        world.leave()


def _end() -> None:
    """Free what NCCL holds, which warns at the end of the process otherwise."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _is_of_messages(error: BaseException) -> bool:
    """Whether an error came of a message between processes; gloo raises a plain ``RuntimeError``."""
    if isinstance(error, dist.DistError):
        return True
    words = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Timed out waiting")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
