"""Speed changes nothing: the loss of the fast path is that of the plain one, step by step."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CURVES = Path(__file__).parents[2] / "benchmarks" / "curves.py"
STEPS = 20


@pytest.fixture(scope="module")
def curves() -> ModuleType:
    """The file that `benchmarks/equivalence.py` runs at full size."""
    spec = importlib.util.spec_from_file_location("curves", CURVES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def settings(checkpoint: Callable[[str], Path], corpus_text: list[str], tmp_path: Path) -> dict[str, Any]:
    """A tiny BERT and texts of unequal lengths, some longer than a sequence."""
    texts = [" ".join(corpus_text[start : start + 1 + start % 5]) for start in range(0, 300, 2)]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    run = {
        "start": str(checkpoint("bert")),
        "text": str(path),
        "steps": STEPS,
        "batch_tokens": 256,
        "length": 32,
    }
    return run | {"learning_rate": 3e-3, "precision": "fp32"}


def test_the_fast_path_has_the_loss_of_the_plain_one(curves: ModuleType, settings: dict[str, Any]) -> None:
    fast, plain = curves.fast(**settings), curves.plain(**settings)
    assert len(fast["losses"]) == len(plain["losses"]) == STEPS
    assert fast["losses"] == pytest.approx(plain["losses"], abs=1e-4)
    assert fast["norms"] == pytest.approx(plain["norms"], rel=1e-3)
    # The weights did move: otherwise agreement would say nothing about the way back.
    assert fast["losses"][-1] < fast["losses"][0] - 0.3


def test_in_bf16_the_fast_path_stays_near(curves: ModuleType, settings: dict[str, Any]) -> None:
    plain = curves.plain(**settings)["losses"]
    fast = curves.fast(**settings | {"precision": "bf16"})["losses"]
    assert fast == pytest.approx(plain, abs=0.1)
    assert fast != pytest.approx(plain, abs=1e-5)
