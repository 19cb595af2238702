"""A whole run: from a configuration to a trained model, its metrics and its report in a run folder."""

from __future__ import annotations

import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from unmask.config.settings import RunConfig
from unmask.errors import ConfigError
from unmask.model.presets import check_trainable
from unmask.progress import Progress
from unmask.run.assemble import keep_choices
from unmask.run.failures import EARLY_ENDS, explained, further, is_worth_keeping
from unmask.run.fingerprint import require_same_text
from unmask.run.lock import is_empty, lock_run
from unmask.run.signals import Signals
from unmask.run.training_run import FinishedRun, TrainingRun
from unmask.run_folder import RunFolder
from unmask.training.distributed import World


def train(
    config: RunConfig,
    out: Path | str,
    *,
    resume: str | None = None,
    command: list[str] | None = None,
    extra: dict[str, Any] | None = None,
    progress: Progress = Progress(),
) -> FinishedRun:
    """Train or adapt a masked language model and leave a run folder behind.

    Args:
        config: every setting; those that are left open are decided here and written to ``config.yaml``.
        out: the run folder, absent or empty unless ``resume`` is given.
        resume: ``auto`` for the newest whole checkpoint (or the beginning, where there is none), or the path of one.
        command: how the run was called, for the report.
        extra: entries to add to ``run.json``.
        progress: gets choices, metrics and warnings.

    Raises:
        ConfigError: settings that cannot work, or ``out`` holds another run, or one is at work there.
        DataError: the text cannot be used.
        DivergedError: the loss or the weights are NaN or infinite.
        DiskError: something could not be written.
        Interrupted: a signal came; the run is saved and can be resumed.
    """
    check_trainable(config)
    folder = RunFolder(Path(out))
    is_main = World.will_be_main()  # other processes may come here when the main one has begun to write
    fresh = not folder.root.exists() or is_empty(folder.root)
    if is_main and not fresh and resume is None:
        raise ConfigError(
            f"{folder.root} already holds files; choose another folder with -o, or resume its run with --resume{further(folder)}"
        )
    signals = Signals(progress)
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        with lock_run(folder.root, progress) if is_main else nullcontext(), signals.listening():
            try:
                if resume is not None:
                    require_same_text(config, folder)
                    config = keep_choices(config, folder)
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(config.train.seed)  # the seed of dropout
                    run = TrainingRun(config, folder, resume, progress, signals)
                    run.write_info(command or sys.argv, extra or {})
                    return run.run()
            except BaseException as error:
                if is_main and fresh and not is_worth_keeping(folder, error):
                    shutil.rmtree(folder.root, ignore_errors=True)
                raise
    except EARLY_ENDS as error:
        raise explained(error, folder) from error
