"""Experiment trackers, each a callback on the library's own functions: TensorBoard, Weights & Biases, MLflow, Trackio.

Metrics have the names of ``metrics.jsonl``; those of the finished model are ``heldout/…`` with the keys of
``evaluation.json``, at the last step. Libraries are imported when a run starts.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import uuid4

from unmask.errors import ConfigError, Interrupted
from unmask.run.callbacks import Callback, RunEnd, RunStart

_PROJECT = "unmask"


class Tracker(Callback):
    """A run in a tracker.

    Args:
        id: of the run to continue there, if there is one.

    Attributes:
        id: of the run in the tracker, after :meth:`start`.
        address: where it can be looked at, or the command that shows it.
    """

    address = ""

    def __init__(self, id: str | None) -> None:
        self.id = id

    def row(self, row: Mapping[str, Any]) -> None:
        self.put(dict(numbers({**row, "skipped": 1} if "skipped" in row else row)), row["step"])

    def evaluation(self, row: Mapping[str, Any]) -> None:
        self.row(row)

    def put(self, metrics: Mapping[str, float], step: int) -> None:
        """Report the metrics of a step."""
        raise NotImplementedError

    def end(self, run: RunEnd) -> None:
        if run.evaluation is not None:
            self.put(dict(numbers(run.evaluation, "heldout/")), run.step)
        self.close(run)

    def close(self, run: RunEnd) -> None:
        """Report the report, and how the run ended."""
        raise NotImplementedError


def numbers(content: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield the finite numbers in JSON by their path, such as ``heldout/before/loss``; the step of a row is no metric."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            if name or key != "step":
                yield from numbers(value, f"{name}{key}" + "/" * isinstance(value, Mapping))
    elif isinstance(content, int | float) and not isinstance(content, bool) and math.isfinite(content):
        yield name, float(content)


class TensorBoard(Tracker):
    """Event files in the run folder."""

    def start(self, run: RunStart) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / "tensorboard"
        # What an interrupted run wrote after the step that it is resumed from is not shown.
        self._writer = SummaryWriter(str(folder), purge_step=run.step + 1 if self.id else None)
        self.id, self.address = folder.name, f"tensorboard --logdir {folder}"
        for name, content in (("settings", run.settings), ("run", run.info)):
            self._writer.add_text(name, f"```json\n{_json(content)}\n```", run.step)
        self._writer.flush()

    def put(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self, run: RunEnd) -> None:
        ended = str(run.folder.report) if run.error is None else f"ended early: {run.error}"
        self._writer.add_text("report", ended, run.step)
        self._writer.close()


class WeightsAndBiases(Tracker):
    """A run at the server that one is logged in to, or below the run folder (``WANDB_MODE=offline``)."""

    def start(self, run: RunStart) -> None:
        offline = _is_offline(run) or os.environ.get("WANDB_MODE") == "offline"
        if offline:
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        if not offline and not wandb.login(prompt=False):  # it would ask for one in the terminal
            raise ConfigError("not logged in: run 'wandb login', or set WANDB_MODE=offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=run.folder.root.name,
            id=self.id,
            resume="allow",
            dir=str(run.folder),
            mode="offline" if offline else None,
            settings=wandb.Settings(console="off", silent=True),  # the terminal is ours
        )
        self._run.config.update({**run.settings, "run": run.info}, allow_val_change=True)
        self.id = self._run.id
        self.address = f"wandb sync {self._run.settings.sync_dir}" if offline else self._run.url
        self._wandb = wandb

    def put(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self, run: RunEnd) -> None:
        if run.error is None:
            report = self._wandb.Artifact(f"report-{self.id}", "report")
            report.add_file(str(run.folder.report))
            self._run.log_artifact(report)
        self._run.finish(exit_code=0 if run.error is None else 1)


class MLflow(Tracker):
    """A run in the store of ``MLFLOW_TRACKING_URI``, by default a database in the working folder."""

    def start(self, run: RunStart) -> None:
        if _is_offline(run):
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient, get_tracking_uri
        from mlflow.entities import Param

        store = get_tracking_uri()
        if _is_offline(run) and not store.startswith(("sqlite:", "file:", "/", ".")):
            raise ConfigError(f"the run is offline, and MLFLOW_TRACKING_URI is {store}")
        self._client = MlflowClient()
        if self.id is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
            found = self._client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else self._client.create_experiment(name)
            self.id = self._client.create_run(experiment, run_name=run.folder.root.name).info.run_id
        else:
            self._client.set_terminated(self.id, "RUNNING")
        made = self._client.get_run(self.id)
        # A parameter cannot change: what a resume gives anew, such as a higher limit, is in the artifact config.yaml.
        given = {
            key: value
            for key, value in _flat({**run.settings, "run": run.info})
            if key not in made.data.params
        }
        params = [Param(key, value[:6000]) for key, value in given.items()]
        for begin in range(0, len(params), 100):
            self._client.log_batch(self.id, params=params[begin : begin + 100])
        self._client.log_artifact(self.id, str(run.folder.config))
        page = f"#/experiments/{made.info.experiment_id}/runs/{self.id}"
        is_server = store.startswith("http")
        self.address = (
            f"{store.rstrip('/')}/{page}" if is_server else f"mlflow ui --backend-store-uri {store} ({page})"
        )

    def put(self, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        made = [Metric(key, value, now, step) for key, value in metrics.items()]
        self._client.log_batch(str(self.id), metrics=made)

    def close(self, run: RunEnd) -> None:
        if run.error is None:
            self._client.log_artifact(self.id, str(run.folder.report))
        status = "KILLED" if isinstance(run.error, Interrupted | KeyboardInterrupt) else "FAILED"
        self._client.set_terminated(self.id, status if run.error else "FINISHED")


class Trackio(Tracker):
    """A run in the database of Trackio on this machine, or where ``TRACKIO_SPACE_ID`` or ``TRACKIO_SERVER_URL`` says."""

    def start(self, run: RunStart) -> None:
        import trackio

        remote = os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL")
        if _is_offline(run) and remote:
            raise ConfigError(f"the run is offline, and Trackio is told to send it to {remote}")
        for name, module in list(sys.modules.items()):
            if name.split(".")[0] == "trackio":  # it prints to stdout, where --json has one document
                vars(module)["print"] = lambda *args, **options: None
        self.id = self.id or f"{run.folder.root.name}-{uuid4().hex[:8]}"
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", _PROJECT),
            name=self.id,
            resume="allow",
            config={**run.settings, "run": run.info},
            embed=False,
        )
        self.address = remote or f"trackio show --project {self._run.project}"

    def put(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self, run: RunEnd) -> None:
        if run.error is None:
            self._run.log_artifact(str(run.folder.report), name=f"report-{self.id}", type="report")
        self._run.finish()


def _is_offline(run: RunStart) -> bool:
    return bool(run.settings["model"]["offline"])


def _flat(content: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield what is in nested objects by dotted key, as text."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, str(content)


def _json(content: object) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False)


TRACKERS: dict[str, Callable[[str | None], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "trackio": Trackio,
}
"""Tracker by name, which is also the name of the package that it needs."""
