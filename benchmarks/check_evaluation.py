"""Recompute the metrics of `unmask eval` with simple code, and compare.

Plain transformers, one sequence at a time, no packing, all logits at all positions, ranks by sorting: slow, but without
the optimisations that could be wrong. The masked sequences come from unmask, because they define the evaluation; the
tokens are compared with those of the plain tokenizer.

    python benchmarks/check_evaluation.py MODEL --data FILE... [--tokens 20000] [--max-length 128]

The exit code is 1 if a metric differs by more than the tolerance.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator

import numpy as np
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from unmask.config.settings import MaskingSettings
from unmask.data.batches import TextSource
from unmask.data.reading.documents import DocumentReader
from unmask.data.tokenizer import load_tokenizer, vocabulary_of
from unmask.evaluation.evaluate import EvaluationSettings, evaluate
from unmask.evaluation.text_cache import EvaluationText

TOLERANCE = 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--mask-rate", type=float, default=0.15)
    arguments = parser.parse_args()
    masking = MaskingSettings(rate=arguments.mask_rate)
    settings = EvaluationSettings(
        masking=masking, max_length=arguments.max_length, tokens=arguments.tokens, device="cpu"
    )
    (ours,) = evaluate([arguments.model], arguments.data, settings)
    said = ours.to_dict() | {
        "expected_calibration_error": ours.to_dict()["calibration"]["expected_calibration_error"]
    }
    direct = directly(arguments.model, arguments.data, masking, arguments.max_length, arguments.tokens)
    worst = 0.0
    say(f"{'metric':<28}{'unmask':>14}{'direct':>14}{'difference':>14}")
    for name, value in direct.items():
        worst = max(worst, abs(said[name] - value))
        say(f"{name:<28}{said[name]:>14.6f}{value:>14.6f}{said[name] - value:>14.2e}")
    say("the same" if worst <= TOLERANCE else f"NOT the same: {worst:.2e} is more than {TOLERANCE}")
    return int(worst > TOLERANCE)


def directly(
    name: str, data: list[str], masking: MaskingSettings, max_length: int, tokens: int
) -> dict[str, float]:
    """Return the metrics, computed one sequence at a time."""
    model = AutoModelForMaskedLM.from_pretrained(name).eval()
    losses, ranks, confidences = [], [], []
    for shown, places, true in sequences(name, data, masking, max_length, tokens):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([shown])).logits[0].double()
        for place, token in zip(places, true, strict=True):
            probabilities = logits[place].softmax(-1)
            order = logits[place].argsort(descending=True, stable=True).tolist()
            losses.append(-math.log(float(probabilities[token])))
            ranks.append(order.index(token) + 1)
            confidences.append(float(probabilities.max()))
    count = len(losses)
    return {
        "masked_tokens": count,
        "loss": sum(losses) / count,
        "accuracy": sum(rank == 1 for rank in ranks) / count,
        "accuracy_at_5": sum(rank <= 5 for rank in ranks) / count,
        "accuracy_at_10": sum(rank <= 10 for rank in ranks) / count,
        "mean_reciprocal_rank": sum(1 / rank for rank in ranks) / count,
        "expected_calibration_error": calibration_error(confidences, [rank == 1 for rank in ranks]),
    }


def calibration_error(confidences: list[float], right: list[bool], bins: int = 15) -> float:
    error = 0.0
    for number in range(bins):
        inside = [i for i, value in enumerate(confidences) if min(int(value * bins), bins - 1) == number]
        if inside:
            said = sum(confidences[i] for i in inside) / len(inside)
            error += len(inside) / len(confidences) * abs(said - sum(right[i] for i in inside) / len(inside))
    return error


def sequences(
    name: str, data: list[str], masking: MaskingSettings, max_length: int, tokens: int
) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Yield the input ids, masked positions and original tokens of each sequence; count documents with equal tokens."""
    plain = AutoTokenizer.from_pretrained(name)
    whole = {tuple(plain(document.text)["input_ids"]) for document in DocumentReader(data)}
    tokenizer = load_tokenizer(name)
    checked = 0
    with EvaluationText(data) as texts:
        corpus = texts.corpus(tokenizer)
        source = TextSource(corpus, np.arange(len(corpus)), vocabulary_of(tokenizer), masking, max_length)
        for batch in source.evaluation_batches(4096, tokens):
            true = batch.input_ids.copy()
            true[batch.target_index] = batch.target_ids
            for begin, end in zip(batch.cu_seqlens, batch.cu_seqlens[1:], strict=False):
                inside = (batch.target_index >= begin) & (batch.target_index < end)
                if end - begin < max_length:  # the last or only sequence of its document
                    checked += tuple(true[begin:end].tolist()) in whole
                yield (
                    batch.input_ids[begin:end].tolist(),
                    (batch.target_index[inside] - begin).tolist(),
                    batch.target_ids[inside].tolist(),
                )
    say(f"{checked:,} whole documents have exactly the tokens of the plain tokenizer")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
