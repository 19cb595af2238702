"""The verbs ``score`` and ``pairs``: how probable a model finds texts, and which of two."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from unmask.cli import options
from unmask.cli import runtime as shell
from unmask.cli.terminal import Page
from unmask.errors import ConfigError, DataError, Interrupted
from unmask.reporting.format import interval, percent

if TYPE_CHECKING:
    from unmask.progress import Progress
    from unmask.scoring.pair_run import PairFileScorer
    from unmask.scoring.row_file import RowFile
    from unmask.scoring.score_file import FileScorer
    from unmask.scoring.scorer import Scorer


_COMPLAINTS = 20

TextsFile = Annotated[
    str | None,
    Argument(
        metavar="FILE", help="Text (a line a text), JSONL, TSV or CSV, .gz and .zst too; - is standard input."
    ),
]
PairsPath = Annotated[
    str,
    Argument(
        metavar="PATH", help="JSONL, TSV or CSV of pairs, a folder or glob of them, or - for standard input."
    ),
]
MethodOption = Annotated[
    str,
    Option(
        metavar="NAME",
        help="original (one token masked), within_word_l2r (and the later pieces of its word), whole_word (all pieces "
        "together), or estimate (nothing masked, one pass: quick, far too high, good for ranking at most).",
    ),
]
TextField = Annotated[
    str, Option(help="Field or column of the text; of a table without names its number.", show_default=True)
]
Format = Annotated[
    str | None,
    Option("--format", metavar="NAME", help="text, jsonl, tsv or csv [default: what the suffix says]."),
]
Details = Annotated[bool, Option("--details", help="Add the score of each token and word to the rows.")]
Window = Annotated[
    int | None,
    Option("--max-length", help="Tokens of a window over long texts [default: what the model takes]."),
]
MaxBytes = Annotated[
    int, Option(help="Skip texts of more bytes: each token costs a pass over a window.", min=1)
]
RowsFile = Annotated[Path | None, Option("-o", "--out", metavar="FILE", help="Write the rows to this file.")]
GoOn = Annotated[bool, Option("--resume", help="Go on behind the rows that the file of -o has.")]
Good = Annotated[
    str | None, Option(help="Field, column or its number of the good side [default: sentence_good].")
]
Bad = Annotated[
    str | None, Option(help="Field, column or its number of the bad side [default: sentence_bad].")
]
By = Annotated[
    str | None, Option(metavar="FIELD", help="Field of the table's rows [default: UID, or the file].")
]
PrecisionAuto = Annotated[
    options.Precision,
    Option("--precision", help="Precision of the computation; auto takes bf16 where it pays."),
]


def score(
    model: options.ModelArgument,
    file: TextsFile = None,
    method: MethodOption = "original",
    text_field: TextField = "text",
    kind: Format = None,
    out: RowsFile = None,
    resume: GoOn = False,
    force: options.Force = False,
    details: Details = False,
    max_length: Window = None,
    max_bytes: MaxBytes = 500_000,
    device: options.DeviceOrAuto = "auto",
    precision: PrecisionAuto = "auto",
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> int:
    """Pseudo-log-likelihood of texts: a JSON line for each, in order."""
    if file is None and sys.stdin.isatty():
        raise ConfigError("no text: name a file, or give texts on standard input, one on each line")
    stdout, rows = sys.stdout, _rows(out, resume, force)
    with shell.working() as progress:
        from unmask.data.reading.records import RecordReader
        from unmask.scoring.score_file import FileScorer

        names = _names_or_number(text_field)
        reader = RecordReader(file or "-", kind, has_names=names, log=progress.log)
        run = FileScorer(
            reader,
            _scorer(model, method, max_length, device, precision, offline, progress),
            text_field=text_field,
            max_bytes=max_bytes,
            details=details,
            complain=_complain(),
            progress=progress,
        )
        _go_on(run, rows, progress)
        scores: list[dict[str, Any]] = []
        with _resumable(rows):
            totals = run.run(rows.write if rows else scores.append if as_json else _printer(stdout))
    answer = {"model": model, "method": run.scorer.method, **totals.to_dict()}
    if as_json:
        shell.emit(answer | ({"out": str(out)} if rows else {"scores": scores}))
    else:
        _tell_totals(answer, out)
    return _skipped(totals.skipped, "text")


def pairs(
    model: options.ModelArgument,
    path: PairsPath,
    method: MethodOption = "original",
    good: Good = None,
    bad: Bad = None,
    by: By = None,
    out: RowsFile = None,
    resume: GoOn = False,
    force: options.Force = False,
    max_length: Window = None,
    device: options.DeviceOrAuto = "auto",
    precision: PrecisionAuto = "auto",
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> int:
    """How often a model finds the good text of a pair more probable than the bad one."""
    rows = _rows(out, resume, force)
    with shell.working() as progress:
        from unmask.scoring.pair_files import PairReader
        from unmask.scoring.pair_run import PairFileScorer

        reader = PairReader(path, good, bad, by, log=progress.log)
        scorer = _scorer(model, method, max_length, device, precision, offline, progress)
        run = PairFileScorer(reader, scorer, complain=_complain(), progress=progress)
        _go_on(run, rows, progress)
        with _resumable(rows):
            figures = run.run(rows.write if rows else lambda row: None)
    answer = {"model": model, **figures.to_dict()}
    if as_json:
        shell.emit(answer)
    else:
        draw_pairs(shell.page(), answer)
    return _skipped(figures.skipped, "pair")


def _rows(out: Path | None, resume: bool, force: bool) -> RowFile | None:
    """Return the file of rows, if there is one; it is not touched before there is something to write."""
    if out is None and resume:
        raise ConfigError("--resume needs the file to go on with: name it with -o")
    if out is None:
        return None
    from unmask.scoring.row_file import RowFile

    return RowFile(out, resume=resume, replace=force)


def _scorer(
    model: str,
    method: str,
    max_length: int | None,
    device: str,
    precision: str,
    offline: bool,
    progress: Progress,
) -> Scorer:
    """Check the name of the method, then load the model."""
    from unmask.model.load import load_for_inference
    from unmask.scoring.masked_copies import method_named
    from unmask.scoring.scorer import Scorer

    if method_named(method) == "estimate":
        progress.log("method estimate: the model sees the tokens it is asked for; no pseudo-log-likelihood")
    loaded = load_for_inference(model, device=device, precision=precision, offline=offline, progress=progress)
    return Scorer(loaded, method=method, max_length=max_length)


def _names_or_number(field: str) -> Callable[[Sequence[str]], bool]:
    """Return what says whether a table's first row holds names: it does not where the column has only a number."""
    return lambda row: field in row or not field.isdigit()


