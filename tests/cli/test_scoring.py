"""The verbs `score` and `pairs`: rows in the order of the input, what is skipped, what goes on after a stop."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unmask.cli.main import main
from unmask.scoring.row_file import RowFile

TEXTS = [
    "Nobody slept",
    "Her grandmother described the boats",
    "It rained",
    "The village sold three telescopes",
]


class Outcome:
    """What one call of the command line left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def json(self) -> Any:
        assert self.out.count("\n") == 1
        return json.loads(self.out)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def run(
    folder: Path, checkpoint: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Outcome]]:
    """Return `run(verb, *arguments) -> Outcome`, in an empty folder, with a tiny BERT in fp32."""
    before = dict(os.environ)
    model = str(checkpoint("bert"))

    def call(verb: str, *arguments: object, model: str = model) -> Outcome:
        capsys.readouterr()
        given = [verb, model, *map(str, arguments), "--precision", "fp32", "--device", "cpu"]
        code = main(given)
        return Outcome(code, *capsys.readouterr())

    yield call
    os.environ.clear()
    os.environ.update(before)


Run = Callable[..., Outcome]


def give_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    stdin = SimpleNamespace(buffer=io.BytesIO(content), closed=False, isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", stdin)


# --- score --------------------------------------------------------------------------------------------------------


def test_a_row_for_each_text_in_order(run: Run) -> None:
    found = run("score", "texts.txt")
    assert found.code == 0
    assert [row["text"] for row in found.rows] == TEXTS
    assert [row["line"] for row in found.rows] == [1, 2, 3, 4]
    for row in found.rows:
        assert set(row) >= {"text", "pll", "tokens", "words", "bytes", "method", "per_token", "bits_per_byte"}
        assert (row["method"], row["bytes"]) == ("original", len(row["text"]))
        assert row["pll"] < 0
    assert "4 texts" in found.err
    assert "pseudo-perplexity" in found.err
    assert "(comparable within one tokenizer only)" in " ".join(found.err.split())


def test_every_kind_of_input_gives_the_same_scores(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [row["pll"] for row in run("score", "texts.txt").rows]
    lines = [json.dumps({"sentence": text}) for text in TEXTS]
    Path("a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    Path("a.tsv").write_text("\n".join(["id\tsentence", *(f"1\t{text}" for text in TEXTS)]), encoding="utf-8")
    Path("b.tsv").write_text("\n".join(f"1\t{text}" for text in TEXTS), encoding="utf-8")
    Path("c.txt").write_text("\n".join(lines), encoding="utf-8")
    for given in (
        ("a.jsonl", "--text-field", "sentence"),
        ("a.tsv", "--text-field", "sentence"),
        ("b.tsv", "--text-field", "2"),
        ("c.txt", "--text-field", "sentence", "--format", "jsonl"),
    ):
        assert [row["pll"] for row in run("score", *given).rows] == wanted
    give_stdin(monkeypatch, "\n".join(lines).encode())
    assert [row["pll"] for row in run("score", "-", "--text-field", "sentence").rows] == wanted
    give_stdin(monkeypatch, "\r\n".join(TEXTS).encode())
    assert [row["pll"] for row in run("score").rows] == wanted


def test_details_and_methods(run: Run) -> None:
    found = run("score", "texts.txt", "--details", "--method", "within-word-l2r")
    assert "comparable within" not in " ".join(found.err.split())
    for row in found.rows:
        assert row["method"] == "within_word_l2r"
        assert len(row["token_scores"]) == row["tokens"]
        assert len(row["word_scores"]) == row["words"]
        assert sum(token["pll"] for token in row["token_scores"]) == pytest.approx(row["pll"], abs=1e-4)
    estimate = run("score", "texts.txt", "--method", "estimate")
    assert {row["method"] for row in estimate.rows} == {"estimate"}
    assert "no pseudo-log-likelihood" in estimate.err


def test_json_is_one_document(run: Run) -> None:
    rows = run("score", "texts.txt").rows
    found = run("score", "texts.txt", "--json").json
    assert found["scores"] == rows
    assert (found["texts"], found["skipped"], found["method"]) == (4, 0, "original")
    assert found["pll"] == pytest.approx(sum(row["pll"] for row in rows), abs=1e-5)
    assert found["per_token"] == pytest.approx(found["pll"] / sum(row["tokens"] for row in rows), abs=1e-5)


def test_bad_lines_are_named_and_the_others_scored(run: Run) -> None:
    lines = [
        b"Nobody slept",
        b"",
        b"b\xe4d",
        b"n\0l",
        b"w " * 500_000,
        "\u200b".encode(),
        b"[SEP] [CLS]",
        b"It rained",
    ]
    Path("bad.txt").write_bytes(b"\n".join(lines))
    found = run("score", "bad.txt")
    assert found.code == 3
    assert [row["line"] for row in found.rows] == [1, 7, 8]
    assert [row["text"] for row in found.rows] == ["Nobody slept", "[SEP] [CLS]", "It rained"]
    wanted = {3: "not UTF-8", 4: "NUL", 5: "1,000,000 bytes", 6: "no token"}
    for line, what in wanted.items():
        (told,) = [text for text in found.err.splitlines() if text.startswith(f"skipped: bad.txt:{line}:")]
        assert what in told
    assert "skipped: 4 texts could not be scored" in found.err


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("text.txt", ["Nobody slept", "", " \t", "It rained", ""]),
        ("text.jsonl", ['{"text": "Nobody slept"}', "", " ", '{"text": "It rained"}', ""]),
    ],
)
def test_blank_lines_are_counted_and_no_error(run: Run, name: str, lines: list[str]) -> None:
    Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = run("score", name)
    assert found.code == 0
    assert [row["line"] for row in found.rows] == [1, 4]
    assert "3 blank lines left out" in found.err
    assert run("score", name, "--json").json["blank_lines"] == 3


def test_blank_lines_between_pairs_are_counted_and_no_error(run: Run) -> None:
    Path("pairs.tsv").write_text("It rained\tIt rain\n\nNobody slept\tNobody sleep\n\n", encoding="utf-8")
    found = run("pairs", "--data", "pairs.tsv", "--good", 1, "--bad", 2, "--json")
    assert found.code == 0
    assert (found.json["pairs"], found.json["skipped"], found.json["blank_lines"]) == (2, 0, 2)


def test_bad_records_are_named_and_the_others_scored(run: Run) -> None:
    lines = [
        '{"text": "Nobody"}',
        "{",
        '{"txt": "a"}',
        '{"text": null}',
        '{"text": 1}',
        '{"text": "\\ud800"}',
    ]
    Path("bad.jsonl").write_text(
        "\n".join([*lines, '{"text": "a\\u0000b"}', '{"text": "It rained"}']), encoding="utf-8"
    )
    found = run("score", "bad.jsonl")
    assert found.code == 3
    assert [row["line"] for row in found.rows] == [1, 8]
    wanted = {2: "broken JSON", 3: "no field 'text'", 4: "null", 5: "a number", 6: "surrogate", 7: "NUL"}
    for line, what in wanted.items():
        (told,) = [text for text in found.err.splitlines() if text.startswith(f"skipped: bad.jsonl:{line}:")]
        assert what in told


def test_many_bad_lines_do_not_flood(run: Run) -> None:
    Path("bad.txt").write_text("\u200b\n" * 500 + "It rained\n", encoding="utf-8")
    found = run("score", "bad.txt")
    assert found.code == 3
    assert len(found.rows) == 1
    assert found.err.count("skipped: bad.txt:") == 20
    assert "500 texts could not be scored" in found.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "none.txt: no text that can be scored"),
        (b"\n\n", "none.txt: no text that can be scored"),
        (b"\xff\n\xfe\n", "none.txt:1: byte 0xff is not UTF-8"),
    ],
)
def test_nothing_to_score_is_one_error(run: Run, content: bytes, said: str) -> None:
    Path("none.txt").write_bytes(content)
    found = run("score", "none.txt")
    assert (found.code, found.out) == (3, "")
    assert f"error: {said}" in found.err
    assert found.err.count("none.txt") == 1


