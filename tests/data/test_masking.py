"""Masking: the rate asked is the rate achieved, by random_bits that nothing but seed, epoch, document and place decide."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from unmask.config.load import load_config
from unmask.config.settings import MaskingSettings
from unmask.data.masking import units as units_module
from unmask.data.masking.mask import (
    KEEP,
    MASK,
    RANDOM,
    Masked,
    mask,
    mask_at,
    mask_decisions,
    replacement_kinds,
)
from unmask.data.masking.random_bits import EVALUATION_KEY, MaskKey, random_bits, random_bits_at, shuffled
from unmask.data.masking.units import plan_of, word_starts
from unmask.data.packing import Packed
from unmask.data.tokenizer import TextEncoder, Vocabulary, vocabulary_of
from unmask.data.words import word_tables
from unmask.errors import ConfigError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP, MASK_ID = range(5)
WORDS, PIECES = 600, 400
OPENING, CONTINUING = np.arange(5, 5 + WORDS), np.arange(5 + WORDS, 5 + WORDS + PIECES)
STRATEGIES = ["token", "word", "span", "terms"]
FAMILIES = ["wordpiece", "byte_level", "modernbert", "unigram", "chinese"]
MILLION = 1_000_000

# --- synthetic text -----------------------------------------------------------------------------------------------


@cache
def vocabulary() -> Vocabulary:
    """A WordPiece vocabulary: special tokens, then beginnings of words `w0`…, then what they go on with, `##x0`…"""
    entries = [*SPECIAL, *(f"w{n}" for n in range(WORDS)), *(f"##x{n}" for n in range(PIECES))]
    tokens = {entry: number for number, entry in enumerate(entries)}
    special = np.arange(len(entries)) < len(SPECIAL)
    definition = json.dumps({"model": {"type": "WordPiece", "continuing_subword_prefix": "##"}})
    words = word_tables(definition, tokens, special)
    return Vocabulary(len(entries), MASK_ID, PAD, (CLS,), (SEP,), special, np.flatnonzero(~special), words)


@cache
def text(tokens: int, shortest: int = 3) -> Packed:
    """About so many tokens in sequences of up to 400; words of 1 to about 6 tokens, some [UNK] among them."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(shortest, 400, tokens * 2 // (shortest + 400) + 1)
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
    count = int(cu_seqlens[-1])
    # Common words are common: so words stand together by chance, and lists of phrases find something.
    rank = (draw.random(count) ** 3 * WORDS).astype(np.int64)
    ids = np.where(draw.random(count) < 0.7, OPENING[rank], CONTINUING[rank % PIECES])
    ids[draw.random(count) < 0.01] = UNK
    ids[cu_seqlens[:-1]], ids[cu_seqlens[1:] - 1] = CLS, SEP
    keys = draw.integers(0, 2**64, len(lengths), dtype=np.uint64)
    return Packed(ids, cu_seqlens, keys, draw.integers(-1, 1000, len(lengths)))


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A file of terms over the synthetic words, and a pattern."""
    folder = tmp_path_factory.mktemp("lists")
    terms = ["# the synthetic domain", *(f"w{n}" for n in range(0, 200, 7)), "w1 w5\t9", "w2x3\t0.5"]
    (folder / "terms.txt").write_text("\n".join(terms), encoding="utf-8")
    return {"terms": str(folder / "terms.txt"), "terms_pattern": "^w4.*x"}


@pytest.fixture(scope="module")
def of(lists: dict[str, str]) -> Callable[..., MaskingSettings]:
    """Return `of(strategy, count)`: settings with the files that the strategy needs."""

    def make(strategy: str, count: str = "bernoulli", **other: Any) -> MaskingSettings:
        return MaskingSettings.model_validate({"strategy": strategy, "count": count, **lists, **other})

    return make


def hits(packed: Packed, masked: Masked) -> np.ndarray:
    """Return `bool [T]`: where the targets are."""
    found = np.zeros(len(packed.input_ids), dtype=bool)
    found[masked.target_index] = True
    return found


def one(packed: Packed, number: int) -> Packed:
    """Return one of the sequences by itself."""
    return pick(packed, [number])


def pick(packed: Packed, numbers: list[int]) -> Packed:
    """Return some of the sequences, in this order."""
    parts = [packed.input_ids[packed.cu_seqlens[n] : packed.cu_seqlens[n + 1]] for n in numbers]
    ends = np.cumsum([0] + [len(part) for part in parts])
    return Packed(np.concatenate(parts), ends, packed.keys[numbers], packed.offsets[numbers])


def same(a: Masked, b: Masked) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(a, b, strict=True))


# --- the rate -----------------------------------------------------------------------------------------------------


def achieved(
    settings: MaskingSettings, tokens: int, rate: float, epochs: int = 1, shortest: int = 3
) -> float:
    packed = text(tokens, shortest)
    policy = plan_of(vocabulary(), settings)
    maskable = int((~vocabulary().special[packed.input_ids]).sum())
    found = [
        len(mask(packed, vocabulary(), policy, MaskKey(7, epoch), rate).target_ids) for epoch in range(epochs)
    ]
    return sum(found) / (maskable * epochs)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_rate_asked_is_the_rate_achieved(strategy: str, of: Callable[..., MaskingSettings]) -> None:
    # A span masks some eight tokens by one draw, so that it takes more random_bits to know its rate as well.
    assert achieved(of(strategy), 2 * MILLION, 0.15, epochs=4 if strategy == "span" else 1) == pytest.approx(
        0.15, abs=0.001
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_fixed_count_meets_the_rate_more_closely(strategy: str, of: Callable[..., MaskingSettings]) -> None:
    # In a text so short that the rate is less than one unit, one is taken all the same; a span is long.
    assert achieved(of(strategy, "fixed"), 400_000, 0.15, shortest=200) == pytest.approx(0.15, abs=0.001)


@pytest.mark.parametrize("rate", [0.02, 0.4, 0.85])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_any_rate_is_met(rate: float, strategy: str, of: Callable[..., MaskingSettings]) -> None:
    error = 4 * math.sqrt(rate * (1 - rate) * 10 / 200_000)
    assert achieved(of(strategy), 200_000, rate) == pytest.approx(rate, abs=error)


@pytest.mark.parametrize("count", ["bernoulli", "fixed"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_rate_is_met_in_texts_of_every_length(
    count: str, strategy: str, of: Callable[..., MaskingSettings]
) -> None:
    """In texts of 1 to 20 tokens too, each of which has more or fewer targets than the rate asks for."""
    plan, copies = plan_of(vocabulary(), of(strategy, count)), 4000
    for length in (1, 2, 3, 4, 6, 10, 20):
        packed = framed(vocabulary(), [OPENING[np.arange(length) * 7]] * copies, keys=[*range(1, copies + 1)])
        masked = mask(packed, vocabulary(), plan, MaskKey(0, 0), 0.15)
        # A span of up to ten words is one draw.
        draws = copies * length / (min(length, 10) if strategy == "span" else 1)
        share = len(masked.target_index) / (copies * length)
        assert share == pytest.approx(0.15, abs=4 * math.sqrt(0.15 * 0.85 / draws)), length


@pytest.mark.parametrize("count", ["bernoulli", "fixed"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_rate_of_one_masks_every_token_but_special_ones(
    strategy: str, count: str, of: Callable[..., MaskingSettings]
) -> None:
    packed = text(20_000)
    masked = mask(packed, vocabulary(), of(strategy, count), MaskKey(0, 0), 1.0)
    assert np.array_equal(hits(packed, masked), ~vocabulary().special[packed.input_ids])


@pytest.mark.slow
@pytest.mark.parametrize("count", ["bernoulli", "fixed"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_rate_over_five_million_tokens(
    strategy: str, count: str, of: Callable[..., MaskingSettings]
) -> None:
    assert achieved(of(strategy, count), 5 * MILLION, 0.15, shortest=100) == pytest.approx(0.15, abs=0.001)


@pytest.mark.parametrize("strategy", ["word", "span"])
def test_the_chance_of_a_word_does_not_depend_on_its_length(
    strategy: str, of: Callable[..., MaskingSettings]
) -> None:
    packed = text(400_000, shortest=100)
    first = np.flatnonzero(word_starts(packed, vocabulary()))
    first = first[~vocabulary().special[packed.input_ids[first]]]
    sizes = np.diff(np.flatnonzero(np.append(word_starts(packed, vocabulary()), True)))
    length = np.repeat(sizes, sizes)[first]
    for count in ("bernoulli", "fixed"):
        chosen = hits(packed, mask(packed, vocabulary(), of(strategy, count), MaskKey(0, 0), 0.15))
        for tokens in range(1, 6):
            share = chosen[first[length == tokens]]
            error = 4.5 * math.sqrt(0.15 * 0.85 * 5 / len(share))
            assert share.mean() == pytest.approx(0.15, abs=error), (count, tokens)


@pytest.mark.parametrize("strategy", ["word", "span", "terms"])
def test_words_are_masked_whole_or_not_at_all(strategy: str, of: Callable[..., MaskingSettings]) -> None:
    packed = text(50_000)
    chosen = hits(packed, mask(packed, vocabulary(), of(strategy), MaskKey(0, 0), 0.3))
    first = np.flatnonzero(word_starts(packed, vocabulary()))
    sizes = np.diff(first, append=len(chosen))
    assert set((np.add.reduceat(chosen, first, dtype=int) / sizes).tolist()) == {0.0, 1.0}


# --- the split ----------------------------------------------------------------------------------------------------


def test_targets_become_80_percent_mask_10_percent_random_and_10_percent_stay() -> None:
    packed = text(2 * MILLION)
    masked = mask(packed, vocabulary(), MaskingSettings(), MaskKey(1, 0), 0.15)
    shown = masked.input_ids[masked.target_index]
    # A random token may be the one that stood there: one in a thousand here.
    same_by_chance = 0.1 / (WORDS + PIECES)
    assert (shown == MASK_ID).mean() == pytest.approx(0.8, abs=0.003)
    assert (shown == masked.target_ids).mean() == pytest.approx(0.1 + same_by_chance, abs=0.003)
    fate = replacement_kinds(
        packed, masked.target_index, plan_of(vocabulary(), MaskingSettings()), MaskKey(1, 0)
    )
    assert [round(float((fate == kind).mean()), 2) for kind in (MASK, RANDOM, KEEP)] == [0.8, 0.1, 0.1]
    assert np.array_equal(shown[fate == MASK], np.full((fate == MASK).sum(), MASK_ID))
    assert np.array_equal(shown[fate == KEEP], masked.target_ids[fate == KEEP])


@pytest.mark.parametrize(
    ("mask_share", "random_share"), [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.5, 0.5), (0.4, 0.3)]
)
def test_any_split_is_met(mask_share: float, random_share: float) -> None:
    packed = text(100_000)
    settings = MaskingSettings(mask_share=mask_share, random_share=random_share)
    masked = mask(packed, vocabulary(), settings, MaskKey(0, 0), 0.5)
    shown = masked.input_ids[masked.target_index]
    assert (shown == MASK_ID).mean() == pytest.approx(mask_share, abs=0.01)
    assert ((shown != MASK_ID) & (shown != masked.target_ids)).mean() == pytest.approx(random_share, abs=0.01)


def test_random_tokens_are_drawn_evenly_over_the_real_vocabulary() -> None:
    packed = text(200_000)
    settings = MaskingSettings(mask_share=0.0, random_share=1.0)
    masked = mask(packed, vocabulary(), settings, MaskKey(0, 0), 1.0)
    counts = np.bincount(masked.input_ids[masked.target_index], minlength=vocabulary().size)
    assert not counts[: len(SPECIAL)].any()
    expected = len(masked.target_ids) / (WORDS + PIECES)
    chi_square = ((counts[len(SPECIAL) :] - expected) ** 2 / expected).sum()
    assert chi_square == pytest.approx(WORDS + PIECES, abs=5 * math.sqrt(2 * (WORDS + PIECES)))


def test_what_is_no_target_stays_as_it_is() -> None:
    packed = text(20_000)
    before = packed.input_ids.copy()
    masked = mask(packed, vocabulary(), MaskingSettings(), MaskKey(0, 0), 0.3)
    untouched = ~hits(packed, masked)
    assert np.array_equal(masked.input_ids[untouched], packed.input_ids[untouched])
    assert np.array_equal(masked.target_ids, packed.input_ids[masked.target_index])
    assert (np.diff(masked.target_index) > 0).all()
    assert np.array_equal(packed.input_ids, before)


# --- determinism --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", ["bernoulli", "fixed"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_masks_are_the_same_in_any_batch_and_order(
    strategy: str, count: str, of: Callable[..., MaskingSettings]
) -> None:
    packed, key = text(12_000), MaskKey(3, 5)
    settings = plan_of(vocabulary(), of(strategy, count))
    whole = mask(packed, vocabulary(), settings, key, 0.2)
    order = np.random.default_rng(0).permutation(len(packed.keys)).tolist()
    alone = {n: mask(one(packed, n), vocabulary(), settings, key, 0.2) for n in order}
    for n, masked in alone.items():
        begin, end = packed.cu_seqlens[n : n + 2]
        inside = (whole.target_index >= begin) & (whole.target_index < end)
        assert np.array_equal(whole.target_index[inside] - begin, masked.target_index)
        assert np.array_equal(whole.input_ids[begin:end], masked.input_ids)
    mixed = mask(pick(packed, order), vocabulary(), settings, key, 0.2)
    assert np.array_equal(mixed.input_ids, np.concatenate([alone[n].input_ids for n in order]))
    # And from a policy that has seen no other text.
    assert same(mask(packed, vocabulary(), of(strategy, count), key, 0.2), whole)


@pytest.mark.parametrize("strategy", ["token", "word", "span", "terms"])
def test_seeds_epochs_and_evaluation_are_independent(
    strategy: str, of: Callable[..., MaskingSettings]
) -> None:
    packed, rate = text(200_000), 0.3
    policy = plan_of(vocabulary(), of(strategy))
    maskable = ~vocabulary().special[packed.input_ids]
    keys = [MaskKey(0, 0), MaskKey(0, 1), MaskKey(1, 0), EVALUATION_KEY]
    chance = mask_decisions(packed, vocabulary(), policy, keys[0], rate).chance[maskable]
    found = [hits(packed, mask(packed, vocabulary(), policy, key, rate))[maskable] for key in keys]
    for number, chosen in enumerate(found):
        for other in found[:number]:
            # The rate squared, but with terms, whose chances are unequal in the same places whatever the seed.
            assert (chosen & other).mean() == pytest.approx((chance**2).mean(), abs=0.005)


def test_documents_with_the_same_tokens_are_masked_by_their_own_draws() -> None:
    packed = text(20_000)
    other = replace(packed, keys=packed.keys + np.uint64(1))
    a, b = (hits(p, mask(p, vocabulary(), MaskingSettings(), MaskKey(0, 0), 0.3)) for p in (packed, other))
    assert (a & b).mean() == pytest.approx(0.09, abs=0.012)


def test_draws_at_some_places_are_those_of_all() -> None:
    packed = text(5_000)
    stream = MaskKey(0, 0).stream("select")
    index = np.arange(0, len(packed.input_ids), 7)
    assert np.array_equal(random_bits_at(packed, index, stream), random_bits(packed, stream)[index])


def test_an_order_has_every_number_once_and_is_another_one_in_every_epoch() -> None:
    orders = [shuffled(1000, MaskKey(0, epoch)) for epoch in range(3)]
    assert all(sorted(order.tolist()) == list(range(1000)) for order in orders)
    assert not np.array_equal(orders[0], orders[1])
    assert np.array_equal(orders[0], shuffled(1000, MaskKey(0, 0)))


FROZEN = {
    ("token", "bernoulli"): [2, 6, 7, 8, 15, 19, 23, 30, 32, 33, 36, 37, 41, 47, 49, 51],
    ("token", "fixed"): [3, 6, 14, 24, 26, 27, 44, 48, 49],
    ("span", "bernoulli"): [2, 7, 8, *range(15, 21), 23, *range(32, 44), *range(47, 53)],
}


def test_these_masks_never_change() -> None:
    """Figures of one release can be compared with those of the next only as long as this test is as it is."""
    ids = np.concatenate([[CLS], OPENING[np.arange(60) * 7], [SEP]])
    packed = Packed(ids, np.array([0, 62]), np.array([1860], dtype=np.uint64), np.array([-1]))
    for (strategy, count), places in FROZEN.items():
        settings = MaskingSettings.model_validate({"strategy": strategy, "count": count})
        masked = mask(packed, vocabulary(), settings, EVALUATION_KEY, 0.15)
        assert masked.target_index.tolist() == places, strategy
    trained = mask(packed, vocabulary(), MaskingSettings(), MaskKey(1, 2), 0.15)
    assert trained.target_index.tolist() == [6, 32, 44, 45, 47]
    assert trained.input_ids[trained.target_index].tolist() == [MASK_ID, 222, MASK_ID, MASK_ID, MASK_ID]
    assert shuffled(8, MaskKey(1, 2)).tolist() == [0, 7, 1, 5, 3, 4, 6, 2]


# --- special tokens -----------------------------------------------------------------------------------------------

LITERALS = ["[SEP]", "[CLS]", "[MASK]", "[PAD]", "[UNK]", "<s>", "</s>", "<pad>", "<unk>", "<mask>"]
SOME_TEXT = st.lists(
    st.one_of(
        st.sampled_from(
            [*LITERALS, "The lighthouse keeper", "naïve", "春天来了", "1,250", "(at least)", "don't", "🙂"]
        ),
        st.text(max_size=12),
    ),
    min_size=1,
    max_size=12,
).map(" ".join)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Any:
    """A tokenizer of every family."""
    return request.getfixturevalue(f"{request.param}_tokenizer")


def framed(found: Vocabulary, texts: list[np.ndarray], keys: list[int] | None = None) -> Packed:
    """Return texts as sequences with their special tokens."""
    rows = [np.concatenate([found.prefix, ids, found.suffix]).astype(np.int64) for ids in texts]
    ends = np.cumsum([0] + [len(row) for row in rows])
    numbers = np.array(keys or range(len(rows)), dtype=np.uint64)
    return Packed(np.concatenate(rows), ends, numbers, np.full(len(rows), -len(found.prefix)))


def test_no_special_token_is_ever_a_target_or_a_replacement(family: Any) -> None:
    found, encode = vocabulary_of(family), TextEncoder(family)
    special = set(family.all_special_ids)

    @budget(max_examples=40)
    @given(
        texts=st.lists(SOME_TEXT, min_size=1, max_size=3),
        strategy=st.sampled_from(["token", "word", "span"]),
        count=st.sampled_from(["bernoulli", "fixed"]),
        random_share=st.sampled_from([0.0, 0.5, 1.0]),
        rate=st.sampled_from([0.15, 0.6, 1.0]),
        seed=st.integers(0, 2**32),
    )
    def check(
        texts: list[str], strategy: Any, count: Any, random_share: float, rate: float, seed: int
    ) -> None:
        packed = framed(found, encode(texts))
        share = {"mask_share": 1 - random_share, "random_share": random_share}
        settings = MaskingSettings(strategy=strategy, count=count, **share)
        masked = mask(packed, found, settings, MaskKey(seed, 0), rate)
        assert not special & set(masked.target_ids.tolist())
        # The only special token that masking puts anywhere is the mask.
        changed = masked.input_ids[masked.input_ids != packed.input_ids]
        assert special & set(changed.tolist()) <= {family.mask_token_id}
        assert random_share < 1 or family.mask_token_id not in changed
        frame = np.concatenate([packed.cu_seqlens[:-1], packed.cu_seqlens[1:] - 1])
        assert np.array_equal(masked.input_ids[frame], packed.input_ids[frame])

    check()


def test_a_literal_control_token_in_the_text_is_text(family: Any) -> None:
    found = vocabulary_of(family)
    control = {found.mask_id, *found.prefix, *found.suffix, family.pad_token_id}
    for literal, ids in zip(LITERALS, TextEncoder(family)(LITERALS), strict=True):
        assert not control & set(ids.tolist()), literal
        if literal not in ("[UNK]", "<unk>"):
            packed = framed(found, [ids])
            unknown = int((ids == family.unk_token_id).sum())
            masked = mask(packed, found, MaskingSettings(), MaskKey(0, 0), 1.0)
            assert len(masked.target_ids) == len(ids) - unknown


def test_protected_tokens_are_no_targets(of: Callable[..., MaskingSettings]) -> None:
    packed = text(20_000)
    protected = np.arange(len(packed.input_ids)) % 3 == 0
    for strategy in STRATEGIES:
        for count in ("bernoulli", "fixed"):
            masked = mask(packed, vocabulary(), of(strategy, count), MaskKey(0, 0), 1.0, protected=protected)
            chosen = hits(packed, masked)
            assert np.array_equal(chosen, ~protected & ~vocabulary().special[packed.input_ids])


def test_a_span_is_replaced_as_a_whole_and_the_tokens_of_a_word_each_by_itself() -> None:
    packed, key = text(400_000), MaskKey(1, 0)
    mixed = {}
    for strategy in ("span", "word"):
        plan = plan_of(vocabulary(), MaskingSettings.model_validate({"strategy": strategy}))
        masked = mask(packed, vocabulary(), plan, key, 0.15)
        unit = mask_decisions(packed, vocabulary(), plan, key, 0.15).unit[masked.target_index]
        kinds = replacement_kinds(packed, masked.target_index, plan, key)
        first = np.flatnonzero(np.diff(unit, prepend=-1))
        mixed[strategy] = (np.minimum.reduceat(kinds, first) < np.maximum.reduceat(kinds, first)).any()
        shares = [float((kinds == kind).mean()) for kind in (MASK, RANDOM, KEEP)]
        assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
        shown = masked.input_ids[masked.target_index]
        assert np.array_equal(shown == MASK_ID, kinds == MASK)
        assert np.array_equal(shown[kinds == KEEP], masked.target_ids[kinds == KEEP])
        assert len(set(shown[kinds == RANDOM].tolist())) > 100
    assert mixed == {"span": False, "word": True}


# --- a fixed count ------------------------------------------------------------------------------------------------


def per_sequence(packed: Packed, values: np.ndarray) -> np.ndarray:
    return np.add.reduceat(values, packed.cu_seqlens[:-1], dtype=np.int64)


def test_a_fixed_count_of_tokens_is_the_rate_rounded_up_or_down() -> None:
    packed = text(100_000)
    masked = mask(packed, vocabulary(), MaskingSettings(count="fixed"), MaskKey(0, 0), 0.15)
    targets = per_sequence(packed, hits(packed, masked))
    wanted = 0.15 * per_sequence(packed, ~vocabulary().special[packed.input_ids])
    assert (np.abs(targets - wanted)[wanted >= 1] < 1).all()
    assert 0.4 < (targets > wanted).mean() < 0.6


@pytest.mark.parametrize("strategy", ["word", "span", "terms"])
def test_a_fixed_count_of_units_is_off_by_no_more_than_about_the_longest(
    strategy: str, of: Callable[..., MaskingSettings]
) -> None:
    packed = text(100_000)
    masked = mask(packed, vocabulary(), of(strategy, "fixed"), MaskKey(0, 0), 0.15)
    units = mask_decisions(packed, vocabulary(), of(strategy, "fixed"), MaskKey(0, 0), 0.15).unit
    sizes = np.bincount(units)[units]
    longest = np.maximum.reduceat(sizes, packed.cu_seqlens[:-1])
    wanted = 0.15 * per_sequence(packed, ~vocabulary().special[packed.input_ids])
    # With terms the chances differ within a length, which leaves some play more.
    assert (np.abs(per_sequence(packed, hits(packed, masked)) - wanted) <= 2 * longest).all()


@pytest.mark.parametrize("strategy", ["token", "word", "span"])
def test_a_fixed_count_gives_every_word_of_a_text_the_same_chance(
    strategy: str, of: Callable[..., MaskingSettings]
) -> None:
    words = [OPENING[:1], *(np.append(OPENING[n], CONTINUING[:n]) for n in range(1, 5)), *OPENING[5:90, None]]
    packed = framed(vocabulary(), [np.concatenate(words)] * 4000, keys=list(range(1, 4001)))
    chosen = hits(packed, mask(packed, vocabulary(), of(strategy, "fixed"), MaskKey(0, 0), 0.15))
    share = chosen.reshape(4000, -1).mean(axis=0)[1:-1]
    assert share == pytest.approx(np.full(len(share), 0.15), abs=4.5 * math.sqrt(0.15 * 0.85 / 4000))


# --- spans --------------------------------------------------------------------------------------------------------


def span_lengths(settings: MaskingSettings) -> np.ndarray:
    """Return how many words the spans have, in long texts of words of one token."""
    rows = [OPENING[np.arange(3000) * n % WORDS] for n in range(1, 41)]
    packed = framed(vocabulary(), rows)
    units = mask_decisions(packed, vocabulary(), settings, MaskKey(0, 0), 0.15).unit.reshape(len(rows), -1)[
        :, :-20
    ]
    # The last span of a text is cut off, so it is left out, and the first begins with [CLS].
    return np.concatenate([np.unique(row, return_counts=True)[1][1:-1] for row in units])


def test_the_words_of_a_span_are_geometric_up_to_the_limit() -> None:
    lengths = span_lengths(MaskingSettings(strategy="span"))
    expected = np.array([0.2 * 0.8 ** (words - 1) for words in range(1, 11)]) / (1 - 0.8**10)
    shares = np.bincount(lengths, minlength=11)[1:] / len(lengths)
    assert lengths.max() == 10
    assert shares == pytest.approx(expected, abs=0.012)
    assert lengths.mean() == pytest.approx(3.797, abs=0.05)  # the 3.8 of the paper


@pytest.mark.parametrize(("p", "limit"), [(0.5, 4), (1e-6, 5), (0.9, 100), (0.2, 1)])
def test_other_spans(p: float, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units_module, "SPAN_P", p)
    lengths = span_lengths(MaskingSettings(strategy="span", span_words=limit))
    weights = np.array([(1 - p) ** (words - 1) for words in range(1, limit + 1)])
    assert lengths.max() <= limit
    assert lengths.mean() == pytest.approx(
        (weights * np.arange(1, limit + 1)).sum() / weights.sum(), rel=0.03
    )


# --- phrases and terms --------------------------------------------------------------------------------------------


def units(packed: Packed, settings: MaskingSettings) -> list[list[int]]:
    """Return the tokens of every unit."""
    unit = mask_decisions(packed, vocabulary(), settings, MaskKey(0, 0), 0.15).unit
    return [packed.input_ids[unit == number].tolist() for number in range(unit[-1] + 1)]


def phrases(folder: Path, *texts: str) -> MaskingSettings:
    """Return settings by which phrases are masked as one, and no more often than other words."""
    (folder / "found.txt").write_text("".join(f"{text}\t1\n" for text in texts), encoding="utf-8")
    return MaskingSettings(strategy="terms", terms=str(folder / "found.txt"))


def ids(*words: str) -> list[int]:
    """Return `w7` as an opening token and `x7` as a continuing one."""
    return [int((OPENING if word[0] == "w" else CONTINUING)[int(word[1:])]) for word in words]


def test_the_words_of_a_phrase_are_one_unit_and_others_by_themselves(tmp_path: Path) -> None:
    packed = framed(vocabulary(), [np.array(ids("w1", "w2", "x3", "w9", "w1", "w2"))])
    found = units(packed, phrases(tmp_path, "w1 w2x3"))
    assert found == [[CLS], ids("w1", "w2", "x3"), ids("w9"), ids("w1"), ids("w2"), [SEP]]


def test_the_longest_phrase_from_the_left_is_taken(tmp_path: Path) -> None:
    settings = phrases(tmp_path, "w1 w2", "w2 w3", "w2 w3 w4", "w4 w5", "w1 w2 w7")
    packed = framed(vocabulary(), [np.array(ids("w1", "w2", "w3", "w4", "w5", "w2", "w3", "w4", "w5"))])
    assert units(packed, settings)[1:-1] == [
        ids("w1", "w2"),
        ids("w3"),
        ids("w4", "w5"),
        ids("w2", "w3", "w4"),
        ids("w5"),
    ]


def test_no_phrase_goes_beyond_a_sequence_or_an_unknown_word(tmp_path: Path) -> None:
    bare = replace(vocabulary(), prefix=(), suffix=())
    settings = phrases(tmp_path, "w1 w2")
    packed = framed(
        bare, [np.array(ids("w3", "w1")), np.array(ids("w2", "w1")), np.array([*ids("w1"), UNK, *ids("w2")])]
    )
    assert units(packed, settings) == [[id] for id in packed.input_ids.tolist()]


def test_overlapping_phrases_are_chosen_as_one_by_one_would(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    chosen = {tuple(draw.integers(0, 6, size).tolist()) for size in (2, 2, 2, 3, 3, 4, 5) for _ in range(4)}
    settings = phrases(tmp_path, *(" ".join(f"w{n}" for n in phrase) for phrase in chosen))
    rows = [draw.integers(0, 6, size) for size in draw.integers(1, 60, 80)]
    expected: list[list[int]] = []
    for row in rows:
        expected.append([CLS])
        at = 0
        while at < len(row):
            fits = [size for size in range(2, 6) if tuple(row[at : at + size].tolist()) in chosen]
            size = max(fits, default=1)
            expected.append(OPENING[row[at : at + size]].tolist())
            at += size
        expected.append([SEP])
    assert units(framed(vocabulary(), [OPENING[row] for row in rows]), settings) == expected


def test_phrases_are_found_by_every_tokenizer_without_regard_to_case_and_accents(
    family: Any, tmp_path: Path
) -> None:
    found, encode = vocabulary_of(family), TextEncoder(family)
    phrases = ["NAIVE cafe", "state-of-the-art microscope", "captain O'Brien", "花园"]
    (tmp_path / "terms.txt").write_text("\n".join(phrases), encoding="utf-8")
    settings = MaskingSettings(strategy="terms", terms=str(tmp_path / "terms.txt"))
    texts = [
        "The naïve café owner sold the state-of-the-art microscope.",
        "春天来了，花园里的花都开了。",
        "Captain O'Brien",
    ]
    assert found.words is not None
    for ids_, wanted in zip(
        encode(texts), [["naïvecafé", phrases[1]], ["花园"], ["CaptainO'Brien"]], strict=True
    ):
        packed = framed(found, [ids_])
        if family.unk_token_id in ids_:
            continue  # a small vocabulary has no pieces for all of it
        told = mask_decisions(packed, found, settings, MaskKey(0, 0), 0.15)
        chance = told.chance.max()
        pieces = [
            found.words.text(packed.input_ids[told.unit == unit].tolist())
            for unit in np.unique(told.unit[told.chance == chance])
        ]
        # Some pieces have the full stop in them.
        assert [fold(piece).rstrip(".") for piece in pieces] == [fold(text) for text in wanted]


def fold(text: str) -> str:
    return re.sub(r"\s", "", text).lower().replace("ï", "i").replace("é", "e")


def test_terms_are_masked_so_much_more_often_as_their_weight_says(tmp_path: Path) -> None:
    (tmp_path / "terms.txt").write_text("w0\t4\nw1\t2\nw2\n# w3\nw3\t0.5\n\n", encoding="utf-8")
    settings = MaskingSettings(strategy="terms", terms=str(tmp_path / "terms.txt"))
    draw = np.random.default_rng(0)
    packed = framed(vocabulary(), [OPENING[draw.integers(0, 20, 400)] for _ in range(500)])
    chosen = hits(packed, mask(packed, vocabulary(), settings, MaskKey(0, 0), 0.15))
    shares = [chosen[packed.input_ids == OPENING[n]].mean() for n in (0, 1, 2, 3)]
    plain = chosen[np.isin(packed.input_ids, OPENING[4:20])].mean()
    assert [share / plain for share in shares] == pytest.approx([4, 2, 5, 0.5], rel=0.08)
    assert chosen[~vocabulary().special[packed.input_ids]].mean() == pytest.approx(0.15, abs=0.003)


def test_terms_take_what_they_can_and_others_the_rest(tmp_path: Path) -> None:
    (tmp_path / "terms.txt").write_text("w0\t1000\n", encoding="utf-8")
    settings = MaskingSettings(strategy="terms", terms=str(tmp_path / "terms.txt"))
    half = np.tile(ids("w0", "w1"), 100)
    chance = mask_decisions(framed(vocabulary(), [half]), vocabulary(), settings, MaskKey(0, 0), 0.6).chance
    assert chance[1:-1].reshape(-1, 2)[0] == pytest.approx([1.0, 0.2])
    few = mask_decisions(framed(vocabulary(), [half]), vocabulary(), settings, MaskKey(0, 0), 0.15).chance
    assert few[1:-1].reshape(-1, 2)[0] == pytest.approx([0.2997, 0.0003], abs=1e-5)


def test_a_pattern_names_terms() -> None:
    settings = MaskingSettings(strategy="terms", terms_pattern="^w1$|x3")
    packed = framed(vocabulary(), [np.array(ids("w1", "w2", "x3", "w11", "w5"))])
    told = mask_decisions(packed, vocabulary(), settings, MaskKey(0, 0), 0.2)
    # Three of the five tokens weigh five times as much: 3 · 5a + 2 · a = 5 · 0.2.
    assert told.chance[1:-1] == pytest.approx(np.array([5, 5, 5, 1, 1]) / 17)


# --- what decided -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", ["bernoulli", "fixed"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_token_is_masked_when_its_draw_is_below_its_chance(
    strategy: str, count: str, of: Callable[..., MaskingSettings]
) -> None:
    packed, key = text(30_000), MaskKey(4, 1)
    policy = plan_of(vocabulary(), of(strategy, count))
    told = mask_decisions(packed, vocabulary(), policy, key, 0.2)
    chosen = hits(packed, mask(packed, vocabulary(), policy, key, 0.2))
    special = vocabulary().special[packed.input_ids]
    assert np.array_equal(chosen, (told.draw < told.chance) & ~special)
    assert ((told.draw >= 0) & (told.draw < 1) & (told.chance >= 0) & (told.chance <= 1)).all()
    assert set(np.diff(told.unit).tolist()) <= {0, 1}
    if strategy != "terms":
        assert told.chance[~special] == pytest.approx(0.2)


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.01, math.nan])
def test_a_rate_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match=r"^the mask rate must be more than 0 and at most 1, not"):
        mask(text(1000), vocabulary(), MaskingSettings(), MaskKey(0, 0), rate)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("masking.rate=0", "masking.rate: must be a number, more than 0"),
        ("masking.rate=1.5", "at most 1, not 1.5"),
        ("masking.initial_rate=-1", "more than 0"),
        ("masking.strategy=words", "must be .*token.*word.*span.*terms.*not 'words'"),
        ("masking.count=exact", "must be .*bernoulli.*fixed.*not 'exact'"),
        ("masking.mask_share=0.95", r"mask_share \+ random_share must be at most 1, not 0.95 \+ 0.1 = 1.05"),
        ("masking.terms_pattern='(['", r"masking\.terms_pattern: must be a regular expression, not '\(\[': "),
        ("masking.span_words=0", "span_words: must be"),
        ("masking.collocations=a.json", "collocations no longer exists .masking.terms takes phrases"),
        ("masking.span_p=1", "span_p no longer exists"),
        ("masking.term_weight=0", "term_weight no longer exists"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(None, [setting])
    assert "\n" not in str(caught.value)


def wordless() -> Vocabulary:
    return replace(vocabulary(), words=None)


@pytest.mark.parametrize("strategy", ["word", "span", "terms"])
def test_a_tokenizer_without_words_is_refused(strategy: Any) -> None:
    with pytest.raises(
        ConfigError, match=f"^masking.strategy {strategy} needs a tokenizer that marks where words"
    ):
        plan_of(wordless(), MaskingSettings(strategy=strategy))
    plan_of(wordless(), MaskingSettings())


def broken(tmp_path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield settings whose files are no good, and what is said of them."""
    yield {"strategy": "terms"}, "masking.strategy terms needs .*masking.terms"
    contents = {
        "absent": (None, "cannot be read: No such file"),
        "empty": ("", "expected a term on each line, found none"),
        "comment": ("# nothing\n \n", "expected a term on each line, found none"),
        "weight": ("heart\nkidney\t-1\n", r"weight:2: the weight .* must be a positive number, not '-1'"),
        "word": ("heart\tbig", r"word:1: the weight .* not 'big'"),
    }
    for name, (content, message) in contents.items():
        path = tmp_path / name
        if content is not None:
            path.write_text(content, encoding="utf-8")
        yield {"strategy": "terms", "terms": str(path)}, message


def test_files_that_are_no_good_are_refused_in_one_line(tmp_path: Path) -> None:
    cases = list(broken(tmp_path))
    assert len(cases) == 6
    for settings, message in cases:
        with pytest.raises(ConfigError, match=message) as caught:
            plan_of(vocabulary(), MaskingSettings(**settings))
        assert "\n" not in str(caught.value)


def test_given_positions_become_the_mask() -> None:
    packed = framed(vocabulary(), [OPENING[:10]])
    masked = mask_at(packed, vocabulary(), np.array([1, 4]))
    assert Counter(masked.input_ids.tolist())[MASK_ID] == 2
    assert masked.target_ids.tolist() == OPENING[[0, 3]].tolist()
    assert not len(mask_at(packed, vocabulary(), np.array([], dtype=np.int64)).target_ids)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([1, 12], "mask position 12 is outside 12 tokens"),
        ([-1, 3], "mask position -1 is outside"),
        ([3, 2], "must be ascending"),
        ([3, 3], "each given once"),
        ([0, 3], "mask position 0 holds a special token"),
    ],
)
def test_positions_that_cannot_be_masked_are_refused(positions: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mask_at(framed(vocabulary(), [OPENING[:10]]), vocabulary(), np.array(positions))
