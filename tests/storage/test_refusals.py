"""A URL where only a path of this machine can be is refused in one line, by every verb and public function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main

import unmask
from unmask.cli.main import app
from unmask.errors import ConfigError, DataError
from unmask.remote.systems import is_url
from unmask.storage import new_folder, write_atomically

URL = "s3://bucket/some/name"
# Strings that are no name of a file, a text, a shard folder or a model.
NO_FILES = {
    "accents", "answer", "api_key", "bad", "by", "case", "delimiter", "encoding", "export_alpha", "form", "good", "host", "keep", "kind",
    "label_field",
    "markup", "mask_positions", "method", "metric", "normal_form", "overrides", "pair", "pair_field", "preset", "repository", "require",
    "revision", "targets", "task", "text_field", "texts", "track",
}  # fmt: skip
# Strings that name what is read, or published, by URL.
BY_URL = {
    "data", "file", "first", "general", "generator", "heldout", "model", "models", "replay", "second", "test", "text", "tokenizer", "train_data", "words",
}  # fmt: skip
PUBLISHED = {("prepare", "out"), ("train", "out")}


def verbs() -> Iterator[tuple[str, Any]]:
    def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        for part, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, f"{name} {part}".strip())
        if not hasattr(command, "commands"):
            yield name, command

    return walk(typer.main.get_command(app), "")


def annotations(parameter: Any) -> set[type]:
    found = parameter.type_descriptor.annotation
    return {found, *get_args(found)}


PATHS = [(verb, param) for verb, command in verbs() for param in command.params if Path in annotations(param)]


def test_every_parameter_is_known() -> None:
    """A new one that is a string must be said to take a URL, or to be no file; one that is a path refuses URLs."""
    unknown = [
        (verb, param.name)
        for verb, command in verbs()
        for param in command.params
        if str in annotations(param)
        and param.name not in NO_FILES | BY_URL
        and (verb, param.name) not in PUBLISHED
    ]
    assert unknown == []


@pytest.mark.parametrize(("verb", "param"), PATHS, ids=[f"{verb}-{param.name}" for verb, param in PATHS])
def test_an_option_that_takes_a_path_refuses_a_url(
    verb: str, param: Any, run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = dict(verbs())[verb]
    line, positional = verb.split(), []
    for other in command.params:
        if other.name == param.name or (other.required and other.param_type_name == "argument"):
            value = URL if other.name == param.name else "x"
            positional += [value] if other.param_type_name == "argument" else []
            line += [other.opts[-1], value] if other.param_type_name != "argument" else []
        elif other.required:
            line += [other.opts[-1], "300"]
    code, out, error = run(*line, *positional)
    assert (code, out, error.count("\n")) == (2, "", 1), error
    assert f"{URL} is a URL; give a file or folder of this machine" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", sorted(verb for verb, _ in PUBLISHED))
def test_nothing_is_written_where_it_is_gone_at_the_end(verb: str, run: Callable[..., Any]) -> None:
    code, out, error = run(verb, "a.txt", "--model", "x", "-o", "memory://runs/one")
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert "memory://runs/one is memory of this process, which is gone when the command ends" in error


def test_settings_that_name_files(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    code, _, error = run(
        "masks", tmp_path / "a.txt", "--tokenizer", "x", "--set", f"masking.terms={URL}", "-q"
    )
    assert (code, error.count("\n")) == (2, 1)
    assert f"masking.terms: must be a file of this machine, not the URL {URL}" in error


# Parameters of public functions that name something to write, or a folder of a run.
WRITTEN = [
    (name, parameter)
    for name in unmask.__all__
    if inspect.isfunction(function := getattr(unmask, name))
    for parameter in inspect.signature(function).parameters
    if parameter in ("out", "run", "folder", "task", "path", "config")
    and (name, parameter) not in PUBLISHED | {("load_config", "path")}
]


@pytest.mark.parametrize(("name", "parameter"), WRITTEN)
def test_a_function_makes_no_folder_of_a_url(
    name: str, parameter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "a.txt"
    text.write_text("\n".join(f"The river {number} is wide." for number in range(30)))
    usual = {
        "text": text,
        "model": checkpoint("bert"),
        "models": checkpoint("bert"),
        "data": text,
        "vocab_size": 100,
        "format": "fp16",
        "general": text,
        "folder": tmp_path,
        "out": tmp_path / "out",
    }
    known = inspect.signature(getattr(unmask, name)).parameters
    values = {
        key: value
        for key, value in usual.items()
        if key in known and key != parameter and known[key].default is inspect.Parameter.empty
    }
    if name == "terms":
        values |= {"tokenizer": checkpoint("bert")}
    with pytest.raises((ConfigError, DataError)):  # some find no terms in so little text first
        getattr(unmask, name)(**values, **{parameter: URL})
    assert not (tmp_path / "s3:").exists()


def test_nothing_writes_below_what_is_left_of_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=URL):
        write_atomically(Path(URL), "text")
    with pytest.raises(ConfigError, match=URL), new_folder(Path(URL)):
        pass
    with pytest.raises(ConfigError, match=URL):
        unmask.report(URL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "given", [URL, Path(URL), "memory://x", "hf://org/name", "https://x.org/a", "ftp://x/y"]
)
def test_urls(given: Any) -> None:
    assert is_url(given)


@pytest.mark.parametrize(
    "given", ["a.txt", "/a/b", "c:/x", "./s3://x", "C:\\a", "a: / b", "", "-", Path("a")]
)
def test_no_urls(given: Any) -> None:
    assert not is_url(given)
