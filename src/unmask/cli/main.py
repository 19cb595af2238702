"""The command line: the only place that prints for people and exits.

Results go to stdout, everything else to stderr. Heavy imports are inside the verbs, so that help is quick.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Any

import typer

from unmask.cli import (
    data,
    evaluate,
    export,
    forecast,
    inference,
    masking,
    probe,
    push,
    scoring,
    serve,
    tools,
    train,
    vocabulary,
)
from unmask.cli import runtime as shell
from unmask.cli.command import Command, Group
from unmask.machine import on_windows
from unmask.remote.files import list_files

app = typer.Typer(
    cls=Group,
    help="Adapt, or train from scratch, a BERT-family encoder on your own text, and see what it learned.",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # [MASK] in a help text is no markup, and plain help is quicker
)
tokenizer_app = typer.Typer(
    cls=Group, name="tokenizer", help="Train, extend or trim tokenizers.", rich_markup_mode=None
)

_VERBS: dict[str, dict[str, Callable[..., Any]]] = {
    "Train": {
        "forecast": forecast.forecast,
        "train": train.train,
        "demo": train.demo,
        "report": train.report,
        "init": tools.init,
    },
    "Evaluate": {
        "eval": evaluate.evaluate,
        "compare": evaluate.compare,
        "pairs": scoring.pairs,
        "probe": probe.probe,
        "conformance": tools.conformance,
    },
    "Use": {
        "fill": inference.fill,
        "explain": inference.explain,
        "score": scoring.score,
        "serve": serve.serve,
        "export": export.export,
        "push": push.push,
    },
    "Data": {
        "check": data.check,
        "prepare": data.prepare,
        "masks": masking.masks,
        "terms": masking.terms,
    },
    "Tools": {"bench": tools.bench, "convert": tools.convert},
}
for _panel, _verbs in _VERBS.items():
    for _name, _verb in _verbs.items():
        _class = data.CheckCommand if _name == "check" else Command
        app.command(_name, cls=_class, rich_help_panel=_panel)(_verb)
tokenizer_app.command("train", cls=Command, rich_help_panel="Data")(vocabulary.train_tokenizer)
tokenizer_app.command("extend", cls=Command, rich_help_panel="Data")(vocabulary.extend_tokenizer)
tokenizer_app.command("trim", cls=Command, rich_help_panel="Data")(vocabulary.trim_tokenizer)
app.add_typer(tokenizer_app)


def _print_version(given: bool) -> None:
    if given:
        from unmask import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool,
        typer.Option("-V", "--version", help="Print the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        arguments: what follows the name of the program; by default what this process was given.
    """
    shell.mode.quiet = shell.mode.debug = False
    shell.share_cores()
    list_files.cache_clear()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an undecodable byte in a path must not end the program
            # Windows writes to pipes and files in the code page of the system, which has few letters.
            stream.reconfigure(encoding="utf-8" if on_windows() else None, errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    return shell.exit_code_of(lambda: _run(given or ["--help"]))


@cache
def _command() -> Any:
    return typer.main.get_command(app)  # takes as long as many a verb


def _run(arguments: list[str]) -> Any:
    command = _command()
    if "_UNMASK_COMPLETE" in os.environ:  # the shell asks for completions
        command.main(arguments, prog_name="unmask")
    with command.make_context("unmask", arguments) as context:
        return command.invoke(context)
