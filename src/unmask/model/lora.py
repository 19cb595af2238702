"""LoRA (Hu et al. 2022) by peft: low-rank adapters beside the linear layers of the encoder, merged at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from unmask.errors import ConfigError
from unmask.model.layers import encoder_layers, head_weights

if TYPE_CHECKING:
    from peft import LoraModel
    from transformers import PreTrainedModel

_ALPHA = 2  # the usual scale: the update counts twice, whatever the rank


def add_lora(model: PreTrainedModel, rank: int, *, seed: int, head: bool) -> LoraModel:
    """Put adapters beside the linear layers of the encoder, in place, and freeze everything else.

    Args:
        model: a masked-LM model; its output stays what it was.
        rank: of the adapters.
        seed: of their first factor; the second is zero.
        head: whether the LM head moves as well.

    Returns:
        What :func:`merge_lora` needs.

    Raises:
        ConfigError: peft is not installed.
    """
    try:
        from peft import LoraConfig, LoraModel
    except ImportError:
        raise ConfigError("LoRA needs peft: pip install 'unmask[lora]'") from None
    stack, layers = encoder_layers(model)
    linear = [f"{stack}.{name}" for name, module in layers.named_modules() if isinstance(module, nn.Linear)]
    config = LoraConfig(r=rank, lora_alpha=_ALPHA * rank, target_modules=linear)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tuner = LoraModel(model, config, "default")
    for weight in head_weights(model):
        weight.requires_grad_(head)
    return tuner


def merge_lora(tuner: LoraModel) -> None:
    """Add the adapters to the weights they stand beside and take them out, in place."""
    tuner.merge_and_unload()
