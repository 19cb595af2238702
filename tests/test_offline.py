"""With `--offline`, or `offline=True`, no verb and no public function looks up the name of a host.

The cases follow from the names of parameters: each text and each model of each verb is once one of the Hub that is not
in the cache. A verb or function with a parameter that is not known here fails, so a new one cannot be forgotten.
"""

from __future__ import annotations

import contextlib
import inspect
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import typer.main

import unmask
from unmask.cli.main import app, main
from unmask.config.settings import DocumentSettings, ModelSettings, RunConfig
from unmask.data.hub import offline_mode
from unmask.data.reading.documents import DocumentReader
from unmask.errors import ConfigError, DataError, UnmaskError

HUB_TEXT, HUB_MODEL = "hf://unmask-nobody/absent", "unmask-nobody/absent"
NO_HUB = {"convert", "demo", "init", "report"}  # verbs that read neither text nor models from elsewhere
TEXTS = {"data", "general", "heldout", "inputs", "replay", "test", "text", "train_data", "words"}
MODELS = {"first", "model", "models", "second", "tokenizer"}
GIVEN = TEXTS | MODELS | {"file", "out", "texts"}  # also where they may be left out
# With everything on this machine these take long, or do not end; they are tested elsewhere.
SLOW = {"bench", "conformance", "forecast", "serve"}
SENTENCES = {("explain", "text"), ("fill", "text"), ("score", "text")}  # no path
EXTRA = {"train": ["--max-steps", "1"], "serve": ["--port", "0"], "push": ["--dry-run"]}


@cache
def verbs() -> dict[str, Any]:
    """Return the commands of the command line by their names."""

    def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "commands"):
            yield name, command
            return
        for part, inner in command.commands.items():
            yield from walk(inner, f"{name} {part}".strip())

    return dict(walk(typer.main.get_command(app), ""))


def parameters(verb: str) -> dict[str, Any]:
    found = {parameter.name: parameter for parameter in verbs()[verb].params}
    if {"model", "tokenizer"} <= set(found):
        del found["tokenizer"]  # the model brings its own
    return {name: value for name, value in found.items() if value.required or name in GIVEN}


