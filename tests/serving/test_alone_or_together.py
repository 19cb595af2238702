"""A text gives the same whatever is computed with it: other company, another order, one against many."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask.api.model import load
from unmask.serving.engine import ServedModel, Task
from unmask.serving.schemas import FillMaskParameters, FillParameters, ScoreParameters

BOUND = 1e-5  # in probability, log-probability and each number of an embedding; docs/serving.md says it
ARCHITECTURES = (
    "bert",
    "roberta",
    "distilbert",
    "electra",
    "albert",
    "camembert",
    "modernbert",
    "deberta-v2",
    "mpnet",
)


def texts(mask: str) -> list[str]:
    return [
        f"the {mask} of the harbour "
        + "was quiet in the morning and " * (number % 9)
        + f"number {number} wrote"
        for number in range(24)
    ]


def values(found: Any) -> np.ndarray:
    """Return all numbers that a model computed, in a fixed order; candidates by their tokens."""
    if isinstance(found, np.ndarray):
        return found.astype(np.float64)
    if isinstance(found, list):
        return np.array([one["score"] for one in sorted(found, key=lambda one: one["token"])])
    if "candidates" in found:
        return np.array(
            [one["probability"] for one in sorted(found["candidates"], key=lambda one: one["token_ids"])]
        )
    return np.array([one["pll"] for one in found["token_scores"]])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_computed_together_does_not_matter(
    architecture: str, checkpoint: Callable[[str], Path]
) -> None:
    served = ServedModel("m", load(checkpoint(architecture)).lm, lambda: None)
    given = texts(served.mask_token)
    tasks: list[Task] = [
        served.fill_mask(FillMaskParameters(top_k=20)),
        served.fill(FillParameters(top_k=5, targets=["harbour", "letter"])),
        served.score(ScoreParameters(method="original", details=True)),
        served.embed(normalize=False),
    ]
    draw = random.Random(1)
    for task in tasks:
        alone = {text: values(task.compute([text])[0]) for text in given[:8]}
        for count in (2, 7, 16):
            company = draw.sample(given, count)
            for text, found in zip(company, task.compute(company), strict=True):
                if text in alone:
                    assert np.abs(values(found) - alone[text]).max() <= BOUND
