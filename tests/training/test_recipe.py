from __future__ import annotations

from typing import Any

import pytest

from unmask.config.settings import MaskingSettings, OptimizerSettings, ScheduleSettings, TrainSettings
from unmask.training.recipe import Recipe, resolve


def recipe(
    train: TrainSettings | None = None, masking: MaskingSettings | None = None, **where: Any
) -> Recipe:
    place = {"scratch": False, "family": "bert", "hidden": 256, "device": "cpu", "tokens": 10**8} | where
    return resolve(train or TrainSettings(), masking or MaskingSettings(), **place)


def test_adapting_is_gentle() -> None:
    made = recipe()
    assert (made.optimizer, made.schedule, made.initial_rate) == ("adamw", "linear", 0.15)
    assert made.learning_rate == 5e-5
    assert recipe(family="modernbert").learning_rate == 2e-4
    assert recipe(family="never-heard-of").learning_rate == made.learning_rate

    assert (made.name, made.patience, made.export_best) == ("adapt", 3, True)


def test_a_recipe_that_is_named_wins_over_the_kind_of_model() -> None:
    assert recipe(TrainSettings(recipe="scratch"), scratch=False) == recipe(scratch=True)
    assert recipe(TrainSettings(recipe="adapt"), scratch=True) == recipe(scratch=False)


def test_low_rank_adapters_take_larger_steps() -> None:
    assert recipe(TrainSettings(lora_rank=4)).learning_rate == pytest.approx(10 * recipe().learning_rate)
    rate = OptimizerSettings(learning_rate=1e-5)
    assert recipe(TrainSettings(lora_rank=4, optimizer=rate)).learning_rate == 1e-5


def test_from_scratch_is_not() -> None:
    assert (recipe(scratch=True).patience, recipe(scratch=True).export_best) == (0, False)
    made = recipe(scratch=True)
    assert (made.optimizer, made.schedule) == ("muon", "trapezoid")
    assert made.initial_rate == pytest.approx(0.3)
    assert made.learning_rate > 10 * recipe().learning_rate


def test_from_scratch_with_adamw_wider_models_take_smaller_steps() -> None:
    adamw = TrainSettings(optimizer=OptimizerSettings(name="adamw"))
    narrow, wide = (recipe(adamw, scratch=True, hidden=hidden) for hidden in (256, 1024))
    assert narrow.learning_rate == pytest.approx(2 * wide.learning_rate)


@pytest.mark.parametrize("scratch", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_set_is_kept(scratch: bool, device: str) -> None:
    train = TrainSettings(
        epochs=2.5,
        batch_tokens=999,
        micro_batch_tokens=99,
        patience=7,
        export_best=False,
        optimizer=OptimizerSettings(name="adamw", learning_rate=0.123),
        schedule=ScheduleSettings(name="cosine"),
    )
    made = recipe(train, MaskingSettings(rate=0.2, initial_rate=0.4), scratch=scratch, device=device)
    assert made == Recipe(
        *("scratch" if scratch else "adapt", "adamw", 0.123, "cosine", 999, 99, 0.4, 2.5, 7, False)
    )


@pytest.mark.parametrize("scratch", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("batch", [None, 64])
def test_a_micro_batch_is_never_larger_than_a_batch(scratch: bool, device: str, batch: int | None) -> None:
    made = recipe(TrainSettings(batch_tokens=batch), scratch=scratch, device=device)
    assert made.micro_batch_tokens <= made.batch_tokens == (batch or made.batch_tokens)


@pytest.mark.parametrize(
    ("train", "epochs"),
    [
        (TrainSettings(), 1.0),
        (TrainSettings(max_steps=5), None),
        (TrainSettings(minutes=1), None),
        (TrainSettings(max_steps=5, epochs=3), 3),
    ],
)
def test_epochs_when_nothing_else_ends_a_run(train: TrainSettings, epochs: float | None) -> None:
    assert recipe(train).epochs == epochs


@pytest.mark.parametrize(
    ("tokens", "epochs"),
    [(500, 100), (300_000, 100), (1_000_000, 30), (3_000_000, 10), (29_999_999, 2), (10**9, 1)],
)
def test_a_small_text_is_passed_over_more_often(tokens: int, epochs: int) -> None:
    assert recipe(tokens=tokens).epochs == epochs
    assert recipe(TrainSettings(epochs=1), tokens=tokens).epochs == 1


def test_a_micro_batch_that_is_set_larger_than_the_batch_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"micro_batch_tokens \(99\) must not exceed train.batch_tokens \(64\)"
    ):
        TrainSettings(micro_batch_tokens=99, batch_tokens=64)
