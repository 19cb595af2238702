"""The best weights of a run: those with the lowest held-out loss, next to the checkpoints.

::

    checkpoints/best/step-00000040/    a checkpoint without optimizer state
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from unmask.training.checkpoint import (
    check,
    list_checkpoints,
    load_checkpoint_state,
    restore,
    save_checkpoint,
)


@dataclass(frozen=True)
class Best:
    """The lowest held-out loss so far.

    Attributes:
        step: of that evaluation.
        loss: in nats.
        since: evaluations after it, none of which was lower.
    """

    step: int
    loss: float
    since: int = 0

    @staticmethod
    def after(best: Best | None, step: int, loss: float) -> Best:
        """Return the best after one more evaluation."""
        if best is None or loss < best.loss:
            return Best(step, loss)
        return replace(best, since=best.since + 1)


def save_best(checkpoints: Path, model: nn.Module, step: int) -> None:
    """Save the weights of ``step``; keep those that a checkpoint refers to, since a resumed run may need them.

    Raises:
        OSError: they could not be written; the earlier ones are untouched.
    """
    folder = checkpoints / "best"
    wanted = {save_checkpoint(folder, model, [], {"step": step}, keep_last=sys.maxsize)}
    for checkpoint in list_checkpoints(checkpoints):
        if best := load_checkpoint_state(checkpoint).get("best"):
            wanted.add(_path(checkpoints, best["step"]))
    for old in list_checkpoints(folder):
        if old not in wanted:
            shutil.rmtree(old)


def load_best(checkpoints: Path, model: nn.Module, step: int) -> None:
    """Load the weights that were saved at ``step``.

    Raises:
        DataError: they are missing or damaged.
    """
    path = _path(checkpoints, step)
    check(path)
    restore(path, model, [])


def _path(checkpoints: Path, step: int) -> Path:
    return checkpoints / "best" / f"step-{step:08d}"
