"""A whole run: from a configuration to a trained model, its metrics and its report in a run folder."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from unmask.config.settings import RunConfig
from unmask.data.verification import Verification
from unmask.errors import ConfigError, RequirementError
from unmask.model.load import pick_device
from unmask.model.presets import check_trainable
from unmask.objectives.choose import Custom
from unmask.progress import Progress
from unmask.run.adaptation import TaskProbe
from unmask.run.assemble import keep_choices
from unmask.run.callbacks import Callback, Callbacks
from unmask.run.failures import EARLY_ENDS, NOT_OURS, explained, further, is_worth_keeping, write_exit_code
from unmask.run.fingerprint import require_same_settings, require_same_text
from unmask.run.lock import is_empty, is_locked_by, lock_run
from unmask.run.packages import require_run_packages
from unmask.run.published import ENDED, unpublished
from unmask.run.signals import Signals
from unmask.run.tracking import make_trackers
from unmask.run.training_run import FinishedRun, TrainingRun
from unmask.run_folder import RunFolder
from unmask.training.distributed import World, joined
from unmask.training.parallel import require_parallel


def train(
    config: RunConfig,
    out: Path | str,
    *,
    resume: str | None = None,
    command: list[str] | None = None,
    extra: dict[str, Any] | None = None,
    custom: Custom = Custom(),
    probe: TaskProbe | None = None,
    callbacks: Sequence[Callback] = (),
    progress: Progress = Progress(),
) -> FinishedRun:
    """Train or adapt a masked language model and leave a run folder behind.

    Args:
        config: every setting; those that are left open are decided here and written to ``config.yaml``.
        out: the run folder, absent or empty unless ``resume`` is given.
        resume: ``auto`` for the newest whole checkpoint (or the beginning, where there is none), or the path of one.
        command: how the run was called, for the report.
        extra: entries to add to ``run.json``.
        custom: an objective and a masking strategy of the caller's own, which a resume needs again.
        probe: compares base and exported model on ``config.train.task``.
        callbacks: called at the start, for each row of metrics, after evaluations and at the end.
        progress: gets choices, metrics and warnings.

    Raises:
        ConfigError: settings that cannot work, or ``out`` holds another run, or one is at work there.
        DataError: the text cannot be used.
        DivergedError: the loss or the weights are NaN or infinite.
        DiskError: something could not be written.
        Interrupted: a signal came; the run is saved and can be resumed.
    """
    check_trainable(config)
    custom.require(config)
    if config.train.task and probe is None:
        raise ConfigError(
            f"train.task is {config.train.task}, and no probe was passed that compares models on it"
        )
    require_run_packages(config.train)
    require_parallel(config.train)
    folder, signals = RunFolder(Path(out)), Signals(progress)
    device = pick_device(config.train.device)
    with signals.listening(), joined(device, config.train.timeout_minutes) as world:
        # Of several processes the main one alone reports.
        trackers = make_trackers(config.train.track, folder, progress)
        told = Callbacks([*callbacks, *trackers] if world.is_main else [])
        return _train(
            config,
            folder,
            resume,
            world,
            signals,
            progress,
            command or sys.argv,
            extra or {},
            custom,
            probe,
            told,
        )


def _train(
    config: RunConfig,
    folder: RunFolder,
    resume: str | None,
    world: World,
    signals: Signals,
    progress: Progress,
    command: list[str],
    extra: dict[str, Any],
    custom: Custom,
    probe: TaskProbe | None,
    callbacks: Callback,
) -> FinishedRun:
    require_same_settings(config, world)
    fresh = not folder.root.exists() or is_empty(folder.root)
    token = world.from_main(uuid4().hex)
    try:
        if world.is_main:
            _require_free(folder, fresh, resume)
            folder.root.mkdir(parents=True, exist_ok=True)
        locked = lock_run(folder.root, progress, token) if world.is_main else nullcontext()
        with locked, _recording_failure(folder, fresh, world):
            if world.is_main:
                folder.exit_code.unlink(missing_ok=True)  # of the run so far
            watch = Verification(progress=progress if world.is_main else Progress())
            with watch as verification, world.explaining(), torch.random.fork_rng(devices=[]):
                _meet(folder, token, world, progress)
                done = unpublished(config, folder, resume, progress) if world.is_main else None
                finished = world.from_main(done)
                if finished is None:
                    config = world.from_main(_resumed(config, folder, resume) if world.is_main else config)
                    run = TrainingRun(
                        config, folder, resume, progress, signals, world, verification, custom, probe,
                        callbacks,
                    )  # fmt: skip
                    (folder / ENDED).unlink(missing_ok=True)
                    run.write_info(command, extra)
                    finished = run.run()
                if world.is_main:
                    write_exit_code(folder, RequirementError(finished.unmet) if finished.unmet else None)
                return finished
    except EARLY_ENDS as error:
        raise explained(error, folder) from error


@contextmanager
def _recording_failure(folder: RunFolder, fresh: bool, world: World) -> Iterator[None]:
    """After an error tell the other processes, and write the exit code, or remove a new folder that holds nothing of use."""
    try:
        yield
    except BaseException as error:
        # Before its files go; the others say themselves what is saved.
        world.fail(explained(error, folder) if isinstance(error, NOT_OURS) else error)
        if world.rank == world.leader and fresh and not is_worth_keeping(folder, error):
            shutil.rmtree(folder.root, ignore_errors=True)
        elif world.speaks:
            write_exit_code(folder, error)
        raise


def _require_free(folder: RunFolder, fresh: bool, resume: str | None) -> None:
    if not fresh and resume is None:
        raise ConfigError(
            f"{folder.root} already holds files; choose another folder with -o, or resume its run with --resume{further(folder)}"
        )


def _resumed(config: RunConfig, folder: RunFolder, resume: str | None) -> RunConfig:
    if resume is None:
        return config
    require_same_text(config, folder)
    return keep_choices(config, folder)


def _meet(folder: RunFolder, token: str, world: World, progress: Progress) -> None:
    """Find out which processes see the run folder; a host that does not prepares its text itself."""
    world.wait()  # until the main process has locked the folder
    world.meet(is_locked_by(folder.root, token))
    if world.apart:
        folder.root.mkdir(parents=True, exist_ok=True)
        if world.is_main:
            progress.warning(
                f"{', '.join(world.apart)}: this host does not see {folder.root} of {socket.gethostname()}, so it prepares the text "
                f"itself, in a folder of the same name; checkpoints and results are on {socket.gethostname()} alone"
            )
