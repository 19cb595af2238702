"""The verb ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from unmask.cli import options
from unmask.cli import runtime as shell
from unmask.errors import plural
from unmask.exporting.formats import FORMATS, format_named
from unmask.reporting.format import METRICS, change_interval, metric, metric_change

if TYPE_CHECKING:
    from unmask.cli.terminal import Page
    from unmask.exporting.embeddings import EmbeddingParity
    from unmask.exporting.export import Export
    from unmask.exporting.parity import Parity

FormatOption = Annotated[
    str, Option("--format", metavar="FORMAT", help=f"{', '.join(FORMATS)}.", show_default=False)
]
HeldoutText = Annotated[
    list[str] | None,
    options.text("--data", metavar="PATH", show_default="the run's held-out text", help="Held-out text to compare on; may be repeated."),
]  # fmt: skip
TokensOption = Annotated[
    int | None,
    options.text("--tokens", min=1, help="Compare on at most N tokens, of documents drawn by hash."),
]
Tolerance = Annotated[
    float, Option("--tolerance", metavar="POINTS", help="Points of accuracy that less than fp32 may cost.")
]
WebLibraries = Annotated[
    Path | None,
    options.text(
        "--web-libraries",
        metavar="FOLDER",
        show_default="downloaded",
        help="For web: a folder with the npm archives of the JavaScript libraries.",
    ),
]
ForceWorse = Annotated[bool, Option("--force", help="Keep an exported model that is worse than that.")]


def export(
    model: options.ModelArgument,
    out: options.NewFolder,
    form: FormatOption,
    data: HeldoutText = None,
    tokens: TokensOption = None,
    tolerance: Tolerance = 0.5,
    force: ForceWorse = False,
    web_libraries: WebLibraries = None,
    mask_rate: options.MaskRate = None,
    strategy: options.StrategyOption = None,
    max_length: options.MaxLength = None,
    documents: options.DocumentsOption = None,
    text_field: options.TextField = None,
    encoding: options.Encoding = None,
    delimiter: options.Delimiter = None,
    overrides: options.Overrides = None,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Export a model: ONNX, fewer bits, a web page; compare it.

    The form is kept if it predicts the masked tokens as well: to rounding in fp32, within --tolerance in fewer bits.
    fill, score, eval and serve take the folder of an ONNX model as they take a model.

    Examples:
        unmask export runs/notes -o notes-onnx --format onnx
        unmask export bert-base-uncased -o int8 --format onnx-int8 --data heldout/
    """
    config = options.load_settings(locals())
    format_named(form).require_packages()
    with shell.working() as progress:
        from unmask.api import exporting, texts

        made = exporting.export(
            model, out, form, texts.Paths(data or ()), tokens=tokens, tolerance=tolerance, force=force, web_libraries=web_libraries,
            max_length=config.data.max_length, offline=offline, progress=progress, config=config,
        )  # fmt: skip
    shell.show(as_json, made.to_dict(), lambda page: draw_export(page, made))


def draw_export(page: Page, made: Export) -> None:
    """Draw the comparison, and where the folder is."""
    from unmask.exporting.embeddings import EmbeddingParity

    if isinstance(made.parity, EmbeddingParity):
        _draw_embeddings(page, made.parity)
    else:
        _draw_masked(page, made.format, made.parity)
    page.say(f"The weights take {made.megabytes[0]:,.1f} MB, in fp32 {made.megabytes[1]:,.1f} MB.")
    for note in made.parity.notes:
        page.say(note)
    if made.refused:
        page.say(f"Kept by --force: {made.refused}")
    page.command(f"exported model: {made.folder}")


def _draw_embeddings(page: Page, parity: EmbeddingParity) -> None:
    page.say(
        f"{plural(parity.texts, 'text')} of {plural(parity.tokens, 'token')} embedded by {parity.computed_by}: numbers differ "
        f"by at most {parity.embedding:.1e}, the largest number is {parity.largest:.3g}; the smallest cosine is "
        f"{parity.cosine:.6f}."
    )


def _draw_masked(page: Page, form: str, parity: Parity) -> None:
    page.say(
        f"{plural(parity.masked_tokens, 'masked token')} in {plural(parity.documents, 'document')} of held-out text"
    )
    page.table(
        ["", "PyTorch, fp32", form, "difference", "95% interval"],
        [
            [
                METRICS.get(name, name),
                metric(name, parity.original[name].value),
                metric(name, parity.exported[name].value),
                metric_change(name, parity.difference[name].value),
                change_interval(name, parity.difference[name].interval),
            ]
            for name in ("accuracy", "loss")
        ],
    )
    page.say(f"Log-probabilities differ by at most {parity.log_probability:.1e} nats.")
