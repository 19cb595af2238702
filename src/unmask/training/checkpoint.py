"""Checkpoints: everything that a run needs to be resumed bit-identically.

::

    checkpoints/step-00000120/model.safetensors       the weights
    checkpoints/step-00000120/optimizer.safetensors   the state of the optimizers
    checkpoints/step-00000120/state.json              position in the text, counts, learning rates, fingerprint
    checkpoints/step-00000120/manifest.json           SHA-256 of each of the files above

A checkpoint is written to a temporary folder, forced to disk and renamed, so one that has its name is whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unmask.errors import DataError
from unmask.progress import Progress
from unmask.storage import new_folder, read_json, restore_folder, sha256, sync_to_disk, write_json

_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
_MANIFEST = "manifest.json"
_RNG = "rng.cpu"


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    state: dict[str, Any],
    *,
    keep_last: int,
) -> Path:
    """Write a checkpoint for ``state["step"]`` and remove the oldest beyond ``keep_last``.

    Raises:
        OSError: it could not be written; the earlier ones are untouched.
    """
    final = folder / f"step-{state['step']:08d}"
    for left in folder.glob(".step-*.partial"):  # by a process that was killed while it wrote
        shutil.rmtree(left, ignore_errors=True)
    _restore_replaced(folder)
    with new_folder(final) as partial:
        weights = {name: tensor.detach().contiguous().clone() for name, tensor in _own_weights(model).items()}
        _save_tensors(weights, partial / "model.safetensors")
        tensors, plain = _optimizer_state(optimizers)
        tensors[_RNG] = torch.get_rng_state()
        _save_tensors(tensors, partial / "optimizer.safetensors")
        write_json(partial / "state.json", state | {"optimizer": plain})
        write_json(partial / _MANIFEST, {name: sha256(partial / name) for name in _FILES})
    sync_to_disk(folder.parent)
    for old in list_checkpoints(folder)[:-keep_last]:
        shutil.rmtree(old)
    return final


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
    if not isinstance(manifest, dict) or set(manifest) != set(_FILES):
        raise DataError("this is not a complete checkpoint: its manifest is missing or incomplete", path=path)
    for name, wanted in manifest.items():
        if not (path / name).is_file() or sha256(path / name) != wanted:
            raise DataError("the file is missing or its checksum does not match", path=path / name)


def load_checkpoint_state(path: Path) -> dict[str, Any]:
    """Return the ``state.json`` of a checkpoint."""
    state: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return state


def restore(path: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Any]:
    """Load weights, optimizer state and the random state of torch; return the rest of the state."""
    weights = load_file(path / "model.safetensors")
    with torch.no_grad():
        for name, tensor in _own_weights(model).items():
            tensor.copy_(weights[name])
    tensors = load_file(path / "optimizer.safetensors")
    torch.set_rng_state(tensors.pop(_RNG))
    state = load_checkpoint_state(path)
    for number, optimizer in enumerate(optimizers):
        _restore_optimizer(optimizer, number, tensors, state["optimizer"][number])
    return state


def _own_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers, tied ones once."""
    seen: dict[int, str] = {}
    own = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen[id(tensor)] = name
            own[name] = tensor
    return own


def _optimizer_state(optimizers: list[torch.optim.Optimizer]) -> tuple[dict[str, Tensor], list[Any]]:
    """Split optimizer state into tensors, named ``optimizer.parameter.entry``, and plain JSON."""
    tensors, plain = {}, []
    for number, optimizer in enumerate(optimizers):
        content = optimizer.state_dict()
        for parameter, entries in content["state"].items():
            for entry, value in entries.items():
                tensors[f"{number}.{parameter}.{entry}"] = torch.as_tensor(value).contiguous().clone()
        plain.append(content["param_groups"])
    return tensors, plain


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, number: int, tensors: dict[str, Tensor], groups: list[Any]
) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        owner, parameter, entry = name.split(".", 2)
        if int(owner) == number:
            state.setdefault(int(parameter), {})[entry] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file; an error of the disk is raised as the ``OSError`` that it is."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
