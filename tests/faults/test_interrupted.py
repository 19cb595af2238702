"""Runs that are killed, stopped, damaged: the short form of `python tests/faults/run.py FOLDER`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("run.py")
Found = dict[str, Any]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    counts = {"--kills": 3, "--flips": 10, "--errors": 20, "--signals": 1}
    command = [sys.executable, str(SCRIPT), str(tmp_path_factory.mktemp("errors") / "runs")]
    command += [str(word) for pair in counts.items() for word in pair]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300, env=os.environ)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_a_killed_run_comes_to_the_end_of_the_undisturbed_one(found: Found) -> None:
    assert found["kill"]["kills"] >= 3
    assert found["kill"]["differing"] == []
    # While one checkpoint is written, the steps to the next may be computed, and not one more.
    assert found["kill"]["steps lost at most"] <= 2 * found["kill"]["save every"]


def test_a_run_goes_on_with_other_micro_batches_and_with_two_processes(found: Found) -> None:
    assert len(found["other shapes"]) == 2
    assert max(found["other shapes"].values()) <= 1e-5


def test_a_position_that_is_lost_does_not_pass(found: Found) -> None:
    """The comparison above must be able to fail."""
    assert {"metrics.jsonl", "model/model.safetensors"} <= {*found["position dropped"]}


def test_a_flipped_bit_is_found_and_the_checkpoint_before_it_is_used(found: Found) -> None:
    flip = found["flip"]
    assert (flip["found"], flip["previous used"], flip["differing"]) == (10, 10, [])


def test_a_write_that_fails_leaves_a_checkpoint_that_loads(found: Found) -> None:
    write = found["write"]
    assert write["loadable"] == write["errors"] == 20
    assert write["raised"] >= 10


def test_a_signal_stops_a_run_that_can_be_resumed(found: Found) -> None:
    assert found["signals"] == {"signals": 5, "exit 75": 5, "differing": []}


def test_nothing_else_is_wrong(found: Found) -> None:
    assert found["wrong"] == []
