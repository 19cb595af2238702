"""Add embedding rows for new vocabulary entries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def add_rows(model: PreTrainedModel, first: int, replaced: Sequence[Sequence[int]]) -> None:
    """Add rows for new tokens to a model, initialised to the mean of the rows of the tokens that each replaces.

    Input embeddings, output embeddings and the bias over the vocabulary get rows; tied weights stay tied. The resizing
    of transformers samples new rows around the mean of all rows instead.

    Args:
        model: any masked-LM model, changed in place with its config. Unused rows are used first.
        first: id of the first new token; the others follow.
        replaced: ids of the tokens that each new token replaces.
    """
    rows = max(_rows(model), first + len(replaced))
    if rows > _rows(model):
        model.resize_token_embeddings(rows, mean_resizing=False)
        model.tie_weights()
    for table in _tables(model):
        means = torch.stack([table[list(ids)].mean(0) for ids in replaced])
        table[first : first + len(replaced)] = means


def _rows(model: PreTrainedModel) -> int:
    return len(model.get_input_embeddings().weight)  # type: ignore[arg-type]


def _tables(model: PreTrainedModel) -> Iterator[Tensor]:
    """Yield the weights with a row per token, tied ones once: ``[V, E]`` embeddings, ``[V]`` biases of the head."""
    rows = _rows(model)
    output: nn.Module | None = model.get_output_embeddings()
    wanted = {id(model.get_input_embeddings().weight)}
    wanted |= {id(weight) for weight in ([] if output is None else output.parameters())}
    encoder = f"{model.base_model_prefix}."
    for name, weight in model.named_parameters():
        # Some heads have a bias besides the decoder's.
        bias = weight.dim() == 1 and name.endswith("bias") and not name.startswith(encoder)
        if len(weight) == rows and (id(weight) in wanted or bias):
            yield weight
