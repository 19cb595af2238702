from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from unmask.training.distributed import World


def test_alone_everything_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: pytest.fail("nobody to join"))
    world = World.join(torch.device("cpu"))
    model = nn.Linear(2, 2)
    world.sum_gradients(model)
    world.wait()
    assert world == World(0, 1)
    assert world.is_main
    assert model.weight.grad is None
    assert world.sum_(torch.tensor(3.0)) == 3.0
    assert (world.any(True), world.any(False), world.max(0.25)) == (True, False, 0.25)


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


class Twin:
    """Stands for the messages between two processes: the other one holds what `other` says."""

    def __init__(self, other: Tensor) -> None:
        self.other, self.messages = other, 0

    def __call__(self, tensor: Tensor, op: Any = dist.ReduceOp.SUM) -> None:
        self.messages += 1
        if op == dist.ReduceOp.SUM:
            tensor += self.other
        else:
            torch.maximum(tensor, self.other, out=tensor)


def test_gradients_are_summed_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight with a gradient here, one with a gradient there, one with both, one with none."""
    model = nn.ParameterList([nn.Parameter(torch.zeros(2)) for _ in range(4)])
    model[0].grad, model[2].grad = torch.tensor([1.0, 2.0]), torch.tensor([5.0, 6.0])
    # What the other process sends: four gradients of two, then whether it has each.
    there = torch.tensor([0.0, 0.0, 3.0, 4.0, 10.0, 20.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    twin = Twin(there)
    monkeypatch.setattr(dist, "all_reduce", twin)
    World(0, 2).sum_gradients(model)
    assert twin.messages == 1
    found = [None if weight.grad is None else weight.grad.tolist() for weight in model]
    # As in one process, an optimizer must not decay a weight that no process has a gradient for.
    assert found == [[1.0, 2.0], [3.0, 4.0], [15.0, 26.0], None]


@pytest.mark.parametrize(("here", "there", "wanted"), [(0.0, 1.0, True), (1.0, 0.0, True), (0.0, 0.0, False)])
def test_one_yes_is_enough(monkeypatch: pytest.MonkeyPatch, here: float, there: float, wanted: bool) -> None:
    monkeypatch.setattr(dist, "all_reduce", Twin(torch.tensor([there], dtype=torch.float64)))
    monkeypatch.setattr(dist, "get_backend", lambda: "gloo")
    assert World(0, 2).any(bool(here)) is wanted


def test_the_slowest_clock_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "all_reduce", Twin(torch.tensor([0.5], dtype=torch.float64)))
    monkeypatch.setattr(dist, "get_backend", lambda: "gloo")
    assert World(1, 2).max(0.25) == 0.5
    assert World(1, 2).max(0.75) == 0.75
