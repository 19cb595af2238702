"""``unmask.train`` and the functions about text and models: options as keywords, text in memory, results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest

import unmask
from unmask.config.options import OPTIONS
from unmask.config.settings import RunConfig

QUICK: dict[str, Any] = {
    "max_steps": 2,
    "max_length": 32,
    "batch_tokens": 256,
    "device": "cpu",
    "precision": "fp32",
}


@pytest.fixture
def base(checkpoint: Callable[[str], Path]) -> Path:
    return checkpoint("bert")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus_text: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes").mkdir()
    Path("notes/a.txt").write_text("\n".join(corpus_text[:80]) + "\n", encoding="utf-8")


def test_every_option_is_a_setting() -> None:
    for key in OPTIONS.values():
        value: Any = RunConfig()
        for part in key.split("."):
            value = getattr(value, part)


def test_a_run_from_a_folder_has_metrics_a_model_and_a_table(base: Path) -> None:
    run = unmask.train(
        "notes", model=base, out=Path("runs/notes"), learning_rate=1e-4, mask_rate=0.3, **QUICK
    )
    assert run.steps == 2
    assert run.metrics["loss"] > 0
    assert run.metrics["before"]["loss"] > 0
    assert run.folder.report.is_file()
    assert run.folder / "report.html" == run.folder.report == Path(run.folder, "report.html")
    assert str(run.folder) == str(Path("runs/notes"))
    saved = run.folder.config.read_text(encoding="utf-8")
    assert "learning_rate: 0.0001" in saved
    assert "  rate: 0.3" in saved
    assert run.model.fill("The river [MASK].").candidates
    assert run.model is run.model
    assert unmask.load("runs/notes").fill("The river [MASK].") == run.model.fill("The river [MASK].")
    assert repr(run).splitlines()[0].startswith("run in runs/notes: 2 steps, ")
    assert list(run.to_pandas().columns) == ["metric", "before", "after"]
    assert "<table>" in run._repr_html_()
    json.dumps(run.to_dict())
    with pytest.raises(unmask.ConfigError, match=r"holds files.*resume=True"):
        unmask.train("notes", model=base, out="runs/notes", **QUICK)
    assert unmask.report("runs/notes") == unmask.report(run) == run.folder.report


@pytest.mark.parametrize("kind", ["list", "series", "dataset"])
def test_texts_in_memory_train_the_model_that_a_file_trains(
    base: Path, corpus_text: list[str], kind: str
) -> None:
    texts = corpus_text[:80]
    lines = "".join(json.dumps({"body": text}) + "\n" for text in texts)
    Path("notes.jsonl").write_text(lines, encoding="utf-8")
    given = {
        "list": texts,
        "series": pandas.Series(texts),
        "dataset": datasets.Dataset.from_dict({"body": texts, "id": list(range(80))}),
    }[kind]
    from_file = unmask.train("notes.jsonl", model=base, out="a", text_field="body", **QUICK)
    in_memory = unmask.train(given, model=base, out="b", text_field="body", **QUICK)
    weights = [(run.folder.model / "model.safetensors").read_bytes() for run in (from_file, in_memory)]
    assert weights[0] == weights[1]
    assert from_file.metrics["loss"] == in_memory.metrics["loss"]
    assert (in_memory.folder.in_memory_text / "text.jsonl").is_file()


def test_a_run_on_texts_in_memory_can_be_resumed(base: Path, corpus_text: list[str]) -> None:
    options = QUICK | {"save_every": 1}
    whole = unmask.train(corpus_text[:80], model=base, out="whole", **options | {"max_steps": 4})
    unmask.train(corpus_text[:80], model=base, out="run", **options | {"max_steps": 4})
    (Path("run/checkpoints")).rename("later")
    first = sorted(Path("later").iterdir())[0]
    Path("run/checkpoints").mkdir()
    first.rename(Path("run/checkpoints") / first.name)
    with pytest.raises(unmask.ConfigError, match="not the texts that the run in run was started with"):
        unmask.train(corpus_text[:70], model=base, out="run", resume=True, **options | {"max_steps": 4})
    resumed = unmask.train(corpus_text[:80], model=base, out="run", resume=True, **options | {"max_steps": 4})
    assert resumed.metrics["loss"] == whole.metrics["loss"]
    assert unmask.train(out="run", resume=True).steps == 4  # with its own settings and text


def test_more_text_is_trained_on_from_the_result_of_the_run(base: Path, corpus_text: list[str]) -> None:
    """Where it is noticed, before anything is read, the message has the model to go on with."""
    unmask.train("notes", model=base, out="run", **QUICK)
    Path("notes/b.txt").write_text("\n".join(corpus_text[80:120]) + "\n", encoding="utf-8")
    for again in ({"resume": True}, {"resume": True, "text": "notes"}, {"text": "notes", "model": base}):
        with pytest.raises(unmask.ConfigError, match=r"start a run with model= ?run/model in another folder"):
            unmask.train(**{"out": "run", **again})  # type: ignore[arg-type]
    assert unmask.train("notes", model="run/model", out="more", **QUICK).steps == 2


def test_settings_come_from_a_file_or_an_object_and_options_win(base: Path) -> None:
    Path("run.yaml").write_text(
        f"model:\n  name: {base}\ntrain:\n  max_steps: 1\n  seed: 3\n", encoding="utf-8"
    )
    options = {name: QUICK[name] for name in QUICK if name != "max_steps"}
    run = unmask.train("notes", config="run.yaml", out="a", settings={"train.keep_last": 5}, **options)
    config = unmask.load_config(run.folder.config)
    assert (config.train.seed, config.train.keep_last, config.train.max_steps) == (3, 5, 1)
    again = unmask.train("notes", config=config, out="b", seed=4, settings={"train.seed": 5})
    assert unmask.load_config(again.folder.config).train.seed == 4
    assert again.steps == 1


def test_a_wrong_option_is_an_error_with_a_hint(base: Path) -> None:
    for name, meant in {
        "lr": "learning_rate",
        "num_train_epochs": "epochs",
        "output_dir": "out",
        "mlm_probability": "mask_rate",
        "learning_rat": "learning_rate",
        "batch_size": "batch_tokens",
        "save_total_limit": "train.keep_last",
    }.items():
        with pytest.raises(TypeError, match=f"unknown option '{name}'.*did you mean '{meant}'"):
            unmask.train("notes", model=base, **{name: 1})
    with pytest.raises(
        unmask.ConfigError, match=r"^mask_rate: must be a number, more than 0 and at most 1, not 2"
    ):
        unmask.train("notes", model=base, mask_rate=2)
    with pytest.raises(unmask.ConfigError, match=r"unknown key 'train.keep_lst'"):
        unmask.train("notes", model=base, settings={"train.keep_lst": 2})
    with pytest.raises(unmask.DataError, match="did you mean 'notes'"):
        unmask.train("note/s", model=base)
    assert not Path("runs").exists()


def test_a_model_in_memory_has_to_be_saved_first(base: Path) -> None:
    loaded = unmask.load(base)
    with pytest.raises(unmask.ConfigError, match="save_pretrained"):
        unmask.train("notes", model=loaded.lm.model, **QUICK)  # type: ignore[arg-type]


def test_keys_of_earlier_versions_are_named(base: Path) -> None:
    Path("old.yaml").write_text("train:\n  keep_best: true\n", encoding="utf-8")
    events: list[unmask.ProgressEvent] = []
    unmask.train("notes/", model=base, config="old.yaml", progress=events.append, **QUICK)
    (line,) = (event.text for event in events if "keep_best" in event.text)
    assert line == "renamed settings: old.yaml:2: train.keep_best is now train.export_best"


def test_missing_values_are_skipped_with_a_warning(base: Path, corpus_text: list[str]) -> None:
    events: list[unmask.ProgressEvent] = []
    texts = [*corpus_text[:60], None, float("nan")]
    run = unmask.train(texts, model=base, out="run", progress=events.append, **QUICK)
    warnings = [event.text for event in events if event.kind == "warning"]
    assert "text: 2 of 62 texts missing and skipped" in warnings
    manifest = json.loads((run.folder.shards / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["documents"] == 60
    assert manifest["read"]["empty"] == 2
    assert any(
        event.kind == "advance" and event.phase == "train" and "step" in event.metrics for event in events
    )


# --- text and models ----------------------------------------------------------------------------------------------


def test_check_takes_a_string_for_one_path_and_a_list_for_texts(base: Path, corpus_text: list[str]) -> None:
    found = unmask.check("notes", model=base, progress=False)
    assert found.read["documents"] == 80
    assert {"level", "text"} <= set(found.to_pandas().columns)
    assert "<table>" in found._repr_html_()
    in_memory = unmask.check(corpus_text[:80], model=base)
    assert in_memory.read["documents"] == 80
    assert any("train TEXT --model" in command for command in in_memory.plan["commands"])
    leaked = unmask.check("notes", test=corpus_text[:5])
    assert leaked.verdict == "problem"
    with pytest.raises(unmask.DataError, match="pass a text in a list"):
        unmask.check("A sentence.")


def test_evaluate_and_compare_take_names_models_and_texts(base: Path, corpus_text: list[str]) -> None:
    model = unmask.load(base)
    texts = pandas.DataFrame({"text": corpus_text[:60]})
    one = unmask.evaluate(model, texts, max_length=32)
    assert one.loss == unmask.evaluate(str(base), corpus_text[:60], max_length=32).loss
    both = unmask.evaluate([base, model], texts, max_length=32)
    assert [evaluation.loss for evaluation in both] == [one.loss, one.loss]
    assert {"model", "metric", "value", "low", "high"} == set(both.to_pandas().columns)
    assert "loss" in repr(one)
    found = unmask.compare(base, model, texts, max_length=32)
    assert "difference" in found.to_pandas().columns
    assert found.verdict in repr(found)
    assert "<table>" in found._repr_html_()
    with pytest.raises(TypeError, match="did you mean 'mask_rate'"):
        unmask.evaluate(model, texts, rate=0.2)
    with pytest.raises(unmask.ConfigError, match="precision"):
        unmask.evaluate(model, texts, precision="fp8")


def test_pairs_in_memory_are_those_of_a_file(base: Path) -> None:
    model = unmask.load(base)
    sides = [("Nobody painted it.", "Nobody paint it."), ("The river sold.", "The rivers sold.")]
    found = unmask.pairs(model, sides)
    assert found.overall.pairs == 2
    records = [{"sentence_good": good, "sentence_bad": bad} for good, bad in sides]
    Path("pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    for same in (
        pandas.DataFrame(records),
        datasets.Dataset.from_list(records),
        "pairs.jsonl",
        Path("pairs.jsonl"),
    ):
        assert unmask.pairs(base, same).overall == found.overall
    events: list[unmask.ProgressEvent] = []
    several = unmask.pairs([model, base], [*sides, ("The river.", None)], progress=events.append)
    (warning,) = (event.text for event in events if event.kind == "warning")
    assert warning.startswith("pair 3: ")
    assert [one.overall.pairs for one in several] == [2, 2]
    assert [one.skipped for one in several] == [1, 1]
    assert {"accuracy", "pairs"} <= set(found.to_pandas().columns)
    assert repr(found).splitlines()[0].startswith("2 pairs: ")


def test_prepared_text_masks_and_words(base: Path, corpus_text: list[str]) -> None:
    corpus = unmask.prepare(corpus_text, "shards", model=base)
    assert len(corpus) == len(corpus_text)
    assert repr(corpus) == f"Corpus('shards': {len(corpus)} documents, {corpus.tokens:,} tokens)"
    run = unmask.train("shards", model=base, **QUICK)
    assert run.steps == 2
    counts = unmask.masks("shards", mask_rate=0.2)
    assert "rate" in set(counts.to_pandas()["measure"])
    config = unmask.load_config(None, ["masking.rate=0.3"])
    surveys = [unmask.masks("shards", config=config, mask_rate=rate).to_dict() for rate in (None, 0.2)]
    assert [one["mask_rate"] for one in surveys] == [0.3, 0.2]
    assert surveys[1] == counts.to_dict()
    domain, general = [*corpus_text[:99], *["The telescope."] * 99], ["The general text is here."] * 200
    found = unmask.terms(domain, general, unmask.load(base), out="terms.tsv")
    assert len(found.to_pandas()) > 0
    assert Path("terms.tsv").is_file()
    with pytest.raises(unmask.ConfigError, match="no tokenizer"):
        unmask.masks(corpus_text)
    tokenizer = unmask.train_tokenizer(corpus_text, vocab_size=300, out="tokenizer")
    assert len(tokenizer) == 300
    extended = unmask.extend_tokenizer(corpus_text * 3, model=base, out="extended", add=3)
    assert (extended.folder / "config.json").is_file()
    assert len(extended.to_pandas()) == len(extended.words)
