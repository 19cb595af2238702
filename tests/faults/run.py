"""Everything that may interrupt a run, many times.

    python tests/faults/run.py FOLDER [--kills 50] [--flips 100] [--errors 200] [--signals 6] [--seed 0]

Prints one JSON object and fails where a promise does not hold. The tests run it with small numbers.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from flip_bits import flip_bits
from kill_runs import dropped_position, kill_runs, other_shapes
from stop_runs import stop_runs
from tiny_run import SAVE_EVERY, configure, finish, finish_first, make_text
from write_errors import write_errors


def main() -> None:
    parser = argparse.ArgumentParser(description="Interrupt runs in every way, and compare.")
    parser.add_argument("folder", type=Path, help="a new folder to work in")
    for name, count in (("kills", 50), ("flips", 100), ("errors", 200), ("signals", 6), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=count)
    arguments = parser.parse_args()
    folder, seed, began = arguments.folder, arguments.seed, time.monotonic()
    folder.mkdir(parents=True)
    text = make_text(folder)
    finish_first(configure(text), folder / "first")
    begin = time.monotonic()
    whole = finish(configure(text), folder / "whole")
    seconds = time.monotonic() - begin
    found = {
        "kill": kill_runs(folder, text, whole, seconds, arguments.kills, seed),
        "other shapes": other_shapes(folder, text),
        "position dropped": dropped_position(folder, text, whole),
        "flip": flip_bits(folder, text, whole, arguments.flips, seed),
        "signals": stop_runs(folder, text, whole, arguments.signals, seed),
        # Last, since it computes in this process, and what is forked from it must not have to.
        "write": write_errors(folder / "writes", arguments.errors, seed),
    }
    wrong = errors_of(found)
    print(json.dumps(found | {"wrong": wrong, "minutes": round((time.monotonic() - began) / 60, 2)}))
    sys.exit(bool(wrong))


def errors_of(found: dict[str, dict]) -> list[str]:
    """Name the promises that do not hold."""
    kill, flip, stop, write = (found[name] for name in ("kill", "flip", "signals", "write"))
    holds = {
        "a killed run is the undisturbed one": not kill["differing"],
        "runs were killed": kill["kills"] > 0,
        # A step is saved when the checkpoint before it is whole, and the last row of metrics may be of that step.
        "lost work is at most the save interval and the checkpoint being written": kill["steps lost at most"]
        <= 2 * SAVE_EVERY,
        "other micro-batches and processes give the same losses": max(found["other shapes"].values()) <= 1e-5,
        "a dropped position is caught": bool(found["position dropped"]),
        "flipped bits are found": flip["flips"] == flip["found"] == flip["previous used"],
        "a run goes on behind a damaged checkpoint": not flip["differing"],
        "signals stop a run that can be resumed": stop["signals"] == stop["exit 75"]
        and not stop["differing"],
        "the newest checkpoint loads": write["errors"] == write["loadable"] and write["raised"] > 0,
    }
    return [promise for promise, true in holds.items() if not true]


if __name__ == "__main__":
    main()
