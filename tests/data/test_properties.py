"""Properties that hold for anything: no bytes end in a traceback, packing loses nothing, words survive the tokenizer."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies
from tests.conftest import Messages

from unmask.config.settings import DocumentSettings
from unmask.data.packing import Sequences, SequenceSplit, next_batch
from unmask.data.reading.documents import DocumentReader
from unmask.data.reading.records import RecordReader
from unmask.data.tokenizer import TextEncoder
from unmask.errors import DataError, UnmaskError

SUFFIXES = [".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt.gz", ".jsonl.zst"]
QUICK = settings(max_examples=150, deadline=None)
# Bytes by chance are hardly ever near a format; pieces of formats are.
PIECES = [
    b'{"text": "', b'"}', b"[", b"]", b",", b"\n", b"\r\n", b"\r", b'"', b"text,id\n", b"text\tid\n", b"\t", b"\\ud83d",
    b"\\u0000", b"\0", b"\x1b", b"\xff\xfe", b"\xef\xbb\xbf", b"\xf6", b"\xe2\x82", b"K\xc3\xb6ln", b" ", b"1e999", b"null",
    b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd", b"PAR1", b"word " * 9,
]  # fmt: skip
CONTENT = strategies.one_of(
    strategies.binary(max_size=200),
    strategies.lists(strategies.sampled_from(PIECES), max_size=30).map(b"".join),
)
DOCUMENTS = strategies.sampled_from(["auto", "file", "block", "line"])


@QUICK
@given(
    content=CONTENT,
    suffix=strategies.sampled_from(SUFFIXES),
    documents=DOCUMENTS,
    strict=strategies.booleans(),
)
def test_any_bytes_are_read_or_refused(content: bytes, suffix: str, documents: Any, strict: bool) -> None:
    messages: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a" + suffix)
        path.write_bytes(content)
        reader = DocumentReader(
            [path], DocumentSettings(documents=documents, strict=strict), progress=Messages(messages)
        )
        found, message = [], "none"
        try:
            found += list(reader)
        except DataError as error:
            message = str(error)
    assert message
    assert "\n" not in message
    for document in found:
        assert document.text.strip()
        assert "\0" not in document.text
        document.text.encode("utf-8")
    assert json.dumps(vars(reader.stats))
    assert not strict or not reader.stats.errors
    # Where nothing could be read, the error that ends the work says it alone.
    logged = any(notice.startswith(("skipped: ", "note: ")) for notice in messages)
    assert bool(reader.stats.errors) == logged or (not found and message != "none")


@QUICK
@given(content=CONTENT, kind=strategies.sampled_from(["text", "jsonl", "csv", "tsv"]))
def test_any_bytes_are_records_or_errors(content: bytes, kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.txt")
        path.write_bytes(content)
        message = ""
        try:
            list(RecordReader(path, kind))
        except UnmaskError as error:
            message = str(error)
    assert "\n" not in message


@QUICK
@given(texts=strategies.lists(strategies.text(strategies.characters(codec="utf-8"), max_size=50), max_size=8))
def test_proper_records_come_through_unchanged(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.jsonl")
        path.write_text(
            "".join(json.dumps({"text": text}) + "\n" for text in [*texts, "end"]), encoding="utf-8"
        )
        found = [document.text for document in DocumentReader([path])]
    ends = [text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "") for text in [*texts, "end"]]
    assert [text.split() for text in found] == [text.split() for text in ends if text.strip()]


@QUICK
@given(
    lengths=strategies.lists(strategies.integers(0, 60), max_size=12),
    body=strategies.integers(1, 20),
    overlap=strategies.integers(0, 19),
)
def test_packing_drops_no_token_and_keeps_documents_apart(
    lengths: list[int], body: int, overlap: int
) -> None:
    overlap = min(overlap, body - 1)
    sequences = Sequences(np.array(lengths, dtype=np.int64), SequenceSplit(body, overlap))
    seen: list[list[int]] = [[] for _ in lengths]
    documents, starts, sizes = sequences.locate(np.arange(len(sequences)))
    for document, start, size in zip(documents.tolist(), starts.tolist(), sizes.tolist(), strict=True):
        assert 0 < size <= body
        new = range(start, start + size)
        repeated = len(set(new) & set(seen[document]))
        assert repeated == (overlap if start else 0)
        seen[document] += new
    for length, positions in zip(lengths, seen, strict=True):
        assert sorted(set(positions)) == list(range(length))


@QUICK
@given(
    sizes=strategies.lists(strategies.integers(1, 30), min_size=1, max_size=30),
    budget=strategies.integers(1, 60),
)
def test_batches_take_every_sequence_once_and_keep_to_the_budget(sizes: list[int], budget: int) -> None:
    before, begin, taken = np.concatenate([[0], np.cumsum(sizes)]), 0, []
    while begin < len(sizes):
        end = next_batch(before, begin, budget)
        assert sum(sizes[begin:end]) <= budget or end == begin + 1
        taken += range(begin, end)
        begin = end
    assert taken == list(range(len(sizes)))


SAME_TOKENIZER = settings(QUICK, suppress_health_check=[HealthCheck.function_scoped_fixture])
WORD = strategies.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12)
ANY_TEXT = strategies.text(strategies.characters(codec="utf-8"), max_size=60)


@SAME_TOKENIZER
@given(words=strategies.lists(WORD, min_size=1, max_size=12))
def test_words_survive_the_tokenizer(words: list[str], wordpiece_tokenizer: Any) -> None:
    (ids,) = TextEncoder(wordpiece_tokenizer)([" ".join(words)])
    if wordpiece_tokenizer.unk_token_id not in ids:
        assert wordpiece_tokenizer.decode(ids.tolist()).split() == words


@SAME_TOKENIZER
@given(text=ANY_TEXT)
def test_any_text_survives_a_tokenizer_of_bytes(text: str, byte_level_tokenizer: Any) -> None:
    (ids,) = TextEncoder(byte_level_tokenizer)([text])
    decoded = byte_level_tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False)
    assert decoded.removeprefix(" ") == text.removeprefix(" ")


@pytest.mark.parametrize("name", ["wordpiece_tokenizer", "byte_level_tokenizer", "unigram_tokenizer"])
def test_no_text_makes_a_control_token(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    encode = TextEncoder(tokenizer)
    control = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    pieces = [*tokenizer.all_special_tokens, "word", " ", "\n"]

    @QUICK
    @given(
        strategies.lists(strategies.one_of(strategies.sampled_from(pieces), ANY_TEXT), max_size=8).map(
            "".join
        )
    )
    def check(text: str) -> None:
        (ids,) = encode([text])
        assert not control & set(ids.tolist())

    check()
