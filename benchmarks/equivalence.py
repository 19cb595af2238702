"""Compare the training losses of unmask, step by step, with those of a plain implementation from the same start.

In fp32 the two must agree within 1e-4 at every step. In bf16 the losses of unmask must not be further from the plain fp32
losses than the plain bf16 losses are, up to noise. ``curves.py`` has both implementations.
"""

from __future__ import annotations

import argparse

import harness
from harness import Result, say

FP32_GOAL, NOISE_GOAL = 1e-4, 1.5


def options() -> argparse.ArgumentParser:
    made = harness.parser(__doc__ or "", rounds=None)
    add = made.add_argument
    add("--steps", type=int, default=100, help="number of steps")
    add("--layers", type=int, default=4, help="number of layers")
    add("--hidden", type=int, default=256, help="hidden size")
    add("--batch-tokens", type=int, default=2048, help="tokens per step")
    add("--length", type=int, default=128, help="tokens per sequence")
    add("--learning-rate", type=float, default=5e-4, help="peak learning rate")
    add("--fp32-only", action="store_true", help="skip bf16")
    return made


def work(args: argparse.Namespace) -> None:
    files = harness.texts(args.text, 1)
    start = harness.start(args.vocabulary, args.layers, args.hidden)
    settings: Result = {"start": start, "files": files, "documents": "auto"}
    shards = harness.once("shards", harness.fingerprint(files), "ours", "shards", settings)
    run: Result = {"start": start, "text": shards, "steps": args.steps, "batch_tokens": args.batch_tokens,
                   "length": args.length, "learning_rate": args.learning_rate}  # fmt: skip
    curves: Result = {}
    for precision in ["fp32"] if args.fp32_only else ["fp32", "bf16"]:
        for way in ("fast", "plain"):
            found = harness.run("curves", way, run | {"precision": precision})
            curves[f"{way} {precision}"] = found
            say(f"  {way} {precision}: {found['losses'][0]:.4f} to {found['losses'][-1]:.4f}")
    goals, differences = judge(curves)
    document = harness.report("equivalence", args, curves=curves, differences=differences, goals=goals)
    harness.write(args.json, document)
    _show(curves, differences)
    harness.show_goals(goals)


def judge(curves: Result) -> tuple[list[Result], Result]:
    """Return the goals, and the largest and mean difference of every curve from plain fp32."""
    base = curves["plain fp32"]["losses"]
    differences = {}
    for name, curve in curves.items():
        apart = [abs(one - other) for one, other in zip(curve["losses"], base, strict=True)]
        differences[name] = {"greatest": max(apart), "mean": sum(apart) / len(apart)}
    goals = [harness.goal("largest difference in fp32", differences["fast fp32"]["greatest"], most=FP32_GOAL)]
    if "fast bf16" in differences:
        ratio = differences["fast bf16"]["mean"] / max(differences["plain bf16"]["mean"], 1e-12)
        goals.append(harness.goal("bf16: mean difference, fast over plain", ratio, most=NOISE_GOAL))
    return goals, differences


def _show(curves: Result, differences: Result) -> None:
    rows = [
        [name, f"{curve['losses'][0]:.5f}", f"{curve['losses'][-1]:.5f}", f"{differences[name]['greatest']:.1e}",
         f"{differences[name]['mean']:.1e}"]
        for name, curve in curves.items()
    ]  # fmt: skip
    harness.table(["", "first loss", "last loss", "largest difference", "mean difference"], rows)


if __name__ == "__main__":
    raise SystemExit(harness.main(work, options()))
