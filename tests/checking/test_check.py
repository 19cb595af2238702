"""`check_data`: what it finds in small texts made for it, and what it must not find."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Messages, understood
from transformers import PreTrainedTokenizerFast

from unmask.checking import duplicates
from unmask.checking.advice import train_command
from unmask.checking.check import check_data
from unmask.checking.fertility import TokenSurvey
from unmask.checking.results import DataCheck
from unmask.config.settings import DocumentSettings
from unmask.data.heldout_size import smaller_documents
from unmask.errors import ConfigError, DataError
from unmask.reporting.format import fertility_text
from unmask.reporting.overlap import overlap_text

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "tasks" / "citation-intent"


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def sentence(seed: int, words: int = 20) -> str:
    """A text of made-up words; two seeds share none of their runs of words."""
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghijklmnop", k=6)) for _ in range(words))


def levels(found: DataCheck, about: str) -> list[str]:
    return [finding.level for finding in found.findings if finding.about == about]


def test_a_clean_text_has_no_problem_and_its_figures(tmp_path: Path) -> None:
    found = check_data([write(tmp_path / "a.txt", *(sentence(seed) for seed in range(30)))])
    assert not {"problem"} & {finding.level for finding in found.findings}
    assert found.read["documents"] == 30
    assert found.read["words"] == 600
    assert found.lengths["quantiles"]["0.5"] == 20
    assert found.duplicates["exact"] == 0
    assert found.leakage is None
    assert json.loads(json.dumps(found.to_dict()))["verdict"] == found.verdict


def test_encoding_faults_are_counted_with_their_lines(tmp_path: Path) -> None:
    lines = [
        "plain words here",
        "caf\xc3\xa9 and it\xe2\u20ac\u2122s mojibake",
        "lost \ufffd sign \ufffd",
        "bell \x07",
        "soft\xadhyphen",
    ]
    encoding = check_data([write(tmp_path / "a.txt", *lines)]).text["encoding"]
    counted = {
        kind: (tally.documents, tally.count, tally.examples[0].line) for kind, tally in encoding.items()
    }
    assert counted == {
        "mojibake": (1, 2, 2),
        "replacement": (1, 2, 3),
        "control": (1, 1, 4),
        "invisible": (1, 1, 5),
    }


@pytest.mark.parametrize(
    "text",
    ["São Paulo, NÃO, Ângela", "Ñandú «Ñ»", "25 °C ± 3 µm", "Это по-русски: да", "naïve café—“quoted”"],
)
def test_proper_text_is_no_mojibake(tmp_path: Path, text: str) -> None:
    assert check_data([write(tmp_path / "a.txt", text)]).text["encoding"]["mojibake"].documents == 0


def test_exact_duplicates_differ_in_case_and_space_only(tmp_path: Path) -> None:
    first = sentence(1)
    lines = [first, sentence(2), first.upper(), first.replace(" ", "  "), sentence(3)]
    found = check_data([write(tmp_path / "a.txt", *lines)]).duplicates
    assert (found["exact"], found["exact_groups"]) == (2, 1)
    (group,) = found["exact_examples"]
    assert (group["copies"], group["first"].line, group["second"].line) == (3, 1, 3)
    assert group["first"].text.startswith(first[:50])


def test_near_duplicates_are_those_of_high_jaccard_similarity(tmp_path: Path) -> None:
    pytest.importorskip("rensa")
    base = [sentence(seed, 100) for seed in range(40)]
    near = [text.replace(text.split()[50], "changed") for text in base[:10]]  # 95 of 101 phrases in common
    half = [
        " ".join([*text.split()[:50], *sentence(900 + n, 50).split()]) for n, text in enumerate(base[10:20])
    ]
    found = check_data([write(tmp_path / "a.txt", *base, *near, *half)]).duplicates
    assert found["exact"] == 0
    assert found["near"]["documents"] == 10
    for row in found["near"]["examples"]:
        assert row["second"].line == row["first"].line + 40


def test_without_the_package_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "can_compare", lambda: False)
    found = check_data([write(tmp_path / "a.txt", sentence(1), sentence(1))])
    assert found.duplicates["near"] is None
    assert found.duplicates["exact"] == 1
    assert "pip install 'unmask[duplicates]'" in " ".join(finding.text for finding in found.findings)


def test_lines_that_recur_in_many_documents_are_boilerplate(tmp_path: Path) -> None:
    blocks = [f"{sentence(seed)}\nAll rights reserved by the publisher.\n" for seed in range(12)]
    found = check_data([write(tmp_path / "a.txt", *blocks)])
    (line,) = found.text["boilerplate"]["examples"]
    assert (line["line"], line["documents"]) == ("All rights reserved by the publisher.", 12)
    assert levels(found, "boilerplate") == ["warning"]


def test_scripts_are_told_apart(tmp_path: Path) -> None:
    lines = [
        *(sentence(seed) for seed in range(8)),
        "Это предложение написано по-русски",
        "春天来了，花园里的花都开了。",
    ]
    found = check_data([write(tmp_path / "a.txt", *lines)])
    assert {row["script"]: row["documents"] for row in found.text["scripts"]} == {
        "Latin": 8,
        "Cyrillic": 1,
        "Han": 1,
    }
    assert sum(row["share_of_letters"] for row in found.text["scripts"]) == pytest.approx(1)
    assert found.read["words"] == 8 * 20 + 5 + 12  # a Chinese character is a word


def test_documents_of_another_script_are_told_by_the_script_of_most_letters(tmp_path: Path) -> None:
    """Also where more documents, all of them short, are in the other script."""
    lines = [
        *(sentence(seed) for seed in range(6)),
        *(f"花园里的花都开了{letter}" for letter in "甲乙丙丁戊己庚辛壬癸"),
    ]
    found = check_data([write(tmp_path / "a.txt", *lines)])
    (said,) = (finding.text for finding in found.findings if finding.about == "scripts")
    assert said.startswith("letters: Latin ")
    assert "10 documents mostly in another script than Latin" in said


def test_personal_data_is_counted_and_never_shown(tmp_path: Path) -> None:
    lines = [
        "write to jane.roe+x@example.org or +44 20 7946 0958",
        "call (555) 867-5309",
        "555-867-5309",
        "pages 123-456 in 10.1000/182",
    ]
    found = check_data([write(tmp_path / "a.txt", *lines, *(sentence(seed) for seed in range(3)))])
    personal = found.text["personal"]
    assert (personal["email"].count, personal["phone"].count) == (1, 3)
    everything = json.dumps(found.to_dict()["text"]["personal"]) + " ".join(
        item.text for item in found.findings
    )
    assert not any(part in everything for part in ("jane", "7946", "5309"))
    assert levels(found, "personal data") == ["warning"]


def test_literal_special_tokens_are_named(tmp_path: Path) -> None:
    found = check_data([write(tmp_path / "a.txt", sentence(1), "a [SEP] b [SEP] c </s>", "x < y [see]")])
    assert {token: tally.count for token, tally in found.text["special_tokens"].items()} == {
        "[SEP]": 2,
        "</s>": 1,
    }
    assert found.text["special_tokens"]["[SEP]"].examples[0].line == 2


# ---------------------------------------------------------------- leakage


def test_leaks_are_found_word_for_word_and_in_runs(tmp_path: Path) -> None:
    texts = [sentence(seed, 30) for seed in range(6)]
    run = " ".join(texts[3].split()[5:18])  # thirteen words of it
    short = " ".join(texts[4].split()[5:17])  # twelve
    train = write(
        tmp_path / "corpus.txt", texts[0], texts[1].upper(), f"before {run} after", f"x {short} y", texts[5]
    )
    test = write(tmp_path / "held.txt", sentence(77, 30), texts[1], texts[3], texts[4])
    found = check_data([train], test=[test])
    assert found.leakage is not None
    (row,) = found.leakage["files"]
    assert (row["documents"], row["exact"], row["overlap"]) == (4, 1, 1)
    exact, overlap = row["pairs"]
    assert (exact["line"], exact["in"], exact["in_line"], exact["kind"]) == (2, str(train), 2, "exact")
    assert (overlap["line"], overlap["in_line"], overlap["text"]) == (3, 3, run)
    assert overlap["share"] == pytest.approx(1 / 18)
    assert found.verdict == "problem"
    assert "1 of 4 texts (25.0%)" in found.findings[0].text


@pytest.mark.parametrize(("shared", "level"), [(60, "problem"), (40, "warning")])
def test_half_of_a_text_in_the_training_text_is_a_leak(tmp_path: Path, shared: int, level: str) -> None:
    text = sentence(3, 100)
    train = write(tmp_path / "corpus.txt", sentence(4), " ".join(text.split()[:shared]))
    found = check_data([train], test=write(tmp_path / "held.txt", text))
    assert found.leakage is not None
    (row,) = found.leakage["files"]
    assert (row["exact"], row["overlap"], row["mostly"]) == (0, 1, int(level == "problem"))
    assert levels(found, "leakage") == [level]
    assert found.verdict == "problem" or level == "warning"


def test_runs_do_not_reach_over_documents(tmp_path: Path) -> None:
    words = sentence(5, 26).split()
    train = write(tmp_path / "a.txt", " ".join(words[:10]), " ".join(words[10:]))
    test = write(tmp_path / "b.txt", " ".join(words[4:20]))
    found = check_data([train], test=[test])
    assert found.leakage is not None
    assert found.leakage["files"][0]["overlap"] == 0
    assert levels(found, "leakage") == ["ok"]


def test_labelled_files_and_the_splits_of_a_folder(tmp_path: Path) -> None:
    for name, seeds in (("train", range(10)), ("dev", range(8, 12)), ("test", range(20, 23))):
        write(
            tmp_path / f"{name}.jsonl", *(json.dumps({"sentence": sentence(n), "label": "x"}) for n in seeds)
        )
    found = check_data([str(tmp_path)], DocumentSettings(text_field="sentence"))
    assert found.leakage is not None
    assert {Path(row["file"]).name: row["exact"] for row in found.leakage["files"]} == {
        "dev.jsonl": 2,
        "test.jsonl": 0,
    }
    assert found.leakage["training_documents"] == 2
    assert found.read["documents"] == 17
    # Only the training file is proposed to train on, with the field it needs.
    (command,) = found.plan["commands"]
    given = understood(command)
    assert given["text"] == [str(tmp_path / "train.jsonl")]
    assert given["text_field"] == "sentence"


def test_a_test_file_among_the_data_does_not_leak_into_itself(tmp_path: Path) -> None:
    test = write(tmp_path / "a.txt", sentence(1))
    train = write(tmp_path / "b.txt", sentence(2))
    found = check_data([str(tmp_path)], test=[tmp_path / ".." / tmp_path.name / "a.txt"])
    assert found.leakage is not None
    assert found.leakage["files"][0]["exact"] == 0
    assert found.leakage["searched"] == 1
    assert understood(found.plan["commands"][-1])["text"] == [str(train)]
    alone = check_data([test], test=[test])
    assert levels(alone, "leakage") == ["problem"]
    assert alone.plan["commands"] == []


@pytest.mark.skipif(not SHARED.is_dir(), reason="the labelled sets of ../shared/data are not here")
def test_citation_intent_leaks(tmp_path: Path) -> None:
    tests = [SHARED / "test.jsonl", SHARED / "dev.jsonl"]
    for found in (check_data([SHARED / "train.jsonl"], test=tests), check_data([SHARED])):
        assert found.leakage is not None
        counts = {Path(row["file"]).name: (row["exact"], row["documents"]) for row in found.leakage["files"]}
        assert counts == {"test.jsonl": (52, 139), "dev.jsonl": (43, 114)}
        assert found.verdict == "problem"


@pytest.mark.parametrize(
    ("case", "verbs"),
    [
        ({}, ["train"]),
        ({"extend": True, "unreadable": True}, ["tokenizer", "train"]),
        ({"tokenizer_only": True}, ["train"]),
        ({"unknown": True}, ["train"]),
    ],
)
def test_the_proposed_commands_are_understood(case: dict[str, Any], verbs: list[str]) -> None:
    settings = DocumentSettings(text_field="the text", documents="line", encoding="latin-1", delimiter=";")
    found = train_command(["my notes/a.csv"], "a model", 3, settings, **{"extend": False} | case)
    assert [command.split()[1] for command in found] == verbs
    for command in found:
        given = understood(command)
        assert given["text"] == ["my notes/a.csv"]
        assert [given[name] for name in ("text_field", "documents", "encoding", "delimiter")] == [
            "the text",
            "line",
            "latin-1",
            ";",
        ]


# ---------------------------------------------------------------- with a model


@pytest.fixture
def modelled(
    tmp_path: Path, corpus_text: list[str], checkpoint: Callable[[str], Path]
) -> Callable[..., DataCheck]:
    def check(*lines: str, **more: Any) -> DataCheck:
        path = write(tmp_path / "text.txt", *(lines or corpus_text))
        return check_data([path], model=str(checkpoint("bert")), **more)

    return check


def test_text_outside_the_vocabulary_is_not_given_to_train_with_that_model(
    modelled: Callable[..., DataCheck], corpus_text: list[str]
) -> None:
    (command,) = modelled("ሰላም ኢትዮጵያ ውሃ", "መጽሐፍ ቤት ልጅ").plan["commands"]
    assert "--preset" in command
    assert "--model" not in command
    plan = modelled(*corpus_text, "ሰላም").plan
    assert "--model" in plan["commands"][-1]
    assert "--model" not in plan["time_from"]


def test_a_model_gives_tokens_fertility_and_the_time(
    modelled: Callable[..., DataCheck], corpus_text: list[str]
) -> None:
    found = modelled()
    assert found.vocabulary is not None
    assert found.read["tokens"] == found.vocabulary["tokens"] >= found.read["words"]
    assert found.lengths["unit"] == "tokens"
    assert found.vocabulary["subwords_per_word"] > 1
    assert found.vocabulary["unknown"]["tokens"] == 0
    first = found.vocabulary["most_split"][0]
    assert first["count"] >= 5
    assert len(first["subwords"]) > 1
    assert "".join(piece.removeprefix("##") for piece in first["subwords"]) == first["word"]
    assert found.plan["tokens_per_second"] > 0
    assert found.plan["epochs"] == 100
    assert "measured" in found.plan["time_from"]


def test_unknown_tokens_are_counted(modelled: Callable[..., DataCheck]) -> None:
    found = modelled(*[f"the weather ☃☃ {'Ω' * 3}"] * 4)
    assert found.vocabulary is not None
    unknown = found.vocabulary["unknown"]
    assert (unknown["tokens"], unknown["documents"]) == (8, 4)
    assert unknown["words"] == [["ΩΩΩ", 4]]
    assert levels(found, "unknown tokens") == ["problem"]
    assert "no word is frequent enough" in next(f.text for f in found.findings if f.about == "fertility")
    assert "sample.jsonl" not in found.plan["time_from"]


@pytest.mark.parametrize(
    ("text", "fertility"),
    [
        ("the weather is of the weather", r"[1-9]\.\d\d subwords per word; "),
        ("the weather is of the weather ΩΩΩ", r"subwords per word, without the 14\.3% of the words that are unknown"),
        ("ΩΩΩ ΩΩΩ ΩΩΩ the", "no fertility: 75.0% of the words"),
        ("ภาษาไทยเขียนติดกัน", "no fertility: 100.0% of the words"),
    ],
)  # fmt: skip
def test_unknown_words_are_no_part_of_fertility(
    modelled: Callable[..., DataCheck], text: str, fertility: str
) -> None:
    found = modelled(*[text] * 4)
    assert re.search(fertility, next(f.text for f in found.findings if f.about == "fertility"))
    # The tokens to train on are those of a tokenizer that knows the text.
    assert found.plan["tokens_estimated"] == fertility.startswith("no fertility")


def test_text_that_does_not_mark_words_has_characters_per_token(
    chinese_tokenizer: PreTrainedTokenizerFast,
) -> None:
    survey = TokenSurvey(chinese_tokenizer)
    survey.add(["天气很好"])
    found = survey.found()
    assert (found["subwords_per_word"], found["characters_per_token"]) == (None, 1.0)
    assert "does not mark words" in str(fertility_text(found))


def test_what_the_limit_does(modelled: Callable[..., DataCheck]) -> None:
    found = modelled("a " * 9 + "a", "a " * 39 + "a", max_length=12)
    assert found.limit is not None
    assert (found.limit["longer"], found.limit["tokens_beyond"], found.limit["sequences"]) == (1, 30, 5)
    with pytest.raises(ConfigError, match="at most"):
        modelled(max_length=100_000)


# ---------------------------------------------------------------- bad input


def test_files_that_cannot_be_read_are_findings(tmp_path: Path) -> None:
    good, latin = write(tmp_path / "good.txt", sentence(1)), tmp_path / "latin.txt"
    latin.write_bytes("na\xefve\n".encode("latin-1"))
    found = check_data([good, latin, str(tmp_path / "absent.txt")])
    assert {Path(item["source"]).name for item in found.unreadable} == {"latin.txt", "absent.txt"}
    assert levels(found, "reading") == ["problem"]
    assert found.read["documents"] == 1
    assert "absent.txt" not in found.plan["commands"][-1]
    assert "--encoding windows-1252" in found.plan["commands"][-1]
    assert "--skip-unreadable" not in found.plan["commands"][-1]
    latin.write_bytes(b"")
    (tmp_path / "broken.jsonl").write_text("{", encoding="utf-8")
    assert "--skip-unreadable" in check_data([good, tmp_path / "broken.jsonl"]).plan["commands"][-1]


def test_records_that_cannot_be_read_are_findings(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json.dumps({"text": sentence(1)}), "{broken")
    found = check_data([path])
    assert found.read["documents"] == 1
    assert levels(found, "reading") == ["problem"]
    assert f"{path}:2" in found.findings[0].text


def test_nothing_readable_raises(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    with pytest.raises(DataError, match=r"empty\.txt"):
        check_data([empty])
    with pytest.raises(DataError, match="absent"):
        check_data([str(tmp_path / "absent.txt")])


def test_a_test_file_that_is_not_there_raises(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent"):
        check_data([write(tmp_path / "a.txt", "text")], test=[str(tmp_path / "absent.txt")])


def test_the_result_does_not_depend_on_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [sentence(seed % 50, 40) for seed in range(120)]
    train, test = (
        write(tmp_path / "a.txt", *lines),
        write(tmp_path / "b.txt", *(sentence(n, 40) for n in range(45, 55))),
    )
    whole = check_data([train], test=[test]).to_dict()
    monkeypatch.setattr("unmask.checking.text._CHUNK_CHARACTERS", 700)
    parts = check_data([train], test=[test]).to_dict()
    for key in ("read", "text", "lengths", "duplicates", "leakage"):
        assert parts[key] == whole[key], key
    assert whole["leakage"]["files"][0]["exact"] == 5


UNSPACED = {
    "dna": ("ACGT", ""),
    "dna, spaced": ("ACGT", " "),
    "protein": ("ACDEFGHIKLMNPQRSTVWY", ""),
    "protein, spaced": ("ACDEFGHIKLMNPQRSTVWY", " "),
    "thai": ("กขคงจชซณดตถทนบปผพภมยรลวสหอ", ""),
    "khmer": ("កខគឃងចឆជឈញដឋឌឍណតថទធន", ""),
    "hiragana": ("あいうえおかきくけこさしすせそたちつてとなにぬねの", ""),
    "chinese": ("春天来了花园里的都开他每早上七点去学校我们在北京住年", ""),
}
unspaced = pytest.mark.parametrize(("letters", "space"), UNSPACED.values(), ids=UNSPACED)


def sequences(letters: str, space: str, count: int, size: int = 400) -> list[str]:
    draw = random.Random(7)
    return [space.join(draw.choices(letters, k=size)) for _ in range(count)]


@unspaced
def test_leaks_are_found_in_text_without_words(tmp_path: Path, letters: str, space: str) -> None:
    *training, foreign, other = sequences(letters, space, 22)
    wide = 1 + len(space)
    part = training[5][40 * wide : 340 * wide]  # behind another beginning, and before another end
    mixed = foreign[: 50 * wide] + part + other[: 50 * wide]
    train = write(tmp_path / "train.txt", *training)
    found = check_data([train], test=[write(tmp_path / "test.txt", mixed, other, training[3])])
    assert found.leakage is not None
    (row,) = found.leakage["files"]
    assert (row["documents"], row["exact"], row["overlap"], row["mostly"], row["short"]) == (3, 1, 1, 1, 0)
    assert row["pairs"][1]["in_line"] == 6


@unspaced
def test_text_of_single_letters_has_no_words(tmp_path: Path, letters: str, space: str) -> None:
    texts = sequences(letters, space, 20)
    found = check_data([write(tmp_path / "a.txt", *texts)])
    if letters.isascii():
        assert found.read["words"] is None
        assert f"{sum(map(len, texts)):,} characters" in repr(found)
        assert found.lengths["unit"] == "characters"
        assert found.lengths["longest"]["length"] == len(texts[0])
        assert found.plan["tokens"] == sum(map(len, texts))
    else:
        assert found.read["words"] is None
        assert "does not mark words" in str(found.findings)


@unspaced
def test_near_duplicates_are_found_in_text_without_words(tmp_path: Path, letters: str, space: str) -> None:
    texts = sequences(letters, space, 20)
    wide = 1 + len(space)
    changed = texts[4][: 200 * wide] + texts[7][0] + texts[4][201 * wide - len(space) :]
    near = check_data([write(tmp_path / "a.txt", *texts, changed)]).duplicates["near"]
    assert near["documents"] == 1
    assert near["short"] == 0
    assert near["examples"][0]["similarity"] > 0.8
    assert [near["examples"][0][side].line for side in ("first", "second")] == [5, 21]


def test_what_is_too_short_to_compare_is_said(tmp_path: Path) -> None:
    train = write(tmp_path / "train.txt", *(sentence(seed) for seed in range(4)))
    test = write(tmp_path / "test.txt", "Only a few words here.", "And some here.", sentence(9))
    found = check_data([train, write(tmp_path / "more.txt", "Short.")], test=[test])
    (leak,) = (finding for finding in found.findings if finding.about == "leakage")
    assert leak.level == "note"
    assert leak.text.endswith("; 2 have fewer than 13 words: compared only as a whole")
    assert "1 of 5 documents (20.0%) has fewer than 10 words" in str(found.findings)


@pytest.mark.parametrize(
    ("papers", "sentences", "said_first"),
    [(12, 8, "too few documents (3) for an interval"), (44, 8, ""), (44, 1, "perhaps"), (100, 1, "perhaps")],
)
def test_too_few_documents_for_an_interval_are_warned_of(
    tmp_path: Path, papers: int, sentences: int, said_first: str
) -> None:
    names = [
        f"Paper {number} is about the number {number * number}. " * sentences for number in range(papers)
    ]
    found = check_data([write(tmp_path / "text.txt", *names)])
    said = [finding.text for finding in found.findings if finding.about == "held-out text"]
    assert len(said) == bool(said_first)
    assert all(text.startswith(said_first) for text in said)
    if said_first == "perhaps":  # a sentence of which no token is masked has no metric
        enough = int(re.search(r"([\d,]+) documents would be enough", said[0])[1].replace(",", ""))
        assert enough > 200
    assert not any("--documents" in text for text in said)  # they are lines already


def test_smaller_documents_are_proposed_where_there_are_any() -> None:
    assert smaller_documents({"file": 3, "block": 1}) == "smaller documents (--documents line or block)"
    assert smaller_documents({"block": 1}) == "smaller documents (--documents line)"
    assert smaller_documents({}) is None  # records


def test_a_hint_names_test_files_only_where_there_are_any() -> None:
    found = {"same": 1, "near": 0, "documents": 9, "run": 10}
    assert "'unmask check TEXT --test PATH' names them" in str(overlap_text("general", found))
    assert "unmask check" not in str(overlap_text("general", found | {"split_off": True}))


def test_the_speed_is_measured_last_and_said_before(
    checkpoint: Callable[[str], Path], corpus_text: list[str], tmp_path: Path
) -> None:
    order: list[str] = []
    path = write(tmp_path / "text.txt", *corpus_text)
    found = check_data(
        [path],
        model=str(checkpoint("bert")),
        on_found=lambda found: order.append(f"{len(found.findings)} findings"),
        progress=Messages(order),
    )
    said, measuring = order[-2:]
    assert said == f"{len(found.findings)} findings"
    assert measuring.startswith("measuring the speed of training")
    assert found.plan["tokens_per_second"] > 0


def test_the_speed_is_measured_on_a_short_text_too_and_a_failure_is_said(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    said: list[str] = []
    model = str(checkpoint("bert"))
    found = check_data([write(tmp_path / "text.txt", "The river.")], model=model, progress=Messages(said))
    assert found.plan["time_from"] == (
        "a training step of 2,048 tokens, measured here, of repeated text, since there is little"
    )
    assert not any("could not be measured" in line for line in said)
    unknown = check_data([write(tmp_path / "text.txt", "\u6cb3\u6d41")], model=model, progress=Messages(said))
    assert any("the speed could not be measured" in line and "unknown" in line for line in said)
    assert "matrix products" in unknown.plan["time_from"]


@pytest.mark.parametrize(
    ("text", "model"),
    [("Река несла письмо до зимы, and on.", "xlm-roberta-base"), ("The river.", "bert-base-uncased")],
)
def test_the_proposed_model_knows_the_script(text: str, model: str, tmp_path: Path) -> None:
    plan = check_data([write(tmp_path / "text.txt", text)]).plan
    assert understood(plan["commands"][-1])["model"] == model
    assert ("of the letters are Cyrillic" in str(plan["why_model"])) == (model == "xlm-roberta-base")


def test_text_is_looked_for_before_the_model() -> None:
    with pytest.raises(DataError, match=r"nowhere\.txt: no such file"):
        check_data("nowhere.txt", model="no-folder/of-a-model")
