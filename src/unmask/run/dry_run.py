"""What a run would need, found by preparing it for real and computing two of its steps."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from unmask.config.settings import RunConfig
from unmask.model.presets import check_trainable
from unmask.progress import Progress
from unmask.run.assemble import make_loop, make_stream, recipe_of, with_recipe
from unmask.run.components import RunComponents, build_components
from unmask.run_folder import RunFolder
from unmask.training.loop import Loop
from unmask.training.staged_start import StagedStart

_STEPS = 2


@dataclass(frozen=True)
class Plan:
    """What a run would need.

    Attributes:
        parameters: weights of the model, tied ones once.
        tokens_per_epoch: tokens of one pass over the training text, special tokens included.
        steps: optimizer steps of the whole run.
        peak_memory_bytes: of this process on a CPU, of the device's allocations on CUDA.
        disk_bytes: shards, checkpoints and the model.
        seconds_per_step: of the second step; the first one warms up.
        total_seconds: of training, without evaluation and saving.
    """

    parameters: int
    tokens_per_epoch: int
    steps: int
    peak_memory_bytes: int
    disk_bytes: int
    seconds_per_step: float
    total_seconds: float


def plan(config: RunConfig, *, progress: Progress = Progress()) -> Plan:
    """Prepare a run in a temporary folder, compute two steps, and say what all of it would need.

    Raises:
        ConfigError: settings that cannot work.
        DataError: the text cannot be used.
    """
    check_trainable(config)
    with tempfile.TemporaryDirectory(prefix="unmask-plan-") as place:
        folder = RunFolder(Path(place))
        components = build_components(config, folder, progress)
        recipe = recipe_of(config, components)
        config = with_recipe(config, recipe, components)
        loop = make_loop(config, recipe, components, make_stream(config, recipe, components))
        loop.staged_start = StagedStart()  # its steps cost less than all the others
        seconds = _time_steps(loop)
        shards = sum(path.stat().st_size for path in folder.root.rglob("*") if path.is_file())
        steps, total = _extent(config, components, recipe.batch_tokens, seconds)
        weights = 4 * components.model.parameters
        return Plan(
            parameters=components.model.parameters,
            tokens_per_epoch=components.text.tokens,
            steps=steps,
            peak_memory_bytes=_peak_memory(),
            # A checkpoint holds the weights and up to two moments; one more is written before an old one goes.
            # As many of the best weights may be kept, since a checkpoint may name another one as its best.
            disk_bytes=shards
            + weights
            + (3 + bool(config.train.export_best)) * weights * (config.train.keep_last + 1),
            seconds_per_step=seconds,
            total_seconds=total,
        )


def _time_steps(loop: Loop) -> float:
    """Compute steps from the start and return the seconds of the last."""
    seconds = 0.0
    for _ in range(_STEPS):
        begin = time.perf_counter()
        step = loop.plan(loop.position.cursor, loop.position.step)
        if step is None:
            break
        loop.step(step)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        loop.position.cursor = step.following
        loop.position.step += 1
        seconds = time.perf_counter() - begin
    return seconds


def _extent(
    config: RunConfig, components: RunComponents, batch_tokens: int, seconds: float
) -> tuple[int, float]:
    """Return the steps and seconds of the whole run, from whichever limit comes first."""
    settings = config.train
    limits = []
    if settings.max_steps:
        limits.append(float(settings.max_steps))
    if settings.epochs:
        share = config.data.replay_share if components.replay else 0.0
        limits.append(settings.epochs * max(1.0, components.text.tokens / (batch_tokens * (1 - share))))
    if settings.minutes:
        limits.append(settings.minutes * 60 / max(seconds, 1e-9))
    steps = max(1, round(min(limits)))
    return steps, steps * seconds


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
