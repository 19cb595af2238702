from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from unmask.errors import ConfigError, DataError
from unmask.evaluation.ngram import (
    UNKNOWN,
    MostFrequent,
    Neighbours,
    NGramBaseline,
    Prediction,
    neighbours_at,
)


def metrics(prediction: Prediction, targets: np.ndarray) -> dict[str, float]:
    """Accuracy and loss (nats) of a prediction."""
    return {
        "accuracy": float(np.mean(prediction.top1 == targets)),
        "loss": float(-np.mean(prediction.log_probability)),
    }


def markov(size: int, vocabulary: int, *, seed: int = 0, certainty: float = 0.8, length: int = 50):
    """Documents of a source whose next token is mostly decided by the one before; ids and offsets."""
    draw = np.random.default_rng(seed)
    follows = np.random.default_rng(99).permutation(vocabulary)
    noise = draw.integers(0, vocabulary, size) ** 2 // vocabulary  # low ids are more frequent
    tokens = noise.copy()
    for i in range(1, size):
        if i % length and draw.random() < certainty:
            tokens[i] = follows[tokens[i - 1]]
    return tokens, np.append(np.arange(0, size, length), size)


def scores(model: NGramBaseline, tokens, offsets, positions, vocabulary, **mode):
    targets = tokens[positions]
    around = neighbours_at(tokens, offsets, positions, vocabulary, **mode)
    return metrics(model.predict(around, targets), targets)


def test_probabilities_sum_to_one_in_every_context():
    vocabulary = 4
    tokens, offsets = markov(300, vocabulary)
    model = NGramBaseline().fit(tokens, offsets, vocabulary)
    symbols = [UNKNOWN, *range(vocabulary + 1)]  # the last is the boundary
    for around in itertools.product(symbols, repeat=4):
        given = model.probabilities(*around)
        assert given.sum() == pytest.approx(1.0, abs=1e-12)
        assert (given > 0).all()


def test_prediction_is_the_maximum_and_the_logarithm_of_the_whole_distribution():
    vocabulary = 200
    tokens, offsets = markov(20_000, vocabulary, certainty=0.5)
    model = NGramBaseline().fit(tokens, offsets, vocabulary)
    heldout, edges = markov(150, vocabulary, seed=1, certainty=0.5)
    for mode in ("true", "masked"):
        positions = np.arange(0, 150, 2) if mode == "true" else np.arange(150)[np.arange(150) % 5 < 2]
        around = neighbours_at(heldout, edges, positions, vocabulary, neighbours=mode)
        prediction = model.predict(around, heldout[positions])
        for row, target in enumerate(heldout[positions]):
            given = model.probabilities(*(int(ids[row]) for ids in around))
            assert prediction.top1[row] == np.argmax(given)
            assert prediction.log_probability[row] == pytest.approx(np.log(given[target]))


def test_it_learns_a_markov_source_that_frequencies_cannot_predict():
    vocabulary = 30
    tokens, offsets = markov(40_000, vocabulary)
    heldout, edges = markov(4_000, vocabulary, seed=1)
    everywhere = np.arange(len(heldout))
    frequent = metrics(MostFrequent().fit(tokens, vocabulary).predict(heldout), heldout)
    ngram = scores(NGramBaseline().fit(tokens, offsets, vocabulary), heldout, edges, everywhere, vocabulary)
    assert frequent["accuracy"] < 0.2
    assert ngram["accuracy"] > 0.8
    assert ngram["loss"] < frequent["loss"] - 1.5


def test_both_neighbours_together_say_what_neither_says_alone():
    vocabulary = 10
    draw = np.random.default_rng(0)
    left, right = draw.integers(0, vocabulary, (2, 10_000))
    tokens = np.stack([left, (left + right) % vocabulary, right], axis=1).reshape(-1)
    offsets = np.arange(0, len(tokens) + 1, 3)
    model = NGramBaseline().fit(tokens, offsets, vocabulary)
    found = scores(model, tokens[:900], offsets[:301], np.arange(1, 900, 3), vocabulary)
    assert found["accuracy"] == 1.0
    assert found["loss"] < 0.1  # the weights know whom to trust


def test_the_second_neighbours_say_what_the_first_ones_cannot():
    vocabulary = 10
    tokens = np.tile(np.random.default_rng(0).integers(0, vocabulary, 200), 50)
    offsets = np.array([0, len(tokens)])
    pairs = Counter(zip(tokens[:-2].tolist(), tokens[2:].tolist(), tokens[1:-1].tolist(), strict=True))
    best: dict[tuple[int, int], int] = {}
    for (left, right, _), count in pairs.items():
        best[left, right] = max(best.get((left, right), 0), count)
    model = NGramBaseline().fit(tokens, offsets, vocabulary)
    found = scores(model, tokens, offsets, np.arange(5_000), vocabulary)
    assert found["accuracy"] > sum(best.values()) / len(tokens) + 0.1
    assert "two neighbours on each side" in model.what


def test_where_a_small_text_says_nothing_of_wide_contexts_they_do_no_harm():
    vocabulary = 50
    tokens, offsets = markov(3_000, vocabulary, certainty=0)
    heldout, edges = markov(4_000, vocabulary, seed=1, certainty=0)
    frequent = metrics(MostFrequent().fit(tokens, vocabulary).predict(heldout), heldout)
    model = NGramBaseline().fit(tokens, offsets, vocabulary)
    for mode in ("true", "masked"):
        some = np.arange(0, 4_000, 5) if mode == "true" else np.flatnonzero(np.arange(4_000) % 5 < 2)
        found = scores(model, heldout, edges, some, vocabulary, neighbours=mode)
        assert found["loss"] < frequent["loss"] + 0.05


