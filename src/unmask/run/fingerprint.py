"""The fingerprint of a run, which a resume must find unchanged, and the machine it ran on."""

from __future__ import annotations

import hashlib
import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from unmask.config.old_keys import translate
from unmask.config.options import flat_settings
from unmask.config.settings import RunConfig
from unmask.data.corpus import MANIFEST
from unmask.data.masking.custom import CustomUnits
from unmask.data.reading.inputs import describe_inputs
from unmask.data.tokenizer import tokenizer_hash
from unmask.errors import ConfigError
from unmask.machine import cores, memory_bytes, version_of
from unmask.model.presets import find_preset
from unmask.run.components import RunComponents
from unmask.run.failures import further
from unmask.run_folder import RunFolder
from unmask.storage import read_json, sha256
from unmask.training.distributed import World

# Settings that a resume may change: they affect no step that is done, or only when the run ends.
_FREE = {
    "model": {"offline"},
    "data": {"strict", "offline", "allow_unknown", "inputs", "heldout", "replay", "forgetting_eval"},
    "train": {"micro_batch_tokens", "save_every", "keep_last", "eval_every", "eval_tokens", "device", "max_steps",
              "epochs", "minutes", "gradient_checkpointing", "compile", "patience", "export_best", "parallel", "offload",
              "timeout_minutes", "export_alpha", "max_forgetting", "require", "task", "track"},
}  # fmt: skip


def fingerprint_of(config: RunConfig, components: RunComponents) -> dict[str, Any]:
    """Return everything that determines the steps of a run: settings, text and tokenizer."""
    settings = config.model_dump()
    for section, keys in _FREE.items():
        for key in keys:
            settings[section].pop(key)
    settings["model"]["near_layers"] = (
        settings["model"]["near_layers"] or None
    )  # runs of earlier versions have none
    if settings["data"]["heldout_minimum"] == 1:
        settings["data"]["heldout_minimum"] = None  # the same
    # Code of the caller's own is known by its name alone.
    if settings["train"]["objective"] == "custom":
        kind = type(components.objective)
        settings["train"]["objective"] = f"custom ({kind.__module__}.{kind.__qualname__})"
    if isinstance(components.text.plan.custom, CustomUnits):
        settings["masking"]["strategy"] = f"custom ({components.text.plan.custom.name})"
    return {
        "settings": settings,
        "text": _corpus_hash(components),
        "tokenizer": tokenizer_hash(components.model.tokenizer),
        "lists": _lists_hash(config),
        "parameters": components.model.parameters,
        "architecture": _architecture_hash(config),
    }


def require_same_settings(config: RunConfig, world: World) -> None:
    """Refuse to begin where the processes of a run have other versions or settings; paths of text may differ.

    Raises:
        ConfigError: they differ; the message says in what.
    """
    settings = config.model_dump()
    for key in ("inputs", "heldout", "replay", "forgetting_eval"):
        settings["data"].pop(key)
    versions = {name: version_of(name) for name in ("unmask", "torch", "transformers", "tokenizers")}
    world.require_same(versions | flat_settings(settings))


def require_same_model(fingerprint: dict[str, Any], components: RunComponents) -> None:
    """Refuse to begin where the processes of a run have other text, another tokenizer or other weights.

    Raises:
        ConfigError: they differ; the message says in what.
    """
    if components.world.size == 1:
        return
    weights = hashlib.sha256()
    for weight in components.model.model.parameters():
        weights.update(weight.detach().cpu().view(torch.uint8).numpy().data)
    facts = {key: fingerprint[key] for key in ("text", "tokenizer", "lists")}
    components.world.require_same(facts | {"weights": weights.hexdigest(), "precision": components.precision})


def _lists_hash(config: RunConfig) -> str:
    """Hash the list of terms that masking reads, since its path says nothing of what is in it."""
    return sha256(Path(config.masking.terms).read_bytes() if config.masking.terms else b"")


def _architecture_hash(config: RunConfig) -> str | None:
    """Hash what a config file says, since its path does not say it; presets are known by their names."""
    preset = find_preset(config.model.preset) if config.model.preset else None
    if preset is None or not preset.file:
        return None
    return sha256(json.dumps([preset.family, preset.extra], sort_keys=True).encode())


def _corpus_hash(components: RunComponents) -> str:
    texts = [components.text, *([components.replay] if components.replay else [])]
    sums = [shard["sha256"] for text in texts for shard in text.corpus.manifest["shards"]]
    return sha256(json.dumps(sums, sort_keys=True).encode())


def require_same_text(config: RunConfig, folder: RunFolder) -> None:
    """Refuse to resume on other text than was prepared when the run began, before anything is read.

    Raises:
        ConfigError: files were added or changed, or other inputs are given.
    """
    for shards, inputs in (
        (folder.shards, config.data.inputs),
        (folder.root / "shards-replay", config.data.replay),
    ):
        prepared = (read_json(shards / MANIFEST) or {}).get("inputs") if inputs else None
        if prepared is not None and prepared != describe_inputs(inputs):
            raise ConfigError(
                f"cannot resume: the text of the run ({', '.join(inputs)[:200]}) changed since it began; "
                f"restore it, or start again in another folder{further(folder)}"
            )


def check_fingerprint(saved: dict[str, Any], current: dict[str, Any], folder: RunFolder) -> None:
    """Refuse to resume with other settings, text or tokenizer; keys of earlier versions are translated.

    Raises:
        ConfigError: something differs; the message says what.
    """
    for part in ("text", "tokenizer", "lists", "parameters", "architecture"):
        if saved.get(part) != current[part]:  # earlier versions have no architecture
            raise ConfigError(
                f"cannot resume: the {part} of this run changed since its checkpoint was written; "
                f"restore it, or start again in another folder{further(folder)}"
            )
    try:
        after, usual = flat_settings(current["settings"]), flat_settings(RunConfig().model_dump())
        # A setting that was added since had its default: that of a new setting changes nothing.
        before = {key: usual[key] for key in after if key in usual} | translate(
            flat_settings(saved["settings"])
        )
    except ConfigError as error:
        raise ConfigError(
            f"cannot resume: {error}; finish this run with the version that began it ('unmask' in run.json), "
            f"or start again in another folder"
        ) from None
    changed = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    if changed:
        changes = [f"{key} was {before.get(key)!r} and is now {after.get(key)!r}" for key in changed]
        raise ConfigError(
            f"cannot resume: {', '.join(changes)}; "
            f"use the settings of the run (config.yaml in its folder), or start a new run in another folder"
        )


def given_otherwise(config: RunConfig, before: RunConfig) -> list[str]:
    """Return the settings that are neither left open nor those of a run so far."""
    given, known, usual = (flat_settings(of.model_dump()) for of in (config, before, RunConfig()))
    return [key for key, value in given.items() if value not in (known.get(key), usual.get(key))]


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def machine_info() -> dict[str, Any]:
    """Return versions and the machine, for ``run.json``."""
    return {
        "unmask": version_of("unmask"),
        "torch": torch.__version__,
        "transformers": version_of("transformers"),
        "python": platform.python_version(),
        "machine": {
            "cpu": _processor(),
            "cores": cores(),
            "memory_gb": round(memory / 2**30, 1) if (memory := memory_bytes()) else None,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
