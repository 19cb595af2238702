"""The verbs ``fill`` and ``explain``."""

from __future__ import annotations

import csv
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from typer import Argument, Option

from unmask.cli import options
from unmask.cli import runtime as shell
from unmask.cli.terminal import Page
from unmask.errors import ConfigError, DataError, plural
from unmask.storage import JsonDict

if TYPE_CHECKING:
    from unmask.inference.results import FillResult


TextsWithMasks = Annotated[
    list[str] | None,
    Argument(metavar="TEXT", help="Texts with [MASK], <mask>, ___ or {1-4}; - reads lines of standard input."),
]  # fmt: skip
TextToExplain = Annotated[str, Argument(metavar="TEXT", help="The text; - reads it from standard input.")]
TextFile = Annotated[
    Path | None,
    Option("--file", metavar="FILE", help="File with a text on each line, or JSONL; - is standard input."),
]
TopK = Annotated[int, Option("--top-k", min=1, help="Number of predictions to show.")]
Targets = Annotated[
    list[str] | None,
    Option(
        "--targets",
        metavar="W1,W2",
        help="Score these words instead, in this order; may be repeated; quotes keep a comma.",
    ),
]
RankingOption = Annotated[
    Literal["joint", "independent"],
    Option("--ranking", help="Several masks: each given the others' tokens, or each with the others masked."),
]
Beam = Annotated[
    int | None,
    Option("--beam", show_default="16", min=1, help="Width of the beam search for several masks."),
]
NoBlanks = Annotated[bool, Option("--no-blanks", help="Take ___ and {1-4} as text.")]
SecondPassage = Annotated[
    str | None,
    Option(
        "--pair", metavar="TEXT", help="A second passage: whether it follows, by the sentence head of BERT."
    ),
]
MaskPositions = Annotated[
    str | None,
    Option("--mask-positions", metavar="4,14,36", help="Mask exactly these positions; the first token is 0."),
]
Labels = Annotated[
    Literal["masked", "all"],
    Option("--labels", help="Loss over the masked tokens, or over all tokens."),
]


class _Input(NamedTuple):
    """A text to fill, or why it could not be read.

    Attributes:
        text: the text.
        name: what messages call it: ``text 2`` or ``file.txt:3``.
        file, line: where it was read, if it came from a file or standard input.
        error: why it could not be read.
    """

    text: str
    name: str
    file: str | None = None
    line: int | None = None
    error: str | None = None


