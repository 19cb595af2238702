"""Real tokens per second of the training loop: unmask compared with ``run_mlm`` and with the machine's matrix products.

Both have the same text, tokenizer, architecture (BERT), starting weights and tokens per step. ``run_mlm`` runs with its
defaults (fp32), at its best (bf16, and the fastest of several settings, found by trial), and at its best without
dropout, because unmask trains without dropout. For short texts (one sentence per line) ``run_mlm`` pads line by line.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import peers
from harness import Result, middle, say, summary

SIZES = {"4x256": (4, 256), "6x384": (6, 384), "12x768": (12, 768)}
ROWS = {128: 32, 512: 8}
SIDES = ("ours", "run_mlm", "run_mlm best", "run_mlm best, no dropout")
BY_LENGTH = "run_mlm best, grouped by length"
# Minimum speed-up over run_mlm at its best, and minimum share of the matrix-product rate.
GOALS = {"4x256": (4.0, 0.55), "6x384": (2.5, 0.68), "12x768": (1.8, 0.78)}
SHORT_GOAL = 2.0
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
_SENTENCES = 60_000
_FILES = 2


def options() -> argparse.ArgumentParser:
    made = harness.parser(__doc__ or "")
    add = made.add_argument
    add("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="layers x width")
    add("--lengths", nargs="+", type=int, choices=ROWS, default=list(ROWS), help="tokens per sequence")
    add("--short", nargs="*", choices=SIZES, default=["4x256", "6x384"], help="sizes measured on short texts")
    add("--short-rows", type=int, default=32, help="rows per step of short texts")
    add("--seconds", type=float, default=25.0, help="seconds per measurement, after the warm-up")
    add("--warm-up", type=int, default=3, help="steps before the measurement")
    add("--trial-seconds", type=float, default=6.0, help="seconds per setting that run_mlm tries")
    add("--alone", action="store_true", help="only unmask and the matrix products, without run_mlm")
    return made


def work(args: argparse.Namespace) -> None:
    if not args.alone:
        harness.need_peer()
    files = harness.texts(args.text, _FILES)
    document = harness.report("throughput", args, text=files, cases=[], goals=[])
    for case in _cases(args, files):
        say(f"\n{case['name']}")
        document["cases"].append(_measure(case, args))
        document["goals"] = _goals(document["cases"])
        harness.write(args.json, document)
    _show(document)


def _cases(args: argparse.Namespace, files: list[str]) -> Iterator[Result]:
    """Yield the cases, with the data of both sides prepared."""
    tokenizer = harness.start(args.vocabulary, *SIZES["4x256"])
    settings: Result = {"start": tokenizer, "files": files}
    for length in args.lengths:
        about = harness.fingerprint(files)
        data = harness.once("blocks", about, "peers", "blocks", settings | {"length": length})
        shards = harness.once("shards", about, "ours", "shards", settings | {"documents": "auto"})
        for size in args.sizes:
            yield {"name": f"{size}, {length} tokens", "size": size, "length": length, "rows": ROWS[length],
                   "start": harness.start(args.vocabulary, *SIZES[size]), "data": data, "shards": shards,
                   "batch_tokens": ROWS[length] * length}  # fmt: skip
    for size in args.short:
        yield _short_case(
            size, harness.start(args.vocabulary, *SIZES[size]), tokenizer, files, args.short_rows
        )


def _short_case(size: str, start: str, tokenizer: str, files: list[str], rows: int) -> Result:
    """Return the case of short texts: unmask takes as many tokens per step as the rows of run_mlm have on average."""
    length = 128
    path = sentences(files)
    settings: Result = {"start": tokenizer, "files": [path]}
    about = harness.fingerprint([path])
    data = harness.once("lines", about, "peers", "lines", settings | {"length": length})
    shards = harness.once("shards", about, "ours", "shards", settings | {"documents": "line"})
    counts = harness.run("peers", "count", {"data": data})
    mean = counts["tokens"] / counts["rows"]
    return {"name": f"{size}, sentences", "size": size, "length": length, "rows": rows, "start": start, "data": data,
            "shards": shards, "batch_tokens": round(rows * mean), "mean_tokens": mean}  # fmt: skip


def sentences(files: list[str]) -> str:
    """Write the sentences of text files, one a line, and return the path."""
    path = harness.WORK / f"sentences-{harness.key_of([harness.fingerprint(files), _SENTENCES])}.txt"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        found: list[str] = []
        for name in files:
            for line in Path(name).read_text(encoding="utf-8").removesuffix("\n").split("\n"):
                found += [part.strip() for part in _SENTENCE_END.split(line) if len(part.split()) > 3]
            if len(found) >= _SENTENCES:
                break
        path.write_text("\n".join(found[:_SENTENCES]) + "\n", encoding="utf-8")
    return str(path)


def _measure(case: Result, args: argparse.Namespace) -> Result:
    """Measure one case, all sides in turns."""
    timing = {"seconds": args.seconds, "warm_up": args.warm_up}
    own = {key: case[key] for key in ("start", "shards", "length", "batch_tokens")} | {"precision": "bf16"}
    trial, peer_sides = ({}, {}) if args.alone else _peer_sides(case, args, timing)
    sides = {
        "ours": lambda: harness.run("ours", "speed", own | timing),
        **peer_sides,
        "ceiling": lambda: harness.run("ours", "ceiling", {"precision": "bf16", "device": "cpu"}),
    }
    found = harness.take_turns(sides, args.rounds, _tell)
    return case | trial | {"measured": found} | _figures(found)


def _peer_sides(
    case: Result, args: argparse.Namespace, timing: Result
) -> tuple[Result, dict[str, Callable[[], Result]]]:
    """Return which settings of run_mlm are fastest, and its sides."""
    peer = {"start": case["start"], "data": case["data"], "rows": case["rows"]}
    trying_variants = {"seconds": args.trial_seconds, "variants": peers.VARIANTS}
    trial = harness.run("peers", "fastest", peer | trying_variants)
    best = peers.VARIANTS[trial["best"]]
    say(f"run_mlm is fastest with: {trial['best']}")

    def peer_side(settings: Result, **more: Any) -> Result:
        return harness.run("peers", "speed", peer | timing | {"settings": settings} | more)

    sides = {
        "run_mlm": lambda: peer_side({}),
        "run_mlm best": lambda: peer_side(best),
        "run_mlm best, no dropout": lambda: peer_side(best, dropout=0.0),
    }
    if "mean_tokens" in case:
        by_length = best | {"train_sampling_strategy": "group_by_length"}
        sides[BY_LENGTH] = lambda: peer_side(by_length)
    return {"trial": trial, "best_settings": best}, sides


def _tell(what: str, result: Result) -> None:
    rate = result.get("tokens_per_second")
    say(f"  {what}: {f'{rate:,.0f} tok/s' if rate else '{:.3f} TFLOP/s'.format(result['teraflops'])}")


def _figures(found: dict[str, list[Result]]) -> Result:
    """Return medians, speed-ups and shares of the matrix-product rate."""
    rates = {side: summary(rows, "tokens_per_second") for side, rows in found.items() if side != "ceiling"}
    ceiling = summary(found["ceiling"], "teraflops")
    ours = rates["ours"]["median"]
    flops = middle(found["ours"], "flops_per_token")
    shares = {side: flops * rate["median"] / 1e12 / ceiling["median"] for side, rate in rates.items()}
    return {
        "tokens_per_second": rates,
        "factors": {side: ours / rates[side]["median"] for side in rates if side != "ours"},
        "ceiling_teraflops": ceiling,
        "flops_per_token": flops,
        "shares_of_ceiling": shares,
    }


def _goals(cases: list[Result]) -> list[Result]:
    goals = []
    long = {(case["size"], case["length"]): case for case in cases if "mean_tokens" not in case}
    for (size, length), case in long.items():
        best, share = GOALS[size]
        name = f"{size}, {length} tokens"
        if case["factors"]:
            goals.append(
                harness.goal(f"{name}: times run_mlm at its best", case["factors"]["run_mlm best"], best)
            )
        part = case["shares_of_ceiling"]["ours"]
        goals.append(harness.goal(f"{name}: share of the bf16 matrix products", part, share))
    for case in cases:
        base = long.get((case["size"], 128))
        if "mean_tokens" in case and case["factors"] and base:
            more = case["factors"]["run_mlm best"] / base["factors"]["run_mlm best"]
            goals.append(harness.goal(f"{case['name']}: times more than with blocks", more, SHORT_GOAL))
    return goals


def _show(document: Result) -> None:
    sides = [side for side in SIDES if all(side in case["measured"] for case in document["cases"])]
    names = dict(zip(SIDES[1:], ("x", "x best", "x no drop"), strict=True))
    header = ["", *(f"{side} tok/s" for side in sides), *(names[side] for side in sides[1:])]
    header += ["ceiling TFLOP/s", "share"]
    rows = []
    for case in document["cases"]:
        rates = [f"{case['tokens_per_second'][side]['median']:,.0f}" for side in sides]
        factors = [f"{case['factors'][side]:.2f}" for side in sides[1:]]
        ceiling = f"{case['ceiling_teraflops']['median']:.3f}"
        rows.append([case["name"], *rates, *factors, ceiling, f"{case['shares_of_ceiling']['ours']:.0%}"])
    harness.table(header, rows)
    for case in document["cases"]:
        if BY_LENGTH in case["factors"]:
            rate = case["tokens_per_second"][BY_LENGTH]["median"]
            say(
                f"{case['name']}: {BY_LENGTH}: {rate:,.0f} tok/s, ours {case['factors'][BY_LENGTH]:.2f} times that"
            )
    harness.show_goals(document["goals"])


if __name__ == "__main__":
    raise SystemExit(harness.main(work, options()))