# --- rows in a file, and going on after a stop --------------------------------------------------------------------


def test_rows_go_to_a_file_that_is_not_overwritten(run: Run) -> None:
    printed = run("score", "texts.txt").out
    assert run("score", "texts.txt", "-o", "rows.jsonl").out == ""
    assert Path("rows.jsonl").read_text(encoding="utf-8") == printed
    again = run("score", "texts.txt", "-o", "rows.jsonl")
    assert again.code == 2
    assert "--resume" in again.err
    assert run("score", "texts.txt", "-o", "rows.jsonl", "--force").code == 0
    assert Path("rows.jsonl").read_text(encoding="utf-8") == printed
    assert run("score", "texts.txt", "--resume").code == 2
    assert run("score", "texts.txt", "-o", "absent/rows.jsonl").code == 2
    # What is there stays when nothing can be written.
    assert run("score", "absent.txt", "-o", "rows.jsonl", "--force").code == 3
    assert Path("rows.jsonl").read_text(encoding="utf-8") == printed


@pytest.mark.parametrize("kept", [0, 1, 3, 4])
def test_a_stopped_run_goes_on_behind_its_last_whole_row(run: Run, kept: int) -> None:
    Path("t.txt").write_text("\n".join([TEXTS[0], "", "\u200b", *TEXTS[1:], ""]), encoding="utf-8")
    whole = run("score", "t.txt", "--json").json
    assert (whole["texts"], whole["skipped"], whole["blank_lines"]) == (4, 1, 1)
    lines = [json.dumps(row) + "\n" for row in whole["scores"]]
    torn = lines[kept][:20] if kept < 4 else ""
    Path("rows.jsonl").write_text("".join(lines[:kept]) + torn, encoding="utf-8")
    found = run("score", "t.txt", "-o", "rows.jsonl", "--resume", "--json")
    assert found.code == 3  # what was skipped stays skipped
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["line"] for row in rows] == [1, 4, 5, 6]
    assert [row["pll"] for row in rows] == pytest.approx([row["pll"] for row in whole["scores"]], abs=1e-4)
    for name in ("texts", "skipped", "blank_lines", "tokens", "words", "bytes"):
        assert found.json[name] == whole[name]


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ('{"a": 1}\n', (), "is not of method 'original'"),
        ("no JSON\n", (), "rows.jsonl:1: not a row of this command"),
        ("same", ("--method", "whole_word"), "is not of method 'whole_word'"),
        ("other", (), "give the same input"),
        ("longer", (), "end at line 9"),
    ],
)
def test_a_file_of_another_run_is_left_alone(
    run: Run, content: str, arguments: tuple[str, ...], message: str
) -> None:
    if content in ("same", "other", "longer"):
        run("score", "texts.txt", "-o", "rows.jsonl")
        change = {"same": ("", ""), "other": (TEXTS[3], "x"), "longer": ('"line": 4', '"line": 9')}[content]
        content = Path("rows.jsonl").read_text(encoding="utf-8").replace(*change)
    Path("rows.jsonl").write_text(content, encoding="utf-8")
    found = run("score", "texts.txt", "-o", "rows.jsonl", "--resume", *arguments)
    assert found.code == 3
    assert message in found.err
    assert Path("rows.jsonl").read_text(encoding="utf-8") == content


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_with_what_is_written_and_how_to_go_on(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    write = RowFile.write

    def stopped(self: RowFile, row: dict[str, Any]) -> None:
        write(self, row)
        if row["line"] == 2:
            signal.raise_signal(number)

    handler = signal.getsignal(signal.SIGTERM)
    ctrl_c = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell ignores it for jobs in the background
    try:
        with monkeypatch.context() as patch:
            patch.setattr(RowFile, "write", stopped)
            found = run("score", "texts.txt", "-o", "rows.jsonl")
    finally:
        signal.signal(signal.SIGINT, ctrl_c)
    assert found.code == 75
    assert "--resume" in found.err
    assert Path("rows.jsonl").read_text(encoding="utf-8").count("\n") == 2
    assert signal.getsignal(signal.SIGTERM) == handler
    assert run("score", "texts.txt", "-o", "rows.jsonl", "--resume").code == 0
    assert Path("rows.jsonl").read_text(encoding="utf-8").count("\n") == 4


def test_a_row_file_counts_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": "' + b"x" * 200_000 + b'"}\n{"a": 2}\n{"a": ' + b"3" * 100_000)
    with RowFile(path, resume=True) as rows:
        assert rows.kept == 2
        assert [len(str(row["a"])) for row in rows.rows()] == [200_000, 1]
        rows.write({"a": "ä"})
    assert path.read_text(encoding="utf-8").splitlines()[1:] == ['{"a": 2}', '{"a": "ä"}']


# --- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("texts.txt", "--method", "orginal"), 2, "did you mean 'original'"),
        (("texts.txt", "--format", "xml"), 2, "text, jsonl, tsv, csv"),
        (("texts.txt", "--max-length", "1000"), 2, "max_length must be 3 to 128"),
        (("absent.txt",), 3, "no such file"),
        (("a.tsv",), 3, "no field 'text'; there are 'id', 'sentence'"),
    ],
)
def test_what_cannot_work_is_one_line(run: Run, arguments: tuple[str, ...], code: int, message: str) -> None:
    Path("a.tsv").write_text("id\tsentence\n1\tNobody\n", encoding="utf-8")
    found = run("score", *arguments)
    assert (found.code, found.out) == (code, "")
    assert message in found.err


