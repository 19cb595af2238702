"""A whole step without values: nothing in it waits for the device."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import varlen
from torch.nn.attention.varlen import varlen_attn

from unmask.data.training_stream import Cursor
from unmask.model.masked_lm import MaskedLM
from unmask.objectives.mlm import MaskedLanguageModelling
from unmask.training import loop as loop_module
from unmask.training.loop import Loop
from unmask.training.steps import StepPlan

Load = Callable[..., MaskedLM]
PACKED = ("bert", "roberta", "distilbert", "electra", "albert", "modernbert", "eurobert")
LENGTHS = [20, 20, 9, 3]
PADDED = (
    "mobilebert",
    "mpnet",
)  # DeBERTa's own code looks into the ids for padding that nobody has told it of


@pytest.fixture
def loop_on_meta(
    load: Load,
    shards: Any,
    make_batch: Any,
    loop_of: Callable[..., Loop],
    on_meta: Callable[[MaskedLM], MaskedLM],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., tuple[Loop, StepPlan]]:
    """Return `make(architecture, optimizer)`: a loop with a model without values, and a step of two micro-batches."""
    clipping = importlib.import_module("torch.nn.utils.clip_grad")
    monkeypatch.setattr(clipping, "_device_has_foreach_support", lambda device: True)
    devices = lambda: ["cpu", "cuda", "meta"]  # noqa: E731
    # The name is not an attribute of torch.optim.
    optimizer = importlib.import_module("torch.optim.optimizer")
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", devices)

    def make(architecture: str, optimizer: str = "adamw") -> tuple[Loop, StepPlan]:
        model = load(architecture)
        batches = [make_batch(model.vocabulary, LENGTHS, seed=seed) for seed in range(2)]
        targets = sum(len(batch.target_ids) for batch in batches)
        cursor = Cursor()
        plan = StepPlan(
            batches,
            cursor,
            cursor,
            np.arange(9),
            2 * sum(LENGTHS),
            0.0,
            0.3,
            100,
            (targets,),
            MaskedLanguageModelling(),
        )
        loop = loop_of(on_meta(model), shards, 200, optimizer)
        return loop, plan

    return make


def watch_kernel(monkeypatch: pytest.MonkeyPatch, calls: list[int]) -> None:
    """Note the tokens of every call of the variable-length kernel."""

    def watch(query: torch.Tensor, *args: Any, **named: Any) -> Any:
        calls.append(len(query))
        return varlen_attn(query, *args, **named)

    monkeypatch.setattr(varlen, "varlen_attn", watch)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("architecture", PACKED)
def test_a_step_waits_for_nothing(
    loop_on_meta: Callable[..., tuple[Loop, StepPlan]],
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    optimizer: str,
) -> None:
    """Two micro-batches, clipping, the check for what is not finite, and the update; a value cannot be read there."""
    calls: list[int] = []
    loop, plan = loop_on_meta(architecture, optimizer)
    watch_kernel(monkeypatch, calls)
    result = loop.step(plan)
    assert {tensor.device.type for tensor in (result.losses, result.correct, result.norm)} == {"meta"}
    assert calls == [sum(LENGTHS)] * 4
    state = [entry for one in loop.optimizers for entries in one.state.values() for entry in entries.values()]
    assert state
    assert all(entry.device.type == "meta" for entry in state)


@pytest.mark.parametrize("architecture", PADDED)
def test_a_step_of_padded_batches_waits_for_nothing(
    loop_on_meta: Callable[..., tuple[Loop, StepPlan]], architecture: str
) -> None:
    loop, plan = loop_on_meta(architecture)
    assert loop.step(plan).losses.device.type == "meta"


def read_loss(loss: torch.Tensor) -> float:
    return float(loss)


def pick(loss: torch.Tensor) -> torch.Tensor:
    return loss.reshape(1)[loss.reshape(1) > 0]


@pytest.mark.parametrize("wait", [read_loss, pick, torch.Tensor.cpu, torch.Tensor.item, torch.nonzero])
def test_what_waits_for_the_device_is_found(
    loop_on_meta: Callable[..., tuple[Loop, StepPlan]],
    monkeypatch: pytest.MonkeyPatch,
    wait: Callable[[torch.Tensor], Any],
) -> None:
    """The test above can fail: with each of these within a step it does."""
    clip = loop_module.clip_gradients

    def waiting(*args: Any) -> torch.Tensor:
        norm = clip(*args)
        wait(norm)
        return norm

    monkeypatch.setattr(loop_module, "clip_gradients", waiting)
    loop, plan = loop_on_meta("bert")
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        loop.step(plan)
