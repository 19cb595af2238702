"""The verbs ``fill`` and ``explain``: a model asked about texts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from typer import Option

from unmask.cli import options
from unmask.cli import runtime as shell
from unmask.errors import ConfigError, DataError

if TYPE_CHECKING:
    from unmask.inference.fill import FillResult

Targets = Annotated[
    list[str] | None,
    Option(
        "--targets", metavar="w1,w2,...", help="Score these words instead, in this order; may be repeated."
    ),
]
RankingOption = Annotated[
    Literal["joint", "independent"],
    Option("--ranking", help="Several masks: each given the others' tokens, or each with the others masked."),
]
Beam = Annotated[
    int | None,
    Option(help="Partial fillings that the search for several masks keeps [default: 16].", min=1),
]
NoBlanks = Annotated[bool, Option("--no-blanks", help="Take ___ and {1-4} as text.")]


class _Asked(NamedTuple):
    """A text that came in, or what is wrong with it; and what it is called in a message."""

    text: str
    where: str
    error: str | None = None


def fill(
    model: options.ModelArgument,
    texts: options.TextsArgument = None,
    file: options.TextFile = None,
    top_k: options.TopK = 5,
    targets: Targets = None,
    ranking: RankingOption = "joint",
    beam: Beam = None,
    no_blanks: NoBlanks = False,
    device: options.DeviceOrAuto = "auto",
    precision: options.PrecisionOrFp32 = "fp32",
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> int:
    """Fill masks, and ___ or {1-4} for words, in texts or in lines of standard input."""
    words = None if targets is None else _divided(targets)
    asked = list(_all_texts(texts or (), file))
    if not asked:
        raise DataError("no text came in; expected one on each line", path=file)
    with shell.working() as progress:
        from unmask.inference.fill import FillMask, FillResult

        filler = FillMask(
            model,
            blanks=not no_blanks,
            device=device,
            precision=precision,
            offline=offline,
            log=progress.log,
        )
        good = [item.text for item in asked if not item.error]
        done = iter(filler.fill(good, top_k, targets=words, ranking=ranking, beam=beam, progress=progress))
        results = [FillResult(item.text, error=item.error) if item.error else next(done) for item in asked]
    if as_json:
        shell.emit([result.candidates for result in results])
    else:
        from unmask.cli.draw_inference import draw_fill

        draw_fill(shell.page(), results)
    sys.stdout.flush()  # so that the complaints come after the answers
    return DataError.exit_code if _complain(asked, results) else 0


def _divided(targets: Sequence[str]) -> list[str]:
    """Return the words of ``--targets w1,w2``.

    Raises:
        ConfigError: there is none between two commas.
    """
    words = [word.strip() for part in targets for word in part.split(",")]
    if not all(words):
        raise ConfigError(f"--targets: expected words such as Paris,London, not '{','.join(targets)}'")
    return words


def _all_texts(texts: Sequence[str], file: Path | None) -> Iterator[_Asked]:
    """Yield the texts that were given, with ``-`` as the lines of stdin, then those of a file.

    Without either, the lines of stdin are read if it is no terminal.

    Raises:
        ConfigError: nothing is given.
        DataError: the file cannot be read at all.
    """
    if not texts and file is None:
        if sys.stdin.isatty():
            raise ConfigError(
                'no text: give one, for example "The capital of France is [MASK].", or --file FILE'
            )
        texts = ["-"]
    for number, text in enumerate(texts, 1):
        if text == "-":
            yield from _lines("-")
        else:
            yield _Asked(text, f"text {number}")
    if file is not None:
        yield from _lines(str(file))


def _lines(name: str) -> Iterator[_Asked]:
    """Yield the lines of a file, or the texts of its records; one that cannot be read has its error."""
    from unmask.data.reading.records import RecordReader

    for read in RecordReader(name, "text" if name == "-" else None):
        if isinstance(read, DataError):
            yield _Asked("", "", str(read))
            continue
        text, where = read.values.get("text"), f"{read.source}:{read.line}"
        if isinstance(text, str):
            yield _Asked(text, where)
        else:
            yield _Asked("", where, "expected a text in the field 'text', found none")


def _complain(asked: Sequence[_Asked], results: Sequence[FillResult]) -> bool:
    """Say what was left out, and return whether anything was."""
    complaints: dict[str, None] = {}
    for item, result in zip(asked, results, strict=True):
        if result.error:
            complaints[f"{item.where}: {result.error}" if item.where else result.error] = None
        complaints.update(dict.fromkeys(result.target_errors.values()))
        if result.window:
            begin, end = result.window
            seen = f"the model saw tokens {begin + 1:,} to {end:,} of this long text, around its masks"
            shell.tell(f"{item.where}: {seen}", "note")
    for complaint in complaints:
        shell.tell(complaint)
    return bool(complaints)


def explain(
    text: options.TextArgument,
    model: options.RequiredModel,
    mask_positions: options.MaskPositions = None,
    labels: options.Labels = "masked",
    seed: options.SeedOrZero = 0,
    mask_rate: options.MaskRate = None,
    strategy: options.StrategyOption = None,
    top_k: options.TopK = 5,
    html: options.Html = None,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Show what masked language modelling does to one text."""
    from unmask.config.load import load_config

    masking = load_config(None, (), {"masking.rate": mask_rate, "masking.strategy": strategy}).masking
    positions = None if mask_positions is None else shell.parse_positions(mask_positions)
    text = "\n".join(shell.read_lines(None)) if text == "-" else text
    with shell.working() as progress:
        from unmask.inference.explain import explain as explain_text
        from unmask.model.load import load_masked_lm

        loaded = load_masked_lm(model, offline=offline, frozen=True, log=progress.log)
        explanation = explain_text(
            text, loaded, mask_positions=positions, labels=labels, masking=masking, seed=seed, top_k=top_k
        )
    if html is not None:
        shell.write(html, explanation.to_html())
        shell.tell(str(html), "wrote")
    if as_json:
        shell.emit(explanation.to_dict())
        return
    from unmask.cli.draw_inference import draw_explanation

    draw_explanation(shell.page(), explanation.to_dict())
