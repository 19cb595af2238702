"""The options of ``train``: each long option of the command line, and keyword of the Python API, with its setting."""

from __future__ import annotations

from collections.abc import Iterable

from unmask.errors import did_you_mean

OPTIONS = {
    "text": "data.inputs",
    "heldout": "data.heldout",
    "replay": "data.replay",
    "replay_share": "data.replay_share",
    "general": "data.forgetting_eval",
    "documents": "data.documents",
    "text_field": "data.text_field",
    "strict": "data.strict",
    "max_length": "data.max_length",
    "model": "model.name",
    "preset": "model.preset",
    "tokenizer": "model.tokenizer",
    "offline": "model.offline",
    "mask_rate": "masking.rate",
    "strategy": "masking.strategy",
    "max_steps": "train.max_steps",
    "epochs": "train.epochs",
    "minutes": "train.minutes",
    "recipe": "train.recipe",
    "batch_tokens": "train.batch_tokens",
    "learning_rate": "train.optimizer.learning_rate",
    "layer_decay": "train.optimizer.layer_decay",
    "freeze": "train.freeze",
    "lora_rank": "train.lora_rank",
    "head_warmup_steps": "train.head_warmup_steps",
    "new_embeddings_steps": "train.new_embeddings_steps",
    "patience": "train.patience",
    "save_every": "train.save_every",
    "seed": "train.seed",
    "device": "train.device",
    "precision": "train.precision",
}
"""Setting by option; an option of the command line is written ``--learning-rate``."""

OPTION_OF = {key: option for option, key in OPTIONS.items()}
"""Option by setting."""

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
    "output_dir": "out",
    "output": "out",
    "checkpoint_path": "checkpoint",
}  # that are no settings


def hint(name: str, options: Iterable[str]) -> str:
    """Return ``" (did you mean 'learning_rate'?)"`` for a name that is none of ``options``, or an empty string.

    A synonym of a setting without an option is answered with its key, such as ``train.keep_last``.
    """
    known = list(options)
    key = SYNONYMS.get(name)
    meant = _OTHER_OPTIONS.get(name) if key is None else OPTION_OF.get(key, key)
    if meant in known or (meant is not None and "." in meant):
        return f" (did you mean '{meant}'?)"
    return did_you_mean(name, known)
