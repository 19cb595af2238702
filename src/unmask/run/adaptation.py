"""``adaptation.json``: how adaptation changed a checkpoint, written when a run ends.

::

    base              name of the checkpoint, as it was given
    masks             how the targets of all metrics are shown to both models
    domain, general   metrics on held-out text: masked_tokens, documents, before, after and change; general is null
                      without general text. before and after: loss (nats), perplexity, accuracy, and their intervals;
                      change: loss, accuracy (after minus before), relative_loss and relative_accuracy (their ratios
                      minus one), each {"value", "interval"}
    forgetting        {"loss", "accuracy"}: on the general text, loss after minus before and accuracy before minus
                      after; null without general text
    by_frequency      {"counted_on", "rows"}: the same metrics on the domain, by the frequency of a token in the
                      training text, or in part of its documents where it has more than 20 million tokens
    added_words       the same metrics for words that were added to the vocabulary, and how many there are
                      ("words"); masked_tokens may be 0, and then there are no metrics; null where none was added
    interpolation     mixtures of the weights of base and adapted model; null where none was evaluated. points: for each
                      alpha, on domain and general text, loss, change and relative change compared with the base, at
                      "tokens" tokens of each text; wanted: what --export-alpha asked; alpha: of the exported weights;
                      suggested: of the lowest domain loss whose forgetting is within limit, a share (limit_given:
                      whether it is that of --max-forgetting); decided_on: the documents that chose it; not_mixed:
                      weights that the base lacks
    probes            linear probes of base and exported model (at interpolation's alpha, never at a suggested one) on the task
                      of the run: task, kind, metric, seeds, sizes; before, after (means of the metric) and change
                      {"value", "interval"}, 0 to 1; failed: why there are none; null without a task
    verdict           whether to use the model (see unmask.evaluation.verdict)
    examples          targets at which the two models differ most (see unmask.evaluation.adaptation.differing); they quote the text
    hashes            SHA-256 of the tokenizer, of each text (of its documents' hashes) and of each file of weights
    interval          what the intervals are

Intervals are null where there are too few documents. No path of the machine is in it but ``base``.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unmask.config.settings import RunConfig
from unmask.data.batches import TextSource
from unmask.data.tokenizer import tokenizer_hash
from unmask.errors import DataError
from unmask.evaluation.adaptation import EvaluatedTargets, by_frequency, change, differing
from unmask.evaluation.bootstrap import INTERVAL
from unmask.evaluation.heldout import MASKS
from unmask.evaluation.predictions import TargetPredictions
from unmask.evaluation.strata import Strata
from unmask.progress import Progress
from unmask.run.components import RunComponents
from unmask.run.results import final_batches, final_texts
from unmask.run_folder import ADDED_WORDS, RunFolder, model_folder
from unmask.storage import read_json, sha256, write_atomically

TaskProbe = Callable[[str, Path, Progress], dict[str, Any]]
"""Returns ``probes`` from the name of the base, the folder of the exported model, and what gets messages."""
_COUNTED_ON = "the training text"
_OTHER_TARGETS = "the base model was evaluated on other text or other masks"


def save_base(folder: RunFolder, predictions: dict[str, TargetPredictions]) -> None:
    """Save the predictions of the checkpoint before training; a resumed run reads them at its end."""
    content = io.BytesIO()
    arrays = {
        f"{name}.{field}": column
        for name, each in predictions.items()
        for field, column in each._asdict().items()
    }
    np.savez(content, masks=np.array(MASKS), **arrays)
    write_atomically(folder.base, content.getvalue())


def _read_base(folder: RunFolder, name: str) -> TargetPredictions:
    """Read the predictions of the checkpoint on one text.

    Raises:
        DataError: they are absent or damaged.
    """
    try:
        with folder.base.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            if str(file.get("masks")) == MASKS:
                return TargetPredictions(*(file[f"{name}.{field}"] for field in TargetPredictions._fields))
    except Exception as error:  # a damaged archive may raise nearly anything
        raise DataError(
            f"no predictions of the base model ({type(error).__name__})", path=folder.base
        ) from None
    raise DataError(_OTHER_TARGETS, path=folder.base)


def adaptation_of(
    components: RunComponents, config: RunConfig, folder: RunFolder, predictions: dict[str, TargetPredictions]
) -> dict[str, Any]:
    """Compare the predictions of the checkpoint with those of the adapted model.

    Args:
        components: of the run.
        config: its settings, resolved.
        folder: of the run, with the predictions of the checkpoint and the adapted model.
        predictions: of the adapted model, by text.

    Raises:
        DataError: the predictions of the checkpoint are absent, damaged, or at other targets.
    """
    step = components.text.counted_step()
    counted_on = _COUNTED_ON if step == 1 else f"one in {step:,} documents of {_COUNTED_ON}"
    strata = Strata(components.text.token_counts(), counted_on, words=False)
    changes, parts = {}, {}
    for name, source in final_texts(components).items():
        base, ours = _read_base(folder, name), predictions[name]
        if not np.array_equal(base.target_ids, ours.target_ids):
            raise DataError(_OTHER_TARGETS, path=folder.base)
        asked = EvaluatedTargets.of(source, final_batches(source, config), strata)
        changes[name] = change(asked, base, ours)
        if name == "heldout":
            parts = {
                "by_frequency": {"counted_on": counted_on, "rows": by_frequency(asked, base, ours, strata)},
                "added_words": _added_words(asked, base, ours, config),
                "examples": differing(asked, base, ours, components.model.tokenizer),
            }
    general = changes.get("general")
    return {
        "base": config.model.name,
        "masks": MASKS,
        "mask_rate": config.masking.rate,
        "domain": changes["heldout"],
        "general": general,
        "forgetting": None if general is None else _forgetting(general["change"]),
        **parts,
        "hashes": _hashes(components, folder),
        "interval": INTERVAL,
    }


def _forgetting(change: dict[str, Any]) -> dict[str, Any]:
    """Return the rise of the loss and the fall of the accuracy."""
    accuracy = change["accuracy"]
    interval = accuracy["interval"] and [-end for end in reversed(accuracy["interval"])]
    return {"loss": change["loss"], "accuracy": {"value": -accuracy["value"], "interval": interval}}


def _added_words(
    asked: EvaluatedTargets, before: TargetPredictions, after: TargetPredictions, config: RunConfig
) -> dict[str, Any] | None:
    """Return the change at words that were added to the vocabulary, if there are any."""
    content = read_json(Path(model_folder(config.model.name or "")) / ADDED_WORDS)
    if not isinstance(content, dict) or not content.get("words"):
        return None
    ids = [int(word["id"]) for word in content["words"]]
    chosen = np.isin(asked.target_ids, ids)
    metrics = change(asked, before, after, chosen) if chosen.any() else {"masked_tokens": 0, "documents": 0}
    return {"words": len(ids)} | metrics


def _hashes(components: RunComponents, folder: RunFolder) -> dict[str, Any]:
    texts = {
        "text": components.text,
        "heldout": components.heldout,
        "selection": components.selection,
        "replay": components.replay,
        "general": components.general,
        "general_selection": components.general_selection,
    }
    return {
        "tokenizer": tokenizer_hash(components.model.tokenizer),
        "texts": {name: _text_hash(text) for name, text in texts.items() if text is not None},
        "weights": {path.name: sha256(path) for path in sorted(folder.model.glob("*.safetensors"))},
    }


def _text_hash(text: TextSource) -> str:
    """Hash which documents a text has; each is known by the hash of its content."""
    digest = hashlib.sha256()
    for block in text.documents.blocks():
        digest.update(np.ascontiguousarray(text.corpus.keys[block]).data)
    return digest.hexdigest()
