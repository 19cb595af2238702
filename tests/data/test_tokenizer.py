"""Tokenizers: special tokens that text cannot write, and clear refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask.data.tokenizer import (
    TextEncoder,
    load_tokenizer,
    plain_copy,
    tokenizer_hash,
    vocabulary_of,
)
from unmask.errors import ConfigError
from unmask.progress import Progress

FAMILIES = ["wordpiece", "byte_level", "modernbert", "unigram", "chinese"]
LITERALS = ["[SEP]", "[CLS]", "[MASK]", "[PAD]", "<s>", "</s>", "<pad>", "<mask>"]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Any:
    """A tokenizer of every family."""
    return request.getfixturevalue(f"{request.param}_tokenizer")


# --- loading ------------------------------------------------------------------------------------------------------


def test_a_saved_tokenizer_loads_as_it_was(family: Any, tmp_path: Path) -> None:
    family.save_pretrained(tmp_path)
    assert tokenizer_hash(load_tokenizer(str(tmp_path), offline=True)) == tokenizer_hash(family)


@pytest.mark.parametrize("name", ["nowhere/at-all", "no-such-folder"])
def test_a_tokenizer_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^no tokenizer could be loaded from '{name}': ") as caught:
        load_tokenizer(name, offline=True)
    assert "\n" not in str(caught.value)
    assert f"there is no folder {name}; it is not, or not whole, in the local cache" in str(caught.value)
    assert "the Hub was not asked, because --offline or HF_HUB_OFFLINE is set. Check the spelling" in str(
        caught.value
    )


def test_a_tokenizer_without_a_mask_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]").save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"has no mask token; masked language modelling needs one"):
        load_tokenizer(str(tmp_path), offline=True)


# --- text is text -------------------------------------------------------------------------------------------------


def test_control_tokens_in_a_text_are_text(family: Any) -> None:
    control = {family.mask_token_id, family.cls_token_id, family.sep_token_id, family.pad_token_id}
    for literal in LITERALS:
        for text in (literal, f"the {literal} river", f"the{literal}river", literal * 3):
            ids = TextEncoder(family)([text])[0].tolist()
            assert not control & set(ids), text
            assert ids


def test_a_mask_can_be_read_and_no_other_control_token(family: Any) -> None:
    core = plain_copy(family, read_mask=True)
    text = " ".join(["the", family.mask_token, family.sep_token, family.cls_token, family.pad_token])
    ids = core.encode(text, add_special_tokens=False).ids
    assert ids.count(family.mask_token_id) == 1
    assert not {family.cls_token_id, family.sep_token_id, family.pad_token_id} & set(ids)


def test_encoding_leaves_the_tokenizer_as_it_was_and_ignores_its_limits(family: Any) -> None:
    before = family.backend_tokenizer.to_str()
    text = "the river and the lighthouse " * 100
    family.backend_tokenizer.enable_truncation(8)
    try:
        (ids,) = TextEncoder(family)([text])
    finally:
        family.backend_tokenizer.no_truncation()
    assert len(ids) > 400
    assert family.backend_tokenizer.to_str() == before


def test_an_encoder_says_the_same_as_the_tokenizer(family: Any, corpus_text: list[str]) -> None:
    for text, ids in zip(corpus_text[:50], TextEncoder(family)(corpus_text[:50]), strict=True):
        assert ids.dtype == np.int64
        assert ids.tolist() == family(text, add_special_tokens=False)["input_ids"]


# --- the vocabulary -----------------------------------------------------------------------------------------------


def test_the_frame_is_what_the_tokenizer_puts_around_a_text(family: Any) -> None:
    found = vocabulary_of(family)
    ids = family("the river")["input_ids"]
    body = family("the river", add_special_tokens=False)["input_ids"]
    assert [*found.prefix, *body, *found.suffix] == ids
    assert found.overhead == 2


def test_special_and_unknown_tokens_are_no_text(family: Any) -> None:
    found = vocabulary_of(family)
    assert found.special[family.all_special_ids].all()
    assert found.special[family.unk_token_id]
    assert found.special.sum() == len(set(family.all_special_ids))
    assert not found.special[found.replacements].any()
    assert found.mask_id == family.mask_token_id
    assert found.pad_id == family.pad_token_id
    assert len(found.special) == found.size == len(family)
    assert len(found.replacements) + found.special.sum() == found.size


def test_an_unknown_token_that_nobody_declared_is_found() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    pieces = [("a", -1.0), ("what", -2.0), ("[MASK]", 0.0)]
    entries = {"a": 0, "what": 1, "[MASK]": 2}
    for core in (models.Unigram(pieces, unk_id=1), models.WordPiece(entries, unk_token="what")):
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(core), mask_token="[MASK]")
        assert vocabulary_of(tokenizer).special.tolist() == [False, True, True]


def test_placeholders_are_no_replacements() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    entries = ["[UNK]", "[MASK]", "[unused0]", "[unused17]", "river", "<extra_id_3>", "madeupword0001", "##s"]
    core = Tokenizer(models.WordPiece({e: n for n, e in enumerate(entries)}, unk_token="[UNK]"))
    found = vocabulary_of(
        PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", mask_token="[MASK]")
    )
    assert [entries[n] for n in found.replacements] == ["river", "##s"]


def test_the_hash_tells_tokenizers_apart_but_not_their_limits(
    family: Any, request: pytest.FixtureRequest
) -> None:
    hashes = {tokenizer_hash(request.getfixturevalue(f"{name}_tokenizer")) for name in FAMILIES}
    assert len(hashes) == len(FAMILIES)
    before = tokenizer_hash(family)
    family.backend_tokenizer.enable_truncation(8)
    after = tokenizer_hash(family)
    family.backend_tokenizer.no_truncation()
    assert before == after


# --- what a folder lacks, and what it does not say ----------------------------------------------------------------

CONFIG_ONLY = ["bert", "roberta", "distilbert", "electra", "albert", "deberta-v2", "modernbert", "eurobert"]
CASED = ["The", "Paris", "Madame", "Wien", "the", "river", "##s", "##ing", "naïve", "café", "Über", "über"]


class Listener(Progress):
    """Remembers what was logged."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def log(self, text: str) -> None:
        self.heard.append(text)


