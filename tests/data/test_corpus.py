"""Shards: what is written is what was tokenised, nothing changes unseen, and what is held out stays held out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask.config.settings import DataSettings, DocumentSettings
from unmask.data import parts
from unmask.data import preparation as shards
from unmask.data import shards as shard_files
from unmask.data.corpus import Corpus, document_key, is_corpus, manifest_text, open_corpus
from unmask.data.heldout_size import MINIMUM
from unmask.data.preparation import prepare
from unmask.data.reading.documents import DocumentReader
from unmask.data.split import split_documents, split_texts
from unmask.data.tokenizer import TextEncoder, load_tokenizer, tokenizer_hash
from unmask.errors import DataError
from unmask.progress import Progress

LINES = DocumentSettings(documents="line")


@pytest.fixture
def source(tmp_path: Path, corpus_text: list[str]) -> Path:
    """A file with a document on each of 400 lines, an empty line among them."""
    path = tmp_path / "text.txt"
    path.write_text("\n".join([*corpus_text[:200], "", *corpus_text[200:]]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def made(source: Path, wordpiece_tokenizer: Any, tmp_path: Path) -> Callable[..., Corpus]:
    """Return `made()`: the corpus of the file, prepared now or before."""

    def make(
        name: str = "shards", settings: DocumentSettings = LINES, progress: Progress = Progress()
    ) -> Corpus:
        return prepare([source], settings, wordpiece_tokenizer, tmp_path / name, progress=progress)

    return make


def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_files, "_SHARD_TOKENS", 700)
    monkeypatch.setattr(parts, "_BATCH_CHARACTERS", 1500)


# --- what is written ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("several", [False, True])
def test_documents_come_back_as_they_were_tokenised(
    several: bool,
    made: Callable[..., Corpus],
    corpus_text: list[str],
    wordpiece_tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if several:
        small_shards(monkeypatch)
    corpus = made()
    wanted = TextEncoder(wordpiece_tokenizer)(corpus_text)
    assert len(corpus.manifest["shards"]) > 5 if several else len(corpus.manifest["shards"]) == 1
    assert len(corpus) == len(wanted) == 400
    for number, ids in enumerate(wanted):
        assert corpus.document(number).tolist() == ids.tolist()
    assert corpus.tokens == sum(map(len, wanted))
    assert corpus.keys.tolist() == [document_key(text) for text in corpus_text]


def test_stretches_of_documents_are_gathered_from_all_shards(
    made: Callable[..., Corpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch)
    corpus = made()
    draw = np.random.default_rng(0)
    documents = draw.integers(0, len(corpus), 60)
    starts = (draw.random(60) * corpus.lengths[documents]).astype(np.int64)
    lengths = corpus.lengths[documents] - starts
    wanted = [corpus.document(d)[s:].tolist() for d, s in zip(documents, starts, strict=True)]
    assert corpus.gather(documents, starts, lengths).tolist() == [id for part in wanted for id in part]


def test_the_manifest_accounts_for_everything(
    made: Callable[..., Corpus], source: Path, corpus_text: list[str], wordpiece_tokenizer: Any
) -> None:
    corpus = made()
    manifest = json.loads((corpus.folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest == corpus.manifest
    assert manifest["documents"] == 400
    assert manifest["tokens"] == corpus.tokens == sum(shard["tokens"] for shard in manifest["shards"])
    assert manifest["bytes"] == sum(len(text.encode()) for text in corpus_text)
    assert manifest["read"]["documents"] == 400
    assert manifest["inputs"][0]["input"] == str(source)
    assert manifest["tokenizer_sha256"] == tokenizer_hash(wordpiece_tokenizer)
    assert manifest["settings"]["documents"] == "line"
    assert {path.name for path in corpus.folder.iterdir()} == {
        *(
            "manifest.json",
            "tokenizer",
            "part-00000",
        )
    }


def test_the_tokenizer_lies_beside_the_shards(made: Callable[..., Corpus], wordpiece_tokenizer: Any) -> None:
    saved = load_tokenizer(str(made().folder / "tokenizer"), offline=True)
    assert tokenizer_hash(saved) == tokenizer_hash(wordpiece_tokenizer)


def test_the_same_input_gives_the_same_bytes(made: Callable[..., Corpus]) -> None:
    first, second = made("first"), made("second")
    for path in sorted(first.folder.rglob("*.npy")):
        assert path.read_bytes() == (second.folder / path.relative_to(first.folder)).read_bytes()


def test_a_large_vocabulary_gets_wider_numbers(
    made: Callable[..., Corpus], monkeypatch: pytest.MonkeyPatch, wordpiece_tokenizer: Any
) -> None:
    narrow = made("narrow")
    monkeypatch.setattr(type(wordpiece_tokenizer), "__len__", lambda self: 70_000)
    wide = made("wide")
    kinds = [np.load(c.folder / "part-00000" / "shard-00000.tokens.npy").dtype for c in (narrow, wide)]
    assert kinds == [np.uint16, np.uint32]
    assert narrow.document(7).tolist() == wide.document(7).tolist()
    assert wide.document(7).dtype == np.int64


# --- done before --------------------------------------------------------------------------------------------------


class Notices(Progress):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def log(self, text: str) -> None:
        self.texts.append(text)


def test_shards_of_the_same_input_are_used_again(
    made: Callable[..., Corpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made()
    monkeypatch.setattr(shards, "TextEncoder", None)  # whoever tokenises now fails
    heard = Notices()
    again = made(progress=heard)
    assert again.keys.tolist() == first.keys.tolist()
    assert [
        text for text in heard.texts if text.startswith(f"reusing {first.tokens:,} tokens of 400 documents")
    ]


def test_training_settings_do_not_matter_to_shards(made: Callable[..., Corpus]) -> None:
    made()
    made(settings=DataSettings(documents="line", max_length=64, overlap=9, heldout_share=0.5))


def test_shards_of_another_input_are_refused(
    made: Callable[..., Corpus], source: Path, byte_level_tokenizer: Any, tmp_path: Path
) -> None:
    made()
    with pytest.raises(
        DataError, match=r"made from other settings; choose another folder, or delete this one"
    ):
        made(settings=DocumentSettings(documents="file"))
    with pytest.raises(DataError, match="made from other tokenizer; choose"):
        prepare([source], LINES, byte_level_tokenizer, tmp_path / "shards")
    source.write_text("another text\n", encoding="utf-8")
    with pytest.raises(DataError, match="made from other inputs; choose"):
        made()


def test_a_folder_with_other_things_is_left_alone(made: Callable[..., Corpus], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it", encoding="utf-8")
    with pytest.raises(DataError, match="is not empty and holds no shards"):
        made("mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_failure_leaves_nothing_behind(
    made: Callable[..., Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parts, "sha256", fail)
    with pytest.raises(OSError, match="No space left"):
        made()
    assert {path.name for path in tmp_path.iterdir()} == {"text.txt"}


def test_paths_may_be_strings(
    source: Path, tmp_path: Path, wordpiece_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = DocumentSettings(documents="line")
    made = shards.prepare(source.name, settings, wordpiece_tokenizer, "p")
    assert len(open_corpus("p")) == len(made) == 400
    assert len(list(DocumentReader(source.name, settings))) == 400


# --- damage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["tokens", "lengths", "keys"])
def test_one_flipped_byte_is_found(part: str, made: Callable[..., Corpus]) -> None:
    path = made().folder / "part-00000" / f"shard-00000.{part}.npy"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    why = (
        "the lengths of the documents do not add up to"
        if part == "lengths"
        else "the checksum does not match"
    )
    with pytest.raises(DataError, match=rf"shard-00000.{part}.npy: {why}.*: the file is damaged"):
        open_corpus(path.parent.parent)
    with pytest.raises(DataError, match=why):
        made()


def test_a_missing_or_short_file_is_found(made: Callable[..., Corpus], tmp_path: Path) -> None:
    folder = made().folder
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "part-00000" / "shard-00000.keys.npy").unlink()
    with pytest.raises(
        DataError, match=r"shard-00000.keys.npy: the file is missing; prepare the shards again"
    ):
        open_corpus(copy)
    path = folder / "part-00000" / "shard-00000.tokens.npy"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError):
        open_corpus(folder)


def test_shards_of_an_earlier_version_are_read(made: Callable[..., Corpus]) -> None:
    """It called the errors of the text faults."""
    corpus = made()
    manifest = json.loads((corpus.folder / "manifest.json").read_text(encoding="utf-8"))
    wanted = dict(manifest["read"])
    manifest["read"]["faults"] = manifest["read"].pop("errors")
    manifest["read"]["fault_examples"] = manifest["read"].pop("error_examples")
    (corpus.folder / "manifest.json").write_text(manifest_text(manifest), encoding="utf-8")
    assert open_corpus(corpus.folder, strict=True).manifest["read"] == wanted
    assert made().folder == corpus.folder


def test_what_is_no_corpus_is_refused(tmp_path: Path) -> None:
    assert not is_corpus(tmp_path)
    with pytest.raises(DataError, match=r"no manifest.json here; expected a folder made by 'unmask prepare'"):
        open_corpus(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 99}', encoding="utf-8")
    assert is_corpus(tmp_path)
    with pytest.raises(DataError, match="format 99 of the shards is not"):
        open_corpus(tmp_path)


# --- the held-out part --------------------------------------------------------------------------------------------


def held_out(corpus: Corpus, share: float, minimum: int = MINIMUM) -> list[int]:
    """Return the numbers of the held-out documents."""
    found = split_documents(corpus, share, minimum)[1]
    return [] if found is None else found.tolist()


def test_every_document_is_trained_on_or_held_out(made: Callable[..., Corpus]) -> None:
    train, heldout = split_documents(made(), 0.2, MINIMUM)
    assert heldout is not None
    assert sorted([*train.tolist(), *heldout.tolist()]) == list(range(400))
    assert 40 < len(heldout) < 120


def test_of_a_short_text_enough_is_held_out_for_an_interval_and_a_long_one_is_split_by_its_share(
    made: Callable[..., Corpus], wordpiece_tokenizer: Any, tmp_path: Path
) -> None:
    path, counts = tmp_path / "short.txt", {}
    for documents in (1, 2, 30, 53):
        path.write_text("".join(f"paper {number}\n" for number in range(documents)), encoding="utf-8")
        corpus = prepare([path], LINES, wordpiece_tokenizer, tmp_path / str(documents))
        held = held_out(corpus, 0.05)
        counts[documents] = len(held)
        texts = [f"paper {number}" for number in range(documents)]
        assert {text for text, is_held in split_texts(texts, 0.05, MINIMUM) if is_held} == {
            f"paper {number}" for number in held
        }
        # Copies are on one side with their originals, and the order of the text does not matter.
        again = dict(split_texts([*texts, *texts][::-1], 0.05, MINIMUM))
        assert [number for number in range(documents) if again[f"paper {number}"]] == held
    assert counts == {1: 0, 2: 1, 30: 7, 53: 13}
    long = made()
    assert held_out(long, 0.2) == held_out(long, 0.2, 1)


def test_what_is_held_out_does_not_depend_on_the_rest_of_the_corpus(
    made: Callable[..., Corpus], source: Path, wordpiece_tokenizer: Any, tmp_path: Path
) -> None:
    corpus = made()
    held = {int(corpus.keys[n]) for n in held_out(corpus, 0.2)}
    lines = source.read_text(encoding="utf-8").splitlines()
    (tmp_path / "other.txt").write_text("\n".join(["a new first line", *lines[::-2]]), encoding="utf-8")
    other = prepare([tmp_path / "other.txt"], LINES, wordpiece_tokenizer, tmp_path / "other")
    again = {int(other.keys[n]) for n in held_out(other, 0.2)}
    assert again - {document_key("a new first line")} == held & {int(key) for key in other.keys}
    # And a larger share holds out the same documents and more.
    assert held < {int(corpus.keys[n]) for n in held_out(corpus, 0.5)}
