"""The training loop: optimizer steps from a cursor until the run has its length."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmask.data.batches import Batch, Cursor, TrainingStream
from unmask.errors import ConfigError, DivergedError, UnmaskError, plural
from unmask.model.masked_lm import MaskedLM
from unmask.training import stability as errors
from unmask.training.distributed import World
from unmask.training.loss import step_gradients
from unmask.training.optimizers import clip_gradients
from unmask.training.parallel import GradientSum
from unmask.training.position import DONE, Length, Position
from unmask.training.staged_start import StagedStart
from unmask.training.steps import StepPlan, StepResult

Row = dict[str, Any]

MAX_SKIPPED_STEPS = 5
"""So many skipped steps in a row end a run."""


@dataclass
class Loop:
    """A run in memory.

    Attributes:
        model: the model to train.
        stream: yields the batches.
        optimizers: of its weights.
        length: of the run.
        lr_factor: from the progress at the begin and at the end of a step to the factor of the peak learning rates.
        mask_rate: from progress to the mask rate.
        micro_batch_tokens: tokens computed at once.
        clip_norm: the gradient is scaled down to this norm.
        log_every: steps between rows of metrics.
        gradient_sum: over the processes of the run.
        position: of the run.
        on_row: gets every row of metrics.
        after_step: called with the loop after every step, to evaluate, save or stop.
        staged_start: the first steps, in which only new weights are trained.
        ended: set by ``after_step`` to end the run before its length.
        skip_spikes: skip a step whose loss is a spike.
        log: logs skipped steps and smaller micro-batches.
        whole: whether weights and optimizer state are those of ``position``; not so while a step is applied.
        random_state: of torch on the CPU at the begin of the step that is computed.
    """

    model: MaskedLM
    stream: TrainingStream
    optimizers: list[torch.optim.Optimizer]
    length: Length
    lr_factor: Callable[[float, float], float]
    mask_rate: Callable[[float], float]
    micro_batch_tokens: int
    clip_norm: float
    log_every: int
    gradient_sum: GradientSum
    position: Position
    on_row: Callable[[Row], None]
    after_step: Callable[[Loop], None]
    staged_start: StagedStart = field(default_factory=StagedStart)
    ended: bool = False
    skip_spikes: bool = False
    log: Callable[[str], None] = lambda text: None
    whole: bool = True
    random_state: Tensor | None = None

    @property
    def world(self) -> World:
        """The processes of the run."""
        return self.gradient_sum.world

    @property
    def epochs(self) -> float:
        """Passes over the text so far."""
        return self._epochs_at(self.position.cursor)

    @property
    def progress(self) -> float:
        """How much of the run is done, 0 to 1 and beyond."""
        return self.length.progress(self.position.step, self.epochs, self.position.seconds)

    @property
    def over(self) -> bool:
        """Whether the run has its length, or was ended."""
        return self.ended or self.progress >= DONE

    def run(self) -> None:
        """Train until the run has its length, or is ended.

        Raises:
            ConfigError: a single sequence takes more memory than there is.
            DivergedError: the loss or the gradient is NaN or infinite, several steps in a row.
        """
        if self.world.size > 1 and not self.gradient_sum.sharded:  # FSDP has messages in the forward pass too
            self._rehearse()
        clock = time.perf_counter()
        for plan in self._plans():
            if self.over:  # by the clock, which a plan does not know
                break
            waited = time.perf_counter() - clock
            if self.world.size > 1:  # what another process needs that dies in this step
                self.random_state = torch.get_rng_state()
                self.world.doing(f"step {self.position.step + 1}")
            result = self.step(plan)
            self._count(plan, result, waited)
            self.whole = True
            self.random_state = None
            self._spend(time.perf_counter() - clock)
            if result.skipped:
                self._log_skipped(plan, result.skipped)
            if self.position.step % self.log_every == 0 or self.over:
                self._log()
            self.after_step(self)
            clock = time.perf_counter()
        if self.position.window:
            self._log()

    def step(self, plan: StepPlan) -> StepResult:
        """Compute one step: gradients of all micro-batches, one sum over processes, one update of the weights."""
        if not self.model.model.training:  # train() visits all modules, which costs time in short steps
            self.model.model.train()
        number = self.position.step
        self.staged_start.begin(number)
        self.gradient_sum.begin()
        targets = plan.targets
        loss, correct = self._sums(*self._gradients(plan, targets))
        self.gradient_sum.check()
        self.staged_start.mask(number)
        norm = clip_gradients(self.optimizers, self.model.model.parameters(), self.clip_norm)
        skipped, spike = self._check_step(loss, norm, targets)
        self.whole = False
        if skipped is None:
            self.staged_start.set_rates(self.optimizers, number, self.lr_factor_of(plan))
            for optimizer in self.optimizers:
                optimizer.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return StepResult(loss, correct, norm, targets, skipped, spike)

    def lr_factor_of(self, plan: StepPlan) -> float:
        """Return the factor of the peak learning rates of the next step."""
        step, seconds = self.position.step, self.position.seconds
        end = seconds + seconds / step if step else 0.0
        return self.lr_factor(
            self.length.progress(step, plan.epochs, seconds),
            self.length.progress(step + 1, self._epochs_at(plan.following), end),
        )

    def _gradients(self, plan: StepPlan, targets: int) -> tuple[Tensor, Tensor]:
        """Add the gradients of a step; out of memory, compute it again in smaller micro-batches.

        The result does not depend on how a step is split.
        """
        batches = plan.batches
        if self.world.size > 1:
            # Nobody can try again within the backward pass, in which all wait for each other: see _rehearse.
            sums = errors.unless_out_of_memory(
                partial(step_gradients, self.model, batches, targets, self.gradient_sum)
            )
            if sums is None:
                raise ConfigError(
                    f"step {self.position.step + 1}: out of memory with {self.micro_batch_tokens:,} tokens at once; continue with "
                    f"--resume and --set train.micro_batch_tokens={self.micro_batch_tokens // 2}"
                )
            return sums
        if plan.micro_batch_tokens != self.micro_batch_tokens:  # halved while this step was prepared
            batches = self._batches(plan.cursor, plan.sequences, plan.mask_rate, self.micro_batch_tokens)
        while True:
            sums = errors.unless_out_of_memory(partial(step_gradients, self.model, batches, targets))
            if sums is not None:
                return sums
            self.model.model.zero_grad(set_to_none=True)
            self._halve(int(self.stream.sizes(plan.sequences).max()))
            batches = self._batches(plan.cursor, plan.sequences, plan.mask_rate, self.micro_batch_tokens)

    def _rehearse(self) -> None:
        """Find a size of micro-batches for which every process has the memory, before they wait for each other in a step."""
        longest, kept = self.stream.longest, torch.get_rng_state()
        self.model.model.train()
        self.staged_start.begin(self.position.step)
        self.gradient_sum.begin()
        while True:
            batch = self.gradient_sum.rehearsal(longest, self.micro_batch_tokens)
            compute = partial(step_gradients, self.model, [batch], 1, self.gradient_sum, last=False)
            found = errors.unless_out_of_memory(compute)
            self.model.model.zero_grad(set_to_none=True)
            if not self.world.any(found is None):
                break
            self._halve(longest)
        torch.set_rng_state(kept)

    def _halve(self, longest: int) -> None:
        if self.micro_batch_tokens <= longest:
            raise ConfigError(
                f"there is not enough memory for a single sequence of {longest} tokens (step {self.position.step + 1}); "
                f"set train.gradient_checkpointing=true and continue with --resume, or start again with a lower "
                f"data.max_length or a smaller model"
            )
        self.micro_batch_tokens = max(self.micro_batch_tokens // 2, longest)
        self.log(
            f"step {self.position.step + 1}: out of memory; computing {self.micro_batch_tokens:,} tokens at once from "
            f"here on, which changes nothing in the result (train.micro_batch_tokens={self.micro_batch_tokens} begins so)"
        )

    def _sums(self, loss: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums over all processes, made in one message."""
        if self.world.size == 1:
            return loss, correct
        both = self.world.sum_(torch.stack([loss.double(), correct.double()]))
        return both[0].float(), both[1].long()

    def _check_step(self, loss: Tensor, norm: Tensor, targets: int) -> tuple[str | None, float]:
        """Return why a step must be skipped, if it must, and by how many deviations its loss is a spike."""
        # On CUDA this would synchronise at every step; there the rows of metrics are checked instead.
        if loss.device.type != "cpu" and not self.skip_spikes:
            return None, 0.0
        value = float(loss)
        if wrong := errors.not_finite(value, float(norm)):
            return wrong, 0.0
        if not targets:
            return None, 0.0
        spike = errors.spike_of(self.position.trend, value)
        errors.follow(self.position.trend, value)
        if spike and self.skip_spikes:
            return f"the loss is {value:.4g}, {spike:.1f} sigma above its running mean", spike
        return None, spike

    def _log_skipped(self, plan: StepPlan, why: str) -> None:
        """Write the row of a skipped step, and end the run after too many in a row."""
        position, documents = self.position, self.stream.documents(plan.sequences)
        self.on_row({"step": position.step, "skipped": why, "documents": documents})
        shown = ", ".join(map(str, documents[:5])) + (", …" if len(documents) > 5 else "")
        self.log(
            f"step {position.step}: {why}; the step was not applied. Its documents: {shown} "
            f"({len(documents)}, all of them in metrics.jsonl)"
        )
        if position.skipped_steps >= MAX_SKIPPED_STEPS:
            raise DivergedError(
                f"step {position.step}: {why}; {position.skipped_steps} steps in a row were not applied. Lower the learning "
                f"rate, or look at the documents that metrics.jsonl names"
            )

    def _plans(self) -> Iterator[StepPlan]:
        """Yield steps; the next one is prepared in the background while one is computed."""
        at, step = self.position.cursor, self.position.step
        with ThreadPoolExecutor(1) as pool:
            # The clock is read here, not in the background, where it would differ between processes.
            job = pool.submit(self.agreed, at, step, self.position.seconds)
            while (plan := job.result()) is not None:
                at, step = plan.following, step + 1
                # When that step begins, one more will have been computed.
                seconds = self.position.seconds * step / max(step - 1, 1)
                job = pool.submit(self.agreed, at, step, seconds)
                yield plan

    def agreed(self, cursor: Cursor, step: int, seconds: float = 0.0) -> StepPlan | None:
        """Prepare a step as :meth:`plan` does, with the targets of all processes; each of them must call it."""
        plan = self.plan(cursor, step, seconds)
        if plan is None or self.world.size == 1:
            return plan
        found = self.world.gather([step, plan.targets], self.world.group)
        if (found[:, 0] != step).any():
            raise UnmaskError(
                f"the processes of the run are at different steps: {found[:, 0].astype(int).tolist()}"
            )
        return replace(plan, targets=int(found[:, 1].sum()))

    def plan(self, cursor: Cursor, step: int, seconds: float = 0.0) -> StepPlan | None:
        """Prepare the step at a cursor, or return ``None`` where the run is over by steps or epochs.

        Args:
            cursor: where the step begins in the stream.
            step: its number, from 0.
            seconds: seconds of training when it begins, as far as they are known.
        """
        epochs = self._epochs_at(cursor)
        if self.length.progress(step, epochs, 0.0) >= DONE:
            return None
        rate = self.mask_rate(self.length.progress(step, epochs, seconds))
        numbers, following = self.stream.take(cursor)
        tokens = int(self.stream.sizes(numbers).sum())
        micro = self.micro_batch_tokens
        batches = self._batches(cursor, numbers, rate, micro)
        targets = sum(len(batch.target_ids) for batch in batches)
        return StepPlan(batches, cursor, following, numbers, tokens, epochs, rate, micro, targets)

    def _batches(self, cursor: Cursor, numbers: np.ndarray, rate: float, micro: int) -> list[Batch]:
        """Split the sequences of a step into micro-batches of about so many tokens."""
        parts = self.stream.parts(numbers, micro, self.world.size)
        return self.stream.micro_batches(cursor, numbers, rate, parts, self.world.rank, self.world.size)

    def _epochs_at(self, cursor: Cursor) -> float:
        return cursor.epoch + cursor.used / len(self.stream.source.sequences)

    def _spend(self, seconds: float) -> None:
        """Count training time; where the run ends by the clock, all processes use the slowest one's."""
        if self.length.seconds:
            seconds = self.world.max(seconds)
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
        window["tokens"] += plan.tokens
        window["waited"] += waited
        position.skipped_steps = position.skipped_steps + 1 if result.skipped else 0
        if result.spike:
            window["spike"] = max(result.spike, window.get("spike", 0.0))
        if result.skipped:
            window["skipped"] = window.get("skipped", 0) + 1
            return
        # Scalars stay on the device until a row is written, so that the loop does not wait for it.
        window["loss"] = window["loss"] + result.loss.double() * result.targets
        window["correct"] = window["correct"] + result.correct
        window["targets"] += result.targets
        window["steps"] += 1
        window["grad_norm"] = result.norm
        window["mask_rate"] = plan.mask_rate

    def sync_window(self) -> None:
        """Read the sums of the window from the device.

        Raises:
            DivergedError: they are NaN or infinite.
        """
        window = self.position.window = {key: float(value) for key, value in self.position.window.items()}
        if not all(math.isfinite(value) for value in window.values()):
            raise DivergedError(
                f"step {self.position.step}: the loss or the gradient was not finite in the last "
                f"{plural(window['steps'], 'step')}; lower the learning rate"
            )

    def _log(self) -> None:
        self.sync_window()
        window, position = self.position.window, self.position
        if not window["steps"]:  # all were skipped, and each has a row of its own
            position.window = {}
            return
        rare = {"spike": window.get("spike"), "skipped_steps": window.get("skipped")}
        self.on_row(
            {key: value for key, value in rare.items() if value}
            | {
                "step": position.step,
                "tokens": position.tokens,
                "seconds": round(position.seconds, 3),
                "loss": window["loss"] / window["targets"] if window["targets"] else None,
                "accuracy": window["correct"] / window["targets"] if window["targets"] else None,
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
