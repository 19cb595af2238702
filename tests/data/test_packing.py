"""Packing: every token of every document is in a sequence, and batches are made of whole sequences."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.data.packing import Sequences, SequenceSplit, deal, frame_positions, next_batch, split_evenly

LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=20).map(np.array)
SPLITS = st.integers(1, 15).flatmap(
    lambda body: st.builds(SequenceSplit, st.just(body), st.integers(0, body - 1))
)
SIZES = st.lists(st.integers(1, 50), min_size=1, max_size=40).map(np.array)


def table(lengths: np.ndarray, split: SequenceSplit) -> list[tuple[int, int, int]]:
    """Return document, beginning and length of every sequence."""
    sequences = Sequences(lengths, split)
    return list(zip(*(part.tolist() for part in sequences.locate(np.arange(len(sequences)))), strict=True))


@given(LENGTHS, SPLITS)
def test_every_token_is_in_a_sequence_and_only_the_overlap_in_two(
    lengths: np.ndarray, split: SequenceSplit
) -> None:
    seen = [np.zeros(length, dtype=int) for length in lengths]
    rows = table(lengths, split)
    for document, start, body in rows:
        assert 1 <= body <= split.body
        seen[document][start : start + body] += 1
    for counts in seen:
        assert (counts >= 1).all()
    if not split.overlap:
        assert sum(body for _, _, body in rows) == lengths.sum()


@given(LENGTHS, SPLITS)
def test_a_continued_sequence_repeats_the_overlap_and_all_but_the_last_are_full(
    lengths: np.ndarray, split: SequenceSplit
) -> None:
    rows = table(lengths, split)
    for (document, start, body), (after, next_start, _) in pairwise(rows):
        if document == after:
            assert body == split.body
            assert start + body - next_start == split.overlap
            # No sequence is made of repeated tokens alone.
            assert start + body < lengths[document]
        else:
            assert next_start == 0
            assert start + body == lengths[document]


@given(LENGTHS, SPLITS)
def test_sequences_are_counted_and_found_one_by_one(lengths: np.ndarray, split: SequenceSplit) -> None:
    rows = table(lengths, split)
    assert split.counts(lengths).sum() == len(rows)
    assert [document for document, _, _ in rows] == np.repeat(
        np.arange(len(lengths)), split.counts(lengths)
    ).tolist()
    for number, row in enumerate(rows):
        located = Sequences(lengths, split).locate(np.array([number]))
        assert tuple(int(part[0]) for part in located) == row


def test_empty_documents_have_no_sequence() -> None:
    assert table(np.array([0, 3, 0]), SequenceSplit(10)) == [(1, 0, 3)]
    assert len(Sequences(np.array([0, 0]), SequenceSplit(10))) == 0
    assert len(Sequences(np.zeros(0, dtype=np.int64), SequenceSplit(10))) == 0


@pytest.mark.parametrize(("body", "overlap"), [(0, 0), (4, 4), (4, -1)])
def test_a_split_without_text_tokens_is_refused(body: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="needs 1 text token or more"):
        SequenceSplit(body, overlap)


@given(SIZES)
def test_positions_begin_anew_in_every_sequence(sizes: np.ndarray) -> None:
    ends = np.concatenate([[0], np.cumsum(sizes)])
    assert frame_positions(ends).tolist() == [place for size in sizes.tolist() for place in range(size)]


@given(SIZES, st.integers(1, 120))
def test_batches_take_all_they_can_and_every_sequence_once(sizes: np.ndarray, budget: int) -> None:
    before = np.concatenate([[0], np.cumsum(sizes)])
    begin = 0
    while begin < len(sizes):
        end = next_batch(before, begin, budget)
        assert end > begin
        assert before[end] - before[begin] <= budget or end == begin + 1
        assert end == len(sizes) or before[end + 1] - before[begin] > budget
        begin = end
    assert begin == len(sizes)


@given(SIZES, st.integers(1, 12))
def test_parts_are_consecutive_and_about_even(sizes: np.ndarray, parts: int) -> None:
    pieces = split_evenly(sizes, parts)
    assert len(pieces) == parts
    assert [n for piece in pieces for n in range(piece.start, piece.stop)] == list(range(len(sizes)))
    for piece in pieces:
        assert abs(sizes[piece].sum() - sizes.sum() / parts) <= sizes.max()


@given(SIZES, st.integers(2, 12))
def test_parts_end_at_the_border_that_is_nearest_to_even(sizes: np.ndarray, parts: int) -> None:
    borders = np.concatenate([[0], np.cumsum(sizes)])
    for number, piece in enumerate(split_evenly(sizes, parts)[:-1], 1):
        even = borders[-1] * number / parts
        assert abs(borders[piece.stop] - even) == pytest.approx(np.abs(borders - even).min())


def test_of_two_borders_equally_near_the_first_is_taken() -> None:
    assert split_evenly(np.array([2, 2, 2]), 2) == [slice(0, 1), slice(1, 3)]


def test_nothing_is_split_into_nothing() -> None:
    assert split_evenly(np.zeros(0, dtype=np.int64), 3) == [slice(0, 0)] * 3


@given(SIZES, st.integers(1, 9))
def test_processes_get_every_sequence_once_and_about_the_same_work(sizes: np.ndarray, hands: int) -> None:
    sizes = np.sort(sizes)[::-1]
    dealt = deal(sizes, hands)
    assert sorted(np.concatenate(dealt).tolist()) == list(range(len(sizes)))
    work = sizes * (2048 + sizes)
    loads = [int(work[hand].sum()) for hand in dealt]
    for hand, load in zip(dealt, loads, strict=True):
        # No process could give its last sequence to another and leave it with less work than it has itself.
        assert not len(hand) or load - work[hand[-1]] <= min(loads)
        assert (np.diff(hand) > 0).all()


def test_long_sequences_do_not_all_go_to_one_process() -> None:
    rng = np.random.default_rng(0)
    sizes = np.sort(np.minimum(rng.lognormal(5, 1.5, 2000).astype(np.int64) + 3, 8192))[::-1]
    pairs = [int((sizes[hand] ** 2).sum()) for hand in deal(sizes, 8)]
    assert max(pairs) < 1.1 * sum(pairs) / 8
    evenly = [int((sizes[part] ** 2).sum()) for part in split_evenly(sizes, 8)]
    assert max(evenly) > 3 * sum(evenly) / 8
