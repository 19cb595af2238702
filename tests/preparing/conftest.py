"""Text of seven parts, and preparing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from unmask.config.settings import DocumentSettings
from unmask.data import parts
from unmask.data.corpus import Corpus
from unmask.data.preparation import prepare
from unmask.progress import Progress


class Notices(Progress):
    """Keeps what is logged, and how each phase advanced: shares and metrics."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.phases: list[tuple[str, list[tuple[float | None, dict[str, object]]]]] = []

    def begin(self, phase: str) -> None:
        self.phases.append((phase, []))

    def advance(self, share: float | None, metrics: Mapping[str, object]) -> None:
        self.phases[-1][1].append((share, dict(metrics)))

    def log(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture
def notices() -> Notices:
    return Notices()


@pytest.fixture
def text(tmp_path: Path, corpus_text: list[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Seven files, each a part; one has an error."""
    monkeypatch.setattr(parts, "PART_BYTES", 1)
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(7):
        lines = corpus_text[number * 40 : number * 40 + 40]
        (folder / f"{number}.txt").write_text("\n".join([*lines, f"猫{number} 犬"]) + "\n", encoding="utf-8")
    with (folder / "5.txt").open("ab") as file:
        file.write(b"caf\xe9\n")
    return folder


@pytest.fixture
def prepared(text: Path, wordpiece_tokenizer: Any, tmp_path: Path) -> Callable[..., Corpus]:
    """Return `prepared(name, ...)`, which prepares the text in a folder of that name."""

    def make(name: str, progress: Progress = Progress(), strict: bool = False, **options: Any) -> Corpus:
        settings = DocumentSettings(documents="line", strict=strict)
        return prepare([text], settings, wordpiece_tokenizer, tmp_path / name, progress=progress, **options)

    return make
