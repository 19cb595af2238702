"""Terms: the words that tell a domain from general text, and the file they are kept in."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask.config.settings import DocumentSettings, ModelSettings
from unmask.data.masking.terms import count_words, find_salient_terms, load_terms, odds_ratios, save_terms
from unmask.data.preparation import prepare
from unmask.data.tokenizer import vocabulary_of
from unmask.errors import DataError
from unmask.vocabulary.new_tokenizer import train_tokenizer

GENERAL = Counter(
    {"the": 500_000, "of": 300_000, "that": 90_000, "patient": 40, "heart": 50, "river": 200, "1860": 30}
)
DOMAIN = Counter(
    {
        "the": 5000,
        "of": 3000,
        "that": 5000,
        "patient": 400,
        "heart": 300,
        "myocardial": 60,
        "river": 40,
        "1860": 90,
    }
)
DOCUMENTS = Counter(
    {"the": 100, "of": 100, "that": 100, "patient": 80, "heart": 60, "myocardial": 30, "river": 5, "1860": 40}
)


def test_words_of_the_domain_stand_out() -> None:
    found = find_salient_terms(DOMAIN, GENERAL, DOCUMENTS)
    assert {term.text for term in found} == {"patient", "heart", "myocardial", "river"}
    assert found[-1].text == "river"
    # Numbers are no terms, however frequent; nor is a usual word that the domain has more often.
    assert all(2 < term.weight <= 10 for term in found)
    assert [term.documents for term in found] == [DOCUMENTS[term.text] for term in found]


def test_scores_are_log_odds_with_a_prior() -> None:
    (term,) = [term for term in find_salient_terms(DOMAIN, GENERAL) if term.text == "river"]
    here, there = sum(DOMAIN.values()), sum(GENERAL.values())
    strength = 0.1 * min(here, there)
    prior = strength * (40 + 200) / (here + there)
    odds = math.log((40 + prior) / (here + strength - 40 - prior)) - math.log(
        (200 + prior) / (there + strength - 200 - prior)
    )
    assert term.log_odds == pytest.approx(odds)
    assert term.z == pytest.approx(odds / math.sqrt(1 / (40 + prior) + 1 / (200 + prior)))
    assert term.weight == pytest.approx(min(10, math.exp(odds)))
    assert odds_ratios(DOMAIN, GENERAL)["river"] == term.weight


def test_a_term_occurs_in_several_documents() -> None:
    one = DOCUMENTS | {"patient": 1}
    assert "patient" not in {term.text for term in find_salient_terms(DOMAIN, GENERAL, one)}
    # Of a text of one document nothing is asked.
    single = dict.fromkeys(DOMAIN, 1)
    assert "patient" in {term.text for term in find_salient_terms(DOMAIN, GENERAL, single)}
    some = DOCUMENTS | {"heart": 4}
    ranked = [term.text for term in find_salient_terms(DOMAIN, GENERAL, some)]
    assert ranked.index("patient") < ranked.index("heart")


def test_bounds_of_terms_are_kept() -> None:
    assert len(find_salient_terms(DOMAIN, GENERAL, most=1)) == 1
    assert "myocardial" not in {term.text for term in find_salient_terms(DOMAIN, GENERAL, min_count=61)}
    assert "river" not in {term.text for term in find_salient_terms(DOMAIN, GENERAL, min_ratio=9)}


@pytest.mark.parametrize(("domain", "general"), [({}, GENERAL), (DOMAIN, {}), (GENERAL, GENERAL)])
def test_texts_that_cannot_be_told_apart_are_refused(domain: Counter[str], general: Counter[str]) -> None:
    with pytest.raises(DataError, match=r"salient terms need words|no word is rare in general text"):
        find_salient_terms(domain, general)


def test_words_of_a_corpus_are_counted(
    wordpiece_tokenizer: Any, tmp_path: Path, corpus_text: list[str]
) -> None:
    (tmp_path / "text.txt").write_text("\n".join(corpus_text), encoding="utf-8")
    settings = DocumentSettings(documents="line")
    corpus = prepare([tmp_path / "text.txt"], settings, wordpiece_tokenizer, tmp_path / "shards")
    words = vocabulary_of(wordpiece_tokenizer).words
    assert words is not None
    counts, documents = count_words(corpus, words)
    text = " ".join(corpus_text).lower()
    assert counts["lighthouse"] == text.count("lighthouse") > 5
    assert counts["naive"] == text.count("naïve")
    assert counts["."] == text.count(".")
    assert documents["lighthouse"] == sum("lighthouse" in line.lower() for line in corpus_text)
    halves = [count_words(corpus, words, half)[0] for half in np.array_split(np.arange(len(corpus)), 2)]
    assert halves[0] + halves[1] == counts


def test_a_file_of_terms_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = find_salient_terms(DOMAIN, GENERAL)
    save_terms(tmp_path / "terms.txt", found)
    read = load_terms(tmp_path / "terms.txt", weight=99.0)
    assert read == {(term.text,): pytest.approx(term.weight, rel=0.01) for term in found}


def test_a_file_of_terms_is_plain_text(tmp_path: Path) -> None:
    lines = [
        "# a comment",
        "",
        "Heart failure",
        "#hashtag\t2",
        "naïve Bayes\t3\tseen 7 times",
        "heart  failure\t9",
        "花园",
    ]
    (tmp_path / "terms.txt").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    assert load_terms(tmp_path / "terms.txt", weight=5.0) == {
        ("heart", "failure"): 9.0,
        ("#", "hashtag"): 2.0,
        ("naive", "bayes"): 3.0,
        ("花", "园"): 5.0,
    }


def test_marks_that_are_letters_are_part_of_a_term(tmp_path: Path) -> None:
    lines = ["में", "हिन्दी", "สวัสดี", "ガギグ", "한국어", "می\u200cروم", "اَلْعَرَبِيَّةُ", "Việt", "naïve"]
    (tmp_path / "terms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    wanted = [*lines[:6], "العربية", "viet", "naive"]
    assert set(load_terms(tmp_path / "terms.txt", weight=5.0)) == {(word,) for word in wanted}


def test_words_with_marks_are_counted_whole(tmp_path: Path) -> None:
    lines = ["वह हिन्दी में लिखता है"] * 4
    tokenizer = train_tokenizer(lines, ModelSettings(vocab_size=200)).tokenizer
    (tmp_path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    settings = DocumentSettings(documents="line")
    corpus = prepare([tmp_path / "text.txt"], settings, tokenizer, tmp_path / "shards")
    words = vocabulary_of(tokenizer).words
    assert words is not None
    assert count_words(corpus, words)[0] == dict.fromkeys(lines[0].split(), 4)
