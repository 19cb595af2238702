"""Whole runs of tiny models: what they leave behind, and that nothing is lost when they are stopped."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from unmask.config.load import load_config
from unmask.config.settings import RunConfig
from unmask.data.batches import Batch, TextSource
from unmask.data.corpus import is_corpus, open_corpus
from unmask.data.heldout_size import MINIMUM
from unmask.data.split import split_documents
from unmask.data.tokenizer import vocabulary_of
from unmask.errors import (
    ConfigError,
    DataError,
    DiskError,
    DivergedError,
    Interrupted,
    MissingExtra,
    UnmaskError,
)
from unmask.evaluation.heldout import MASKS
from unmask.evaluation.predictions import TargetPredictions
from unmask.model import presets
from unmask.progress import Progress
from unmask.run import texts as texts_module
from unmask.run import training_run as run_module
from unmask.run import writing
from unmask.run.choices import advice_of, masked_excerpt
from unmask.run.disk import size_of
from unmask.run.dry_run import dry_run
from unmask.run.selection import halves
from unmask.run.train import train
from unmask.run.training_run import FinishedRun
from unmask.run_folder import RunFolder
from unmask.storage import read_rows
from unmask.training import checkpoint as checkpoint_module
from unmask.training.loop import Loop

TINY = {
    "tiny-bert": presets.Preset("bert", 2, 32),
    "tiny-modernbert": presets.Preset("modernbert", 2, 32, near_layers=1),
}
TIMED = ("seconds", "tokens_per_second", "wait_share")

Configure = Callable[..., RunConfig]


@pytest.fixture(scope="module", autouse=True)
def _tiny_presets() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, preset in TINY.items():
            patch.setitem(presets.PRESETS, name, preset)
        yield


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the report, which is drawn from the other files and takes a second."""
    monkeypatch.setattr(writing, "write_report", lambda folder: None)


