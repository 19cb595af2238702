"""The lock of a run folder, so that two runs do not overwrite each other's files."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unmask.errors import ConfigError
from unmask.progress import Progress
from unmask.run_folder import RunFolder
from unmask.storage import lock_file

LOCK = ".lock"


@contextmanager
def lock_run(root: Path, progress: Progress, token: str = "") -> Iterator[None]:
    """Hold ``root/.lock`` while a run uses ``root``; ``token`` tells the other processes of the run that it is this one.

    The kernel releases the lock when its process ends, however it ends, so a file that was left behind is not taken
    for a lock that is held, even where another process has the same id by now.

    Raises:
        ConfigError: another run uses the folder.
        OSError: the file cannot be written.
    """
    path = root / LOCK
    handle = _take(path, progress)
    try:
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "token": token,
        }
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, json.dumps(owner).encode())
        for left in root.glob(".*.partial"):  # by a run that was killed while it wrote
            if left.is_file():
                left.unlink(missing_ok=True)
        yield
    finally:
        # Removed while it is held: a process that waits for this file sees that it was replaced.
        try:
            path.unlink(missing_ok=True)
            os.close(handle)
        except PermissionError:  # Windows removes no open file
            os.close(handle)
            with suppress(OSError):  # another process has opened it
                path.unlink()


def is_locked_by(root: Path, token: str) -> bool:
    """Whether this process sees the lock that a run with this token holds."""
    for _ in range(3):  # a network file system may show it late
        try:
            if json.loads((root / LOCK).read_text(encoding="utf-8")).get("token") == token:
                return True
        except (OSError, ValueError):
            pass
        time.sleep(0.5)
    return False


def is_empty(root: Path) -> bool:
    """Whether a folder holds no run: nothing, or nothing but a lock and text that was given in memory."""
    allowed = {LOCK, RunFolder(root).in_memory_text.name}
    return root.is_dir() and all(path.name in allowed for path in root.iterdir())


def _take(path: Path, progress: Progress) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            lock_file(handle, wait=False)
        except OSError as error:
            owner = _owner(handle)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(handle)
                raise ConfigError(
                    f"another run uses {path.parent} ({owner}); wait for it, or choose another folder with -o"
                ) from None
            progress.log(
                f"this file system has no locks ({error.strerror}): make sure that no other run uses {path.parent}"
            )
            return handle
        if not _is_at(path, handle):  # its owner removed it between the two calls
            os.close(handle)
            continue
        if os.fstat(handle).st_size:
            progress.log(
                f"an earlier run in this folder was killed ({_owner(handle)}); its lock is taken over"
            )
        return handle


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _owner(handle: int) -> str:
    """Return which process wrote the lock."""
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        owner = json.loads(os.read(handle, 1000))
        return f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "unknown process"
