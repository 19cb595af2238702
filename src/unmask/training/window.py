"""The window of a run: sums over the steps since its last row of metrics, and the means in that row.

It is a part of :class:`~unmask.training.position.Position`, so that a resumed run writes the same rows.
"""

from __future__ import annotations

from typing import Any

from unmask.objectives.objective import Objective
from unmask.training.steps import StepPlan

Row = dict[str, Any]
Window = dict[str, Any]


def new_window(plan: StepPlan) -> Window:
    """Return the empty window that begins with a step."""
    window: Window = dict.fromkeys(("steps", "tokens", "seconds", "waited"), 0)
    window["stage"] = plan.stage
    for key in map(_key, range(len(plan.counts))):
        window |= {f"{sum_}{key}": 0 for sum_ in ("loss", "correct", "targets")}
    return window


def add_step(window: Window, plan: StepPlan, losses: list[float], correct: list[int], norm: float) -> None:
    """Add the figures of a step that was applied; its tokens and time are counted as it is computed.

    Args:
        window: to add to.
        plan: of the step.
        losses: mean of each loss over its targets.
        correct: targets of each loss that were predicted exactly.
        norm: of the gradient.
    """
    for number, targets in enumerate(plan.counts):
        key = _key(number)
        window[f"loss{key}"] += losses[number] * targets
        window[f"correct{key}"] += correct[number]
        window[f"targets{key}"] += targets
    window["steps"] += 1
    window["grad_norm"] = norm
    window["mask_rate"] = plan.mask_rate


def _key(number: int) -> str:
    """Return what the sums of a loss end with; those of the first have the names of earlier versions."""
    return f"_{number}" if number else ""


def mean_losses(window: Window, objective: Objective) -> Row:
    """Return the loss that is minimised and the accuracy of the main one; of several losses, each by its name too."""
    means: list[float | None] = []
    accuracies: list[float | None] = []
    for number, name in enumerate(objective.loss_names):
        key = _key(number)
        targets, counted = window[f"targets{key}"], name not in objective.without_accuracy
        means.append(window[f"loss{key}"] / targets if targets else None)
        accuracies.append(window[f"correct{key}"] / targets if targets and counted else None)
    known = any(mean is not None for mean in means)
    row: Row = {
        "loss": objective.total([mean or 0.0 for mean in means]) if known else None,
        "accuracy": accuracies[0],
    }
    if len(means) > 1:
        for name, mean, accuracy in zip(objective.loss_names, means, accuracies, strict=True):
            row[f"{name}_loss"] = mean
            if name not in objective.without_accuracy:
                row[f"{name}_accuracy"] = accuracy
    return row
