"""The dry run: what a run would need, measured by preparing it and computing two of its steps."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from unmask.config.settings import RunConfig
from unmask.data.shards import TemporaryFolder
from unmask.machine import peak_memory_bytes
from unmask.model.load import pick_device
from unmask.model.presets import check_trainable
from unmask.objectives.choose import Custom
from unmask.progress import Progress
from unmask.run.assemble import make_loop, make_stream, recipe_of, with_recipe
from unmask.run.choices import planned_steps
from unmask.run.components import RunComponents, build_components
from unmask.run.disk import disk_need, size_of
from unmask.run_folder import RunFolder
from unmask.training.distributed import World, joined
from unmask.training.loop import Loop
from unmask.training.parallel import require_parallel
from unmask.training.staged_start import StagedStart

_STEPS = 2


@dataclass(frozen=True)
class DryRun:
    """What a run would need.

    Attributes:
        parameters: weights of the model, tied ones once.
        tokens_per_epoch: tokens of one pass over the training text, special tokens included.
        steps: optimizer steps of the whole run.
        processes: that train together, as ``torchrun`` starts them.
        parallel: how they share the work; empty for a single one.
        peak_memory_bytes: of a process on a CPU, of the device's allocations on CUDA; of several processes the most;
            ``None`` where the system does not say, as on Windows.
        disk_bytes: shards, checkpoints and the model.
        seconds_per_step: of the second step; the first one warms up.
        total_seconds: of training, without evaluation and saving.
    """

    parameters: int
    tokens_per_epoch: int
    steps: int
    processes: int
    parallel: str
    peak_memory_bytes: int | None
    disk_bytes: int
    seconds_per_step: float
    total_seconds: float


def dry_run(config: RunConfig, *, progress: Progress = Progress()) -> DryRun:
    """Prepare a run in a temporary folder, compute two steps, and return what the whole run would need.

    Raises:
        ConfigError: settings that cannot work.
        DataError: the text cannot be used.
    """
    check_trainable(config)
    Custom().require(config)
    require_parallel(config.train)
    place = TemporaryFolder("unmask-dry-run-")
    with joined(pick_device(config.train.device), config.train.timeout_minutes) as world, place as root:
        world.leader = world.rank  # each has a temporary folder of its own
        return _measure(config, RunFolder(Path(root)), progress, world)


def _measure(config: RunConfig, folder: RunFolder, progress: Progress, world: World) -> DryRun:
    components = build_components(config, folder, progress, world)
    recipe = recipe_of(config, components)
    config = with_recipe(config, recipe, components)
    loop = make_loop(config, recipe, components, make_stream(config, recipe, components))
    loop.staged_start = StagedStart()  # its steps cost less than all the others
    seconds = _time_steps(loop)
    steps, total = _whole_run(config, components, seconds)
    need = disk_need(components.model.model, loop.optimizers, config.train, steps)
    return DryRun(
        parameters=components.model.parameters,
        tokens_per_epoch=components.text.tokens,
        steps=steps,
        processes=world.size,
        parallel=components.parallel[1],
        peak_memory_bytes=int(world.max(_peak_memory())) or None,
        disk_bytes=size_of(folder.root) + need.total,
        seconds_per_step=seconds,
        total_seconds=total,
    )


def _time_steps(loop: Loop) -> float:
    """Compute steps from the start and return the seconds of the last."""
    seconds = 0.0
    for _ in range(_STEPS):
        begin = time.perf_counter()
        step = loop.agreed(loop.position.cursor, loop.position.step)
        if step is None:
            break
        loop.step(step)
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        loop.position.cursor = step.following
        loop.position.step += 1
        seconds = time.perf_counter() - begin
    return seconds


def _whole_run(config: RunConfig, components: RunComponents, seconds: float) -> tuple[int, float]:
    """Return the steps and seconds of the whole run, which ends at the limit that is reached first."""
    steps = planned_steps(config, components)
    minutes = config.train.minutes
    clock = math.ceil(minutes * 60 / max(seconds, 1e-9)) if minutes else None
    total = min(limit for limit in (steps, clock) if limit is not None)
    return total, total * seconds


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return peak_memory_bytes() or 0