# --- pairs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def blimp(folder: Path) -> Path:
    """A folder of two paradigms with three pairs each, one of them a tie."""
    made = folder / "blimp"
    made.mkdir()
    for paradigm, term in (("one", "x"), ("two", "y")):
        rows = [
            {
                "sentence_good": f"{TEXTS[n]} {paradigm}",
                "sentence_bad": f"{TEXTS[n]} {'!' if n else paradigm}",
            }
            for n in range(3)
        ]
        lines = [json.dumps(row | {"UID": paradigm, "linguistics_term": term}) + "\n" for row in rows]
        (made / f"{paradigm}.jsonl").write_text("".join(lines), encoding="utf-8")
    return made


def test_a_folder_of_pairs_gives_a_table(run: Run, blimp: Path) -> None:
    found = run("pairs", "--data", blimp, "--json")
    assert found.code == 0
    answer = found.json
    assert (answer["pairs"], answer["ties"], answer["skipped"]) == (6, 2, 0)
    assert [(row["paradigm"], row["term"], row["pairs"], row["ties"]) for row in answer["table"]] == [
        ("one", "x", 3, 1),
        ("two", "y", 3, 1),
    ]
    low, high = answer["interval"]
    assert 0 <= low <= answer["accuracy"] <= high <= 1
    drawn = run("pairs", "--data", blimp)
    assert drawn.code == 0
    for words in ("one", "two", "all pairs", "ties", "95%", "Wilson", f"{answer['accuracy']:.1%}"):
        assert words in drawn.out


