from __future__ import annotations

import errno
import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from unmask.config.settings import OptimizerSettings
from unmask.errors import DataError
from unmask.model.masked_lm import MaskedLM
from unmask.progress import Progress
from unmask.training import checkpoint as checkpoints
from unmask.training.best_weights import check_best, load_best
from unmask.training.checkpoint import (
    CheckpointWriter,
    check,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint_state,
    restore,
    save_checkpoint,
    set_aside,
)
from unmask.training.loss import step_gradients
from unmask.training.optimizers import make_optimizers
from unmask.training.parallel import GradientSum

WEIGHTS = "model-00001-of-00002.safetensors"
OPTIMIZER = "model-00002-of-00002.safetensors"


class Notices(Progress):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def log(self, text: str) -> None:
        self.heard.append(text)


class Trained:
    """A tiny model with its optimizers, moved a step at a time."""

    def __init__(self, model: MaskedLM, make_batch: Any, name: str) -> None:
        self.model, self.make_batch = model, make_batch
        self.optimizers = make_optimizers(model.model, OptimizerSettings(), name, 1e-2)

    def step(self, seed: int) -> None:
        batch = self.make_batch(self.model.vocabulary, [9, 7, 7], seed=seed)
        step_gradients(GradientSum(self.model), [batch], [len(batch.target_ids)])
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def save(self, folder: Path, step: int, **state: Any) -> Path:
        keep = state.pop("keep_last", 9)
        return save_checkpoint(
            folder, self.model.model, self.optimizers, {"step": step, **state}, keep_last=keep
        )

    def weights(self) -> list[torch.Tensor]:
        return [tensor.clone() for tensor in self.model.model.state_dict().values()]


@pytest.fixture
def trained(load: Callable[..., MaskedLM], make_batch: Any) -> Callable[..., Trained]:
    return lambda architecture="modernbert", name="muon": Trained(load(architecture), make_batch, name)


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("architecture", ["bert", "modernbert", "albert"])
def test_going_on_is_bit_exact(trained: Any, tmp_path: Path, architecture: str, name: str) -> None:
    one, other = trained(architecture, name), trained(architecture, name)
    for seed in range(3):
        one.step(seed)
    one.optimizers[0].param_groups[0]["lr"] = 1.23e-3
    path = one.save(tmp_path, 3, before={"loss": 0.1 + 0.2})
    state = restore(path, other.model.model, other.optimizers)
    assert state["before"] == {"loss": 0.1 + 0.2}
    for seed in range(3, 6):
        one.step(seed)
        other.step(seed)
    assert all(torch.equal(a, b) for a, b in zip(one.weights(), other.weights(), strict=True))
    assert other.optimizers[0].param_groups[0]["lr"] == 1.23e-3


