"""The training loop: optimizer steps from a cursor until the run has its length."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from unmask.data.batches import Batch
from unmask.data.training_stream import Cursor, TrainingStream
from unmask.errors import ConfigError, DivergedError, UnmaskError
from unmask.model.masked_lm import MaskedLM
from unmask.objectives.mlm import MaskedLanguageModelling
from unmask.objectives.objective import Objective
from unmask.training import stability as errors
from unmask.training.distributed import World
from unmask.training.loss import step_gradients
from unmask.training.optimizers import clip_gradients, skip_unless_finite
from unmask.training.parallel import GradientSum
from unmask.training.position import DONE, Length, Position
from unmask.training.staged_start import StagedStart
from unmask.training.steps import ComputedStep, StepPlan, StepResult
from unmask.training.window import Row, add_step, mean_losses, new_window

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
        seed: of dropout, which in every step depends on nothing but this, the step and the process.
        objective: what is learned, in one stage or several.
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
    seed: int = 0
    objective: Objective = field(default_factory=MaskedLanguageModelling)
    _computed: deque[ComputedStep] = field(default_factory=deque)

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
            if self.world.size > 1:
                self.world.doing(f"step {self.position.step + 1}")
            result = self.step(plan)
            self._count(plan, result, waited)
            self.whole = True
            self._spend(time.perf_counter() - clock)
            # One step late on a GPU, which has the next step to compute meanwhile.
            self.settle(unread=0 if self._reads_at_once else 1)
            if self.position.step % self.log_every == 0 or self.over or plan.following_stage != plan.stage:
                self._log()
            self.after_step(self)
            clock = time.perf_counter()
        if self.position.window or self._computed:
            self._log()

    def step(self, plan: StepPlan) -> StepResult:
        """Compute one step: gradients of all micro-batches, one sum over processes, one update of the weights."""
        if not self.model.model.training:  # train() visits all modules, which costs time in short steps
            self.model.model.train()
        number = self.position.step
        self.staged_start.begin(number)
        self.gradient_sum.begin(plan.objective)
        losses, correct = self._sums(*self._gradients(plan))
        loss = plan.objective.total(losses.unbind())
        self.gradient_sum.check()
        self.staged_start.mask(number)
        norm = clip_gradients(self.optimizers, self.model.model.parameters(), self.clip_norm)
        skipped, spike = None, 0.0
        if self._reads_at_once:
            skipped, spike = self._check(float(loss), float(norm), any(plan.counts))
        else:
            skip_unless_finite(self.optimizers, loss, norm)
        self.whole = False
        self.staged_start.set_rates(self.optimizers, number, self.lr_factor_of(plan))
        # Out of memory, if at all, in the first step, which makes the state.
        if skipped is None and errors.unless_out_of_memory(self._apply) is None:
            raise ConfigError(
                f"step {number + 1}: there is not enough memory for the optimizer's update; continue with --resume and --set "
                f"train.micro_batch_tokens={self.micro_batch_tokens // 2}, share the model out with --parallel fsdp, or take "
                f"a smaller one"
            )
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return StepResult(losses, correct, norm, skipped, spike)

    def _apply(self) -> bool:
        for optimizer in self.optimizers:
            optimizer.step()
        return True

    def lr_factor_of(self, plan: StepPlan) -> float:
        """Return the factor of the peak learning rates of the next step."""
        step, seconds = self.position.step, self.position.seconds
        end = seconds + seconds / step if step else 0.0
        return self.lr_factor(
            self.length.progress(step, plan.epochs, seconds),
            self.length.progress(step + 1, self._epochs_at(plan.following), end),
        )

    def _gradients(self, plan: StepPlan) -> tuple[Tensor, Tensor]:
        """Add the gradients of a step; out of memory, compute it again in smaller micro-batches.

        The result does not depend on how a step is split.
        """
        batches = plan.batches
        if self.world.size == 1 and plan.micro_batch_tokens != self.micro_batch_tokens:
            # Halved while this step was prepared.
            batches = self._batches(plan)
        while (sums := self._tried(batches, plan.counts)) is None:
            if self.world.size > 1:
                # Nobody can try again within the backward pass, in which all wait for each other: see _rehearse.
                raise ConfigError(
                    f"step {self.position.step + 1}: out of memory with {self.micro_batch_tokens:,} tokens at once; continue with "
                    f"--resume and --set train.micro_batch_tokens={self.micro_batch_tokens // 2}"
                )
            self.model.model.zero_grad(set_to_none=True)
            self._halve(int(self.stream.sizes(plan.sequences).max()))
            batches = self._batches(plan)
        return sums

    def _batches(self, plan: StepPlan) -> list[Batch]:
        """Split the sequences of a step again, into micro-batches of the size that memory allows now."""
        return self._split(
            plan.cursor, plan.sequences, plan.mask_rate, self.micro_batch_tokens, plan.objective
        )

    def _tried(self, batches: list[Batch], counts: Sequence[int]) -> tuple[Tensor, Tensor] | None:
        """Add the gradients of micro-batches with the dropout of this step, if there is memory for them."""
        parts = np.random.SeedSequence([self.seed, self.position.step, self.world.rank])
        torch.manual_seed(int(parts.generate_state(1, np.uint64)[0]))
        return errors.unless_out_of_memory(partial(step_gradients, self.gradient_sum, batches, counts))

    def _rehearse(self) -> None:
        """Find a size of micro-batches for which every process has the memory, before they wait for each other in a step."""
        self.model.model.train()
        self.staged_start.begin(self.position.step)
        for objective in self.objective.stages[::-1]:  # the wrapper of the last one serves the first step
            self._rehearse_objective(objective, self.stream.longest)

    def _rehearse_objective(self, objective: Objective, longest: int) -> None:
        self.gradient_sum.begin(objective)
        while True:
            batch = self.gradient_sum.rehearsal(longest, self.micro_batch_tokens)
            counts = objective.counts(batch)
            compute = partial(step_gradients, self.gradient_sum, [batch], counts, last=False)
            found = errors.unless_out_of_memory(compute)
            self.model.model.zero_grad(set_to_none=True)
            if not self.world.any(found is None):
                break
            self._halve(longest)

    def _halve(self, longest: int) -> None:
        if self.micro_batch_tokens <= longest:
            raise ConfigError(
                f"there is not enough memory for a single sequence of {longest} tokens (step {self.position.step + 1}); "
                f"continue with --resume --set train.gradient_checkpointing=true, or start again with a lower --max-length or a "
                f"smaller model"
            )
        self.micro_batch_tokens = max(self.micro_batch_tokens // 2, longest)
        self.log(
            f"step {self.position.step + 1}: out of memory; computing {self.micro_batch_tokens:,} tokens at once from "
            f"here on, which changes nothing in the result (--set train.micro_batch_tokens={self.micro_batch_tokens} begins so)"
        )

    def _sums(self, losses: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums over all processes, made in one message."""
        if self.world.size == 1:
            return losses, correct
        both = self.world.sum_(torch.stack([losses.double(), correct.double()]))
        return both[0].float(), both[1].long()

    @property
    def _reads_at_once(self) -> bool:
        """Whether loss and norm are read before the weights are updated; a CUDA device that has the weights would wait for that."""
        return self.skip_spikes or self.model.device.type in ("cpu", "mps") or self.gradient_sum.offload

    def _check(self, loss: float, norm: float, targets: bool) -> tuple[str | None, float]:
        """Return why a step must be skipped, if it must, and by how many deviations its loss is a spike."""
        if wrong := errors.not_finite(loss, norm):
            return wrong, 0.0
        if not targets:
            return None, 0.0
        spike = errors.spike_of(self.position.trend, loss)
        errors.follow(self.position.trend, loss)
        if spike and self.skip_spikes:
            return f"the loss is {loss:.4g}, {spike:.1f} sigma above its running mean", spike
        return None, spike

    def _log_skipped(self, step: ComputedStep, why: str) -> None:
        """Write the row of a skipped step, and end the run after too many in a row."""
        skipped, documents = self.position.skipped_steps, self.stream.documents(step.plan.sequences)
        self.on_row({"step": step.number, "skipped": why, "documents": documents})
        shown = ", ".join(map(str, documents[:5])) + (", …" if len(documents) > 5 else "")
        self.log(
            f"step {step.number}: {why}; the step was not applied. Its documents: {shown} "
            f"({len(documents)}, all of them in metrics.jsonl)"
        )
        if skipped >= MAX_SKIPPED_STEPS:
            raise DivergedError(
                f"step {step.number}: {why}; {skipped} steps in a row were not applied. Lower the learning "
                f"rate, or look at the documents that metrics.jsonl names"
            )

    def _plans(self) -> Iterator[StepPlan]:
        """Yield steps; the next one is prepared in the background while one is computed."""
        at, step, seconds = self.position.cursor, self.position.step, self.position.seconds
        stage = self._stage(at, step, seconds, self.position.stage)
        with ThreadPoolExecutor(1) as pool:
            # The clock is read here, not in the background, where it would differ between processes.
            job = pool.submit(self.agreed, at, step, seconds, stage)
            while (plan := job.result()) is not None:
                at, step = plan.following, step + 1
                # When that step begins, one more will have been computed.
                seconds = self.position.seconds * step / max(step - 1, 1)
                stage = self._stage(at, step, seconds, plan.stage)
                job = pool.submit(self.agreed, at, step, seconds, stage)
                yield replace(plan, following_stage=stage)

    def _stage(self, cursor: Cursor, step: int, seconds: float, before: int) -> int:
        """Return the stage of a step after one of stage ``before``."""
        progress = self.length.progress(step, self._epochs_at(cursor), seconds)
        return max(before, self.objective.stage(progress))

    def agreed(self, cursor: Cursor, step: int, seconds: float = 0.0, stage: int = 0) -> StepPlan | None:
        """Prepare a step as :meth:`plan` does, with the counts of all processes; each of them must call it."""
        plan = self.plan(cursor, step, seconds, stage)
        if plan is None or self.world.size == 1:
            return plan
        found = self.world.gather([step, *plan.counts], self.world.group)
        if (found[:, 0] != step).any():
            raise UnmaskError(
                f"the processes of the run are at different steps: {found[:, 0].astype(int).tolist()}"
            )
        return replace(plan, counts=tuple(found[:, 1:].sum(axis=0).astype(int).tolist()))

    def plan(self, cursor: Cursor, step: int, seconds: float = 0.0, stage: int = 0) -> StepPlan | None:
        """Prepare the step at a cursor, or return ``None`` where the run is over by steps or epochs.

        Args:
            cursor: where the step begins in the stream.
            step: its number, from 0.
            seconds: seconds of training when it begins, as far as they are known.
            stage: of the objective.
        """
        epochs = self._epochs_at(cursor)
        if self.length.progress(step, epochs, 0.0) >= DONE:
            return None
        objective = self.objective.stages[stage]
        rate = self.mask_rate(self.length.progress(step, epochs, seconds)) if objective.masks else 0.0
        numbers, following = self.stream.take(cursor)
        tokens = int(self.stream.sizes(numbers).sum())
        micro = self.micro_batch_tokens
        batches = self._split(cursor, numbers, rate, micro, objective)
        counts = [objective.counts(batch) for batch in batches]
        total = tuple(map(sum, zip(*counts, strict=True))) or (0,) * len(objective.loss_names)
        return StepPlan(
            batches, cursor, following, numbers, tokens, epochs, rate, micro, total, objective, stage
        )

    def _split(
        self, cursor: Cursor, numbers: np.ndarray, rate: float, micro: int, objective: Objective
    ) -> list[Batch]:
        """Split the sequences of a step into micro-batches of about so many tokens."""
        rank, size = self.world.rank, self.world.size
        parts = self.stream.parts(numbers, micro, size)
        return self.stream.micro_batches(cursor, numbers, rate, parts, rank, size, objective.batch)

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
        position.cursor, position.stage = plan.following, plan.following_stage
        position.tokens += plan.tokens
        if not position.window:
            position.window = new_window(plan)
        position.window["tokens"] += plan.tokens
        position.window["waited"] += waited
        self._computed.append(ComputedStep(position.step, plan, result))

    def settle(self, unread: int = 0) -> None:
        """Read the figures of computed steps, except for so many of the last, into the window.

        Raises:
            DivergedError: too many steps in a row were not applied.
        """
        while len(self._computed) > unread:
            self._add(self._computed.popleft())

    def _add(self, step: ComputedStep) -> None:
        position, window = self.position, self.position.window
        losses, correct, norm = step.read()
        skipped, spike = step.result.skipped, step.result.spike
        if not self._reads_at_once:
            skipped, spike = self._check(step.plan.objective.total(losses), norm, any(step.plan.counts))
        position.skipped_steps = position.skipped_steps + 1 if skipped else 0
        if spike:
            window["spike"] = max(spike, window.get("spike", 0.0))
        if skipped:
            window["skipped"] = window.get("skipped", 0) + 1
            self._log_skipped(step, skipped)
            return
        add_step(window, step.plan, losses, correct, norm)

    def _log(self) -> None:
        self.settle()
        window, position = self.position.window, self.position
        if not window["steps"]:  # all were skipped, and each has a row of its own
            position.window = {}
            return
        rare: Row = {"spike": window.get("spike"), "skipped_steps": window.get("skipped")}
        objective = self.objective.stages[int(window.get("stage", 0))]
        if len(self.objective.stages) > 1:
            rare["objective"] = objective.name
        self.on_row(
            {key: value for key, value in rare.items() if value}
            | {
                "step": position.step,
                "tokens": position.tokens,
                "seconds": round(position.seconds, 3),
                **mean_losses(window, objective),
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
