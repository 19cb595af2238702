"""``adaptation.json``: what adapting a checkpoint changed, written once, when a run ends.

::

    base              name of the checkpoint, as the run was given it; step: of the exported weights
    domain, general   figures on held-out text: masked_tokens, documents, before, after and change; general is null
                      without general text. before and after: loss (nats), perplexity, accuracy, and their intervals;
                      change: loss, accuracy (after minus before) and relative_accuracy (their ratio minus one), each
                      {"value", "interval"}
    forgetting        {"loss", "accuracy"}: what the general text lost, that is its loss after minus before and its
                      accuracy before minus after; null without general text
    by_frequency      {"counted_on", "rows"}: the same figures on the domain, by how often a token stands in the
                      training text
    added_words       the same figures for words that were added to the vocabulary, and how many there are
                      ("words"); masked_tokens may be 0, and then there are no figures; null where none was added
    examples          masks at which the two differ most (see unmask.evaluation.adaptation.differing); they quote the text
    energy_joules     what the processor packages of the whole machine drew while training; null where not measurable
    hashes            SHA-256 of tokenizer, of each text and of each file of weights
    interval          what the intervals are

Intervals are null where there are too few documents. Nothing here names a path of the machine but ``base``.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from unmask.config import RunConfig
from unmask.data.batches import TextSource
from unmask.data.tokenizer import tokenizer_hash
from unmask.errors import DataError
from unmask.evaluation.adaptation import Asked, by_frequency, change, differing
from unmask.evaluation.evaluation import INTERVAL
from unmask.evaluation.heldout import Answers
from unmask.evaluation.strata import Strata, token_counts
from unmask.material import ADDED_WORDS, Material
from unmask.run_folder import RunFolder, read_json, write_bytes_atomically
from unmask.run_outcome import final_batches, final_texts

_COUNTED_ON = "the training text"


def save_base(folder: RunFolder, answers: dict[str, Answers]) -> None:
    """Keep what the checkpoint answers before training; a resumed run reads it at its end."""
    content = io.BytesIO()
    arrays = {f"{name}.{field}": column for name, each in answers.items() for field, column in each._asdict().items()}
    np.savez(content, **arrays)
    write_bytes_atomically(folder.base, content.getvalue())


def _read_base(folder: RunFolder, name: str) -> Answers:
    """Read the answers on one text.

    Raises:
        DataError: they are absent or damaged.
    """
    try:
        with np.load(folder.base, allow_pickle=False) as file:
            return Answers(*(file[f"{name}.{field}"] for field in Answers._fields))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as fault:
        raise DataError(f"no answers of the base ({type(fault).__name__})", path=folder.base) from None


def adaptation_of(
    material: Material, config: RunConfig, folder: RunFolder, answers: dict[str, Answers]
) -> dict[str, Any]:
    """Compare what the base answered with what the adapted model answers.

    Args:
        material: of the run.
        config: its settings, resolved.
        folder: where the answers of the base and the finished model lie.
        answers: of the adapted model, by text.

    Raises:
        DataError: the answers of the base are absent, damaged, or to other questions.
    """
    vocabulary, text = material.model.vocabulary, material.text
    strata = Strata(token_counts(text.corpus, text.documents, vocabulary.size), _COUNTED_ON, words=False)
    found: dict[str, Any] = {}
    for name, source in final_texts(material).items():
        base = _read_base(folder, name)
        asked = Asked.of(source, final_batches(source, config), strata)
        if not np.array_equal(base.target_ids, answers[name].target_ids):
            raise DataError("the base was asked on other text or other masks", path=folder.base)
        found[name] = change(asked, base, answers[name])
        if name == "heldout":
            found |= _in_parts(asked, base, answers[name], strata, material, config)
    return {
        "base": config.model.name,
        "mask_rate": config.masking.rate,
        "domain": found.pop("heldout"),
        "general": found.pop("general", None),
        "forgetting": None,
        **found,
        "hashes": _hashes(material, folder),
        "interval": INTERVAL,
    } | _forgetting(found.get("general"))
