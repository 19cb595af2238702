"""Everything that is to be known of unmask on one GPU, in one command of less than 20 minutes, without a network.

Text, vocabulary and models are made here. Every part is a process with a time limit, and each of its results is written to
the JSON file as soon as it is there; a part that fails or takes too long is noted, and the next one begins. With
``--device cpu`` the same code runs in small sizes, which shows that it works and says nothing about speed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import harness
from harness import Result, say

SHARE_GOAL, FACTOR_GOAL, MODERNBERT_GOAL = 0.5, 3.0, 1.5 * 304_000
"""Of the matrix products; over ``run_mlm`` on text of mixed lengths; tokens/s, from 304 K that its repository states."""


class Part(NamedTuple):
    """A function of a file here, in a process of its own.

    Attributes:
        name: in the result.
        module: file without its ending.
        function: a generator of (name, function without arguments), one for each result.
        limit: seconds.
        settings: of the function, beside the sizes.
    """

    name: str
    module: str
    function: str
    limit: float
    settings: Result = {}


# Those that a goal speaks of, with seconds; what has to be compiled takes most of them.
THROUGHPUT = {("bert", 128): 85, ("bert", 512): 130, ("modernbert", 512): 165, ("modernbert", 1024): 115}
PARTS = (
    Part("inputs", "gpu_inputs", "inputs", 45),
    Part("correctness", "gpu_correctness", "correctness", 150),
    *(
        Part(
            f"throughput {model} {length}",
            "gpu_speed",
            "throughput",
            limit,
            {"name": model, "length": length},
        )
        for (model, length), limit in THROUGHPUT.items()
    ),
    Part("profile", "gpu_profile", "profile", 150),
    Part("alone", "gpu_profile", "alone", 45),
    Part("faults", "gpu_use", "faults", 165),
    Part("use", "gpu_use", "use", 100),
)
GROUPS = tuple(dict.fromkeys(part.name.split()[0] for part in PARTS))

# "scale" divides the lengths.
SIZES: dict[str, Result] = {
    "cuda": {"device": "cuda", "layers": 12, "modern_layers": 22, "hidden": 768, "modern_inner": 1152,
             "vocabulary": 30_522, "modern_vocabulary": 50_368, "tokens": 4_000_000, "step_tokens": 65_536,
             "seconds": 2.0, "warm_up": 12, "least": 5, "scale": 1, "steps": 30, "run_steps": 100, "texts": 2000,
             "precision": "bf16", "compiler": "inductor"},
    "cpu": {"device": "cpu", "layers": 2, "modern_layers": 2, "hidden": 64, "modern_inner": 96,
            "vocabulary": 1000, "modern_vocabulary": 1056, "tokens": 30_000, "step_tokens": 1024,
            "seconds": 0.2, "warm_up": 1, "least": 2, "scale": 8, "steps": 6, "run_steps": 12, "texts": 16,
            "precision": "fp32", "compiler": "eager"},
}  # fmt: skip


def options() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = made.add_argument
    add(
        "--device",
        choices=tuple(SIZES),
        default="cuda",
        help="cpu: small sizes, to see that everything works",
    )
    add(
        "--parts",
        nargs="+",
        choices=(*GROUPS, *(part.name for part in PARTS if part.name not in GROUPS)),
        default=list(GROUPS),
        metavar="PART",
        help="only these: a group, or one part of it, as 'throughput bert 512'",
    )
    add("--seconds", type=float, help="for which each side of throughput is measured, if not the usual ones")
    add("--eager", action="store_true", help="leave out what has to be compiled first, which takes longest")
    add("--json", type=Path, metavar="FILE", help="write every result to this file as soon as it is there")
    return made


def work(args: argparse.Namespace) -> None:
    document = harness.report("gpu", args, parts={}, goals=[])
    about = document["machine"]
    if args.device == "cuda" and about["machine"]["gpu"] is None:
        raise harness.Failure(
            f"torch {about['torch']} finds no CUDA device; run this where 'nvidia-smi' lists one and torch is a CUDA build, "
            f"or with --device cpu to see that it works"
        )
    place = harness.WORK / f"gpu-{args.device}"
    sizes = SIZES[args.device] | {"place": str(place)}
    sizes["compile"] = not args.eager
    if args.seconds:
        sizes["seconds"] = args.seconds
    for part in PARTS:
        group = part.name.split()[0]
        asked = group in args.parts or part.name in args.parts
        if not asked and not (group == "inputs" and not (place / "made").is_file()):
            continue
        if args.device == "cpu" and part.settings.get("length", 128) != 128:
            continue
        entry: Result = {"status": "running", "limit": part.limit, "results": {}}
        document["parts"][part.name] = entry
        say(f"\n{part.name} (at most {part.limit:.0f} s)")
        for _ in run_part(part, sizes, entry):
            harness.write(args.json, document)
        document["goals"] = goals(document["parts"])
        harness.write(args.json, document)
    show(document)


def run_part(part: Part, sizes: Result, entry: Result) -> Iterator[None]:
    """Run a part and put its results into the entry one by one; yields after each, and at the end."""
    place = harness.WORK / "jobs"
    place.mkdir(parents=True, exist_ok=True)
    stem = f"{os.getpid()}-{time.time_ns()}"
    given, found, log = (place / f"{stem}.{kind}" for kind in ("in.json", "out.jsonl", "log"))
    given.write_text(json.dumps({"sizes": sizes} | part.settings), encoding="utf-8")
    found.touch()
    command = [sys.executable, str(harness.HERE / "gpu_inputs.py"), part.module, part.function, str(given), str(found)]  # fmt: skip
    begin = time.perf_counter()
    with log.open("w", encoding="utf-8") as file, found.open(encoding="utf-8") as results:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=harness._environment(), start_new_session=True
        )
        try:
            while (code := process.poll()) is None and time.perf_counter() - begin < part.limit:
                if _read(results, entry):
                    yield
                time.sleep(0.2)
        finally:
            if process.poll() is None:  # with the processes that it started
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        _read(results, entry)
    failed = sum("error" in result for result in entry["results"].values())
    entry["seconds"] = round(time.perf_counter() - begin, 1)
    entry["status"] = "over its time" if code is None else "done" if code == 0 and not failed else "failed"
    if code:
        entry["error"] = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:])
        say(f"  exit code {code}\n{entry['error']}")
    elif code is None:
        say("  over its time")
    for path in (given, found, log):
        path.unlink()
    yield


def _read(results: Iterator[str], entry: Result) -> bool:
    """Take over the lines that have come, each of which was written whole; return whether there was any."""
    some = False
    for line in results:
        row = json.loads(line)
        name = row.pop("name")
        entry["results"][name] = row
        say(f"  {name}: {row.get('error') or row.get('shown') or 'done'}")
        some = True
    return some


# ---------------------------------------------------------------- conclusions


def goals(parts: Result) -> list[Result]:
    found = []
    for model, length in THROUGHPUT:
        results = parts.get(f"throughput {model} {length}", {}).get("results", {})
        share, factor = share_of_ceiling(results), factor_over_peer(results, "peer padded")
        what = f"{model} at {length} tokens"
        if model == "bert":
            found.append(harness.goal(f"{what}: share of the bf16 matrix products", share, SHARE_GOAL))
        if length == 512:
            found.append(harness.goal(f"{what}: times run_mlm on mixed lengths", factor, FACTOR_GOAL))
        if model == "modernbert" and length == 1024:
            found.append(harness.goal(f"{what}: tokens/s", best_rate(results, "ours"), MODERNBERT_GOAL))
    return [goal for goal in found if goal["measured"] is not None]


def best_rate(results: Result, side: str) -> float | None:
    """Return the tokens/s of a side, the better of compiled and not."""
    rates = [row.get("tokens_per_second", 0.0) for name, row in results.items() if name.startswith(side)]
    return max(rates, default=0.0) or None


def share_of_ceiling(results: Result) -> float | None:
    rate, ceiling = best_rate(results, "ours"), results.get("ceiling", {}).get("teraflops")
    flops = results.get("ours", {}).get("flops_per_token")
    return rate * flops / 1e12 / ceiling if rate and ceiling and flops else None


def factor_over_peer(results: Result, side: str = "peer") -> float | None:
    rate, peer = best_rate(results, "ours"), best_rate(results, side)
    return rate / peer if rate and peer else None


def show(document: Result) -> None:
    rows = []
    for name, entry in document["parts"].items():
        results = entry["results"]
        if name.startswith("throughput"):
            rates = [results.get(side, {}).get("tokens_per_second") for side in ("ours", "ours, compiled")]
            figures = [*rates, *(best_rate(results, side) for side in ("peer blocks", "peer padded"))]
            shares = share_of_ceiling(results), factor_over_peer(results)
            rows.append(
                [
                    name.removeprefix("throughput "),
                    *(f"{figure:,.0f}" if figure else "-" for figure in figures),
                    *(f"{share:.2f}" if share else "-" for share in shares),
                ]
            )
    on_gpu = document["settings"]["device"] == "cuda"
    if rows and on_gpu:
        header = ["tokens/s", "ours", "compiled", "run_mlm, blocks", "run_mlm, padded", "share", "times"]
        harness.table(header, rows)
    parts = [
        [name, entry["status"], f"{entry['seconds']:.0f} s"] for name, entry in document["parts"].items()
    ]
    harness.table(["part", "", ""], parts)
    harness.show_goals(document["goals"] if on_gpu else [])


if __name__ == "__main__":
    raise SystemExit(harness.main(work, options()))
