"""``train``, ``demo`` and ``report``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from unmask.api.model import Model, load
from unmask.api.options import configured, unknown
from unmask.api.progress import ProgressLike, shown
from unmask.api.texts import Text, TextFiles
from unmask.api.wording import in_python
from unmask.config.options import OPTIONS, flat_settings
from unmask.config.settings import RunConfig
from unmask.data.masking.custom import Strategy
from unmask.errors import ConfigError, plural
from unmask.objectives.choose import Custom
from unmask.objectives.objective import Objective
from unmask.probing.adaptation import task_probe
from unmask.progress import Progress
from unmask.reporting.adaptation import verdict_text
from unmask.reporting.card import rebuild_report
from unmask.reporting.format import clock, metric
from unmask.reporting.results import Result, Rows, frame, metric_rows
from unmask.run.callbacks import Callback
from unmask.run.demo import TRAINING_MINUTES, run_demo
from unmask.run.failures import further
from unmask.run.lock import is_empty
from unmask.run.published import output_folder
from unmask.run.train import train as run_training
from unmask.run.training_run import FinishedRun
from unmask.run_folder import RunFolder
from unmask.storage import read_json

_TEXTS = ("text", "heldout", "replay", "general")
_OWN = (
    "model",
    "preset",
    "out",
    "config",
    "settings",
    "resume",
    "checkpoint",
    "offline",
    "callbacks",
    "progress",
)


@dataclass(frozen=True, repr=False)
class RunResult(Result, FinishedRun):
    """A finished run, with its metrics and its model.

    Attributes:
        folder: the run folder, path-like, with its files as attributes, such as ``folder.report``.
        steps: optimizer steps.
        tokens: tokens trained on, without padding.
        seconds: seconds of training.
        loss: the last training loss that was logged, or ``None``.
        evaluation: the content of ``evaluation.json``; ``None`` without held-out text.
        unmet: what of ``require`` does not hold; empty where all does.
    """

    @property
    def verdict(self) -> dict[str, Any] | None:
        """Whether to use an adapted model, as in ``adaptation.json``; ``None`` where it was not compared with a base."""
        found: dict[str, Any] | None = (read_json(self.folder.adaptation) or {}).get("verdict")
        return found

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics on held-out text: ``loss``, ``perplexity``, ``accuracy``, ``before`` (of the base model) and more."""
        return self.evaluation or {}

    @cached_property
    def model(self) -> Model:
        """The trained model; it is loaded when it is first used."""
        return load(self.folder.root, offline=True, progress=False)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``unmask train --json`` prints."""
        paths = {
            "run": str(self.folder.root),
            "model": str(self.folder.model),
            "report": str(self.folder.report),
        }
        names = ("steps", "tokens", "seconds", "loss", "evaluation")
        read = (read_json(self.folder.info) or {}).get("read")
        values = {name: getattr(self, name) for name in names}
        return paths | values | {"verdict": self.verdict, "read": read}

    def _title(self) -> str:
        steps = f"{plural(self.steps, 'step')}, {plural(self.tokens, 'token')} in {clock(self.seconds)}"
        decided = f". {verdict_text(self.verdict)}" if self.verdict else ""
        return f"run in {self.folder.root}: {steps}{decided}"

    def to_rows(self) -> Rows:
        """Return a row for each metric on held-out text: of the base model, and of the trained model."""
        return metric_rows({"before": self.metrics.get("before"), "after": self.evaluation})

    def _repr_html_(self) -> str:
        from unmask.reporting.page import render_curves
        from unmask.reporting.record import read_record

        curves = render_curves(read_record(self.folder))
        return super()._repr_html_() + (frame(curves, "24em") if curves else "")

    def _shown_rows(self) -> Rows:
        return [
            {
                name: value if name == "metric" else metric(str(row["metric"]), value)
                for name, value in row.items()
            }
            for row in self.to_rows()
        ]


def train(
    text: Text = None,
    *,
    model: str | Path | None = None,
    preset: str | Path | None = None,
    out: str | Path = "runs/train",
    config: str | Path | RunConfig | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    checkpoint: str | Path | None = None,
    offline: bool = False,
    objective: str | Objective | None = None,
    strategy: str | Strategy | None = None,
    callbacks: Sequence[Callback] = (),
    progress: ProgressLike = None,
    **options: Any,
) -> RunResult:
    """Adapt a checkpoint to a text, or train a new model on it, by masked language modelling or another objective.

    Args:
        text: paths, or texts in memory (see :mod:`unmask.api.texts`), which are kept in the run folder.
        model: the checkpoint to adapt: Hub name, model folder or run folder.
        preset: an architecture to train from scratch instead, such as ``bert-mini``, or the path of a ``config.json``.
        out: the run folder or its URL, absent or empty unless ``resume`` is set.
        config: a YAML file as ``unmask init`` writes it, or a :class:`unmask.RunConfig`.
        settings: any settings by dotted key, such as ``{"train.keep_last": 5}``; they win over ``config``.
        resume: continue the run in ``out`` from its last checkpoint, by default with its own settings and text.
        checkpoint: resume from this one.
        offline: make no network call.
        objective: ``mlm``, ``clm``, ``nsp``, ``sop``, ``rtd``, ``contrastive``, or an :class:`unmask.Objective` of your own, which a resume needs again.
        strategy: ``token``, ``word`` and so on, or a function of your own, which a resume needs again: from the tokens of a
            sequence and the number of the word that each is in to the number of the unit that each is in. The tokens of a unit
            are masked together.
        callbacks: see :class:`unmask.Callback`; they are called between the steps.
        progress: see :class:`unmask.Progress`.
        options: the long options of ``unmask train``, such as ``epochs``, ``learning_rate`` or ``mask_rate``; they win over
            ``settings``. ``heldout``, ``replay`` and ``general`` take whatever ``text`` takes.

    Raises:
        TypeError: an option that does not exist.
        ConfigError: settings that cannot work, or ``out`` holds another run.
        DataError: the text cannot be used.
        DivergedError: the loss became NaN or infinite.
        DiskError: something could not be written.
        Interrupted: stopped by a signal or Ctrl-C; the run is saved and can be resumed.
    """
    for name in options:
        if name not in OPTIONS or name in _OWN:
            raise TypeError(unknown(name, [*OPTIONS, *_OWN]))
    if not isinstance(resume, bool):
        raise ConfigError(
            f"resume must be True or False, not {resume!r}; name the run with out=, a checkpoint with checkpoint="
        )
    if settings is not None and not isinstance(settings, Mapping):
        raise ConfigError(f"settings must be a dictionary by dotted key, not {settings!r:.80}")
    resume = resume or checkpoint is not None
    with (
        shown(progress, offline) as listener,
        output_folder(out, resume=resume, progress=listener) as root,
    ):
        given = {
            "text": text,
            "model": _name(model),
            "preset": preset and str(preset),
            "offline": offline or None,
            **options,
        }
        if isinstance(task := options.get("task"), PathLike):
            given["task"] = str(task)
        if not isinstance(objective, str | Objective | None):
            of = f", {objective.__name__}()" if isinstance(objective, type) else ""
            raise ConfigError(
                f"objective: expected a name or an object of a class of unmask.Objective{of}, not {objective!r}"
            )
        custom = Custom(
            objective if isinstance(objective, Objective) else None, strategy if callable(strategy) else None
        )
        given["objective"] = objective if custom.objective is None else "custom"
        given["strategy"] = strategy if custom.strategy is None else "custom"
        finished = _train(
            given, RunFolder(root), config, settings, resume, checkpoint, custom, callbacks, listener
        )
    return RunResult(**vars(finished))


def _train(
    given: dict[str, Any],
    folder: RunFolder,
    config: str | Path | RunConfig | None,
    settings: Mapping[str, Any] | None,
    resume: bool,
    checkpoint: str | Path | None,
    custom: Custom,
    callbacks: Sequence[Callback],
    progress: Progress,
) -> FinishedRun:
    """Train in a folder of this machine with the arguments of :func:`train`."""
    _require_free(folder, resume)
    if resume and given["text"] is None and config is None and not folder.config.is_file():
        raise ConfigError(f"{folder.root} holds no run to resume; name the folder of one with out=")
    own = given["text"] is not None and (given["model"] or given["preset"])  # the call says everything itself
    if resume and config is None and not own and folder.config.is_file():
        config = folder.config
    flags = flat_settings(settings or {}) | {
        OPTIONS[name]: value for name, value in given.items() if value is not None and name not in _TEXTS
    }
    # Which texts there are decides what settings are allowed; their files are written once it is known how to read them.
    there = {OPTIONS[name]: [name] for name in _TEXTS if given.get(name) is not None}
    first = configured(config, flags | there, progress)
    probe = task_probe(first)  # reads the task before anything is written
    flags |= _texts(given, first.data.text_field, folder, progress)
    return run_training(
        configured(config, flags),
        folder.root,
        resume=(str(checkpoint) if checkpoint else "auto") if resume else None,
        command=sys.argv,
        probe=probe,
        custom=custom,
        callbacks=callbacks,
        progress=progress,
    )


def demo(
    out: str | Path = "runs/demo",
    *,
    minutes: float = TRAINING_MINUTES,
    seed: int = 0,
    progress: ProgressLike = None,
) -> RunResult:
    """Train a small encoder on the documentation of this Python installation; nothing is downloaded.

    Args:
        out: the run folder; an earlier demo there is replaced.
        minutes: minutes of training.
        seed: of weights, order and masks.
        progress: see :class:`unmask.Progress`.

    Raises:
        ConfigError: ``out`` holds something that is not a demo.
    """
    with shown(progress) as listener:
        return RunResult(**vars(run_demo(out, minutes=minutes, seed=seed, progress=listener)))


def report(run: str | Path | RunResult) -> Path:
    """Rebuild the report of a run from its files, without a model, and return the path of the page.

    Raises:
        DataError: there is no run in the folder.
    """
    folder = run.folder if isinstance(run, RunResult) else RunFolder(Path(run))
    return rebuild_report(folder)


def _name(model: object) -> str | None:
    """Return the name of the checkpoint to adapt."""
    if model is None or isinstance(model, str | PathLike):
        return None if model is None else str(model)
    if isinstance(model, Model) and Path(model.name).exists():
        return model.name
    raise ConfigError(
        f"model: expected a Hub name or a folder, not a {type(model).__name__} in memory; save it with save_pretrained() "
        f"together with its tokenizer, and pass the folder"
    )


def _require_free(folder: RunFolder, resume: bool) -> None:
    """Refuse a folder that holds a run before any text is written there."""
    if not resume and folder.root.exists() and not is_empty(folder.root):
        raise ConfigError(
            f"{folder.root} already holds files; choose another folder with out=, or continue with resume=True"
            f"{in_python(further(folder))}"
        )


def _texts(
    given: Mapping[str, Any], field: str, folder: RunFolder, progress: Progress
) -> dict[str, list[str]]:
    """Return the inputs by setting; texts in memory are written into the run folder, so that the run can be resumed."""
    with TextFiles(field=field, folder=folder.in_memory_text, progress=progress) as files:
        return {
            OPTIONS[name]: files.inputs(given[name], name) for name in _TEXTS if given.get(name) is not None
        }
