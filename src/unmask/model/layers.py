"""The layers of a model: the depth of each weight, and LoRA adapters (Hu et al. 2022, by peft) on the encoder's."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unmask.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from peft import LoraModel
    from transformers import PreTrainedModel


_ALPHA = 2  # the usual scale: the update counts twice, whatever the rank


def networks(model: nn.Module) -> dict[str, PreTrainedModel]:
    """Return the models of transformers with an encoder in a module, by the beginning of the names of their weights.

    They are the model itself, under ``""``, and those that an objective trains with it.
    """
    from transformers import PreTrainedModel

    return {
        f"{name}." if name else "": module
        for name, module in model.named_modules()
        if isinstance(module, PreTrainedModel) and hasattr(module, module.base_model_prefix)
    }


def encoder_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Return the name and the modules of the stack of layers: the list in the encoder that holds most weights.

    Raises:
        ConfigError: the encoder has no list of modules.
    """
    prefix = model.base_model_prefix
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and name.startswith(f"{prefix}.")
    ]
    if not found:
        raise ConfigError(f"{type(model).__name__} has no list of layers, so their depth is not known")
    # The outermost of lists within each other comes first, and max keeps the first of equals.
    return max(found, key=lambda item: sum(weight.numel() for weight in item[1].parameters()))


def depths(model: PreTrainedModel) -> dict[str, int]:
    """Return for every weight 0 in the embeddings, ``i + 1`` in layer ``i``, and one more than the layers in the head.

    What follows the last layer in the encoder, such as a final norm, is as deep as that layer. A matrix that the head
    shares with the embeddings is an embedding.
    """
    stack, layers = encoder_layers(model)
    return {
        name: _depth(model, name, weight, stack, len(layers)) for name, weight in model.named_parameters()
    }


def _depth(model: PreTrainedModel, name: str, weight: Tensor, stack: str, layers: int) -> int:
    if name.startswith(f"{stack}."):
        return int(name.removeprefix(f"{stack}.").partition(".")[0]) + 1
    if not name.startswith(f"{model.base_model_prefix}."):
        return layers + 1
    return 0 if "embed" in name or is_table(model, weight) else layers


def is_table(model: nn.Module, weight: Tensor) -> bool:
    """Whether a weight is looked up by row, not multiplied with."""
    return any(module.weight is weight for module in model.modules() if isinstance(module, nn.Embedding))


def freeze_embeddings(model: PreTrainedModel) -> bool:
    """Keep the embeddings as they are, and return whether the head's output matrix is one of them."""
    deep = depths(model)
    for name, weight in model.named_parameters():
        if deep[name] == 0:
            weight.requires_grad_(False)
    return is_tied(model)


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the head's output matrix is the table of embeddings."""
    output = model.get_output_embeddings()
    return output is not None and output.weight is model.get_input_embeddings().weight


def head_weights(model: PreTrainedModel) -> list[nn.Parameter]:
    """Return the weights that are the head's alone: those outside the encoder, without what it shares with it."""
    inside = {id(weight) for weight in model.base_model.parameters()}
    return [weight for weight in model.parameters() if id(weight) not in inside]


def add_lora(model: PreTrainedModel, rank: int, *, seed: int, head: bool) -> LoraModel:
    """Add adapters to the linear layers of the encoder, in place, and freeze everything else.

    Args:
        model: a masked-LM model; its output stays what it was.
        rank: of the adapters.
        seed: of their first factor; the second is zero.
        head: whether the LM head is trained as well.

    Returns:
        The model with its adapters, for :func:`merge_lora`.

    Raises:
        MissingExtra: peft is not installed.
    """
    try:
        from peft import LoraConfig, LoraModel
    except ImportError:
        raise MissingExtra("peft", "lora", "--lora-rank") from None
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
    """Merge the adapters into the weights and remove them, in place."""
    tuner.merge_and_unload()


def usable_positions(model: Any, encoder: nn.Module, offset: int) -> int:
    """Return the tokens of the longest sequence that a model takes.

    Args:
        model: of transformers.
        encoder: of it.
        offset: the first position that tokens have; where it is 0, RoBERTa's begin after the padding index.
    """
    limits = [sys.maxsize]
    if not offset:
        tables = (m for n, m in encoder.named_modules() if n.endswith("position_embeddings"))
        used = [
            table.padding_idx for table in tables if isinstance(table, nn.Embedding) and table.padding_idx
        ]
        offset = used[0] + 1 if used else 0
    for name in ("max_position_embeddings", "n_positions", "max_seq_length"):
        if isinstance(limit := getattr(model.config, name, None), int) and limit > 0:
            limits.append(limit - offset)
    return min(limits)
