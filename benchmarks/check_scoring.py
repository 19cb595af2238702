"""Recompute pseudo-log-likelihoods with simple code, and compare them with those of unmask.

Plain transformers, one sentence and one mask at a time, no packing, all logits at all positions: slow, but without the
optimisations that could be wrong. Which tokens make a word comes from unmask, because that is a definition; the tokens
are compared with those of the plain tokenizer.

    python benchmarks/check_scoring.py MODEL --data FILE [--texts 50] [--method original ...]

The exit code is 1 if the score of a token differs by more than the tolerance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from unmask.data.reading.records import Record, RecordReader
from unmask.scoring.masked_copies import METHODS
from unmask.scoring.results import Score
from unmask.scoring.scorer import score

TOLERANCE = 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--data", required=True, help="text (a line a text) or JSON lines")
    parser.add_argument(
        "--field", help="field of JSON lines [default: text, or sentence_good and sentence_bad]"
    )
    parser.add_argument("--texts", type=int, default=50)
    parser.add_argument("--method", nargs="+", choices=METHODS, default=METHODS)
    args = parser.parse_args()
    model, tokenizer = (
        AutoModelForMaskedLM.from_pretrained(args.model).eval(),
        AutoTokenizer.from_pretrained(args.model),
    )
    texts = list(islice(short_texts(args.data, args.field, tokenizer, model), args.texts))
    if not texts:
        say(f"{args.data}: no text that fits into the model")
        return 1
    worst = [compared(args.model, model, tokenizer, texts, method) for method in args.method]
    same = max(worst) <= TOLERANCE
    say("the same" if same else f"NOT the same: {max(worst):.2e} is more than {TOLERANCE}")
    return int(not same)


def compared(name: str, model: torch.nn.Module, tokenizer: object, texts: list[str], method: str) -> float:
    """Score texts both ways and return the largest difference in a token score."""
    worst = whole = 0.0
    tokens = 0
    for found in score(texts, name, method=method, device="cpu", precision="fp32"):
        direct = directly(model, tokenizer, found)
        differences = [
            abs(token.pll - wanted) for token, wanted in zip(found.token_scores, direct, strict=True)
        ]
        worst, whole = max(worst, *differences), max(whole, abs(found.pll - sum(direct)))
        tokens += len(direct)
    say(
        f"{method:<16} {len(texts)} texts, {tokens:,} tokens: a token differs by {worst:.1e}, a text by {whole:.1e}"
    )
    return worst


@torch.no_grad()
def directly(model: torch.nn.Module, tokenizer: object, found: Score) -> list[float]:
    """Return the score of each token of a text: mask, run, look at one position."""
    inputs = tokenizer(found.text, return_tensors="pt", return_special_tokens_mask=True)
    special = inputs.pop("special_tokens_mask")[0].tolist()
    ids = inputs["input_ids"][0]
    places = [place for place, mark in enumerate(special) if not mark or ids[place] == tokenizer.unk_token_id]
    assert len(places) == found.tokens, f"other tokens than those of the plain tokenizer: {found.text!r}"
    words = [token.word for token in found.token_scores]
    scores = []
    for number, place in enumerate(places):
        masked = ids.clone()
        for other, where in enumerate(places):
            same_word = words[other] == words[number]
            if (
                (found.method == "original" and other == number)
                or (found.method == "within_word_l2r" and same_word and other >= number)
                or (found.method == "whole_word" and same_word)
            ):
                masked[where] = tokenizer.mask_token_id
        logits = model(**(dict(inputs) | {"input_ids": masked.unsqueeze(0)})).logits[0, place]
        scores.append(float(torch.log_softmax(logits.double(), dim=-1)[ids[place]]))
    return scores


def short_texts(data: str, field: str | None, tokenizer: object, model: torch.nn.Module) -> Iterator[str]:
    """Yield the texts of a file that fit into the model."""
    most = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512) - 2)
    names = [field] if field else ["text", "sentence_good", "sentence_bad"]
    files = sorted(Path(data).glob("*.jsonl")) if Path(data).is_dir() else [data]
    # From a folder take one text of every file.
    each = islice if len(files) == 1 else (lambda rows, _: islice(rows, 1))
    for file in files:
        for record in each(RecordReader(file), None):
            values = record.values if isinstance(record, Record) else {}
            for text in (values[name] for name in names if name in values):
                if (
                    text.strip()
                    and "[" not in text
                    and "<" not in text
                    and len(tokenizer(text)["input_ids"]) <= most
                ):
                    yield text


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
