"""The optional packages that a run needs. Light to import, so that a missing one is said before torch is loaded."""

from __future__ import annotations

from unmask.config.settings import TrainSettings
from unmask.errors import require_packages
from unmask.reporting.drawing import require_charts
from unmask.run.tracking import require_trackers


def require_run_packages(train: TrainSettings) -> None:
    """Refuse settings that need a package which is not installed, before any work.

    Raises:
        MissingExtra: one is needed and not installed.
    """
    require_charts("the report at the end of a run")
    require_trackers(train.track)
    if train.lora_rank:
        require_packages(["peft"], "lora", "--lora-rank")
