"""Which words are chosen, and that a tokenizer with new words changes nothing but those."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from unmask.data.tokenizer import TextEncoder, vocabulary_of
from unmask.errors import ConfigError, DataError
from unmask.vocabulary.choose import AddedWord, WordCounts, choose_words
from unmask.vocabulary.tokenizer import check_extendable, write_extended

FAMILIES = ["wordpiece_tokenizer", "byte_level_tokenizer", "modernbert_tokenizer", "unigram_tokenizer"]
DOMAIN = [
    "The cardiomyopathy of diclofenac patients (cardiomyopathy) is a cardiomyopathy.",
    "Some diclofenac, 1250 1250 1250 kilograms of diclofenac; naïve echocardiogramme.",
    *["A diclofenac and a cardiomyopathy and an echocardiogramme and the"] * 3,
    "Patients with cardiomyopathy had echocardiogramme after echocardiogramme.",
]


@pytest.fixture(params=FAMILIES)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    found: PreTrainedTokenizerFast = request.getfixturevalue(request.param)
    return found


def counted(tokenizer: Any, texts: list[str]) -> WordCounts:
    counts = WordCounts(vocabulary_of(tokenizer))
    for ids in TextEncoder(tokenizer)(texts):
        counts.add(ids)
    return counts


def chosen(tokenizer: Any, texts: list[str], add: int = 10, **options: Any) -> list[AddedWord]:
    return choose_words(
        tokenizer, vocabulary_of(tokenizer), counted(tokenizer, texts), add, **{"min_count": 3} | options
    )


def token_ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = TextEncoder(tokenizer)([text])[0].tolist()
    return ids


# --- choosing -----------------------------------------------------------------------------------------------------


def test_words_that_save_most_come_first(tokenizer: PreTrainedTokenizerFast) -> None:
    words = chosen(tokenizer, DOMAIN)
    assert {word.word for word in words} == {"cardiomyopathy", "diclofenac", "echocardiogramme"}
    assert [word.score for word in words] == sorted((word.score for word in words), reverse=True)
    for word in words:
        assert word.tokens_saved == (len(word.subwords) - 1) * word.count
        assert token_ids(tokenizer, f" {word.word}") == list(word.subwords)


def test_only_as_many_as_asked_and_frequent_enough(tokenizer: PreTrainedTokenizerFast) -> None:
    best = chosen(tokenizer, DOMAIN)
    assert chosen(tokenizer, DOMAIN, add=1) == best[:1]
    assert {word.word for word in chosen(tokenizer, DOMAIN, min_count=1)} > {word.word for word in best}


def test_digits_specials_and_broken_text_are_no_words(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "31415926 x\ufffdy 春天 e-mailing " * 3
    found = chosen(tokenizer, [text, f" {tokenizer.unk_token} {tokenizer.mask_token}" * 3, *DOMAIN])
    assert all(word.word.isalpha() and word.word.isascii() for word in found)
    assert not set(tokenizer.all_special_ids) & {subword for word in found for subword in word.subwords}


def test_general_text_pulls_general_words_down(wordpiece_tokenizer: PreTrainedTokenizerFast) -> None:
    domain = [*DOMAIN, "a horseradish " * 5]
    without = {word.word: word for word in chosen(wordpiece_tokenizer, domain)}
    general = counted(wordpiece_tokenizer, ["horseradish or horseradish " * 20, "the weather"])
    words = {word.word: word for word in chosen(wordpiece_tokenizer, domain, general=general)}
    assert without["horseradish"].weight == 1
    assert words["horseradish"].weight < 1 < words["diclofenac"].weight <= 10
    assert list(words)[-1] == "horseradish"


def test_a_text_without_a_word_worth_it_says_so(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="no word is worth adding"):
        chosen(tokenizer, ["the the the"])


# --- extending ----------------------------------------------------------------------------------------------------


def written(tokenizer: Any, folder: Path) -> tuple[list[AddedWord], Any]:
    words = chosen(tokenizer, DOMAIN)
    return words, write_extended(tokenizer, words, folder)


def test_plain_transformers_loads_it_and_each_word_is_one_token(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    words, extended = written(tokenizer, tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert plain.get_vocab() == extended.get_vocab()
    assert plain.all_special_tokens == tokenizer.all_special_tokens
    assert plain.model_max_length == tokenizer.model_max_length
    size = 1 + max(tokenizer.get_vocab().values())
    for place, word in enumerate(words):
        ids = plain(f"a {word.word}, so", add_special_tokens=False)["input_ids"]
        assert ids.count(size + place) == 1
        assert not set(word.subwords) & set(ids) - set(token_ids(tokenizer, "a , so"))
        assert size + place not in plain.all_special_ids


def test_old_text_is_cut_as_before(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, corpus_text: list[str]
) -> None:
    _, extended = written(tokenizer, tmp_path)
    texts = [
        *corpus_text,
        "",
        "  two  spaces\n\nand lines ",
        "[MASK] <mask> </s> 春天来了",
        "cardio myopathy",
        "x\u200dy",
    ]
    for ours, wanted in zip(TextEncoder(extended)(texts), TextEncoder(tokenizer)(texts), strict=True):
        assert ours.tolist() == wanted.tolist()
    assert extended(texts)["input_ids"] == tokenizer(texts)["input_ids"]


def test_text_with_new_words_differs_in_those_words_alone(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    words, extended = written(tokenizer, tmp_path)
    size = 1 + max(tokenizer.get_vocab().values())
    subwords = {size + place: list(word.subwords) for place, word in enumerate(words)}
    texts = [
        *DOMAIN,
        "diclofenac",
        "Diclofenac-cardiomyopathy, 'diclofenac' diclofenac's\n\n  diclofenac. diclofenac_x x_diclofenac",
        "diclofenacs prediclofenac diclofenac2 diclofenac\u00b2 cardiomyopathycardiomyopathy",
    ]
    for text in texts:
        expanded = [
            subword for number in token_ids(extended, text) for subword in subwords.get(number, [number])
        ]
        if "\u00b2" not in text:  # neither letter nor punctuation: see unmask.vocabulary.tokenizer
            assert expanded == token_ids(tokenizer, text)
        assert extended.decode(token_ids(extended, text)) == tokenizer.decode(expanded)


@pytest.mark.parametrize("name", FAMILIES[:3])
def test_longer_words_that_begin_alike_stay_as_they_were(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    tokenizer = request.getfixturevalue(name)
    _, extended = written(tokenizer, tmp_path)
    text = "the diclofenacs and cardiomyopathyless"
    assert token_ids(extended, text) == token_ids(tokenizer, text)


def test_new_words_are_ordinary_words_for_masking(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    words, extended = written(tokenizer, tmp_path)
    old, new = vocabulary_of(tokenizer), vocabulary_of(extended)
    assert new.size == old.size + len(words)
    assert (new.prefix, new.suffix, new.mask_id, new.pad_id) == (
        old.prefix,
        old.suffix,
        old.mask_id,
        old.pad_id,
    )
    assert old.words is not None
    assert new.words is not None
    for number, word in enumerate(words, start=old.size):
        assert not new.special[number]
        assert number in new.replacements
        assert new.words.opens[number]
        assert new.words.spelling[number].decode() == word.word
    assert (new.special[: old.size] == old.special).all()
    assert (new.words.flags[: old.size] == old.words.flags).all()
    text = "the diclofenac, the cardiomyopathy"
    starts = new.words.starts(TextEncoder(extended)([text])[0])
    assert starts.sum() == old.words.starts(TextEncoder(tokenizer)([text])[0]).sum() == 5


def test_offsets_and_word_ids_cover_the_word(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    _, extended = written(tokenizer, tmp_path)
    size = 1 + max(tokenizer.get_vocab().values())
    text = "the diclofenac, the"
    found = extended(text, return_offsets_mapping=True)
    place = next(place for place, number in enumerate(found["input_ids"]) if number >= size)
    begin, end = found["offset_mapping"][place]
    assert text[begin:end].strip() == "diclofenac"
    assert (
        found.word_ids().count(found.word_ids()[place]) <= 2
    )  # XLM-R's layout knows no borders but white space


def test_a_second_extension_keeps_the_first(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    words, extended = written(tokenizer, tmp_path / "one")
    more = chosen(extended, ["a horseradishes and a horseradishes of horseradishes"])
    again = write_extended(extended, more, tmp_path / "two")
    assert [word.word for word in more] == ["horseradishes"]
    assert len(again) == len(tokenizer) + len(words) + 1
    assert len(token_ids(again, " diclofenac horseradishes")) == 2


def test_the_same_text_gives_the_same_files(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    for name in ("one", "two"):
        written(tokenizer, tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_ids_above_the_unigram_list_stay_where_they_are(
    unigram_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    unigram_tokenizer.save_pretrained(tmp_path / "old")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "old")
    tokenizer.add_tokens(["<extra>"])
    _, extended = written(tokenizer, tmp_path / "new")
    assert extended.get_vocab().items() >= tokenizer.get_vocab().items()
    assert token_ids(extended, "the <extra> boats") == token_ids(tokenizer, "the <extra> boats")


def test_other_models_are_refused(byte_level_tokenizer: PreTrainedTokenizerFast) -> None:
    from tokenizers import Tokenizer, models

    class Fake:
        backend_tokenizer = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))

    with pytest.raises(ConfigError, match="this one is a WordLevel"):
        check_extendable(Fake())  # type: ignore[arg-type]


def test_an_entry_that_no_merge_gives_is_refused(byte_level_tokenizer: PreTrainedTokenizerFast) -> None:
    from tokenizers import Tokenizer

    definition = json.loads(byte_level_tokenizer.backend_tokenizer.to_str())
    definition["model"]["vocab"]["Ġdiclofenac"] = len(byte_level_tokenizer)

    core = Tokenizer.from_str(json.dumps(definition))
    with pytest.raises(ConfigError, match="never give its entry 'Ġdiclofenac'"):
        check_extendable(PreTrainedTokenizerFast(tokenizer_object=core, mask_token="<mask>"))
