"""The options of ``train``: each long option of the command line, and keyword of the Python API, with its setting."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

OPTIONS = {
    "text": "data.inputs",
    "heldout": "data.heldout",
    "replay": "data.replay",
    "replay_share": "data.replay_share",
    "general": "data.forgetting_eval",
    "documents": "data.documents",
    "text_field": "data.text_field",
    "encoding": "data.encoding",
    "delimiter": "data.delimiter",
    "markup": "data.markup",
    "strict": "data.strict",
    "allow_unknown": "data.allow_unknown",
    "skip_unreadable": "data.skip_unreadable",
    "max_length": "data.max_length",
    "model": "model.name",
    "preset": "model.preset",
    "tokenizer": "model.tokenizer",
    "generator": "model.generator",
    "offline": "model.offline",
    "mask_rate": "masking.rate",
    "strategy": "masking.strategy",
    "max_steps": "train.max_steps",
    "epochs": "train.epochs",
    "minutes": "train.minutes",
    "objective": "train.objective",
    "detour": "train.detour",
    "recipe": "train.recipe",
    "batch_tokens": "train.batch_tokens",
    "learning_rate": "train.optimizer.learning_rate",
    "layer_decay": "train.optimizer.layer_decay",
    "freeze": "train.freeze",
    "lora_rank": "train.lora_rank",
    "parallel": "train.parallel",
    "offload": "train.offload",
    "head_warmup_steps": "train.head_warmup_steps",
    "new_embeddings_steps": "train.new_embeddings_steps",
    "export_alpha": "train.export_alpha",
    "max_forgetting": "train.max_forgetting",
    "require": "train.require",
    "task": "train.task",
    "patience": "train.patience",
    "save_every": "train.save_every",
    "track": "train.track",
    "seed": "train.seed",
    "device": "train.device",
    "precision": "train.precision",
}
"""Setting by option; an option of the command line is written ``--learning-rate``."""

TOKENIZER_OPTIONS = {
    "vocab_size": "model.vocab_size",
    "kind": "model.tokenizer_kind",
    "case": "model.case",
    "accents": "model.accents",
    "normal_form": "model.normal_form",
}
"""The options of ``tokenizer train``, whose settings ``train`` uses for a preset."""

OPTION_OF = {key: option for option, key in (OPTIONS | TOKENIZER_OPTIONS).items()}
"""Option by setting."""

_KEY = re.compile(rf"(?<![\w.'])(?<!--set )({'|'.join(map(re.escape, OPTION_OF))})(?!\w|\.\w)")


def flag(key: str) -> str:
    """Return how the command line names a setting."""
    option = OPTION_OF.get(key) or key.rpartition(".")[2]
    return "TEXT" if option == "text" else "--" + option.replace("_", "-")


def flat_settings(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= (
            flat_settings(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
        )
    return flat


def arguments(settings: Mapping[str, Any], options: Collection[str] = OPTION_OF) -> list[str]:
    """Return the words of a command line that give some settings, by key; those that have none of the ``options`` with ``--set``."""
    words = []
    for key, value in settings.items():
        if key not in options:
            words += ["--set", f"{key}={json.dumps(value, ensure_ascii=False)}"]
        elif value is True:
            words.append(flag(key))
        else:
            for each in value if isinstance(value, list) else [value]:
                words += [flag(key), str(each)]
    return words


def renamed(message: str, name: Callable[[str], str]) -> str:
    """Return a message, which names settings by their keys, with another name for each that has an option."""
    return _KEY.sub(lambda found: name(found[0]), message)


SYNONYMS = {
    "batch_size": "train.batch_tokens",
    "corpus": "data.inputs",
    "data": "data.inputs",
    "eval_file": "data.heldout",
    "eval_steps": "train.eval_every",
    "gradient_accumulation_steps": "train.micro_batch_tokens",
    "inputs": "data.inputs",
    "lr": "train.optimizer.learning_rate",
    "mask_prob": "masking.rate",
    "mask_probability": "masking.rate",
    "max_grad_norm": "train.optimizer.clip_norm",
    "max_seq_length": "data.max_length",
    "mlm_probability": "masking.rate",
    "model_name": "model.name",
    "model_name_or_path": "model.name",
    "num_epochs": "train.epochs",
    "num_train_epochs": "train.epochs",
    "per_device_train_batch_size": "train.micro_batch_tokens",
    "rate": "masking.rate",
    "save_steps": "train.save_every",
    "save_total_limit": "train.keep_last",
    "steps": "train.max_steps",
    "test_file": "data.heldout",
    "tokenizer_name": "model.tokenizer",
    "train_file": "data.inputs",
    "validation_file": "data.heldout",
    "warmup_ratio": "train.schedule.warmup_share",
}
"""What other trainers call a setting, and the setting that is meant."""

_OTHER_OPTIONS = {
    "against": ("test", "general"),
    "bf16": ("precision",),
    "checkpoint_path": ("checkpoint",),
    "cuda": ("device",),
    "data": ("text",),
    "data_dir": ("text", "data"),
    "dataset": ("text", "data"),
    "eval_data": ("heldout", "data"),
    "fp16": ("precision",),
    "gpu": ("device",),
    "input": ("text", "data"),
    "output": ("out",),
    "output_dir": ("out",),
    "resume_from_checkpoint": ("checkpoint", "resume"),
    "test_data": ("heldout", "data", "test"),
    "text": ("data",),
    "topk": ("top_k",),
    "verbose": ("debug",),
}  # that are no settings; the first that a verb has is meant


def meant_by(name: str, options: Iterable[str]) -> str | None:
    """Return which of ``options`` is meant by a name that is none of them, or ``None``.

    A synonym of a setting without an option is answered with its key, such as ``train.keep_last``. Similar spelling
    counts only for a name that is no synonym: ``lr`` is never ``--mask-rate``.
    """
    known = list(options)
    key = SYNONYMS.get(name)
    candidates = (*([OPTION_OF.get(key, key)] if key else []), *_OTHER_OPTIONS.get(name, ()))
    for meant in (name, *candidates):
        if meant in known or "." in meant:
            return meant
    near = [] if candidates else get_close_matches(name, known, n=1, cutoff=0.6)
    return near[0] if near else None


def hint(name: str, options: Iterable[str]) -> str:
    """Return ``" (did you mean 'learning_rate'?)"`` for a name that is none of ``options``, or an empty string."""
    meant = meant_by(name, options)
    return f" (did you mean '{meant}'?)" if meant else ""
