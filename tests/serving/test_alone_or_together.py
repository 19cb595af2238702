"""A text gives the same whatever is computed with it: other company, another order, one against many."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask.api.model import load
from unmask.serving.engine import ServedModel, Task
from unmask.serving.schemas import ExplainParameters, FillMaskParameters, FillParameters, ScoreParameters

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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batches_at_the_same_time_give_what_each_gives_alone(
    architecture: str, checkpoint: Callable[[str], Path]
) -> None:
    """Filling, scoring, embedding and explaining side by side, in more threads than there are copies of the model."""
    served = ServedModel("m", load(checkpoint(architecture)).lm, lambda: None, at_once=3)
    assert served.at_once == 3
    given = texts(served.mask_token)
    plain = [text.replace(served.mask_token, "light") for text in given]
    jobs = [
        (served.fill_mask(FillMaskParameters(top_k=20)), given),
        (served.score(ScoreParameters(method="original", details=True)), plain[:4]),
        (served.embed(normalize=False), plain),
        (served.explain(ExplainParameters(seed=3)), plain[:2]),
    ]
    alone = [task.compute(some) for task, some in jobs]

    def check(number: int) -> None:
        (task, some), expected = jobs[number % len(jobs)], alone[number % len(jobs)]
        for found, wanted in zip(task.compute(some), expected, strict=True):
            if "labels" in wanted:
                assert found == wanted
            else:
                assert np.abs(values(found) - values(wanted)).max() <= BOUND

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(check, range(24)))
