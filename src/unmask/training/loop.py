"""The training loop: one optimizer step after another, from a cursor, until the run is long enough."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from unmask.data.batches import Batch, Cursor, TrainingStream
from unmask.errors import DivergedError
from unmask.model.masked_lm import MaskedLM
from unmask.training.distributed import World
from unmask.training.loss import step_gradients
from unmask.training.optimizers import set_learning_rate

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

    def run(self) -> None:
        """Train until the run is long enough.

        Raises:
            DivergedError: the loss or the gradient is not finite.
        """
        clock = time.perf_counter()
        for plan in self._plans():
            waited = time.perf_counter() - clock
            loss, correct, norm = self.step(plan)
            self._count(plan, loss, correct, norm, waited)
            now = time.perf_counter()
            self.position.seconds += now - clock
            self.position.window["seconds"] += now - clock
            if self.position.step % self.log_every == 0:
                self._log(plan)
            self.after_step(self)
            clock = time.perf_counter()

    def step(self, plan: StepPlan) -> tuple[Tensor, Tensor, Tensor]:
        """Compute one step: gradients of all micro-batches, one sum over processes, one move of the weights.

        Returns:
            Loss of the step, targets filled exactly, and norm of the gradient: scalars on the device.
        """
        self.model.model.train()
        targets = self._targets(plan)
        loss, correct = step_gradients(self.model, plan.batches, int(targets))
        self.world.sum_gradients(self.model.model)
        self.world.sum_(loss)
        self.world.sum_(correct)
        norm = torch.nn.utils.clip_grad_norm_(self.model.model.parameters(), self.clip_norm, foreach=True)
        self._require_finite(loss, norm)
        set_learning_rate(self.optimizers, self.lr_factor(plan.progress))
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss, correct, norm

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
            job = pool.submit(self.plan, at, step)
            while (plan := job.result()) is not None:
                at, step = plan.following, step + 1
                job = pool.submit(self.plan, at, step)
                yield plan

    def plan(self, cursor: Cursor, step: int) -> StepPlan | None:
        """Make the step at a cursor ready to be computed, or return ``None`` where the run is over."""
        epochs = cursor.epoch + cursor.used / len(self.stream.source.sequences)
        progress = self.length.progress(step, epochs, self.position.seconds)
        if progress >= 1.0 - 1e-12:
            return None
        rate = self.mask_rate(progress)
        numbers, following = self.stream.take(cursor, self.batch_tokens(progress))
        tokens = int(self.stream.source.sizes(numbers).sum())
        parts = -(-tokens // (self.micro_batch_tokens * self.world.size))
        batches = self.stream.micro_batches(cursor, numbers, rate, parts, self.world.rank, self.world.size)
        return StepPlan(batches, following, tokens, epochs, progress, rate)

    def _count(self, plan: StepPlan, loss: Tensor, correct: Tensor, norm: Tensor, waited: float) -> None:
        position = self.position
        position.step += 1
        position.cursor = plan.following
        position.tokens += plan.tokens
        if not position.window:
            position.window = dict.fromkeys(
                ("loss", "correct", "targets", "steps", "tokens", "seconds", "waited"), 0
            )
        targets = self._targets(plan)
        window: dict[str, Any] = position.window
        # Scalars stay on the device until a row is written, so that the loop does not wait for it.
        window["loss"] = window["loss"] + loss.double() * targets
        window["correct"] = window["correct"] + correct
        window["targets"] += targets
        window["steps"] += 1
        window["tokens"] += plan.tokens
        window["waited"] += waited
        window["grad_norm"] = norm

    def settle(self) -> None:
        """Bring the sums of the window to plain numbers."""
        self.position.window = {key: float(value) for key, value in self.position.window.items()}

    def _log(self, plan: StepPlan) -> None:
        self.settle()
        window, position = self.position.window, self.position
        loss = window["loss"] / max(window["targets"], 1)
        self.on_row(
            {
                "step": position.step,
                "tokens": position.tokens,
                "seconds": round(position.seconds, 3),
                "loss": loss,
                "accuracy": window["correct"] / max(window["targets"], 1),
                "learning_rate": self.optimizers[0].param_groups[0]["lr"],
                "mask_rate": plan.mask_rate,
                "grad_norm": window["grad_norm"],
                "epoch": round(plan.epochs, 4),
                "tokens_per_second": round(window["tokens"] / max(window["seconds"], 1e-9), 1),
                "wait_share": round(window["waited"] / max(window["seconds"], 1e-9), 4),
                "progress": min(1.0, self.length.progress(position.step, plan.epochs, position.seconds)),
            }
        )
        position.window = {}
        if not math.isfinite(loss):
            raise DivergedError(
                f"step {position.step}: the loss is {loss:g}; lower the learning rate and resume"
            )
