"""Runs of several processes: the same model for any number of them, and what happens when one is lost."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

SCENARIOS = Path(__file__).parent / "processes.py"
SAME = 1e-6
"""The largest difference of weights, relative to the largest weight."""

Scenario = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def launcher() -> Iterator[subprocess.Popen[str]]:
    """A process that has imported torch and can fork."""
    with subprocess.Popen(
        [sys.executable, str(SCENARIOS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        yield process
        process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.fixture
def scenario(launcher: subprocess.Popen[str], tmp_path: Path) -> Scenario:
    """Run a scenario of `processes.py` in a process forked from the launcher, and return what it found."""

    def run(name: str, **named: Any) -> dict[str, Any]:
        assert launcher.stdin
        assert launcher.stdout
        limit = Timer(900, launcher.kill)
        limit.start()
        launcher.stdin.write(json.dumps([name, named, str(tmp_path)]) + "\n")
        launcher.stdin.flush()
        code = launcher.stdout.readline().strip()
        limit.cancel()
        error = tmp_path / "error.txt"
        assert code == "0", error.read_text(encoding="utf-8") if error.is_file() else code
        found: dict[str, Any] = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
        return found

    return run


def require_same(found: dict[str, dict[str, float]]) -> None:
    for name, gaps in found.items():
        assert gaps["weights"] < SAME, name
        assert max(gaps["loss"], gaps["eval_loss"]) < SAME * 10, name
        assert gaps["accuracy"] == gaps["eval_accuracy"] == 0, name  # the same masks, the same answers


def test_any_number_of_processes_trains_the_same_model(scenario: Scenario) -> None:
    """By DDP and FSDP, packed and padded; and each is resumed as another one."""
    found = scenario("matrix")
    assert len(found) == 2 * (2 + 3)
    require_same(found)


def test_shares_in_the_memory_of_the_host_and_adapters(scenario: Scenario) -> None:
    """FSDP with `--offload`, with LoRA, and with the head of an objective, resumed by other numbers of processes and resuming them."""
    require_same(scenario("fsdp"))


def test_an_evaluation_is_shared_out(scenario: Scenario) -> None:
    """Each process computes some of the batches; every figure is that of one process to the last bit."""
    found = scenario("evaluated")
    half = found.pop("padded-2-fsdp-bf16")
    for layout in ("packed", "padded"):
        runs = [run for name, run in found.items() if name.startswith(layout)]
        alone = runs[0]
        assert alone["rows"][0]["eval_loss"] > 0
        assert alone["files"]["evaluation.json"]["by_replacement"]["rows"]
        for run in runs:
            for row in run["rows"]:
                del row["seconds"]
            assert run["files"].get("adaptation.json", {}).pop("hashes", None) != {}
            assert run["returned"] == [run["files"]["evaluation.json"]] * len(run["batches"])
            assert run["files"] == alone["files"]
            for row, other in zip(run["rows"], alone["rows"], strict=True):  # FSDP pads in another way
                assert row == (pytest.approx(other, rel=1e-6) if layout == "padded" else other)
            # Each of some thirty evaluations may have one batch more in one process than in all others.
            processes = len(run["batches"])
            assert max(run["batches"]) <= sum(alone["batches"]) / processes + 30 * (1 - 1 / processes)
    # A run in bf16 is evaluated in fp32 before and after training.
    assert half["rows"][0]["eval_loss"] != alone["rows"][0]["eval_loss"]
    for key in ("loss", "before", "general", "by_replacement"):
        assert half["files"]["evaluation.json"][key] == alone["files"]["evaluation.json"][key]


@pytest.mark.slow
def test_every_combination_trains_the_same_model(scenario: Scenario) -> None:
    found = scenario("matrix", sizes=[1, 2, 4], whole=True)
    assert len(found) == 4 * (4 + 5)
    require_same(found)


def test_a_killed_process_costs_no_step(scenario: Scenario) -> None:
    """The other one names it, saves the last step, and says so to a scheduler."""
    found = scenario("lost")
    assert found["codes"] == [75]
    assert found["exit_code"] == "75"
    assert found["checkpoints"] == ["step-00000003"]
    assert "process 1 on " in found["said"][0]
    assert "saved step 3; continue with --resume" in found["said"][0]
    require_same({"resumed": found["difference"]})


def test_where_the_main_process_is_killed_another_one_saves(scenario: Scenario) -> None:
    found = scenario("lost", rank=0)
    assert (found["codes"], found["exit_code"]) == ([75], "75")
    assert found["checkpoints"] == ["step-00000003"]
    assert "process 0 on " in found["said"][1]
    require_same({"resumed": found["difference"]})


def test_a_process_that_hangs_is_named(scenario: Scenario) -> None:
    """It is stopped, and would be waited for for ever; the run's own limit here is six seconds."""
    found = scenario("lost", how="stop")
    assert found["codes"] == [75]
    assert found["seconds"] < 60
    assert "process 1 on " in found["said"][0]
    assert re.search(r"process 1 on \S+ ended or hangs: no sign of life for \d+ seconds; ", found["said"][0])
    assert found["checkpoints"] == ["step-00000003"]
    require_same({"resumed": found["difference"]})


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1, 2, 3] * 5)
def test_twenty_kills(scenario: Scenario, rank: int) -> None:
    found = scenario("lost", size=4, rank=rank)
    assert found["codes"] == [75, 75, 75]
    assert found["checkpoints"] == ["step-00000003"]
    require_same({"resumed": found["difference"]})


