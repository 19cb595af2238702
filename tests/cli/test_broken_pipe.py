"""A training run whose viewer goes away."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SETTINGS = "--preset bert-tiny --max-steps 12 --batch-tokens 64 --max-length 16 --device cpu --precision fp32"


@pytest.mark.parametrize("piped", ["stdout", "both"])
def test_a_run_outlives_its_viewer(corpus_text: list[str], tmp_path: Path, piped: str) -> None:
    """As ``unmask train … | head -1`` and ``unmask train … 2>&1 | head -1`` do."""
    (tmp_path / "text.txt").write_text("\n".join(corpus_text[:60]), encoding="utf-8")
    out = tmp_path / "run"
    run = subprocess.Popen(
        [
            *(sys.executable, "-m", "unmask", "train", str(tmp_path / "text.txt"), "-o", str(out)),
            *(*SETTINGS.split(), "--set", "model.vocab_size=200"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if piped == "both" else subprocess.PIPE,
    )
    assert run.stdout is not None
    if piped == "both":
        assert run.stdout.readline()
    run.stdout.close()
    errors = run.stderr.read().decode() if run.stderr is not None else ""
    assert run.wait(timeout=120) == 0, errors
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors
    assert (out / "model" / "model.safetensors").is_file()
    assert (out / "report.html").is_file()
