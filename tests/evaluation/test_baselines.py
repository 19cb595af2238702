"""The baselines of an evaluation: what they are counted on, and that no document is scored by counts of itself."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest

from unmask.data.batches import TextSource
from unmask.evaluation.baselines import (
    NAMES,
    Baselines,
    BaselineSums,
    NoBaselines,
    _training_tokens,
    heldout_baselines,
    tally_baselines,
)
from unmask.evaluation.heldout import tally
from unmask.evaluation.ngram import neighbours_at
from unmask.evaluation.strata import Strata
from unmask.model.masked_lm import MaskedLM
from unmask.progress import Progress
from unmask.run.components import set_first_weights
from unmask.training.distributed import World

Source = Callable[..., TextSource]
Load = Callable[[str], MaskedLM]


def fitted(source: TextSource, train: TextSource | None = None, most: int | None = None) -> BaselineSums:
    found = tally_baselines(source, train, most)
    assert isinstance(found, BaselineSums)
    return found


def accuracy(found: BaselineSums, name: str = "most_frequent_token") -> float:
    count, _, right = found.sums[name].sum(axis=0)
    return float(right / count)


def test_they_predict_the_targets_of_the_model(loaded: Load, source: Source, documents: list[str]) -> None:
    model = loaded("bert")
    text = source(model, documents, max_length=16)
    strata = Strata(np.zeros(text.vocabulary.size, dtype=np.int64), "nothing")
    for most in (None, 300):
        count = tally(model, text, strata, most=most).sums[:, 0, 0]
        for name in NAMES:
            assert (fitted(text, most=most).sums[name][:, 0] == count).all()


def test_a_training_text_gives_the_metrics_of_a_training_run(
    loaded: Load, source: Source, documents: list[str]
) -> None:
    model = loaded("bert")
    train, text = source(model, documents[::2]), source(model, documents[1::2])
    found, old = fitted(text, train), heldout_baselines(train, lambda: text.evaluation_batches(5000))
    for name in NAMES:
        count, loss, right = found.sums[name].sum(axis=0)
        assert old[name]["accuracy"] == pytest.approx(right / count)
        assert old[name]["loss"] == pytest.approx(loss / count)
        assert found.what[name] == old[name]["what"]
    assert "training text given" in found.fitted_on


def test_no_document_is_scored_by_counts_of_itself(loaded: Load, source: Source) -> None:
    model = loaded("bert")
    letters = [
        " ".join(letter * 60) for letter in "abcdefghijklmnopqrst"
    ]  # each document knows one letter only
    alone = source(model, letters)
    assert accuracy(fitted(alone, alone), "ngram") > 0.9
    assert accuracy(fitted(alone), "ngram") == 0
    assert accuracy(fitted(alone)) == 0


def test_two_copies_of_a_document_do_not_score_each_other(loaded: Load, source: Source) -> None:
    model = loaded("bert")
    letters = [" ".join(letter * 60) for letter in "abcdefghij"]
    assert accuracy(fitted(source(model, letters * 2)), "ngram") == 0


def test_one_document_has_no_baselines(loaded: Load, source: Source, documents: list[str]) -> None:
    model = loaded("bert")
    for texts in (documents[:1], documents[:1] * 3):
        found = tally_baselines(source(model, texts), None)
        assert isinstance(found, NoBaselines)
        assert "--train-data" in found.why


def test_the_text_counted_on_is_named(loaded: Load, source: Source, documents: list[str]) -> None:
    found = fitted(source(loaded("bert"), documents))
    assert found.fitted_on.startswith("the other documents of the evaluated text (5 parts")
    assert found.what["most_frequent_token"] == "most frequent token of the other documents"
    assert "counted on" not in found.what["ngram"]
    assert found.what["ngram"].endswith("seeing what the model sees")


def test_of_a_long_text_the_documents_with_the_least_keys_are_counted(
    loaded: Load, source: Source, documents: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = source(loaded("bert"), documents)
    lengths = text.corpus.lengths[np.argsort(np.asarray(text.corpus.keys))]
    monkeypatch.setattr("unmask.evaluation.baselines.MAX_TOKENS", int(lengths[:9].sum()) + 1)
    found = []
    for at_once in (1 << 17, 3):
        monkeypatch.setattr("unmask.data.document_set._AT_ONCE", at_once)
        monkeypatch.setattr("unmask.evaluation.baselines._SORTED", at_once)
        found.append(heldout_baselines(text, lambda: text.evaluation_batches(5000)))
    assert found[0] == found[1]
    counted = lengths[:9].sum() - max(1, lengths[:9].sum() // 20)  # a 20th tunes the weights
    assert f"counted on {counted:,} tokens" in found[0]["ngram"]["what"]


def test_unknown_tokens_are_never_predicted(loaded: Load, source: Source, documents: list[str]) -> None:
    model = loaded("bert")
    text = source(model, [document.replace(" ", " ☃ ") for document in documents])
    unknown = model.tokenizer.unk_token_id
    counts = text.token_counts()
    assert counts.argmax() == unknown
    counts[text.vocabulary.special] = 0
    found = Baselines(text)
    given = found.frequent.predict(np.arange(text.vocabulary.size))
    assert set(given.top1) == {counts.argmax()}
    assert np.exp(given.log_probability) == pytest.approx((counts + 1) / (counts + 1).sum())
    tokens, starts = _training_tokens(text)
    around = neighbours_at(tokens, starts, np.arange(len(tokens)), text.vocabulary.size)
    assert unknown in around.left1
    assert unknown not in found.ngram.predict(around, tokens).top1
    assert found.ngram.probabilities(*(ids[5] for ids in around))[unknown] < 0.001


def test_a_new_model_does_not_start_by_predicting_unknown_tokens(
    loaded: Load, source: Source, documents: list[str]
) -> None:
    model = deepcopy(loaded("bert"))
    known, mixed = (
        source(model, texts) for texts in (documents, [text.replace(" ", " ☃ ") for text in documents])
    )
    biases = []
    for text in (known, mixed):
        set_first_weights(model.model, text, 0, World(), Progress())
        biases.append(model.model.get_output_embeddings().bias.detach().clone())
    assert (biases[0] == biases[1]).all()


def test_without_a_known_token_every_token_is_as_likely(loaded: Load, source: Source) -> None:
    found = Baselines(source(loaded("bert"), ["☃ ☃", "☃ ☃ ☃"])).ngram.probabilities(1, 2, 3, 4)
    assert found == pytest.approx(np.full(len(found), 1 / len(found)))
