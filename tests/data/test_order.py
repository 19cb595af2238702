"""The order of an epoch: a permutation of any number of sequences, mixed, and a function of seed and epoch alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.data.masking.random_bits import MaskKey, shuffled
from unmask.data.order import Bijection, permutation

COUNTS = st.one_of(
    st.integers(1, 3000), st.integers(1, 60).flatmap(lambda n: st.integers(max(1, n * n - 2), n * n + 2))
)
KEYS = st.builds(MaskKey, st.integers(0, 5), st.integers(0, 5))


@settings(max_examples=300, deadline=None)
@given(COUNTS, KEYS)
def test_every_number_has_one_place(count: int, key: MaskKey) -> None:
    numbers = Bijection(count, key).at(np.arange(count))
    assert np.array_equal(np.sort(numbers), np.arange(count))


@pytest.mark.parametrize("count", [1 << 16, (1 << 16) + 1, 99_991, (1 << 17) - 1, 1_000_000])
def test_so_it_is_with_many(count: int) -> None:
    numbers = permutation(count, MaskKey(1, 0)).at(np.arange(count))
    assert (np.bincount(numbers, minlength=count) == 1).all()


@given(COUNTS, KEYS, st.data())
def test_a_place_is_looked_up_by_itself(count: int, key: MaskKey, data: st.DataObject) -> None:
    whole = Bijection(count, key).at(np.arange(count))
    places = np.array(data.draw(st.lists(st.integers(0, count - 1), max_size=9)), dtype=np.int64)
    assert np.array_equal(Bijection(count, key).at(places), whole[places])


def test_a_thousand_million_need_no_array() -> None:
    count = 10**12
    found = permutation(count, MaskKey(0, 0)).at(np.arange(count - 1000, count))
    assert len(np.unique(found)) == 1000
    assert (found >= 0).all()
    assert (found < count).all()


@pytest.mark.parametrize("count", [7, 100, 100_000])
def test_every_seed_and_epoch_has_its_own(count: int) -> None:
    places = np.arange(min(count, 1000))
    orders = {tuple(Bijection(count, MaskKey(seed, epoch)).at(places)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_few_are_sorted_by_a_hash_and_so_are_many_in_the_first_version() -> None:
    key = MaskKey(3, 1)
    for count, version in ((1 << 16, 2), (1000, 2), (1000, 1), (70_000, 1)):
        found = permutation(count, key, version).at(np.arange(count))
        assert np.array_equal(found, shuffled(count, key))
    assert not np.array_equal(permutation(70_000, key).at(np.arange(70_000)), shuffled(70_000, key))


@pytest.mark.parametrize("count", [100_003, 1 << 18, 316 * 317])
def test_neighbours_do_not_stay_together(count: int) -> None:
    """Whatever two sequences have in common in the corpus, in an epoch they are no nearer than by chance."""
    for epoch in range(3):
        numbers = Bijection(count, MaskKey(0, epoch)).at(np.arange(count))
        place = np.empty(count, dtype=np.int64)
        place[numbers] = np.arange(count)
        for order in (numbers, place):
            for lag in (1, 2, 317, 512):
                correlation = np.corrcoef(order[:-lag], order[lag:])[0, 1]
                assert abs(correlation) < 5 / np.sqrt(count)
            near = np.count_nonzero(np.abs(np.diff(order)) <= 50)
            assert abs(near - 100) < 60  # by chance 100, with a deviation of 10
        assert abs(np.corrcoef(np.arange(count), numbers)[0, 1]) < 5 / np.sqrt(count)


def test_a_step_has_sequences_of_all_parts_of_the_corpus() -> None:
    """In steps of 512 sequences, the numbers from each hundredth of the corpus scatter as in drawing at random."""
    count, parts = 512 * 400, 100
    numbers = Bijection(count, MaskKey(7, 0)).at(np.arange(count))
    drawn = np.zeros((400, parts))
    np.add.at(drawn, (np.arange(count) // 512, numbers * parts // count), 1)
    statistic = ((drawn - 512 / parts) ** 2 / (512 / parts)).sum()
    free = 399 * 99
    assert abs(statistic - free) < 6 * np.sqrt(2 * free)


def test_small_orders_are_all_about_equally_frequent() -> None:
    seen: dict[tuple[int, ...], int] = {}
    for seed in range(6000):
        order = tuple(Bijection(4, MaskKey(seed, 0)).at(np.arange(4)).tolist())
        seen[order] = seen.get(order, 0) + 1
    assert len(seen) == 24
    assert 150 < min(seen.values()) <= max(seen.values()) < 350
