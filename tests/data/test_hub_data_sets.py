"""Hub data sets are streamed through `datasets`, without a network here; what goes wrong is told in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unmask.config.settings import DocumentSettings
from unmask.data.reading.documents import DocumentReader
from unmask.errors import DataError


def read(address: str, **settings: Any) -> list[tuple[str, int | None]]:
    documents = list(DocumentReader([address], DocumentSettings(**settings)))
    assert {document.source for document in documents} == {address}
    return [(document.text, document.line) for document in documents]


class FakeDataset:
    """Stands for a streaming data set; like those, it may not know its columns before the first record."""

    def __init__(self, records: list[dict[str, Any]], column_names: list[str] | None = None) -> None:
        self.records, self.column_names = records, column_names

    def select_columns(self, names: list[str]) -> FakeDataset:
        return FakeDataset([{name: record[name] for name in names} for record in self.records], names)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for record in self.records:
            if record.get("broken"):
                raise ConnectionError("gone\nand more lines")
            yield record


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    def put(*records: dict[str, Any], column_names: list[str] | None = None) -> list[Any]:
        calls: list[Any] = []

        def load_dataset(*args: Any, **options: Any) -> FakeDataset:
            calls.append((args, options))
            return FakeDataset(list(records), column_names)

        monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
        return calls

    return put


def test_hub_data_sets_are_streamed_without_remote_code(hub: Any) -> None:
    calls = hub({"body": "one", "id": 1}, {"body": "two", "id": 2}, column_names=["body", "id"])
    assert read("hf://org/name:en?column=body&split=test") == [("one", 1), ("two", 2)]
    assert read("hf://org/name", text_field="body", split="dev") == [("one", 1), ("two", 2)]
    assert calls == [
        (("org/name", "en"), {"split": "test", "streaming": True}),
        (("org/name", None), {"split": "dev", "streaming": True}),
    ]


def test_faults_of_hub_data_sets_are_one_line(hub: Any) -> None:
    hub({"txt": "one"})
    with pytest.raises(
        DataError, match=r"^hf://a/b: no column 'text' \(did you mean 'txt'\?\); there are 'txt'"
    ):
        read("hf://a/b")
    hub({"text": "one"}, {"text": 2})
    assert read("hf://a/b") == [("one", 1)]
    with pytest.raises(DataError, match=r"^hf://a/b:2: field 'text' holds a number, expected a string"):
        read("hf://a/b", strict=True)
    hub({"text": "one"}, {"broken": True})
    with pytest.raises(DataError, match=r"^hf://a/b: .*\(ConnectionError: gone\)") as caught:
        read("hf://a/b")
    assert "\n" not in str(caught.value)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of data sets, empty, and no network."""
    import datasets

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_hub_data_sets_are_read_from_the_cache_when_offline(hub_cache: Path) -> None:
    import datasets
    from datasets.arrow_writer import ArrowWriter

    folder = hub_cache / "org___name" / "default" / "0.0.0" / "abc"
    folder.mkdir(parents=True)
    data = datasets.Dataset.from_dict({"id": [1, 2, 3], "body": ["one", None, "three"]})
    with ArrowWriter(path=str(folder / "name-train.arrow"), features=data.features) as writer:
        for record in data:
            writer.write(record)
        writer.finalize()
    split = {"name": "train", "num_bytes": 1, "num_examples": 3, "dataset_name": "name"}
    names = {"builder_name": "parquet", "dataset_name": "name", "config_name": "default", "version": "0.0.0"}
    datasets.DatasetInfo(features=data.features, splits={"train": split}, **names).write_to_directory(
        str(folder)
    )
    assert read("hf://org/name?column=body") == [("one", 1), ("three", 3)]
    with pytest.raises(DataError, match=r"^hf://org/name\?split=test: .*test"):
        read("hf://org/name?split=test")


def test_hub_data_sets_that_are_not_there(hub_cache: Path) -> None:
    with pytest.raises(DataError, match=r"^hf://no-org/no-name: .*HF_HUB_OFFLINE is set"):
        read("hf://no-org/no-name")
    (hub_cache / "org" / "name").mkdir(parents=True)
    with pytest.raises(DataError, match=r"^hf://org/name: the local folder org/name would be read instead"):
        read("hf://org/name")