def test_several_models_are_scored_on_the_same_pairs(
    run: Run, blimp: Path, checkpoint: Callable[[str], Path]
) -> None:
    other = str(checkpoint("roberta"))
    found = run("pairs", other, "--data", blimp, "--json")
    assert found.code == 0
    first, second = found.json["models"]
    assert second["model"] == other
    assert first == run("pairs", "--data", blimp, "--json").json
    assert second == run("pairs", "--data", blimp, "--json", model=other).json
    drawn = run("pairs", other, "--data", blimp).out
    assert all(f"{row['accuracy']:.1%}" in drawn for row in (first, second))
    refused = run("pairs", other, "--data", blimp, "-o", "rows.jsonl")
    assert refused.code == 2
    assert not Path("rows.jsonl").exists()


def test_the_accuracy_is_that_of_the_scores(run: Run, blimp: Path) -> None:
    run("pairs", "--data", blimp, "-o", "rows.jsonl")
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text(encoding="utf-8").splitlines()]
    Path("sides.jsonl").write_text(
        "".join(json.dumps({"text": row[side]}) + "\n" for row in rows for side in ("good", "bad")),
        encoding="utf-8",
    )
    scores = [row["pll"] for row in run("score", "sides.jsonl").rows]
    assert [row["pll_good"] for row in rows] == pytest.approx(scores[::2], abs=1e-4)
    assert [row["pll_bad"] for row in rows] == pytest.approx(scores[1::2], abs=1e-4)
    better = sum(good > bad + 1e-4 for good, bad in zip(scores[::2], scores[1::2], strict=True))
    assert run("pairs", "--data", blimp, "--json").json["accuracy"] == pytest.approx(better / 6, abs=1e-6)


@pytest.mark.parametrize("kept", [1, 4, 6])
def test_stopped_pairs_go_on_behind_the_last_whole_row(run: Run, blimp: Path, kept: int) -> None:
    with (blimp / "one.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"sentence_good": "It rained"}) + "\n")
    whole = run("pairs", "--data", blimp, "-o", "rows.jsonl", "--json")
    assert whole.code == 3
    written = Path("rows.jsonl").read_text(encoding="utf-8")
    lines = written.splitlines(keepends=True)
    Path("rows.jsonl").write_text("".join(lines[:kept]) + '{"file": "bl', encoding="utf-8")
    found = run("pairs", "--data", blimp, "-o", "rows.jsonl", "--resume", "--json")
    assert (found.code, found.json) == (3, whole.json)
    assert Path("rows.jsonl").read_text(encoding="utf-8").count("\n") == 6
    Path("other.tsv").write_text("It rained\tIt rain\n", encoding="utf-8")
    other = run("pairs", "--data", "other.tsv", "-o", "rows.jsonl", "--resume")
    assert other.code == 3
    assert "is not in this input" in other.err


def test_a_missing_side_is_named_and_the_others_are_compared(run: Run, folder: Path) -> None:
    Path("pairs.tsv").write_text("It rained\tIt rain\nNobody slept\nNobody slept\t\nA\tB\n", encoding="utf-8")
    found = run("pairs", "--data", "pairs.tsv", "--json")
    assert found.code == 3
    assert (found.json["pairs"], found.json["skipped"]) == (2, 2)
    assert "skipped: pairs.tsv:2: the pair has no side '2'; there are '1'" in found.err
    assert "skipped: pairs.tsv:3: the side '2' of the pair is missing" in found.err


def test_no_pairs_at_all_is_an_error(run: Run, folder: Path) -> None:
    Path("pairs.csv").write_text("id,text,more\n1,a,b\n", encoding="utf-8")
    found = run("pairs", "--data", "pairs.csv")
    assert (found.code, found.out) == (3, "")
    assert found.err.count("choose with --good and --bad") == 1
    assert "error: pairs.csv:1: the pair has no side" in found.err
