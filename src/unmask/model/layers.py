"""How deep in a model a weight lies: embeddings at the bottom, the encoder's layers above them, the head on top."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from unmask.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
        raise ConfigError(f"{type(model).__name__} keeps its layers in no list, so their depth is not known")
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
