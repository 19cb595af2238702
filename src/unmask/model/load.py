"""Load a checkpoint, or make a new model from a preset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from unmask.data.tokenizer import checkpoint_name, load_tokenizer, vocabulary_of
from unmask.errors import ConfigError
from unmask.model.cpu.linear import use_onednn_linear
from unmask.model.masked_lm import MaskedLM
from unmask.model.precision import pick_precision
from unmask.model.presets import find_preset

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Log = Callable[[str], None]


def pick_device(wanted: str) -> torch.device:
    """Return the device that ``auto``, ``cpu`` or ``cuda`` stands for.

    Raises:
        ConfigError: CUDA was asked for and is not there.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device cuda was asked for, but torch finds no CUDA device; use --device cpu or auto"
        )
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def load_masked_lm(
    name: str,
    *,
    device: str = "auto",
    precision: str = "fp32",
    offline: bool = False,
    frozen: bool = False,
    log: Log = lambda text: None,
) -> MaskedLM:
    """Load a masked language model with its tokenizer, ready to be asked.

    Args:
        name: Hub name (``name@revision`` pins one) or local folder.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``fp32`` or ``bf16``.
        offline: make no network call.
        frozen: whether the weights will stay as they are; then a second copy of them, laid out for the processor,
            makes asking two to three times as fast on a CPU (:mod:`unmask.model.cpu.linear`).
        log: hears of a head that starts anew.

    Raises:
        ConfigError: model or tokenizer cannot be loaded, or do not fit each other.
    """
    tokenizer = load_tokenizer(name, offline=offline)
    model = load_checkpoint(name, offline=offline, log=log)
    model.to(pick_device(device))  # type: ignore[arg-type]
    if frozen:
        use_onednn_linear(model)
    return MaskedLM(model.eval(), tokenizer, autocast=precision == "bf16")


def load_for_inference(
    model: str | Path | MaskedLM,
    *,
    device: str,
    precision: str,
    offline: bool,
    log: Log,
    hint: str = "",
) -> MaskedLM:
    """Return the model itself, or load it to be asked alone, in the precision that pays.

    Args:
        model: Hub name, folder, or a model that is loaded already; then nothing else counts.
        device, offline: as for :func:`load_masked_lm`.
        precision: ``fp32``, ``bf16``, or ``auto`` to measure.
        log: hears what ``auto`` chose, and of a head that starts anew.
        hint: is said after what was chosen.

    Raises:
        ConfigError: it cannot be loaded.
    """
    if not isinstance(model, (str, Path)):
        return model
    chosen, why = pick_precision(precision, pick_device(device))
    if precision == "auto":
        log(why + hint)
    return load_masked_lm(str(model), device=device, precision=chosen, offline=offline, frozen=True, log=log)


def load_checkpoint(
    name: str, *, offline: bool = False, seed: int = 0, log: Log = lambda text: None
) -> PreTrainedModel:
    """Load the weights of a checkpoint; see :func:`read_checkpoint`."""
    return read_checkpoint(name, offline=offline, seed=seed, log=log).model


@dataclass(frozen=True)
class Checkpoint:
    """A model as it was loaded.

    Attributes:
        model: in fp32.
        new_head: the names of the weights of an LM head that the checkpoint did not bring.
    """

    model: PreTrainedModel
    new_head: list[str]


def read_checkpoint(
    name: str, *, offline: bool = False, seed: int = 0, log: Log = lambda text: None
) -> Checkpoint:
    """Load the weights of a checkpoint in fp32, from safetensors only, running no remote code.

    Args:
        name: Hub name (``name@revision`` pins one) or local folder.
        offline: make no network call.
        seed: of the weights of a head that the checkpoint lacks.
        log: hears of such a head.

    Raises:
        ConfigError: it cannot be loaded as a masked language model.
    """
    from transformers import AutoModelForMaskedLM

    path, revision = checkpoint_name(name)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, info = AutoModelForMaskedLM.from_pretrained(
                path,
                revision=revision,
                local_files_only=offline,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ConfigError(
            f"no masked language model could be loaded from '{name}': {reason}. Give a folder with config.json and "
            f"model.safetensors, or a Hub name that this machine can reach"
        ) from error
    return Checkpoint(model, _tell_missing(name, model, info, log))


def _tell_missing(name: str, model: PreTrainedModel, info: dict[str, Any], log: Log) -> list[str]:
    missing = sorted(info["missing_keys"])
    body = [key for key in missing if key.startswith(f"{model.base_model_prefix}.") and "pooler" not in key]
    if body:
        raise ConfigError(
            f"'{name}' lacks {len(body)} weights of the encoder itself, for example {body[0]}; "
            f"it does not fit the class {type(model).__name__} that its config names"
        )
    head = [key for key in missing if key not in body and "pooler" not in key]
    if head:
        log(
            f"'{name}' brings no LM head: {len(head)} of its weights start anew ({', '.join(head[:3])}"
            f"{', …' if len(head) > 3 else ''}). Expect a high loss at first"
        )
    return head


def new_model(preset: str, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """Make a model with new weights, the same for the same seed.

    Raises:
        ConfigError: there is no such preset.
    """
    from transformers import AutoConfig, AutoModelForMaskedLM

    chosen = find_preset(preset)
    vocabulary = vocabulary_of(tokenizer)
    # A multiple of 64 rows suits matrix hardware; the surplus rows are never a target.
    rows = -(-vocabulary.size // 64) * 64
    ids = {"pad_token_id": tokenizer.pad_token_id, "cls_token_id": tokenizer.cls_token_id}
    ids |= {"sep_token_id": tokenizer.sep_token_id, "bos_token_id": None, "eos_token_id": None}
    config = AutoConfig.for_model(chosen.family, **chosen.config_values(rows), **ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForMaskedLM.from_config(config, dtype=torch.float32)
    return model


def set_dropout(model: nn.Module, rate: float) -> None:
    """Set every dropout of a model, leaving its config as it was."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        for name in ("attention_dropout", "dropout", "dropout_prob", "drop_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, rate)