class Listener(Progress):
    """Remembers what it is told, and does something when a step is over."""

    def __init__(self, at: Mapping[int, Callable[[], None]] | None = None) -> None:
        self.heard: list[str] = []
        self.at = dict(at or {})
        self.phases: list[str] = []

    def log(self, text: str) -> None:
        self.heard.append(text)

    def begin(self, phase: str) -> None:
        self.phases.append(phase)

    def advance(self, share: float | None, figures: Mapping[str, object]) -> None:
        if self.phases[-1] == "train" and (act := self.at.pop(int(str(figures["step"])), None)):
            act()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred lines of 3 to 24 words; as a file, one document a line."""
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    draw = np.random.default_rng(1860)
    words = "the river carried a letter before winter came an unripe telescope measured mountains".split()
    lines = (" ".join(draw.choice(words, draw.integers(3, 25))) + f" {number}." for number in range(200))
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def configure(text: Path) -> Configure:
    """Return `make(**flags) -> RunConfig`, a run of twelve small steps on the text; `__` stands for a dot."""

    def make(**flags: Any) -> RunConfig:
        settings = {
            "data.inputs": [str(text)],
            "data.heldout_share": 0.1,
            "data.max_length": 32,
            "model.vocab_size": 200,
            "train.max_steps": 12,
            "train.batch_tokens": 256,
            "train.micro_batch_tokens": 100,
            "train.precision": "fp32",
            "train.device": "cpu",
            "train.log_every": 5,
        }
        return load_config(
            None, flags=settings | {key.replace("__", "."): value for key, value in flags.items()}
        )

    return make


Runs = Callable[[str], tuple[FinishedRun, Listener]]


@pytest.fixture(scope="module")
def finished(
    configure: Configure, checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Runs:
    """Return `run(start)`: a finished run from a tiny preset, or from a tiny checkpoint, made once."""
    made: dict[str, tuple[FinishedRun, Listener]] = {}

    def run(start: str) -> tuple[FinishedRun, Listener]:
        if start not in made:
            model = {"model__preset": start} if start in TINY else {"model__name": str(checkpoint(start))}
            listener = Listener()
            folder = tmp_path_factory.mktemp("run") / "new"
            made[start] = (
                train(configure(**model), folder, command=["unmask", "train"], progress=listener),
                listener,
            )
        return made[start]

    return run


STARTS = ["tiny-bert", "tiny-modernbert", "bert", "deberta-v2"]


def rows(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [row for row in read_rows(folder.metrics) if kind in row]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# --- what a run leaves behind -------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", STARTS)
def test_the_folder_is_complete(finished: Runs, start: str) -> None:
    folder = finished(start)[0].folder
    names = {path.name for path in folder.root.iterdir()}
    assert names - {"tokenizer"} == {
        *("model", "checkpoints", "shards", "config.yaml", "run.json", "metrics.jsonl"),
        *("evaluation.json", "examples.json", "report.html", "exit_code"),
        *(() if start in TINY else ("base.npz", "adaptation.json")),
    }
    model = {path.name for path in folder.model.iterdir()}
    assert model >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
    }
    assert len(list(folder.checkpoints.glob("step-*"))) == 2
    assert (folder.checkpoints / "best").exists() == (start not in TINY)


def plain_loss(folder: RunFolder, config: RunConfig) -> tuple[float, float, int]:
    """Score the held-out text with plain transformers, one sequence at a time: loss, accuracy, targets."""
    model = AutoModelForMaskedLM.from_pretrained(folder.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder.model)
    corpus = open_corpus(folder.shards)
    _, heldout = split_documents(corpus, config.data.heldout_share, MINIMUM)
    assert heldout is not None
    if read(folder.evaluation)["selection"]:
        heldout = heldout[~halves(corpus.keys[heldout])]
    assert config.data.max_length is not None
    source = TextSource(corpus, heldout, vocabulary_of(tokenizer), config.masking, config.data.max_length)
    total, right, asked = 0.0, 0, 0
    for batch in source.evaluation_batches(1):
        labels = torch.full((1, batch.tokens), -100)
        labels[0, batch.target_index] = torch.from_numpy(batch.target_ids)
        with torch.no_grad():
            out = model(input_ids=torch.from_numpy(batch.input_ids)[None], labels=labels)
        if count := len(batch.target_ids):
            total += float(out.loss) * count
            right += int((out.logits[0].argmax(-1) == labels[0]).sum())
            asked += count
    return total / asked, right / asked, asked


@pytest.mark.parametrize("start", STARTS)
def test_the_evaluation_is_that_of_plain_transformers_one_at_a_time(
    finished: Runs, configure: Configure, start: str
) -> None:
    result, _ = finished(start)
    evaluation = read(result.folder.evaluation)
    loss, accuracy, asked = plain_loss(result.folder, configure(model__name="any"))
    assert evaluation["loss"] == pytest.approx(loss, rel=1e-5)
    assert evaluation["accuracy"] == pytest.approx(accuracy)
    assert evaluation["masked_tokens"] == asked
    assert evaluation["perplexity"] == pytest.approx(np.exp(evaluation["loss"]))
    assert evaluation["mask_rate"] == 0.15
    assert evaluation["masks"] == "every target replaced by the mask token"
    assert evaluation == result.evaluation


def test_final_metrics_are_computed_in_fp32_after_training_in_bf16(
    configure: Configure, tmp_path: Path, no_report: None
) -> None:
    config = configure(model__preset="tiny-bert", train__precision="bf16")
    folder = train(config, tmp_path / "run").folder
    assert read(folder.info)["precision"] == "bf16"
    loss, accuracy, _ = plain_loss(folder, config)
    evaluation = read(folder.evaluation)
    assert evaluation["loss"] == pytest.approx(loss, rel=1e-6)
    assert evaluation["accuracy"] == pytest.approx(accuracy)


@pytest.mark.parametrize("start", STARTS)
def test_targets_replaced_as_in_training_have_rows_of_their_own(finished: Runs, start: str) -> None:
    evaluation = read(finished(start)[0].folder.evaluation)
    *kinds, every = evaluation["by_replacement"]["rows"]
    assert [row["label"] for row in kinds] == ["mask token", "random token", "unchanged"]
    assert every["masked_tokens"] == sum(row["masked_tokens"] for row in kinds) == evaluation["masked_tokens"]
    for name in ("loss", "accuracy"):
        mean = sum(row[name] * row["masked_tokens"] for row in kinds) / every["masked_tokens"]
        assert every[name] == pytest.approx(mean)
    assert "80% of the targets replaced by the mask token" in evaluation["by_replacement"]["masks"]


def test_final_metrics_have_intervals_over_documents(finished: Runs) -> None:
    evaluation = read(finished("bert")[0].folder.evaluation)
    for side in (evaluation, evaluation["before"]):
        low, high = side["intervals"]["loss"]
        assert low < side["loss"] < high
    spans = read(finished("bert")[0].folder.adaptation)["domain"]["after"]["intervals"]
    assert evaluation["intervals"] == {name: pytest.approx(spans[name]) for name in ("loss", "accuracy")}


def test_a_held_out_text_of_a_few_documents_is_said_and_has_no_interval(
    configure: Configure, tmp_path: Path
) -> None:
    path, listener = tmp_path / "heldout.jsonl", Listener()
    lines = ["the river carried a letter before winter " * 3] * 40 + [
        "an unripe telescope measured mountains " * 3
    ]
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), encoding="utf-8")
    config = configure(model__preset="tiny-bert", data__heldout=[str(path)], train__max_steps=2)
    result = train(config, tmp_path / "run", command=["unmask", "train"], progress=listener)
    assert any(
        line.startswith("warning: the held-out text: too few documents (2) for an interval, which needs 10")
        for line in listener.heard
    )
    evaluation = read(result.folder.evaluation)
    assert evaluation["intervals"] == {"loss": None, "accuracy": None}
    assert (
        "39 of 41 documents are copies of others; copies count as one document in the intervals"
        in (evaluation["interval_notes"])
    )
    assert "too few documents (2) for an interval" in (result.folder.root / "report.html").read_text("utf-8")


@pytest.mark.parametrize("start", STARTS)
def test_the_held_out_documents_are_not_trained_on(finished: Runs, configure: Configure, start: str) -> None:
    folder = finished(start)[0].folder
    train_, heldout = split_documents(open_corpus(folder.shards), 0.1, MINIMUM)
    assert heldout is not None
    corpus = read(folder.info)["corpus"]
    assert len(train_) + len(heldout) == 200
    selection = corpus.get("selection_documents", 0)
    assert (corpus["documents"], corpus["heldout_documents"] + selection) == (len(train_), len(heldout))
    assert read(folder.evaluation)["documents"] == corpus["heldout_documents"]
    assert (selection > 0) == (start not in TINY)
    assert not {*train_} & {*heldout}


@pytest.mark.parametrize("start", ["tiny-bert", "tiny-modernbert"])
def test_training_from_scratch_learns_and_beats_guessing(finished: Runs, start: str) -> None:
    result, _ = finished(start)
    evaluations = rows(result.folder, "eval_loss")
    evaluation = read(result.folder.evaluation)
    assert evaluations[-1]["eval_loss"] < evaluations[0]["eval_loss"]
    assert evaluation["before"] is None
    assert set(evaluation["baselines"]) == {"most_frequent_token", "ngram", "ngram_true_neighbours"}


def test_adapting_improves_on_the_start(finished: Runs) -> None:
    result, _ = finished("bert")
    evaluation = read(result.folder.evaluation)
    assert evaluation["loss"] < evaluation["before"]["loss"]
    assert evaluation["before"]["masked_tokens"] == evaluation["masked_tokens"]


@pytest.mark.parametrize("start", ["bert", "deberta-v2"])
def test_base_and_adapted_model_are_compared(finished: Runs, start: str) -> None:
    folder = finished(start)[0].folder
    evaluation, found = read(folder.evaluation), read(folder.adaptation)
    assert found["domain"]["masked_tokens"] == evaluation["masked_tokens"]
    for side, figures in (("before", evaluation["before"]), ("after", evaluation)):
        assert found["domain"][side]["loss"] == pytest.approx(figures["loss"])
        assert found["domain"][side]["accuracy"] == pytest.approx(figures["accuracy"])
    more = found["domain"]["change"]["relative_accuracy"]
    if before := evaluation["before"]["accuracy"]:
        assert more["value"] == pytest.approx(evaluation["accuracy"] / before - 1)
    else:
        assert more is None
    change = found["domain"]["change"]["loss"]
    assert change["value"] == pytest.approx(evaluation["loss"] - evaluation["before"]["loss"])
    low, high = change["interval"]
    assert low < change["value"] < high
    rows = found["by_frequency"]["rows"]
    assert sum(row["masked_tokens"] for row in rows) == evaluation["masked_tokens"]
    assert (found["general"], found["forgetting"], found["added_words"]) == (None, None, None)
    gains = [example["change"] for example in found["examples"]]
    assert gains[0] == max(gains) > 0
    for example in found["examples"]:
        base, adapted = (example[name]["original"] for name in ("base", "adapted"))
        assert example["change"] == pytest.approx(np.log(adapted / base))
        assert example["text_before"] + example["text_after"]
        if example["adapted"]["guess"] == example["original"]:
            assert example["adapted"]["probability"] == pytest.approx(adapted, rel=1e-5)
    weights = hashlib.sha256((folder.model / "model.safetensors").read_bytes()).hexdigest()
    assert found["hashes"]["weights"] == {"model.safetensors": weights}


def test_forgetting_and_added_words_are_measured(
    checkpoint: Callable[[str], Path], text: Path, configure: Configure, tmp_path: Path, no_report: None
) -> None:
    base = tmp_path / "base"
    shutil.copytree(checkpoint("bert"), base)
    frequent = AutoTokenizer.from_pretrained(base)("winter", add_special_tokens=False).input_ids[0]
    (base / "added_words.json").write_text(json.dumps({"words": [{"word": "w", "id": frequent}]}), "utf-8")
    config = configure(model__name=str(base), data__forgetting_eval=[str(text)])
    folder = train(config, tmp_path / "run").folder
    found, general = read(folder.adaptation), read(folder.evaluation)["general"]
    lost = general["loss"] - general["before"]["loss"]
    assert found["forgetting"]["loss"]["value"] == pytest.approx(lost)
    assert found["forgetting"]["accuracy"]["value"] == pytest.approx(
        general["before"]["accuracy"] - general["accuracy"]
    )
    assert found["added_words"]["words"] == 1
    assert 0 < found["added_words"]["masked_tokens"] < found["domain"]["masked_tokens"]


def test_what_the_base_answered_must_be_whole_and_to_the_same_questions(
    checkpoint: Callable[[str], Path], configure: Configure, tmp_path: Path, no_report: None
) -> None:
    config = configure(model__name=str(checkpoint("bert")), train__max_steps=4)

    def spoil(how: Callable[[Path], object], name: str) -> str:
        folder = RunFolder(tmp_path / name)
        listener = Listener({2: lambda: how(folder.base) and None})
        train(config, folder.root, progress=listener)
        assert folder.evaluation.exists()
        assert not folder.adaptation.exists()
        return " ".join(listener.heard)

    flipped = spoil(lambda path: path.write_bytes(path.read_bytes()[:-100]), "torn")
    assert "does not compare base and adapted model" in flipped
    earlier = {f"heldout.{name}": np.zeros(3) for name in TargetPredictions._fields}
    assert "other text or other masks" in spoil(lambda path: np.savez(path, **earlier), "earlier")
    other = earlier | {"masks": np.array(MASKS)}
    assert "other text or other masks" in spoil(lambda path: np.savez(path, **other), "other")
    assert "no predictions of the base model" in spoil(lambda path: path.unlink(), "absent")


@pytest.mark.parametrize("start", STARTS)
def test_the_rows_of_the_metrics(finished: Runs, start: str) -> None:
    result, _ = finished(start)
    training, evaluation = rows(result.folder, "loss"), rows(result.folder, "eval_loss")
    assert [row["step"] for row in training] == [5, 10, 12]
    assert {*training[0]} >= {
        *("step", "tokens", "seconds", "loss", "learning_rate", "grad_norm"),
        *("tokens_per_second", "mask_rate", "wait_share"),
    }
    assert {*evaluation[0]} == {"step", "tokens", "seconds", "eval_loss", "eval_accuracy"}
    # Of a run so short there are fewer than ten, for they would take longer than the steps.
    assert [row["step"] for row in evaluation] == ([8, 12] if start in TINY else [9, 12])
    assert result.loss == training[-1]["loss"]
    assert (result.steps, result.tokens) == (12, training[-1]["tokens"])
    # A small text is evaluated whole, so the last evaluation in training is the final one, unless it chose the weights.
    assert (evaluation[-1]["eval_loss"] == read(result.folder.evaluation)["loss"]) == (start in TINY)


@pytest.mark.parametrize("start", STARTS)
def test_the_configuration_is_resolved_and_can_be_given_again(
    finished: Runs, start: str, tmp_path: Path
) -> None:
    folder = finished(start)[0].folder
    config = load_config(folder.config)
    scratch = start in TINY
    assert config.train.optimizer.name == ("muon" if scratch else "adamw")
    assert config.train.schedule.name == ("trapezoid" if scratch else "linear")
    assert config.masking.initial_rate == (0.3 if scratch else 0.15)
    assert (config.train.device, config.train.precision) == ("cpu", "fp32")
    from unmask.config.load import dump_config

    (tmp_path / "again.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(tmp_path / "again.yaml") == config


def test_the_same_settings_give_the_same_run(
    finished: Runs, configure: Configure, tmp_path: Path, no_report: None
) -> None:
    first = finished("tiny-bert")[0].folder
    again = train(load_config(first.config), tmp_path / "again").folder
    assert_same(again, first)


def test_another_seed_gives_another_run(
    finished: Runs, configure: Configure, tmp_path: Path, no_report: None
) -> None:
    other = train(configure(model__preset="tiny-bert", train__seed=1, train__max_steps=2), tmp_path / "other")
    first = rows(finished("tiny-bert")[0].folder, "eval_loss")[0]
    assert rows(other.folder, "eval_loss")[0]["eval_loss"] != first["eval_loss"]


def test_what_the_run_knows_of_itself(finished: Runs) -> None:
    info = read(finished("bert")[0].folder.info)
    assert info["model_class"] == "BertForMaskedLM"
    assert info["packed"] is True
    assert read(finished("deberta-v2")[0].folder.info)["packed"] is False
    assert (info["steps"], info["batch_tokens"], info["precision"]) == (12, 256, "fp32")
    assert info["command"] == ["unmask", "train"]
    assert info["finished"] >= info["started"]
    assert info["parameters"] > 0


def test_people_are_told_of_choices(finished: Runs) -> None:
    scratch, adapted = (" ".join(finished(start)[1].heard) for start in ("tiny-bert", "bert"))
    assert "trained a WordPiece tokenizer of 130 entries" in scratch
    assert re.search(r"computing +fp32 on cpu", adapted)
    assert finished("tiny-bert")[1].phases[-2:] == ["train", "evaluate"]


def test_shares_of_a_single_process_have_no_effect(configure: Configure, tmp_path: Path) -> None:
    listener = Listener()
    config = configure(model__preset="tiny-bert", train__max_steps=1, train__parallel="fsdp")
    train(config, tmp_path / "run", progress=listener)
    block = next(text for text in listener.heard if text.startswith("objective"))
    assert block.endswith("fp32 on cpu, 1 process: --parallel fsdp needs several, and has no effect")


def test_a_report_that_could_not_be_written_is_said_before_training(
    configure: Configure, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    with pytest.raises(
        MissingExtra, match=r"the report at the end of a run needs .*: pip install matplotlib"
    ):
        train(configure(model__preset="tiny-bert"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_examples_are_of_held_out_text(finished: Runs) -> None:
    examples = read(finished("tiny-bert")[0].folder.examples)
    assert examples
    for example in examples:
        assert len(example["tokens"]) == len(example["words_before"])
        for target in example["targets"]:
            assert example["tokens"][target["index"]] == target["original"]
            shares = [guess["probability"] for guess in target["predictions"]]
            assert len(shares) == 5
            assert shares == sorted(shares, reverse=True)
            if target["rank"] <= 5:
                assert target["predictions"][target["rank"] - 1]["token"] == target["original"]


# --- stopped and resumed ------------------------------------------------------------------------------------------


def assert_same(found: RunFolder, wanted: RunFolder) -> None:
    """Two runs must be equal to the last bit, but for the time they took."""

    def untimed(folder: RunFolder) -> list[dict[str, Any]]:
        return [{key: row[key] for key in row if key not in TIMED} for row in read_rows(folder.metrics)]

    assert untimed(found) == untimed(wanted)
    paths = ["model/model.safetensors", "evaluation.json", "examples.json"]
    for path in [*paths, *(["adaptation.json"] if wanted.adaptation.exists() else [])]:
        assert (found.root / path).read_bytes() == (wanted.root / path).read_bytes(), path


@pytest.mark.parametrize(
    ("start", "stops"),
    [("tiny-bert", [1, 7]), ("tiny-modernbert", [5]), ("deberta-v2", [4, 12])],
)
def test_a_run_that_is_stopped_and_resumed_is_the_undisturbed_run(
    finished: Runs, tmp_path: Path, no_report: None, start: str, stops: list[int]
) -> None:
    whole = finished(start)[0].folder
    config = load_config(whole.config)
    for number, stop in enumerate(stops):
        listener = Listener({stop: lambda: signal.raise_signal(signal.SIGTERM)})
        with pytest.raises(
            Interrupted, match=f"stopped by a signal after step {stop}; .* 'unmask train -o .* --resume'"
        ):
            train(config, tmp_path / "run", resume="auto" if number else None, progress=listener)
        assert RunFolder(tmp_path / "run").exit_code.read_text(encoding="utf-8") == "75\n"
        assert "stopping after this step; a second signal stops at once" in listener.heard
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    listener = Listener()
    resumed = train(config, tmp_path / "run", resume="auto", progress=listener)
    assert f"resuming from step {stops[-1]} (step-{stops[-1]:08d})" in listener.heard
    assert_same(resumed.folder, whole)
    assert resumed.folder.exit_code.read_text(encoding="utf-8") == "0\n"
    assert read(resumed.folder.info)["steps"] == 12


def test_a_signal_can_save_and_go_on(
    finished: Runs, configure: Configure, tmp_path: Path, no_report: None
) -> None:
    config = configure(model__preset="tiny-bert", train__save_every=100)
    listener = Listener({4: lambda: signal.raise_signal(signal.SIGUSR1)})
    result = train(config, tmp_path / "run", progress=listener)
    assert "saving after this step" in listener.heard
    saved = sorted(path.name for path in result.folder.checkpoints.iterdir())
    assert saved == ["step-00000004", "step-00000012"]
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("where", "left"),
    [
        ("prepare", "nothing was written"),
        ("make_loop", "the prepared text is kept, continue with --resume"),
    ],
)
def test_a_signal_before_training_stops_at_once(
    finished: Runs,
    configure: Configure,
    tmp_path: Path,
    monkeypatch: Any,
    no_report: None,
    where: str,
    left: str,
) -> None:
    with monkeypatch.context() as patch:
        owner = texts_module if where == "prepare" else run_module
        patch.setattr(owner, where, lambda *_, **__: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted, match=f"stopped by a signal; {left}"):
            train(configure(model__preset="tiny-bert"), tmp_path / "run")
    assert (tmp_path / "run").exists() == (where != "prepare")
    resumed = train(configure(model__preset="tiny-bert"), tmp_path / "run", resume="auto")
    assert_same(resumed.folder, finished("tiny-bert")[0].folder)


def test_a_signal_after_training_loses_none_of_it(
    finished: Runs, configure: Configure, tmp_path: Path, monkeypatch: Any, no_report: None
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_model", lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(
            Interrupted, match=r"step-00000012 is safe, continue with 'unmask train -o .+ --resume'"
        ):
            train(configure(model__preset="tiny-bert"), tmp_path / "run")
    resumed = train(configure(model__preset="tiny-bert"), tmp_path / "run", resume="auto")
    assert_same(resumed.folder, finished("tiny-bert")[0].folder)


class Killed(BaseException):
    """Stands for a kill -9: nothing is written any more."""


@pytest.mark.parametrize("kill", [3, 8])
def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint(
    finished: Runs, configure: Configure, tmp_path: Path, no_report: None, kill: int
) -> None:
    def die() -> None:
        raise Killed

    config = configure(model__preset="tiny-bert", train__save_every=3)
    with pytest.raises(Killed):
        train(config, tmp_path / "run", progress=Listener({kill: die}))
    folder = RunFolder(tmp_path / "run")
    if kill > 3:
        with folder.metrics.open("a", encoding="utf-8") as file:
            file.write('{"step": 9, "los')
    assert is_corpus(str(folder.shards))  # so preparing is not done again
    resumed = train(config, folder.root, resume="auto")
    assert_same(resumed.folder, finished("tiny-bert")[0].folder)


def test_dropout_goes_on_where_it_was(configure: Configure, tmp_path: Path, no_report: None) -> None:
    config = configure(model__preset="tiny-bert", model__dropout=0.2, train__max_steps=6)
    whole = train(config, tmp_path / "whole").folder
    stop = Listener({3: lambda: signal.raise_signal(signal.SIGINT)})
    torch.rand(17)  # whatever else drew random numbers in the meantime
    with pytest.raises(Interrupted):
        train(config, tmp_path / "part", progress=stop)
    assert_same(train(config, tmp_path / "part", resume="auto").folder, whole)


def test_a_run_leaves_the_random_state_of_others_alone(
    configure: Configure, tmp_path: Path, no_report: None
) -> None:
    before = torch.get_rng_state()
    train(configure(model__preset="tiny-bert", model__dropout=0.2, train__max_steps=1), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def stopped(configure: Configure, finished: Runs, tmp_path: Path, no_report: None) -> Path:
    """A run of tiny-bert that was stopped after step 4."""
    config = load_config(finished("tiny-bert")[0].folder.config)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", progress=Listener({4: lambda: signal.raise_signal(signal.SIGTERM)}))
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"train__seed": 5}, "cannot resume: train.seed was 0 and is now 5"),
        ({"masking__rate": 0.3}, "cannot resume: .*masking.rate was 0.15 and is now 0.3"),
        ({"train__batch_tokens": 200}, "cannot resume: train.batch_tokens was 256 and is now 200"),
        ({"train__optimizer__learning_rate": 1.0}, "train.optimizer.learning_rate was 0.003 and is now 1.0"),
        ({"data__max_length": 16}, "data.max_length was 32 and is now 16"),
    ],
)
def test_other_settings_are_refused_by_name(
    stopped: Path, configure: Configure, flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        train(configure(model__preset="tiny-bert", **flags), stopped, resume="auto")
    assert "\n" not in str(caught.value)
    assert load_config(stopped / "config.yaml").train.seed == 0


def test_other_text_is_refused(stopped: Path, configure: Configure, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("quite another text\n\nof two documents", encoding="utf-8")
    with pytest.raises(UnmaskError, match=r"cannot resume: the text of the run .* changed"):
        train(configure(model__preset="tiny-bert", data__inputs=[str(other)]), stopped, resume="auto")


def test_what_changes_no_step_may_change(
    stopped: Path, configure: Configure, finished: Runs, no_report: None
) -> None:
    free = {"train__micro_batch_tokens": 100, "train__save_every": 2, "train__keep_last": 5}
    result = train(configure(model__preset="tiny-bert", **free), stopped, resume="auto")
    assert_same(result.folder, finished("tiny-bert")[0].folder)
    assert len(list(result.folder.checkpoints.iterdir())) == 5


def as_written_before(run: Path, **settings: Any) -> None:
    """Give a stopped run the keys of an earlier version: settings, checkpoint and fingerprint."""
    for path in (run / "checkpoints").glob("step-*/state.json"):
        state = read(path)
        state |= {
            "identity": state.pop("fingerprint"),
            "bad_steps": state.pop("skipped_steps"),
            "joules": None,
        }
        del state["evaluation"]
        masking, own = (state["identity"]["settings"][section] for section in ("masking", "train"))
        masking["rate_start"] = masking.pop("initial_rate")
        masking |= {"rate_schedule": "linear", "span_p": 0.2, "term_weight": 5.0}
        own["init_head_steps"] = own.pop("head_warmup_steps")
        own["warm_new_rows"] = own.pop("new_embeddings_steps")
        own["schedule"]["decay_share"] = 0.4
        own |= {"batch_ramp": 0.0} | settings
        path.write_text(json.dumps(state), encoding="utf-8")
        as_laid_out_before(path.parent)


def as_laid_out_before(checkpoint: Path) -> None:
    """Give a checkpoint the files of an earlier version: one of weights, one of optimizer state."""
    for number, name in enumerate(("model", "optimizer"), 1):
        file = checkpoint / f"model-{number:05d}-of-00002.safetensors"
        save_file(load_file(file), checkpoint / f"{name}.safetensors")
        file.unlink()
    (checkpoint / "model.safetensors.index.json").unlink()
    (checkpoint / "manifest.json").unlink()
    manifest = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in checkpoint.iterdir()}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_a_run_of_an_earlier_version_is_resumed(
    stopped: Path, configure: Configure, finished: Runs, no_report: None
) -> None:
    as_written_before(stopped)
    listener = Listener()
    result = train(configure(model__preset="tiny-bert"), stopped, resume="auto", progress=listener)
    assert_same(result.folder, finished("tiny-bert")[0].folder)
    assert any("evaluated it at other masks" in text for text in listener.heard)


def test_a_run_of_an_earlier_version_that_cannot_be_resumed_says_why(
    stopped: Path, configure: Configure
) -> None:
    as_written_before(stopped, batch_ramp=0.5)
    with pytest.raises(
        ConfigError, match=r"train.batch_ramp no longer exists .* finish this run with the version"
    ):
        train(configure(model__preset="tiny-bert"), stopped, resume="auto")


@pytest.mark.parametrize("words", [10, 4])
def test_a_setting_that_an_earlier_version_did_not_have_had_its_default(
    stopped: Path, configure: Configure, finished: Runs, no_report: None, words: int
) -> None:
    """Every new setting would end the runs that were begun before it."""
    for path in (stopped / "checkpoints").glob("step-*/state.json"):
        state = read(path)
        del state["fingerprint"]["settings"]["masking"]["span_words"]
        path.write_text(json.dumps(state), encoding="utf-8")
        sums = read(path.with_name("manifest.json"))
        sums[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        path.with_name("manifest.json").write_text(json.dumps(sums), encoding="utf-8")
    config = configure(model__preset="tiny-bert", masking__span_words=words)
    if words == 10:
        assert_same(train(config, stopped, resume="auto").folder, finished("tiny-bert")[0].folder)
    else:
        with pytest.raises(ConfigError, match=r"masking\.span_words was 10 and is now 4"):
            train(config, stopped, resume="auto")


@pytest.mark.parametrize("begun_with", [0, 1])
def test_a_run_keeps_the_layers_that_its_preset_had(
    configure: Configure, tmp_path: Path, no_report: None, monkeypatch: pytest.MonkeyPatch, begun_with: int
) -> None:
    """Windows are in no weight: another version of the preset would go on with the same weights in silence."""
    preset = TINY["tiny-modernbert"]
    config = configure(model__preset="tiny-modernbert", train__max_steps=4)
    monkeypatch.setitem(presets.PRESETS, "tiny-modernbert", replace(preset, near_layers=begun_with))
    train(config.model_copy(), tmp_path / "run")
    if not begun_with:  # as earlier versions wrote it
        written = tmp_path / "run" / "config.yaml"
        lines = written.read_text(encoding="utf-8").splitlines(keepends=True)
        written.write_text("".join(line for line in lines if "near_layers" not in line), encoding="utf-8")
    monkeypatch.setitem(presets.PRESETS, "tiny-modernbert", replace(preset, near_layers=1 - begun_with))
    longer = configure(model__preset="tiny-modernbert", train__max_steps=6)
    found = read(train(longer, tmp_path / "run", resume="auto").folder.model / "config.json")
    assert found["layer_types"].count("sliding_attention") == begun_with


def test_a_run_can_be_made_longer(configure: Configure, tmp_path: Path, no_report: None) -> None:
    """It is evaluated as often as any, though it was evaluated at its end before."""
    settings = {"model__preset": "tiny-bert", "train__export_best": True, "train__eval_tokens": 20}
    for steps in (3, 5):
        config = configure(**settings, train__max_steps=steps)
        result = train(config, tmp_path / "run", resume="auto")
    assert result.steps == 5
    assert evaluated_steps(result.folder) == [1, 2, 3, 4, 5]
    assert (result.folder.checkpoints / "step-00000004").exists()


def test_the_last_weights_are_evaluated_wherever_a_run_ends(
    configure: Configure, tmp_path: Path, no_report: None
) -> None:
    """Also where the run was stopped after its last step, or has had its length when it is resumed."""
    settings = {"model__preset": "tiny-bert", "train__eval_every": 3, "train__export_best": True}
    listener = Listener({4: lambda: signal.raise_signal(signal.SIGTERM)})
    with pytest.raises(Interrupted):
        train(configure(**settings), tmp_path / "run", progress=listener)
    for limit in (4, 4, 3):
        listener = Listener()
        config = configure(**settings, train__max_steps=limit)
        result = train(config, tmp_path / "run", resume="auto", progress=listener)
        assert evaluated_steps(result.folder) == [3, 4]
        losses = [row["eval_loss"] for row in read_rows(result.folder.metrics) if "eval_loss" in row]
        assert read(result.folder.evaluation)["step"] == 3 + int(np.argmin(losses))
        assert any("no step is left to train" in text for text in listener.heard)
        assert not any("first batch" in text or "schedule" in text for text in listener.heard)


def test_a_time_limit_that_is_used_up_is_said(configure: Configure, tmp_path: Path, no_report: None) -> None:
    config = configure(model__preset="tiny-bert", train__max_steps=None, train__minutes=1e-5)
    first, again = Listener(), Listener()
    steps = train(config, tmp_path / "run", progress=first).steps
    assert train(config, tmp_path / "run", resume="auto", progress=again).steps == steps
    said = re.compile(
        r"no step is left to train.* \d+\.\d\d of 1e-05 minutes \(--minutes\), .*resume with a higher limit"
    )
    assert not any(map(said.match, first.heard))
    assert any(map(said.match, again.heard))


def evaluated_steps(folder: RunFolder) -> list[int]:
    return [row["step"] for row in read_rows(folder.metrics) if "eval_loss" in row]


def test_a_damaged_checkpoint_is_passed_over(stopped: Path, configure: Configure, finished: Runs) -> None:
    newest = stopped / "checkpoints" / "step-00000004" / "model-00001-of-00002.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    listener = Listener()
    result = train(load_config(stopped / "config.yaml"), stopped, resume="auto", progress=listener)
    assert any("skipped a damaged checkpoint" in text for text in listener.heard)
    assert any("resuming from step 3" in text for text in listener.heard)
    assert_same(result.folder, finished("tiny-bert")[0].folder)


def test_what_is_later_than_the_checkpoint_gone_on_from_is_set_aside(
    stopped: Path, finished: Runs, no_report: None
) -> None:
    """Otherwise a second resume would take it, with rows of metrics missing before it."""
    config, listener = load_config(stopped / "config.yaml"), Listener()
    older = str(stopped / "checkpoints" / "step-00000003")
    result = train(config, stopped, resume=older, progress=listener)
    assert any("set aside later checkpoints: aside-step-00000004" in text for text in listener.heard)
    assert_same(result.folder, finished("tiny-bert")[0].folder)


def test_the_precision_is_not_measured_again(stopped: Path, configure: Configure, monkeypatch: Any) -> None:
    from unmask.model import precision

    monkeypatch.setattr(precision, "_ratio", lambda: 10.0)
    config = configure(model__preset="tiny-bert", train__precision="auto", train__max_steps=5)
    result = train(config, stopped, resume="auto")
    assert read(result.folder.info)["precision"] == "fp32"


def test_resuming_where_nothing_is_begins(configure: Configure, tmp_path: Path, no_report: None) -> None:
    listener = Listener()
    config = configure(model__preset="tiny-bert", train__max_steps=1)
    assert train(config, tmp_path / "run", resume="auto", progress=listener).steps == 1
    assert "no checkpoint to resume from: starting at step 0" in listener.heard


# --- what a run says ----------------------------------------------------------------------------------------------


def test_a_run_says_what_it_chose_and_shows_its_first_batch(finished: Runs) -> None:
    result, listener = finished("bert")
    choices = read(result.folder.info)["choices"]
    block = next(text for text in listener.heard if text.startswith("objective"))
    lines = {line[:14].strip(): line[14:] for line in block.splitlines()}
    assert lines["objective"] == "masked language modelling of 15% of the tokens"
    assert lines["masking"] == "strategy token (80% mask token, 10% random token, 10% unchanged)"
    passes = f"{12 / choices['steps_per_epoch']:.2g} passes over {choices['tokens_per_epoch']:,} tokens"
    assert lines["length"] == f"12 steps, about {passes}"
    assert lines["learning rate"] == "5e-05 (adamw), linear schedule, 6% warm-up"
    assert lines["batch"] == "256 tokens a step"
    assert lines["held-out text"].startswith(f"{choices['heldout']['documents']} documents, ")
    assert lines["early stop"] == "after 3 evaluations without a lower held-out loss"
    assert lines["computing"] == "fp32 on cpu"
    assert (choices["steps"], choices["default_length"]) == (12, False)
    shown = next(text for text in listener.heard if text.startswith("first batch")).partition("\n")[2]
    original = re.sub(r"\S+\((\S+?)\)", r"\1", shown.removesuffix(" …").replace(" [SEP]", ""))
    assert 100 < len(shown) < 220
    assert "[MASK](" in shown
    assert "[MASK]" not in original
    assert listener.heard.index(block) < next(
        place for place, text in enumerate(listener.heard) if text.startswith("step ")
    )


def test_a_byte_level_batch_is_shown_as_text(byte_level_tokenizer: Any) -> None:
    text = "ยา à la carte"
    ids = byte_level_tokenizer(text, add_special_tokens=False)["input_ids"]
    place = len(ids) - 1
    masked = np.array([*ids[:-1], byte_level_tokenizer.mask_token_id])
    ends = np.array([0, len(ids)], dtype=np.int32)
    batch = Batch(masked, np.arange(len(ids)), ends, np.array([place]), np.array(ids[-1:]), np.array([0]))
    shown = masked_excerpt(batch, byte_level_tokenizer)
    mask, last = byte_level_tokenizer.mask_token, byte_level_tokenizer.decode(ids[-1:])
    assert shown == f"{text.removesuffix(last)}{mask}({last})"


def test_the_default_length_follows_from_the_size_of_the_text(configure: Configure) -> None:
    """A hundred passes over a few thousand tokens, which is what `unmask check` recommends, and not one."""
    planned = dry_run(configure(model__preset="tiny-bert", train__max_steps=None))
    assert planned.steps == 100 * math.ceil(planned.tokens_per_epoch / 256)


def test_the_announced_steps_are_those_of_the_run(
    configure: Configure, tmp_path: Path, no_report: None
) -> None:
    config = configure(model__preset="tiny-bert", train__max_steps=None, train__epochs=2)
    result = train(config, tmp_path / "run")
    assert read(result.folder.info)["choices"]["steps"] == result.steps


@pytest.mark.parametrize(
    ("losses", "stopped", "advice"),
    [
        ([5.0, 4.0, 3.0], False, "still falling at the end (5.000 → 3.000)"),
        ([5.0, 4.0, 3.01, 3.005, 3.0], False, None),
        ([5.0, 4.0, 4.1, 4.2, 4.3], True, "had stopped falling"),
        ([5.0, 3.0, 4.0], False, "had stopped falling"),
        ([5.0], False, None),
    ],
)
def test_a_run_says_what_would_help_next(
    losses: list[float],
    stopped: bool,
    advice: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a b.csv", "c"):
        Path(name).touch()
    rows_ = [{"step": 100 * step, "eval_loss": loss} for step, loss in enumerate(losses)]
    found = advice_of(
        [{"step": 1, "loss": 9.0}, *rows_],
        RunFolder(Path("runs/a")),
        load_config(
            None,
            flags={
                "data.inputs": ["a b.csv", "c"],
                "data.text_field": "note",
                "data.heldout_minimum": 15,
                "train.epochs": 2,
            },
        ),
        epochs=2.5,
        scratch=False,
        stopped_early=stopped,
    )
    assert (found is None) == (advice is None)
    if advice:
        assert found is not None
        assert advice in found
    if advice and "falling at the end" in advice:
        start = "unmask train 'a b.csv' c --model runs/a/model"
        assert str(found).endswith(f"{start} --text-field note --epochs 3 -o runs/a-2")


def test_a_few_steps_do_not_tell_whether_the_loss_has_stopped_falling() -> None:
    rows_ = [{"step": step, "eval_loss": loss} for step, loss in ((2, 5.0), (4, 4.0), (7, 4.1))]
    for stopped in (False, True):
        options = {"epochs": 1.0, "scratch": False, "stopped_early": stopped}
        assert advice_of(rows_, RunFolder(Path("runs/a")), RunConfig(), **options) is None


# --- what cannot work ---------------------------------------------------------------------------------------------


def test_a_folder_that_holds_something_is_refused(
    finished: Runs, configure: Configure, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("keep me", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"already holds files; choose another folder with -o"):
        train(configure(model__preset="tiny-bert"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(ConfigError, match=r"already holds files"):
        train(configure(model__preset="tiny-bert"), tmp_path / "mine.txt")


def test_an_empty_folder_is_taken(configure: Configure, tmp_path: Path, no_report: None) -> None:
    (tmp_path / "empty").mkdir()
    assert train(configure(model__preset="tiny-bert", train__max_steps=1), tmp_path / "empty").steps == 1


@pytest.mark.parametrize(
    ("flags", "kind", "message"),
    [
        ({"data__inputs": ["no/such/file.txt"]}, DataError, "no/such/file.txt"),
        ({"data__text_field": "body"}, DataError, "body"),
        ({"model__preset": None, "model__name": "no/such/model"}, ConfigError, "no/such/model"),
        ({"model__preset": "tiny-brt"}, ConfigError, "did you mean 'tiny-bert'"),
        ({"model__name": "also"}, ConfigError, "two models"),
        ({"model__preset": None}, ConfigError, "no model"),
        ({"data__inputs": []}, ConfigError, "no text to train on"),
        ({"data__max_length": 513}, ConfigError, "data.max_length is 513, but the model takes at most 512"),
        ({"data__overlap": 30}, ConfigError, "data.overlap is 30; it must be less than a sequence of 32"),
        ({"model__tokenizer": "no/such/tokenizer"}, ConfigError, "no/such/tokenizer"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(
    configure: Configure, tmp_path: Path, flags: dict[str, Any], kind: type[UnmaskError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        train(configure(**({"model__preset": "tiny-bert"} | flags)), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["inputs", "heldout", "replay", "forgetting_eval"])
def test_nothing_is_loaded_prepared_or_measured_before_all_texts_are_found(
    configure: Configure, checkpoint: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    (tmp_path / "empty.txt").touch()
    flags = {"model__name": str(checkpoint("bert")), "train__precision": "auto"}
    for path, message in (("gone.txt", "no such file"), ("empty.txt", "hold no text")):
        listener = Listener()
        config = configure(**flags, **{f"data__{name}": [str(tmp_path / path)]})
        with pytest.raises(DataError, match=message):
            train(config, tmp_path / "run", progress=listener)
        assert (listener.heard, listener.phases) == ([], [])


def test_a_tokenizer_too_large_for_the_model_is_refused(
    configure: Configure, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    names = {"model__name": str(checkpoint("bert")), "model__tokenizer": str(checkpoint("modernbert"))}
    config = configure(**names)
    tokens = len(AutoTokenizer.from_pretrained(names["model__tokenizer"]))
    rows_ = AutoModelForMaskedLM.from_pretrained(names["model__name"]).config.vocab_size
    if tokens <= rows_:
        names["model__name"], names["model__tokenizer"] = names["model__tokenizer"], names["model__name"]
        config = configure(**names)
    with pytest.raises(ConfigError, match=r"the tokenizer has .* entries but the model only"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_single_document_trains_without_held_out_text(
    configure: Configure, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    one = tmp_path / "one.txt"
    one.write_text("the river carried a letter before winter came " * 50, encoding="utf-8")
    listener = Listener()
    flags = {"data__inputs": [str(one)], "data__documents": "file", "train__max_steps": 2}
    result = train(
        configure(model__name=str(checkpoint("bert")), **flags), tmp_path / "run", progress=listener
    )
    assert result.evaluation is None
    assert any("nothing is held out" in text for text in listener.heard)
    assert not result.folder.evaluation.exists()
    assert result.folder.report.is_file()
    assert AutoModelForMaskedLM.from_pretrained(result.folder.model)


def test_held_out_text_without_a_target_is_said_and_no_error(
    configure: Configure, checkpoint: Callable[[str], Path], tmp_path: Path, no_report: None
) -> None:
    """One word held out, none of it masked: the run must not fail in its first evaluation."""
    heldout = tmp_path / "heldout.txt"
    listener = Listener()
    # A text whose one token happens to be masked would not be the case: one in seven is.
    heldout.write_text("winter\n", encoding="utf-8")
    flags = {"data__heldout": [str(heldout)], "masking__rate": 0.001, "train__max_steps": 1}
    result = train(
        configure(model__name=str(checkpoint("bert")), **flags), tmp_path / "run", progress=listener
    )
    assert result.evaluation is None
    assert any("nothing is evaluated: no token of the held-out text" in text for text in listener.heard)


def test_a_run_that_diverges_says_so(configure: Configure, tmp_path: Path, checkpoint: Any) -> None:
    config = configure(model__name=str(checkpoint("bert")), train__optimizer__learning_rate=1e38)
    with pytest.raises(
        DivergedError,
        match=r"step \d+: .* Lower the learning rate.*; there is no checkpoint yet.*run/shards as its text",
    ):
        train(config, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert any("skipped" in row for row in read_rows(folder.metrics))  # which the message points to
    again = configure(
        model__name=str(checkpoint("bert")), data__inputs=[str(folder.shards)], train__max_steps=2
    )
    assert (train(again, tmp_path / "again").folder.model / "config.json").is_file()


def let_fail(monkeypatch: pytest.MonkeyPatch, steps: range) -> None:
    """Let the loss of some steps, the first being 1, be no number."""
    look = Loop._check

    def fail(loop: Loop, *arguments: Any) -> tuple[str | None, float]:
        if loop.position.step + 1 in steps:
            return "the loss is nan", 0.0
        return look(loop, *arguments)

    monkeypatch.setattr(Loop, "_check", fail)


def test_bad_steps_in_a_row_end_the_run_and_the_last_good_checkpoint_is_named(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_fail(monkeypatch, range(5, 99))
    config = configure(model__preset="tiny-bert", train__save_every=1)
    with pytest.raises(
        DivergedError, match=r"step 9: the loss is nan; 5 steps .*checkpoint is .*step-00000004$"
    ):
        train(config, tmp_path / "run")
    skipped = rows(RunFolder(tmp_path / "run"), "skipped")
    assert [row["step"] for row in skipped] == [5, 6, 7, 8, 9]
    assert all(row["documents"] for row in skipped)


def test_a_run_that_is_stopped_behind_a_bad_step_is_the_undisturbed_run(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_fail(monkeypatch, range(4, 6))
    config = configure(model__preset="tiny-bert", train__save_every=100)
    whole = train(config, tmp_path / "whole").folder
    stop = Listener({4: lambda: signal.raise_signal(signal.SIGTERM)})
    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", progress=stop)
    resumed = train(config, tmp_path / "run", resume="auto").folder
    assert_same(resumed, whole)
    assert [row["step"] for row in rows(resumed, "skipped")] == [4, 5]
    assert resumed.report.is_file()


def test_a_full_disk_is_said(configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "save_tensors", full)
    with pytest.raises(DiskError, match="No space left on device; free space or choose another folder"):
        train(configure(model__preset="tiny-bert"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_disk_that_fills_up_keeps_the_last_checkpoint(
    finished: Runs, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_report: None
) -> None:
    whole, calls = checkpoint_module.save_tensors, iter(range(100))

    def full(tensors: Any, *, storage_writer: Any, **options: Any) -> None:
        whole(tensors, storage_writer=storage_writer, **options)
        if next(calls) == 2:  # the optimizer of the third checkpoint
            optimizer = Path(storage_writer.path) / "model-00002-of-00002.safetensors"
            optimizer.write_bytes(optimizer.read_bytes()[:100])
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    config = configure(model__preset="tiny-bert", train__save_every=3)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "save_tensors", full)
        with pytest.raises(
            DiskError, match=r"No space left.*; step-00000006 is safe: free at least .* --resume"
        ):
            train(config, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "step-00000003",
        "step-00000006",
    ]
    assert_same(train(config, tmp_path / "run", resume="auto").folder, finished("tiny-bert")[0].folder)


def test_a_disk_that_is_full_at_the_first_checkpoint_is_left_as_it_was(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint_module, "save_tensors", full)
    with pytest.raises(DiskError, match=r"cannot write the run: .*; free space or choose another folder"):
        train(configure(model__preset="tiny-bert"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_cannot_fit_on_the_disk_is_refused(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    with pytest.raises(
        DiskError, match=r"does not fit on the disk of .* .3 checkpoints of .* free .*train.keep_last=1"
    ):
        train(configure(model__preset="tiny-bert"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_disk_need_of_the_dry_run_and_of_the_refusal_is_what_a_run_writes(
    finished: Runs,
    configure: Configure,
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three checkpoints of weights and two moments each, their best weights, the model, and the shards."""
    config, folder = configure(model__name=str(checkpoint("bert"))), finished("bert")[0].folder
    saved = folder.checkpoints / "step-00000012"
    tensors = sum(path.stat().st_size for path in saved.glob("*.safetensors"))
    written = 3 * tensors + 4 * (folder.model / "model.safetensors").stat().st_size
    needed = dry_run(config).disk_bytes
    assert needed == pytest.approx(written + size_of(folder.shards), rel=0.05)
    free = SimpleNamespace(free=0.9 * written)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(DiskError, match="does not fit"):
        train(config, tmp_path / "run")
    free.free = 1.1 * written
    config = configure(model__name=str(checkpoint("bert")), train__epochs=0.01, train__max_steps=None)
    assert train(config, tmp_path / "run").steps == 1


