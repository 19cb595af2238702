"""Room on the disk: whether a run can fit at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import nn

from unmask.config.settings import TrainSettings
from unmask.errors import DiskError
from unmask.run_folder import RunFolder


def checkpoint_bytes(model: nn.Module, settings: TrainSettings) -> int:
    """Return what a checkpoint takes at the least: the weights and what the optimizer keeps of those that move."""
    weights = list(model.parameters())
    moments = 1 if settings.optimizer.name == "muon" else 2
    return _bytes(weights) + moments * _bytes([weight for weight in weights if weight.requires_grad])


def require_room(folder: RunFolder, model: nn.Module, settings: TrainSettings) -> None:
    """Refuse a run that certainly does not fit on the disk, before it is trained.

    Raises:
        DiskError: what it leaves behind takes more than there is.
    """
    one, weights = checkpoint_bytes(model, settings), _bytes(list(model.parameters()))
    # One more is written before the oldest goes. A run of few steps may make fewer.
    count = min(settings.keep_last + 1, settings.max_steps or settings.keep_last + 1)
    needed = count * one + weights + (weights if settings.export_best else 0)
    free = shutil.disk_usage(folder.root).free
    held = size_of(folder.checkpoints) + size_of(folder.model)
    if needed > free + held:
        raise DiskError(
            f"the run does not fit on the disk of {folder.root}: it writes {shown(needed)} ({count} checkpoints of "
            f"{shown(one)}, models of {shown(weights)}) and {shown(free + held)} are free; free "
            f"{shown(needed - free - held)}, lower train.keep_last, or choose another folder with -o"
        )


def _bytes(weights: list[nn.Parameter]) -> int:
    return sum(weight.numel() * weight.element_size() for weight in weights)


def size_of(folder: Path) -> int:
    """Return the bytes of all files under a folder; 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def shown(size: int) -> str:
    """Return bytes as people read them; never as nothing, where there is something."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{max(size / 1e6, 0.1):,.1f} MB"
