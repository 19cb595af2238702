"""The verb ``check``: the data doctor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option
from typer.core import TyperCommand

from unmask.cli import options
from unmask.cli import runtime as shell
from unmask.errors import DataError, DiskError

Data = Annotated[
    list[str],
    Argument(
        metavar="DATA",
        help="Files, folders, globs, - for standard input, or hf://org/name.",
        show_default=False,
    ),
]
Model = Annotated[
    str | None, Option(help="Checkpoint whose tokenizer and speed are measured: Hub name or folder.")
]
Against = Annotated[
    list[str] | None,
    Option(
        metavar="TEST",
        help="A test file, folder or glob to look for in DATA; may be repeated, or list several.",
    ),
]


class CheckCommand(TyperCommand):
    """Takes several files after one ``--against`` where DATA comes first: ``check train.txt --against dev.txt test.txt``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(
            ctx, spread(args) if args and (args[0] == "-" or args[0][:1] != "-") else args
        )


def spread(arguments: list[str]) -> list[str]:
    """Put ``--against`` before each of the values that follow one."""
    found: list[str] = []
    within = False
    for argument in arguments:
        if within and found[-1] != "--against" and argument[:1] != "-":
            found.append("--against")
        within = argument == "--against" or (within and (argument[:1] != "-" or argument == "-"))
        found.append(argument)
    return found


Strict = Annotated[bool, Option("--strict", help="Exit code 3 if a problem was found.")]


def check(
    data: Data,
    model: Model = None,
    against: Against = None,
    max_length: options.MaxLength = None,
    documents: options.DocumentsOption = None,
    text_field: options.TextField = None,
    html: options.Html = None,
    strict: Strict = False,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> int:
    """Look text over before training: errors, duplicates, leaks, length, vocabulary, and what to do next."""
    if html is not None and not html.absolute().parent.is_dir():
        raise DiskError(f"{html}: cannot be written: there is no folder {html.parent}")
    from unmask.config.load import load_config

    settings = load_config(None, (), {"data.documents": documents, "data.text_field": text_field}).data
    if offline:  # read once, when the libraries that go to the Hub are imported
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    with shell.working(models=model is not None) as progress:
        from unmask.checking.check import check_data

        found = check_data(
            data,
            settings,
            model=model,
            against=against or (),
            max_length=max_length,
            offline=offline,
            progress=progress,
        )
    answer = found.to_dict()
    if html is not None:
        _write_page(html, answer)
    if as_json:
        shell.emit(answer)
    else:
        from unmask.cli.draw_check import draw_check

        draw_check(shell.page(), answer)
    return DataError.exit_code if strict and found.verdict == "problem" else 0


def _write_page(html: Path, answer: dict[str, object]) -> None:
    from unmask.reporting.check_page import render_check

    shell.write(html, render_check(answer))
    shell.tell(str(html), "wrote")
