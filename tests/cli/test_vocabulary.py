"""``unmask tokenizer extend``, from the command line to a folder that everything else takes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

import unmask
from unmask.cli.main import main
from unmask.errors import ConfigError
from unmask.vocabulary.extend import extend_vocabulary

Checkpoint = Callable[[str], Path]
Run = Callable[..., tuple[int, str, str]]
LINE = "The cardiomyopathy of {} patients is an echocardiogramme, or diclofenac {}.\n"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Return `run(*arguments)`: `unmask tokenizer extend` in an empty folder gives code, stdout and stderr."""
    before = dict(os.environ)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["tokenizer", "extend", *map(str, arguments)])
        return (code, *capsys.readouterr())

    yield call
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def domain(tmp_path: Path) -> Path:
    path = tmp_path / "domain.txt"
    path.write_text("".join(LINE.format(number, number % 7) for number in range(200)), encoding="utf-8")
    return path


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert", "albert", "deberta-v2"])
def test_the_folder_is_a_model_for_plain_transformers(
    run: Run, domain: Path, checkpoint: Checkpoint, tmp_path: Path, architecture: str
) -> None:
    old = checkpoint(architecture)
    code, out, err = run(domain, "--model", old, "-o", "new", "--add", 3, "--documents", "line", "--json")
    answer = json.loads(out)
    assert code == 0, err
    assert {"cardiomyopathy", "echocardiogramme"} <= {word["word"] for word in answer["words"]}
    assert answer["held_out"]
    assert answer["changed_documents"] == 0
    assert answer["after"]["fertility"] < answer["before"]["fertility"]
    assert answer["after"]["tokens_per_byte"] < answer["before"]["tokens_per_byte"]
    tokenizer = AutoTokenizer.from_pretrained("new")
    model = AutoModelForMaskedLM.from_pretrained("new").eval()
    before = AutoModelForMaskedLM.from_pretrained(old).eval()
    ids = AutoTokenizer.from_pretrained(old)("Three small boats.", return_tensors="pt")
    again = tokenizer("Three small boats.", return_tensors="pt")
    assert torch.equal(ids["input_ids"], again["input_ids"])
    with torch.no_grad():
        expected, found = before(**ids).logits, model(**again).logits
    torch.testing.assert_close(found[..., : expected.shape[-1]], expected)
    for word in answer["words"]:
        assert tokenizer(f"a {word['word']}", add_special_tokens=False)["input_ids"][-1] == word["id"]
        torch.testing.assert_close(found[..., word["id"]], expected[..., word["pieces"]].mean(-1))
    assert json.loads(Path("new/added_words.json").read_text(encoding="utf-8"))["words"] == answer["words"]


