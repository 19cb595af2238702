"""SIGTERM in a step, a save, an evaluation, the preparation and at the end: exit 75, and the run goes on from there."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import tiny_run

from unmask.config.settings import RunConfig
from unmask.data import preparation
from unmask.run import components as components
from unmask.run import training_run as run
from unmask.run import writing
from unmask.run_folder import RunFolder
from unmask.training import checkpoint, loop

# When the signal comes: before one of the first so many calls of a function.
MOMENTS: dict[str, tuple[Any, str, int]] = {
    "step": (loop, "step_gradients", 12),
    "save": (checkpoint, "sha256", 16),
    "evaluation": (run, "metrics_on", 3),
    "preparation": (preparation.TextEncoder, "__call__", 1),
    "final evaluation": (run, "evaluation_of", 1),
    "training the tokenizer": (components, "train_tokenizer", 1),
    "opening the text": (components, "prepare", 1),
    "writing the model": (writing, "write_model", 1),
}


def stop_runs(folder: Path, text: Path, whole: RunFolder, each: int, seed: int) -> dict[str, Any]:
    """Stop a run at each sort of moment so many times, or as often as it comes; with 1, at the first five sorts."""
    draw, config = random.Random(seed), tiny_run.configure(text)
    signals = stopped = 0
    differing: list[str] = []
    for moment, (owner, name, calls) in list(MOMENTS.items())[: 5 if each == 1 else None]:
        for number in range(min(each, calls)):
            out = folder / f"stopped-{moment.replace(' ', '-')}-{number}"
            signals += 1
            stopped += _stop(config, out, owner, name, draw.randint(1, calls)) == 75
            found = tiny_run.differences(tiny_run.finish(config, out), whole)
            differing += [f"{moment}: {what}" for what in found]
    return {"signals": signals, "exit 75": stopped, "differing": differing}


def _stop(config: RunConfig, out: Path, owner: Any, name: str, number: int) -> int:
    def arm() -> None:
        tiny_run.at_call(owner, name, number, tiny_run.ask_to_stop)

    return tiny_run.ended(tiny_run.start(config, out, arm))
