"""What large corpora do otherwise gives the same: sums of every 16th document, parts at a time, few open files."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unmask.data.document_set as sets
import unmask.data.order as orders
import unmask.data.shards as shard_files
from unmask.config.settings import DocumentSettings, MaskingSettings
from unmask.data.batches import Batch, TextSource
from unmask.data.corpus import Corpus, document_key, open_corpus
from unmask.data.document_set import DocumentSet, RunningSums
from unmask.data.heldout_size import MINIMUM
from unmask.data.masking.random_bits import MaskKey, shuffled
from unmask.data.packing import Sequences, SequenceSplit
from unmask.data.preparation import prepare
from unmask.data.shards import ShardWriter
from unmask.data.split import split_documents
from unmask.data.tokenizer import Vocabulary, vocabulary_of
from unmask.data.training_stream import Cursor, TrainingStream
from unmask.errors import DataError
from unmask.training.position import Position

Source = Callable[..., TextSource]


def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat corpora of the tests as large ones."""
    for module, name, value in (
        (sets, "_DENSE", 0),
        (sets, "_AT_ONCE", 96),
        (sets, "_ROWS_AT_ONCE", 60),
        (orders, "_SORTED", 0),
        (orders, "_AT_ONCE", 200),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.fixture(scope="module")
def vocabulary(wordpiece_tokenizer: Any) -> Vocabulary:
    return vocabulary_of(wordpiece_tokenizer)


@pytest.fixture(scope="module")
def folder(wordpiece_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some hundred documents of 0 to 90 words in 130 shards."""
    root = tmp_path_factory.mktemp("large")
    words = "the old lighthouse keeper repaired three small boats before winter came".split()
    lines = [" ".join(words[(n + k) % len(words)] for k in range(1 + n * n % 89)) for n in range(400)]
    (root / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_files, "_SHARD_TOKENS", 200)
        patch.setattr("unmask.data.parts._BATCH_CHARACTERS", 3000)
        prepare([root / "text.txt"], DocumentSettings(documents="line"), wordpiece_tokenizer, root / "shards")
    return root / "shards"


@pytest.fixture
def of(folder: Path, vocabulary: Vocabulary) -> Source:
    """Return `of(part, max_length, overlap)`: a part of the corpus, opened anew."""

    def make(part: str = "all", max_length: int = 32, overlap: int = 0) -> TextSource:
        corpus = open_corpus(folder, verify=False)
        train, heldout = split_documents(corpus, 0.2, MINIMUM)
        documents = {"all": None, "train": train, "heldout": heldout}[part]
        return TextSource(corpus, documents, vocabulary, MaskingSettings(), max_length, overlap)

    return make


def digest(batches: list[Batch]) -> str:
    arrays = [array for batch in batches for array in vars(batch).values() if isinstance(array, np.ndarray)]
    parts = [array.tobytes() for array in arrays]
    return hashlib.sha256(b"".join(parts)).hexdigest()


# --- sets of documents and sums -----------------------------------------------------------------------------------

CHOSEN = st.integers(0, 1200).flatmap(
    lambda size: st.tuples(st.just(size), st.floats(0, 1), st.integers(0, 99))
)


@settings(deadline=None)
@given(CHOSEN)
def test_a_set_is_the_array_of_its_numbers(given_: tuple[int, float, int]) -> None:
    size, share, seed = given_
    has = np.random.default_rng(seed).random(size) < share
    numbers = np.flatnonzero(has)
    found = DocumentSet.of(numbers, size)
    assert len(found) == len(numbers)
    assert np.array_equal(np.asarray(found), numbers)
    assert found.tolist() == (~~found).tolist() == numbers.tolist()
    assert (~found).tolist() == np.flatnonzero(~has).tolist()
    assert np.array_equal(found.has(np.arange(size)), has)
    assert np.array_equal(found.has(slice(size // 3, size)), has[size // 3 :])
    places = np.arange(len(numbers))[::-1]
    assert np.array_equal(found[places], numbers[places])
    assert np.array_equal(found.places(numbers), np.arange(len(numbers)))
    assert np.array_equal(found[places % 3 == 0], numbers[places % 3 == 0])
    assert DocumentSet.of(found, size) is found


@pytest.mark.parametrize("numbers", [[2, 1], [1, 1], [-1, 2], [3, 5]])
def test_numbers_out_of_order_or_beyond_the_corpus_are_refused(numbers: list[int]) -> None:
    with pytest.raises(ValueError, match="expected ascending numbers of documents below 5"):
        DocumentSet.of(numbers, 5)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=150).filter(any),
    st.sampled_from([0, 1000]),
    st.sampled_from([16, 32]),
)
def test_sums_are_found_whether_all_are_kept_or_some(values: list[int], dense: int, at_once: int) -> None:
    array = np.array(values, dtype=np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sets, "_DENSE", dense)
        patch.setattr(sets, "_AT_ONCE", at_once)
        patch.setattr(sets, "_ROWS_AT_ONCE", 7)
        sums = RunningSums(len(array), lambda at: array[at])
        before = np.cumsum(array) - array
        assert sums.total == array.sum()
        assert np.array_equal(sums.before(np.arange(len(array))), before)
        document, found = sums.find(np.arange(array.sum()))
        assert np.array_equal(document, np.repeat(np.arange(len(array)), array))
        assert np.array_equal(found, before[document])


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=80),
    st.integers(1, 15).flatmap(
        lambda body: st.builds(SequenceSplit, st.just(body), st.integers(0, body - 1))
    ),
    st.integers(0, 99),
)
def test_sequences_of_a_part_are_numbered_like_those_of_its_documents_alone(
    lengths: list[int], split: SequenceSplit, seed: int
) -> None:
    array = np.array(lengths, dtype=np.int64)
    chosen = np.flatnonzero(np.random.default_rng(seed).random(len(array)) < 0.6)
    alone = Sequences(array[chosen], split)
    with pytest.MonkeyPatch.context() as patch:
        large(patch)
        part = Sequences(array, split, DocumentSet.of(chosen, len(array)))
        assert len(part) == len(alone)
        numbers = np.arange(len(alone))
        for found, wanted in zip(part.locate(numbers), alone.locate(numbers), strict=True):
            assert np.array_equal(found, wanted)
        assert np.array_equal(part.find(numbers)[0], chosen[alone.locate(numbers)[0]])
        assert part.text_tokens == array[chosen].sum()
        assert part.tokens == alone.locate(numbers)[2].sum()


# --- a large corpus -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("part", "overlap"), [("all", 0), ("train", 7), ("heldout", 0)])
def test_a_text_is_the_same(part: str, overlap: int, of: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    def about() -> list[Any]:
        source = of(part, 32, overlap)
        numbers = np.arange(len(source.sequences))[::-3]
        return [
            len(source.documents),
            np.asarray(source.documents).tolist(),
            source.tokens,
            source.sequences.text_tokens,
            source.token_counts().tolist(),
            source.token_counts(most=500).tolist(),
            [array.tolist() for array in source.sequences.locate(numbers)],
            digest([source.batch(numbers, MaskKey(0, 0), 0.3)]),
            digest(list(source.evaluation_batches(300))),
            digest(list(source.evaluation_batches(300, 700))),
            source.corpus.document(399).tolist(),
        ]

    small = about()
    large(monkeypatch)
    assert about() == small


def test_text_is_split_alike(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def splits() -> list[Any]:
        corpus = open_corpus(folder, verify=False)
        return [
            [part.tolist() for part in split_documents(corpus, *how) if part is not None]
            for how in ((0.2, 1), (0.5, MINIMUM), (0.0, 1), (0.0, 40))
        ]

    small = splits()
    large(monkeypatch)
    assert splits() == small


@pytest.mark.parametrize("batch_tokens", [1, 90, 1000, 10**6])
def test_every_sequence_is_visited_once_an_epoch(
    batch_tokens: int, of: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    large(monkeypatch)
    stream = TrainingStream(of("heldout"), batch_tokens, seed=3)
    cursor, epochs = Cursor(), []
    for epoch in (0, 1):
        taken = []
        while cursor.epoch == epoch:
            numbers, cursor = stream.take(cursor)
            taken.append(numbers)
            assert len(numbers) == 1 or stream.sizes(numbers).sum() <= batch_tokens
        epochs.append(np.concatenate(taken).tolist())
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(len(stream.source.sequences)))
    assert epochs[0] != epochs[1] or batch_tokens == 10**6
    assert cursor.tokens == 2 * stream.source.tokens


def test_replay_has_its_share_whether_a_cursor_knows_its_tokens_or_not(
    of: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    large(monkeypatch)
    stream = TrainingStream(of("heldout"), 300, seed=0, replay=of("train"), replay_share=0.25)
    cursor, taken, of_replay = Cursor(), 0, 0
    while cursor.epoch < 3:
        numbers, following = stream.take(cursor)
        if cursor.used % 5 == 0:
            again, next_of_bare = stream.take(replace(cursor, tokens=None, replay_tokens=None))
            assert np.array_equal(again, numbers)
            assert vars(next_of_bare) == vars(following)
        sizes = stream.sizes(numbers)
        taken += int(sizes.sum())
        of_replay += int(sizes[numbers >= len(stream.source.sequences)].sum())
        cursor = following
    assert of_replay / taken == pytest.approx(0.25, abs=0.01)
    assert (cursor.tokens, cursor.replay_tokens) == (taken - of_replay, of_replay)


def test_a_run_of_an_earlier_version_goes_on_in_its_order(
    of: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    large(monkeypatch)
    stream = TrainingStream(of(), 400, seed=5)
    old = {"epoch": 1, "used": 40, "replay_epoch": 0, "replay_used": 0}
    position = Position.from_dict(Position(9).to_dict() | {"cursor": old})
    order = shuffled(len(stream.source.sequences), MaskKey(5, 1))
    cursor, used = position.cursor, 40
    for _ in range(5):
        numbers, cursor = stream.take(cursor)
        assert sorted(numbers.tolist()) == sorted(order[used : used + len(numbers)].tolist())
        used += len(numbers)
        cursor = Position.from_dict(Position(9, cursor).to_dict()).cursor
    new = Position.from_dict(Position(9, Cursor(1, 40)).to_dict()).cursor
    assert stream.take(new)[0].tolist() != stream.take(position.cursor)[0].tolist()


# --- files --------------------------------------------------------------------------------------------------------

_FEW = """
import hashlib, os, resource, sys
from concurrent.futures import ThreadPoolExecutor
resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))
import numpy as np
from unmask.data.corpus import open_corpus
corpus = open_corpus(sys.argv[1])
assert len(corpus.manifest["shards"]) >= 120
def tokens(seed):
    documents = np.random.default_rng(seed).permutation(len(corpus))
    lengths = corpus.lengths[documents]
    found = corpus.gather(documents, np.zeros_like(lengths), lengths)
    return hashlib.sha256(found.tobytes()).hexdigest()
