"""The gradient of looked-up rows, put where it belongs at the end and not carried through a table of its own.

What a step looks up is some hundred or thousand rows of a vocabulary of thirty thousand. Autograd makes a table of
zeros of them, adds it to the gradient that the head has for the same matrix, and so writes and reads the whole
vocabulary again: with short texts, a fiftieth of a step on a CPU (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unmask.model.layers import is_tied


@contextmanager
def defer_embedding_grad(model: Any) -> Iterator[None]:
    """Let the gradient of looked-up rows be added to that of their table where this context ends.

    Forward and backward pass belong in it. The gradient is the one that autograd would make, up to the order of its sums.
    Only a table on the CPU that is the head's matrix too is treated so, since the gradient of others is made of nothing
    but such rows.

    Args:
        model: a masked-LM model of transformers.
    """
    table = model.get_input_embeddings()
    # What is in place of a plain table has ways of its own.
    if (
        type(table) is not nn.Embedding
        or not table.weight.is_cpu
        or not table.weight.requires_grad
        or not is_tied(model)
    ):
        yield
        return
    found: list[tuple[Tensor, Tensor]] = []

    def cut(_: nn.Module, args: tuple[Any, ...], rows: Tensor) -> Tensor | None:
        if not torch.is_grad_enabled() or not args:
            return None
        rows = rows.detach().requires_grad_()
        found.append((args[0], rows))
        return rows

    hook = table.register_forward_hook(cut)
    try:
        yield
    finally:
        hook.remove()
    for ids, rows in found:
        _add(table, ids, rows.grad)


def _add(table: nn.Embedding, ids: Tensor, gradient: Tensor | None) -> None:
    if gradient is None:
        return
    if table.padding_idx is not None:
        gradient.masked_fill_((ids == table.padding_idx).unsqueeze(-1), 0.0)
    if table.weight.grad is None:
        table.weight.grad = torch.zeros_like(table.weight)
    table.weight.grad.index_add_(0, ids.flatten(), gradient.flatten(0, -2))
