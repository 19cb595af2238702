"""A labelled task for the verdict on an adapted model: linear probes of its base and of the exported model, compared."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unmask.config.settings import RunConfig
from unmask.errors import ConfigError, DataError
from unmask.progress import Progress

if TYPE_CHECKING:
    from unmask.probing.settings import ProbeSettings


def task_probe(config: RunConfig) -> Callable[[str, Path, Progress], dict[str, Any]] | None:
    """Return what compares a base and an exported model on the task of a run, if it has one.

    The task is read here, so that one that cannot be used ends the run before its training.

    Raises:
        DataError: the task is missing, broken or without a test part, or test texts occur in train.
        ConfigError: it is a task of retrieval, or a package is missing.
    """
    if (path := config.train.task) is None:
        return None
    # Most runs have no task, and begin sooner without these.
    from unmask.probing.metrics import check_packages
    from unmask.probing.retrieval_tasks import is_retrieval_folder
    from unmask.probing.settings import ProbeSettings
    from unmask.probing.tasks import read_task, resolve_overlap

    if is_retrieval_folder(Path(path)):
        raise ConfigError(f"--task {path}: expected a task with labels, found one of retrieval")
    try:
        task = resolve_overlap(read_task(path))
    except (ConfigError, DataError) as error:  # which names options of the probe
        raise DataError(
            f"--task: expected a task that 'unmask probe --task' takes without further options: {error}"
        ) from None
    check_packages(task.kind)
    settings = ProbeSettings(device=config.train.device, precision="fp32", offline=config.model.offline)
    return partial(_compare, path, settings)


def _compare(
    task: str, settings: ProbeSettings, base: str, model: Path, progress: Progress
) -> dict[str, Any]:
    """Return ``probes`` of ``adaptation.json``."""
    from unmask.probing.probe import probe

    found = probe([base, str(model)], task, settings, progress=progress)
    (change,) = found.verdicts
    before, after = (float(np.mean(each.metrics[change.metric])) for each in found.models)
    return {
        "task": Path(task).name,
        "kind": found.task.kind,
        "metric": change.metric,
        "seeds": settings.seeds,
        "sizes": {"train": len(found.task.train), "test": len(found.task.test)},
        "before": before,
        "after": after,
        "change": {"value": change.mean, "interval": change.interval},
        "notes": found.notes,
        "failed": None,
    }
