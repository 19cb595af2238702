"""The steps of a run: train, evaluate and save, then write the model, its metrics and its report."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from unmask.config.load import dump_config
from unmask.config.settings import RunConfig
from unmask.data.verification import Verification
from unmask.errors import ConfigError, DataError, DivergedError, Interrupted, LostProcess, plural
from unmask.evaluation.predictions import TargetPredictions
from unmask.model.layers import merge_lora
from unmask.objectives.choose import Custom
from unmask.progress import Progress
from unmask.reporting.format import cell, own_metric, own_name
from unmask.run.adaptation import TaskProbe, save_base
from unmask.run.assemble import make_loop, make_stream, recipe_of, with_recipe
from unmask.run.callbacks import Callback, RunEnd, RunStart
from unmask.run.choices import choices_of, choices_text, masked_excerpt
from unmask.run.components import RunComponents, build_components
from unmask.run.disk import disk_need, require_room
from unmask.run.failures import how_to_continue
from unmask.run.fingerprint import fingerprint_of, require_same_model
from unmask.run.interpolation import Interpolation, interpolate
from unmask.run.overlap import is_compared_first, overlaps
from unmask.run.results import answers_on, evaluation_of, final_metrics, metrics_on, run_info
from unmask.run.saving import RunCheckpoints, verify
from unmask.run.selection import Division, selection_of, warn_of_few, with_selection
from unmask.run.signals import Signals
from unmask.run.state import RunState
from unmask.run.writing import write_results
from unmask.run_folder import RunFolder
from unmask.storage import append_row, read_json, write_atomically, write_json
from unmask.training.best_weights import Best
from unmask.training.distributed import World
from unmask.training.loop import Loop
from unmask.training.window import Row

_SHARES = 10
_TRAINED_PER_EVALUATED = 4
"""Least tokens that are trained on for each one of an evaluation, which costs about a third as much."""


@dataclass(frozen=True)
class FinishedRun:
    """A finished run; its attributes are those of :class:`unmask.RunResult`."""

    folder: RunFolder
    steps: int
    tokens: int
    seconds: float
    loss: float | None
    evaluation: dict[str, Any] | None
    unmet: str = ""


class TrainingRun:
    """The state of a run between its first and its last step."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        resume: str | None,
        progress: Progress,
        signals: Signals,
        world: World,
        verification: Verification,
        custom: Custom,
        probe: TaskProbe | None,
        callbacks: Callback,
    ) -> None:
        self.callbacks, self.probe = callbacks, probe
        self.folder, self.progress, self.signals = folder, progress, signals
        self.components: RunComponents = build_components(
            config, folder, progress, world, verification, custom
        )
        self._verification = verification
        if not self.components.world.is_main:
            self.progress = Progress()
        self.recipe = recipe_of(config, self.components)
        self.config = with_recipe(config, self.recipe, self.components)
        begun = Division.of(folder) if resume and self.is_main else None
        begun = self.components.world.from_main(begun)
        self.components = with_selection(self.components, self.config, self.progress, begun)
        warn_of_few(self.components, self.config.train, self.progress)
        self.fingerprint = fingerprint_of(self.config, self.components)
        try:
            require_same_model(self.fingerprint, self.components)
        except ConfigError:
            verify(verification, world)  # perhaps since the shards of one are damaged
            raise
        stream = make_stream(self.config, self.recipe, self.components)
        self.loop = make_loop(self.config, self.recipe, self.components, stream)
        self.loop.on_row, self.loop.after_step = self._write_row, self._after_step
        self.loop.log = self.progress.log
        self.checkpoints = RunCheckpoints(
            folder, self.config, self.components, self.loop, self.fingerprint, verification, self.progress
        )
        self.state = RunState()
        self._save_is_due = False
        self._shown_metrics: dict[str, Any] = {}
        limits = config.train.epochs, config.train.max_steps, config.train.minutes
        self.choices = choices_of(self.config, self.components, default_length=not any(limits))
        self._resume(resume)
        self._tenths, self._evaluations = self._tenths_done(), self._evaluations_due()
        if self.is_main:
            model, settings = self.components.model.model, self.config.train
            require_room(folder, disk_need(model, self.loop.optimizers, settings, settings.max_steps))

    @property
    def is_main(self) -> bool:
        return self.components.world.is_main

    def write_info(self, command: list[str], extra: dict[str, Any]) -> None:
        """Write ``config.yaml`` and ``run.json``."""
        if self.is_main:
            write_atomically(self.folder.config, dump_config(self.config))
            info = run_info(self.components, self.config, command) | {"choices": self.choices} | extra
            if is_compared_first(self.components):
                info["overlap"] = overlaps(self.components, self.progress)
            write_json(self.folder.info, info)

    def run(self) -> FinishedRun:
        """Train to the end, then write the model, its metrics and the report."""
        try:
            self._tell_start()
            finished = self._run()
        except BaseException as error:
            try:
                self._tell_end(None, error)
            except Exception as another:  # the first error is the one to raise
                self.progress.warning(f"a callback failed at the end of the run: {another}")
            raise
        self._tell_end(finished.evaluation, None)
        return finished

    def _tell_start(self) -> None:
        if self.is_main:
            info, step = read_json(self.folder.info), self.loop.position.step
            self.callbacks.start(RunStart(self.folder, self.config.model_dump(), info, step))

    def _tell_end(self, evaluation: dict[str, Any] | None, error: BaseException | None) -> None:
        if self.is_main:
            self.callbacks.end(RunEnd(self.folder, self.loop.position.step, evaluation, error))

    def _run(self) -> FinishedRun:
        self._log_choices()
        if self.loop.position.step == 0 and self.components.has_base:
            self._evaluate_base()
        self.progress.begin("train")
        with self.signals.stepping():
            self._train_or_save()
        self.progress.end()
        exported = self.checkpoints.load_best(self.state.best)
        if self.components.adapters is not None:
            merge_lora(self.components.adapters)
        self.components = self._whole()
        mixed = interpolate(self.components, self.config, self.folder, self.progress)
        evaluation, unmet = self._finish(exported, mixed)
        at, loss = self.loop.position, self.state.last_loss
        return FinishedRun(self.folder, at.step, at.tokens, at.seconds, loss, evaluation, unmet)

    def _whole(self) -> RunComponents:
        """Return the components with the whole model, which each process evaluates in fp32 on a share of the text."""
        return replace(self.components, model=self.loop.gradient_sum.whole_model())

    def _evaluate_base(self) -> None:
        components = self._whole()
        self.state.before, predictions = final_metrics(components, self.config)
        if selection := components.selection:
            found = metrics_on(components, selection, self.config.train.eval_tokens)
            self.state.before["selection"] = found.to_dict()
        if self.is_main:
            save_base(self.folder, predictions)

    def _finish(self, exported: int, mixed: Interpolation) -> tuple[dict[str, Any] | None, str]:
        """Evaluate the model and write the results; return the metrics, and what of ``--require`` does not hold."""
        evaluation, predictions = self._evaluate_exported(exported)
        if evaluation is not None and not math.isfinite(evaluation["loss"]):
            raise DivergedError(
                f"after step {exported} the held-out loss is {evaluation['loss']}; lower the learning rate"
            )
        results = self.components, self.config, self.folder, self.loop, evaluation, predictions, mixed
        write = partial(write_results, *results, self.probe, self.progress)
        unmet = self.components.world.main_first(write, "writing results")
        return self.components.world.from_main((evaluation, unmet or ""))

    def _log_choices(self) -> None:
        """Log what the run is going to do, and the first batch as the model sees it; nothing where no step is left."""
        if not self.is_main or self.loop.over:
            return
        self.progress.log(choices_text(self.choices))
        position = self.loop.position
        step = self.loop.plan(position.cursor, position.step, stage=position.stage)
        if step is not None and step.batches:
            originals = step.objective.targets_in_place
            excerpt = masked_excerpt(step.batches[0], self.components.model.tokenizer, originals=originals)
            what = ", with the original of each target in brackets" if originals else ""
            self.progress.log(f"first batch{what}:\n{excerpt}")

    # What happens between steps

    def _after_step(self, loop: Loop) -> None:
        self._verification.require_undamaged()
        settings, position = self.config.train, loop.position
        if self.is_main:
            self.progress.advance(min(loop.progress, 1.0), {"step": position.step, **self._shown_metrics})
        tenths, evaluations = self._tenths_done(), self._evaluations_due()
        passed, self._tenths = tenths > self._tenths, tenths
        is_due, self._evaluations = evaluations > self._evaluations, evaluations
        if position.step % settings.eval_every == 0 if settings.eval_every else is_due:
            self._evaluate_now()
        saves = position.step % settings.save_every == 0 if settings.save_every else passed
        asked, stopping = self.signals.asked(self.components.world)
        self._save_is_due |= saves and not loop.over
        # Steps are skipped perhaps because of the weights: then an older checkpoint is the better one.
        if self._save_is_due:
            loop.settle()
        if asked or (self._save_is_due and not position.skipped_steps):
            self._save()
        if stopping:
            self.checkpoints.wait()
            raise self._interrupted()

    def _train_or_save(self) -> None:
        """Train; where another process is lost, save what this one has, which is what all had after the last step."""
        world, loop = self.components.world, self.loop
        try:
            self._train()
        except BaseException as error:
            failure = world.explained(error)
            of_another = failure is not error and isinstance(failure, LostProcess | ConfigError)
            unsaved = self.checkpoints.saved != loop.position.step and not loop.gradient_sum.sharded
            if of_another and world.speaks and unsaved and loop.whole:
                self.checkpoints.save_alone(self.state)
            if failure is error:
                raise
            raise failure from error
        finally:
            self.checkpoints.close()

    def _train(self) -> None:
        """Train to the end, and save: what comes after may take long, or fail."""
        self.loop.run()
        self.checkpoints.verify()
        if self.state.last_loss is None and self.loop.position.skipped_steps:
            raise DivergedError(
                f"none of {plural(self.loop.position.step, 'step')} was applied, since each had a loss or a gradient that is NaN or infinite"
            )
        if self.state.last_loss is None:
            why = self.components.text.why_no_target("the training text")
            raise DataError(f"nothing was learned in {plural(self.loop.position.step, 'step')}: {why}")
        if self.state.evaluated != self.loop.position.step:
            self._evaluate_now()
        if self.checkpoints.saved != self.loop.position.step:
            self._save()
        self.checkpoints.wait()
        if self.signals.asked(self.components.world)[1]:
            raise self._interrupted()

    def _interrupted(self) -> Interrupted:
        return Interrupted(
            f"stopped by a signal after step {self.loop.position.step}; the run is saved, {how_to_continue(self.folder)}"
        )

    def _tenths_done(self) -> int:
        """Return how many tenths of its length the run has."""
        return int(min(self.loop.progress, 1.0) * _SHARES + 1e-9)

    def _evaluations_due(self) -> int:
        """Return how many evaluations a run has had by now: one each tenth, or fewer where they would take much of its time."""
        texts = (self.components.selection or self.components.heldout, self.components.general)
        evaluated = sum(min(text.tokens, self.config.train.eval_tokens) for text in texts if text)
        return min(
            self._tenths_done(), self.loop.position.tokens // max(1, _TRAINED_PER_EVALUATED * evaluated)
        )

    def _write_row(self, row: Row) -> None:
        if self.is_main:
            append_row(self.folder.metrics, row)
            self.callbacks.row(row)
        if "loss" not in row:  # the row of a skipped step
            return
        if row["loss"] is not None:
            self.state.last_loss = row["loss"]
        parts = {own_name(key): cell(value) for key, value in row.items() if key.endswith("_loss")}
        self._shown_metrics = {"loss": cell(row["loss"]), **parts, "tokens/s": row["tokens_per_second"]}

    def _evaluate_now(self) -> None:
        if self.components.heldout is None:
            return
        tokens, position = self.config.train.eval_tokens, self.loop.position
        text = self.components.selection or self.components.heldout
        metrics = metrics_on(self.components, text, tokens)
        row = {"step": position.step, "tokens": position.tokens, "seconds": round(position.seconds, 3)}
        row |= {"eval_loss": metrics.loss, "eval_accuracy": metrics.accuracy}
        line = (
            f"step {position.step}: held-out loss {metrics.loss:.3f}, accuracy {metrics.accuracy:.1%}, "
            f"all targets {self.components.model.tokenizer.mask_token}"
        )
        if self.components.general is not None:
            row["general_loss"] = metrics_on(self.components, self.components.general, tokens).loss
            line += f"; general loss {row['general_loss']:.3f}"
        for name, value in answers_on(self.components, text, tokens).items():
            row[f"eval_{name}"] = value
            line += f"; {own_name(name)} {own_metric(name, value)}"
        self.checkpoints.verify()
        if self.is_main:
            append_row(self.folder.metrics, row)
            self.callbacks.evaluation(row)
            self.progress.log(line)
        self._update_best(metrics.loss)

    def _update_best(self, loss: float) -> None:
        """Save the weights if they are the best so far, and end the run after ``patience`` worse evaluations."""
        step, last_stage = self.loop.position.step, len(self.loop.objective.stages) - 1
        self.state.evaluated, self.checkpoints.saved = (
            step,
            -1,
        )  # a checkpoint of this step does not know of it
        if self.loop.position.stage < last_stage:  # these weights lack the objective that is to come
            return
        # All processes use one number, so that they save and end together.
        self.state.best = Best.after(self.state.best, step, self.components.world.max(loss))
        if self.config.train.export_best and self.state.best.step == step:
            self.checkpoints.save_best(step)
        if not self.loop.over:
            self._stop_early()

    def _stop_early(self) -> None:
        patience = self.config.train.patience
        if not patience or self.state.best is None or self.state.best.since < patience:
            return
        self.loop.ended = True
        self.progress.log(
            f"stopping early after step {self.loop.position.step}: the held-out loss has not fallen below "
            f"{self.state.best.loss:.3f} in {plural(self.state.best.since, 'evaluation')} (--patience). The learning rate ends at "
            f"{self.loop.lr_factor(self.loop.progress, self.loop.progress):.0%} of its peak, since its schedule was made for the whole run"
        )

    def _save(self) -> None:
        self.checkpoints.save(self.state)
        self._save_is_due = False

    # Before the first step and after the last

    def _resume(self, resume: str | None) -> None:
        state = self.checkpoints.resume(resume)
        if state is None:
            return
        self.state = state
        self._stop_early()
        position = self.loop.position
        if reached := self.loop.length.reached(position.step, self.loop.epochs, position.seconds):
            self.progress.log(
                f"no step is left to train, only the results are written: the run has had {', '.join(reached)}, counted from its "
                f"beginning; resume with a higher limit to train on"
            )

    def _evaluate_exported(self, exported: int) -> tuple[dict[str, Any] | None, dict[str, TargetPredictions]]:
        if self.components.heldout is None:
            return None, {}
        self.progress.begin("evaluate")
        metrics, predictions = final_metrics(self.components, self.config)
        evaluation = evaluation_of(
            self.components, self.components.heldout, self.config, metrics, self.state.before
        )
        self.progress.end()
        chosen_on = selection_of(self.components, self.config.train, self.state.before.get("selection"))
        ended = {"step": exported, "stopped_early": self.loop.ended, "selection": chosen_on}
        return evaluation | ended, predictions
