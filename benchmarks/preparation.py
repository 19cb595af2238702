"""Preparing text: ``unmask prepare`` compared with ``datasets.map`` of ``run_mlm`` and with the tokenizers library alone.

unmask reads, splits into documents, tokenises, hashes and writes checksummed shards. ``run_mlm`` reads, tokenises, joins
and splits into blocks, and writes Arrow files. The library alone tokenises the same documents in memory and discards the
result. All are compared by bytes of text per second, because ``run_mlm`` adds special tokens to every line.
"""

from __future__ import annotations

import argparse

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
    made.add_argument("--length", type=int, default=128, help="tokens per block of run_mlm")
    return made


def work(args: argparse.Namespace) -> None:
    files = harness.texts(args.text)
    start = harness.start(args.vocabulary, 4, 256)
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


def _tell(what: str, result: Result) -> None:
    harness.say(f"  {what}: {result[RATE]:.2f} MB/s in {result['seconds']:.1f} s")


if __name__ == "__main__":
    raise SystemExit(harness.main(work, options()))