def test_a_second_run_in_the_folder_is_refused(configure: Configure, tmp_path: Path, no_report: None) -> None:
    config, refused = configure(model__preset="tiny-bert", train__max_steps=2), []

    def again() -> None:
        for resume in (None, "auto"):
            with pytest.raises(ConfigError) as caught:
                train(config, tmp_path / "run", resume=resume)
            refused.append(str(caught.value))

    train(config, tmp_path / "run", progress=Listener({1: again}))
    assert "already holds files" in refused[0]
    assert f"another run uses {tmp_path / 'run'} (process {os.getpid()} on " in refused[1]
    assert (tmp_path / "run" / "model").is_dir()


# --- two processes ------------------------------------------------------------------------------------------------

WORKER = """
import sys
from dataclasses import replace
from pathlib import Path
from unmask.config.load import load_config
from unmask.model import presets
from unmask.run.train import train
presets.PRESETS["tiny-bert"] = presets.Preset("bert", 2, 32)
train(load_config(Path(sys.argv[1])), sys.argv[2])
"""


def test_two_processes_make_the_run_of_one(finished: Runs, tmp_path: Path) -> None:
    """As torchrun starts them, on a folder that both may find empty or begun."""
    whole = finished("tiny-bert")[0].folder
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-c", WORKER, str(whole.config), str(tmp_path / "run")]
    workers = [
        subprocess.Popen(
            command,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        for rank in range(2)
    ]
    try:
        for worker in workers:
            _, errors = worker.communicate(timeout=120)
            assert worker.returncode == 0, errors
            assert "FutureWarning" not in errors
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    folder = RunFolder(tmp_path / "run")
    assert folder.exit_code.read_text(encoding="utf-8") == "0\n"
    for found, wanted in zip(read_rows(folder.metrics), read_rows(whole.metrics), strict=True):
        assert found.keys() == wanted.keys()
        for key in found.keys() - set(TIMED):
            assert found[key] == pytest.approx(wanted[key], rel=1e-4), key
    assert read(folder.evaluation)["loss"] == pytest.approx(read(whole.evaluation)["loss"], rel=1e-4)


def test_shards_are_reused_and_a_prepared_folder_is_taken(
    finished: Runs, configure: Configure, tmp_path: Path, no_report: None
) -> None:
    """The shards of another run, copied, give the run that prepared them itself."""
    whole = finished("tiny-bert")[0].folder
    shards = Path(shutil.copytree(whole.shards, tmp_path / "shards"))
    listener = Listener()
    result = train(
        configure(model__preset="tiny-bert", data__inputs=[str(shards)]), tmp_path / "run", progress=listener
    )
    assert any("using the tokenizer of the shards" in text for text in listener.heard)
    assert not result.folder.shards.exists()
    assert_same(result.folder, whole)
    stranger = configure(model__preset="tiny-modernbert", data__inputs=[str(shards), "more.txt"])
    with pytest.raises(DataError, match="it must be the only input, not one of 2"):
        train(stranger, tmp_path / "other")
