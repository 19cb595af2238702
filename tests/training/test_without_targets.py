"""Where nothing is masked there is no mean: it is missing, never 0, and a run without a target ends with the cause."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Messages

import unmask
from unmask.errors import DataError
from unmask.reporting.format import progress_metrics
from unmask.storage import read_rows

AMHARIC = [f"ሰላም ለዓለም ኢትዮጵያ አዲስ{' አበባ' * (number % 7)}" for number in range(60)]
Run = Callable[..., unmask.RunResult]


@pytest.fixture
def run(checkpoint: Callable[[str], Path], tmp_path: Path) -> Run:
    """Return `run(text, **options)`: a short run from a tiny checkpoint."""

    def make(text: Any, model: str = "bert", **options: Any) -> unmask.RunResult:
        short = {"max_steps": 4, "batch_tokens": 64, "precision": "fp32", "device": "cpu", "patience": 0}
        return unmask.train(text, model=checkpoint(model), out=tmp_path / "run", **(short | options))

    return make


@pytest.mark.parametrize("model", ["bert", "electra"])
def test_a_text_in_which_nothing_can_be_masked_is_refused_before_the_first_step(
    model: str, run: Run, tmp_path: Path
) -> None:
    with pytest.raises(
        DataError, match=r"every token of the training text is unknown to the tokenizer"
    ) as error:
        run(AMHARIC, model, allow_unknown=True)
    assert error.value.exit_code == 3
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_target_ends_with_the_cause(run: Run, corpus_text: list[str]) -> None:
    with pytest.raises(
        DataError, match=r"nothing was learned in 4 steps: no token .* masked at a rate of 1e-07"
    ):
        run(corpus_text, mask_rate=1e-7)


def test_metrics_of_steps_without_targets_are_missing(run: Run, corpus_text: list[str]) -> None:
    heard: list[dict[str, object]] = []

    class Listener(unmask.Progress):
        def advance(self, share: float | None, metrics: Any) -> None:
            heard.append(dict(metrics))

    settings = {"train.log_every": 1, "masking.initial_rate": 1e-7}
    result = run(corpus_text, mask_rate=0.5, settings=settings, progress=Listener())
    rows = [row for row in read_rows(result.folder.metrics) if "loss" in row]
    assert (rows[0]["loss"], rows[0]["accuracy"]) == (None, None)
    assert result.loss == rows[-1]["loss"] > 0
    shown = [progress_metrics(metrics)[1] for metrics in heard if "step" in metrics]
    assert shown[0] == "loss –"
    assert "0.000" not in " ".join(shown)
    assert "NaN" not in result.folder.report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "options", "cause"),
    [
        (AMHARIC, {}, "every token of the held-out text is unknown to the tokenizer"),
        (["the river"], {}, "no token of the held-out text (6 tokens) is masked at a rate of 0.01"),
    ],
)
def test_held_out_text_without_a_target_says_why(
    text: list[str], options: dict[str, Any], cause: str, run: Run, corpus_text: list[str]
) -> None:
    heard: list[str] = []
    result = run(
        corpus_text, heldout=text, allow_unknown=True, mask_rate=0.01, batch_tokens=2048, progress=Messages(heard), **options
    )  # fmt: skip
    assert result.evaluation is None
    assert [line for line in heard if line.startswith(f"warning: nothing is evaluated: {cause}")]
    assert "0.000" not in repr(result)
    unknown = "100.0% of the tokens are unknown to the tokenizer"
    with pytest.raises(DataError) as error:
        unmask.evaluate(result.folder.root, text, mask_rate=0.01, progress=False)
    assert (unknown if text is AMHARIC else cause.replace("held-out ", "")) in str(error.value)
