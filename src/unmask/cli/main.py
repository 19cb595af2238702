"""The command line: the only place that prints for people and exits.

TargetPredictions go to stdout, everything else to stderr. Heavy imports are inside the verbs, so that help is quick.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from unmask.cli import data, evaluate, inference, masking, probe, scoring, tools, train, vocabulary
from unmask.cli import runtime as shell

app = typer.Typer(
    help="Adapt, or train from scratch, a BERT-family encoder on your own text, and see what it learned.",
    add_completion=False,
    rich_markup_mode=None,  # [MASK] in a help text is no markup, and plain help is quicker
)
tokenizer_app = typer.Typer(name="tokenizer", help="Make tokenizers.", rich_markup_mode=None)
app.add_typer(tokenizer_app)


def _print_version(asked: bool) -> None:
    if asked:
        from unmask import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _global(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (any verb).")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    # --debug is taken by main(), wherever it stands, and only named here for the help.
    pass


app.command()(train.demo)
app.command()(tools.init)
app.command()(data.prepare)
app.command()(train.train)
app.command(cls=data.CheckCommand)(data.check)
app.command("eval")(evaluate.evaluate)
app.command()(evaluate.compare)
app.command()(inference.explain)
app.command()(inference.fill)
app.command()(train.report)
app.command()(scoring.score)
app.command()(scoring.pairs)
app.command()(masking.masks)
app.command()(masking.terms)
app.command()(masking.collocations)
app.command()(tools.conformance)
app.command()(tools.bench)
app.command()(probe.probe)
tokenizer_app.command("extend")(vocabulary.extend)
tokenizer_app.command("train")(vocabulary.tokenizer_train)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        arguments: what follows the name of the program; by default what this process was given.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    before = [argument for argument in given[:end] if argument != "--debug"]
    debug = len(before) < end
    shell.share_cores()
    if not debug:
        shell.quiet_libraries()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an undecodable byte in a path must not end the program
            stream.reconfigure(errors="backslashreplace")
    return shell.exit_code_of(lambda: _run([*before, *given[end:]] or ["--help"]), debug=debug)


def _run(arguments: list[str]) -> Any:
    command = typer.main.get_command(app)
    with command.make_context("unmask", arguments) as context:
        return command.invoke(context)
