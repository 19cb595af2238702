"""The training loop: one optimizer step after another, from a cursor, until the run is long enough."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmask.data.batches import Batch, Cursor, TrainingStream
from unmask.errors import DivergedError
from unmask.model.masked_lm import MaskedLM
from unmask.training.distributed import World
from unmask.training.loss import step_gradients
from unmask.training.opening import Opening

Row = dict[str, Any]


@dataclass(frozen=True)
class Length:
    """When a run is over: whichever limit is reached first.

    Attributes:
        steps: optimizer steps.
        epochs: passes over the text.
        seconds: seconds of training.
    """

    steps: int | None = None
    epochs: float | None = None
    seconds: float | None = None

    def progress(self, step: int, epochs: float, seconds: float) -> float:
        """Return how much of the run is done, 0 to 1 and beyond."""
        pairs = ((step, self.steps), (epochs, self.epochs), (seconds, self.seconds))
        return max((done / limit for done, limit in pairs if limit), default=0.0)


@dataclass
class Position:
    """Where a run stands; together with weights and optimizer state, all there is to know of it.

    Attributes:
        step: optimizer steps done.
        cursor: where in the stream of text.
        tokens: real tokens seen, over all processes.
        seconds: seconds spent training.
        window: sums since the last row of metrics.
    """

    step: int = 0
    cursor: Cursor = field(default_factory=Cursor)
    tokens: int = 0
    seconds: float = 0.0
    window: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(content: dict[str, Any]) -> Position:
        return Position(**{**content, "cursor": Cursor(**content["cursor"])})


@dataclass(frozen=True)
class StepPlan:
    """One step, ready to be computed: this process's micro-batches and what holds for all processes."""

    batches: list[Batch]
    following: Cursor
    tokens: int
    epochs: float
    progress: float
    mask_rate: float


class StepResult(NamedTuple):
    """What one step came to, over all processes.

    Attributes:
        loss: scalar on the device.
        correct: targets filled exactly; scalar on the device.
        norm: of the gradient, before it was clipped; scalar on the device.
        targets: how many tokens were predicted.
    """

    loss: Tensor
    correct: Tensor
    norm: Tensor
    targets: int


