"""The benchmarks: how they take measurements and what they conclude from them. None is run here."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from unmask.run.fingerprint import machine_info

FOLDER = Path(__file__).parent.parent / "benchmarks"
COMMANDS = [
    "adaptation",
    "equivalence",
    "exports",
    "forecast",
    "forgetting",
    "gpu",
    "growth",
    "memory",
    "objectives",
    "preparation",
    "scaling",
    "strategies",
    "throughput",
    "time_to_quality",
    "vocabulary",
]
Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """Return `load(name) -> module`; what a benchmark writes goes to a temporary folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(importlib.import_module("harness"), "WORK", tmp_path)
    return importlib.import_module


@pytest.mark.parametrize("name", COMMANDS)
def test_every_benchmark_explains_itself(load: Load, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        load(name).options().parse_args(["--help"])
    assert left.value.code == 0
    assert "--json" in capsys.readouterr().out
    assert f"`benchmarks/{name}.py`" in (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_from_unmask_exists(path: Path) -> None:
    """Most imports are inside functions that only a measurement calls."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "unmask":
            module = importlib.import_module(node.module or "")
            missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            assert not missing, f"{path.name}:{node.lineno}: {node.module} has no {', '.join(missing)}"


def test_the_process_that_starts_the_others_imports_nothing_heavy() -> None:
    names = ", ".join(COMMANDS)
    code = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import {names}; print([n for n in ('torch', 'numpy') if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


# --- measurements -------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The harness, with a module `measured` of two functions for it to call."""
    code = "import os\ndef double(value): return {'twice': 2 * value, 'pid': os.getpid()}\ndef fail(): raise ValueError('no good')\n"
    (tmp_path / "measured.py").write_text(code, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return load("harness")


def test_a_measurement_has_a_process_of_its_own(measured: ModuleType) -> None:
    result = measured.run("measured", "double", {"value": 21})
    assert result["twice"] == 42
    assert result["pid"] != os.getpid()
    assert 1e6 < result["peak_rss_bytes"] < 1e9


def test_a_measurement_that_fails_says_why(measured: ModuleType) -> None:
    with pytest.raises(measured.Failure, match=r"(?s)measured\.fail failed with exit code 1.*no good"):
        measured.run("measured", "fail", {})


def test_the_sides_take_turns(load: Load) -> None:
    order: list[str] = []

    def side(name: str) -> Callable[[], dict[str, int]]:
        return lambda: order.append(name) or {"rate": len(order)}  # type: ignore[func-returns-value]

    found = load("harness").take_turns({"a": side("a"), "b": side("b")}, 3, lambda name, result: None)
    assert order == list("ababab")
    assert load("harness").middle(found["b"], "rate") == 4
    assert load("harness").summary(found["a"], "rate") == {
        "median": 3,
        "least": 1,
        "greatest": 5,
        "rounds": 3,
    }


@pytest.mark.parametrize(("value", "met"), [(2.0, True), (1.9, False), (None, False)])
def test_a_goal_is_met_from_its_bound_on(load: Load, value: float | None, met: bool) -> None:
    assert load("harness").goal("what", value, least=2.0)["met"] is met


def test_without_text_a_benchmark_says_which_option_names_it(load: Load, tmp_path: Path) -> None:
    with pytest.raises(load("harness").Failure, match="--text"):
        load("harness").texts([tmp_path / "absent.txt"])


# --- conclusions --------------------------------------------------------------------------------------------------


def curve(*rows: tuple[float, float]) -> dict[str, Any]:
    """A run of ours by its (seconds, loss) rows."""
    points = [{"seconds": seconds, "loss": loss, "accuracy": 0.1} for seconds, loss in rows]
    return {"curve": points, "seconds": rows[-1][0]}


def test_quality_is_compared_by_time_and_by_loss(load: Load) -> None:
    rows = [(60.0, 8.0), (300.0, 7.4), (600.0, 7.3)]
    models = [
        {"minutes": seconds / 60, "seconds": seconds, "loss": loss, "accuracy": 0.05}
        for seconds, loss in rows
    ]
    ours = [curve((10.0, 7.9), (30.0, 7.35)), curve((60.0, 7.5), (300.0, 6.0), (600.0, 5.0))]
    first, second, third = load("time_to_quality").compare({"curve": models}, ours)
    assert first["ours_reached_after_seconds"] == 10.0
    assert second["ours_reached_after_seconds"] == 30.0
    assert second["share_of_time"] == pytest.approx(0.1)
    assert third["ours_reached_after_seconds"] == 300.0
    # At equal time the best of our rows so far counts, of whichever run.
    assert first["ours_loss"] == 7.35
    assert second["nats_lower"] == pytest.approx(1.4)
    assert third["nats_lower"] == pytest.approx(2.3)


def test_a_loss_that_is_never_reached_is_no_figure(load: Load) -> None:
    model = {"minutes": 5.0, "seconds": 300.0, "loss": 3.0, "accuracy": 0.2}
    (row,) = load("time_to_quality").compare({"curve": [model]}, [curve((290.0, 4.0), (310.0, 2.0))])
    assert row["share_of_time"] == pytest.approx(310 / 300)
    assert row["nats_lower"] == pytest.approx(-1.0)
    (row,) = load("time_to_quality").compare({"curve": [model]}, [curve((290.0, 4.0))])
    assert row["share_of_time"] is None


def test_equivalence_is_judged_against_the_plain_curve_in_fp32(load: Load) -> None:
    curves = {
        "fast fp32": {"losses": [2.0, 1.00005]},
        "plain fp32": {"losses": [2.0, 1.0]},
        "fast bf16": {"losses": [2.03, 1.0]},
        "plain bf16": {"losses": [2.0, 1.01]},
    }
    goals, differences = load("equivalence").judge(curves)
    assert differences["fast fp32"]["greatest"] == pytest.approx(5e-5)
    assert [goal["met"] for goal in goals] == [True, False]


def test_sentences_are_cut_out_of_paragraphs(load: Load, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(
        "Title\nOne is here now. Two came later than that! no\n\nThree of them, e.g. this one.\n", "utf-8"
    )
    found = Path(load("throughput").sentences([str(text)])).read_text(encoding="utf-8").splitlines()
    assert found == ["One is here now.", "Two came later than that! no", "Three of them, e.g. this one."]


# --- adaptation ---------------------------------------------------------------------------------------------------


def test_the_goals_of_adaptation(load: Load) -> None:
    def run(before: float, after: float, lost: float) -> dict[str, Any]:
        general = {"loss": 3.0 + lost, "before": {"loss": 3.0}}
        return {"evaluation": {"loss": after, "before": {"loss": before}, "general": general}}

    def bits(before: float, after: float) -> dict[str, Any]:
        return {"heldout": {"bits": {"models": [{"value": before}, {"value": after}]}}}

    def task(figure: str, base: float, adapted: float) -> dict[str, Any]:
        return {
            name: {"figures": {figure: {"mean": value}}}
            for name, value in (("base", base), ("replay", adapted))
        }

    runs = {"plain": run(4.0, 3.0, 0.4), "replay": run(4.0, 3.2, 0.1)}
    probes = {"a": task("macro_f1", 0.5, 0.6), "b": task("f1", 0.5, 0.6), "c": task("f1", 0.5, 0.4)}
    goals = load("adaptation")._goals(runs, {"words at step 0": bits(2.0, 2.2)}, probes)
    assert [goal["measured"] for goal in goals] == pytest.approx([0.8, 0.25, 1.1, 2])
    assert [goal["met"] for goal in goals] == [True, True, False, False]


def test_each_variant_is_compared_with_the_kept_vocabulary(load: Load) -> None:
    """With the passages of its own comparison; one that a tokenizer cannot spell is in no other."""

    def variant(keep: float, own: float, size: int) -> dict[str, Any]:
        pair = {"models": [{"value": keep}, {"value": own}]}
        return {"bytes": size, "bits": [{"domain": {"before": pair, "after": pair}}]}

    variants = {"keep": {"bytes": 200}, "extend": variant(2.0, 1.8, 220), "trim": variant(2.5, 2.6, 100)}
    module = load("vocabulary")
    goals = module._goals("some", variants)
    assert [goal["measured"] for goal in goals] == pytest.approx([0.9, 1.04, 0.5])
    assert [goal["met"] for goal in goals] == [True, False, True]
    assert [module._values(name, variants, "domain", "after") for name in variants] == [[2.0], [1.8], [2.6]]


# --- on a GPU -----------------------------------------------------------------------------------------------------


STEPS = """
import time
def good(sizes):
    yield "first", lambda: {"value": sizes["value"], "shown": "1"}
    yield "second", lambda: 1 / 0
    yield "third", lambda: {"value": 3}
def dies(sizes):
    yield "first", lambda: {"value": 1}
    raise ValueError("no good")
def slow(sizes):
    yield "first", lambda: {"value": 1}
    yield "second", lambda: time.sleep(60)
"""


@pytest.mark.parametrize(
    ("function", "limit", "status", "results"),
    [
        ("good", 60, "failed", {"first": 1, "second": "ZeroDivisionError: division by zero", "third": 3}),
        ("dies", 60, "failed", {"first": 1}),
        ("slow", 2, "over its time", {"first": 1}),
    ],
)
def test_a_part_that_fails_or_takes_too_long_keeps_what_it_has(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    function: str, limit: float, status: str, results: dict[str, Any],
) -> None:  # fmt: skip
    (tmp_path / "parts.py").write_text(STEPS, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    gpu = load("gpu")
    entry: dict[str, Any] = {"results": {}}
    written = [
        len(entry["results"])
        for _ in gpu.run_part(gpu.Part("part", "parts", function, limit), {"value": 1}, entry)
    ]
    assert entry["status"] == status
    assert {name: row.get("value", row.get("error")) for name, row in entry["results"].items()} == results
    assert written[-1] == len(results)
    assert ("no good" in entry.get("error", "")) is (function == "dies")


def test_the_parts_take_less_than_twenty_minutes(load: Load) -> None:
    gpu = load("gpu")
    assert sum(part.limit for part in gpu.PARTS) < 20 * 60
    for part in gpu.PARTS:
        assert hasattr(importlib.import_module(part.module), part.function)


def test_goals_on_a_gpu_are_of_what_was_measured(load: Load) -> None:
    gpu = load("gpu")
    results = {
        "ceiling": {"teraflops": 100.0},
        "ours": {"tokens_per_second": 1000.0, "flops_per_token": 2e10},
        "ours, compiled": {"tokens_per_second": 2000.0},
        "peer padded": {"tokens_per_second": 500.0},
        "peer blocks": {"error": "OutOfMemoryError"},
    }
    found = gpu.goals({"throughput bert 512": {"results": results}, "profile": {"results": {}}})
    assert [goal["measured"] for goal in found] == pytest.approx([0.4, 4.0])
    assert [goal["met"] for goal in found] == [False, True]


@pytest.mark.parametrize("gpu", [None, "some device"])
def test_without_a_gpu_the_benchmark_says_so(
    load: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gpu: str | None
) -> None:
    harness, module = load("harness"), load("gpu")
    about = machine_info()
    about["machine"]["gpu"] = gpu
    run: list[str] = []
    monkeypatch.setattr(harness, "run", lambda *args: about)
    monkeypatch.setattr(module, "run_part", lambda part, sizes, entry: run.append(part.name) or iter(()))
    monkeypatch.setattr(module, "show", lambda document: None)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert harness.main(module.work, module.options()) == (0 if gpu else 1)
    assert len(run) == (len(module.PARTS) if gpu else 0)
    assert ("finds no CUDA device" in capsys.readouterr().err) is (gpu is None)


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_runs_on_a_cpu(load: Load, tmp_path: Path) -> None:
    """In small sizes, from the first part to the last."""
    found = tmp_path / "gpu.json"
    command = [sys.executable, str(FOLDER / "gpu.py"), "--device", "cpu", "--json", str(found)]
    subprocess.run(command, check=True)
    parts = json.loads(found.read_text(encoding="utf-8"))["parts"]
    assert {name.split()[0] for name in parts} == set(load("gpu").GROUPS)
    assert {part["status"] for part in parts.values()} == {"done"}
