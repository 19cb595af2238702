"""Training tokenizers: the same one from the same text, in every writing system, and what it loses is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import Messages
from transformers import AutoTokenizer

from unmask.config.settings import ModelSettings
from unmask.data.tokenizer import TextEncoder, tokenizer_hash, vocabulary_of
from unmask.data.tokenizer_files import BERT_SPECIALS
from unmask.errors import DataError
from unmask.vocabulary.choose import AddedWord
from unmask.vocabulary.new_tokenizer import KINDS, NewTokenizer, train_tokenizer
from unmask.vocabulary.tokenizer import write_extended

MARKED = {
    "Hindi": "घर में कोई नहीं है और वह हिन्दी में लिखता है",
    "Persian": "من می\u200cروم به خانه و کتاب\u200cها را می\u200cخوانم",
    "German": "Ich möchte die Straße überqueren und Äpfel essen",
    "Thai": "ฉันอยากไปเที่ยวที่กรุงเทพ และกินข้าว",
    "Vietnamese": "Tôi muốn học tiếng Việt ở Hà Nội",
    "Korean": "나는 한국어를 배우고 싶습니다",
    "Arabic": "اَلْعَرَبِيَّةُ لُغَةٌ جَمِيلَةٌ",
    "Chinese": "春天来了 花园里的花都开了",
}


def trained(texts: list[str], size: int = 400, **settings: Any) -> NewTokenizer:
    return train_tokenizer(iter(texts), ModelSettings(vocab_size=size, **settings))


def read_back(tokenizer: Any, text: str) -> str:
    found: str = tokenizer.decode(TextEncoder(tokenizer)([text])[0].tolist())
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("language", MARKED)
def test_marks_are_kept(language: str, kind: Any) -> None:
    text = MARKED[language]
    tokenizer, round_trip, _ = trained([text] * 3, tokenizer_kind=kind, case="keep")
    found = read_back(tokenizer, text)
    assert found.replace(" ", "") == text.replace(" ", "")
    if language != "Chinese":
        assert found == text
    loss = round_trip.to_dict()
    assert loss["words"] >= 3 * len(text.split())
    assert (loss["dropped"], loss["changed"], loss["case_only"]) == (0, 0, 0)


def test_a_vocabulary_smaller_than_asked_for_says_so() -> None:
    small = trained(["a few words, a few more"] * 3, size=400)
    messages: list[str] = []
    small.log(Messages(messages))
    assert f"has {len(small.tokenizer)} entries, not the 400 asked for" in messages[0]
    assert small._replace(asked=len(small.tokenizer)).shortfall is None


def test_what_the_settings_remove_is_counted() -> None:
    text = "möchte Äpfel im Café में"
    lower = trained([text] * 2).round_trip.to_dict()
    assert (lower["changed"], lower["case_only"], lower["words"]) == (0, 4, 10)
    tokenizer, round_trip, _ = trained([text] * 2, accents="strip", case="keep")
    assert read_back(tokenizer, text) == "mochte Apfel im Cafe में"
    loss = round_trip.to_dict()
    assert (loss["dropped"], loss["changed"]) == (6, 6)
    assert ["möchte", "mochte"] in loss["examples"]


def test_the_normal_form_decides_what_is_equal() -> None:
    text = "ﬁnd cafe\u0301 Ｗｉｄｅ"
    assert read_back(trained([text] * 2, case="keep").tokenizer, text) == "ﬁnd café Ｗｉｄｅ"
    assert read_back(trained([text] * 2, case="keep", normal_form="nfkc").tokenizer, text) == "find café Wide"
    same = trained([text] * 2, tokenizer_kind="byte-level-bpe", normal_form="none").tokenizer
    assert read_back(same, text) == text


def test_rare_characters_that_get_no_entry_are_counted_as_lost() -> None:
    common, rare = "".join(map(chr, range(0x4E00, 0x4E14))), "".join(map(chr, range(0x9000, 0x9005)))
    loss = trained([common] * 5 + [rare], 100).round_trip.to_dict()
    assert loss["changed"] == 5
    assert [rare[0], "[UNK]"] in loss["examples"]
    assert trained([common] * 5 + [rare], 400).round_trip.to_dict()["changed"] == 0  # there is room for them


def test_chinese_text_keeps_more_than_a_thousand_characters() -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 1500)))
    assert trained([text] * 3, 4000).round_trip.to_dict()["changed"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_berts_in_special_tokens_and_loads_anywhere(
    kind: Any, corpus_text: list[str], tmp_path: Path
) -> None:
    tokenizer = trained(corpus_text, 500, tokenizer_kind=kind).tokenizer
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 4]) == list(BERT_SPECIALS)
    assert len(tokenizer) == 500 or (kind == "unigram" and 250 < len(tokenizer) < 500)
    assert tokenizer("the [MASK] keeper")["input_ids"].count(tokenizer.mask_token_id) == 1
    encoded = tokenizer("The LIGHTHOUSE keeper", "went home")
    names = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    assert names[0] == "[CLS]"
    assert names.count("[SEP]") == 2
    assert set(encoded["token_type_ids"]) == {0, 1}
    wanted = "the old lighthouse keeper" if kind == "wordpiece" else "The old lighthouse keeper"
    assert read_back(tokenizer, "The old lighthouse keeper") == wanted
    ids = np.concatenate(TextEncoder(tokenizer)(corpus_text))
    assert tokenizer.unk_token_id not in ids
    assert len(ids) < 3.5 * sum(len(text.split()) for text in corpus_text)
    tokenizer.save_pretrained(tmp_path)
    assert (
        AutoTokenizer.from_pretrained(tmp_path)(corpus_text)["input_ids"]
        == (tokenizer(corpus_text)["input_ids"])
    )


def test_token_types_are_left_out_where_a_model_has_none(corpus_text: list[str]) -> None:
    tokenizer = train_tokenizer(corpus_text, ModelSettings(vocab_size=300), token_types=False).tokenizer
    assert "token_type_ids" not in tokenizer("a")


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_can_be_added(kind: Any, corpus_text: list[str], tmp_path: Path) -> None:
    tokenizer = trained(corpus_text, 400, tokenizer_kind=kind).tokenizer
    ids = TextEncoder(tokenizer)([" cardiomyopathy"])[0].tolist()
    names = tokenizer.convert_ids_to_tokens(ids)
    entry = names[0] + "".join(name.removeprefix("##") for name in names[1:])
    extended = write_extended(tokenizer, [AddedWord("cardiomyopathy", entry, tuple(ids), 5)], tmp_path)
    assert TextEncoder(extended)([" cardiomyopathy"])[0].tolist() == [vocabulary_of(tokenizer).size]


def test_other_processes_train_the_same_tokenizers(corpus_text: list[str], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n".join(corpus_text), encoding="utf-8")
    script = (
        "import sys; from pathlib import Path; from unmask.config.settings import ModelSettings as T\n"
        "from unmask.data.tokenizer import *; from unmask.vocabulary.new_tokenizer import *\n"
        "lines = Path(sys.argv[1]).read_text(encoding='utf-8').split('\\n')\n"
        "for kind in KINDS:\n"
        "    settings = T(vocab_size=400, tokenizer_kind=kind)\n"
        "    print(tokenizer_hash(train_tokenizer(lines, settings).tokenizer))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "text.txt")]
    # Python orders sets of text in another way in every process, unless told: so it is told two ways.
    environments = [os.environ | {"PYTHONHASHSEED": seed} for seed in ("1", "2")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) for env in environments]
    found = [process.communicate(timeout=120)[0].split() for process in both]
    assert found[0] == found[1]
    assert found[0] == [
        tokenizer_hash(trained(corpus_text, 400, tokenizer_kind=kind).tokenizer) for kind in KINDS
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [[], [""], ["  \n "]])
def test_no_text_gives_no_tokenizer(texts: list[str], kind: Any) -> None:
    with pytest.raises(DataError, match="too small to train a tokenizer on"):
        trained(texts, 300, tokenizer_kind=kind)
