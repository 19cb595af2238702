"""Write a model as safetensors with two bytes a weight."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from unmask.errors import ConfigError
from unmask.model.save import save_trained

if TYPE_CHECKING:
    from unmask.model.masked_lm import MaskedLM


def write_fp16(model: MaskedLM, folder: Path) -> None:
    """Write a model in fp16.

    Raises:
        ConfigError: a weight is too large for it.
    """
    _write(model, folder, torch.float16)


def write_bf16(model: MaskedLM, folder: Path) -> None:
    """Write a model in bf16."""
    _write(model, folder, torch.bfloat16)


def _write(model: MaskedLM, folder: Path, dtype: torch.dtype) -> None:
    copy = deepcopy(model.model)  # a copy, so that tied weights stay tied
    copy.to(dtype)  # type: ignore[arg-type]
    if not all(weight.isfinite().all() for weight in copy.parameters()):
        raise ConfigError("a weight is too large for fp16, whose largest number is 65,504; use bf16")
    save_trained(copy, folder, model.new_head)
