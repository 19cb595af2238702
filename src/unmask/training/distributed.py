"""The processes of a run that ``torchrun`` starts: ranks, sums and barriers; in a single process they cost nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

# One process may prepare a large text while the others wait for it.
_TIMEOUT = timedelta(hours=24)


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Attributes:
        rank: this process, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @staticmethod
    def join(device: torch.device) -> World:
        """Join the processes that ``torchrun`` started, if any."""
        if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return World()
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
        return World(dist.get_rank(), dist.get_world_size())

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, which alone writes files and logs."""
        return self.rank == 0

    @staticmethod
    def will_be_main() -> bool:
        """Whether this process will be the main one once it has joined."""
        return os.environ.get("RANK", "0") == "0"

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, model: nn.Module) -> None:
        """Sum all gradients over all processes, in one message.

        A weight without a gradient in every process keeps none, as in a single process, so that optimizers skip it.
        """
        if self.size == 1:
            return
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        have = torch.tensor([weight.grad is not None for weight in weights], dtype=torch.float32)
        parts = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        flat = torch.cat([*(part.reshape(-1) for part in parts), have.to(parts[0])])
        dist.all_reduce(flat)
        *sums, had = flat.split([*(weight.numel() for weight in weights), len(weights)])
        for weight, total, some in zip(weights, sums, had.tolist(), strict=True):
            weight.grad = total.view_as(weight) if some else None

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is true in any process."""
        return bool(self.max(float(flag)))

    def max(self, value: float) -> float:
        """Return the largest of the processes' values."""
        if self.size == 1:
            return value
        values = torch.tensor([value], dtype=torch.float64)
        if dist.get_backend() == "nccl":
            values = values.cuda()
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return float(values)

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()
