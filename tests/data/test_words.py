"""Word maps: where words begin, read off token ids alone, for every family of tokenizers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from unmask.data.tokenizer import TextEncoder, vocabulary_of, with_segmenter
from unmask.data.words import SegmentedWords, WordTables, word_tables
from unmask.errors import ConfigError

FAMILIES = ["wordpiece", "byte_level", "modernbert", "unigram", "chinese"]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Any:
    """A tokenizer of every family."""
    return request.getfixturevalue(f"{request.param}_tokenizer")


def words_of(tokenizer: Any, text: str) -> list[str]:
    """Return the words that the word map makes of a text's ids."""
    tables = vocabulary_of(tokenizer).words
    assert tables is not None
    return split_words(tables, TextEncoder(tokenizer)([text])[0])


def split_words(tables: WordTables, ids: np.ndarray) -> list[str]:
    starts = np.flatnonzero(tables.starts(ids)).tolist()
    return [tables.text(ids[a:b].tolist()) for a, b in zip(starts, [*starts[1:], len(ids)], strict=True)]


def made(*entries: str, **definition: Any) -> tuple[WordTables | None, dict[str, int]]:
    """Return the word tables of a made-up vocabulary; entries like `[THIS]` are special."""
    tokens = {entry: number for number, entry in enumerate(entries)}
    special = np.array([entry.startswith("[") and entry.endswith("]") for entry in entries])
    return word_tables(json.dumps(definition), tokens, special), tokens


# --- families -----------------------------------------------------------------------------------------------------

SENTENCE = "The unbelievably patient translator counterbalanced the microscope"


def test_words_are_what_spaces_part(family: Any) -> None:
    found = words_of(family, SENTENCE)
    assert [word.lower() for word in found] == SENTENCE.lower().split()


def test_words_of_several_tokens_are_one(family: Any) -> None:
    text = "unbelievable lighthouses untranslated"
    assert len(TextEncoder(family)([text])[0]) > 3
    assert words_of(family, text) == text.split()


def test_punctuation_is_a_word_of_its_own(request: pytest.FixtureRequest) -> None:
    for family in ("wordpiece", "byte_level", "modernbert", "chinese"):
        tokenizer = request.getfixturevalue(f"{family}_tokenizer")
        found = [word.lower() for word in words_of(tokenizer, "two letters (at least), and home.")]
        # Byte-level vocabularies may hold signs that stand together as one entry.
        assert "".join(found) == "twoletters(atleast),andhome."
        assert [word for word in found if word.isalpha()] == [
            "two",
            "letters",
            "at",
            "least",
            "and",
            "home",
        ], family


def test_a_word_in_brackets_is_no_other_than_the_word(
    wordpiece_tokenizer: Any, byte_level_tokenizer: Any
) -> None:
    for tokenizer in (wordpiece_tokenizer, byte_level_tokenizer):
        assert words_of(tokenizer, "(the) fox")[:3] == ["(", "the", ")"]


def test_hyphens_and_apostrophes_part_words(wordpiece_tokenizer: Any, modernbert_tokenizer: Any) -> None:
    assert words_of(wordpiece_tokenizer, "Captain O'Brien's state-of-the-art") == [
        *("captain", "o", "'", "brien", "'", "s"),
        *("state", "-", "of", "-", "the", "-", "art"),
    ]
    assert words_of(modernbert_tokenizer, "anti-slavery it's") == ["anti", "-", "slavery", "it", "'s"]


def test_accents_and_numbers_do_not_part_words(byte_level_tokenizer: Any, wordpiece_tokenizer: Any) -> None:
    assert words_of(byte_level_tokenizer, "the naïve café of 1860") == ["the", "naïve", "café", "of", "1860"]
    assert words_of(wordpiece_tokenizer, "naïve 1860") == ["naive", "1860"]


def test_a_chinese_character_is_a_word(chinese_tokenizer: Any, byte_level_tokenizer: Any) -> None:
    assert words_of(chinese_tokenizer, "春天来了，花园") == ["春", "天", "来", "了", "，", "花", "园"]
    # Here every character is three tokens, one for each byte.
    assert len(TextEncoder(byte_level_tokenizer)(["春天"])[0]) == 6
    assert words_of(byte_level_tokenizer, "春天") == ["春", "天"]
    assert words_of(byte_level_tokenizer, "the 春天 river") == ["the", "春", "天", "river"]


