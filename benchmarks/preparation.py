"""Preparing text: ``unmask prepare`` compared with ``datasets.map`` of ``run_mlm`` and with the tokenizers library alone.

unmask reads, splits into documents, tokenises, hashes and writes checksummed shards. ``run_mlm`` reads, tokenises, joins
and splits into blocks, and writes Arrow files. The library alone tokenises the same documents in memory and discards the
result. All are compared by bytes of text per second, because ``run_mlm`` adds special tokens to every line.

With ``--tasks 1 2`` it compares tasks of this machine with one process instead, at two sizes of text, whose difference has no
time to start in it, by seconds and by CPU seconds of all processes.
"""

from __future__ import annotations

import argparse
import itertools
import os

import harness
from harness import Result, summary

SIDES = ("ours", "datasets.map", "datasets.map, 2 processes", "encode_batch", "encode_batch_fast")
RATE = "megabytes_per_second"


def options() -> argparse.ArgumentParser:
    made = harness.parser(__doc__ or "")
    made.add_argument(
        "--documents",
        choices=["auto", "file", "block", "line"],
        default="auto",
        help="what a document is for unmask",
    )
    made.add_argument(
        "--tasks", type=int, nargs="+", metavar="N", help="compare so many tasks with one process"
    )
    made.add_argument(
        "--megabytes", type=int, nargs=2, default=[48, 144], help="the two sizes of text for --tasks"
    )
    made.add_argument("--length", type=int, default=128, help="tokens per block of run_mlm")
    return made


def work(args: argparse.Namespace) -> None:
    files = harness.texts(args.text)
    start = harness.start(args.vocabulary, 4, 256)
    if args.tasks:
        work_tasks(args, start, files)
        return
    shared: Result = {"start": start, "files": files}
    own = shared | {"documents": args.documents}
    other = shared | {"length": args.length}
    sides = {
        "ours": lambda: harness.run("ours", "prepare_speed", own),
        "datasets.map": lambda: harness.run("peers", "prepare_speed", other | {"processes": None}),
        "datasets.map, 2 processes": lambda: harness.run("peers", "prepare_speed", other | {"processes": 2}),
        "encode_batch": lambda: harness.run("ours", "encode_speed", own | {"fast": False}),
        "encode_batch_fast": lambda: harness.run("ours", "encode_speed", own | {"fast": True}),
    }
    found = harness.take_turns(sides, args.rounds, _tell)
    rates = {side: summary(found[side], RATE) for side in SIDES}
    ours = rates["ours"]["median"]
    factors = {side: ours / rates[side]["median"] for side in SIDES[1:]}
    goals = [
        harness.goal("times datasets.map", factors["datasets.map"], 2.5),
        harness.goal("times datasets.map in 2 processes", factors["datasets.map, 2 processes"], 2.5),
        harness.goal("share of encode_batch", factors["encode_batch"], 0.8),
    ]
    document = harness.report(
        "preparation", args, text=files, measured=found, rates=rates, factors=factors, goals=goals
    )
    harness.write(args.json, document)
    rows = [[side, f"{rates[side]['median']:.2f}", f"{rates[side]['least']:.2f}"] for side in SIDES]
    harness.table(["", "MB/s", "minimum"], rows)
    harness.show_goals(goals)


def work_tasks(args: argparse.Namespace, start: str, files: list[str]) -> None:
    """Measure one process and tasks at two sizes, and say what 1 TB would take."""
    sides = {"one process": None} | {f"{count} task" + "s" * (count > 1): count for count in args.tasks}
    sizes = [sum(os.stat(name).st_size for name in _repeated(files, size)) / 1e6 for size in args.megabytes]

    def measure(count: int | None, size: int) -> Result:
        settings = {"start": start, "files": _repeated(files, size), "documents": args.documents}
        return harness.run("ours", "prepare_tasks", settings | {"tasks": count})

    found = harness.take_turns(
        {
            (f"{name}, {size} MB"): (lambda count=count, size=size: measure(count, size))
            for name, count in sides.items()
            for size in args.megabytes
        },
        args.rounds,
        _tell,
    )
    rows, slopes = [], {}
    for name in sides:
        small, large = (found[f"{name}, {size} MB"] for size in args.megabytes)
        slope = {
            key: (harness.middle(large, key) - harness.middle(small, key)) / (sizes[1] - sizes[0])
            for key in ("seconds", "cpu_seconds")
        }
        peak = max(result["task_peak_rss_bytes"] for result in (*small, *large)) / 1e6
        slopes[name] = slope
        rows.append([name, *(f"{1 / value:.2f}" for value in slope.values()),
                     f"{slope['cpu_seconds'] * 1e6 / 3600:.0f}", f"{peak:.0f}" if sides[name] else ""])  # fmt: skip
    one = slopes["one process"]["cpu_seconds"]
    goals = [
        harness.goal(f"MB a CPU second of {name}, of one process", one / slopes[name]["cpu_seconds"], 0.85)
        for name, count in sides.items()
        if count
    ]
    document = harness.report("preparation, tasks", args, text=files, measured=found, seconds_per_megabyte=slopes, goals=goals)  # fmt: skip
    harness.write(args.json, document)
    heads = ["", "MB a second", "MB a CPU second", "core hours for 1 TB", "peak MB of a task"]
    harness.table(heads, rows)
    harness.show_goals(goals)


def _repeated(files: list[str], megabytes: int) -> list[str]:
    """Return the files again and again, up to a size."""
    size, chosen = 0, []
    for name in itertools.cycle(files):
        if size >= megabytes * 1e6:
            return chosen
        chosen.append(name)
        size += os.stat(name).st_size
    raise AssertionError


def _tell(what: str, result: Result) -> None:
    harness.say(f"  {what}: {result[RATE]:.2f} MB/s in {result['seconds']:.1f} s")


if __name__ == "__main__":
    raise SystemExit(harness.main(work, options()))