LIST = "cardiomyopathy\n\n  echocardiogramme \nheart failure\nthe\n心不全\ncardiomyopathy\n"
REASONS = {
    "heart failure": "more than one word",
    "the": "one token already",
    "心不全": "without spaces",
    "cardiomyopathy": "in the list twice",
}


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert", "albert", "deberta-v2"])
def test_listed_words_are_added_and_the_others_have_a_reason(
    run: Run, domain: Path, checkpoint: Checkpoint, architecture: str
) -> None:
    old = checkpoint(architecture)
    Path("words.txt").write_text(LIST, encoding="utf-8")
    code, out, err = run("--words", "words.txt", "--model", old, "-o", "alone", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert [word["given"] for word in answer["words"]] == ["cardiomyopathy", "echocardiogramme"]
    assert {row["word"]: row["reason"] for row in answer["left_out"]}.keys() == REASONS.keys()
    assert all(REASONS[row["word"]] in row["reason"] for row in answer["left_out"])
    assert answer["before"] is None
    assert answer["after"] is None
    before, tokenizer = (AutoTokenizer.from_pretrained(folder) for folder in (old, "alone"))
    model = AutoModelForMaskedLM.from_pretrained("alone")
    table, base = (
        each.get_input_embeddings().weight for each in (model, AutoModelForMaskedLM.from_pretrained(old))
    )
    for word in answer["words"]:
        ids = tokenizer(f"a {word['word']} and", add_special_tokens=False)["input_ids"]
        plain = before(f"a {word['word']} and", add_special_tokens=False)["input_ids"]
        place = ids.index(word["id"])
        assert ids[:place] + word["pieces"] + ids[place + 1 :] == plain
        torch.testing.assert_close(table[word["id"]], base[word["pieces"]].mean(0))
    other = "Three small boats, and the heart failure of 心不全."
    assert tokenizer(other)["input_ids"] == before(other)["input_ids"]
    code, out, err = run(
        domain,
        "--words",
        "words.txt",
        "--model",
        old,
        "-o",
        "both",
        "--add",
        1,
        "--documents",
        "line",
        "--json",
    )
    assert code == 0, err
    answer = json.loads(out)
    assert [bool(word["given"]) for word in answer["words"]] == [True, True, False]
    assert answer["words"][0]["count"] > 100
    assert answer["changed_documents"] == 0
    assert answer["after"]["fertility"] < answer["before"]["fertility"]


def test_words_are_listed_in_python(run: Run, domain: Path, checkpoint: Checkpoint) -> None:
    words = ["Cardiomyopathy", "heart failure"]
    found = unmask.extend_tokenizer(domain, words=words, add=0, model=checkpoint("bert"), out="new")
    assert [(word.word, word.given) for word in found.words] == [("cardiomyopathy", "Cardiomyopathy")]
    assert [word.word for word in found.left_out] == ["heart failure"]
    Path("words.txt").write_text(LIST, encoding="utf-8")
    code, out, err = run("--words", "words.txt", "--model", checkpoint("bert"), "-o", "again")
    assert code == 0, err
    assert "not added: 'heart failure' is more than one word" in out
    assert "tokens per word" not in out


def test_every_function_takes_it(run: Run, domain: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "new"
    found = unmask.extend_tokenizer(domain, model=checkpoint("bert"), out=out, add=3)
    model = unmask.load(out, device="cpu")
    assert model.lm.vocabulary.size == found.first + 3 == found.entries
    assert "cardiomyopathy" in str(model.fill("A [MASK].", targets=["cardiomyopathy"]))
    assert model.score("The cardiomyopathy.").tokens == 3
    assert "cardiomyopathy" in model.explain("The diclofenac was cardiomyopathy.", seed=1).tokens
    rows = unmask.compare(checkpoint("bert"), model, domain)
    assert rows is not None


def test_a_person_sees_words_and_figures(run: Run, domain: Path, checkpoint: Checkpoint) -> None:
    Path("general.txt").write_text("The patients of a village by the sea. " * 500, encoding="utf-8")
    code, out, err = run(
        domain,
        "--model",
        checkpoint("bert"),
        "--general",
        "general.txt",
        "-o",
        "new",
        "--documents",
        "file",
    )
    assert code == 0, err
    for expected in (
        "cardiomyopathy",
        "tokens per word",
        "tokens per byte",
        "times likelier",
        "≥10",
        "more than 10 counts as 10",
        "unmask train",
    ):
        assert expected in out
    assert " 10.0" not in out
    assert "on the text itself" in out  # one document is too little to hold any out
    code, out, err = run(domain, "--model", checkpoint("bert"), "-o", "plain")
    assert code == 0, err
    assert "times likelier" not in out  # than nothing


@pytest.mark.parametrize("architecture", ["bert", "deberta-v2"])
@pytest.mark.parametrize("verb", ["extend", "trim"])
def test_a_model_without_an_lm_head_stays_one(
    verb: str,
    architecture: str,
    domain: Path,
    checkpoint: Checkpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base, out = tmp_path / "encoder", tmp_path / "new"
    shutil.copytree(checkpoint(architecture), base)
    AutoModelForMaskedLM.from_pretrained(base).base_model.save_pretrained(base)
    given = {
        "extend": [domain, "--model", base, "--add", "3"],
        "trim": [base, "--data", domain, "--keep", "99%"],
    }[verb]
    assert main(["tokenizer", verb, *map(str, given), "-o", str(out)]) == 0
    printed = capsys.readouterr()
    assert "has no LM head" in printed.err
    assert "unmask compare" not in printed.out  # it would be refused
    assert f"unmask train TEXT... --model {out}" in printed.out
    model = unmask.load(out, device="cpu")
    assert model.lm.new_head == unmask.load(base, device="cpu").lm.new_head
    with pytest.raises(ConfigError, match="has no LM head"):
        model.score("The cardiomyopathy.")
    # The encoder is the same: what the two tokenizers share has the same rows.
    old, new = (AutoTokenizer.from_pretrained(folder).get_vocab() for folder in (base, out))
    shared = sorted(old.keys() & new.keys())
    before, after = (
        AutoModelForMaskedLM.from_pretrained(folder).get_input_embeddings().weight for folder in (base, out)
    )
    assert torch.equal(before[[old[entry] for entry in shared]], after[[new[entry] for entry in shared]])
    run = unmask.train(
        domain, model=out, out=tmp_path / "run", max_steps=2, batch_tokens=64, head_warmup_steps=1
    )
    assert unmask.load(run.folder.model, device="cpu").score("The cardiomyopathy.").tokens > 0


def test_the_same_call_gives_the_same_folder(domain: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    for name in ("one", "two"):
        extend_vocabulary(str(checkpoint("roberta")), [domain], tmp_path / name, add=2)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--add", "0"], 2, "must be 1 or more, not 0"),
        (["--min-count", "5000"], 3, "no word is worth adding"),
        (["-o", "full"], 2, "is not an empty folder"),
        (["nowhere.txt"], 3, "nowhere.txt"),
        (["--words", "nowhere.txt"], 3, "nowhere.txt"),
        (["--words", "full/file", "--add", "-1"], 2, "must be 0 or more, not -1"),
        (
            ["--words", "full/file", "--add", "0"],
            3,
            "the listed word cannot be added: 'x' is one token already",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    run: Run, domain: Path, checkpoint: Checkpoint, arguments: list[str], code: int, message: str
) -> None:
    Path("full").mkdir()
    Path("full/file").write_text("x", encoding="utf-8")
    found = run(domain, "--model", checkpoint("bert"), "-o", "new", *arguments)
    assert found[0] == code
    assert message in found[2]
    assert "Traceback" not in found[2]
    assert sorted(path.name for path in Path().iterdir()) == ["domain.txt", "full"]


def test_where_no_listed_word_can_be_added_every_reason_is_given(run: Run, checkpoint: Checkpoint) -> None:
    Path("words.txt").write_text("北京\nthe\nheart failure\n心不全\n", encoding="utf-8")
    code, _, err = run("--words", "words.txt", "--model", checkpoint("roberta"), "-o", "new")
    assert code == 3
    assert "none of the 4 listed words can be added: '北京' is of a script without spaces" in err
    for expected in ("(and 1 more)", "'the' is one token already", "'heart failure' is more than one word"):
        assert expected in err


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
@pytest.mark.parametrize("text", ["北京的心不全\n", "กรุงเทพมหานคร\n", "カタカナ\n"])
def test_text_of_a_script_without_spaces_is_said_to_be_that(
    run: Run, checkpoint: Checkpoint, tmp_path: Path, architecture: str, text: str
) -> None:
    (tmp_path / "domain.txt").write_text(text * 40, encoding="utf-8")
    code, _, err = run("domain.txt", "--model", checkpoint(architecture), "--min-count", 1, "-o", "new")
    assert code == 3
    if architecture == "roberta":  # of bytes, so it knows every character
        assert "of scripts without spaces between words (Chinese, Japanese, Thai" in err
        assert "keep the tokenizer as it is" in err
    assert "lower --min-count" not in err  # there is none
    assert "1 times" not in err


def test_a_failure_leaves_nothing_behind(
    domain: Path, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unmask.vocabulary.extend.add_rows", fail)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match="No space"):
        extend_vocabulary(str(checkpoint("bert")), [domain], tmp_path / "new")
    assert sorted(tmp_path.iterdir()) == before


def test_a_tokenizer_without_the_tokenizers_library_is_refused(
    domain: Path, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import CanineTokenizer

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: CanineTokenizer())
    with pytest.raises(
        ConfigError, match="is a CanineTokenizer, which is not backed by the tokenizers library"
    ):
        extend_vocabulary(str(checkpoint("bert")), [domain], tmp_path / "new")
