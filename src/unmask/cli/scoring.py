"""The verbs ``score`` and ``pairs``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from unmask.cli import options
from unmask.cli import runtime as shell
from unmask.cli.terminal import Page
from unmask.errors import ConfigError, DataError, Interrupted, plural
from unmask.reporting.format import interval, percent
from unmask.storage import JsonDict

if TYPE_CHECKING:
    from unmask.progress import Progress
    from unmask.scoring.file_scorer import PairFileScorer, TextFileScorer
    from unmask.scoring.row_file import RowFile
    from unmask.scoring.scorer import Scorer


_SHOWN_ERRORS = 20

TextsFile = Annotated[
    str | None,
    Argument(metavar="FILE", help="A text on each line, JSONL, TSV or CSV, .gz and .zst too; - (the default) is standard input."),
]  # fmt: skip
PairsPath = Annotated[
    str,
    options.text("--data", metavar="PATH", help="Pairs: JSONL, TSV or CSV, a folder or glob of them, or - for standard input."),
]  # fmt: skip
MethodOption = Annotated[
    str,
    Option(
        "--method",
        metavar="METHOD",
        help="original: one token masked; within_word_l2r: the later subwords of its word too; whole_word: all subwords "
        "of a word together; estimate: nothing masked, one pass, far too high, at most for ranking.",
    ),
]
TextField = Annotated[
    str,
    options.text("--text-field", metavar="FIELD", help="Field or column of the text, or its number in a table without names."),
]  # fmt: skip
Format = Annotated[
    str | None,
    options.text("--format", metavar="FORMAT", show_default="by its suffix", help="Format of FILE: text, jsonl, tsv or csv."),
]  # fmt: skip
Details = Annotated[bool, Option("--details", help="Add the score of each token and word to the rows.")]
Window = Annotated[
    int | None,
    options.text("--max-length", show_default="the most the model takes", help="Tokens of a window over a long text."),
]  # fmt: skip
MaxBytes = Annotated[
    int,
    options.text("--max-bytes", min=1, help="Skip texts of more than N bytes: each token costs a pass over a window."),
]  # fmt: skip
Good = Annotated[
    str | None,
    options.text("--good", metavar="FIELD", show_default="sentence_good", help="Field, column or column number of the good side."),
]  # fmt: skip
Bad = Annotated[
    str | None,
    options.text("--bad", metavar="FIELD", show_default="sentence_bad", help="Field, column or column number of the bad side."),
]  # fmt: skip
By = Annotated[
    str | None,
    options.text("--by", metavar="FIELD", show_default="UID, or the file", help="Field that groups the pairs in the table."),
]  # fmt: skip


def score(
    model: options.ModelArgument,
    file: TextsFile = None,
    method: MethodOption = "original",
    text_field: TextField = "text",
    kind: Format = None,
    out: options.RowsFile = None,
    resume: options.ResumeRows = False,
    force: options.Force = False,
    details: Details = False,
    max_length: Window = None,
    max_bytes: MaxBytes = 500_000,
    device: options.DeviceOrAuto = "auto",
    precision: options.PrecisionOrFp32 = "fp32",
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> int:
    """Score texts by pseudo-log-likelihood.

    Prints a JSON line for each text, in order: per text, token, word and byte.

    Examples:
        unmask score bert-base-uncased texts.txt
        unmask score runs/notes texts.jsonl -o scores.jsonl
        unmask score runs/notes texts.jsonl -o scores.jsonl --resume
    """
    if file is None and sys.stdin.isatty():
        raise ConfigError("no text: name a file, or give texts on standard input, one on each line")
    stdout, rows = sys.stdout, _rows(out, resume, force)
    with shell.working() as progress:
        from unmask.data.reading.records import RecordReader
        from unmask.scoring.file_scorer import TextFileScorer

        def has_names(first: Sequence[str]) -> bool:  # a table whose column is given by number may have none
            return text_field in first or not text_field.isdigit()

        def show(row: JsonDict) -> None:
            shell.emit(row, stdout)
            stdout.flush()  # so that a pipe sees it

        reader = RecordReader(file or "-", kind, has_names=has_names, skip_blank=True, progress=progress)
        scorer = _scorer(
            model, method, max_length, progress, device=device, precision=precision, offline=offline
        )
        run = TextFileScorer(
            reader, scorer, text_field=text_field, max_bytes=max_bytes, details=details, on_skip=_report_skipped(),
            progress=progress,
        )  # fmt: skip
        scores: list[JsonDict] = []
        with _resumable(run, rows):
            totals = run.run(rows.write if rows else scores.append if as_json else show)
    result = {
        "model": model,
        "method": run.scorer.method,
        **totals.to_dict(),
        "blank_lines": reader.blank_lines,
    }
    if as_json:
        shell.emit(result | ({"out": str(out)} if rows else {"scores": scores}))
    else:
        _print_totals(result, out)
    return _print_skipped(totals.skipped, "text", reader.blank_lines)


def pairs(
    models: options.ModelsArgument,
    data: PairsPath,
    method: MethodOption = "original",
    good: Good = None,
    bad: Bad = None,
    by: By = None,
    out: options.RowsFile = None,
    resume: options.ResumeRows = False,
    force: options.Force = False,
    max_length: Window = None,
    device: options.DeviceOrAuto = "auto",
    precision: options.PrecisionOrFp32 = "fp32",
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> int:
    """Score minimal pairs: is the good text more probable?

    Examples:
        unmask pairs bert-base-uncased runs/notes --data blimp/
        unmask pairs runs/notes --data pairs.tsv --good right --bad wrong
    """
    if len(models) > 1 and (out is not None or data == "-"):
        raise ConfigError("-o and pairs from standard input go with one model, not with several")
    rows = _rows(out, resume, force)
    results: list[JsonDict] = []
    with shell.working() as progress:
        from unmask.scoring.file_scorer import PairFileScorer
        from unmask.scoring.pair_files import PairReader

        for model in models:
            reader = PairReader(data, good, bad, by, progress=progress)
            scorer = _scorer(
                model, method, max_length, progress, device=device, precision=precision, offline=offline
            )
            run = PairFileScorer(reader, scorer, on_skip=_report_skipped(), progress=progress)
            with _resumable(run, rows):
                found = run.run(rows.write if rows else lambda row: None)
            results.append({"model": model, **found.to_dict(), "blank_lines": reader.blank_lines})
    document = results[0] if len(results) == 1 else {"models": results}
    shell.show(as_json, document, lambda page: draw_pairs(page, results))
    return _print_skipped(max(result["skipped"] for result in results), "pair", reader.blank_lines)


def _rows(out: Path | None, resume: bool, force: bool) -> RowFile | None:
    """Return the file of rows, if there is one; it is not touched before there is something to write."""
    if out is None and resume:
        raise ConfigError("--resume needs the file to continue: name it with -o")
    if out is None:
        return None
    from unmask.scoring.row_file import RowFile

    return RowFile(out, resume=resume, replace=force)


def _scorer(model: str, method: str, max_length: int | None, progress: Progress, **loading: Any) -> Scorer:
    """Check the name of the method, then load the model."""
    from unmask.model.load import load_for_inference
    from unmask.scoring.masked_copies import method_named
    from unmask.scoring.scorer import Scorer

    if method_named(method) == "estimate":
        progress.log("method estimate: the model sees the tokens that it predicts; no pseudo-log-likelihood")
    loaded = load_for_inference(model, progress=progress, **loading)
    return Scorer(loaded, method=method, max_length=max_length)


def _report_skipped() -> Callable[[DataError], None]:
    """Return what reports skipped records: the first in full, then that there are more."""
    shown = 0

    def complain(error: DataError) -> None:
        nonlocal shown
        shown += 1
        if shown <= _SHOWN_ERRORS:
            shell.print_error(str(error), "skipped")
        elif shown == _SHOWN_ERRORS + 1:
            shell.print_error("more records, which are only counted from here on", "skipped")

    return complain


@contextmanager
def _resumable(run: TextFileScorer | PairFileScorer, rows: RowFile | None) -> Iterator[None]:
    """Open the file of rows, if there is one, behind its last row; turn a signal into an error that says how to resume."""
    if rows is None:
        yield
        return
    if rows.kept:
        run.resume_after(rows.rows())
        run.progress.log(f"{rows.path} has {plural(rows.kept, 'row')}; continuing after them")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with rows:
            yield
    except KeyboardInterrupt:
        raise Interrupted(
            f"the rows so far are in {rows.path}; continue with the same command and --resume"
        ) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_totals(result: JsonDict, out: Path | None) -> None:
    from unmask.scoring.results import across_vocabularies

    where = f" in {out}" if out else ""
    alone = (
        ""
        if across_vocabularies(result["method"], result["unknown"])
        else " (comparable within one tokenizer only)"
    )
    unknown = ""
    if result["unknown"]:
        unknown = (
            f"; {result['unknown']:,} of the {plural(result['tokens'], 'token')} are unknown to the tokenizer"
        )
    shell.log(
        f"{plural(result['texts'], 'text')}{where}; pseudo-log-likelihood per text {result['per_text']:.4g}, per token "
        f"{result['per_token']:.4g}, per word {result['per_word']:.4g} nats; {result['bits_per_byte']:.4g} bits per "
        f"byte{alone}; pseudo-perplexity {result['pseudo_perplexity']:.4g}{unknown}",
        f"method {result['method']}",
    )


def _print_skipped(count: int, what: str, blank_lines: int) -> int:
    if blank_lines:
        shell.log(f"{plural(blank_lines, 'blank line')} left out", "note")
    if count:
        shell.print_error(f"{plural(count, what)} could not be scored", "skipped")
    return DataError.exit_code if count else 0


_HEADER = ("accuracy", "95%", "pairs", "ties")


def draw_pairs(page: Page, models: Sequence[JsonDict]) -> None:
    """Draw the accuracy of one model by paradigm, by term and overall, or of several models in one table.

    ``models`` has :meth:`unmask.scoring.pairs.PairMetrics.to_dict` of each, and its name as ``model``.
    """
    found = models[0]
    table: Sequence[JsonDict] = found["table"]
    if len(models) > 1:
        page.table(
            (f"method {found['method']}", *_HEADER), [[row["model"], *_metrics(row)] for row in models]
        )
    else:
        if len(table) > 1:
            page.table(("paradigm", *_HEADER), [[row["paradigm"], *_metrics(row)] for row in table])
        if len(found["terms"]) > 1:
            page.table(("term", *_HEADER), [[row["term"], *_metrics(row)] for row in found["terms"]])
        page.table((f"method {found['method']}", *_HEADER), [["all pairs", *_metrics(found)]])
        if len(table) > 1:
            page.say(f"mean over {len(table)} paradigms {percent(found['mean_of_paradigms'])}")
    page.say(f"intervals: {found['interval_method']}; a tie counts as wrong", style="dim")


def _metrics(row: JsonDict) -> list[object]:
    return [percent(row["accuracy"]), interval("accuracy", row["interval"]), row["pairs"], row["ties"]]
