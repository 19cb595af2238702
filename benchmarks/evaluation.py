"""Tokens evaluated per second by `unmask eval`, from text to metrics, and where the time goes.

The model (BERT, 6 layers of width 384 with BERT's vocabulary and new weights, or --model) is loaded before; reading and
tokenising the text, the baselines and the intervals are included. With --other SRC, the `src` folder of another version,
both versions take turns and must find the same loss and accuracy.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import time
from functools import partial
from pathlib import Path
from statistics import median

import harness
from harness import Result, middle, say

PARTS = {
    "model": "target_logits",
    "loss, rank, confidence": "score_targets",
    "baselines": "tally_baselines",
    "text": "corpus",
}
_WARM_UP = 4_000
_SAME = 1e-5


def options() -> argparse.ArgumentParser:
    made = harness.parser(__doc__ or "", rounds=3)
    add = made.add_argument
    add("--model", metavar="MODEL", help="a checkpoint to use instead of new weights")
    harness.add_size(made)
    add("--tokens", type=int, default=100_000, help="tokens to evaluate")
    add("--max-length", type=int, default=128, help="tokens of a sequence")
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="precision of the model")
    add("--other", type=Path, metavar="SRC", help="src folder of another version to compare with")
    return made


def work(args: argparse.Namespace) -> None:
    model = args.model or harness.start(args.vocabulary, *args.size)
    given = {"model": str(Path(model).resolve()), "text": harness.texts(args.text, 1), "tokens": args.tokens}
    given |= {"max_length": args.max_length, "precision": args.precision}
    sides = {"this version": partial(harness.run, "evaluation", "measure", given)}
    if args.other:
        sides["the other"] = partial(_with_source, args.other, given)
    found = harness.take_turns(
        sides, args.rounds, lambda name, result: say(f"{name}: {result['tokens_per_second']:,.0f} tokens/s")
    )
    document = harness.report("evaluation", args, model=model) | {"sides": found}
    if args.other:
        _compare(document, *found.values())
    harness.write(args.json, document)
    rows = [
        [name, f"{middle(results, 'tokens_per_second'):,.0f}", *(_share(results, part) for part in PARTS)]
        for name, results in found.items()
    ]
    harness.table(["", "tokens/s", *PARTS], rows)
    if args.other:
        say(f"this version is {document['speed_up']:.2f} times as fast: the median of the rounds")


def _with_source(source: Path, given: Result) -> Result:
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(source.resolve())
    try:
        return harness.run("evaluation", "measure", given)
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _compare(document: Result, ours: list[Result], others: list[Result]) -> None:
    for metric in ("loss", "accuracy"):
        one, other = ours[0][metric], others[0][metric]
        if abs(one - other) > _SAME * max(abs(one), abs(other)):
            raise harness.Failure(f"the two versions differ in {metric}: {one} and {other}")
    pairs = zip(ours, others, strict=True)
    document["speed_up"] = median(a["tokens_per_second"] / b["tokens_per_second"] for a, b in pairs)


def _share(results: list[Result], part: str) -> str:
    return f"{median(result['shares'][part] for result in results):.0%}"


# ---------------------------------------------------------------- measured in its own process


def measure(model: str, text: list[str], tokens: int, max_length: int, precision: str) -> Result:
    """Evaluate once for the rate, and once more under a profiler for the shares of its parts."""
    from unmask.evaluation.evaluate import EvaluationSettings, evaluate
    from unmask.model.load import load_for_inference

    loaded = load_for_inference(model, device="cpu", precision=precision)
    settings = EvaluationSettings(tokens=tokens, max_length=max_length)
    evaluate(loaded, text, settings.model_copy(update={"tokens": _WARM_UP}))
    begin = time.perf_counter()
    (found,) = evaluate(loaded, text, settings)
    seconds = time.perf_counter() - begin
    profile = cProfile.Profile()
    profile.runcall(evaluate, loaded, text, settings)
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    spent: dict[str, float] = {}
    for (file, _, name), row in stats.items():
        if f"{os.sep}unmask{os.sep}" in file:
            spent[name] = max(spent.get(name, 0.0), row[3])
    return {
        "tokens_per_second": found.tally.tokens / seconds,
        "seconds": seconds,
        "masked_tokens": found.masked_tokens,
        "loss": found.loss,
        "accuracy": found.accuracy,
        "shares": {part: spent[name] / spent["evaluate"] for part, name in PARTS.items()},
    }


if __name__ == "__main__":
    raise SystemExit(harness.main(work, options()))
