"""Exported models, each made once a session, and each model traced once: the exporter of PyTorch takes seconds."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
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
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of the session share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session", autouse=True)
def _each_model_traced_once(shared_folder: Path) -> Iterator[None]:
    """Keep what PyTorch's exporter made of a model, for the other formats and the other processes."""
    root, trace = shared_folder / "traced", torch.onnx.export

    def export(module: Any, inputs: Any, **options: Any) -> Any:
        key = hashlib.sha256(repr((module.model.config, options)).encode())
        for name, value in module.model.state_dict().items():
            key.update(name.encode() + value.contiguous().numpy().tobytes())
        root.mkdir(exist_ok=True)
        kept = root / f"{key.hexdigest()}.onnx"
        with FileLock(kept.with_suffix(".lock")):
            if not kept.is_file():
                kept.write_bytes(trace(module, inputs, **options).model_proto.SerializeToString())
        return SimpleNamespace(model_proto=onnx.load_from_string(kept.read_bytes()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", export)
        yield


@pytest.fixture(scope="session")
def exported(
    checkpoint: Callable[[str], Path], heldout: Path, shared_folder: Path
) -> Callable[[str, str], Export]:
    """Return `make(architecture, format) -> Export`, made once by the first process. Never write into its folder."""
    root = shared_folder / "exported"

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
