"""Locks of files between processes; the system releases them when their process ends, however it ends."""

from __future__ import annotations

import errno
import os
import time
from importlib import import_module
from typing import Any

_POLL = 0.05
_FAR = 1 << 30  # Windows locks bytes, which others cannot read then: one behind the end of any such file


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None


_flock, _msvcrt = _module("fcntl"), _module("msvcrt")


def lock_file(handle: int, *, wait: bool) -> None:
    """Lock an open file for this process alone.

    Args:
        handle: its descriptor, which holds the lock until it is closed.
        wait: for another process that holds it.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the file system, or the system, has no locks.
    """
    if _flock is not None:
        _flock.flock(handle, _flock.LOCK_EX if wait else _flock.LOCK_EX | _flock.LOCK_NB)
        return
    if _msvcrt is None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    while True:
        place = os.lseek(handle, 0, os.SEEK_CUR)
        try:
            os.lseek(handle, _FAR, os.SEEK_SET)
            _msvcrt.locking(handle, _msvcrt.LK_NBLCK, 1)
            return
        except OSError as error:
            if not wait:
                raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK)) from error
        finally:
            os.lseek(handle, place, os.SEEK_SET)
        time.sleep(_POLL)
