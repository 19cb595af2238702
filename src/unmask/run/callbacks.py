"""What a run tells others while it goes on: its start, each row of metrics, each evaluation, its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unmask.run_folder import RunFolder


@dataclass(frozen=True)
class RunStart:
    """A run that is about to train.

    Attributes:
        folder: its run folder.
        settings: every setting, resolved, by section, as in ``config.yaml``.
        info: versions, machine, command and counts, as in ``run.json``.
        step: the steps done before: 0, or those of the run that is resumed.
    """

    folder: RunFolder
    settings: Mapping[str, Any]
    info: Mapping[str, Any]
    step: int


@dataclass(frozen=True)
class RunEnd:
    """A run that has ended.

    Attributes:
        folder: its run folder.
        step: the steps that were done.
        evaluation: the content of ``evaluation.json``; ``None`` without held-out text, and after an error.
        error: what ended it early, such as :class:`unmask.Interrupted`, or ``None``.
    """

    folder: RunFolder
    step: int
    evaluation: Mapping[str, Any] | None
    error: BaseException | None


class Callback:
    """Called while a run goes on; override the methods that you need.

    Of several processes the main one alone calls it, between the steps, so that training waits for it. Where it raises, the run
    ends with that error.
    """

    def start(self, run: RunStart) -> None:
        """Training is about to begin, or to go on."""

    def row(self, row: Mapping[str, Any]) -> None:
        """A row of training metrics was written to ``metrics.jsonl``; that of a skipped step has ``skipped`` in it."""

    def evaluation(self, row: Mapping[str, Any]) -> None:
        """The model was evaluated on held-out text during training; the row was written to ``metrics.jsonl``."""

    def end(self, run: RunEnd) -> None:
        """The run has ended, and all of its files are written."""


class Callbacks(Callback):
    """Calls several, one after another."""

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        self._callbacks = callbacks

    def start(self, run: RunStart) -> None:
        for callback in self._callbacks:
            callback.start(run)

    def row(self, row: Mapping[str, Any]) -> None:
        for callback in self._callbacks:
            callback.row(dict(row))

    def evaluation(self, row: Mapping[str, Any]) -> None:
        for callback in self._callbacks:
            callback.evaluation(dict(row))

    def end(self, run: RunEnd) -> None:
        """Tell each of them, and raise the first error after that."""
        errors = []
        for callback in self._callbacks:
            try:
                callback.end(run)
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]