def vocabulary_folder(folder: Path, entries: list[str], **stated: Any) -> Path:
    """A BERT folder with a `vocab.txt`, and a `tokenizer_config.json` if anything is stated."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_bytes("\n".join([*specials, *entries, ""]).encode())
    (folder / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    if stated:
        (folder / "tokenizer_config.json").write_text(json.dumps(stated), encoding="utf-8")
    return folder


@pytest.mark.parametrize("model_type", CONFIG_ONLY)
def test_a_folder_without_tokenizer_files_is_refused(tmp_path: Path, model_type: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"holds no tokenizer files \(tokenizer.json, vocab.txt") as caught:
        load_tokenizer(str(tmp_path), offline=True)
    assert "\n" not in str(caught.value)
    assert "tokenizer.save_pretrained(" in str(caught.value)


def test_a_vocabulary_of_special_tokens_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it has 5 special tokens and no entries for text"):
        load_tokenizer(str(vocabulary_folder(tmp_path, [])), offline=True)


@pytest.mark.parametrize("alphabet", ["ACGT", "ACDEFGHIKLMNPQRSTVWY"])
def test_a_vocabulary_of_a_few_letters_is_one(tmp_path: Path, alphabet: str) -> None:
    tokenizer = load_tokenizer(str(vocabulary_folder(tmp_path, list(alphabet))), offline=True)
    assert tokenizer.tokenize("A C") == ["A", "C"]


def test_a_vocabulary_far_smaller_than_the_model_is_refused(tmp_path: Path) -> None:
    folder = vocabulary_folder(tmp_path, CASED)
    config = {"model_type": "bert", "vocab_size": 30522}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"has 17 entries but the model 30,522 rows of embeddings"):
        load_tokenizer(str(folder), offline=True)


def test_a_vocabulary_much_smaller_than_the_model_is_a_warning(tmp_path: Path) -> None:
    folder, progress = vocabulary_folder(tmp_path, [f"word{n}" for n in range(4000)]), Listener()
    config = {"model_type": "bert", "vocab_size": 7000}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    load_tokenizer(str(folder), offline=True, progress=progress)
    assert "has 4,005 entries but the model 7,000 rows of embeddings" in progress.heard[-1]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda text: "\ufeff" + text, "begins with a byte order mark"),
        (lambda text: text + "\n", "line 18 of .* is blank"),
        (lambda text: text.replace("\n", "\n\n", 1), "line 2 of .* is blank"),
        (lambda text: text.replace("[MASK]\n", ""), r"lacks \[MASK\]"),
    ],
)
def test_why_a_vocabulary_has_too_many_entries(
    tmp_path: Path, change: Callable[[str], str], cause: str
) -> None:
    folder = vocabulary_folder(tmp_path, CASED)
    text = (folder / "vocab.txt").read_text(encoding="utf-8")
    config = {"model_type": "bert", "vocab_size": 17 - ("MASK" in cause)}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    load_tokenizer(str(folder / "vocab.txt"))
    (folder / "vocab.txt").write_text(change(text), encoding="utf-8")
    with pytest.raises(ConfigError, match=f"1 too many: .*{cause}"):
        load_tokenizer(str(folder), offline=True)


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json"])
def test_a_git_lfs_pointer_is_no_tokenizer(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ConfigError, match=f"{name}: this is a Git LFS pointer, .* run git lfs pull"):
        load_tokenizer(str(tmp_path), offline=True)


def test_a_cased_vocabulary_is_cased_in_a_folder_and_by_itself(tmp_path: Path) -> None:
    folder = vocabulary_folder(tmp_path, CASED)
    progress = Listener()
    loaded = load_tokenizer(str(folder), offline=True, progress=progress)
    assert loaded.tokenize("The naïve Über") == ["The", "naïve", "Über"]
    assert tokenizer_hash(loaded) == tokenizer_hash(load_tokenizer(str(folder / "vocab.txt")))
    assert len(progress.heard) == 1
    assert "by its vocabulary, text keeps its case" in progress.heard[0]
    loaded.save_pretrained(tmp_path / "saved")
    assert tokenizer_hash(load_tokenizer(str(tmp_path / "saved"), offline=True)) == tokenizer_hash(loaded)


def test_tokenizer_json_says_whether_a_vocabulary_is_cased(tmp_path: Path) -> None:
    made = load_tokenizer(str(vocabulary_folder(tmp_path, CASED) / "vocab.txt"))
    made.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    (tmp_path / "saved" / "tokenizer_config.json").unlink()
    assert load_tokenizer(str(tmp_path / "saved"), offline=True).tokenize("The Über") == ["The", "Über"]


def test_an_uncased_vocabulary_with_accents_keeps_them(tmp_path: Path) -> None:
    entries = ["möchte", "mochte", "fluss", "में", "म", "##े", "##ं"]
    for name in (".", "vocab.txt"):
        tokenizer = load_tokenizer(str(vocabulary_folder(tmp_path, entries) / name), offline=True)
        assert tokenizer.tokenize("Möchte FLUSS में") == ["möchte", "fluss", "में"]


def test_what_the_folder_states_stands_and_lost_entries_are_a_warning(tmp_path: Path) -> None:
    folder = vocabulary_folder(tmp_path, CASED, do_lower_case=True)
    progress = Listener()
    tokenizer = load_tokenizer(str(folder), offline=True, progress=progress)
    assert tokenizer.tokenize("The river") == ["the", "river"]
    (heard,) = progress.heard
    assert "warning: 73% of the vocabulary" in heard
    assert "can never occur in text, for example" in heard


def test_a_usual_vocabulary_is_no_warning(family: Any, tmp_path: Path) -> None:
    family.save_pretrained(tmp_path)
    progress = Listener()
    load_tokenizer(str(tmp_path), offline=True, progress=progress)
    assert progress.heard == []


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d"])
def test_only_line_feeds_end_the_entries_of_a_vocabulary(tmp_path: Path, separator: str) -> None:
    entries = ["a", f"##{separator}", separator, "river", "boat"]
    folder = vocabulary_folder(tmp_path, entries)
    alone, whole = load_tokenizer(str(folder / "vocab.txt")), load_tokenizer(str(folder), offline=True)
    assert alone.convert_tokens_to_ids(["river", "boat"]) == [8, 9]
    assert tokenizer_hash(alone) == tokenizer_hash(whole)


def test_another_file_than_a_vocabulary_is_refused_with_its_folder(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"give the folder {tmp_path} of tokenizer.json"):
        load_tokenizer(str(tmp_path / "tokenizer.json"))


def test_a_hub_out_of_reach_is_asked_for_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nothing listens
    waits: list[float] = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", waits.append)
    with pytest.raises(ConfigError, match="cannot be reached, and it is not in the local cache"):
        load_tokenizer("nobody/nothing")
    assert len(waits) == 5  # the library tries again for each file that it is asked for