CASES = [
    (verb, name)
    for verb, command in verbs().items()
    if verb not in NO_HUB
    for name in [None, *sorted((TEXTS | MODELS) & set(parameters(verb)))]
    if (verb not in SLOW if name is None else (verb, name) not in SENTENCES)
]


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that were looked up; the libraries are in the state of a machine with a network."""
    import datasets

    found: list[str] = []

    def look_up(host: Any, *_: Any, **__: Any) -> Any:
        found.append(str(host))
        raise socket.gaierror(socket.EAI_NONAME, "no look-up in tests")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return found


@pytest.fixture
def local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Callable[[str], Path], corpus_text: list[str]
) -> dict[str, str]:
    """Return a value on this machine for each parameter."""
    monkeypatch.chdir(tmp_path)
    names = ("a.txt", "general.txt", "task.tsv", "b.tsv", "c.txt")
    text, general, labelled, pairs, lines = (tmp_path / name for name in names)
    text.write_text("\n".join(corpus_text), encoding="utf-8")
    general.write_text("\n".join(corpus_text[:5] * 60), encoding="utf-8")
    lines.write_text("\n".join(corpus_text[:3]), encoding="utf-8")
    rows = [f"{sentence}\t{number % 2}" for number, sentence in enumerate(corpus_text)]
    labelled.write_text("\n".join(["text\tlabel", *rows[:80]]), encoding="utf-8")
    (tmp_path / "test.tsv").write_text("\n".join(["text\tlabel", *rows[300:340]]), encoding="utf-8")
    run = shutil.copytree(checkpoint("bert"), tmp_path / "run")
    (run / "README.md").write_text("---\ntags: [unmask]\n---\n", encoding="utf-8")
    pairs.write_text("good\tbad\nThe cats sleep.\tThe cats sleeps.\n", encoding="utf-8")
    return {
        **dict.fromkeys(TEXTS, str(text)),
        "general": str(general),
        **dict.fromkeys(MODELS, str(checkpoint("bert"))),
        "out": str(tmp_path / "out"),
        "file": str(lines),
        "pairs data": str(pairs),
        "task": str(labelled),
        "probe test": str(tmp_path / "test.tsv"),
        "fill file": "",
        "vocab_size": "300",
        "texts": "The [MASK] is here.",
        "sentence": "The river is measured.",
        "run": str(run),
        "repository": "unmask-nobody/absent",
        "form": "fp16",
        "format": "fp16",
    }


def arguments(
    verb: str, hub: str | None, values: dict[str, str], model: str = HUB_MODEL, text: str = HUB_TEXT
) -> list[str]:
    """Return a command line of a verb; its parameter `hub` is something of the Hub, or by another URL."""
    line, positional = verb.split(), []
    for name, parameter in parameters(verb).items():
        if (value := values.get(f"{verb} {name}", values.get(name))) == "":
            continue
        assert value, f"give the parameter '{name}' of 'unmask {verb}' a value in {Path(__file__).name}"
        if (verb, name) in SENTENCES:
            value = values["sentence"]
        elif name == hub:
            value = model if name in MODELS else text
        if parameter.param_type_name == "argument":
            positional.append(value)
        else:
            line += [parameter.opts[0], value]
    return [*line, *positional, *EXTRA.get(verb, []), "--offline"]


def test_every_verb_that_reads_text_or_a_model_has_the_option() -> None:
    without = {verb for verb, command in verbs().items() if "offline" not in {p.name for p in command.params}}
    assert without == NO_HUB


@pytest.mark.parametrize(("verb", "hub"), CASES, ids=[f"{verb}-{name}" for verb, name in CASES])
def test_a_verb_looks_up_no_host(
    verb: str, hub: str | None, local: dict[str, str], lookups: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(arguments(verb, hub, local))
    assert lookups == []
    assert code in ([0] if hub is None else [ConfigError.exit_code, DataError.exit_code]), (
        capsys.readouterr().err
    )
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False  # as it was


@pytest.mark.parametrize(
    ("verb", "name"),
    [case for case in CASES if case[1] is not None],
    ids=[f"{verb}-{name}" for verb, name in CASES if name is not None],
)
def test_a_verb_reads_no_url(
    verb: str, name: str, local: dict[str, str], lookups: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(arguments(verb, name, local, "s3://bucket/model", "s3://bucket/text"))
    assert lookups == []
    shown = capsys.readouterr().err
    # Some take no URL at all, or not with these options.
    assert code == ConfigError.exit_code or (code, "offline" in shown) == (DataError.exit_code, True), shown


@pytest.mark.parametrize("name", ["text", "tokenizer"])
def test_without_the_option_a_host_is_looked_up(
    name: str, local: dict[str, str], lookups: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above must be able to fail."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # before it is tried again
    assert main(arguments("masks", name, local)[:-1]) != 0
    assert "huggingface.co" in lookups


def test_a_fresh_process_looks_up_no_host(local: dict[str, str]) -> None:
    """Here the libraries are first imported while the verb runs."""
    code = (
        "import os, socket, sys\n"
        "for name in ('HF_HUB_OFFLINE', 'HF_DATASETS_OFFLINE'): os.environ.pop(name, None)\n"
        "def look_up(host, *_, **__): print('looked up', host); os._exit(99)\n"
        "socket.getaddrinfo = look_up\n"
        "from unmask.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    line = arguments("prepare", "text", local)
    done = subprocess.run(
        [sys.executable, "-c", code, *line], capture_output=True, encoding="utf-8", timeout=120
    )
    assert (done.returncode, done.stdout) == (DataError.exit_code, ""), done.stderr
    assert "--offline" in done.stderr


FUNCTIONS = [
    name
    for name in unmask.__all__
    if inspect.isfunction(getattr(unmask, name)) and name not in NO_HUB | {"load_config"}
]


@pytest.mark.parametrize(
    ("name", "hub"),
    [
        (name, hub)
        for name in FUNCTIONS
        for hub, known in (("text", TEXTS), ("model", MODELS))
        if name not in SLOW or known & set(inspect.signature(getattr(unmask, name)).parameters)
    ],
)
def test_a_public_function_looks_up_no_host(
    name: str, hub: str, local: dict[str, str], lookups: list[str]
) -> None:
    values: dict[str, Any] = {}
    known = inspect.signature(getattr(unmask, name)).parameters
    unneeded = {"test", "tokenizer"} if "model" in known else {"test"}  # the model brings its own tokenizer
    for parameter in known.values():
        needed = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        if not needed and parameter.name not in GIVEN - unneeded:
            continue
        value: Any = local.get(f"{name} {parameter.name}", local.get(parameter.name))
        assert value, (
            f"give the parameter '{parameter.name}' of unmask.{name} a value in {Path(__file__).name}"
        )
        if (name, parameter.name) in SENTENCES:
            value = local["sentence"]
        elif parameter.name in (TEXTS if hub == "text" else MODELS):
            value = HUB_TEXT if hub == "text" else HUB_MODEL
        values[parameter.name] = int(value) if parameter.name == "vocab_size" else value
    with contextlib.suppress(UnmaskError):
        getattr(unmask, name)(**values, offline=True)
    assert lookups == []


@pytest.mark.parametrize(
    "settings",
    [DocumentSettings(offline=True), RunConfig(model=ModelSettings(offline=True)).data],
    ids=["of reading", "of a run"],
)
def test_the_setting_is_enough(settings: DocumentSettings, lookups: list[str]) -> None:
    with pytest.raises(DataError, match="only data sets in the local cache can be read"):
        list(DocumentReader([HUB_TEXT], settings))
    assert lookups == []


def test_blocks_may_overlap() -> None:
    state = huggingface_hub.constants.HF_HUB_OFFLINE
    first, second = offline_mode(), offline_mode()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert huggingface_hub.constants.is_offline_mode()
    second.__exit__(None, None, None)
    assert huggingface_hub.constants.HF_HUB_OFFLINE is state
