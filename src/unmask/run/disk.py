"""Disk space: what a run needs, and its refusal where that is not free."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from unmask.config.settings import TrainSettings
from unmask.errors import DiskError, plural
from unmask.run_folder import RunFolder
from unmask.training.optimizers import Muon


@dataclass(frozen=True)
class DiskNeed:
    """The bytes that a run writes, without shards, at the moment when it holds most.

    Attributes:
        checkpoints: how many there are at once: one more is written before the oldest is removed.
        checkpoint: bytes of one: weights and optimizer state.
        models: copies of the weights: the exported model, and the best weights that each checkpoint may refer to.
        model: bytes of the weights.
    """

    checkpoints: int
    checkpoint: int
    models: int
    model: int

    @property
    def total(self) -> int:
        return self.checkpoints * self.checkpoint + self.models * self.model


def disk_need(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], train: TrainSettings, steps: int | None = None
) -> DiskNeed:
    """Return the bytes that a run writes.

    Args:
        model: with the weights of the run, tied ones once.
        optimizers: AdamW keeps two moments of each weight that it trains, Muon one.
        train: how many checkpoints are kept, and whether the best weights are.
        steps: of the whole run, if known: a short run makes fewer checkpoints.
    """
    weights = _bytes(model.parameters())
    moments = sum(
        (1 if isinstance(optimizer, Muon) else 2) * _bytes(group["params"])
        for optimizer in optimizers
        for group in optimizer.param_groups
    )
    checkpoints = min(train.keep_last + 1, steps or train.keep_last + 1)
    best = checkpoints if train.export_best else 0
    return DiskNeed(checkpoints, weights + moments, 1 + best, weights)


def require_room(folder: RunFolder, need: DiskNeed) -> None:
    """Refuse a run that does not fit on the disk, before it is trained.

    Raises:
        DiskError: it needs more than is free.
    """
    free = shutil.disk_usage(folder.root).free + size_of(folder.checkpoints) + size_of(folder.model)
    if need.total > free:
        raise DiskError(
            f"the run does not fit on the disk of {folder.root}: it needs {shown(need.total)} ({plural(need.checkpoints, 'checkpoint')} "
            f"of {shown(need.checkpoint)}, {plural(need.models, 'model')} of {shown(need.model)}) and {shown(free)} "
            f"are free; free {shown(need.total - free)}, keep fewer checkpoints (--set train.keep_last=1), or choose another folder with -o"
        )


def _bytes(weights: Iterable[nn.Parameter]) -> int:
    return sum(weight.numel() * weight.element_size() for weight in weights)


def size_of(folder: Path) -> int:
    """Return the bytes of all files under a folder; 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def shown(size: int) -> str:
    """Return bytes as people read them; at least 0.1 MB, so that no file has none."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{max(size / 1e6, 0.1):,.1f} MB"
