"""The reference that `make docs` makes from the code: it covers all names, and its schemas fit what is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from unmask.reporting.json_documents import DOCUMENTS


def test_every_verb_setting_and_public_name_has_its_place(reference: dict[str, Any]) -> None:
    import unmask
    from unmask.config.keys import Keys
    from unmask.config.settings import RunConfig

    pages = {name: "\n".join(lines) for name, lines in reference["pages"]().items()}
    verbs = "".join(text for name, text in pages.items() if name.startswith("cli-"))
    assert "## unmask train\n" in verbs
    assert "## unmask tokenizer extend\n" in verbs
    assert "| `--mask-rate RATE` | Share of the tokens that are masked." in verbs
    keys = [key.rpartition(".")[2] for key in Keys(RunConfig, {}).leaves]
    assert [key for key in keys if f"| `{key}` |" not in pages["settings"]] == []
    named = "".join(text for name, text in pages.items() if name.startswith("python-"))
    assert [name for name in unmask.__all__ if f"## {name}\n" not in named] == ["__version__"]
    assert "| 75 |" in pages["files"]
    assert "`literal tokens`" in pages["checks"]
    with_json = [name for name, verb in reference["verbs"]() if any("--json" in p.opts for p in verb.params)]
    assert [name for name in with_json if f"`unmask {name} --json`" not in pages["json"]] == []
    assert "Texts with \\[MASK], &lt;mask>, " in verbs  # a browser takes <mask> for a tag
    assert " object at 0x" not in named


FILES = ("run", "evaluation", "adaptation")


@pytest.fixture
def texts(tmp_path: Path, corpus_text: list[str]) -> Path:
    """Return a folder with two texts and a file of pairs."""
    for name, part in {"a.txt": slice(0, 60), "b.txt": slice(60, 100)}.items():
        (tmp_path / name).write_text("\n".join(corpus_text[part]) + "\n", encoding="utf-8")
    pairs = [{"good": text, "bad": f"{text.split()[-1]} {text}"} for text in corpus_text[:4]]
    (tmp_path / "pairs.jsonl").write_text(
        "".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8"
    )
    return tmp_path


def test_a_bar_in_a_cell_is_no_border_and_shows_no_backslash(reference: dict[str, Any]) -> None:
    row = reference["row"]
    assert row("`a|<b`", "c | d", "`e`") == "| <code>a&#124;&lt;b</code> | c &#124; d | `e` |"


def test_what_is_printed_fits_the_published_schemas(
    schemas: dict[str, Any],
    fits_schema: Callable[[str, Any], None],
    checkpoint: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    texts: Path,
) -> None:
    from unmask.cli.main import main

    def printed(*arguments: str) -> Any:
        assert main([*arguments, "--json", "--quiet"]) == 0
        return json.loads(capsys.readouterr().out)

    model = str(checkpoint("bert"))
    fits_schema("fill", printed("fill", model, "The river [MASK] the [MASK]."))
    jsonschema.validate(printed("explain", model, "The river and the boat."), schemas["explain"])
    jsonschema.validate(printed("init", "--stdout"), schemas["settings"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"train": {"max_step": 5}}, schemas["settings"])
    text, more, folder = (str(texts / name) for name in ("a.txt", "b.txt", "run"))
    plain = str(texts / "plain.txt")
    Path(plain).write_text("The general text is here.\n" * 200, encoding="utf-8")
    train = ["train", text, "--model", model, "--general", more, "--max-steps", "2", "-o", folder]
    documents = {
        "train": printed(*train, "--set", "train.log_every=1"),
        "eval": printed("eval", model, "--data", more),
        "compare": printed("compare", model, str(checkpoint("roberta")), "--data", more),
        "score": printed("score", model, more, "--details")["scores"][0],
        "pairs": printed("pairs", model, "--data", str(texts / "pairs.jsonl")),
        "check": printed("check", text, "--model", model, "--test", more),
        "probe": printed("probe", model, "--data", text),
        "report": printed("report", folder),
        "masks": printed("masks", text, "--tokenizer", model),
        "terms": printed("terms", text, "--general", plain, "--tokenizer", model, "-o", f"{folder}.tsv"),
        "prepare": printed("prepare", text, "--model", model, "-o", f"{folder}-shards"),
        "tokenizer-train": printed("tokenizer", "train", text, "--vocab-size", "300", "-o", f"{folder}-new"),
        "tokenizer-extend": printed(
            "tokenizer", "extend", text, "--model", model, "--add", "2", "-o", f"{folder}-more"
        ),
        "tokenizer-trim": printed("tokenizer", "trim", model, "--data", text, "-o", f"{folder}-less"),
        "push": printed("push", folder, "owner/name", "--dry-run"),
        "init": printed("init", f"{folder}.yaml"),
        "dry-run": printed(*train[:-1], f"{folder}-dry", "--dry-run"),
    }
    documents |= {name: json.loads((texts / "run" / f"{name}.json").read_text()) for name in FILES}
    for name, document in documents.items():
        fits_schema(name, document)
    fits_schema("eval", printed("eval", model, model, "--data", more))
    fits_schema("compare", printed("compare", model, model, "--data", more))
    for line in (texts / "run" / "metrics.jsonl").read_text().splitlines():
        fits_schema("metrics", json.loads(line))
    elsewhere = {
        "metrics",
        "forecast",
        "export",
        "convert",
        "serve",
    }  # tests/forecasting, exporting, model, serving
    assert set(documents) | elsewhere == set(DOCUMENTS)
    check = {"name": "", "what": "", "measured": None, "tolerance": 0.0, "passed": False, "detail": ""}
    jsonschema.validate([check], schemas["conformance"])
    assert "/fill" in schemas["server"]["paths"]
