"""A training run whose viewer goes away."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SETTINGS = "--preset bert-tiny --max-steps 2 --batch-tokens 64 --max-length 16 --device cpu --precision fp32"


def test_a_run_outlives_its_viewer(corpus_text: list[str], tmp_path: Path) -> None:
    """As ``unmask train … 2>&1 | head -1`` does."""
    (tmp_path / "text.txt").write_text("\n".join(corpus_text[:60]), encoding="utf-8")
    out = tmp_path / "run"
    run = subprocess.Popen(
        [
            *(sys.executable, "-m", "unmask", "train", str(tmp_path / "text.txt"), "-o", str(out)),
            *(*SETTINGS.split(), "--set", "model.vocab_size=200"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert run.stdout is not None
    assert run.stdout.readline()
    run.stdout.close()
    assert run.wait(timeout=300) == 0
    assert (out / "model" / "model.safetensors").is_file()
    assert (out / "report.html").is_file()
