"""What adapting changed, from made-up predictions of two models at the targets of a real text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unmask.config.settings import DataSettings, MaskingSettings
from unmask.data.batches import TextSource
from unmask.data.corpus import token_counts
from unmask.data.preparation import prepare
from unmask.data.tokenizer import vocabulary_of
from unmask.evaluation.adaptation import BETTER, WORSE, EvaluatedTargets, by_frequency, change, differing
from unmask.evaluation.predictions import TargetPredictions
from unmask.evaluation.strata import Strata


@pytest.fixture
def components(tmp_path: Path, corpus_text: list[str], wordpiece_tokenizer):  # type: ignore[no-untyped-def]
    """Targets of 60 documents, the tables, and the tokenizer."""
    path = tmp_path / "text.txt"
    path.write_text("\n".join(corpus_text[:60]) + "\n", encoding="utf-8")
    settings = DataSettings(inputs=[str(path)], documents="line")
    corpus = prepare([str(path)], settings, wordpiece_tokenizer, tmp_path / "shards")
    vocabulary = vocabulary_of(wordpiece_tokenizer)
    documents = np.arange(len(corpus))
    source = TextSource(corpus, documents, vocabulary, MaskingSettings(rate=0.3), 64)
    strata = Strata(token_counts(corpus, documents, vocabulary.size), "the text", words=False)
    return EvaluatedTargets.of(source, source.evaluation_batches(500), strata), strata, wordpiece_tokenizer


def predictions(targets: EvaluatedTargets, right: np.ndarray, loss: np.ndarray) -> TargetPredictions:
    guess = np.where(right, targets.target_ids, targets.target_ids + 1)
    return TargetPredictions(targets.target_ids, loss, np.where(right, 1, 2), guess, np.full(len(guess), 0.5))


def two(targets: EvaluatedTargets, seed: int = 0) -> tuple[TargetPredictions, TargetPredictions]:
    """Predictions of a base that is rarely right, and in most documents never, and of a better model."""
    draw, count = np.random.default_rng(seed), len(targets.target_ids)
    base = predictions(targets, draw.random(count) < 0.05, draw.uniform(2, 9, count))
    return base, predictions(targets, draw.random(count) < 0.4, draw.uniform(1, 7, count))


def test_metrics_are_means_over_the_targets(components) -> None:  # type: ignore[no-untyped-def]
    targets = components[0]
    base, adapted = two(targets)
    found = change(targets, base, adapted)
    shares = [np.mean(each.guess == targets.target_ids) for each in (base, adapted)]
    assert found["masked_tokens"] == len(targets.target_ids) > 100
    assert found["documents"] == len(np.unique(targets.document))
    assert [found[side]["accuracy"] for side in ("before", "after")] == pytest.approx(shares)
    assert found["after"]["loss"] == pytest.approx(adapted.loss.mean())
    assert found["after"]["perplexity"] == pytest.approx(np.exp(adapted.loss.mean()))
    for name, value in (
        ("loss", adapted.loss.mean() - base.loss.mean()),
        ("accuracy", shares[1] - shares[0]),
        ("relative_accuracy", shares[1] / shares[0] - 1),
    ):
        assert found["change"][name]["value"] == pytest.approx(value), name
        low, high = found["change"][name]["interval"]
        assert low < value < high, name


def test_the_interval_of_a_change_is_paired(components) -> None:  # type: ignore[no-untyped-def]
    targets = components[0]
    base, _ = two(targets)
    lower = base._replace(loss=base.loss - 1)
    found = change(targets, base, lower)
    assert found["change"]["loss"]["interval"] == pytest.approx([-1, -1])
    low, high = found["before"]["intervals"]["loss"]
    assert high - low > 0.1


def test_rows_by_frequency_sum_to_the_whole(components) -> None:  # type: ignore[no-untyped-def]
    targets, strata, _ = components
    rows = by_frequency(targets, *two(targets), strata)
    assert sum(row["masked_tokens"] for row in rows) == len(targets.target_ids)
    assert [row["label"] for row in rows] == sorted(
        {row["label"] for row in rows}, key=strata.tables[0].labels.index
    )


def test_a_base_without_a_right_prediction_has_no_ratio(components) -> None:  # type: ignore[no-untyped-def]
    targets = components[0]
    base, adapted = two(targets)
    nothing = predictions(targets, np.zeros(len(targets.target_ids), dtype=bool), base.loss)
    assert change(targets, nothing, adapted)["change"]["relative_accuracy"] is None


def test_examples_are_the_extremes_with_the_text_around_them(components) -> None:  # type: ignore[no-untyped-def]
    targets, _, tokenizer = components
    base, adapted = two(targets)
    found = differing(targets, base, adapted, tokenizer)
    gains = [example["change"] for example in found]
    assert len(found) == BETTER + WORSE
    assert gains[:BETTER] == sorted(gains[:BETTER], reverse=True)
    assert min(gains[:BETTER]) > 0 > max(gains[BETTER:])
    shown = np.concatenate([batch.input_ids[batch.target_index] for batch in targets.batches])
    masked = (base.loss - adapted.loss)[shown == targets.source.vocabulary.mask_id]
    assert gains[0] == pytest.approx(masked.max())
    assert len({example["original"] for example in found}) == len(found)
    for example in found:
        assert example["adapted"]["original"] == pytest.approx(
            example["base"]["original"] * np.exp(example["change"])
        )
        assert "[CLS]" not in example["text_before"]
        assert "[SEP]" not in example["text_after"]