def _printer(stdout: Any) -> Callable[[dict[str, Any]], None]:
    """Return what prints a row on stdout at once, so that a pipe sees it."""
    is_utf8 = (stdout.encoding or "").lower().replace("-", "") == "utf8"

    def write(row: dict[str, Any]) -> None:
        stdout.write(json.dumps(row, ensure_ascii=not is_utf8, allow_nan=False) + "\n")
        stdout.flush()

    return write


def _complain() -> Callable[[DataError], None]:
    """Return what reports skipped records: the first in full, and no end of them otherwise."""
    told = 0

    def complain(error: DataError) -> None:
        nonlocal told
        told += 1
        if told <= _COMPLAINTS:
            shell.tell(str(error), "skipped")
        elif told == _COMPLAINTS + 1:
            shell.tell("more records, which are only counted from here on", "skipped")

    return complain


def _go_on(run: FileScorer | PairFileScorer, rows: RowFile | None, progress: Progress) -> None:
    """Count what the file of rows has already."""
    if rows is not None and rows.kept:
        run.go_on_after(rows.rows())
        progress.log(f"{rows.path} has {rows.kept:,} rows; going on behind them")


@contextmanager
def _resumable(rows: RowFile | None) -> Iterator[None]:
    """Open the file of rows, if there is one, and turn a signal into a stop that says how to go on."""
    if rows is None:
        yield
        return

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with rows:
            yield
    except KeyboardInterrupt:
        raise Interrupted(
            f"the rows so far are in {rows.path}; go on with the same command and --resume"
        ) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell_totals(answer: dict[str, Any], out: Path | None) -> None:
    where = f" in {out}" if out else ""
    shell.tell(
        f"{answer['texts']:,} texts{where}; a text {answer['per_text']:.4g}, a token {answer['per_token']:.4g}, a word "
        f"{answer['per_word']:.4g} nats; {answer['bits_per_byte']:.4g} bits per byte; pseudo-perplexity "
        f"{answer['pseudo_perplexity']:.4g}",
        answer["method"],
    )


def _skipped(count: int, what: str) -> int:
    if count:
        shell.tell(f"{count:,} {what}{'s' if count > 1 else ''} could not be scored", "skipped")
    return DataError.exit_code if count else 0


_HEADER = ("accuracy", "95%", "pairs", "ties")


def draw_pairs(page: Page, found: Mapping[str, Any]) -> None:
    """Draw accuracy by paradigm, by term and overall.

    Args:
        page: where to draw.
        found: :meth:`unmask.scoring.pairs.PairFigures.to_dict`.
    """
    table: Sequence[Mapping[str, Any]] = found["table"]
    if len(table) > 1:
        page.table(("paradigm", *_HEADER), [[row["paradigm"], *_figures(row)] for row in table])
    if len(found["terms"]) > 1:
        page.table(("term", *_HEADER), [[row["term"], *_figures(row)] for row in found["terms"]])
    page.table((found["method"], *_HEADER), [["all pairs", *_figures(found)]])
    if len(table) > 1:
        page.say(f"mean over {len(table)} paradigms {percent(found['mean_of_paradigms'])}")
    page.say(f"intervals: {found['interval_method']}; a tie is not right", style="dim")


def _figures(row: Mapping[str, Any]) -> list[object]:
    return [percent(row["accuracy"]), interval("accuracy", row["interval"]), row["pairs"], row["ties"]]
