"""The objective of a run by its settings."""

from __future__ import annotations

from unmask.config.settings import TrainSettings
from unmask.objectives.mlm import MaskedLanguageModelling
from unmask.objectives.objective import Objective


def objective_of(train: TrainSettings) -> Objective:
    """Return the objective that the settings name."""
    return MaskedLanguageModelling()
