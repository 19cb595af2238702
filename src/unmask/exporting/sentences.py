"""Write a model for sentence-transformers, which is not needed for it: names of modules and settings are those that its
versions from 2 (sparse encoders: from 5) to 6 read.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from unmask.exporting.formats import FormPooling
from unmask.model.sentence_modules import (
    MODULES,
    copy_sentence_modules,
    find_sentence_modules,
    write_mean_pooling,
    write_modules,
)
from unmask.progress import Progress
from unmask.storage import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from unmask.model.masked_lm import MaskedLM

_SPARSE = "sentence_transformers.sparse_encoder.models"


def keep_modules(
    name: str, pooling: FormPooling, folder: Path, *, offline: bool, progress: Progress = Progress()
) -> bool:
    """Copy the modules that a model has for sentence-transformers, if they pool as asked for; return whether they do."""
    found = find_sentence_modules(name, offline=offline) if name else None
    if found is None:
        return False
    types = [str(module.get("type", "")) for module in read_json(found / MODULES)]
    if any(kind.endswith(".SpladePooling") for kind in types) != (pooling == "splade"):
        return False
    copy_sentence_modules(found, folder, progress)
    return True


def write_sentence_transformer(model: MaskedLM, folder: Path) -> None:
    """Write the encoder, with the mean of its hidden states as the embedding if it has no modules yet."""
    encoder = cast("PreTrainedModel", model.encoder)
    encoder.save_pretrained(folder)
    write_mean_pooling(folder, encoder, model.hidden_size, model.max_length)


def write_sparse_encoder(model: MaskedLM, folder: Path) -> None:
    """Write the model, with the largest logit of each entry of the vocabulary as the embedding if it has no modules yet."""
    model.model.save_pretrained(folder)
    pooling = {"pooling_strategy": "max", "activation_function": "relu"}
    settings = {"max_seq_length": model.max_length, "do_lower_case": False}
    modules = f"{_SPARSE}.MLMTransformer", f"{_SPARSE}.SpladePooling"
    kind = {"model_type": "SparseEncoder", "similarity_fn_name": "dot"}
    write_modules(folder, modules, pooling, settings, kind)
