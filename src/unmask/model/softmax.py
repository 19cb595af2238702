"""The softmax over the vocabulary, in fp32 and a block of rows at a time: the loss at each target."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from unmask.errors import DivergedError
from unmask.model.float64 import in_float64

# Logits of a block: few enough for the cache of a CPU; elsewhere 256 MB in fp32, which keep any device busy.
_BLOCK, _BLOCK_ON_DEVICE = 1 << 19, 1 << 26


def row_blocks(rows: int, width: int, device: torch.device, most: int | None = None) -> list[slice]:
    """Divide rows of ``width`` logits into blocks of at most so many, by default those computed in fp32 at once."""
    size = max(1, (most or (_BLOCK if device.type == "cpu" else _BLOCK_ON_DEVICE)) // width)
    return [slice(begin, min(begin + size, rows)) for begin in range(0, rows, size)]


def loss_blocks(logits: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield ``[M, V]`` logits in blocks of fp32, with their ``int64`` targets and the loss of each in nats, :func:`in_float64`."""
    for part in row_blocks(len(targets), logits.shape[1], logits.device):
        block, label = logits[part].float(), targets[part]
        yield block, label, in_float64(functional.cross_entropy(block, label, reduction="none"))


def target_losses(logits: Tensor, targets: Tensor) -> NDArray[np.float64]:
    """Return ``float64 [M]``: the cross-entropy, in nats, of ``int64 [M]`` targets at ``[M, V]`` logits.

    Raises:
        DivergedError: one is NaN or infinite.
    """
    parts = [loss for _, _, loss in loss_blocks(logits, targets)]
    losses: NDArray[np.float64] = torch.cat(parts or [torch.empty(0).double()]).cpu().numpy()
    check_finite(losses)
    return losses


def check_finite(values: ArrayLike) -> None:
    """Check losses or log-probabilities.

    Raises:
        DivergedError: one is NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise DivergedError(
            "the model's logits are NaN or infinite: its weights are damaged, or the precision is too low; try "
            "--precision=fp32, or another checkpoint"
        )