with ThreadPoolExecutor(3) as pool:
    print(*pool.map(tokens, range(12)))
if os.path.isdir("/proc/self/fd"):
    assert len(os.listdir("/proc/self/fd")) < 40
"""


def test_more_shards_than_files_may_be_open(folder: Path) -> None:
    pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-c", _FEW, str(folder)], capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    corpus = open_corpus(folder)
    wanted = []
    for seed in range(12):
        documents = np.random.default_rng(seed).permutation(len(corpus))
        ids = np.concatenate([corpus.document(number) for number in documents.tolist()])
        wanted.append(hashlib.sha256(ids.tobytes()).hexdigest())
    assert done.stdout.split() == wanted


def test_files_are_closed_and_opened_again_while_threads_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_files, "_most_open", lambda: 8)
    corpus = open_corpus(folder)
    whole = np.concatenate([corpus.document(number) for number in range(len(corpus))])

    def read(_: int) -> bool:
        lengths = corpus.lengths[:]
        return np.array_equal(corpus.gather(np.arange(len(corpus)), np.zeros_like(lengths), lengths), whole)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(40)))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=25), st.integers(1, 30))
def test_shards_end_where_they_are_full_and_are_npy_files(batches: list[list[int]], most: int) -> None:
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_files, "_SHARD_TOKENS", most)
        writer = ShardWriter(Path(root), np.dtype(np.uint16))
        documents = [np.arange(length) + 7 for batch in batches for length in batch]
        at = 0
        for batch in batches:
            part = documents[at : at + len(batch)]
            writer.add(["ä"] * len(part), part, [document_key(str(at + n)) for n in range(len(part))])
            at += len(part)
        writer.close()
        lengths: list[int] = []
        for shard in writer.shards:
            saved = {
                part: np.load(Path(root, f"{shard['name']}.{part}.npy"), allow_pickle=False)
                for part in ("tokens", "lengths", "keys")
            }
            before = saved["lengths"][:-1].sum()
            assert before < most
            assert saved["lengths"].sum() >= most or shard is writer.shards[-1]
            wanted = documents[len(lengths) : len(lengths) + len(saved["lengths"])]
            assert saved["tokens"].tolist() == [int(id) for ids in wanted for id in ids]
            lengths += saved["lengths"].tolist()
            for part, array in saved.items():
                path = Path(root, "again.npy")
                np.save(path, array)
                assert path.read_bytes() == Path(root, f"{shard['name']}.{part}.npy").read_bytes()
        assert lengths == [len(ids) for ids in documents]
        assert (writer.documents, writer.bytes) == (len(documents), 2 * len(documents))


def test_a_corpus_is_sized_up_when_it_is_opened(folder: Path, tmp_path: Path) -> None:
    """Where another process compares the checksums."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    path = copy / "part-00000" / "shard-00007.tokens.npy"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"shard-00007.tokens.npy.*expected .* entries"):
        open_corpus(copy, verify=False)


