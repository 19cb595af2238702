"""Checkpoints of a sharded model on hosts that do not share the run folder: all of it is with the main process.

Each host writes the shares of its processes into a folder of its own, and sends the files; to resume, the main process
reads one tensor after the other and sends it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.tensor import DTensor, distribute_tensor

from unmask.training.distributed import World

_CHUNK = 64 << 20


def send_to_main(folder: Path, world: World, group: Any) -> None:
    """Send the files of a folder from each host that has its own to the main process, which writes them into its own.

    All processes of ``group`` call this, each when all of its host have written.
    """
    files = {path.name: path.stat().st_size for path in folder.iterdir()} if world.leads_apart else {}
    rows: list[Any] = [None] * world.size
    dist.all_gather_object(rows, files, group=group)
    for sender, found in enumerate(rows):
        for name, size in found.items():
            if world.rank == sender:
                _send(folder / name, size, group)
            elif world.is_main:
                _receive(folder / name, size, sender, group)


def _send(path: Path, size: int, group: Any) -> None:
    with path.open("rb") as file:
        for part in _parts(size):
            file.readinto(part)
            dist.send(torch.frombuffer(part, dtype=torch.uint8), dst=0, group=group)


def _receive(path: Path, size: int, sender: int, group: Any) -> None:
    with path.open("wb") as file:
        for part in _parts(size):
            dist.recv(torch.frombuffer(part, dtype=torch.uint8), src=sender, group=group)
            file.write(part)


def _parts(size: int) -> Iterator[memoryview]:
    """Yield memory for so many bytes, again and again the same."""
    buffer = memoryview(bytearray(min(size, _CHUNK)))
    for begin in range(0, size, _CHUNK):
        yield buffer[: min(_CHUNK, size - begin)]


def read_by_main(path: Path | None, tensors: dict[str, DTensor], world: World) -> None:
    """Fill tensors of which each process has a share with what the main process reads of a checkpoint."""
    for name, tensor in tensors.items():
        found = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        if world.is_main:
            load({name: found}, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=True)
        dist.broadcast(found, src=0)
        own = distribute_tensor(found, tensor.device_mesh, tensor.placements, src_data_rank=None)
        tensor.to_local().copy_(own.to_local())  # which may be in the memory of the host
