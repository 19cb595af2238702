"""The survey of masks: figures that agree with what was asked, and a passage to look at."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import Messages

from unmask.config.settings import DocumentSettings, MaskingSettings
from unmask.data.batches import TextSource
from unmask.data.masking.random_bits import MaskKey
from unmask.data.preparation import prepare
from unmask.data.tokenizer import load_tokenizer, vocabulary_of
from unmask.evaluation.mask_survey import sample, survey

Of = Callable[..., TextSource]


@pytest.fixture(scope="module")
def of(wordpiece_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Of:
    """Return `of(**masking)`: some 60,000 tokens of words of one token and of several."""
    folder = tmp_path_factory.mktemp("survey")
    draw = np.random.default_rng(0)
    words = "the old river keeper unbelievably counterbalanced translator microscope xylophonist , .".split()
    lines = [" ".join(draw.choice(words, 60).tolist()) for _ in range(400)]
    (folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    settings = DocumentSettings(documents="line")
    corpus = prepare([folder / "text.txt"], settings, wordpiece_tokenizer, folder / "shards")
    vocabulary = vocabulary_of(wordpiece_tokenizer)

    def make(**masking: Any) -> TextSource:
        return TextSource(corpus, np.arange(len(corpus)), vocabulary, MaskingSettings(**masking), 128)

    return make


@pytest.mark.parametrize("strategy", ["token", "word", "span"])
@pytest.mark.parametrize("count", ["bernoulli", "fixed"])
def test_the_figures_are_what_was_asked(strategy: str, count: str, of: Of) -> None:
    told = survey(of(strategy=strategy, count=count, rate=0.2))
    assert told["rate"] == pytest.approx(0.2, abs=0.02)
    assert told["targets"] == pytest.approx(told["rate"] * told["tokens"])
    assert told["split"] == {
        "mask": pytest.approx(0.8, abs=0.02),
        "random": pytest.approx(0.1, abs=0.02),
        "keep": pytest.approx(0.1, abs=0.02),
    }
    assert (told["strategy"], told["count"], told["mask_rate"]) == (strategy, count, 0.2)
    assert told["sequences"] == len(of().sequences)
    assert json.loads(json.dumps(told)) == told


def test_words_and_spans_tell_strategies_apart(of: Of) -> None:
    token, word, span = (survey(of(strategy=strategy)) for strategy in ("token", "word", "span"))
    assert token["whole_words"] < word["whole_words"] == span["whole_words"] == 1.0
    assert token["mean_span"]["tokens"] < word["mean_span"]["tokens"] < span["mean_span"]["tokens"]
    assert word["mean_span"]["words"] == pytest.approx(1 / 0.85, abs=0.05)
    assert span["mean_span"]["words"] > 3.5
    rates = {row["tokens"]: row["rate"] for row in word["by_word_length"] if row["words"] > 1000}
    assert len(rates) >= 3
    assert all(rate == pytest.approx(0.15, abs=0.03) for rate in rates.values())
    several = [row["rate"] for row in token["by_word_length"] if row["tokens"] >= 4 and row["words"] > 1000]
    assert several
    assert max(several) < 0.01


def test_how_many_words_are_terms_is_told_and_none_is_warned_of(of: Of, tmp_path: Path) -> None:
    terms = tmp_path / "terms.tsv"
    messages: list[str] = []
    terms.write_text("old river\nmicroscope", encoding="utf-8")
    source = of(strategy="terms", terms=str(terms))
    assert survey(source)["in_terms"] == pytest.approx(1 / 11 + 2 / 121, abs=0.01)
    source.warn_of_no_term(Messages(messages))
    assert messages == []
    terms.write_text("zzzqqq", encoding="utf-8")
    source = of(strategy="terms", terms=str(terms))
    assert survey(source)["in_terms"] == 0
    source.warn_of_no_term(Messages(messages))
    assert "no term of '" in messages[0]
    assert survey(of())["in_terms"] is None


def test_a_survey_of_a_part_looks_at_no_more(of: Of) -> None:
    told = survey(of(), tokens=5000)
    assert 4000 < told["tokens"] <= 5000
    assert survey(of(), tokens=1)["sequences"] == 1


def test_masks_of_another_seed_or_epoch_are_others(of: Of) -> None:
    figures = [survey(of(), seed=seed, epoch=epoch)["targets"] for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert len(set(figures)) == 3
    assert survey(of())["targets"] == figures[0]


def test_without_word_marks_there_are_no_figures_of_words(of: Of) -> None:
    source = of()
    bare = TextSource(
        source.corpus, source.documents, replace(source.vocabulary, words=None), source.masking, 128
    )
    told = survey(bare)
    assert told["by_word_length"] is told["whole_words"] is told["mean_span"]["words"] is None
    assert told["rate"] == survey(source)["rate"]
    assert sample(bare)[0]["word"] is None


def test_a_sample_is_what_training_sees(of: Of) -> None:
    source = of(rate=0.4, strategy="word")
    shown = sample(source, seed=3, epoch=2, length=40)
    assert len(shown) == 40
    assert (shown[0]["token"], shown[0]["special"], shown[0]["target"]) == ("[CLS]", True, None)
    whole = source.batch(np.arange(len(source.sequences)), MaskKey(3, 2), 0.4)
    found = [
        whole.input_ids[whole.cu_seqlens[n] : whole.cu_seqlens[n + 1]][:40].tolist()
        for n in range(len(source.sequences))
    ]
    tokenizer = load_tokenizer(str(source.corpus.folder / "tokenizer"), offline=True)
    assert tokenizer.convert_tokens_to_ids([item["shown"] for item in shown]) in found
    for item in shown:
        assert (item["shown"] == "[MASK]") == (item["target"] == "mask")
        assert item["target"] in ("mask", "random") or item["shown"] == item["token"]
        assert item["word"] != item["token"].startswith("##")


def test_a_short_corpus_is_surveyed_too(wordpiece_tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the\n", encoding="utf-8")
    corpus = prepare([tmp_path / "text.txt"], DocumentSettings(), wordpiece_tokenizer, tmp_path / "shards")
    source = TextSource(
        corpus, np.arange(1), vocabulary_of(wordpiece_tokenizer), MaskingSettings(rate=0.001), 16
    )
    told = survey(source)
    assert (told["targets"], told["without_targets"]) == (0, 1)
    assert told["split"]["mask"] is told["mean_span"]["tokens"] is None
    assert [item["token"] for item in sample(source)] == ["[CLS]", "the", "[SEP]"]
