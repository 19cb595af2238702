"""Texts filled per second: unmask compared with the fill-mask pipeline of transformers, in one process, in turns.

Both use the same model (BERT, 6 layers of width 384 with BERT's vocabulary, new weights) and the same sentences with one
masked word each, in fp32: one text after another, and all texts in one call. The pipeline is measured at several batch
sizes and its best counts. Before timing, both sides must give the same five tokens with the same probabilities.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
from harness import Result, middle, say, summary
from throughput import sentences

BATCH_SIZES = (1, 8, 32, 64)
GOALS = {"one after another": 3.0, "together": 2.0}
TOLERANCE = 1e-4
_LONGEST = 40  # words


def options() -> argparse.ArgumentParser:
    made = harness.parser(__doc__ or "", rounds=5)
    add = made.add_argument
    add("--model", metavar="MODEL", help="a checkpoint to use instead of new weights")
    harness.add_size(made)
    add("--texts", type=int, default=256, help="sentences filled together")
    add("--single", type=int, default=64, help="how many of them are filled one after another")
    add("--threads", type=int, help="threads for both sides")
    add("--form", choices=harness.FORMS, help="fill with what 'unmask export' makes of the model")
    return made


def work(args: argparse.Namespace) -> None:
    model = args.model or harness.start(args.vocabulary, *args.size)
    source = sentences(harness.texts(args.text, 1))
    model = str(Path(model).resolve()) if Path(model).is_dir() else model
    ours = harness.exported(model, args.form, source) if args.form else model
    settings = {"model": model, "ours": ours, "source": source}
    document = harness.report("fill", args, **settings)
    shape = {"texts": args.texts, "single": args.single, "rounds": args.rounds, "threads": args.threads}
    document |= harness.run("fill", "measure", settings | shape)
    harness.write(args.json, document | {"goals": _goals(document)})
    _show(document)


# ---------------------------------------------------------------- measured in its own process


def measure(
    model: str, ours: str, source: str, texts: int, single: int, rounds: int, threads: int | None
) -> Result:
    """Time both sides in turns."""
    import torch
    from transformers import pipeline

    from unmask.inference.fill import FillMask
    from unmask.model.load import load_for_inference

    if threads:
        torch.set_num_threads(threads)
    peer = pipeline("fill-mask", model, device="cpu", dtype=torch.float32)
    filler = FillMask(load_for_inference(ours, device="cpu"))
    masked_texts = masked(source, texts, str(peer.tokenizer.mask_token))
    few = masked_texts[:single]
    largest = _compare(filler, peer, few)
    sides: dict[str, Callable[[], Result]] = {
        "pipeline, one after another": lambda: _timed(few, lambda: [peer(text) for text in few]),
        "ours, one after another": lambda: _timed(few, lambda: [filler(text) for text in few]),
        "ours, together": lambda: _timed(masked_texts, lambda: filler.fill(masked_texts)),
    }
    for size in BATCH_SIZES:
        sides[f"pipeline, batches of {size}"] = lambda size=size: _timed(
            masked_texts, lambda: peer(masked_texts, batch_size=size)
        )
    for run in sides.values():
        run()  # warm
    found = harness.take_turns(sides, rounds, lambda *_: None)
    lengths = [len(ids) for ids in peer.tokenizer(masked_texts)["input_ids"]]
    return {
        "threads": torch.get_num_threads(),
        "mean_tokens": sum(lengths) / len(lengths),
        "largest_difference": largest,
        "texts_per_second": {name: summary(results, "texts_per_second") for name, results in found.items()},
    } | _ratios(found)


def masked(source: str, count: int, mask: str) -> list[str]:
    """Return random sentences of a file with one word masked in each."""
    draw = random.Random(1860)
    lines = Path(source).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    chosen = []
    for line in draw.sample(lines, min(len(lines), 4 * count)):
        words = line.split()
        places = [place for place, word in enumerate(words) if word.isalpha()]
        if places and len(words) <= _LONGEST and len(chosen) < count:
            words[draw.choice(places)] = mask
            chosen.append(" ".join(words))
    return chosen


def _timed(texts: list[str], call: Callable[[], Any]) -> Result:
    begin = time.perf_counter()
    call()
    return {"texts_per_second": len(texts) / (time.perf_counter() - begin)}


def _compare(ours: Any, peer: Any, texts: list[str]) -> float:
    """Return the largest relative difference between the five best probabilities of both sides.

    Raises:
        AssertionError: the sides differ.
    """
    largest = 0.0
    for text, result in zip(texts, ours.fill(texts), strict=True):
        wanted = {
            item["token"]: item["score"] for item in peer(text, top_k=5 + len(peer.tokenizer.all_special_ids))
        }
        for candidate in result.candidates:
            difference = abs(candidate.probability - wanted[candidate.token_ids[0]])
            largest = max(largest, difference / candidate.probability)
    assert largest <= TOLERANCE, f"the two sides differ by {largest:.1e}"
    return largest


def _ratios(found: dict[str, list[Result]]) -> Result:
    rate = {name: middle(results, "texts_per_second") for name, results in found.items()}
    batches = {size: rate[f"pipeline, batches of {size}"] for size in BATCH_SIZES}
    best = max(batches, key=lambda size: batches[size])
    return {
        "best_batch_size": best,
        "ratios": {
            "one after another": rate["ours, one after another"] / rate["pipeline, one after another"],
            "together": rate["ours, together"] / batches[best],
        },
    }


# ---------------------------------------------------------------- results


def _goals(document: Result) -> list[Result]:
    return [
        harness.goal(f"{name}, times the pipeline", document["ratios"][name], least)
        for name, least in GOALS.items()
    ]


def _show(document: Result) -> None:
    say(
        f"{document['mean_tokens']:.1f} tokens per text, {document['threads']} threads; "
        f"the pipeline's best batch size is {document['best_batch_size']}"
    )
    rows = [
        [name, *(f"{row[key]:.1f}" for key in ("median", "least", "greatest"))]
        for name, row in document["texts_per_second"].items()
    ]
    harness.table(["texts per second", "median", "least", "greatest"], rows)
    harness.table(["goal", "wanted", "measured", ""], harness.goal_rows(_goals(document)))


if __name__ == "__main__":
    raise SystemExit(harness.main(work, options()))
