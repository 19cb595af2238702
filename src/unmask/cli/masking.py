"""The verbs ``masks`` and ``terms``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from typer import Option

from unmask.cli import options
from unmask.cli import runtime as shell
from unmask.cli.terminal import Page
from unmask.errors import plural
from unmask.reporting.format import number, percent
from unmask.storage import JsonDict

if TYPE_CHECKING:
    from rich.text import Text


Epoch = Annotated[int, Option("--epoch", min=0, help="Epoch whose masks are shown, from 0.")]
Tokens = Annotated[int, Option("--tokens", min=1, help="Look at N tokens at most.")]
GeneralText = Annotated[
    list[str],
    Option("--general", metavar="PATH", help="General text to compare with; may be repeated."),
]


def masks(
    text: options.TextArgument,
    tokenizer: options.TokenizerOrShards = None,
    strategy: options.StrategyOption = None,
    mask_rate: options.MaskRate = None,
    overrides: options.Overrides = None,
    seed: options.SeedOrZero = 0,
    epoch: Epoch = 0,
    tokens: Tokens = 1_000_000,
    max_length: options.MaxLength = None,
    documents: options.DocumentsOption = None,
    text_field: options.TextField = None,
    encoding: options.Encoding = None,
    delimiter: options.Delimiter = None,
    markup: options.MarkupOption = None,
    skip_unreadable: options.SkipUnreadable = False,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Show what masking does to text, and the rates achieved.

    Examples:
        unmask masks notes/ --tokenizer bert-base-uncased
        unmask masks notes/ --tokenizer bert-base-uncased --strategy span
    """
    config = options.load_settings(locals())
    length = config.data.max_length
    with shell.working() as progress:
        from unmask.api import masking, texts

        result = masking.masks(
            texts.Paths(text), tokenizer, seed=seed, epoch=epoch, tokens=tokens, max_length=length, offline=offline,
            progress=progress, config=config,
        ).to_dict()  # fmt: skip
    shell.show(as_json, result, lambda page: draw_masks(page, result))


def terms(
    text: options.TextArgument,
    general: GeneralText,
    out: options.ListFile,
    tokenizer: options.TokenizerOrShards = None,
    documents: options.DocumentsOption = None,
    text_field: options.TextField = None,
    encoding: options.Encoding = None,
    delimiter: options.Delimiter = None,
    markup: options.MarkupOption = None,
    skip_unreadable: options.SkipUnreadable = False,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """List the words that set your text apart.

    They are more frequent in TEXT than in general text; --strategy terms masks them more often.

    Examples:
        unmask terms notes/ --general wiki/ --tokenizer bert-base-uncased -o terms.tsv
        unmask train notes/ --model bert-base-uncased --strategy terms \\
            --set masking.terms=terms.tsv
    """
    config = options.load_settings({**locals(), "text": None, "general": None, "tokenizer": None})
    with shell.working() as progress:
        from unmask.api import masking, texts

        found = masking.terms(
            texts.Paths(text), texts.Paths(general), tokenizer, out=out, offline=offline, progress=progress,
            config=config,
        )  # fmt: skip
    names = [str(row["text"]) for row in found.to_rows()]

    def draw(page: Page) -> None:
        page.say(f"{plural(len(names), 'term')} in {out}: {', '.join(names[:8])}")
        page.command(f"use the file with: unmask train TEXT... --strategy terms --set masking.terms={out}")

    shell.show(as_json, {"file": out, "terms": names}, draw)


# Not by colour alone: a mask is written as one, a random token carries an arrow, a kept one stands in brackets.
_STYLES = {"mask": "bold black on yellow", "random": "bold white on red", "keep": "bold black on green"}


def draw_masks(page: Page, result: JsonDict) -> None:
    """Draw a passage with its masks, and the rates achieved."""
    page.text(_passage(result["sample"]))
    page.say("")
    split = result["split"]
    page.pairs(
        {
            "strategy": result["strategy"],
            "mask rate": percent(result["mask_rate"], 2),
            "rate achieved": percent(result["rate"], 2),
            "tokens": result["tokens"],
            "targets": result["targets"],
            "replaced by the mask": percent(split["mask"], 2),
            "replaced at random": percent(split["random"], 2),
            "unchanged": percent(split["keep"], 2),
            "words masked whole": percent(result["whole_words"], 2),
            **({} if result["in_terms"] is None else {"words in terms": percent(result["in_terms"], 2)}),
            "mean span in tokens": number(result["mean_span"]["tokens"]),
            "mean span in words": number(result["mean_span"]["words"]),
            "sequences without a target": f"{result['without_targets']:,} of {result['sequences']:,}",
        }
    )
    if result["by_word_length"]:
        page.say("")
        page.table(
            ["tokens in the word", "words", "masked whole"],
            [
                [
                    f"{row['tokens']}{' or more' if row['or_more'] else ''}",
                    row["words"],
                    percent(row["rate"], 2),
                ]
                for row in result["by_word_length"]
            ],
        )


def _passage(sample: Sequence[JsonDict]) -> Text:
    from rich.text import Text

    line = Text()
    for token in sample:
        kind = token["target"]
        shown = {None: token["shown"], "mask": token["shown"], "keep": f"[{token['token']}]"}.get(
            kind, f"{token['token']}→{token['shown']}"
        )
        line.append(shown, style=_STYLES.get(kind, "dim" if token["special"] else ""))
        line.append(" ")
    return line
