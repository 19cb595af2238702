"""Experiment trackers, each a callback on the library's own functions: TensorBoard, Weights & Biases, MLflow, Trackio.

Metrics have the names of ``metrics.jsonl``; those of the finished model are ``heldout/…`` with the keys of
``evaluation.json``, at the last step. Libraries are imported when a run starts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from unmask.run.callbacks import Callback, RunEnd, RunStart

_PROJECT = "unmask"


class Tracker(Callback):
    """A run in a tracker.

    Args:
        id: of the run to continue there, if there is one.

    Attributes:
        id: of the run in the tracker, after :meth:`start`.
        address: where it can be looked at, or the command that shows it.
    """

    address = ""

    def __init__(self, id: str | None) -> None:
        self.id = id

    def row(self, row: Mapping[str, Any]) -> None:
        self.put(dict(numbers({**row, "skipped": 1} if "skipped" in row else row)), row["step"])

    def evaluation(self, row: Mapping[str, Any]) -> None:
        self.row(row)

    def put(self, metrics: Mapping[str, float], step: int) -> None:
        """Report the metrics of a step."""
        raise NotImplementedError

    def end(self, run: RunEnd) -> None:
        if run.evaluation is not None:
            self.put(dict(numbers(run.evaluation, "heldout/")), run.step)
        self.close(run)

    def close(self, run: RunEnd) -> None:
        """Report the report, and how the run ended."""
        raise NotImplementedError


def numbers(content: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield the finite numbers in JSON by their path, such as ``heldout/before/loss``; the step of a row is no metric."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            if name or key != "step":
                yield from numbers(value, f"{name}{key}" + "/" * isinstance(value, Mapping))
    elif isinstance(content, int | float) and not isinstance(content, bool) and math.isfinite(content):
        yield name, float(content)


class TensorBoard(Tracker):
    """Event files in the run folder."""

    def start(self, run: RunStart) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / "tensorboard"
        # What an interrupted run wrote after the step that it is resumed from is not shown.
        self._writer = SummaryWriter(str(folder), purge_step=run.step + 1 if self.id else None)
        self.id, self.address = folder.name, f"tensorboard --logdir {folder}"
        for name, content in (("settings", run.settings), ("run", run.info)):
            self._writer.add_text(name, f"```json\n{_json(content)}\n```", run.step)
        self._writer.flush()

    def put(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self, run: RunEnd) -> None:
        ended = str(run.folder.report) if run.error is None else f"ended early: {run.error}"
        self._writer.add_text("report", ended, run.step)
        self._writer.close()


def _json(content: object) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False)


TRACKERS: dict[str, Callable[[str | None], Tracker]] = {"tensorboard": TensorBoard}
"""Tracker by name, which is also the name of the package that it needs."""
