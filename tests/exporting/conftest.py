"""Exported models, each made once a session: the exporter of PyTorch takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

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
    """Return `make(architecture, format) -> Export`, made once. Never write into its folder."""
    made: dict[tuple[str, str], Export] = {}

    def make(architecture: str, form: str) -> Export:
        if (architecture, form) not in made:
            out = tmp_path_factory.mktemp("exported") / form
            made[architecture, form] = export_model(checkpoint(architecture), out, form, heldout, force=True)
        return made[architecture, form]

    return make
