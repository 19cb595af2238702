"""The staged start of a run: first steps in which only new weights are trained, so that their noise does not spread."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from unmask.model.layers import head_weights
from unmask.model.vocabulary_rows import vocabulary_dims
from unmask.training.optimizers import set_learning_rate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HEAD_RATE = 1e-3  # that of a small model from scratch, which a head on a frozen encoder is
_ROW_FACTOR = 10.0  # Adam changes an entry by about the rate a step, and entries of embeddings are about 0.05


@dataclass
class StagedStart:
    """The first steps of a run; with no steps, it does nothing.

    Attributes:
        steps: how many there are.
        rate: the learning rate in them; it rises over the first tenth of them.
        frozen_at_first: weights that are trained only afterwards.
        tables: weights of which only ``rows`` are trained, whatever their other dimensions.
        rows: ``int64 [R]``.
    """

    steps: int = 0
    rate: float = 0.0
    frozen_at_first: list[nn.Parameter] = field(default_factory=list)
    tables: list[nn.Parameter] = field(default_factory=list)
    rows: Tensor | None = None

    def begin(self, step: int) -> None:
        """Freeze or unfreeze weights for a step, the first of a run being 0."""
        for weight in self.frozen_at_first:
            weight.requires_grad_(step >= self.steps)

    def mask(self, step: int) -> None:
        """Clear the gradient of the frozen rows, so that it counts in no norm and no moment."""
        if step >= self.steps or self.rows is None:
            return
        for table in self.tables:
            if table.grad is not None:
                kept = table.grad[self.rows]
                table.grad.zero_()
                table.grad[self.rows] = kept

    def set_rates(self, optimizers: list[torch.optim.Optimizer], step: int, factor: float) -> None:
        """Set the learning rates of a step; ``factor`` is what the schedule says.

        After the staged start the rates rise again over as many steps: the moments of the frozen weights begin there.
        """
        over = step >= self.steps
        if over:
            rise = (step + 1 - self.steps) / self.steps if self.steps else 1.0
            set_learning_rate(optimizers, factor * min(1.0, rise))
        for group in (group for optimizer in optimizers for group in optimizer.param_groups if self.steps):
            # Weight decay would change the frozen rows.
            group["weight_decay"] = group["full_decay"] if over or not self.tables else 0.0
            if not over:
                group["lr"] = self.rate * min(1.0, (step + 1) / max(1, self.steps // 10))


def head_first(model: PreTrainedModel, steps: int) -> StagedStart:
    """Train only the LM head for some steps."""
    head = {id(weight) for weight in head_weights(model)}
    frozen_at_first = [
        weight for weight in model.parameters() if weight.requires_grad and id(weight) not in head
    ]
    return StagedStart(steps, _HEAD_RATE, frozen_at_first)


def rows_first(model: PreTrainedModel, steps: int, ids: list[int], learning_rate: float) -> StagedStart:
    """Train only the rows of some tokens for some steps, in all weights that have a row for each token.

    Args:
        model: a masked-LM model.
        steps: how many.
        ids: of the tokens.
        learning_rate: peak rate of the run.
    """
    dims = vocabulary_dims(model)
    named = model.named_parameters(remove_duplicate=False)
    tables = {id(weight): weight for name, weight in named if dims.get(name) == 0}
    frozen_at_first = [
        weight for weight in model.parameters() if weight.requires_grad and id(weight) not in tables
    ]
    rows = torch.tensor(ids, device=model.device)
    return StagedStart(steps, _ROW_FACTOR * learning_rate, frozen_at_first, list(tables.values()), rows)
