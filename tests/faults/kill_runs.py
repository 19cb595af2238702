"""kill -9 at random moments, also in the middle of saves: the run goes on as if nothing had happened."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

import tiny_run

from unmask.config.settings import RunConfig
from unmask.run_folder import RunFolder
from unmask.storage import read_rows
from unmask.training import checkpoint, loop
from unmask.training.checkpoint import list_checkpoints
from unmask.training.position import Position

# What a save does, in the names that it does it by; a kill comes before one of these calls.
SAVING = [
    *((checkpoint, "save_tensors"), (checkpoint, "write_json"), (checkpoint, "sha256"), (os, "fsync")),
    *((Path, "rename"), (Path, "replace"), (shutil, "rmtree")),
]


def half_a_file(number: int) -> None:
    """Kill the process when half of a file of tensors is written."""
    whole = checkpoint.save_tensors
    calls = iter(range(1, 1_000_000))

    def write(tensors: dict[str, Any], *, storage_writer: Any, **options: Any) -> None:
        whole(tensors, storage_writer=storage_writer, **options)
        if number in (next(calls), next(calls)):  # weights, then the optimizers
            tiny_run.truncate_one(Path(storage_writer.path), number - 1)
            tiny_run.kill()

    checkpoint.save_tensors = write


def kill_in_a_save(config: RunConfig, out: Path, draw: random.Random) -> int:
    which = draw.randrange(len(SAVING) + 1)

    def arm() -> None:
        if which == len(SAVING):
            half_a_file(draw.randint(1, 10))
        else:
            tiny_run.at_call(*SAVING[which], draw.randint(1, 14), tiny_run.kill)

    return tiny_run.ended(tiny_run.start(config, out, arm))


def kill_after(config: RunConfig, out: Path, seconds: float) -> int:
    child = tiny_run.start(config, out)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return tiny_run.ended(child)


def lost_steps(out: Path) -> int:
    """Return how many steps the metrics tell of, to their last row, that no checkpoint holds."""
    rows = read_rows(RunFolder(out).metrics) if RunFolder(out).metrics.is_file() else []
    steps = [row["step"] for row in rows]
    saved = [int(path.name.removeprefix("step-")) for path in list_checkpoints(RunFolder(out).checkpoints)]
    return max([0, *steps]) - max([0, *saved])


def kill_runs(
    folder: Path, text: Path, whole: RunFolder, seconds: float, kills: int, seed: int
) -> dict[str, Any]:
    """Kill runs, some of them twice, and compare each with the undisturbed one when it has come to its end.

    Args:
        seconds: what the undisturbed one took.

    Returns:
        How many were killed at work and in a save, the most steps one lost, and what differed.
    """
    draw, config = random.Random(seed), tiny_run.configure(text)
    at_work = in_saves = lost = 0
    differing: list[str] = []
    number = 0
    while at_work < kills:  # some come to their end before they would have been killed
        number += 1
        out = folder / f"killed-{number}"
        for again in range(1 + (number % 5 == 4)):
            if (number + again) % 2:
                code = kill_in_a_save(config, out, draw)
                in_saves += code < 0
            else:
                code = kill_after(config, out, draw.random() * seconds)
            at_work += code < 0
            lost = max(lost, lost_steps(out))
        differing += [
            f"{number}: {what}" for what in tiny_run.differences(tiny_run.finish(config, out), whole)
        ]
    return {
        "kills": at_work,
        "in saves": in_saves,
        "steps lost at most": lost,
        "save every": tiny_run.SAVE_EVERY,
        "differing": differing,
    }


def _half_way(config: RunConfig, out: Path) -> None:
    def kill_when_saved() -> None:
        for _ in range(1000):  # the second checkpoint may still be written
            if len(list_checkpoints(RunFolder(out).checkpoints)) == 2:
                break
            time.sleep(0.01)
        tiny_run.kill()

    def arm() -> None:
        tiny_run.at_call(loop, "step_gradients", 8, kill_when_saved)

    if tiny_run.ended(tiny_run.start(config, out, arm)) != -signal.SIGKILL:
        raise SystemExit("the run was not killed half way")
    if len(list_checkpoints(RunFolder(out).checkpoints)) != 2:
        raise SystemExit("the run did not save as it should have")


def other_shapes(folder: Path, text: Path) -> dict[str, Any]:
    """Go on with other micro-batches, and with two processes: the same batches and masks, so nearly the same losses.

    Without dropout, since what it drops goes by the micro-batch.
    """
    base = tiny_run.configure(text, model__dropout=0.0)
    whole = tiny_run.finish(base, folder / "shapes-whole")
    furthest = {}
    out = folder / "shapes-small"
    _half_way(base, out)
    config = tiny_run.configure(text, model__dropout=0.0, train__micro_batch_tokens=40)
    furthest["micro-batches of 40 tokens"] = tiny_run.furthest_losses(tiny_run.finish(config, out), whole)
    out = folder / "shapes-two"
    _half_way(base, out)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        tiny_run.start(base, out, world=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    if sum(tiny_run.ended(rank) != 0 for rank in ranks):
        raise SystemExit("two processes did not come to their end")
    furthest["two processes"] = tiny_run.furthest_losses(RunFolder(out), whole)
    return furthest


def dropped_position(folder: Path, text: Path, whole: RunFolder) -> list[str]:
    """The negative control: go on with everything but the place in the text, and say what differs."""
    config, out = tiny_run.configure(text), folder / "dropped"
    _half_way(config, out)

    def drop() -> None:
        kept = Position.from_dict
        Position.from_dict = staticmethod(  # type: ignore[method-assign]
            lambda content: kept(content | {"cursor": {"epoch": 0, "used": 0}})
        )

    return tiny_run.differences(tiny_run.finish(config, out, drop), whole)
