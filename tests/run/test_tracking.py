"""Callbacks of a run, and experiment trackers by the local back ends of their libraries."""

from __future__ import annotations

import json
import struct
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import unmask
from unmask.errors import MissingExtra
from unmask.run.callbacks import RunEnd, RunStart
from unmask.run.trackers import Tracker
from unmask.run.tracking import InBackground, require_trackers
from unmask.storage import read_json, read_rows, sha256

QUICK: dict[str, Any] = {
    "max_steps": 4,
    "max_length": 32,
    "batch_tokens": 256,
    "device": "cpu",
    "precision": "fp32",
    "progress": False,
    "settings": {"train.log_every": 1, "train.eval_every": 2, "train.save_every": 2},
}


class Recorder(unmask.Callback):
    """Keeps what it is told, and stops the run at a step."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.events: list[tuple[str, Any]] = []
        self.stop_at = stop_at

    def start(self, run: RunStart) -> None:
        self.events.append(("start", run))

    def row(self, row: Mapping[str, Any]) -> None:
        self.events.append(("row", row))
        if row["step"] == self.stop_at:
            raise KeyboardInterrupt

    def evaluation(self, row: Mapping[str, Any]) -> None:
        self.events.append(("evaluation", row))

    def end(self, run: RunEnd) -> None:
        self.events.append(("end", run))

    def of(self, kind: str) -> list[Any]:
        return [content for name, content in self.events if name == kind]


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus_text: list[str]) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "notes.txt"
    path.write_text("\n".join(corpus_text[:80]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def base(checkpoint: Callable[[str], Path]) -> Path:
    return checkpoint("bert")


def test_a_callback_gets_every_row_and_changes_no_weight(notes: Path, base: Path) -> None:
    recorder = Recorder()
    run = unmask.train(notes, model=base, out="runs/told", callbacks=[recorder], **QUICK)
    assert [kind for kind, _ in recorder.events] == (
        ["start", "row", "row", "evaluation", "row", "row", "evaluation", "end"]
    )
    assert [row for kind, row in recorder.events if kind in ("row", "evaluation")] == read_rows(
        run.folder.metrics
    )
    (start,), (end,) = recorder.of("start"), recorder.of("end")
    assert start.settings["train"]["batch_tokens"] == 256
    assert (start.step, start.info["parameters"]) == (0, read_json(run.folder.info)["parameters"])
    assert (end.step, end.error, end.evaluation) == (4, None, read_json(run.folder.evaluation))
    alone = unmask.train(notes, model=base, out="runs/alone", **QUICK)
    weights = [sha256(each.folder.model / "model.safetensors") for each in (run, alone)]
    assert weights[0] == weights[1]


def test_an_error_of_a_callback_ends_the_run_and_all_are_told(notes: Path, base: Path) -> None:
    first, second = Recorder(stop_at=3), Recorder()
    with pytest.raises(KeyboardInterrupt):
        unmask.train(notes, model=base, out="runs/stopped", callbacks=[first, second], **QUICK)
    for recorder in (first, second):
        (end,) = recorder.of("end")
        assert isinstance(end.error, KeyboardInterrupt)
        assert (end.step, end.evaluation) == (3, None)
    resumed = Recorder()
    unmask.train(notes, model=base, out="runs/stopped", resume=True, callbacks=[resumed], **QUICK)
    assert resumed.of("start")[0].step == 2
    assert [row["step"] for row in resumed.of("row")] == [3, 4]


class Log(unmask.Progress):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def log(self, text: str) -> None:
        self.messages.append(text)


class _Faulty(Tracker):
    """Fails at the start, at every row, or hangs until it is freed."""

    def __init__(self, id: str | None, fault: str, freed: threading.Event) -> None:
        super().__init__(id)
        self.fault, self.freed = fault, freed

    def start(self, run: RunStart) -> None:
        if self.fault == "start":
            raise SystemExit("no such host")

    def put(self, metrics: Mapping[str, float], step: int) -> None:
        if self.fault == "rows":
            raise OSError("connection reset")
        if self.fault == "hangs":
            self.freed.wait()

    def close(self, run: RunEnd) -> None:
        pass


@pytest.mark.parametrize(
    ("fault", "rows", "expected"),
    [
        (
            "start",
            20,
            [
                "tracker failed (SystemExit: no such host): it lacks the run",
                "tracker: 22 events of this run could not be reported",
            ],
        ),
        (
            "rows",
            20,
            [
                "tracker failed (OSError: connection reset): it lacks some of the run",
                "tracker: 20 events of this run could not be reported",
            ],
        ),
        (
            "hangs",
            20,
            ["tracker has not finished after 0.05 seconds: it may lack the end of the run and the report"],
        ),
        ("hangs", 1100, ["tracker takes no more than 1,000 waiting rows: it lacks some"]),
    ],
)
def test_a_tracker_that_fails_or_hangs_is_said_once(
    tmp_path: Path, fault: str, rows: int, expected: list[str]
) -> None:
    log, freed, folder = Log(), threading.Event(), unmask.RunFolder(tmp_path)
    background = InBackground("tracker", folder, log, lambda id: _Faulty(id, fault, freed), seconds=0.05)
    background.start(RunStart(folder, {}, {}, 0))
    for step in range(rows):
        background.row({"step": step, "loss": 1.0})
    background.end(RunEnd(folder, rows, None, None))
    freed.set()
    warnings = [text for text in log.messages if not text.startswith("tracked by")]
    for text, start in zip(warnings, expected, strict=True):
        assert text.startswith(f"warning: {start}")
    assert warnings[0].endswith("; training goes on, and the run folder has everything")


def test_a_missing_library_is_refused_before_anything_is_done(
    notes: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(unmask.ConfigError, match="track: must be a list of some of tensorboard"):
        unmask.train(notes, model=base, track="visdom", **QUICK)
    Path("no_such_tracker").mkdir()  # what a library leaves in the working folder is no package
    monkeypatch.syspath_prepend(".")
    with pytest.raises(
        MissingExtra, match=r"--track no_such_tracker needs .*: pip install 'unmask\[track\]'"
    ):
        require_trackers(["no_such_tracker"])


def interrupted_and_resumed(notes: Path, base: Path, **options: Any) -> tuple[unmask.RunResult, list[str]]:
    """Stop a run at its third step, whose checkpoint is of the second; resume it to its end; return it and its log."""
    log = Log()
    given = {**QUICK, "progress": log, **options}
    with pytest.raises(KeyboardInterrupt):
        unmask.train(notes, model=base, out="runs/tracked", callbacks=[Recorder(stop_at=3)], **given)
    settings = {name: given.pop(name) for name in ("settings", "progress")}
    run = unmask.train(out="runs/tracked", resume=True, **settings)
    return run, log.messages


def expected_points(run: unmask.RunResult, name: str) -> dict[int, float]:
    """Return a metric by step, as it is in the run folder."""
    return {row["step"]: row[name] for row in read_rows(run.folder.metrics) if name in row}


def test_tensorboard_shows_one_run(notes: Path, base: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, messages = interrupted_and_resumed(notes, base, track=["tensorboard"])
    assert f"tracked by tensorboard: tensorboard --logdir {run.folder / 'tensorboard'}" in messages
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    for name in ("loss", "grad_norm", "eval_loss"):
        points = {event.step: event.value for event in events.Scalars(name)}
        assert points == pytest.approx(expected_points(run, name))
        assert len(events.Scalars(name)) == len(points)  # the third step was computed twice
    (final,) = events.Scalars("heldout/before/loss")
    assert (final.step, final.value) == (4, pytest.approx(run.metrics["before"]["loss"]))
    text = {
        name: events.Tensors(f"{name}/text_summary")[-1].tensor_proto.string_val[0].decode()
        for name in ("settings", "run", "report")
    }
    assert json.loads(text["settings"].strip("`json\n"))["train"]["track"] == ["tensorboard"]
    assert '"parameters"' in text["run"]
    assert text["report"] == str(run.folder.report)


def test_mlflow_has_one_run_in_a_local_store(
    notes: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{notes.parent / 'mlflow.db'}")
    run, messages = interrupted_and_resumed(notes, base, track=["mlflow"], offline=True)
    client = mlflow.MlflowClient()
    (tracked,) = client.search_runs([client.get_experiment_by_name("unmask").experiment_id])
    assert read_json(run.folder.tracking)["mlflow"]["id"] == tracked.info.run_id
    assert any(tracked.info.run_id in text for text in messages if text.startswith("tracked by mlflow"))
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["train.batch_tokens"] == "256"
    assert "run.machine.cores" in tracked.data.params
    for name in ("loss", "eval_loss"):
        points = {point.step: point.value for point in client.get_metric_history(tracked.info.run_id, name)}
        assert points == expected_points(run, name)
    assert tracked.data.metrics["heldout/accuracy"] == run.metrics["accuracy"]
    assert {file.path for file in client.list_artifacts(tracked.info.run_id)} == {
        "config.yaml",
        "report.html",
    }


def wandb_records(path: Path) -> Iterator[Any]:
    """Yield the records of an offline run: a log of LevelDB behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # the end of a block is padded
            at += 32768 - at % 32768
            continue
        size, kind = struct.unpack_from("<HB", content, at + 4)
        record += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(record)
            record = b""


