"""The disk fails while a checkpoint is written: the newest one that has its name is always whole."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tiny_run import truncate_one
from torch import nn

from unmask.progress import Progress
from unmask.training import checkpoint
from unmask.training.checkpoint import find_checkpoint, list_checkpoints, restore, save_checkpoint

PLACES: list[tuple[Any, str]] = [
    *((checkpoint, "save_tensors"), (checkpoint, "write_json"), (os, "fsync"), (os, "open"), (Path, "open")),
    *((Path, "rename"), (Path, "replace"), (Path, "mkdir"), (shutil, "rmtree")),
]


def _calls_of(trained: Trained, owner: Any, name: str) -> int:
    """Count how often a save calls a function, for a step that has a checkpoint already."""
    whole, calls = getattr(owner, name), []

    def count(*arguments: Any, **named: Any) -> Any:
        calls.append(name)
        return whole(*arguments, **named)

    setattr(owner, name, count)
    trained.save(max(trained.weights))
    setattr(owner, name, whole)
    return len(calls)


def _fail(owner: Any, name: str, number: int, code: int) -> Callable[[], None]:
    """Let the `number`-th call of a function fail, half done where it writes a file; return what mends it."""
    whole, calls = getattr(owner, name), iter(range(1, 1_000_000))

    def broken(*arguments: Any, **named: Any) -> Any:
        if next(calls) != number:
            return whole(*arguments, **named)
        if name == "save_tensors":
            whole(*arguments, **named)
            truncate_one(Path(named["storage_writer"].path), code)
            raise SafetensorError(f"I/O error: {os.strerror(code)} (os error {code})")
        if name == "rmtree" and named.get("ignore_errors"):
            return None
        raise OSError(code, os.strerror(code))

    setattr(owner, name, broken)
    return lambda: setattr(owner, name, whole)


class Trained:
    """A model, and what it was at each step that was saved."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.folder, self.model = folder, nn.Linear(40, 30)
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(self.model.parameters())]
        self.weights: dict[int, list[torch.Tensor]] = {}

    def save(self, step: int) -> None:
        """Compute a step and save it."""
        self.model(torch.randn(8, 40)).square().mean().backward()
        self.optimizers[0].step()
        self.weights.setdefault(step, []).append(self.model.weight.detach().clone())
        save_checkpoint(self.folder, self.model, self.optimizers, {"step": step}, keep_last=2)

    def newest_loads(self, least: int) -> bool:
        """Whether what `auto` finds is the newest there is, no older than `least`, and has weights of its step."""
        path = find_checkpoint(self.folder, "auto", Progress())
        if path is None or path != list_checkpoints(self.folder)[-1]:
            return False
        copy = nn.Linear(40, 30)
        state = torch.get_rng_state()
        restore(path, copy, [torch.optim.AdamW(copy.parameters())])
        torch.set_rng_state(state)
        step = int(path.name.removeprefix("step-"))
        return step >= least and any(torch.equal(copy.weight, each) for each in self.weights[step])


def write_errors(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Let random writes fail with EIO or ENOSPC; every third time, a step is saved that has a checkpoint already."""
    draw, trained = random.Random(seed), Trained(folder / "checkpoints")
    trained.save(1)
    calls = {place: _calls_of(trained, *place) for place in PLACES}
    places = [place for place in PLACES if calls[place]]
    safe = step = 1
    raised = loadable = left = 0
    for number in range(count):
        owner, name = place = places[number % len(places)]
        mend = _fail(owner, name, draw.randint(1, calls[place]), draw.choice([errno.EIO, errno.ENOSPC]))
        step += number % 3 != 0
        try:
            trained.save(step)
            safe = step
        except OSError:
            raised += 1
        finally:
            mend()
        loadable += trained.newest_loads(safe)
        left += any(path.name.startswith(".") for path in trained.folder.iterdir())
    return {"errors": count, "raised": raised, "loadable": loadable, "something left behind": left}
