"""Training throughput on one CUDA device: BERT-base in bf16, unmask compared with ``run_mlm`` and with matrix products.

Steps have 65,536 tokens in sequences of 128 and 512. ``run_mlm`` uses its fastest attention, compiled or not, found by
trial. Without a CUDA device the script stops with a message.
"""

from __future__ import annotations

import argparse

import harness
import peers
from harness import Result, middle, say, summary

STEP_TOKENS = 65_536
SIDES = ("ours", "run_mlm best", "run_mlm best, no dropout")
SHARE_GOAL, FACTOR_GOAL = 0.5, 3.0


def options() -> argparse.ArgumentParser:
    made = harness.parser(__doc__ or "", rounds=2)
    add = made.add_argument
    add("--lengths", nargs="+", type=int, default=[128, 512], help="tokens per sequence")
    add("--layers", type=int, default=12, help="number of layers")
    add("--hidden", type=int, default=768, help="hidden size")
    add("--seconds", type=float, default=15.0, help="seconds per measurement, after the warm-up")
    add("--trial-seconds", type=float, default=5.0, help="seconds per setting that run_mlm tries")
    add("--step-tokens", type=int, default=STEP_TOKENS, help="tokens per step")
    return made


def work(args: argparse.Namespace) -> None:
    machine = harness.run("ours", "machine", {})
    if machine["machine"]["gpu"] is None:
        raise harness.Failure(
            f"torch {machine['torch']} finds no CUDA device; run this where 'nvidia-smi' lists one and torch is a "
            f"CUDA build"
        )
    harness.need_peer()
    files = harness.texts(args.text)
    start = harness.start(args.vocabulary, args.layers, args.hidden)
    document = harness.report("gpu", args, text=files, cases=[], goals=[])
    for length in args.lengths:
        say(f"\n{length} tokens")
        document["cases"].append(_measure(args, start, files, length))
        document["goals"] = [goal for case in document["cases"] for goal in _goals(case)]
        harness.write(args.json, document)
    _show(document)


def _measure(args: argparse.Namespace, start: str, files: list[str], length: int) -> Result:
    """Measure one sequence length, all sides in turns."""
    about, settings = harness.fingerprint(files), {"start": start, "files": files}
    data = harness.once("blocks", about, "peers", "blocks", settings | {"length": length})
    shards = harness.once("shards", about, "ours", "shards", settings | {"documents": "auto"})
    peer = {"start": start, "data": data, "rows": args.step_tokens // length, "device": "cuda"}
    trying = {"seconds": args.trial_seconds, "variants": peers.CUDA_VARIANTS}
    trial = harness.run("peers", "fastest", peer | trying)
    best = peers.CUDA_VARIANTS[trial["best"]]
    say(f"run_mlm is fastest with: {trial['best']}")
    # Compilation continues during the first steps of a process, for every new shape.
    timing = {"seconds": args.seconds, "warm_up": 20, "least": 20}
    own = {"start": start, "shards": shards, "length": length, "batch_tokens": args.step_tokens,
           "precision": "bf16", "device": "cuda"}  # fmt: skip
    sides = {
        "ours": lambda: harness.run("ours", "speed", own | timing),
        "run_mlm best": lambda: harness.run("peers", "speed", peer | timing | {"settings": best}),
        "run_mlm best, no dropout": lambda: harness.run(
            "peers", "speed", peer | timing | {"settings": best, "dropout": 0.0}
        ),
        "ceiling": lambda: harness.run("ours", "ceiling", {"precision": "bf16", "device": "cuda"}),
    }
    found = harness.take_turns(sides, args.rounds, _tell)
    return {"length": length, "trial": trial, "best_settings": best, "measured": found} | _figures(found)


def _figures(found: dict[str, list[Result]]) -> Result:
    rates = {side: summary(found[side], "tokens_per_second") for side in SIDES}
    ceiling = summary(found["ceiling"], "teraflops")
    flops = middle(found["ours"], "flops_per_token")
    ours = rates["ours"]["median"]
    return {
        "tokens_per_second": rates,
        "factors": {side: ours / rates[side]["median"] for side in SIDES[1:]},
        "ceiling_teraflops": ceiling,
        "flops_per_token": flops,
        "share_of_ceiling": flops * ours / 1e12 / ceiling["median"],
        "peak_device_bytes": {side: middle(found[side], "peak_device_bytes") for side in SIDES},
    }


def _goals(case: Result) -> list[Result]:
    name = f"{case['length']} tokens"
    return [
        harness.goal(f"{name}: share of the bf16 matrix products", case["share_of_ceiling"], SHARE_GOAL),
        harness.goal(f"{name}: times run_mlm at its best", case["factors"]["run_mlm best"], FACTOR_GOAL),
    ]


def _tell(what: str, result: Result) -> None:
    rate = result.get("tokens_per_second")
    say(f"  {what}: {f'{rate:,.0f} tok/s' if rate else '{:.1f} TFLOP/s'.format(result['teraflops'])}")


def _show(document: Result) -> None:
    rows = []
    for case in document["cases"]:
        rates = [f"{case['tokens_per_second'][side]['median']:,.0f}" for side in SIDES]
        factors = [f"{case['factors'][side]:.2f}" for side in SIDES[1:]]
        ceiling = f"{case['ceiling_teraflops']['median']:.0f}"
        rows.append(
            [f"{case['length']} tokens", *rates, *factors, ceiling, f"{case['share_of_ceiling']:.0%}"]
        )
    harness.table(["", *(f"{side} tok/s" for side in SIDES), "x best", "x no drop", "TFLOP/s", "share"], rows)
    harness.show_goals(document["goals"])


if __name__ == "__main__":
    raise SystemExit(harness.main(work, options()))
