"""Batches: every sequence once an epoch, the same batch from the same cursor, and masks that no split changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from unmask.config.settings import DocumentSettings, MaskingSettings
from unmask.data.batches import Batch, TextSource
from unmask.data.corpus import Corpus
from unmask.data.masking.random_bits import EVALUATION_KEY, MaskKey
from unmask.data.packing import split_by_tokens
from unmask.data.preparation import prepare
from unmask.data.tokenizer import Vocabulary, vocabulary_of
from unmask.data.training_stream import Cursor, TrainingStream
from unmask.errors import ConfigError, DataError

KEY = MaskKey(0, 0)


@pytest.fixture(scope="module")
def vocabulary(wordpiece_tokenizer: Any) -> Vocabulary:
    return vocabulary_of(wordpiece_tokenizer)


@pytest.fixture(scope="module")
def corpus(wordpiece_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """120 documents of 1 to about 250 tokens."""
    folder = tmp_path_factory.mktemp("corpus")
    words = "the old lighthouse keeper repaired three small boats before winter came".split()
    lines = [" ".join(words[(n + k) % len(words)] for k in range(1 + n * n % 97)) for n in range(120)]
    (folder / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return prepare(
        [folder / "text.txt"], DocumentSettings(documents="line"), wordpiece_tokenizer, folder / "shards"
    )


@pytest.fixture(scope="module")
def of(corpus: Corpus, vocabulary: Vocabulary) -> Callable[..., TextSource]:
    """Return `of(max_length, overlap, **masking)`: the whole corpus as a source of batches."""

    def make(max_length: int = 32, overlap: int = 0, **masking: Any) -> TextSource:
        settings = MaskingSettings.model_validate(masking)
        return TextSource(corpus, np.arange(len(corpus)), vocabulary, settings, max_length, overlap)

    return make


def sequences(batch: Batch) -> dict[int, tuple[list[int], list[int], list[int]]]:
    """Return shown ids, targets and their places for each sequence of a batch."""
    found = {}
    for row, number in enumerate(batch.sequence_ids.tolist()):
        begin, end = batch.cu_seqlens[row : row + 2].tolist()
        inside = (batch.target_index >= begin) & (batch.target_index < end)
        places = (batch.target_index[inside] - begin).tolist()
        found[number] = (batch.input_ids[begin:end].tolist(), places, batch.target_ids[inside].tolist())
    return found


def test_tokens_are_counted_in_the_documents_of_the_source(corpus: Corpus, vocabulary: Vocabulary) -> None:
    documents = np.arange(0, len(corpus), 3)
    source = TextSource(corpus, documents, vocabulary, MaskingSettings(), 32)
    wanted = np.bincount(np.concatenate([corpus.document(n) for n in documents]), minlength=vocabulary.size)
    assert np.array_equal(source.token_counts(), wanted)
    some = source.token_counts(most=int(wanted.sum()) // 4)
    assert wanted.sum() / 8 < some.sum() < wanted.sum() / 2
    assert (some <= wanted).all()


# --- one batch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("max_length", "overlap"), [(32, 0), (32, 7), (400, 0)])
def test_sequences_hold_the_documents_between_special_tokens(
    max_length: int, overlap: int, of: Callable[..., TextSource], corpus: Corpus
) -> None:
    source = of(max_length, overlap)
    everything = np.arange(len(source.sequences))
    packed = source.pack(everything)
    which, start, body = source.sequences.locate(everything)
    assert packed.input_ids.dtype == np.int64
    for row in range(len(everything)):
        ids = packed.input_ids[packed.cu_seqlens[row] : packed.cu_seqlens[row + 1]]
        text = corpus.document(which[row])[start[row] : start[row] + body[row]]
        assert ids.tolist() == [2, *text.tolist(), 3]
        assert len(ids) <= max_length
        assert packed.offsets[row] == start[row] - 1
    assert np.array_equal(packed.keys, corpus.keys[which])
    rebuilt = {document: [] for document in range(len(corpus))}  # type: ignore[var-annotated]
    for row, document in enumerate(which.tolist()):
        ids = packed.input_ids[packed.cu_seqlens[row] + 1 : packed.cu_seqlens[row + 1] - 1].tolist()
        rebuilt[document] += ids[overlap if start[row] else 0 :]
    assert all(rebuilt[n] == corpus.document(n).tolist() for n in range(len(corpus)) if corpus.lengths[n])


def test_a_batch_is_what_its_fields_say(of: Callable[..., TextSource]) -> None:
    source = of(rate=0.3)
    numbers = np.array([5, 0, 17])
    batch, packed = source.batch(numbers, KEY, 0.3), source.pack(numbers)
    assert batch.tokens == len(packed.input_ids) == batch.cu_seqlens[-1]
    assert batch.cu_seqlens.dtype == np.int32
    assert batch.sequence_ids.tolist() == [5, 0, 17]
    assert batch.position_ids[batch.cu_seqlens[:-1]].tolist() == [0, 0, 0]
    assert np.array_equal(packed.input_ids[batch.target_index], batch.target_ids)
    untouched = np.setdiff1d(np.arange(batch.tokens), batch.target_index)
    assert np.array_equal(batch.input_ids[untouched], packed.input_ids[untouched])


@pytest.mark.parametrize("strategy", ["token", "word", "span"])
@pytest.mark.parametrize("count", ["bernoulli", "fixed"])
def test_a_sequence_is_masked_alike_in_any_batch(
    strategy: str, count: str, of: Callable[..., TextSource]
) -> None:
    source = of(overlap=3, strategy=strategy, count=count)
    total = len(source.sequences)
    whole = sequences(source.batch(np.arange(total), KEY, 0.3))

    @budget(max_examples=15)
    @given(st.lists(st.integers(0, total - 1), min_size=1, max_size=12, unique=True))
    def check(numbers: list[int]) -> None:
        assert sequences(source.batch(np.array(numbers), KEY, 0.3)) == {n: whole[n] for n in numbers}

    check()


def test_tokens_in_the_overlap_are_masked_alike_in_both_sequences(of: Callable[..., TextSource]) -> None:
    source = of(overlap=10)
    which, start, body = source.sequences.locate(np.arange(len(source.sequences)))
    found = sequences(source.batch(np.arange(len(which)), KEY, 0.4))
    pairs = 0
    for row in np.flatnonzero(start > 0).tolist():
        before = {place - 1 + start[row - 1] for place in found[row - 1][1]}
        after = {place - 1 + start[row] for place in found[row][1]}
        shared = range(start[row], start[row - 1] + body[row - 1])
        assert before & set(shared) == after & set(shared)
        pairs += 1
    assert pairs > 50


def test_a_document_is_masked_alike_whatever_else_is_in_the_corpus(
    of: Callable[..., TextSource], corpus: Corpus, vocabulary: Vocabulary
) -> None:
    chosen = np.array([7, 40, 90])
    few = TextSource(corpus, chosen, vocabulary, MaskingSettings(), 400)
    some = sequences(few.batch(np.arange(3), KEY, 0.3))
    whole = sequences(of(400).batch(np.arange(len(corpus)), KEY, 0.3))
    assert [some[n] for n in range(3)] == [whole[n] for n in chosen.tolist()]


# --- evaluation ---------------------------------------------------------------------------------------------------


def evaluated(source: TextSource, tokens: int, most: int | None = None) -> dict[int, Any]:
    return {
        n: row for batch in source.evaluation_batches(tokens, most) for n, row in sequences(batch).items()
    }


def test_evaluation_masks_never_change(of: Callable[..., TextSource]) -> None:
    first = evaluated(of(), 100)
    assert len(first) == len(of().sequences)
    assert evaluated(of(), 2000) == first
    assert first == sequences(of().batch(np.arange(len(first)), EVALUATION_KEY, 0.15, hidden=True))
    # Nor does training, at whatever rate it stands.
    assert evaluated(of(initial_rate=0.5), 100) == first
    assert sequences(of().batch(np.arange(len(first)), KEY, 0.15)) != first


@pytest.mark.parametrize("strategy", ["token", "word", "span"])
def test_evaluation_hides_the_targets_that_training_would_replace(
    of: Callable[..., TextSource], strategy: str
) -> None:
    source, masked = of(strategy=strategy), list[bool]()
    for hidden, trained in zip(
        source.evaluation_batches(500), source.evaluation_batches(500, hidden=False), strict=True
    ):
        assert (hidden.input_ids[hidden.target_index] == source.vocabulary.mask_id).all()
        assert hidden.target_index.tolist() == trained.target_index.tolist()
        assert hidden.target_ids.tolist() == trained.target_ids.tolist()
        masked += (trained.input_ids[trained.target_index] == source.vocabulary.mask_id).tolist()
        rest = np.delete(np.arange(hidden.tokens), hidden.target_index)
        assert (hidden.input_ids[rest] == trained.input_ids[rest]).all()
    assert 0.6 < np.mean(masked) < 0.97


def test_evaluation_on_a_part_takes_documents_by_their_hash(
    of: Callable[..., TextSource], corpus: Corpus
) -> None:
    source = of(400)
    some = evaluated(source, 500, most=1000)
    sizes = source.sizes(np.array(list(some)))
    assert 800 < sizes.sum() <= 1000
    order = np.argsort(corpus.keys, kind="stable")
    assert set(some) == set(order[: len(some)].tolist())
    assert evaluated(source, 500, most=1).keys() == {int(order[0])}


def test_evaluation_batches_keep_to_their_budget(of: Callable[..., TextSource]) -> None:
    batches = list(of().evaluation_batches(100))
    assert all(batch.tokens <= 100 for batch in batches)
    lengths = np.concatenate([np.diff(batch.cu_seqlens) for batch in batches])
    assert (np.diff(lengths) <= 0).all()


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 100))
def test_slices_by_tokens_are_consecutive(sizes: list[int], most: int) -> None:
    slices = list(split_by_tokens(np.array(sizes, dtype=np.int64), most))
    assert [n for part in slices for n in range(part.start, part.stop)] == list(range(len(sizes)))
    assert all(sum(sizes[part]) <= most or part.stop - part.start == 1 for part in slices)


# --- the stream ---------------------------------------------------------------------------------------------------


def epoch_of(stream: TrainingStream, epoch: int) -> list[np.ndarray]:
    cursor, steps = Cursor(epoch), []
    while cursor.epoch == epoch:
        numbers, cursor = stream.take(cursor)
        steps.append(numbers)
    assert cursor == Cursor(epoch + 1, 0)
    return steps


@pytest.mark.parametrize("batch_tokens", [1, 90, 1000, 10**6])
def test_every_sequence_is_visited_once_an_epoch(batch_tokens: int, of: Callable[..., TextSource]) -> None:
    source = of()
    stream = TrainingStream(source, batch_tokens, seed=3)
    for epoch in (0, 1):
        steps = epoch_of(stream, epoch)
        assert sorted(np.concatenate(steps).tolist()) == list(range(len(source.sequences)))
        for numbers in steps:
            assert len(numbers) == 1 or source.sizes(numbers).sum() <= batch_tokens


def test_the_order_is_another_one_for_every_epoch_and_seed(of: Callable[..., TextSource]) -> None:
    orders = {
        (seed, epoch): np.concatenate(epoch_of(TrainingStream(of(), 200, seed), epoch)).tolist()
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len({tuple(order) for order in orders.values()}) == 4


def test_a_cursor_resumes_exactly(of: Callable[..., TextSource]) -> None:
    stream = TrainingStream(of(), 500, seed=0)
    cursor, steps = Cursor(), []
    for _ in range(60):
        numbers, following = stream.take(cursor)
        steps.append((cursor, numbers, stream.micro_batches(cursor, numbers, 0.2, parts=2)))
        cursor = following
    assert cursor.epoch > 0
    for cursor, numbers, batches in steps[::7]:
        # A stream that was never used before, as after a restart, and in any order.
        fresh = TrainingStream(of(), 500, seed=0)
        again, _ = fresh.take(cursor)
        assert np.array_equal(again, numbers)
        for one, other in zip(batches, fresh.micro_batches(cursor, again, 0.2, parts=2), strict=True):
            assert sequences(one) == sequences(other)


def test_another_size_of_batch_goes_on_where_the_last_ended(of: Callable[..., TextSource]) -> None:
    cursor, seen, size = Cursor(), [], 50
    while cursor.epoch == 0:
        numbers, cursor = TrainingStream(of(), size, seed=0).take(cursor)
        seen += numbers.tolist()
        size += 20
    assert sorted(seen) == list(range(len(of().sequences)))


@pytest.mark.parametrize(("parts", "world"), [(1, 1), (4, 1), (1, 4), (3, 2), (50, 2)])
def test_a_step_is_the_same_however_it_is_split(
    parts: int, world: int, of: Callable[..., TextSource]
) -> None:
    stream = TrainingStream(of(strategy="word"), 600, seed=0)
    numbers, _ = stream.take(Cursor())
    whole = sequences(stream.source.batch(numbers, MaskKey(0, 0), 0.3))
    found: dict[int, Any] = {}
    for rank in range(world):
        for batch in stream.micro_batches(Cursor(), numbers, 0.3, parts, rank, world):
            assert not found.keys() & sequences(batch).keys()
            assert batch.tokens or world > 1
            found |= sequences(batch)
    assert found == whole


@pytest.mark.parametrize(("parts", "world"), [(1, 2), (3, 2), (2, 7), (1, 40)])
def test_every_process_has_as_many_micro_batches(
    parts: int, world: int, of: Callable[..., TextSource]
) -> None:
    stream = TrainingStream(of(), 200, seed=0)
    numbers, _ = stream.take(Cursor())
    empty = 0
    for rank in range(world):
        batches = stream.micro_batches(Cursor(), numbers, 0.3, parts, rank, world)
        assert len(batches) == parts
        for batch in batches:
            assert len(batch.cu_seqlens) == len(batch.sequence_ids) + 1
            assert batch.cu_seqlens[-1] == batch.tokens == len(batch.position_ids)
            empty += not batch.tokens
    assert empty >= parts * world - len(numbers)


def test_a_process_reads_only_its_own_sequences(
    of: Callable[..., TextSource], corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, read = TrainingStream(of(), 2000, seed=0), []
    numbers, _ = stream.take(Cursor())
    gather = corpus.gather
    monkeypatch.setattr(corpus, "gather", lambda *args: read.append(args[2].sum()) or gather(*args))
    shares = []
    for rank in range(4):
        read.clear()
        own = stream.micro_batches(Cursor(), numbers, 0.3, 2, rank, 4)
        shares.append(sum(read))
        assert shares[-1] == sum(batch.tokens for batch in own)
    assert sum(shares) == stream.sizes(numbers).sum()
    assert max(shares) < 1.2 * min(shares)


def test_no_process_has_more_tokens_than_its_micro_batches_hold(of: Callable[..., TextSource]) -> None:
    stream = TrainingStream(of(max_length=400), 3000, seed=0)
    numbers, _ = stream.take(Cursor())
    longest = int(stream.sizes(numbers).max())
    for most, world in ((200, 1), (500, 1), (200, 2), (200, 3), (10**6, 2)):
        parts = stream.parts(numbers, most, world)
        for rank in range(world):
            batches = stream.micro_batches(Cursor(), numbers, 0.3, parts, rank, world)
            assert all(batch.tokens <= most + longest for batch in batches)
    assert stream.parts(numbers, 10**6, 2) == 1


def test_masks_change_with_the_epoch(of: Callable[..., TextSource]) -> None:
    stream = TrainingStream(of(), 10**6, seed=0)
    epochs = []
    for epoch in (0, 1):
        numbers, _ = stream.take(Cursor(epoch))
        (batch,) = stream.micro_batches(Cursor(epoch), numbers, 0.3, parts=1)
        epochs.append(sequences(batch))
    differ = [n for n in epochs[0] if epochs[0][n] != epochs[1][n]]
    assert len(differ) > 0.9 * len(epochs[0])


# --- bad input ----------------------------------------------------------------------------------------------------


def test_no_text_is_refused(corpus: Corpus, vocabulary: Vocabulary) -> None:
    with pytest.raises(DataError, match="no text to make batches from"):
        TextSource(corpus, np.zeros(0, dtype=np.int64), vocabulary, MaskingSettings(), 32)


def test_a_strategy_that_lacks_its_file_is_refused_at_once(
    of: Callable[..., TextSource], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"^masking\.strategy terms needs a file with a term on each line"):
        of(strategy="terms")
    with pytest.raises(ConfigError, match="the terms cannot be read"):
        of(strategy="terms", terms=str(tmp_path / "none.txt"))


@pytest.mark.parametrize(("tokens", "sequences"), [(1, 2), (9, 2), (12, 3), (13, 3), (100, 4)])
def test_the_beginning_of_a_batch_has_whole_sequences_and_a_target(tokens: int, sequences: int) -> None:
    ends, index = np.array([0, 5, 9, 12, 14], dtype=np.int32), np.array([6, 8, 13])
    batch = Batch(np.arange(14), np.zeros(14, dtype=np.int64), ends, index, index * 10, np.arange(4) + 7)
    part = batch.beginning(tokens)
    inside = index[index < ends[sequences]]
    assert part.cu_seqlens.tolist() == ends[: sequences + 1].tolist()
    assert part.input_ids.tolist() == list(range(ends[sequences]))
    assert (part.target_index.tolist(), part.target_ids.tolist()) == (inside.tolist(), (inside * 10).tolist())
    assert part.sequence_ids.tolist() == [7, 8, 9, 10][:sequences]
