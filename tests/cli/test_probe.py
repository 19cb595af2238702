"""The verb `probe`: what it answers and how it fails."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unmask.cli.main import main

pytest.importorskip("sklearn")

Checkpoint = Callable[[str], Path]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Return `run(*arguments) -> (code, stdout, stderr)`; the environment is put back afterwards."""
    before = dict(os.environ)

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["probe", *map(str, arguments), "--offline"])
        return code, *capsys.readouterr()

    yield call
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A task that one word decides; no text of test stands in train."""
    for part, count in (("train", 60), ("test", 40)):
        rows: list[dict[str, Any]] = [
            {"text": f"the {('boat', 'war')[n % 2]} of {part} {n}", "label": n % 2} for n in range(count)
        ]
        path = tmp_path / f"{part}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def test_two_models_are_compared(run: Run, checkpoint: Checkpoint, task: Path) -> None:
    models = [checkpoint("bert"), checkpoint("roberta")]
    code, out, err = run(*models, "--task", task, "--seeds", 3, "--precision", "fp32", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert answer["task"]["kind"] == "classification"
    assert [model["method"] for model in answer["models"]] == ["frozen", "frozen"]
    assert {"macro_f1", "micro_f1", "accuracy"} <= set(answer["models"][0]["figures"])
    (verdict,) = answer["verdicts"]
    values = [model["figures"]["macro_f1"]["values"] for model in answer["models"]]
    assert verdict["differences"] == pytest.approx([b - a for a, b in zip(*values, strict=True)])
    assert verdict["seeds"] == len(values[0]) == 3
    assert "over 3 seeds, better in" in verdict["verdict"]
    assert answer["baselines"]["most_frequent_label"]["accuracy"] == 0.5
    assert "text classification, 2 labels; 60 texts in train.jsonl" in err


def test_a_table_shows_mean_and_deviation(run: Run, checkpoint: Checkpoint, task: Path) -> None:
    code, out, err = run(
        checkpoint("bert"), "--task", task, "--method", "both", "--seeds", 2, "--epochs", 1, "--limit", 20
    )
    assert code == 0, err
    assert "linear probe, model frozen" in out
    assert "fine-tuned" in out
    assert "mean ± standard deviation over 2 seeds: " in out
    assert "95%: t interval" in out
    assert "most frequent label" in out
    assert "20 of 60 training examples used" in out


def test_overlap_is_refused_with_how_much(run: Run, checkpoint: Checkpoint, task: Path) -> None:
    given = (checkpoint("bert"), "--task", task / "train.jsonl", "--test", task / "train.jsonl", "--seeds", 1)
    code, out, err = run(*given)
    assert (code, out) == (3, "")
    assert "60 of 60 test texts also in train" in err
    code, out, err = run(*given, "--allow-overlap")
    assert code == 0, err
    assert "60 of 60 test texts also in train" in out
    assert "one seed has no spread: " in out
    assert "standard deviation" not in out
    assert "95%: " not in out
    assert run(*given, "--drop-overlap")[0] == 3  # nothing is left


def test_wrong_calls_end_with_one_line(run: Run, checkpoint: Checkpoint, task: Path) -> None:
    code, _, err = run(task / "no-model", "--task", task)
    assert code == 2
    assert "no such file or folder" in err.splitlines()[-1]
    code, _, err = run(checkpoint("bert"), "--task", task / "nothing")
    assert code == 3
    assert err.splitlines()[-1].endswith(
        "nothing: no such file; expected a folder with train, (dev) and test files, or a train file if --test names the test file"
    )
    code, _, err = run(checkpoint("bert"), "--task", task, "--dev", task / "nothing")
    assert code == 3
    assert err.splitlines()[-1].endswith("nothing: no such file; expected the dev file of the task")
    code, _, err = run(checkpoint("bert"), "--task", task / "train.jsonl")
    assert code == 2
    assert "--test FILE" in err
    assert "Traceback" not in err
