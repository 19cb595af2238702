"""Exported models, each made once a session: the exporter of PyTorch takes seconds."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock

from unmask.exporting.export import Export, export_model

WORDS = "the patient was given aspirin for pain and fever after a long night in the small hospital by the sea".split()


@pytest.fixture(scope="session")
def heldout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty short documents, a line each."""
    path = tmp_path_factory.mktemp("text") / "heldout.txt"
    lines = [" ".join(WORDS[(i * 7 + j * (i + 3)) % len(WORDS)] for j in range(8 + i % 9)) for i in range(40)]
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def exported(
    checkpoint: Callable[[str], Path], heldout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Export]:
    """Return `make(architecture, format) -> Export`, made once by the first process. Never write into its folder."""
    own = tmp_path_factory.getbasetemp()
    root = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "exported"

    @cache
    def make(architecture: str, form: str) -> Export:
        place = root / architecture
        place.mkdir(parents=True, exist_ok=True)
        kept = place / f"{form}.pickle"
        with FileLock(place / f"{form}.lock"):
            if not kept.is_file():
                made = export_model(checkpoint(architecture), place / form, form, heldout, force=True)
                kept.write_bytes(pickle.dumps(made))
        found: Export = pickle.loads(kept.read_bytes())
        return found

    return make
