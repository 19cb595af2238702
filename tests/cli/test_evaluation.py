"""The verbs `eval` and `compare`: what they answer, where they write, how they fail."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Run

Checkpoint = Callable[[str], Path]


@pytest.fixture
def text(tmp_path: Path, corpus_text: list[str]) -> Path:
    """30 documents of three sentences, one a line."""
    path = tmp_path / "text.txt"
    lines = [" ".join(corpus_text[begin : begin + 3]) for begin in range(0, 90, 3)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_eval_answers_with_one_json_document(run: Run, checkpoint: Checkpoint, text: Path) -> None:
    found = run("eval", checkpoint("bert"), "--data", text, "--json", "--device", "cpu")
    assert found.code == 0, found.err
    answer = found.json
    assert {"loss", "perplexity", "accuracy", "masked_tokens", "accuracy_at_5", "accuracy_at_10"} <= set(
        answer
    )
    assert answer["documents"] == 30
    assert set(answer["tables"]) == {"by_frequency", "by_piece", "by_position", "by_replacement"}
    assert set(answer["baselines"]) == {"most_frequent_token", "ngram", "ngram_true_neighbours"}
    low, high = answer["intervals"]["loss"]
    assert low < answer["loss"] < high
    assert (
        sum(row["masked_tokens"] for row in answer["tables"]["by_position"]["rows"])
        == answer["masked_tokens"]
    )
    assert "counted on the other documents of the evaluated text" in found.err
    assert "times seen in the evaluated text itself" in found.err


def test_eval_twice_says_the_same(run: Run, checkpoint: Checkpoint, text: Path) -> None:
    arguments = ("eval", checkpoint("bert"), "--data", text, "--json", "--device", "cpu")
    assert run(*arguments).out == run(*arguments).out


def test_eval_draws_tables_for_people(run: Run, checkpoint: Checkpoint, text: Path) -> None:
    found = run("eval", checkpoint("bert"), "--data", text, "--device", "cpu")
    assert found.code == 0
    for part in (
        "most frequent token",
        "bidirectional n-gram",
        "expected calibration error",
        "word-initial",
        "20–40%",
    ):
        assert part in found.out


def test_options_change_what_is_asked(run: Run, checkpoint: Checkpoint, text: Path) -> None:
    def asked(*options: object) -> dict[str, Any]:
        found = run("eval", checkpoint("bert"), "--data", text, "--json", "--device", "cpu", *options)
        assert found.code == 0, found.err
        answer: dict[str, Any] = found.json
        return answer

    usual = asked()
    assert asked("--mask-rate", 0.3)["masked_tokens"] > 1.6 * usual["masked_tokens"]
    assert asked("--strategy", "word")["strategy"] == "word"
    assert asked("--max-length", 16)["max_length"] == 16
    assert asked("--max-length", 16)["positions"] == usual["positions"]
    assert 200 < asked("--tokens", 400)["tokens"] <= 400
    assert asked("--set", "masking.mask_share=1", "--set", "masking.random_share=0")["mask_share"] == 1
    assert asked("--documents", "file")["documents"] == 1
    assert asked("--precision", "bf16")["precision"] == "bf16"


def test_several_models_stand_in_one_table_and_one_page(
    run: Run, checkpoint: Checkpoint, text: Path, tmp_path: Path
) -> None:
    names = [checkpoint(name) for name in ("bert", "electra", "roberta")]
    found = run("eval", *names, "--data", text, "--json", "--html", "page.html", "--device", "cpu")
    assert found.code == 0, found.err
    answers = found.json["models"]
    assert [answer["model"] for answer in answers] == [str(name) for name in names]
    assert answers[0]["positions"] == answers[1]["positions"] != answers[2]["positions"]
    assert "Their tokenizers differ" in (tmp_path / "page.html").read_text(encoding="utf-8")
    drawn = run("eval", *names, "--data", text, "--device", "cpu").out
    assert "different tokenizers" in drawn
    assert all(answer["label"] in drawn for answer in answers)


def test_compare_with_one_tokenizer(run: Run, checkpoint: Checkpoint, text: Path, tmp_path: Path) -> None:
    names = checkpoint("bert"), checkpoint("distilbert")
    found = run("compare", *names, "--data", text, "--json", "--html", "page.html", "--device", "cpu")
    assert found.code == 0, found.err
    answer = found.json
    assert answer["one_tokenizer"]
    assert answer["difference"]["loss"]["value"] == pytest.approx(answer["b"]["loss"] - answer["a"]["loss"])
    assert len(answer["difference"]["accuracy"]["interval"]) == 2
    assert answer["verdict"].split(":")[0] in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert answer["verdict"] in run("compare", *names, "--data", text, "--device", "cpu").out


def test_compare_with_different_tokenizers(
    run: Run, checkpoint: Checkpoint, text: Path, tmp_path: Path
) -> None:
    names = checkpoint("bert"), checkpoint("roberta")
    options = ("--data", text, "--pll-bytes", 500, "--device", "cpu")
    found = run("compare", *names, *options, "--json", "--html", "page.html")
    assert found.code == 0, found.err
    answer = found.json
    assert not answer["one_tokenizer"]
    assert answer["words"]["masked_words"] > 50
    assert 0 < answer["bits_per_byte"]["bytes"] <= 500
    assert "Per byte and per word" in (tmp_path / "page.html").read_text(encoding="utf-8")
    drawn = run("compare", *names, *options).out
    assert "bits per byte" in drawn
    assert "nats per masked word" in drawn


def test_standard_input_is_read_once_for_several_tokenizers(
    run: Run, checkpoint: Checkpoint, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stdin() -> io.TextIOWrapper:
        return io.TextIOWrapper(io.BytesIO(text.read_bytes()), encoding="utf-8")

    names = checkpoint("bert"), checkpoint("roberta")
    from_file = run("eval", *names, "--data", text, "--json", "--device", "cpu").json["models"]
    monkeypatch.setattr("sys.stdin", stdin())
    piped = run("eval", *names, "--data", "-", "--json", "--device", "cpu")
    assert piped.code == 0, piped.err
    for ours, theirs in zip(piped.json["models"], from_file, strict=True):
        other = {"data": None, "read": None}
        assert ours | other == theirs | other
    monkeypatch.setattr("sys.stdin", stdin())
    assert run("compare", *names, "--data", "-", "--pll-bytes", 300, "--device", "cpu").code == 0


def test_a_training_text_is_counted_on(run: Run, checkpoint: Checkpoint, text: Path) -> None:
    found = run("eval", checkpoint("bert"), "--data", text, "--train-data", text, "--json", "--device", "cpu")
    assert found.json["documents_in_train_data"] == 30
    assert "30 of 30 documents also in the training text, word for word" in found.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["eval", "MODEL"], 2, "--data"),
        (["eval", "--data", "text.txt"], 2, "MODEL"),
        (["eval", "MODEL", "--data", "nowhere.txt"], 3, "nowhere.txt"),
        (["eval", "MODEL", "--data", "empty.txt"], 3, "hold no text"),
        (["eval", "MODEL", "--data", "dot.txt"], 3, "higher --mask-rate"),
        (["eval", "./no-model", "--data", "text.txt"], 2, "no-model"),
        (["eval", "MODEL", "--data", "text.txt", "--mask-rate", "2"], 2, "--mask-rate: must be"),
        (["eval", "MODEL", "--data", "text.txt", "--max-length", "4096"], 2, "at most 128"),
        (["eval", "MODEL", "--data", "text.txt", "--tokens", "0"], 2, "--tokens"),
        (["eval", "MODEL", "--data", "text.txt", "--train-data", "nowhere.txt"], 3, "nowhere.txt"),
        (["compare", "MODEL", "--data", "text.txt"], 2, "B"),
        (["compare", "MODEL", "MODEL", "--data", "bad.txt"], 3, "bad.txt:1"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], code: int, said: str, run: Run, checkpoint: Checkpoint, text: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    (tmp_path / "dot.txt").write_text(".\n", encoding="utf-8")
    (tmp_path / "bad.txt").write_bytes(b"bad \xff byte\n")
    given = [str(checkpoint("bert")) if word == "MODEL" else word for word in arguments]
    found = run(*given)
    assert found.code == code, found.err
    assert found.out == ""
    (complaint,) = (line for line in found.err.splitlines() if line.startswith("error: "))
    assert said in complaint


def test_a_page_that_cannot_be_written_is_said(run: Run, checkpoint: Checkpoint, text: Path) -> None:
    found = run(
        "eval", checkpoint("bert"), "--data", text, "--html", "no/such/folder.html", "--device", "cpu"
    )
    assert found.code == 5
    assert "no/such/folder.html: cannot be written" in found.err