def test_masked_neighbours_are_hidden_and_passed_over():
    vocabulary = 30
    tokens, offsets = markov(40_000, vocabulary)
    model = NGramBaseline().fit(tokens, offsets, vocabulary)
    heldout, edges = markov(4_000, vocabulary, seed=1)
    positions = np.flatnonzero(np.random.default_rng(0).random(len(heldout)) < 0.5)
    true, masked = (
        scores(model, heldout, edges, positions, vocabulary, neighbours=mode) for mode in ("true", "masked")
    )
    frequent = metrics(MostFrequent().fit(tokens, vocabulary).predict(heldout[positions]), heldout[positions])
    assert true["accuracy"] > masked["accuracy"] + 0.1
    assert masked["accuracy"] > frequent["accuracy"] + 0.2
    assert masked["loss"] < frequent["loss"]


def test_without_any_neighbour_only_frequencies_are_left():
    vocabulary = 6
    tokens, offsets = markov(2_000, vocabulary)
    model = NGramBaseline().fit(tokens, offsets, vocabulary)
    counts = np.bincount(tokens[: model.tokens], minlength=vocabulary) + 1
    assert model.probabilities(*[UNKNOWN] * 4) == pytest.approx(counts / counts.sum())


def test_neighbours_end_at_the_document():
    tokens = np.array([5, 6, 7, 8, 9], dtype=np.uint16)
    offsets = np.array([0, 2, 2, 5])  # the second document is empty
    positions = np.array([1, 2, 3])
    true = neighbours_at(tokens, offsets, positions, 10)
    assert np.stack(true).T.tolist() == [[10, 5, 10, 10], [10, 10, 8, 9], [10, 7, 9, 10]]
    masked = neighbours_at(tokens, offsets, positions, 10, neighbours="masked")
    assert np.stack(masked).T.tolist() == [[10, 5, 10, 10], [10, 10, UNKNOWN, 9], [10, UNKNOWN, 9, 10]]


def test_contexts_never_seen_and_tokens_never_seen_are_possible():
    model = NGramBaseline().fit(np.array([0, 1] * 50), np.array([0, 100]), 1000)
    prediction = model.predict(Neighbours([700], [800], [900], [999]), [500])
    assert prediction.top1.tolist() == [0]
    assert prediction.log_probability[0] == pytest.approx(np.log(1 / (model.tokens + 1000)))


def test_the_same_text_gives_the_same_predictions_whatever_the_type_and_the_blocks(monkeypatch):
    vocabulary = 20
    tokens, offsets = markov(40_000, vocabulary)
    everywhere = np.arange(len(tokens))
    around = neighbours_at(tokens, offsets, everywhere, vocabulary)
    whole = NGramBaseline().fit(tokens, offsets, vocabulary).predict(around, tokens)
    again = NGramBaseline().fit(tokens.astype(np.uint16), offsets.astype(np.uint64), vocabulary)
    last = slice(39_000, None)
    monkeypatch.setattr("unmask.evaluation.ngram._COUNTED_AT_ONCE", 1000)
    known = Neighbours(*(ids[last] for ids in around))
    for model in (again, NGramBaseline().fit(tokens, offsets, vocabulary, known)):
        part = model.predict(known, tokens[last].astype(np.uint16))
        assert np.array_equal(part.top1, whole.top1[last])
        assert np.array_equal(part.log_probability, whole.log_probability[last])


def test_a_limit_counts_documents_from_the_whole_text():
    tokens = np.repeat(np.arange(10), 1000)
    offsets = np.arange(0, 10_001, 10)
    model = NGramBaseline(max_tokens=1000).fit(tokens, offsets, 10)
    assert 900 <= model.tokens <= 1000
    seen = model.probabilities(*[UNKNOWN] * 4)
    assert seen.max() < 0.12  # each of the ten has its share
    assert f"{model.tokens:,} tokens" in model.what


def test_most_frequent_token():
    tokens = np.array([3, 1, 3, 2], dtype=np.uint16)
    targets = np.array([3, 0])
    prediction = MostFrequent().fit(tokens, 5).predict(targets)
    assert prediction.top1.tolist() == [3, 3]
    assert metrics(prediction, targets) == {
        "accuracy": 0.5,
        "loss": pytest.approx(-(np.log(3 / 9) + np.log(1 / 9)) / 2),
    }


@pytest.mark.parametrize("offsets", [[0, 5], [1, 10], [0, 7, 3, 10], []])
def test_offsets_that_do_not_fit_are_refused(offsets):
    with pytest.raises(DataError, match="offsets must rise from 0 to the number of tokens, 10"):
        NGramBaseline().fit(np.zeros(10, np.int64), np.array(offsets, np.uint32), 5)


@pytest.mark.parametrize("wrong", [-1, 5])
def test_ids_outside_the_vocabulary_are_refused(wrong):
    tokens, offsets = np.array([0, 1, wrong]), np.array([0, 3])
    for attempt in (
        lambda: NGramBaseline().fit(tokens, offsets, 5),
        lambda: MostFrequent().fit(tokens, 5),
        lambda: neighbours_at(tokens, offsets, np.array([0]), 5),
    ):
        with pytest.raises(DataError, match=f"between 0 and 4, not at {wrong}"):
            attempt()


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="vocabulary_size must be 1 to"):
        NGramBaseline().fit(np.array([0, 1]), np.array([0, 2]), 3_000_000)
    with pytest.raises(DataError, match="at least two tokens"):
        NGramBaseline().fit(np.array([0]), np.array([0, 1]), 5)
