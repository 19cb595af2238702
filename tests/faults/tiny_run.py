"""A run of a tiny model to interrupt: made in processes of their own, and compared to the last bit."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from unmask.config.load import load_config
from unmask.config.settings import RunConfig
from unmask.errors import Interrupted
from unmask.model import presets
from unmask.progress import Progress
from unmask.run import writing
from unmask.run.train import train
from unmask.run_folder import RunFolder
from unmask.storage import read_rows

TIMED = {"seconds", "tokens_per_second", "wait_share"}
SAVE_EVERY = 3
WORDS = "the river carried a letter before winter came an unripe telescope measured mountains".split()

disable_progress_bar()
presets.PRESETS["tiny-bert"] = presets.Preset("bert", 1, 32)


def make_text(folder: Path) -> Path:
    """Write 200 documents of 3 to 24 words."""
    draw, path = random.Random(1860), folder / "text.jsonl"
    lines = (" ".join(draw.choices(WORDS, k=draw.randint(3, 24))) for _ in range(200))
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), encoding="utf-8")
    return path


def configure(text: Path, **flags: Any) -> RunConfig:
    """Return a run of twelve steps in fp32, with dropout, that saves every three; `__` stands for a dot."""
    settings = {
        "data.inputs": [str(text)],
        "data.heldout_share": 0.1,
        "data.max_length": 32,
        "model.preset": "tiny-bert",
        "model.vocab_size": 200,
        "model.dropout": 0.1,
        "train.max_steps": 12,
        "train.batch_tokens": 200,
        "train.micro_batch_tokens": 100,
        "train.precision": "fp32",
        "train.device": "cpu",
        "train.log_every": 2,
        "train.save_every": SAVE_EVERY,
        "train.eval_every": 4,
    }
    return load_config(None, flags=settings | {key.replace("__", "."): value for key, value in flags.items()})


class Heard(Progress):
    """Writes what it is told to a file, so that it outlives the process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def log(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def start(
    config: RunConfig,
    out: Path,
    before: Callable[[], None] = lambda: None,
    world: dict[str, str] | None = None,
) -> int:
    """Begin a run, or go on with it, in a new process, and return its id. `before` is called in that process."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        # A process that is forked has not this one's threads, nor may it wait for them.
        torch.set_num_threads(1)
        os.environ.update(world or {})
        writing.write_report = lambda folder: (
            folder.report
        )  # it takes a second and is made of the other files
        before()
        train(config, out, resume="auto", progress=Heard(out.with_suffix(".log")))
        code = 0
    except Interrupted:
        code = Interrupted.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """Wait for a run and return its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def finish(config: RunConfig, out: Path, before: Callable[[], None] = lambda: None) -> RunFolder:
    """Go on with a run to its end."""
    if code := ended(start(config, out, before)):
        raise SystemExit(f"{out}: a run that should have come to its end ended with {code}")
    return RunFolder(out)


def finish_first(config: RunConfig, out: Path) -> RunFolder:
    """Make a whole run, and import here what it imported, so that later ones need not."""
    names = out.with_suffix(".modules")

    def remember(folder: RunFolder) -> Path:
        names.write_text("\n".join(sys.modules), encoding="utf-8")
        return folder.report

    def arm() -> None:
        writing.write_report = remember

    run = finish(config, out, arm)
    for name in names.read_text(encoding="utf-8").split("\n"):
        if name.partition(".")[0] in ("unmask", "torch", "transformers"):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    return run


def differences(found: RunFolder, wanted: RunFolder) -> list[str]:
    """Name what differs between two finished runs, in any bit, but for the time that they took."""
    rows = [
        [{key: row[key] for key in row.keys() - TIMED} for row in read_rows(run.metrics)]
        for run in (found, wanted)
    ]
    differing = [] if rows[0] == rows[1] else ["metrics.jsonl"]
    for name in ("model/model.safetensors", "evaluation.json", "examples.json"):
        if (found.root / name).read_bytes() != (wanted.root / name).read_bytes():
            differing.append(name)
    left = [path.name for path in found.root.iterdir() if path.name.startswith(".")]
    return differing + left


def furthest_losses(found: RunFolder, wanted: RunFolder) -> float:
    """Return the largest relative difference of the losses of two runs, row by row."""
    rows = [[row for row in read_rows(run.metrics) if "loss" in row] for run in (found, wanted)]
    if [row["step"] for row in rows[0]] != [row["step"] for row in rows[1]]:
        return float("inf")
    return max(abs(a["loss"] - b["loss"]) / b["loss"] for a, b in zip(*rows, strict=True))


def truncate_one(folder: Path, number: int) -> None:
    """Cut one of the files of tensors in a folder in half."""
    files = sorted(folder.glob("*.safetensors"))
    path = files[number % len(files)]
    os.truncate(path, path.stat().st_size // 2)


def at_call(owner: Any, name: str, number: int, act: Callable[[], None]) -> None:
    """Act in the `number`-th call of a function, the first being 1, before it does anything."""
    whole, calls = getattr(owner, name), iter(range(1, 1_000_000))

    def spy(*arguments: Any, **named: Any) -> Any:
        if next(calls) == number:
            act()
        return whole(*arguments, **named)

    setattr(owner, name, spy)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ask_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
