"""Shards: one flipped byte in any file is found when they are opened; a preparation killed anywhere is done again."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unmask.cli.main import main
from unmask.config.settings import DocumentSettings
from unmask.data.corpus import Corpus, open_corpus
from unmask.data.preparation import prepare
from unmask.errors import DataError

FOLDER = Path(__file__).parent


@pytest.fixture
def shards(tmp_path: Path, wordpiece_tokenizer: Any, corpus_text: list[str]) -> Corpus:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(corpus_text), encoding="utf-8")
    return prepare([text], DocumentSettings(documents="line"), wordpiece_tokenizer, tmp_path / "shards")


def test_every_file_is_in_the_manifest(shards: Corpus) -> None:
    files = {
        path.relative_to(shards.folder).as_posix() for path in shards.folder.rglob("*") if path.is_file()
    }
    assert files == {"manifest.json", *shards.manifest["files"]}
    assert "tokenizer/tokenizer.json" in files


def test_one_flipped_byte_anywhere_is_found(shards: Corpus) -> None:
    draw = random.Random(0)
    for path in sorted(path for path in shards.folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        places = {0, len(content) - 1, *(draw.randrange(len(content)) for _ in range(30))}
        for place in places:
            damaged = bytearray(content)
            damaged[place] ^= 1 << draw.randrange(8) if place % 2 else draw.randint(1, 255)
            path.write_bytes(damaged)
            with pytest.raises(DataError):
                open_corpus(shards.folder)
        path.write_bytes(content)
    open_corpus(shards.folder)


def test_every_byte_of_the_manifest_counts(shards: Corpus) -> None:
    path = shards.folder / "manifest.json"
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DataError):
            open_corpus(shards.folder, verify=False)


def test_training_refuses_a_damaged_tokenizer_or_shard(
    shards: Corpus, checkpoint: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Files are compared while the model trains; an id outside the vocabulary fails before, with the same message."""
    part = "part-00000/shard-00000"
    for name, back, bit in (
        ("tokenizer/tokenizer.json", 40, 4),
        (f"{part}.tokens.npy", 40, 1),
        (f"{part}.tokens.npy", 1, 128),  # an id above 32,767
        (f"{part}.lengths.npy", 1, 64),
        (f"{part}.keys.npy", 40, 4),
    ):
        path = shards.folder / name
        content = path.read_bytes()
        at = len(content) - back
        path.write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
        command = ["train", str(shards.folder), "--model", str(checkpoint("bert")), "--max-steps", "2"]
        assert main([*command, "-o", str(tmp_path / "run")]) == 3
        assert re.search(rf"{path}: .*: the file is damaged; prepare it again\n", capsys.readouterr().err)
        assert not (tmp_path / "run").exists()
        path.write_bytes(content)


def test_threads_and_kills_do_not_change_the_shards(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(FOLDER / "preparation.py"),
        str(tmp_path),
        "--kills",
        "6",
        "--lines",
        "8000",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    digests = {*found["threads"].values(), *found["again"]}
    assert len(found["threads"]) == 3
    assert len(found["again"]) == 6
    assert len(digests) == 1
    assert found["killed"] > 0
    assert found["left"] == []