@pytest.mark.slow
def test_two_launchers_train_as_one_process_does(scenario: Scenario) -> None:
    """FSDP over two hosts: a share in each process of a host, and the same on every host."""
    found = scenario("launchers")
    assert "4 processes: fsdp (each has a share of the model, each host all of it: " in found["said"]
    require_same({"two hosts": found["difference"]})


def test_folders_that_are_not_shared(scenario: Scenario) -> None:
    """The other host prepares its own text; the checkpoint is that of the main process alone, the newest that is whole."""
    found = scenario("apart")
    assert found["codes"] == [75, 75, 0, 0]
    assert found["held"] == ["shards", "tokenizer"]
    assert "does not see" in found["said"][0]
    again = found["said"][2]
    assert "skipped a damaged checkpoint" in again
    assert "resuming from step 2" in again
    require_same({"resumed": found["difference"]})


@pytest.mark.parametrize(("size", "shares"), [(2, 2), pytest.param(4, 2, marks=pytest.mark.slow)])
def test_shares_of_a_model_on_hosts_without_a_common_folder(
    scenario: Scenario, size: int, shares: int
) -> None:
    """Each sends its share of a checkpoint to the main process, unless a process of that host has the same."""
    found = scenario("apart", kind="fsdp", size=size)
    assert found["codes"] == [75] * size + [0] * size
    assert found["held"] == ["shards", "tokenizer"]
    assert found["files"] == [f"shard-0000{n + 1}-model-00001-of-00002.safetensors" for n in range(shares)]
    again = found["said"][size]
    assert "skipped a damaged checkpoint" in again
    assert "resuming from step 2" in again
    require_same({"resumed": found["difference"]})


def test_what_differs_is_named_by_all(scenario: Scenario) -> None:
    found = scenario("different")
    settings, texts, full = found["settings"], found["texts"], found["full"]
    assert settings["codes"] == texts["codes"] == full["codes"] == [2, 2]
    assert all("differ in train.seed (1 and 0), but" in text for text in settings["said"])
    assert all("differ in text, tokenizer, weights, but" in text for text in texts["said"])
    assert all("already holds files" in text for text in full["said"])
    assert found["offload"]["codes"] == [2, 2]
    assert all("with --parallel ddp there are none" in text for text in found["offload"]["said"])
    assert found["few"]["codes"] == [0, 0]
    for name in ("damaged", "damaged, new model"):
        assert found[name]["codes"] == [3, 3]
        file = "shards/part-00000/shard-00000.tokens.npy: the checksum does not match"
        assert file in found[name]["said"][1]
        assert re.search(rf"process 1 on \S+: {file}", found[name]["said"][0])
    # Nothing is left of what could not begin, and what was there stays.
    assert found["left"] == ["few", "host-0", "host-1", "taken"]


def test_a_fault_in_one_process_ends_all_alike(scenario: Scenario) -> None:
    found = scenario("broken_steps")
    nan, memory, later = found["nan"], found["memory"], found["later"]
    assert nan["codes"] == [4, 4]
    assert "5 steps in a row were not applied" in nan["said"][1]
    # What is found before the first step costs nothing.
    assert memory["codes"] == [0, 0]
    assert "computing 200 tokens at once" in memory["said"][0]
    assert later["codes"] == [2, 2]
    assert "out of memory" in later["said"][0]
    assert later["checkpoints"] == ["step-00000003"]
    disk = found["disk"]
    assert disk["codes"] == [5, 5]
    assert all(text.count("No space left on device; free space or choose") == 1 for text in disk["said"])
    evaluation, no_number = found["evaluation"], found["no number"]
    assert evaluation["codes"] == [2, 2]
    assert "out of memory in an evaluation" in evaluation["said"][0]
    assert evaluation["checkpoints"] == ["step-00000003"]
    assert no_number["codes"] == [4, 4]
    assert "the held-out loss is nan" in no_number["said"][0]


def test_a_signal_to_one_stops_all_at_one_step(scenario: Scenario) -> None:
    found = scenario("signalled")
    assert found["codes"] == [75, 75]
    assert found["exit_code"] == "75"
    assert found["checkpoints"] == ["step-00000003"]