def test_wandb_offline_goes_on_under_the_same_id(
    notes: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run, messages = interrupted_and_resumed(notes, base, track=["wandb"])
    id = read_json(run.folder.tracking)["wandb"]["id"]
    files = sorted(run.folder.root.glob("wandb/offline-run-*/*.wandb"))
    assert [path.name for path in files] == [f"run-{id}.wandb"] * 2
    assert sum(text.startswith("tracked by wandb: wandb sync ") for text in messages) == 2
    records = [record for path in files for record in wandb_records(path)]
    points: dict[str, dict[int, float]] = defaultdict(dict)
    for record in records:
        row = {
            ".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
        }
        for name, value in row.items():
            points[name][row["_step"]] = value
    for name in ("loss", "eval_loss"):
        assert points[name] == expected_points(run, name)
    assert points["heldout/accuracy"] == {4: run.metrics["accuracy"]}
    assert any(b"report-" in record.SerializeToString() for record in records)
    assert any(b"parameters" in record.SerializeToString() for record in records)


def test_trackio_has_one_run_in_its_local_store(
    notes: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(notes.parent / "trackio"))
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    run, messages = interrupted_and_resumed(notes, base, track=["trackio"])
    name = read_json(run.folder.tracking)["trackio"]["id"]
    assert SQLiteStorage.get_runs("unmask") == [name]
    assert messages.count("tracked by trackio: trackio show --project unmask") == 2
    rows = SQLiteStorage.get_logs("unmask", name)
    for metric in ("loss", "eval_loss"):
        assert {row["step"]: row[metric] for row in rows if metric in row} == expected_points(run, metric)
    assert [row["heldout/accuracy"] for row in rows if "heldout/accuracy" in row] == [run.metrics["accuracy"]]
    assert capsys.readouterr().out == ""