def fill(
    model: options.ModelArgument,
    texts: TextsWithMasks = None,
    file: TextFile = None,
    top_k: TopK = 5,
    targets: Targets = None,
    ranking: RankingOption = "joint",
    beam: Beam = None,
    no_blanks: NoBlanks = False,
    device: options.DeviceOrAuto = "auto",
    precision: options.PrecisionOrFp32 = "fp32",
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> int:
    """Fill the masks in texts, or blanks (___) with whole words.

    Several masks are filled together. ___ is a word of up to four subwords, {2} or {1-4} says of how many. Without TEXT
    the lines of standard input are filled.

    Examples:
        unmask fill bert-base-uncased "The capital of France is [MASK]."
        unmask fill runs/notes "She took ___ twice a day." --targets aspirin,morphine
        unmask fill runs/notes --file texts.txt --json
    """
    words = None if targets is None else _split_targets(targets)
    inputs = list(_inputs(texts or (), file))
    if not inputs:
        raise DataError("no text came in; expected one on each line", path=file)
    with shell.working() as progress:
        from unmask.api.model import load
        from unmask.inference.results import FillResult

        loaded = load(model, device=device, precision=precision, offline=offline, progress=progress)
        good = [item.text for item in inputs if not item.error]
        found = loaded.fill(
            good, top_k, targets=words, ranking=ranking, beam=beam, blanks=not no_blanks, progress=progress
        )
        done = iter(found)
        results = [FillResult(item.text, error=item.error) if item.error else next(done) for item in inputs]
    both = zip(inputs, results, strict=True)
    rows = [{"file": item.file, "line": item.line, **result.to_dict()} for item, result in both]
    shell.show(as_json, rows, lambda page: draw_fill(page, results))
    sys.stdout.flush()  # so that the errors come after the results
    return DataError.exit_code if _print_errors(inputs, results) else 0


def _split_targets(targets: Sequence[str]) -> list[str]:
    """Return the words of ``--targets w1,w2``; a comma in a number (1,000) or between quotes is part of a word."""
    words = [word.strip() for part in targets for word in _split_commas(part)]
    if not all(words):
        raise ConfigError(f"--targets: expected words such as Paris,London, not '{','.join(targets)}'")
    return words


def _split_commas(part: str) -> list[str]:
    if '"' in part:
        return next(csv.reader([part], skipinitialspace=True))
    return re.split(r"(?<!\d),|,(?!\d{3}(?!\d))", part)


def _inputs(texts: Sequence[str], file: Path | None) -> Iterator[_Input]:
    """Yield the texts that were given, with ``-`` as the lines of stdin, then those of a file.

    Without either, the lines of stdin are read if it is no terminal.
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
            _warn_of_a_file(text, "to fill its lines give --file")
            yield _Input(text, f"text {number}")
    if file is not None:
        yield from _lines(str(file))


def _warn_of_a_file(text: str, instead: str) -> None:
    if os.path.isfile(text):
        shell.log(f"'{text}' is a file, and its name is taken as the text; {instead}", "warning")


def _lines(name: str) -> Iterator[_Input]:
    """Yield the lines of a file, or the texts of its records; one that cannot be read has its error."""
    from unmask.data.reading.records import RecordReader

    reader = RecordReader(name, "text" if name == "-" else None, skip_blank=True)
    for read in reader:
        if isinstance(read, DataError):
            yield _Input("", "", read.path, read.line, str(read))
            continue
        text, where = read.values.get("text"), f"{read.source}:{read.line}"
        if isinstance(text, str):
            yield _Input(text, where, read.source, read.line)
        else:
            error = "expected a text in the field 'text', found none"
            yield _Input("", where, read.source, read.line, error)
    if reader.blank_lines:
        shell.log(f"{reader.source}: {plural(reader.blank_lines, 'blank line')} left out", "note")


def _print_errors(inputs: Sequence[_Input], results: Sequence[FillResult]) -> bool:
    """Print what could not be filled, and return whether anything was."""
    errors: dict[str, None] = {}
    for item, result in zip(inputs, results, strict=True):
        if result.error:
            errors[f"{item.name}: {result.error}" if item.name else result.error] = None
        errors.update(dict.fromkeys(result.target_errors.values()))
        if result.window:
            begin, end = result.window
            seen = f"the model saw tokens {begin + 1:,} to {end:,} of this long text, around its masks"
            shell.log(f"{item.name}: {seen}", "note")
        if result.unknown:
            count = plural(result.unknown, "unknown token")
            shell.log(
                f"{item.name}: {count} around its masks, for text outside the vocabulary, which the model cannot read",
                "warning",
            )
    for error in errors:
        shell.print_error(error)
    return bool(errors)


def explain(
    model: options.ModelArgument,
    text: TextToExplain,
    pair: SecondPassage = None,
    mask_positions: MaskPositions = None,
    mask_rate: options.MaskRate = None,
    strategy: options.StrategyOption = None,
    labels: Labels = "masked",
    top_k: TopK = 5,
    seed: options.SeedOrZero = 0,
    device: options.DeviceOrAuto = "auto",
    precision: options.PrecisionOrFp32 = "fp32",
    html: options.Html = None,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Show what masked language modelling does to a text.

    Step by step: tokens, masks, predictions and loss.

    Examples:
        unmask explain bert-base-uncased "War broke out in April 1861."
        unmask explain runs/notes "The war began in 1861." --html war.html
    """
    shell.check_page(html)
    config = options.load_settings({"mask_rate": mask_rate, "strategy": strategy})
    positions = None if mask_positions is None else _parse_positions(mask_positions)
    if text == "-":
        text = shell.read_stdin()
    else:
        _warn_of_a_file(text, "to explain its content pipe it in and give -")
    with shell.working() as progress:
        from unmask.api.model import load

        loaded = load(model, device=device, precision=precision, offline=offline, progress=progress)
        explanation = loaded.explain(
            text, pair=pair, mask_positions=positions, labels=labels, seed=seed, top_k=top_k, config=config
        )
    if html is not None:
        shell.write_page(html, explanation.to_html())
    result = explanation.to_dict()
    shell.show(as_json, result, lambda page: draw_explanation(page, result))


def _parse_positions(text: str) -> list[int]:
    """Return the numbers of ``"4,14,36"``."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--mask-positions: expected positions such as 4,14,36, not '{text}'") from None


def draw_fill(page: Page, results: Sequence[FillResult]) -> None:
    """Draw the candidates for the masks of each text; results that hold an error are left out."""
    filled = [result for result in results if not result.error]
    for number, result in enumerate(filled):
        if number:
            page.say("")
        page.say(result.text)
        _draw_candidates(page, result)


def _draw_candidates(page: Page, result: FillResult) -> None:
    several = any(len(item.tokens) > 1 for item in result.candidates)
    header = ["filled with", f"{result.ranking} probability" if several else "probability", "text"]
    rows = [[item.text, _probability(item.probability), item.sequence] for item in result.candidates]
    if any(
        abs(math.exp(item.score) / item.probability - 1) > 1e-6
        for item in result.candidates
        if item.probability
    ):
        header.insert(2, "ranked by")
        for row, item in zip(rows, result.candidates, strict=True):
            row.insert(2, _probability(math.exp(item.score)))
    page.table(header, rows, left=(0, len(header) - 1))
    if len(result.masks) > 1:
        for mask, tokens in enumerate(result.per_mask, 1):
            alone = "  ".join(
                f"{item.text.strip() or item.token} {_probability(item.probability)}" for item in tokens
            )
            page.say(f"mask {mask} alone: {alone}", style="dim")
    if "ranked by" in header:
        page.say("a blank is ranked by the geometric mean over the subwords of its word", style="dim")
    if not result.exact:
        page.say("approximate: beam search may have missed candidates; try a larger --beam", style="dim")


def _probability(share: float) -> str:
    return f"{share:.4f}" if share >= 1e-4 else f"{share:.1e}"


def draw_explanation(page: Page, explanation: JsonDict) -> None:
    """Draw what :meth:`unmask.inference.explanation.Explanation.to_dict` returns."""
    page.say(explanation["text"])
    page.say("")
    header = ["position", "token", "input_ids", "token_type_ids", "attention_mask", "labels", "draw", "mask"]
    header += ["masked token", "masked input_ids", "loss"]
    page.table(header, _token_rows(explanation), left=(1, 7, 8), keys=2)
    page.say("")
    chosen = "given" if explanation["mask_positions_given"] else "drawn"
    positions = ", ".join(str(position) for position in explanation["selected"]) or "none"
    page.say(f"selected positions ({chosen}): {positions}")
    if explanation["forced"]:
        page.say(
            "no draw was below the mask rate, as happens in short texts; the lowest draw is masked instead"
        )
    if explanation["predictions"]:
        page.say("")
        _draw_predictions(page, explanation["predictions"])
    page.say("")
    page.say(_mean_loss(explanation))
    if pair := explanation.get("pair"):
        page.say(_pair_text(pair))
    if detection := explanation.get("detection"):
        page.say("")
        _draw_detection(page, explanation, detection)


def _draw_detection(page: Page, explanation: JsonDict, detection: JsonDict) -> None:
    if detection["loss"] is None:
        page.say(
            f"the discriminator, {detection['discriminator']}, judges nothing: special and unknown tokens are left out"
        )
        return
    columns = [
        explanation["tokens"],
        *(detection[name] for name in ("tokens", "replaced", "probabilities", "token_loss")),
    ]
    rows = [
        [position, original, shown, "yes" if replaced else "no", _probability(probability), loss]
        for position, (original, shown, replaced, probability, loss) in enumerate(zip(*columns, strict=True))
        if probability is not None and (explanation["mask"][position] or probability > 0.5)
    ]
    page.say(
        f"the discriminator, {detection['discriminator']}, at the masked tokens and where it says replaced:"
    )
    header = ["position", "original", "the generator's draw", "replaced", "probability of replaced", "loss"]
    page.table(header, rows, left=(1, 2, 3))
    judged = sum(probability is not None for probability in detection["probabilities"])
    page.say(f"mean over all {plural(judged, 'token')} that it judges: {detection['loss']:.4f}")


def _draw_predictions(page: Page, predictions: Sequence[JsonDict]) -> None:
    rows = [
        [item["position"], item["original"], item["shown"], _top(item["top"]), item["loss"]]
        for item in predictions
    ]
    page.table(["position", "original", "shown as", "predictions", "loss"], rows, left=(1, 2, 3))


def _token_rows(explanation: JsonDict) -> list[list[object]]:
    """Return a row of the token table for each position."""
    count = len(explanation["tokens"])
    names = ["tokens", "input_ids", "token_type_ids", "attention_mask", "labels", "random_draw", "mask"]
    names += ["masked_tokens", "masked_input_ids", "token_loss"]
    columns = [explanation[name] or [None] * count for name in names]
    rows: list[list[object]] = []
    for position, cells in enumerate(zip(*columns, strict=True)):
        token, token_id, kind, attended, label, draw, masked, shown, shown_id, loss = cells
        mark = "special" if explanation["special_tokens_mask"][position] else ""
        if masked:
            seen = {explanation["mask_token_id"]: "mask", token_id: "kept"}
            mark = seen.get(shown_id, "random")
        ids = [str(token_id), kind, attended, str(label)]
        rows.append([position, token, *ids, draw, mark, shown if masked else "", str(shown_id), loss])
    return rows


def _top(top: Sequence[JsonDict]) -> str:
    space = "\N{NO-BREAK SPACE}"  # so that no line ends between a token and its probability
    return "  ".join(f"{item['token']}{space}{_probability(item['probability'])}" for item in top)


def _pair_text(pair: JsonDict) -> str:
    if pair["probabilities"] is None:
        return (
            "label: none, because the checkpoint has no sentence head; train one with --objective nsp or sop"
        )
    (follows, other), kind = pair["probabilities"], "the second passage follows the first"
    return (
        f"of the pair with its masks: label 0 ({kind}): probability {_probability(follows)}, loss {pair['loss']:.4f}; "
        f"label 1 (it is of another document, or before it): probability {_probability(other)}, loss {pair['other_loss']:.4f}"
    )


def _mean_loss(explanation: JsonDict) -> str:
    scored = sum(loss is not None for loss in explanation["token_loss"])
    if explanation["loss"] is None or not scored:
        return (
            "loss: none, because the text has no token that can be masked (special and unknown ones cannot)"
        )
    tokens = "token" if scored == 1 else "tokens"
    what = f"all {scored} {tokens}" if explanation["labels_mode"] == "all" else f"{scored} masked {tokens}"
    return f"loss {explanation['loss']:.4f}, the mean over {what}"
