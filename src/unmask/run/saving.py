"""Saving and resuming a run: its checkpoints and its best weights, none of which holds anything of damaged text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unmask.config.settings import RunConfig
from unmask.data.verification import Verification
from unmask.errors import DataError, DivergedError
from unmask.progress import Progress
from unmask.run.components import RunComponents
from unmask.run.fingerprint import check_fingerprint
from unmask.run.state import RunState
from unmask.run_folder import RunFolder
from unmask.storage import keep_rows, sync_to_disk
from unmask.training.best_weights import Best, check_best, load_best, save_best
from unmask.training.checkpoint import (
    CheckpointWriter,
    find_checkpoint,
    load_checkpoint_state,
    restore,
    set_aside,
)
from unmask.training.distributed import World
from unmask.training.loop import Loop
from unmask.training.position import Position
from unmask.training.stability import require_finite_weights


class RunCheckpoints:
    """The checkpoints of a run; every process makes one and calls it alike.

    Args:
        folder: of the run.
        config: its settings.
        components: as they are trained.
        loop: of the run, whose position and optimizers are saved.
        fingerprint: what a checkpoint must agree with.
        verification: of the shards.
        progress: is told what is resumed, and what could not be saved.

    Attributes:
        saved: the step of the last checkpoint; -1 where there is none, or what it holds is no longer all.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: RunConfig,
        components: RunComponents,
        loop: Loop,
        fingerprint: dict[str, Any],
        verification: Verification,
        progress: Progress,
    ) -> None:
        self._folder, self._config, self._components, self._loop = folder, config, components, loop
        self._fingerprint, self._verification, self._progress = fingerprint, verification, progress
        self._writer = CheckpointWriter(components.world, loop.gradient_sum.sharded)
        self._verified, self.saved = False, -1

    @property
    def _model(self) -> Any:
        return self._components.model.model

    def verify(self) -> None:
        """Wait until the shards are compared with their checksums, in all processes: nothing of damaged text is kept."""
        if not self._verified:
            verify(self._verification, self._components.world)
            self._verified = True

    def save(self, state: RunState) -> None:
        """Write a checkpoint of the last step in the background."""
        self.verify()
        self._loop.settle()
        position = self._loop.position
        require_finite_weights(self._model, position.step)
        content = position.to_dict() | {"fingerprint": self._fingerprint} | state.to_dict()
        # The rows up to here are not written again.
        if self._components.world.is_main and self._folder.metrics.is_file():
            sync_to_disk(self._folder.metrics)
        self._writer.save(
            self._folder.checkpoints,
            self._model,
            self._loop.optimizers,
            content,
            keep_last=self._config.train.keep_last,
        )
        self.saved = position.step

    def save_alone(self, state: RunState) -> None:
        """Write a checkpoint without the other processes, one of which is lost."""
        step = self._loop.position.step
        try:
            self._writer = CheckpointWriter()
            self._verification.start()  # another process may have been to do it
            self._verification.check()
            self._verified = True
            self.save(state)
            self.wait()
            self._progress.warning(f"saved step {step}; continue with --resume")
        except (OSError, DataError, DivergedError) as error:
            self._progress.warning(f"step {step} could not be saved: {error}")

    def save_best(self, step: int) -> None:
        """Write the weights of the last step as the best so far."""
        save_best(self._writer, self._folder.checkpoints, self._model, step)

    def wait(self) -> None:
        """Wait for what is still to be written."""
        self._writer.wait()

    def close(self) -> None:
        """Wait for what is being written, whether it succeeds or not."""
        self._writer.close()

    def load_best(self, best: Best | None) -> int:
        """Load the best weights, if they are to be exported; return the step whose weights the model has."""
        checkpoints, world = self._folder.checkpoints, self._components.world
        step = self._loop.position.step
        if not self._config.train.export_best or best is None or best.step == step:
            return step
        self.wait()
        damage = check_best(checkpoints, best.step) if world.is_main else ""
        if damage := world.from_main(damage):
            self._progress.log(f"the best weights cannot be read ({damage}), so the last ones are exported")
            return step
        load_best(checkpoints, self._model, best.step, self._loop.gradient_sum)
        self._progress.log(f"exporting the weights of step {best.step}, which had the lowest held-out loss")
        return best.step

    def resume(self, wanted: str | None) -> RunState | None:
        """Load a checkpoint into the model and the loop, where one is wanted and there is one."""
        world, folder, loop = self._components.world, self._folder, self._loop
        path = world.from_main(self._find(wanted) if wanted and world.is_main else None)
        if path is None:
            if wanted:
                self._progress.log("no checkpoint to resume from: starting at step 0")
            if world.is_main:
                keep_rows(folder.metrics, 0)
            return None
        content = restore(path, self._model, loop.optimizers, loop.gradient_sum)
        loop.position = Position.from_dict(content)
        self.saved = content["step"]
        state = RunState.from_dict(content, self._components.selection is not None, self._progress)
        world.wait()  # until all have read it
        if world.is_main:
            keep_rows(folder.metrics, self.saved)
            if aside := set_aside(folder.checkpoints, self.saved):
                names = ", ".join(path.name for path in aside)
                self._progress.log(f"set aside later checkpoints: {names}; they can be deleted")
        self._progress.log(f"resuming from step {self.saved} ({path.name})")
        return state

    def _find(self, wanted: str) -> Path | None:
        path = find_checkpoint(self._folder.checkpoints, wanted, self._progress)
        if path is not None:
            saved = load_checkpoint_state(path)
            # "identity" is its earlier name.
            check_fingerprint(saved.get("fingerprint") or saved["identity"], self._fingerprint, self._folder)
        return path


def verify(verification: Verification, world: World) -> None:
    """Wait until the shards are compared with their checksums, in all processes.

    Raises:
        DataError: those of one are damaged.
    """
    world.doing("comparing shards with their checksums")
    verification.check(world.any)
    world.wait()  # ends with the error of a process whose shards are damaged
