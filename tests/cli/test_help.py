"""Help, hints and switches that every verb has: found by looking at the commands themselves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from unmask.cli.main import app, main
from unmask.config.load import load_config
from unmask.config.options import OPTIONS
from unmask.config.settings import RunConfig

SOURCE = Path(__file__).parents[2] / "src"


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    command = command or typer.main.get_command(app)
    inner = getattr(command, "commands", {})
    if not inner:
        yield path, command
    for name, below in inner.items():
        yield from commands(below, (*path, name))


VERBS = dict(commands())
every_verb = pytest.mark.parametrize("path", list(VERBS), ids=" ".join)


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(arguments) == 0
    found = capsys.readouterr()
    assert found.err == ""
    return found.out


def program(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own, with nothing on its standard input."""
    return subprocess.run(
        [sys.executable, "-m", "unmask", *arguments],
        env={**os.environ, "PYTHONPATH": str(SOURCE), **environment},
        stdin=subprocess.DEVNULL,
        text=True,
        capture_output=True,
    )


# ---------------------------------------------------------------- help


@every_verb
@pytest.mark.parametrize("columns", [80, 60])
def test_help_fits_the_terminal_and_shows_an_example(
    path: tuple[str, ...], columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = shown(capsys, *path, "-h")
    assert text == shown(capsys, *path, "--help")
    assert "…" not in text
    assert "<" not in text.replace("<mask>", "")  # no <str> where a name belongs
    assert "{" not in text.replace("{2}", "").replace("{1-4}", "")
    about, _, rest = text.partition("\nExamples:\n")
    examples, _, options = rest.partition("\n\n")
    assert all(len(line) <= columns for line in (about + options).splitlines())
    assert all(len(line) <= 80 for line in examples.splitlines())
    assert f"  unmask {' '.join(path)} " in examples + " \n" or f"  unmask {' '.join(path)}\n" in examples


@every_verb
def test_the_examples_use_what_the_verb_has(path: tuple[str, ...]) -> None:
    examples = VERBS[path].help.partition("Examples:\n")[2].replace("\\\n", " ")
    for line in examples.splitlines():
        words = line.split()
        (verb,) = [verb for verb in VERBS if tuple(words[1 : 1 + len(verb)]) == verb]
        options = {option for param in VERBS[verb].params for option in param.opts}
        assert {word for word in words if re.match(r"--?[a-z]", word)} <= options


def test_the_overview_has_a_line_for_each_verb(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = shown(capsys, "-h").splitlines()
    assert all(len(line) <= 80 for line in lines)
    for heading in ("Train:", "Evaluate:", "Use:", "Data:", "Tools:"):
        assert heading in lines
    for path, command in VERBS.items():
        summary = command.help.partition("\n")[0]
        assert any(line.split() == [*path, *summary.split()] for line in lines)


@every_verb
def test_common_options(path: tuple[str, ...]) -> None:
    options = {option for param in VERBS[path].params for option in param.opts}
    assert {"-q", "--quiet", "--debug", "--json"} <= options
    reads = {"text", "model", "models", "data", "first", "texts"} & {
        param.name for param in VERBS[path].params
    }
    assert not reads or "--offline" in options


@every_verb
def test_an_option_says_what_it_takes(path: tuple[str, ...]) -> None:
    """N in the help is a whole number, or the N of its sentence."""
    for param in VERBS[path].params:
        is_plain = (
            param.is_flag or param.type_descriptor.is_choice if param.opts[0].startswith("-") else False
        )
        if not is_plain and param.metavar is None:
            assert int in (param.type_descriptor.annotation, *get_args(param.type_descriptor.annotation))


@every_verb
def test_one_default_of_an_option(path: tuple[str, ...]) -> None:
    """An option that is a setting shows the default of the setting; --precision has one default per kind of verb."""
    defaults = RunConfig()
    for param in VERBS[path].params:
        if param.name == "precision":
            assert (param.default or param.show_default) == (
                "auto" if path in {("train",), ("bench",), ("forecast",)} else "fp32"
            )
        elif path == ("train",) and param.name in OPTIONS:
            value: Any = defaults
            for part in OPTIONS[param.name].split("."):
                value = getattr(value, part)
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                assert param.show_default == str(value)


def test_the_options_of_train_are_those_of_the_table() -> None:
    own = {"out", "config_file", "overrides", "resume", "checkpoint", "dry_run", "as_json", "quiet", "debug"}
    assert {param.name for param in VERBS[("train",)].params} - own == set(OPTIONS)
    load_config(None, (), dict.fromkeys(OPTIONS.values()))


def test_version_and_completion(capsys: pytest.CaptureFixture[str]) -> None:
    from unmask import __version__

    assert shown(capsys, "-V") == shown(capsys, "--version") == f"{__version__}\n"
    completed = program(_UNMASK_COMPLETE="complete_bash", COMP_WORDS="unmask train --learn", COMP_CWORD="2")
    assert completed.stdout.split() == ["--learning-rate"]
    assert "--install-completion" in shown(capsys, "-h")


# ---------------------------------------------------------------- hints


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        ("train a --lr 1e-4", "did you mean --learning-rate?"),
        ("train --data a", "TEXT is an argument: unmask train [TEXT...]"),
        ("train a --batch-size 8", "did you mean --batch-tokens?"),
        ("train a --output-dir o", "did you mean --out?"),
        ("train a --model-name-or-path m", "did you mean --model?"),
        ("train a --num-train-epochs 3", "did you mean --epochs?"),
        ("train a --mlm-probability 0.3", "did you mean --mask-rate?"),
        ("train a --rate 0.3", "did you mean --mask-rate?"),
        ("train a --gradient-accumulation-steps 2", "did you mean --set train.micro_batch_tokens=VALUE?"),
        ("train a --fp16", "did you mean --precision?"),
        ("train a --max-step 3", "did you mean --max-steps?"),
        ("explain text --model m", "MODEL is an argument: unmask explain MODEL TEXT"),
        ("check a --against b", "did you mean --test?"),
        ("terms a --against b -o f", "did you mean --general?"),
        (
            "tokenizer extend --data a --model m -o n",
            "TEXT is an argument: unmask tokenizer extend [TEXT...]",
        ),
        ("eval m --text a", "did you mean --data?"),
        ("evaluate m", "Did you mean 'eval'?"),
        ("predict m", "Did you mean 'fill'?"),
        ("train a --resume auto -o out", "--resume takes no value"),
    ],
)
def test_a_wrong_option_is_answered_with_what_is_meant(
    call: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(call.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert meant in line
    assert line.count("did you mean") <= 1


@pytest.mark.parametrize("call", ["fill m --lr 1", "probe m --rate 1 --task t", "eval m --batch-size 2"])
def test_a_synonym_never_leads_to_an_option_that_only_looks_alike(
    call: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(call.split()) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_wrong_usage_is_answered_without_torch() -> None:
    script = "import sys; from unmask.cli.main import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    for call in (
        ["train", "a"],
        ["train", "a", "--lr", "1"],
        ["explain", "m"],
        ["train", "a", "--preset", "no"],
    ):
        found = subprocess.run(
            [sys.executable, "-c", script, *call],
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            text=True,
            capture_output=True,
        )
        assert found.stdout == "False\n", call
        assert found.stderr.startswith("error: ")


# ---------------------------------------------------------------- streams


def test_quiet_leaves_errors_only(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Some words to read here.\n" * 30, encoding="utf-8")
    arguments = ("tokenizer", "train", str(text), "--vocab-size", "120", "-o")
    loud = program(*arguments, str(tmp_path / "loud"), "--json")
    assert loud.returncode == 0
    assert loud.stderr
    for switch in (["-q", *arguments], [*arguments]):
        out = str(tmp_path / f"quiet{len(switch)}")
        quiet = program(*switch, out, "--json", *([] if switch[0] == "-q" else ["--quiet"]))
        assert (quiet.returncode, quiet.stderr) == (0, "")
        assert json.loads(quiet.stdout)["tokenizer"] == out
    wrong = program("-q", "check", str(tmp_path / "absent.txt"))
    assert wrong.returncode == 3
    assert wrong.stderr.startswith("error: ")


def test_off_a_terminal_nothing_is_drawn(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Some words to read here.\n" * 30, encoding="utf-8")
    found = program("check", str(text), FORCE_COLOR="")
    assert found.returncode == 0
    assert not re.search(r"[\x1b\r]", found.stdout + found.stderr)


@pytest.mark.parametrize("schema", [False, True])
def test_init_answers_with_json(
    schema: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--schema"] if schema else []
    assert json.loads(shown(capsys, "init", "run.yaml", "--json", *flags)) == {
        "file": "run.yaml",
        "schema": schema,
    }
    printed = json.loads(shown(capsys, "init", "--stdout", "--json", *flags))
    assert printed.keys() >= ({"properties"} if schema else {"model", "data", "masking", "train"})
