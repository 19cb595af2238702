"""Messages of the Python API name keyword arguments and texts in memory, not flags and temporary files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unmask
from unmask.api.progress import ProgressEvent, shown
from unmask.api.wording import in_python


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("give a higher --mask-rate", "give a higher mask_rate="),
        ("use --parallel ddp, or --precision fp32", "use parallel='ddp', or precision='fp32'"),
        ("use --device=cpu or auto", "use device=cpu or auto"),
        ("continue with --resume, or choose with -o", "continue with resume=True, or choose with out="),
        (
            "finish it with 'unmask train -o runs/no-model --resume', or",
            "finish it with unmask.train(out='runs/no-model', resume=True), or",
        ),
        ("data.max_length is 513, which is too much", "max_length is 513, which is too much"),
        (
            "run.yaml:3: train.detour is of another objective",
            "run.yaml:3: train.detour is of another objective",
        ),
        ("--set train.foo: unknown key", "settings['train.foo']: unknown key"),
        ("a well-known en--dash -- as it is", "a well-known en--dash -- as it is"),
    ],
)
def test_flags_become_keyword_arguments(message: str, words: str) -> None:
    assert in_python(message) == words
    assert in_python(words) == words


def test_errors_and_log_lines_are_put_in_words_of_python() -> None:
    events: list[ProgressEvent] = []

    def work() -> None:
        with shown(events.append) as progress:
            progress.log("see --text-field")
            progress.warning("see --strict")
            raise unmask.ConfigError("choose with --mask-rate")

    with pytest.raises(unmask.ConfigError, match="choose with mask_rate="):
        work()
    assert [event.text for event in events] == ["see text_field=", "see strict=True"]


def test_no_result_or_error_names_a_temporary_file(
    checkpoint: Callable[[str], Path], corpus_text: list[str]
) -> None:
    model = unmask.load(checkpoint("bert"), device="cpu")
    pairs = [("The river sleeps.", "The river sleep."), (None, "A river.")]
    results: list[Any] = [
        unmask.evaluate(model, corpus_text, train_data=corpus_text[:30]),
        unmask.compare(model, checkpoint("bert"), corpus_text),
        unmask.pairs(model, pairs),
        unmask.check([*corpus_text, "\ud800"], model=model, test=corpus_text[:2]),
    ]
    for result in results:
        assert "unmask-text-" not in json.dumps(result.to_dict()) + repr(result) + str(
            result.to_pandas().to_dict()
        )
    assert results[0].to_dict()["data"] == ["<data>"]
    with pytest.raises(unmask.DataError, match="<data>") as raised:
        unmask.evaluate(model, [""])
    assert "unmask-text-" not in f"{raised.value} {raised.value.path}"
    with pytest.raises(unmask.DataError, match="<pairs>:1: field 'good' holds a number"):
        unmask.pairs(model, [(1, 2)])


def test_lists_of_evaluations_show_shares_as_one_evaluation_does(
    checkpoint: Callable[[str], Path], corpus_text: list[str]
) -> None:
    found = unmask.evaluate([checkpoint("bert")], corpus_text, tokens=300)
    row = next(line for line in repr(found).splitlines() if " accuracy " in line)
    assert "%" in row


def test_shards_of_the_same_texts_are_reused(
    checkpoint: Callable[[str], Path], corpus_text: list[str], tmp_path: Path
) -> None:
    first = unmask.prepare(corpus_text, tmp_path / "shards", model=checkpoint("bert"))
    again = unmask.prepare(list(corpus_text), tmp_path / "shards", model=checkpoint("bert"))
    assert again.tokens == first.tokens
    assert unmask.evaluate(checkpoint("bert"), again, tokens=300).masked_tokens > 0  # type: ignore[union-attr]
    with pytest.raises(unmask.DataError, match="made from other inputs"):
        unmask.prepare(corpus_text[1:], tmp_path / "shards", model=checkpoint("bert"))


def test_what_is_no_model_device_or_run_is_an_error_that_says_so(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(
        unmask.ConfigError, match="expected a Hub name, a folder or a transformers model, not int"
    ):
        unmask.load(3)  # type: ignore[arg-type]
    with pytest.raises(unmask.ConfigError, match="no device 'gpu'; there are auto, cpu, cuda, mps"):
        unmask.load(checkpoint("bert"), device="gpu")
    with pytest.raises(unmask.ConfigError, match="expected one text"):
        unmask.explain(checkpoint("bert"), None)  # type: ignore[arg-type]
    with pytest.raises(unmask.ConfigError, match="holds no run to resume"):
        unmask.train(out=tmp_path / "none", resume=True)
    with pytest.raises(unmask.ConfigError, match="resume must be True or False"):
        unmask.train(resume=str(tmp_path))  # type: ignore[arg-type]
    with pytest.raises(unmask.ConfigError, match="settings must be a dictionary"):
        unmask.train("a.txt", settings=["train.seed"])  # type: ignore[arg-type]
    with pytest.raises(unmask.ConfigError, match="expected a YAML file or a RunConfig"):
        unmask.train("a.txt", config={"train": {}}, out=tmp_path / "run")  # type: ignore[arg-type]
    with pytest.raises(unmask.ConfigError, match=r"settings\['train.foo'\]: unknown key"):
        unmask.train("a.txt", settings={"train": {"foo": None}}, out=tmp_path / "run")
