"""Checkpoints: everything that a run needs to be resumed bit-identically.

::

    checkpoints/step-00000120/model-00001-of-00002.safetensors   the weights
    checkpoints/step-00000120/model-00002-of-00002.safetensors   the state of the optimizers
    checkpoints/step-00000120/state.json      position in the text, counts, learning rates, fingerprint
    checkpoints/step-00000120/manifest.json   SHA-256 of each of the files above

They are written by :mod:`torch.distributed.checkpoint`, as safetensors: by the main process where each process has the
whole model, and where each has a share (FSDP) by all of them, as ``shard-00001-model-…`` and so on; where hosts share no
folder, see :mod:`unmask.training.unshared`. Either kind, and the two files ``model.safetensors`` and
``optimizer.safetensors`` of earlier versions, can be resumed by any number of processes.

Training waits for a copy in memory only; files are written in the background, to a temporary folder. The manifest is
written last, then the folder is forced to disk and renamed, so one that has its name is whole.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors
from torch.distributed.tensor import DTensor

from unmask.errors import DataError
from unmask.progress import Progress
from unmask.storage import (
    new_folder,
    partial_folder,
    read_json,
    restore_folder,
    sha256,
    sync_to_disk,
    write_json,
)
from unmask.training.distributed import World
from unmask.training.parallel import GradientSum
from unmask.training.unshared import read_by_main, send_to_main

# A single process is what is meant.
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")

_MANIFEST = "manifest.json"
_STATE = "state.json"


class CheckpointWriter:
    """Writes checkpoints in the background, one after the other.

    Every process of a run makes one and calls it alike.

    Args:
        world: the processes of the run.
        sharded: whether each has a share of the weights only.
    """

    def __init__(self, world: World | None = None, sharded: bool = False) -> None:
        self.world, self.sharded = world or World(), sharded
        self._group = dist.new_group(backend="gloo") if sharded else None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._jobs: list[tuple[int, Future[Any]]] = []

    def save(
        self,
        folder: Path,
        model: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        state: dict[str, Any],
        *,
        keep_last: int,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        """Write a checkpoint for ``state["step"]`` and remove the oldest beyond ``keep_last``.

        Args:
            folder: of the checkpoints.
            model: of transformers, whose weights are copied before this returns.
            optimizers: their state, too.
            state: plain values.
            keep_last: how many are kept.
            after: is called in the background when it is whole, in the main process.

        Raises:
            OSError: an earlier one could not be written; those before it are untouched.
        """
        self.wait(state["step"])  # there is memory for the copies of one step, not for many
        if not (self.world.is_main or self.sharded):
            return
        tensors, plain = _tensors(model, optimizers)
        # torch's stager copies storages, which is known to work for those of CPU and CUDA.
        tensors = {name: each.cpu() if each.device.type == "mps" else each for name, each in tensors.items()}
        stager = DefaultStager(StagingOptions(False, False, False, False))
        copies: Any = stager.stage(tensors)
        stager.close()
        weights = set(_own_weights(model))
        content = deepcopy(state | ({"optimizer": plain} if optimizers else {}))  # training goes on

        def write() -> None:
            self._write(folder, copies, weights, content, keep_last)
            if self.world.is_main:
                after()

        self._jobs.append((state["step"], self._pool.submit(write)))

    def wait(self, step: int | None = None) -> None:
        """Wait for what is still to be written, but not for what is of ``step``.

        Raises:
            OSError: one could not be written.
        """
        while self._jobs and (self._jobs[0][0] != step or self._jobs[0][1].done()):
            self._jobs.pop(0)[1].result()

    def close(self) -> None:
        """Wait for what is being written, whether it succeeds or not."""
        self._pool.shutdown()

    def _write(
        self, folder: Path, tensors: dict[str, Any], weights: set[str], state: dict[str, Any], keep_last: int
    ) -> None:
        final = folder / f"step-{state['step']:08d}"
        if not self.world.is_main:
            self._write_share(partial_folder(final.resolve()), tensors, weights)
            return
        _remove_unfinished(folder)
        _restore_replaced(folder)
        with new_folder(final) as partial:
            self._write_share(partial, tensors, weights)
            write_json(partial / _STATE, state)
            write_json(partial / _MANIFEST, {path.name: sha256(path) for path in sorted(partial.iterdir())})
        sync_to_disk(folder.parent)
        for old in list_checkpoints(folder)[:-keep_last]:
            shutil.rmtree(old)

    def _write_share(self, path: Path, tensors: dict[str, Any], weights: set[str]) -> None:
        """Write what this process has, into the folder of the main one or, where this host does not see it, through one here."""
        if not self.sharded:
            self._write_tensors(path, tensors, weights)
            return
        if self.world.leads_apart:
            _remove_unfinished(path.parent)
            path.mkdir(parents=True)
        try:
            dist.barrier(group=self._group)  # until there is a folder on each host
            self._write_tensors(path, tensors, weights)  # which waits for all
            if self.world.apart:
                send_to_main(path, self.world, self._group)
        finally:
            if self.world.leads_apart:
                shutil.rmtree(path, ignore_errors=True)

    def _write_tensors(self, path: Path, tensors: dict[str, Any], weights: set[str]) -> None:
        """Write safetensors files; an error of the disk is raised as the ``OSError`` that it is."""
        writer = HuggingFaceStorageWriter(
            str(path), {name: 1 if name in weights else 2 for name in tensors}, save_distributed=self.sharded
        )
        # What several hosts have is written by the main one, if the others would have to send it.
        planner = DefaultSavePlanner(dedup_save_to_lowest_rank=bool(self.world.apart))
        options: dict[str, Any] = {"process_group": self._group, "no_dist": not self.sharded}
        try:
            save_tensors(tensors, storage_writer=writer, planner=planner, **options)
        except (SafetensorError, CheckpointException) as error:
            raise _as_os_error(error, path) from error


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    state: dict[str, Any],
    *,
    keep_last: int,
) -> Path:
    """Write a checkpoint as :meth:`CheckpointWriter.save` does, and wait for it.

    Raises:
        OSError: it could not be written; the earlier ones are untouched.
    """
    writer = CheckpointWriter()
    try:
        writer.save(folder, model, optimizers, state, keep_last=keep_last)
        writer.wait()
    finally:
        writer.close()
    return folder / f"step-{state['step']:08d}"


def _remove_unfinished(folder: Path) -> None:
    """Remove what a process wrote when it was killed."""
    for left in folder.glob(".step-*.partial"):
        shutil.rmtree(left, ignore_errors=True)


def _restore_replaced(folder: Path) -> None:
    """Rename checkpoints back that a killed process was replacing by others of the same step."""
    for replaced in folder.glob(".step-*.replaced"):
        restore_folder(folder / replaced.stem.removeprefix("."))


def set_aside(folder: Path, step: int) -> list[Path]:
    """Rename the checkpoints after ``step``, from which a run is resumed: it writes them again, and none is lost."""
    aside = []
    for path in list_checkpoints(folder):
        if path.name > f"step-{step:08d}":
            aside.append(folder / f"aside-{path.name}")
            shutil.rmtree(aside[-1], ignore_errors=True)
            path.rename(aside[-1])
    return aside


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints under a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def find_checkpoint(folder: Path, wanted: str, progress: Progress) -> Path | None:
    """Return the checkpoint to resume from.

    Args:
        folder: the run's checkpoints.
        wanted: ``auto`` for the newest that is whole, or the path of one.
        progress: logs damaged ones that are skipped.

    Returns:
        Its path, or ``None`` where ``auto`` finds none at all.

    Raises:
        DataError: the one that was named, or every one there is, is damaged.
    """
    if wanted != "auto":
        check(Path(wanted))
        return Path(wanted)
    _restore_replaced(folder)
    candidates = list_checkpoints(folder)
    for path in reversed(candidates):
        try:
            check(path)
            return path
        except DataError as error:
            progress.log(f"skipped a damaged checkpoint: {error}")
    if candidates:
        raise DataError("every checkpoint here is damaged; start again in another folder", path=folder)
    return None


def check(path: Path) -> None:
    """Compare a checkpoint with its manifest.

    Raises:
        DataError: a file is absent or differs from its checksum.
    """
    try:
        manifest = read_json(path / _MANIFEST)
    except OSError as error:
        raise DataError(f"cannot be read ({error})", path=path) from None
    tensors = [name for name in manifest or () if name.endswith(".safetensors")]
    if not isinstance(manifest, dict) or _STATE not in manifest or not tensors:
        raise DataError("this is not a complete checkpoint: its manifest is missing or incomplete", path=path)
    for name, wanted in manifest.items():
        if not (path / name).is_file() or sha256(path / name) != wanted:
            raise DataError("the file is missing or its checksum does not match", path=path / name)


def load_checkpoint_state(path: Path) -> dict[str, Any]:
    """Return the ``state.json`` of a checkpoint."""
    state: dict[str, Any] = json.loads((path / _STATE).read_text(encoding="utf-8"))
    return state


def restore(
    path: Path | None,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    gradient_sum: GradientSum | None = None,
) -> dict[str, Any]:
    """Load weights and optimizer state; return the rest of the state.

    Args:
        path: the checkpoint; that of the main process counts, which sends the others what it reads, unless each has a
            share of the model and all see the folder.
        model: of transformers.
        optimizers: as they were when it was saved.
        gradient_sum: of the processes of the run.
    """
    world = gradient_sum.world if gradient_sum is not None else World()
    sharded = gradient_sum is not None and gradient_sum.sharded
    each_reads = sharded and not world.apart
    found = (load_checkpoint_state(path), _names_in(path)) if path and world.is_main else ({}, [])
    state, names = world.from_main(found)
    if optimizers:
        _prepare_optimizers(optimizers, state["optimizer"], names)
    tensors, _ = _tensors(model, optimizers)
    shares = {key: value for key, value in tensors.items() if isinstance(value, DTensor) and not each_reads}
    rest = {key: value for key, value in tensors.items() if key not in shares}
    with torch.no_grad():
        if world.is_main or each_reads:
            load_tensors(rest, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=not each_reads)
        if world.size > 1 and not each_reads:
            for tensor in rest.values():
                dist.broadcast(tensor, src=0)
        read_by_main(path, shares, world)
    return state


def _names_in(path: Path) -> list[str]:
    return sorted(HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata)


def _prepare_optimizers(
    optimizers: list[torch.optim.Optimizer], groups: list[list[dict[str, Any]]], names: list[str]
) -> None:
    """Give optimizers the settings of their groups, and zeros for what a checkpoint has of their state."""
    entries: dict[tuple[str, str], list[str]] = {}
    for owner, parameter, entry in (name.split(".", 2) for name in names if name[0].isdecimal()):
        entries.setdefault((owner, parameter), []).append(entry)
    for number, (optimizer, saved) in enumerate(zip(optimizers, groups, strict=True)):
        optimizer.state.clear()
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        for index, weight in enumerate(weights):
            optimizer.state[weight] = {
                entry: torch.zeros((), device=weight.device)
                if entry == "step"
                else torch.zeros_like(weight.detach())
                for entry in entries.get((str(number), str(index)), ())
            }
        for group, before in zip(optimizer.param_groups, saved, strict=True):
            group |= {key: value for key, value in before.items() if key != "params"}


def _tensors(
    model: nn.Module, optimizers: list[torch.optim.Optimizer]
) -> tuple[dict[str, Tensor], list[list[dict[str, Any]]]]:
    """Return weights by name, optimizer state as ``optimizer.parameter.entry``, and the plain settings of groups."""
    tensors = {name: tensor.detach() for name, tensor in _own_weights(model).items()}
    plain = []
    for number, optimizer in enumerate(optimizers):
        content = optimizer.state_dict()
        for parameter, entries in content["state"].items():
            for entry, value in entries.items():
                tensors[f"{number}.{parameter}.{entry}"] = value
        plain.append(content["param_groups"])
    return tensors, plain


def _own_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers, tied ones once."""
    seen: dict[int, str] = {}
    own = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen[id(tensor)] = name
            own[name] = tensor
    return own


def _as_os_error(error: BaseException, path: Path) -> BaseException:
    """Return the error of the disk that is behind another one, if there is one."""
    if isinstance(error, CheckpointException):
        for failure, _ in error.failures.values():
            if isinstance(failure, OSError):
                return failure
    found = re.search(r"os error (\d+)", str(error))
    if found is None:
        return error
    number = int(found[1]) or errno.EIO
    return OSError(number, os.strerror(number), str(path))
