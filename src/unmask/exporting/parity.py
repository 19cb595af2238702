"""Compare an exported model with the one that it was made from: at the same masked tokens of held-out text.

Shapes: M targets, V entries of the vocabulary, U resampling units.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unmask.data.batches import TextSource
from unmask.data.unknown import require_measurable
from unmask.errors import DataError
from unmask.evaluation.bootstrap import INTERVAL, Estimate, interval_notes, resampling_units
from unmask.evaluation.heldout import MASKS, evaluation_batches
from unmask.evaluation.metrics import COLUMNS, metrics_of, paired_sums, target_columns
from unmask.evaluation.predictions import score_targets
from unmask.evaluation.strata import places
from unmask.model.base import LanguageModel
from unmask.progress import Progress
from unmask.reporting.format import no_interval
from unmask.run_folder import is_model_folder, model_folder
from unmask.storage import sha256

FILE = "parity.json"
ROUNDING = 1e-4
"""Most that a log-probability in fp32 may be off."""
TOLERANCE = 0.5
"""Points of accuracy that a smaller precision may cost, by default."""


@dataclass(frozen=True)
class Parity:
    """How an exported model differs from the one that it was made from.

    Attributes:
        masked_tokens, documents, tokens: what they were compared on.
        texts: the documents, copies counted once.
        logit: the largest difference of a logit of a token of the vocabulary.
        log_probability: the same of a log-probability, in nats.
        original, exported, difference: ``accuracy`` and ``loss``; the difference is exported minus original.
        notes: what limits the intervals.
    """

    masked_tokens: int
    documents: int
    texts: int
    tokens: int
    logit: float
    log_probability: float
    original: dict[str, Estimate]
    exported: dict[str, Estimate]
    difference: dict[str, Estimate]
    notes: list[str]

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a row for accuracy and one for the loss: ``original``, ``exported``, ``difference``, ``low``, ``high``."""
        return [
            {
                "metric": name,
                "original": self.original[name].value,
                "exported": self.exported[name].value,
                "difference": self.difference[name].value,
                "low": self.difference[name].low,
                "high": self.difference[name].high,
            }
            for name in ("accuracy", "loss")
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        parts = {name: getattr(self, name) for name in ("original", "exported", "difference")}
        return {
            "masked_tokens": self.masked_tokens,
            "documents": self.documents,
            "tokens": self.tokens,
            "masks": MASKS,
            "largest_difference": {"logit": self.logit, "log_probability": self.log_probability},
            **{
                part: {name: metrics[name].to_dict() for name in ("accuracy", "loss")}
                for part, metrics in parts.items()
            },
            "interval": INTERVAL,
            "notes": self.notes,
        }


def compare_forms(
    original: LanguageModel,
    exported: LanguageModel,
    source: TextSource,
    most: int | None = None,
    progress: Progress = Progress(),
) -> Parity:
    """Predict the masked tokens of a text with both models.

    Args:
        original: in fp32.
        exported: with the same tokenizer.
        source: the text.
        most: tokens to read; which documents these are is decided by their hash.
        progress: gets the share done.

    Raises:
        DataError: no token of the text is masked, or most of them are unknown to the tokenizer.
        DivergedError: a probability is NaN or infinite.
    """
    unknown = replace(source.corpus.unknown(original.tokenizer), examples=[])  # a card quotes no text
    require_measurable(unknown)
    keys = source.corpus.keys[source.documents]
    unit = resampling_units(keys)
    sums = np.zeros((2, int(unit.max(initial=0)) + 1, len(COLUMNS)))
    seen, tokens = np.zeros(len(keys), dtype=bool), 0
    logit = log_probability = 0.0
    wanted = min(source.tokens, most or source.tokens)
    with torch.inference_mode(), original.evaluating():
        for batch in evaluation_batches(source, most):
            tokens += batch.tokens
            progress.advance(min(1.0, tokens / wanted), {"tokens": tokens})
            if not len(batch.target_ids):
                continue
            document = places(source, batch).document
            seen[document] = True
            targets = torch.from_numpy(batch.target_ids)
            pair = [model.target_logits(batch).float().cpu() for model in (original, exported)]
            for number, logits in enumerate(pair):
                found = score_targets(logits, targets).require_finite()
                np.add.at(sums[number], unit[document], target_columns(found))
            logit = max(logit, _largest(pair[0], pair[1]))
            log_probability = max(log_probability, _largest(*(logits.log_softmax(-1) for logits in pair)))
    if not seen.any():
        raise DataError(f"there is nothing to predict: {source.why_no_target('the text')}")
    left, right = sums
    texts = len(np.unique(keys[seen]))
    notes = list(interval_notes(int(seen.sum()), texts))
    if message := unknown.message():
        notes.append(f"unknown tokens are never targets: {message}")
    return Parity(
        masked_tokens=int(left[:, 0].sum()),
        documents=int(seen.sum()),
        texts=texts,
        tokens=tokens,
        logit=logit,
        log_probability=log_probability,
        original=metrics_of(left),
        exported=metrics_of(right),
        difference=metrics_of(paired_sums(left, right), difference=True),
        notes=notes,
    )


def _largest(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).abs().max())


def why_refused(parity: Parity, exact: bool, tolerance: float = TOLERANCE) -> str | None:
    """Say why an exported model is not good enough; ``None`` if it is.

    Args:
        parity: the comparison.
        exact: whether it computes in fp32.
        tolerance: points of accuracy that another precision may cost.
    """
    if exact:
        if parity.log_probability <= ROUNDING:
            return None
        return (
            f"log-probabilities of masked tokens are up to {parity.log_probability:.2g} nats off those in PyTorch; at most "
            f"{ROUNDING:g} is rounding"
        )
    lost = parity.difference["accuracy"].map(lambda value: 100 * value)
    certain = lost.high if lost.interval else lost.value
    if certain >= -tolerance:
        return None
    ends = f"95% interval {lost.low:+.2f} to {lost.high:+.2f}" if lost.interval else no_interval(parity.texts)
    return f"its accuracy is {lost.value:+.2f} points of that in PyTorch ({ends}); the tolerance is {tolerance:g} points"


def weight_files(folder: Path) -> list[Path]:
    """Return the files with the weights of an exported model."""
    endings = (".onnx", ".onnx_data", ".safetensors", ".bin", ".xml")
    return sorted(path for path in folder.rglob("*") if path.suffix in endings)


def hashes_of(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file with weights of an exported model, by its name in the folder."""
    return {path.relative_to(folder).as_posix(): sha256(path) for path in weight_files(folder)}


def weights_hash(model: object) -> str | None:
    """Return the SHA-256 of the weights in a model or run folder; ``None`` for a model by name or in memory."""
    if not is_model_folder(model):
        return None
    files = sorted(Path(model_folder(str(model))).glob("model*.safetensors"))
    hashes = [sha256(path) for path in files]
    return hashes[0] if len(hashes) == 1 else sha256("".join(hashes).encode())
