"""New rows of the embeddings for new entries of a vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def add_rows(model: PreTrainedModel, first: int, pieces: Sequence[Sequence[int]]) -> None:
    """Give a model rows for new tokens; each starts as the mean of the rows of the tokens that it replaces.

    That goes for the input embeddings, the output embeddings and the bias over the vocabulary; what is tied stays
    tied. transformers' own resizing draws new rows around the mean of all rows instead.

    Args:
        model: any masked-LM model; it is changed, its config too. Rows that it has to spare are used first.
        first: id of the first new token; the others follow.
        pieces: for each new token, the ids of the tokens that it replaces.
    """
    rows = max(_rows(model), first + len(pieces))
    if rows > _rows(model):
        model.resize_token_embeddings(rows, mean_resizing=False)
        model.tie_weights()
    for table in _tables(model):
        means = torch.stack([table[list(replaced)].mean(0) for replaced in pieces])
        table[first : first + len(pieces)] = means


def _rows(model: PreTrainedModel) -> int:
    return len(model.get_input_embeddings().weight)  # type: ignore[arg-type]


def _tables(model: PreTrainedModel) -> Iterator[Tensor]:
    """Yield what has a row for each token, tied ones once: ``[V, E]`` embeddings, ``[V]`` biases of the head."""
    rows = _rows(model)
    output: nn.Module | None = model.get_output_embeddings()
    wanted = {id(model.get_input_embeddings().weight)}
    wanted |= {id(weight) for weight in ([] if output is None else output.parameters())}
    encoder = f"{model.base_model_prefix}."
    for name, weight in model.named_parameters():
        # Some heads add a bias of their own to the decoder's.
        bias = weight.dim() == 1 and name.endswith("bias") and not name.startswith(encoder)
        if len(weight) == rows and (id(weight) in wanted or bias):
            yield weight
