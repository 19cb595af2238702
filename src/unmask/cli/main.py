"""The command line: the only place that prints for people and exits.

TargetPredictions go to stdout, everything else to stderr. Heavy imports are inside the verbs, so that help is quick.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from unmask.cli import bench as cli_bench
from unmask.cli import check as cli_check
from unmask.cli import evaluate as cli_evaluation
from unmask.cli import inference as cli_inference
from unmask.cli import masking as cli_masking
from unmask.cli import options
from unmask.cli import probe as cli_probe
from unmask.cli import runtime as shell
from unmask.cli import scoring as cli_scoring
from unmask.cli import train as cli_training
from unmask.cli import vocabulary as cli_vocabulary
from unmask.errors import ConfigError, DataError
from unmask.storage import new_folder

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


@app.command()
def demo(
    out: options.DemoFolder = Path("runs/demo"),
    minutes: options.DemoMinutes = 2.5,
    seed: options.SeedOrZero = 0,
    as_json: options.Json = False,
) -> None:
    """Train a small encoder on this Python's own documentation."""
    with shell.working() as progress:
        from unmask.run.demo import run_demo

        result = run_demo(out, minutes=minutes, seed=seed, progress=progress)
    cli_training.answer_run(result, as_json, examples=True)


@app.command()
def init(
    path: options.SettingsFileArgument = None,
    schema: options.Schema = False,
    force: options.Force = False,
    stdout: options.Stdout = False,
) -> None:
    """Write a complete, commented settings file to start from."""
    from unmask.config.load import json_schema, starter_yaml

    text = json.dumps(json_schema(), indent=2) + "\n" if schema else starter_yaml()
    if stdout or (schema and path is None):
        sys.stdout.write(text)
        return
    path = path or Path("run.yaml")
    if path.exists() and not force:
        raise ConfigError(f"{path}: exists already; choose another name, or replace it with --force")
    shell.write(path, text)
    shell.page().say(f"wrote {path}" + ("" if schema else f"; use it with: unmask train DATA... -c {path}"))


@app.command()
def prepare(
    data: options.DataOrConfigArgument = None,
    model: options.ModelWithTokenizer = None,
    tokenizer: options.Tokenizer = None,
    out: options.NewFolderOrNone = None,
    documents: options.DocumentsOption = None,
    text_field: options.TextField = None,
    strict: options.Strict = False,
    max_length: options.MaxLength = None,
    config_file: options.ConfigFile = None,
    overrides: options.Overrides = None,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Tokenise text once, into shards that 'train' can reuse."""
    flags = {
        "data.inputs": data,
        "data.documents": documents,
        "data.text_field": text_field,
        "data.strict": strict or None,
        "data.max_length": max_length,
        "model.name": model,
        "model.tokenizer": tokenizer,
        "model.offline": offline or None,
    }
    from unmask.config.load import load_config

    config = load_config(config_file, overrides or (), flags)
    name = config.model.tokenizer or config.model.name
    if name is None:
        raise ConfigError(
            "no tokenizer: name one with --tokenizer, or a checkpoint that has one with --model"
        )
    if not config.data.inputs:
        raise ConfigError(
            "no text to prepare: name files, folders or globs, for example 'unmask prepare texts'"
        )
    if out is None:
        raise ConfigError("no folder to write to: name one with -o, for example -o shards")
    with shell.working() as progress:
        from unmask.data.corpus import prepare as write_shards
        from unmask.data.tokenizer import load_tokenizer

        loaded = load_tokenizer(name, offline=config.model.offline)
        manifest = write_shards(config.data.inputs, config.data, loaded, out, progress=progress).manifest
    _answer_prepare(manifest, out, as_json)


app.command()(cli_training.train)
app.command(cls=cli_check.CheckCommand)(cli_check.check)
app.command("eval")(cli_evaluation.evaluate)
app.command()(cli_evaluation.compare)


app.command()(cli_inference.explain)
app.command()(cli_inference.fill)


@app.command()
def report(run: options.RunArgument, as_json: options.Json = False) -> None:
    """Rebuild the report of a run from its files, and the model card where it is missing."""
    if not run.is_dir():
        raise DataError("no such folder; expected the folder of a run, such as runs/demo", path=run)
    with shell.working(models=False):
        from unmask.reporting.card import write_missing_card
        from unmask.reporting.page import write_report
        from unmask.run_folder import RunFolder
        from unmask.storage import read_json

        folder = RunFolder(run)
        path = write_report(folder)
        write_missing_card(folder)
        figures = {"evaluation": read_json(folder.evaluation), "adaptation": read_json(folder.adaptation)}
    if as_json:
        shell.emit({"report": str(path), **figures})
    else:
        shell.page().say(f"report: {path}")


app.command()(cli_scoring.score)
app.command()(cli_scoring.pairs)
app.command()(cli_masking.masks)
app.command()(cli_masking.terms)
app.command()(cli_masking.collocations)
app.command()(cli_masking.conformance)
app.command()(cli_bench.bench)
app.command()(cli_probe.probe)


tokenizer_app.command("extend")(cli_vocabulary.extend)


@tokenizer_app.command("train")
def tokenizer_train(
    data: options.DataArgument,
    vocab_size: options.VocabSize,
    out: options.NewFolder,
    documents: options.DocumentsOption = None,
    text_field: options.TextField = None,
    strict: options.Strict = False,
    as_json: options.Json = False,
) -> None:
    """Train a WordPiece tokenizer on text."""
    from unmask.config.load import load_config

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: exists already and is not an empty folder; choose another name")
    flags = {
        "data.inputs": data,
        "data.documents": documents,
        "data.text_field": text_field,
        "data.strict": strict or None,
    }
    settings = load_config(None, (), flags).data
    with shell.working() as progress:
        from unmask.data.reading.documents import DocumentReader
        from unmask.data.tokenizer import train_tokenizer

        reader = DocumentReader(settings.inputs, settings, log=progress.log)
        texts = (document.text for document in reader)
        first = next(texts, None)
        if first is None:
            raise DataError(f"no text in {' '.join(data)}; a tokenizer needs some to learn from")
        trained = train_tokenizer(chain([first], texts), vocab_size)
        with new_folder(out) as folder:
            trained.save_pretrained(folder)
    answer = {"tokenizer": str(out), "vocab_size": len(trained), "documents": reader.stats.documents}
    if as_json:
        shell.emit(answer)
    else:
        shell.page().pairs({name.replace("_", " "): value for name, value in answer.items()})


def _answer_prepare(manifest: dict[str, Any], out: Path, as_json: bool) -> None:
    """Print what was prepared."""
    if as_json:
        shell.emit({"folder": str(out), **manifest})
        return
    read = manifest.get("read", {})
    counts = {name: read.get(name) for name in ("files", "characters", "empty", "split_documents")}
    counts |= {name: manifest.get(name) for name in ("documents", "tokens", "bytes")}
    counts |= {f"error: {reason}": count for reason, count in read.get("errors", {}).items()}
    page = shell.page()
    page.pairs({name.replace("_", " "): count for name, count in counts.items() if count is not None})
    page.say(f"shards in {out}; 'unmask train {out} ...' takes them in place of the text")


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
