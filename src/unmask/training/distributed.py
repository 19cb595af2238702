"""More than one process: who am I, and sums over all of us. Started by ``torchrun``; alone, all of it is free."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


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
        """Join the processes that ``torchrun`` started, or be alone."""
        if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return World()
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return World(dist.get_rank(), dist.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, model: nn.Module) -> None:
        """Sum all gradients over all processes, in one message."""
        if self.size == 1:
            return
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def agree(self, flag: bool) -> bool:
        """Return whether any process says yes."""
        if self.size == 1:
            return flag
        votes = torch.tensor([float(flag)])
        if dist.get_backend() == "nccl":
            votes = votes.cuda()
        return bool(self.sum_(votes).item())

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()
