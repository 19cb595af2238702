from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from unmask.cli.main import main
from unmask.config.settings import TrainSettings
from unmask.errors import ConfigError, DataError, LostProcess
from unmask.model.masked_lm import MaskedLM
from unmask.training.distributed import World
from unmask.training.loss import step_gradients
from unmask.training.parallel import GradientSum, choose_parallel
from unmask.training.pulse import Pulse


def test_alone_everything_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: pytest.fail("nobody to join"))
    world = World.join(torch.device("cpu"))
    world.wait()
    world.doing("nothing")
    assert world == World(0, 1)
    assert world.is_main
    assert world.shares_files
    assert world.speaks
    world.meet(sees_files=True)
    assert world.apart == []
    assert world.sum_(torch.tensor(3.0)) == 3.0
    assert (world.any(True), world.any(False), world.max(0.25)) == (True, False, 0.25)
    assert world.gather([1.0, 2.0]).tolist() == [[1.0, 2.0]]
    assert world.from_main("mine") == "mine"
    assert world.main_first(lambda: 3, "counting") == world.leader_first(lambda: 3, "counting") == 3
    world.require_same({"version": 1})
    error = RuntimeError("gloo: connection closed")
    world.fail(error)
    assert world.explained(error) is error
    world.leave()


@pytest.mark.parametrize(("dead", "tells", "first"), [(1, 2, 0), (0, 2, 1), (0, 1, 2)])
def test_who_is_left_speaks_whoever_tells_of_a_lost_process(dead: int, tells: int, first: int) -> None:
    """Another one may have noticed before; it is not the one that is lost."""
    store = dist.HashStore()
    worlds = [World(rank, 3, _pulse=Pulse(store, rank, 3)) for rank in range(3)]
    worlds[tells].fail(worlds[tells]._lost([dead]))
    error = worlds[first].explained(RuntimeError("gloo: Connection closed by peer"))
    assert isinstance(error, LostProcess)
    assert str(error).startswith(f"process {dead} on ")
    assert [worlds[rank].speaks for rank in (first, tells)] == [first < tells, tells < first]


def test_a_lost_process_is_named_with_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with the step of its last sign of life, which is of a second before."""
    store = dist.HashStore()
    own, other = (Pulse(store, rank, 2) for rank in range(2))
    other.doing = "step 5"
    other.beat(1)
    world = World(0, 2, _pulse=own)
    name = f"process 1 on {socket.gethostname()} ended or hangs"
    assert str(world._lost([1])) == name  # it was not watched
    own._seen[1] = own._value(1), time.monotonic() - 7.5
    assert str(world._lost([1])) == f"{name}: no sign of life for 7 seconds"
    assert "(step 5)" in str(world._lost([]))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            {"train.seed": 1},
            r"process 1 on b and process 0 on a differ in train\.seed \(1 and 0\), but all must",
        ),
        ({"text": "f" * 64, "weights": "1" * 64}, "differ in text, weights, but all must"),
    ],
)
def test_what_differs_is_named_without_digests(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, Any], message: str
) -> None:
    wanted = {"train.seed": 0, "text": "0" * 64, "weights": "0" * 64}
    worlds = [("a", wanted), ("b", wanted | found)]
    rows = [(host, {key: json.dumps(value) for key, value in facts.items()}) for host, facts in worlds]
    monkeypatch.setattr(World, "collect", lambda world, value: rows)
    with pytest.raises(ConfigError, match=message):
        World(0, 2).require_same(wanted)


def test_files_that_a_failed_process_removed_are_not_to_blame() -> None:
    store = dist.HashStore()
    main, other = (World(rank, 2, _pulse=Pulse(store, rank, 2)) for rank in range(2))
    own = FileNotFoundError("manifest.json")
    assert other.explained(own) is own
    main.fail(DataError("nothing to read"))
    assert str(other.explained(own)).endswith(": nothing to read")
    assert isinstance(other.explained(own), DataError)


def test_what_shares_of_a_model_need(load: Callable[..., MaskedLM]) -> None:
    assert choose_parallel(TrainSettings(parallel="fsdp"), load("bert"), World()) == ("ddp", "")


def test_shares_in_the_memory_of_the_host_are_of_fsdp(
    load: Callable[..., MaskedLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So `--offload` alone chooses it, for a model of any size."""
    monkeypatch.setattr(World, "max", lambda world, value: value)
    for offload, kind in ((True, "fsdp"), (False, "ddp")):
        assert choose_parallel(TrainSettings(offload=offload), load("bert"), World(0, 2))[0] == kind


@pytest.mark.parametrize(
    ("processes", "parallel", "message"),
    [
        ("1", "auto", "a single process has the whole model"),
        ("2", "ddp", "with --parallel ddp there are none"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_options_that_cannot_work_are_refused_before_anything_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    processes: str,
    parallel: str,
    message: str,
    dry_run: bool,
) -> None:
    """The other processes do not come, and nothing is written."""
    (tmp_path / "text.txt").write_text("The river.\n" * 9, encoding="utf-8")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", processes)
    command = ["train", str(tmp_path / "text.txt"), "--preset", "bert-mini", "-o", str(tmp_path / "run")]
    command += ["--offload", "--parallel", parallel, *(["--dry-run"] if dry_run else [])]
    assert main(command) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_torchrun_with_one_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: pytest.fail("nobody to join"))
    assert World.join(torch.device("cpu")).size == 1


@pytest.mark.parametrize(("rank", "leads"), [(None, True), ("0", True), ("1", False)])
def test_who_will_lead_is_known_before_joining(
    monkeypatch: pytest.MonkeyPatch, rank: str | None, leads: bool
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert World.will_be_main() is leads


def test_alone_gradients_are_summed_with_nobody(
    load: Callable[..., MaskedLM], make_batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight without a gradient keeps none, so that an optimizer does not decay it; a batch without targets is no work."""
    monkeypatch.setattr(dist, "all_reduce", lambda *_, **__: pytest.fail("nobody to send to"))
    model = load("bert")
    model.model.train()
    raw = model.model
    frozen = raw.get_input_embeddings().weight
    frozen.requires_grad_(False)
    batches = [make_batch(model.vocabulary, [9, 7], rate=rate) for rate in (0.3, 0.0)]
    found = []
    for sum_ in (None, GradientSum(model), GradientSum(model, World(), "fsdp")):
        if sum_ is not None:
            assert not sum_.sharded
            sum_.begin()
        step_gradients(sum_ or GradientSum(model), batches, [len(batches[0].target_ids)])
        if sum_ is not None:
            sum_.check()
            assert sum_.whole_model() is model
        assert frozen.grad is None
        found.append([weight.grad for weight in raw.parameters() if weight.grad is not None])
        raw.zero_grad(set_to_none=True)
    assert len(found[0]) > 10
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
