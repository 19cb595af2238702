"""A task of an executor: some of the parts of a preparation, in a process of its own.

    python -m unmask.data.task FOLDER RANK TASKS

FOLDER is that of :mod:`unmask.data.parts`. It ends when its standard input is closed, as by the death of its parent.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unmask.data.parts import Plan, write_part
from unmask.errors import DiskError, UnmaskError
from unmask.progress import Progress
from unmask.storage import read_json, write_json

TODO, STOP = "todo.json", "stop"
"""The parts that the tasks share out, and the file where there is one no task begins a part."""


def log_file(plan_folder: Path, rank: int) -> Path:
    """Return the file of what a task says."""
    return plan_folder / "logs" / f"task-{rank:05d}.log"


def failure_file(plan_folder: Path, rank: int) -> Path:
    """Return the file that says why a task failed: its exit code, its part and the message."""
    return log_file(plan_folder, rank).with_suffix(".json")


class _Log(Progress):
    def log(self, text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def advance(self, share: float | None, metrics: Mapping[str, object]) -> None:
        pass


def write_parts(folder: Path, rank: int, tasks: int) -> None:
    """Write every ``tasks``-th of the parts that are to be done, unless they are whole.

    Raises:
        UnmaskError: one cannot be written; the reason is in :func:`failure_file`, too.
    """
    progress, part = _Log(), None
    try:
        plan = Plan.load(folder)
        encode, reader = plan.encoder(), plan.reader(progress)
        for part in read_json(folder / TODO)[rank::tasks]:
            if plan.record(part) is None and not (folder / STOP).exists():
                record = write_part(plan, part, reader, encode)
                progress.log(f"part {part}: {record['counts']}")
    except Exception as error:
        found = _known(error)
        content: dict[str, Any] = {"code": found.exit_code, "part": part, "message": str(found)}
        write_json(failure_file(folder, rank), content)
        raise found from error


def _known(error: Exception) -> UnmaskError:
    if isinstance(error, UnmaskError):
        return error
    if isinstance(error, OSError):
        return DiskError(f"{error.filename or 'disk'}: {error.strerror or error}")
    return UnmaskError(f"unexpected {type(error).__name__}: {error}")


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def main() -> int:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder, rank, tasks = sys.argv[1:]
    try:
        write_parts(Path(folder), int(rank), int(tasks))
    except UnmaskError as error:
        traceback.print_exc()
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
