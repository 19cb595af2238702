"""A task of an executor: some of the pieces of a stage of a preparation, in a process of its own.

    python -m unmask.data.task FOLDER STAGE RANK TASKS

FOLDER is that of :mod:`unmask.data.parts`. It ends when its standard input is closed, as by the death of its parent.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unmask.data.parts import Kept, Plan, Stage, parts_stage, write_part
from unmask.errors import DiskError, UnmaskError
from unmask.progress import Progress
from unmask.storage import read_json, write_json

TODO, STOP = "todo.json", "stop"
"""The pieces that the tasks share out; and where there is the second file, no task begins a piece."""


def log_file(plan_folder: Path, rank: int) -> Path:
    """Return the file of what a task says."""
    return plan_folder / "logs" / f"task-{rank:05d}.log"


def failure_file(plan_folder: Path, rank: int) -> Path:
    """Return the file that says why a task failed: its exit code, the piece and the message."""
    return log_file(plan_folder, rank).with_suffix(".json")


def count_file(plan_folder: Path, rank: int) -> Path:
    """Return the file with the documents and tokens that a task has written so far."""
    return log_file(plan_folder, rank).with_suffix(".count")


class _Log(Progress):
    def log(self, text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def advance(self, share: float | None, metrics: Mapping[str, object]) -> None:
        pass


def stages_of(plan: Plan, write: Callable[[int], object]) -> list[Stage]:
    """Return all stages of a preparation in their order; ``write`` writes a part."""
    if plan.deduplicate is None:
        return [parts_stage(plan, write)]
    from unmask.data.deduplication import duplicate_stages

    return [*duplicate_stages(plan), parts_stage(plan, write)]


def keeper(plan: Plan) -> Kept | None:
    """Return what leaves duplicates out, if anything does."""
    if plan.deduplicate is None:
        return None
    from unmask.data.deduplication import kept

    return kept(plan)


def work(folder: Path, name: str, rank: int, tasks: int) -> None:
    """Do every ``tasks``-th of the pieces of a stage that are to be done, unless they are whole.

    Raises:
        UnmaskError: one cannot be done; the reason is in :func:`failure_file`, too.
    """
    number, written = None, [0, 0]  # documents and tokens

    def write(part: int) -> None:
        def tell(*counts: int) -> None:
            write_json(count_file(folder, rank), [sum(pair) for pair in zip(written, counts, strict=True)])

        counts = write_part(plan, part, reader, encode, kept=kept, tell=tell)["counts"]
        written[:] = written[0] + counts["documents"], written[1] + counts["tokens"]

    try:
        plan = Plan.load(folder)
        encode, reader, kept = plan.encoder(), plan.reader(_Log()), keeper(plan)
        stage = next(stage for stage in stages_of(plan, write) if stage.name == name)
        for number in read_json(folder / TODO)[rank::tasks]:
            if not stage.is_done(number) and not (folder / STOP).exists():
                stage.run(number)
                _Log().log(f"{name}: {number} is done")
    except Exception as error:
        found = _known(error)
        content: dict[str, Any] = {
            "code": found.exit_code,
            "stage": name,
            "number": number,
            "message": str(found),
        }
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
    folder, stage, rank, tasks = sys.argv[1:]
    try:
        work(Path(folder), stage, int(rank), int(tasks))
    except UnmaskError as error:
        traceback.print_exc()
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
