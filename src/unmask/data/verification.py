"""Checksums of the files of shards, compared by threads while the shards may already be in use."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Self

from unmask.errors import DataError, DivergedError, UnmaskError, plural
from unmask.machine import cores
from unmask.progress import Progress
from unmask.storage import sha256

_AT_ONCE = 8
_POLL, _PATIENCE = 0.1, 5.0  # seconds


class Verification:
    """Compares files with their checksums; a context manager, which ends the threads.

    Text of damaged shards fails in many ways: an id outside the vocabulary is an index error. An error that leaves the
    block therefore becomes the :class:`DataError` of the damaged file, if there is one.

    Args:
        threads: so many files are compared at once; by default half as many as there are cores, and at most 8.
        progress: is told of a long wait.
    """

    def __init__(self, threads: int | None = None, progress: Progress = Progress()) -> None:
        self._pool = ThreadPoolExecutor(min(_AT_ONCE, threads or max(1, cores() // 2)))
        self._progress = progress
        self._later: list[tuple[Path, str]] = []
        self._jobs: list[Future[None]] = []

    def add(self, folder: Path, files: Mapping[str, str], *, start: bool = True) -> None:
        """Compare the files of a folder, SHA-256 by name; without ``start`` only after :meth:`start`, or an error."""
        self._later += [(folder / name, checksum) for name, checksum in files.items()]
        if start:
            self.start()

    def start(self) -> None:
        """Begin with the files that wait for it."""
        self._jobs += [self._pool.submit(_compare, path, checksum) for path, checksum in self._later]
        self._later = []

    @property
    def done(self) -> bool:
        """Whether all files that were begun with are compared, or one is known to be damaged."""
        return self._failure() is not None or all(job.done() for job in self._jobs)

    def require_undamaged(self) -> None:
        """Raise the error of a file that is known to be damaged."""
        if failure := self._failure():
            raise failure

    def check(self, anywhere: Callable[[bool], bool] = bool) -> None:
        """Wait until all files that were begun with are compared.

        Args:
            anywhere: whether something is true in any of the processes, which wait for each other.

        Raises:
            DataError: a file is missing or was changed.
        """
        began, told = time.monotonic(), False
        while anywhere(not self.done):
            if self.done:  # but not in another process
                time.sleep(_POLL)
            wait(self._jobs, _POLL, FIRST_EXCEPTION)
            if not told and time.monotonic() - began > _PATIENCE:
                left, told = sum(not job.done() for job in self._jobs), True
                self._progress.log(f"waiting for the checksums of {plural(left, 'file')} of the shards")
        self.require_undamaged()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if _may_come_of_damage(error) and error is not self._failure():
                self.start()
                self.check()
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _failure(self) -> BaseException | None:
        failures = (job.exception() for job in self._jobs if job.done())
        return next((failure for failure in failures if failure is not None), None)


def _compare(path: Path, checksum: str) -> None:
    try:
        found = sha256(path)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror}); prepare the shards again", path=path) from None
    if found != checksum:
        raise DataError("the checksum does not match: the file is damaged; prepare it again", path=path)


def _may_come_of_damage(error: BaseException | None) -> bool:
    if isinstance(error, UnmaskError):
        return isinstance(error, DataError | DivergedError)
    return isinstance(error, Exception) and not isinstance(error, OSError)
