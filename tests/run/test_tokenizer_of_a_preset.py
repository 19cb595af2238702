"""The tokenizer of a preset is trained on the documents that the model is trained on, and on no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from unmask.config.settings import DataSettings, ModelSettings
from unmask.data.corpus import open_corpus
from unmask.data.preparation import prepare
from unmask.data.split import training_texts
from unmask.progress import Progress
from unmask.run.components import open_tokenizer
from unmask.run_folder import RunFolder
from unmask.training.distributed import World


class Recorded(Progress):
    def __init__(self) -> None:
        self.logs: list[str] = []

    def log(self, text: str) -> None:
        self.logs.append(text)


def open_it(folder: Path, data: DataSettings, **model: object) -> tuple[set[str], list[str]]:
    """Return the entries of the tokenizer of a preset, and what was logged."""
    recorded = Recorded()
    settings = ModelSettings(preset="bert-tiny", **{"vocab_size": 4000, **model})
    found = open_tokenizer(settings, data, RunFolder(folder), World(), recorded)
    return set(found.get_vocab()), recorded.logs


@pytest.mark.parametrize(
    ("documents", "share"), [(90, 0.3), (60, 0.05), (12, 0.05), (3, 0.05), (2, 0.95), (1, 0.5)]
)
def test_held_out_documents_are_left_out(tmp_path: Path, documents: int, share: float) -> None:
    names = [chr(ord("一") + number) for number in range(documents)]
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{name}{name} the river\n" for name in names), encoding="utf-8")
    data = DataSettings(inputs=[str(text)], heldout_share=share, documents="line")
    entries, _ = open_it(tmp_path / "run", data)
    found = {name for name in names if name in entries}

    from unmask.data.heldout_size import MINIMUM
    from unmask.data.split import split_documents
    from unmask.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(str(tmp_path / "run" / "tokenizer"))
    prepare([text], data, tokenizer, tmp_path / "shards")
    train, heldout = split_documents(open_corpus(tmp_path / "shards"), share, MINIMUM)
    assert found == {names[number] for number in train}
    assert len(found) == documents - (0 if heldout is None else len(heldout))


def test_all_text_is_used_where_other_text_is_held_out(tmp_path: Path) -> None:
    text, other = tmp_path / "text.txt", tmp_path / "other.txt"
    text.write_text("春天 river\n花园 river\n", encoding="utf-8")
    other.write_text("学校\n", encoding="utf-8")
    data = DataSettings(inputs=[str(text)], heldout=[str(other)], documents="line")
    entries, _ = open_it(tmp_path / "run", data)
    assert {"river"} <= entries
    assert not {"学", "校"} & entries


def test_the_first_document_may_be_the_only_one() -> None:
    assert list(training_texts(["one"], 0.5, 15)) == ["one"]
    assert list(training_texts([], 0.5, 15)) == []


def test_the_settings_of_a_preset_reach_its_tokenizer(tmp_path: Path) -> None:
    text, other = tmp_path / "text.txt", tmp_path / "other.txt"
    text.write_text("möchte Hamburg möchte Hamburg\n" * 3, encoding="utf-8")
    other.write_text("x\n", encoding="utf-8")
    data = DataSettings(inputs=[str(text)], heldout=[str(other)], documents="line")
    entries, logs = open_it(tmp_path / "one", data)
    assert {"möchte", "hamburg"} <= entries
    assert any("50.0% differ in case only" in line for line in logs)
    entries, logs = open_it(tmp_path / "two", data, case="keep", accents="strip")
    assert {"mochte", "Hamburg"} <= entries
    assert any("warning: " in line and "möchte → mochte" in line for line in logs)