@dataclass
class Loop:
    """A run in memory.

    Attributes:
        model: what is trained.
        stream: where batches come from.
        optimizers: what moves the weights.
        length: when it ends.
        lr_factor: from progress to the factor of the peak learning rates.
        mask_rate: from progress to the mask rate.
        batch_tokens: from progress to the tokens of a step.
        micro_batch_tokens: most tokens computed at once.
        clip_norm: largest norm of the gradient.
        log_every: steps between rows.
        world: the processes of the run.
        position: where it stands.
        on_row: gets every row of metrics.
        after_step: called with the loop after every step, to evaluate, save or stop.
        opening: the first steps, in which only what is new moves.
        ended: set by ``after_step`` to end the run before its length.
    """

    model: MaskedLM
    stream: TrainingStream
    optimizers: list[torch.optim.Optimizer]
    length: Length
    lr_factor: Callable[[float], float]
    mask_rate: Callable[[float], float]
    batch_tokens: Callable[[float], int]
    micro_batch_tokens: int
    clip_norm: float
    log_every: int
    world: World
    position: Position
    on_row: Callable[[Row], None]
    after_step: Callable[[Loop], None]
    opening: Opening = field(default_factory=Opening)
    ended: bool = False

    @property
    def epochs(self) -> float:
        """Passes over the text so far."""
        return self._epochs_at(self.position.cursor)

    @property
    def progress(self) -> float:
        """How much of the run is done, 0 to 1 and beyond."""
        return self.length.progress(self.position.step, self.epochs, self.position.seconds)

    def run(self) -> None:
        """Train until the run is long enough, or is ended.

        Raises:
            DivergedError: the loss or the gradient is not finite.
        """
        clock = time.perf_counter()
        for plan in self._plans():
            if self.ended:
                break
            waited = time.perf_counter() - clock
            self._count(plan, self.step(plan), waited)
            self._spend(time.perf_counter() - clock)
            if self.position.step % self.log_every == 0 or self.progress >= 1:
                self._log()
            self.after_step(self)
            clock = time.perf_counter()
        if self.position.window:
            self._log()

    def step(self, plan: StepPlan) -> StepResult:
        """Compute one step: gradients of all micro-batches, one sum over processes, one move of the weights."""
        self.model.model.train()
        number = self.position.step
        self.opening.begin(number)
        targets = self._targets(plan)
        loss, correct = step_gradients(self.model, plan.batches, targets)
        self.world.sum_gradients(self.model.model)
        self.opening.mask(number)
        self.world.sum_(loss)
        self.world.sum_(correct)
        norm = torch.nn.utils.clip_grad_norm_(self.model.model.parameters(), self.clip_norm, foreach=True)
        self._require_finite(loss, norm)
        self.opening.set_rates(self.optimizers, number, self.lr_factor(plan.progress))
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return StepResult(loss, correct, norm, targets)

    def _targets(self, plan: StepPlan) -> int:
        own = sum(len(batch.target_ids) for batch in plan.batches)
        if self.world.size == 1:
            return own
        return int(self.world.sum_(torch.tensor(own, device=self.model.device)))

    def _require_finite(self, loss: Tensor, norm: Tensor) -> None:
        # On CUDA this look would stop the queue at every step; there the rows of metrics are looked at instead.
        if loss.device.type == "cpu" and not (math.isfinite(loss) and math.isfinite(norm)):
            raise DivergedError(
                f"step {self.position.step + 1}: the loss is {float(loss):g} and the gradient's norm {float(norm):g}; "
                f"the step was not applied. Lower the learning rate, or go on from the last checkpoint"
            )

    def _plans(self) -> Iterator[StepPlan]:
        """Yield steps to compute; the next is made ready in the background while one is computed."""
        at, step = self.position.cursor, self.position.step
        with ThreadPoolExecutor(1) as pool:
            # The clock is read here and not in the background, where it would be another for every process.
            job = pool.submit(self.plan, at, step, self.position.seconds)
            while (plan := job.result()) is not None:
                at, step = plan.following, step + 1
                job = pool.submit(self.plan, at, step, self.position.seconds)
                yield plan

    def plan(self, cursor: Cursor, step: int, seconds: float = 0.0) -> StepPlan | None:
        """Make the step at a cursor ready to be computed, or return ``None`` where the run is over."""
        epochs = self._epochs_at(cursor)
        progress = self.length.progress(step, epochs, seconds)
        if progress >= 1.0 - 1e-12:
            return None
        rate = self.mask_rate(progress)
        numbers, following = self.stream.take(cursor, self.batch_tokens(progress))
        tokens = int(self.stream.sizes(numbers).sum())
        parts = -(-tokens // (self.micro_batch_tokens * self.world.size))
        batches = self.stream.micro_batches(cursor, numbers, rate, parts, self.world.rank, self.world.size)
        return StepPlan(batches, following, tokens, epochs, progress, rate)

    def _epochs_at(self, cursor: Cursor) -> float:
        return cursor.epoch + cursor.used / len(self.stream.source.sequences)

    def _spend(self, seconds: float) -> None:
        """Count training time; where the run ends by the clock, all processes go by the slowest one's."""
        if self.length.seconds:
            seconds = self.world.longest(seconds)
        self.position.seconds += seconds
        self.position.window["seconds"] += seconds

    def _count(self, plan: StepPlan, result: StepResult, waited: float) -> None:
        position = self.position
        position.step += 1
        position.cursor = plan.following
        position.tokens += plan.tokens
        if not position.window:
            position.window = dict.fromkeys(
                ("loss", "correct", "targets", "steps", "tokens", "seconds", "waited"), 0
            )
        window: dict[str, Any] = position.window
        # Scalars stay on the device until a row is written, so that the loop does not wait for it.
        window["loss"] = window["loss"] + result.loss.double() * result.targets
        window["correct"] = window["correct"] + result.correct
        window["targets"] += result.targets
        window["steps"] += 1
        window["tokens"] += plan.tokens
        window["waited"] += waited
        window["grad_norm"] = result.norm
        window["mask_rate"] = plan.mask_rate

    def settle(self) -> None:
        """Bring the sums of the window to plain numbers.

        Raises:
            DivergedError: they are not finite, so that the weights are not worth a row or a checkpoint.
        """
        window = self.position.window = {key: float(value) for key, value in self.position.window.items()}
        if not all(math.isfinite(value) for value in window.values()):
            raise DivergedError(
                f"step {self.position.step}: the loss or the gradient was not finite in the last "
                f"{window['steps']:.0f} steps; lower the learning rate and go on from the last checkpoint"
            )

    def _log(self) -> None:
        self.settle()
        window, position = self.position.window, self.position
        self.on_row(
            {
                "step": position.step,
                "tokens": position.tokens,
                "seconds": round(position.seconds, 3),
                "loss": window["loss"] / max(window["targets"], 1),
                "accuracy": window["correct"] / max(window["targets"], 1),
                "learning_rate": max(group["lr"] for group in self.optimizers[0].param_groups),
                "mask_rate": window["mask_rate"],
                "grad_norm": window["grad_norm"],
                "epoch": round(self.epochs, 4),
                "tokens_per_second": round(window["tokens"] / max(window["seconds"], 1e-9), 1),
                "wait_share": round(window["waited"] / max(window["seconds"], 1e-9), 4),
                "progress": min(1.0, self.progress),
            }
        )
        position.window = {}
