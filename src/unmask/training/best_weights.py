"""The best weights of a run: those with the lowest held-out loss, next to the checkpoints.

::

    checkpoints/best/step-00000040/    a checkpoint without optimizer state
"""

from __future__ import annotations

import math
import shutil
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from unmask.errors import DataError
from unmask.training.checkpoint import (
    CheckpointWriter,
    check,
    list_checkpoints,
    load_checkpoint_state,
    restore,
)
from unmask.training.parallel import GradientSum


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
        if best is None or math.isnan(best.loss) or loss < best.loss:
            return Best(step, loss)
        return replace(best, since=best.since + 1)


def save_best(writer: CheckpointWriter, checkpoints: Path, model: nn.Module, step: int) -> None:
    """Save the weights of ``step``; keep those that a checkpoint refers to, since a resumed run may need them.

    Raises:
        OSError: an earlier checkpoint could not be written.
    """
    after = partial(_remove_others, checkpoints, step)
    writer.save(checkpoints / "best", model, [], {"step": step}, keep_last=sys.maxsize, after=after)


def _remove_others(checkpoints: Path, step: int) -> None:
    wanted = {_path(checkpoints, step)}
    for checkpoint in list_checkpoints(checkpoints):
        if best := load_checkpoint_state(checkpoint).get("best"):
            wanted.add(_path(checkpoints, best["step"]))
    for old in list_checkpoints(checkpoints / "best"):
        if old not in wanted:
            shutil.rmtree(old)


def check_best(checkpoints: Path, step: int) -> str:
    """Return what is wrong with the weights that were saved at ``step``, if anything."""
    try:
        check(_path(checkpoints, step))
    except DataError as error:
        return str(error)
    return ""


def load_best(
    checkpoints: Path, model: nn.Module, step: int, gradient_sum: GradientSum | None = None
) -> None:
    """Load the weights that were saved at ``step``."""
    restore(_path(checkpoints, step), model, [], gradient_sum)


def _path(checkpoints: Path, step: int) -> Path:
    return checkpoints / "best" / f"step-{step:08d}"
