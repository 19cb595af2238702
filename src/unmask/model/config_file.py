"""The architecture in a ``config.json`` of transformers, to be trained from scratch: its class, its settings, no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.errors import ConfigError, did_you_mean
from unmask.remote.systems import refuse_url
from unmask.run_folder import model_folder

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# Of the model that the file was written for, or of its vocabulary.
_NOT_KEPT = (
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
    "quantization_config",
    "torch_dtype",
    "transformers_version",
)


def config_path(given: str) -> Path | None:
    """Return the ``config.json`` that a path names: the file, or that of a model folder or run folder.

    Returns:
        ``None`` if what was given is no path.

    Raises:
        ConfigError: there is no such file.
    """
    refuse_url(given)
    path = Path(given)
    if not path.exists() and not ("/" in given or path.suffix == ".json"):
        return None
    file = Path(model_folder(given)) / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; give a config.json of transformers, or a folder with one")
    return file


def read_config_file(file: Path) -> tuple[str, dict[str, Any]]:
    """Return the ``model_type`` of a ``config.json``, and its other settings.

    Raises:
        ConfigError: it cannot be read, or transformers has no masked language model of its class.
    """
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} is not JSON ({error}); give a config.json of transformers") from None
    family = values.pop("model_type", None) if isinstance(values, dict) else None
    if not isinstance(family, str):
        raise ConfigError(
            f"{file} has no model_type, so its class is not known; give a config.json of transformers"
        )
    if family not in CONFIG_MAPPING:
        code = "; classes whose code comes with the model are not run" if "auto_map" in values else ""
        raise ConfigError(
            f"{file}: transformers has no class for model_type '{family}'{did_you_mean(family, CONFIG_MAPPING)}{code}"
        )
    if family not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise ConfigError(
            f"{file}: transformers has no masked language model of model_type '{family}'; give the config.json of an encoder, "
            f"such as BERT, RoBERTa, DeBERTa or ModernBERT"
        )
    return family, {key: value for key, value in values.items() if key not in _NOT_KEPT}


def make_config(family: str, values: dict[str, Any], source: str) -> PreTrainedConfig:
    """Make a config of transformers.

    Raises:
        ConfigError: a value is not of the kind that the config class takes.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(family, **values)
    except Exception as error:
        raise _impossible(source, error) from error


def make_model(config: PreTrainedConfig, source: str) -> PreTrainedModel:
    """Make the masked language model of a config in fp32, with new weights.

    Raises:
        ConfigError: its settings do not fit each other, or it is no encoder.
    """
    import torch
    from transformers import AutoModelForMaskedLM

    from unmask.model.head import require_encoder

    try:
        model: PreTrainedModel = AutoModelForMaskedLM.from_config(config, dtype=torch.float32)
    except Exception as error:
        raise _impossible(source, error) from error
    require_encoder(model, source)
    return model


def require_model(config: PreTrainedConfig, source: str) -> None:
    """Make sure that :func:`make_model` can make a model of a config; this takes no memory."""
    import torch

    with torch.device("meta"):
        make_model(config, source)


def _impossible(source: str, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return ConfigError(f"{source}: transformers cannot make a model of it: {reason}")
