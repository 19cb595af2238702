"""Settings of earlier versions: those with a new name, and those that became constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unmask.errors import ConfigError

RENAMED = {
    "data.general_heldout": "data.forgetting_eval",
    "masking.rate_start": "masking.initial_rate",
    "train.init_head_steps": "train.head_warmup_steps",
    "train.keep_best": "train.export_best",
    "train.warm_new_rows": "train.new_embeddings_steps",
}
"""Old key to new key."""

REMOVED: dict[str, tuple[tuple[Any, ...], str]] = {
    "masking.collocations": (
        (None,),
        "masking.terms takes phrases, each with the weight 1 where it shall not be masked more often",
    ),
    "masking.rate_schedule": (("linear",), "the mask rate always changes linearly"),
    "masking.span_p": ((0.2,), "a span always ends after each word with probability 0.2"),
    "masking.term_weight": ((5,), "a term without a weight in its file always has 5"),
    "train.batch_ramp": ((None, 0), "every step has train.batch_tokens tokens"),
    "train.max_bad_steps": ((5,), "a run always ends after 5 skipped steps in a row"),
    "train.schedule.decay_share": ((0.4,), "a trapezoid always decays over the last 0.4 of the run"),
}
"""Removed key to the values that still mean the same, and to what holds now."""


def impossible(key: str, value: Any) -> str | None:
    """Say why the value of a removed setting is no longer possible, or return ``None`` where it holds anyway."""
    values, now = REMOVED[key]
    return None if value in values else f"{key} no longer exists ({now}), so {value!r} is not possible"


def translate(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of an earlier version, by dotted key, under their present keys.

    Raises:
        ConfigError: a removed setting has a value that is no longer possible.
    """
    for key in sorted(REMOVED.keys() & settings.keys()):
        if problem := impossible(key, settings[key]):
            raise ConfigError(problem)
    return {RENAMED.get(key, key): value for key, value in settings.items() if key not in REMOVED}