@pytest.mark.parametrize("family", ["byte_level", "modernbert"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("“Nobody slept”, he said", ["“", "Nobody", "slept", "”", ",", "he", "said"]),
        ("one—two…three", ["one", "—", "two", "…", "three"]),
        ("«да»нет", ["«", "да", "»", "нет"]),
        ("¿qué? ¡sí!", ["¿", "qué", "?", "¡", "sí", "!"]),
        ("春“天”a京b", ["春", "“", "天", "”", "a", "京", "b"]),
        ("में। हम", ["में", "।", "हम"]),
        ("ไทย", ["ไทย"]),
        ("🙂ok 🙂", ["🙂", "ok", "🙂"]),
    ],
)
def test_a_sign_of_several_byte_tokens_is_a_word_and_a_letter_is_part_of_one(
    family: str, text: str, words: list[str], request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(f"{family}_tokenizer")
    found = words_of(tokenizer, text)
    # The pre-tokenizer may join signs that stand together, and vocabularies learn that.
    assert "".join(found) == text.replace(" ", "")
    assert found == words


def test_a_sign_of_several_bytes_parts_words_with_byte_fallback_too() -> None:
    spread = [f"<0x{byte:02X}>" for byte in "“”é".encode()]
    entries = ["▁", "he", "said", *dict.fromkeys(spread)]
    tables, tokens = made(
        *entries,
        model={"type": "BPE", "vocab": {}, "byte_fallback": True},
        pre_tokenizer={"type": "Metaspace"},
    )
    assert tables is not None
    sequence = ["▁", *spread[:3], "he", *spread[3:6], "said", *spread[6:], "he"]
    ids = np.array([tokens[entry] for entry in sequence])
    assert split_words(tables, ids) == ["“", "he", "”", "saidéhe"]


def test_a_mark_that_stands_alone_is_part_of_the_word_behind_it() -> None:
    tables, _ = made(
        *("▁", "(", "春", "▁the", "[END]", "re"),
        model={"type": "Unigram", "vocab": []},
        decoder={"type": "Metaspace"},
    )
    assert tables is not None
    ids = np.array([0, 1, 0, 2, 0, 3, 0, 4, 0, 5])
    assert np.flatnonzero(tables.starts(ids)).tolist() == [0, 2, 4, 5, 6, 7, 8]


def test_special_tokens_are_words_of_their_own(family: Any) -> None:
    found = vocabulary_of(family)
    assert found.words is not None
    for special in family.all_special_ids:
        around = TextEncoder(family)(["the river", "measured"])
        ids = np.concatenate([around[0], [special], around[1]])
        starts = found.words.starts(ids)
        place = len(around[0])
        assert starts[place]
        assert starts[place + 1]


def test_a_byte_in_the_middle_of_a_character_begins_no_word_but_after_a_special_token(
    byte_level_tokenizer: Any,
) -> None:
    found = vocabulary_of(byte_level_tokenizer)
    assert found.words is not None
    ids = TextEncoder(byte_level_tokenizer)(["é" * 3])[0]
    assert found.words.starts(ids).tolist() == [True] + [False] * (len(ids) - 1)
    rest = np.concatenate([found.prefix, TextEncoder(byte_level_tokenizer)(["春"])[0][1:]])
    assert found.words.starts(rest).tolist() == [True, True, False]


def test_the_map_of_a_text_does_not_depend_on_where_it_is_cut_between_words(family: Any) -> None:
    tables = vocabulary_of(family).words
    assert tables is not None
    encode = TextEncoder(family)

    @budget(max_examples=30)
    @given(
        st.lists(
            st.sampled_from(["Dr.", "naïve", "(a)", "春天", "anti-slavery", "1,250", "🙂", "…"]), min_size=1
        )
    )
    def check(parts: list[str]) -> None:
        ids = encode([" ".join(parts)])[0]
        starts = tables.starts(ids)
        for at in np.flatnonzero(starts).tolist():
            assert np.array_equal(tables.starts(ids[at:]), starts[at:])

    check()


def test_no_tokens_have_no_words(family: Any) -> None:
    tables = vocabulary_of(family).words
    assert tables is not None
    assert tables.starts(np.zeros(0, dtype=np.int64)).shape == (0,)


# --- made-up vocabularies -----------------------------------------------------------------------------------------


def test_bytes_of_a_vocabulary_with_byte_fallback_are_read_as_bytes() -> None:
    spread = [f"<0x{byte:02X}>" for byte in "é".encode() + "春".encode()]
    entries = ["▁caf", *spread, "▁the", "<0x2C>"]
    model = {"type": "BPE", "vocab": {}, "byte_fallback": True}
    tables, tokens = made(*entries, model=model, pre_tokenizer={"type": "Metaspace"})
    assert tables is not None
    ids = np.array([tokens[entry] for entry in ["▁caf", *spread[:2], "▁the", "<0x2C>", *spread[2:]]])
    assert split_words(tables, ids) == ["café", "the", ",", "春"]


def test_entries_are_named_by_the_text_of_their_bytes() -> None:
    alphabet = {
        "Ġcaf\u00c3\u00a9": "Ġcafé",
        "\u00c3": r"\xc3",
        "Ġthe": "Ġthe",
        "[END]": "[END]",
        "Ġ": "Ġ",
        "ĠĠa": "ĠĠa",
    }
    tables, tokens = made(*alphabet, model={"type": "BPE", "vocab": {}}, pre_tokenizer={"type": "ByteLevel"})
    assert tables is not None
    assert {entry: tables.name(number, entry) for entry, number in tokens.items()} == alphabet
    for entries, definition in (
        (["##é", "é"], {"model": {"type": "WordPiece", "vocab": {}, "continuing_subword_prefix": "##"}}),
        (
            ["▁é", "▁of▁the", "▁"],
            {"model": {"type": "Unigram", "vocab": []}, "decoder": {"type": "Metaspace"}},
        ),
    ):
        tables, tokens = made(*entries, **definition)
        assert tables is not None
        assert [tables.name(number, entry) for entry, number in tokens.items()] == entries


def test_a_suffix_that_ends_words_is_read() -> None:
    model = {"type": "BPE", "vocab": {}, "end_of_word_suffix": "</w>"}
    tables, _ = made("hou", "se</w>", "the</w>", ".</w>", model=model)
    assert tables is not None
    assert split_words(tables, np.array([2, 0, 1, 3])) == ["the", "house", "."]


def test_a_prefix_that_continues_words_is_read_with_any_model() -> None:
    model = {"type": "BPE", "vocab": {}, "continuing_subword_prefix": "@@"}
    tables, _ = made("hou", "@@se", "the", model=model)
    assert tables is not None
    assert split_words(tables, np.array([2, 0, 1])) == ["the", "house"]


def test_a_space_inside_a_piece_is_a_space() -> None:
    tables, _ = made("▁of▁the", "▁", model={"type": "Unigram", "vocab": []}, decoder={"type": "Metaspace"})
    assert tables is not None
    assert tables.text([0, 1]) == "of the"


@pytest.mark.parametrize(
    "definition",
    [
        {"model": {"type": "WordLevel", "vocab": {"a": 0}}},
        {"model": {"type": "BPE", "vocab": {"a": 0}}, "pre_tokenizer": {"type": "Whitespace"}},
        {"model": {"type": "WordPiece", "vocab": {"a": 0}, "continuing_subword_prefix": ""}},
    ],
)
def test_a_vocabulary_without_marks_has_no_words(definition: dict[str, Any]) -> None:
    assert made("a", **definition)[0] is None


# --- a word segmenter ---------------------------------------------------------------------------------------------

CHINESE_WORDS = ["春天", "来了", "，", "花园", "里", "的", "花", "都", "开了", "。"]


def by_list(text: str) -> list[str]:
    """Cut from the left by the longest word of a list."""
    found = []
    while text:
        word = max((w for w in CHINESE_WORDS if text.startswith(w)), key=len, default=text[0])
        found.append(word)
        text = text[len(word) :]
    return found


def segmented(tokenizer: Any, segment: Any = by_list) -> SegmentedWords:
    words = with_segmenter(vocabulary_of(tokenizer), segment).words
    assert isinstance(words, SegmentedWords)
    return words


def test_a_segmenter_joins_characters_to_words(chinese_tokenizer: Any, byte_level_tokenizer: Any) -> None:
    for tokenizer in (chinese_tokenizer, byte_level_tokenizer):
        ids = TextEncoder(tokenizer)(["春天来了，花园里的花都开了。 the river 花园里"])[0]
        assert split_words(segmented(tokenizer), ids) == [*CHINESE_WORDS, "the", "river", "花园", "里"]


def test_a_segmenter_sees_chinese_only(chinese_tokenizer: Any) -> None:
    seen: list[str] = []

    def listen(text: str) -> list[str]:
        seen.append(text)
        return [text]

    ids = TextEncoder(chinese_tokenizer)(["the 春天, a 花园"])[0]
    assert split_words(segmented(chinese_tokenizer, listen), ids) == ["the", "春天", ",", "a", "花园"]
    assert seen == ["春天", "花园"]


def test_a_segmenter_that_changes_the_text_is_refused(chinese_tokenizer: Any) -> None:
    ids = TextEncoder(chinese_tokenizer)(["春天"])[0]
    with pytest.raises(ConfigError, match="must split its text without changing it; of '春天' it made"):
        segmented(chinese_tokenizer, lambda text: [text[0]]).starts(ids)


def test_a_segmenter_needs_a_tokenizer_with_words(chinese_tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="needs a tokenizer that marks where words begin"):
        with_segmenter(replace(vocabulary_of(chinese_tokenizer), words=None), by_list)
