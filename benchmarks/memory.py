"""Peak memory of the training process, unmask compared with ``run_mlm``: BERT-base, 32 rows of 128 tokens.

The value is the peak resident memory of the process (``VmHWM`` or ``ru_maxrss``), libraries included.
"""

from __future__ import annotations

import argparse

import harness
import peers
from harness import Result, summary

SIDES = ("ours", "run_mlm", "run_mlm in bf16")
GOAL = 0.6


def options() -> argparse.ArgumentParser:
    made = harness.parser(__doc__ or "", rounds=2)
    made.add_argument("--layers", type=int, default=12, help="number of layers")
    made.add_argument("--hidden", type=int, default=768, help="hidden size")
    made.add_argument("--steps", type=int, default=3, help="steps after the first")
    return made


def work(args: argparse.Namespace) -> None:
    harness.need_peer()
    files = harness.texts(args.text, 1)
    start = harness.start(args.vocabulary, args.layers, args.hidden)
    settings: Result = {"start": start, "files": files}
    about = harness.fingerprint(files)
    data = harness.once("blocks", about, "peers", "blocks", settings | {"length": 128})
    shards = harness.once("shards", about, "ours", "shards", settings | {"documents": "auto"})
    timing = {"seconds": 0.0, "warm_up": 1, "least": args.steps, "start": start}
    own = {"shards": shards, "length": 128, "batch_tokens": 4096, "precision": "bf16"}
    other = {"data": data, "rows": 32}
    sides = {
        "ours": lambda: harness.run("ours", "speed", timing | own),
        "run_mlm": lambda: harness.run("peers", "speed", timing | other | {"settings": {}}),
        "run_mlm in bf16": lambda: harness.run("peers", "speed", timing | other | {"settings": peers.BEST}),
    }
    found = harness.take_turns(sides, args.rounds, _tell)
    peaks = {side: summary(found[side], "peak_rss_bytes") for side in SIDES}
    ratios = {side: peaks["ours"]["median"] / peaks[side]["median"] for side in SIDES[1:]}
    goals = [harness.goal(f"ours over {side}", ratio, most=GOAL) for side, ratio in ratios.items()]
    document = harness.report(
        "memory", args, measured=found, peak_rss_bytes=peaks, ratios=ratios, goals=goals
    )
    harness.write(args.json, document)
    harness.table(["", "peak"], [[side, f"{peaks[side]['median'] / 1e9:.2f} GB"] for side in SIDES])
    harness.show_goals(goals)


def _tell(what: str, result: Result) -> None:
    harness.say(f"  {what}: {result['peak_rss_bytes'] / 1e9:.2f} GB")


if __name__ == "__main__":
    raise SystemExit(harness.main(work, options()))
