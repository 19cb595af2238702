"""The verbs ``fill`` and ``explain``: a model asked about texts."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from typer import Option

from unmask.cli import options
from unmask.cli import runtime as shell
from unmask.cli.terminal import Page
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
            progress=progress,
        )
        good = [item.text for item in asked if not item.error]
        done = iter(filler.fill(good, top_k, targets=words, ranking=ranking, beam=beam, progress=progress))
        results = [FillResult(item.text, error=item.error) if item.error else next(done) for item in asked]
    if as_json:
        shell.emit([result.candidates for result in results])
    else:
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
        from unmask.model.load import load_for_inference

        loaded = load_for_inference(model, offline=offline, progress=progress)
        explanation = explain_text(
            text, loaded, mask_positions=positions, labels=labels, masking=masking, seed=seed, top_k=top_k
        )
    if html is not None:
        shell.write(html, explanation.to_html())
        shell.tell(str(html), "wrote")
    if as_json:
        shell.emit(explanation.to_dict())
        return
    draw_explanation(shell.page(), explanation.to_dict())


def draw_fill(page: Page, results: Sequence[Any]) -> None:
    """Draw what fills the masks of each text.

    Args:
        page: where to draw.
        results: :class:`~unmask.inference.fill.FillResult` objects; those that hold an error are left out.
    """
    filled = [result for result in results if not result.error]
    for number, result in enumerate(filled):
        if number:
            page.say("")
        page.say(result.text)
        _draw_candidates(page, result)


def _draw_candidates(page: Page, result: Any) -> None:
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
            alone = "  ".join(f"{item.token} {_probability(item.probability)}" for item in tokens)
            page.say(f"mask {mask} alone: {alone}", style="dim")
    if "ranked by" in header:
        page.say("a blank is ranked by the geometric mean over the pieces of its word", style="dim")
    if not result.exact:
        page.say("found by a search that may have missed some; --beam makes it wider", style="dim")


def _probability(share: float) -> str:
    return f"{share:.4f}" if share >= 1e-4 else f"{share:.1e}"


def draw_explanation(page: Page, explanation: Mapping[str, Any]) -> None:
    """Draw, step by step, what masked language modelling does to one text.

    Args:
        page: where to draw.
        explanation: :meth:`unmask.inference.explain.Explanation.to_dict`.
    """
    page.say(explanation["text"])
    page.say("")
    header = ["position", "token", "input_ids", "token_type_ids", "attention_mask", "labels", "draw", "mask"]
    header += ["masked token", "masked input_ids", "loss"]
    page.table(header, _token_rows(explanation), left=(1, 8))
    chosen = "given" if explanation["mask_positions_given"] else "drawn"
    positions = ", ".join(str(position) for position in explanation["selected"]) or "none"
    page.say(f"selected positions ({chosen}): {positions}")
    page.say("")
    rows = [
        [item["position"], item["original"], item["shown"], _top(item["top"]), item["loss"]]
        for item in explanation["predictions"]
    ]
    page.table(["position", "original", "shown as", "predictions", "loss"], rows, left=(1, 2, 3))
    page.say(_mean_loss(explanation))


def _token_rows(explanation: Mapping[str, Any]) -> list[list[object]]:
    """Return a row of the token table for each position."""
    count = len(explanation["tokens"])
    names = ["tokens", "input_ids", "token_type_ids", "attention_mask", "labels", "random_draw", "mask"]
    names += ["masked_tokens", "masked_input_ids", "token_loss"]
    columns = [explanation[name] or [None] * count for name in names]
    rows: list[list[object]] = []
    for position, cells in enumerate(zip(*columns, strict=True)):
        token, token_id, kind, attended, label, draw, masked, shown, shown_id, loss = cells
        mark = "mask" if masked else "special" if explanation["special_tokens_mask"][position] else ""
        ids = [str(token_id), kind, attended, str(label)]
        rows.append([position, token, *ids, draw, mark, shown if masked else "", str(shown_id), loss])
    return rows


def _top(top: Sequence[Mapping[str, Any]]) -> str:
    return "  ".join(f"{item['token']} {item['probability']:.3f}" for item in top)


def _mean_loss(explanation: Mapping[str, Any]) -> str:
    scored = sum(loss is not None for loss in explanation["token_loss"])
    if explanation["loss"] is None or not scored:
        return "loss: none, because nothing is masked"
    tokens = "token" if scored == 1 else "tokens"
    what = f"all {scored} {tokens}" if explanation["labels_mode"] == "all" else f"{scored} masked {tokens}"
    return f"loss {explanation['loss']:.4f}, the mean over {what}"