def save_earlier_layout(one: Trained, path: Path, step: int) -> Path:
    """Write a checkpoint as earlier versions did: weights in one file, all else of torch in another."""
    path.mkdir(parents=True)
    own = {tensor.data_ptr(): name for name, tensor in reversed(one.model.model.state_dict().items())}
    weights = {name: one.model.model.state_dict()[name].clone() for name in own.values()}
    save_file(weights, path / "model.safetensors")
    tensors = {"rng.cpu": torch.get_rng_state()}
    contents = [optimizer.state_dict() for optimizer in one.optimizers]
    for number, content in enumerate(contents):
        for index, entries in content["state"].items():
            tensors |= {f"{number}.{index}.{entry}": value.clone() for entry, value in entries.items()}
    save_file(tensors, path / "optimizer.safetensors")
    state = {"step": step, "optimizer": [content["param_groups"] for content in contents]}
    (path / "state.json").write_text(json.dumps(state), encoding="utf-8")
    hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.iterdir()}
    (path / "manifest.json").write_text(json.dumps(hashes), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_going_on_from_a_checkpoint_of_the_earlier_layout_is_bit_exact(
    trained: Any, tmp_path: Path, architecture: str, name: str
) -> None:
    one, other = trained(architecture, name), trained(architecture, name)
    for seed in range(3):
        one.step(seed)
    one.optimizers[0].param_groups[0]["lr"] = 1.23e-3
    path = save_earlier_layout(one, tmp_path / "step-00000003", 3)
    assert find_checkpoint(tmp_path, "auto", Progress()) == path
    assert restore(path, other.model.model, other.optimizers)["step"] == 3
    for seed in range(3, 6):
        one.step(seed)
        other.step(seed)
    assert all(torch.equal(a, b) for a, b in zip(one.weights(), other.weights(), strict=True))
    assert other.optimizers[0].param_groups[0]["lr"] == 1.23e-3
    raw = other.model.model
    assert raw.get_output_embeddings().weight is raw.get_input_embeddings().weight


def test_the_best_weights_of_the_earlier_layout_can_be_loaded(trained: Any, tmp_path: Path) -> None:
    """They were saved with the random state alone beside them."""
    one, other = trained(), trained()
    one.step(0)
    kept, one.optimizers = one.optimizers, []
    save_earlier_layout(one, tmp_path / "best" / "step-00000001", 1)
    one.optimizers = kept
    assert check_best(tmp_path, 1) == ""
    load_best(tmp_path, other.model.model, 1)
    assert all(torch.equal(a, b) for a, b in zip(one.weights(), other.weights(), strict=True))


def test_weights_and_optimizer_state_are_in_files_of_their_own(trained: Any, tmp_path: Path) -> None:
    one = trained("bert", "adamw")
    one.step(0)
    path = one.save(tmp_path, 1)
    names = {}
    for file in (WEIGHTS, OPTIMIZER):
        with safe_open(path / file, "pt") as tensors:
            names[file] = {*tensors.keys()}
    assert names[WEIGHTS] <= {*one.model.model.state_dict()}
    assert names[OPTIMIZER]
    assert all(name[0].isdecimal() for name in names[OPTIMIZER])
    alone = save_checkpoint(tmp_path / "alone", one.model.model, [], {"step": 1}, keep_last=1)
    assert [file.name for file in alone.glob("*.safetensors")] == ["model-00001-of-00001.safetensors"]


def test_training_may_go_on_while_a_checkpoint_is_written(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written is what there was when it was asked for: weights, optimizer and plain values."""
    one, other = trained(), trained()
    one.step(0)
    go, write = threading.Event(), checkpoints.save_tensors
    monkeypatch.setattr(
        checkpoints, "save_tensors", lambda *args, **options: go.wait(30) and write(*args, **options)
    )
    writer = CheckpointWriter()
    state: dict[str, Any] = {"step": 1, "tenths": {"saved": 1}}
    writer.save(tmp_path, one.model.model, one.optimizers, state, keep_last=1)
    weights = one.weights()
    state["tenths"]["saved"] = 2
    one.optimizers[0].param_groups[0]["lr"] = 1.23e-3
    one.step(1)
    assert list_checkpoints(tmp_path) == []
    go.set()
    writer.wait()
    writer.close()
    kept = restore(tmp_path / "step-00000001", other.model.model, other.optimizers)
    assert kept["tenths"] == {"saved": 1}
    assert other.optimizers[0].param_groups[0]["lr"] != 1.23e-3
    other.optimizers[0].param_groups[0]["lr"] = 1.23e-3
    assert all(torch.equal(a, b) for a, b in zip(weights, other.weights(), strict=True))
    other.step(1)
    assert all(torch.equal(a, b) for a, b in zip(one.weights(), other.weights(), strict=True))


def test_a_later_step_is_copied_when_the_one_before_it_is_written(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is memory for one copy, and a run that is killed must not lose several checkpoints."""
    one, seen = trained(), []
    go, write = threading.Event(), checkpoints.save_tensors
    monkeypatch.setattr(
        checkpoints, "save_tensors", lambda *args, **options: go.wait(30) and write(*args, **options)
    )
    writer = CheckpointWriter()
    for folder in (tmp_path / "best", tmp_path):  # of one step, neither waits
        writer.save(folder, one.model.model, one.optimizers, {"step": 1}, keep_last=9)

    def save() -> None:
        writer.save(tmp_path, one.model.model, one.optimizers, {"step": 2}, keep_last=9)
        seen.extend(list_checkpoints(tmp_path))

    later = threading.Thread(target=save)
    later.start()
    later.join(0.2)
    assert later.is_alive()
    go.set()
    later.join()
    writer.wait()
    writer.close()
    assert [path.name for path in seen][:1] == ["step-00000001"]
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000001", "step-00000002"]
    assert len(list_checkpoints(tmp_path / "best")) == 1


def test_an_error_in_the_background_is_raised_by_what_comes_next(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = trained()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_tensors", full)
    writer = CheckpointWriter()
    writer.save(tmp_path, one.model.model, one.optimizers, {"step": 1}, keep_last=1)
    with pytest.raises(OSError, match="No space left"):
        writer.wait()
    writer.close()
    assert [*tmp_path.iterdir()] == []


def test_restoring_keeps_tied_weights_tied(trained: Any, tmp_path: Path) -> None:
    one, other = trained("bert", "adamw"), trained("bert", "adamw")
    one.step(0)
    restore(one.save(tmp_path, 1), other.model.model, other.optimizers)
    other.step(1)
    raw = other.model.model
    assert raw.get_output_embeddings().weight is raw.get_input_embeddings().weight


def test_a_checkpoint_names_its_files_and_no_partial_one_is_left(trained: Any, tmp_path: Path) -> None:
    one = trained()
    one.step(0)
    path = one.save(tmp_path / "runs" / "checkpoints", 120)
    assert path.name == "step-00000120"
    assert {file.name for file in path.iterdir()} == {
        WEIGHTS,
        OPTIMIZER,
        "model.safetensors.index.json",
        "state.json",
        "manifest.json",
    }
    assert {*json.loads((path / "manifest.json").read_text(encoding="utf-8"))} == {
        file.name for file in path.iterdir() if file.name != "manifest.json"
    }
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert load_checkpoint_state(path)["step"] == 120
    check(path)


def test_only_the_last_are_kept(trained: Any, tmp_path: Path) -> None:
    one = trained()
    for step in (5, 10, 100, 1000):
        one.save(tmp_path, step, keep_last=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000100", "step-00001000"]


def test_a_step_can_be_saved_again(trained: Any, tmp_path: Path) -> None:
    one = trained()
    one.save(tmp_path, 5, mark="first")
    path = one.save(tmp_path, 5, mark="second")
    assert load_checkpoint_state(path)["mark"] == "second"
    assert len(list_checkpoints(tmp_path)) == 1


@pytest.mark.parametrize("came", [False, True])
def test_a_process_killed_while_it_replaced_a_checkpoint_leaves_one_of_them(
    trained: Any, tmp_path: Path, came: bool
) -> None:
    path = trained().save(tmp_path, 5)
    replaced = tmp_path / ".step-00000005.replaced"
    if came:
        shutil.copytree(path, replaced)
    else:
        path.rename(replaced)
    assert find_checkpoint(tmp_path, "auto", Progress()) == path
    assert [each.name for each in tmp_path.iterdir()] == ["step-00000005"]


def test_setting_aside_what_is_later(trained: Any, tmp_path: Path) -> None:
    one = trained()
    for step in (5, 10, 15):
        one.save(tmp_path, step)
    aside = set_aside(tmp_path, 5)
    assert [path.name for path in aside] == ["aside-step-00000010", "aside-step-00000015"]
    assert list_checkpoints(tmp_path) == [tmp_path / "step-00000005"]
    check(aside[0])
    assert set_aside(tmp_path, 5) == []


def test_a_full_disk_comes_as_the_error_that_it_is(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors has an exception of its own, and only its text says what happened."""

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoints, "save_tensors", full)
    with pytest.raises(OSError, match="No space left") as caught:
        trained().save(tmp_path, 1)
    assert caught.value.errno == errno.ENOSPC


def test_what_a_killed_process_left_is_no_checkpoint_and_goes(trained: Any, tmp_path: Path) -> None:
    left = tmp_path / ".step-00000007.partial"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    assert list_checkpoints(tmp_path) == []
    trained().save(tmp_path, 9)
    assert not left.exists()


def test_when_writing_fails_the_earlier_ones_stay(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = trained()
    one.save(tmp_path, 1)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_tensors", full)
    with pytest.raises(OSError, match="No space left"):
        one.save(tmp_path, 2, keep_last=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    check(tmp_path / "step-00000001")


# --- finding one --------------------------------------------------------------------------------------------------


def damage(path: Path, how: str) -> None:
    if how == "a flipped byte":
        content = bytearray((path / WEIGHTS).read_bytes())
        content[-1] ^= 1
        (path / WEIGHTS).write_bytes(bytes(content))
    elif how == "a cut file":
        content = (path / OPTIMIZER).read_bytes()
        (path / OPTIMIZER).write_bytes(content[: len(content) // 2])
    elif how == "a missing file":
        (path / "state.json").unlink()
    elif how == "no manifest":
        (path / "manifest.json").unlink()
    elif how == "a manifest that is no JSON":
        (path / "manifest.json").write_text("{", encoding="utf-8")
    else:
        (path / "manifest.json").write_text(json.dumps({"state.json": "0"}), encoding="utf-8")


DAMAGES = [
    "a flipped byte",
    "a cut file",
    "a missing file",
    "no manifest",
    "a manifest that is no JSON",
    "a short manifest",
]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_aloud(trained: Any, tmp_path: Path, how: str) -> None:
    one, progress = trained(), Notices()
    one.step(0)
    whole, damaged = one.save(tmp_path, 1), one.save(tmp_path, 2)
    assert find_checkpoint(tmp_path, "auto", progress) == damaged
    damage(damaged, how)
    assert find_checkpoint(tmp_path, "auto", progress) == whole
    (notice,) = progress.heard
    assert notice.startswith("skipped a damaged checkpoint")
    assert str(damaged) in notice
    with pytest.raises(DataError, match="step-00000002"):
        find_checkpoint(tmp_path, str(damaged), progress)


def test_when_all_are_damaged_it_says_so(trained: Any, tmp_path: Path) -> None:
    damage(trained().save(tmp_path, 1), "a missing file")
    with pytest.raises(DataError, match="every checkpoint here is damaged; start again in another folder"):
        find_checkpoint(tmp_path, "auto", Progress())


def test_where_there_is_none(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path / "none", "auto", Progress()) is None
    with pytest.raises(DataError, match="not a complete checkpoint"):
        find_checkpoint(tmp_path, str(tmp_path / "none"), Progress())


def test_one_can_be_named(trained: Any, tmp_path: Path) -> None:
    one = trained()
    older = one.save(tmp_path, 1)
    one.save(tmp_path, 2)
    assert find_checkpoint(tmp_path, str(older), Progress()) == older


def test_buffers_are_saved(tmp_path: Path) -> None:
    """A model may keep running figures in buffers; they are part of where it stands."""

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))

    one, other = make(), make()
    one(torch.randn(8, 3))
    path = save_checkpoint(tmp_path, one, [], {"step": 1}, keep_last=1)
    restore(path, other, [])
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
