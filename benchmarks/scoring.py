"""Sentences scored per second by pseudo-log-likelihood: unmask compared with minicons, in one process, in turns.

Both use the same model (BERT, 6 layers of width 384 with BERT's vocabulary, new weights) and the same sentences of BLiMP.
minicons computes in fp32, its default, at several batch sizes, of which its best counts; unmask in fp32, its default, and in the precision
of `--precision auto`. Before timing, both sides must give every token the same score, by both methods of
minicons. minicons is not a dependency of unmask; if it is missing the script says how to install it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
from harness import Result, middle, say, summary

GOAL = 6.0
BATCH_SIZES = (1, 8, 32)
METHODS = ("original", "within_word_l2r")
TOLERANCE = 1e-4
PAIRS = harness.DATA / "pairs" / "blimp"
_COMPARED = 64


def options() -> argparse.ArgumentParser:
    made = harness.parser(__doc__ or "", rounds=5)
    add = made.add_argument
    add(
        "--pairs",
        type=Path,
        metavar="FOLDER",
        default=PAIRS,
        help="folder of BLiMP: JSONL files with sentence_good and sentence_bad",
    )
    add("--model", metavar="MODEL", help="a checkpoint to use instead of new weights")
    harness.add_size(made)
    add("--sentences", type=int, default=1000, help="sentences that unmask scores per round")
    add("--few", type=int, default=100, help="how many of them minicons scores per round")
    add("--threads", type=int, help="threads for both sides")
    add("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="precision of unmask")
    return made


def work(args: argparse.Namespace) -> None:
    _need_minicons()
    texts = blimp(args.pairs, args.sentences)
    model = args.model or harness.start(args.vocabulary, *args.size)
    model = str(Path(model).resolve()) if Path(model).is_dir() else model
    shape = {"few": args.few, "rounds": args.rounds, "threads": args.threads}
    shape["precision"] = args.precision
    found = harness.run("scoring", "measure", {"model": model, "texts": texts} | shape)
    document = harness.report("scoring", args, model=model) | found
    document["goals"] = _goals(document)
    harness.write(args.json, document)
    _show(document)


def blimp(folder: Path, count: int) -> list[str]:
    """Return random sentences of all files, good and bad, with a fixed seed.

    Raises:
        Failure: the folder has no JSONL file.
    """
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise harness.Failure(
            f"no .jsonl in {folder}; name the folder of BLiMP with --pairs (github.com/alexwarstadt/blimp)"
        )
    lines = [
        line for file in files for line in file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    ]
    rows = [json.loads(line) for line in random.Random(1860).sample(lines, min(len(lines), (count + 1) // 2))]
    return [row[side] for row in rows for side in ("sentence_good", "sentence_bad")][:count]


def _need_minicons() -> None:
    if importlib.util.find_spec("minicons") or (harness.SITE / "minicons").is_dir():
        return
    command = f"{sys.executable} -m pip install --no-deps --target {harness.SITE} minicons wonderwords"
    raise harness.Failure(f"minicons is not installed. Install it with: {command}")


# ---------------------------------------------------------------- measured in its own process


def measure(
    model: str, texts: list[str], few: int, rounds: int, threads: int | None, precision: str
) -> Result:
    """Time both sides in turns."""
    import torch
    from minicons.scorer import MaskedLMScorer

    from unmask.model.load import load_for_inference, pick_device
    from unmask.model.precision import pick_precision
    from unmask.scoring.scorer import Scorer

    if threads:
        torch.set_num_threads(threads)
    peer = MaskedLMScorer(model, "cpu")
    # It calls a method that transformers 5 removed; calling the tokenizer does the same.
    peer.tokenizer.batch_encode_plus = peer.tokenizer.__call__
    chosen, why = pick_precision(precision, pick_device("cpu"))
    exact = load_for_inference(model, device="cpu")
    quick = load_for_inference(model, device="cpu", precision=chosen)
    differences = {
        method: compare(Scorer(exact, method=method), peer, method, texts[:_COMPARED]) for method in METHODS
    }
    sides: dict[str, Callable[[], Result]] = {
        f"minicons, batches of {size}": lambda size=size: _timed(
            texts[:few], lambda some: _by_minicons(peer, some, "original", size)
        )
        for size in BATCH_SIZES
    }
    for name, loaded in (("ours", quick), ("ours, fp32", exact)):
        sides[name] = lambda loaded=loaded: _timed(texts, lambda some: list(Scorer(loaded)(some)))
    sides["ours, within_word_l2r"] = lambda: _timed(
        texts, lambda some: list(Scorer(quick, method="within_word_l2r")(some))
    )
    for side in sides.values():
        side()  # warm
    found = harness.take_turns(sides, rounds, lambda *_: None)
    scored = [list(Scorer(loaded)(texts[:few])) for loaded in (quick, exact)]
    return {
        "threads": torch.get_num_threads(),
        "precision": chosen,
        "why": why,
        "mean_tokens": sum(item.tokens for item in scored[1]) / few,
        "largest_difference_of_a_token": differences,
        "largest_difference_of_a_sentence_in_" + chosen: max(
            abs(a.pll - b.pll) for a, b in zip(*scored, strict=True)
        ),
        "sentences_per_second": {
            name: summary(results, "sentences_per_second") for name, results in found.items()
        },
    } | _ratios(found)


def _by_minicons(peer: Any, texts: list[str], method: str, size: int) -> list[Any]:
    found: list[Any] = []
    for start in range(0, len(texts), size):
        found += peer.token_score(texts[start : start + size], PLL_metric=method)
    return found


def compare(ours: Any, peer: Any, method: str, texts: list[str]) -> float:
    """Return the largest difference between two scores of a token.

    Raises:
        AssertionError: the sides differ.
    """
    largest = 0.0
    for found, wanted in zip(ours(texts), _by_minicons(peer, texts, method, 8), strict=True):
        for token, (_, score) in zip(found.token_scores, wanted, strict=True):
            largest = max(largest, abs(token.pll - score))
    assert largest <= TOLERANCE, f"the two sides differ by {largest:.1e} ({method})"
    return largest


def _timed(texts: list[str], call: Callable[[list[str]], Any]) -> Result:
    begin = time.perf_counter()
    call(texts)
    return {"sentences_per_second": len(texts) / (time.perf_counter() - begin)}


def _ratios(found: dict[str, list[Result]]) -> Result:
    rate = {name: middle(results, "sentences_per_second") for name, results in found.items()}
    batches = {size: rate[f"minicons, batches of {size}"] for size in BATCH_SIZES}
    best = max(batches, key=lambda size: batches[size])
    ours = {name: value for name, value in rate.items() if name.startswith("ours")}
    return {"best_batch_size": best, "ratios": {name: value / batches[best] for name, value in ours.items()}}


# ---------------------------------------------------------------- results


def _goals(document: Result) -> list[Result]:
    return [harness.goal("sentences per second, times minicons", document["ratios"]["ours"], GOAL)]


def _show(document: Result) -> None:
    say(
        f"{document['mean_tokens']:.1f} tokens per sentence, {document['threads']} threads; {document['why']}"
    )
    for method, difference in document["largest_difference_of_a_token"].items():
        say(f"largest difference of a token score, unmask in fp32 and minicons: {difference:.1e} ({method})")
    rows = [
        [name, *(f"{row[key]:.1f}" for key in ("median", "least", "greatest"))]
        for name, row in document["sentences_per_second"].items()
    ]
    harness.table(["sentences per second", "median", "least", "greatest"], rows)
    harness.table(
        ["times minicons", "ratio"], [[name, f"{value:.1f}"] for name, value in document["ratios"].items()]
    )
    harness.show_goals(document["goals"])


if __name__ == "__main__":
    raise SystemExit(harness.main(work, options()))