def test_lengths_and_keys_are_read_like_arrays(folder: Path) -> None:
    corpus: Corpus = open_corpus(folder, verify=False)
    lengths, keys = np.asarray(corpus.lengths), np.asarray(corpus.keys)
    draw = np.random.default_rng(0)
    grid = draw.integers(0, len(corpus), (7, 16))
    mask = draw.random(len(corpus)) < 0.3
    for index in (
        grid,
        mask,
        slice(3, 250),
        slice(5, 5),
        slice(0, None, 7),
        slice(399, 1000),
        np.array([], int),
    ):
        assert np.array_equal(corpus.lengths[index], lengths[index])
        assert np.array_equal(corpus.keys[index], keys[index])
    assert corpus.lengths[17] == lengths[17]
    assert keys.dtype == np.uint64


@pytest.mark.parametrize("longest", [255, 256, 65_535, 65_536, 2**33])
def test_lengths_of_any_size_are_kept(longest: int, tmp_path: Path) -> None:
    files = []
    for number, lengths in enumerate(([3, 0, 7], [longest, 1], [2])):
        np.save(tmp_path / f"{number}.npy", np.array(lengths, dtype=np.int64))
        files.append(shard_files.ArrayFile(tmp_path / f"{number}.npy", len(lengths)))
    found = shard_files.Lengths(files, [10, longest + 1, 2])
    assert np.asarray(found).tolist() == [3, 0, 7, longest, 1, 2]
    assert found[np.array([3, 5])].dtype == np.int64
    assert found[3] == longest
