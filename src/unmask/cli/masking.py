"""The verbs ``masks``, ``terms`` and ``collocations``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from unmask.cli import options
from unmask.cli import runtime as shell
from unmask.cli.terminal import Page
from unmask.errors import ConfigError
from unmask.reporting.format import number, percent, plural
from unmask.storage import JsonDict

if TYPE_CHECKING:
    from rich.text import Text

    from unmask.config.settings import DocumentSettings
    from unmask.data.corpus import Corpus
    from unmask.progress import Progress


Epoch = Annotated[int, Option("--epoch", help="Epoch whose masks are shown, from 0.", min=0)]
Tokens = Annotated[int, Option("--tokens", help="Look at N tokens at most.", min=1)]
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
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Show what masking does to text, and the rates achieved.

    Examples:
        unmask masks notes/ --tokenizer bert-base-uncased
        unmask masks notes/ --tokenizer bert-base-uncased --strategy span
    """
    config = options.load_settings(locals())
    with shell.working() as progress, _Prepared(text, config.data, tokenizer, offline, progress) as corpus:
        import numpy as np

        from unmask.data.batches import TextSource
        from unmask.evaluation.mask_survey import sample, survey

        vocabulary = _vocabulary(corpus)
        length = config.data.max_length or 512
        source = TextSource(corpus, np.arange(len(corpus)), vocabulary, config.masking, length)
        result = survey(source, tokens, seed, epoch) | {"sample": sample(source, seed, epoch)}
    if as_json:
        shell.emit(result)
        return
    draw_masks(shell.page(), result)


def terms(
    text: options.TextArgument,
    general: GeneralText,
    out: options.ListFile,
    tokenizer: options.TokenizerOrShards = None,
    documents: options.DocumentsOption = None,
    text_field: options.TextField = None,
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
    settings = options.load_settings({"documents": documents, "text_field": text_field}).data
    with shell.working() as progress:
        from unmask.data.masking.terms import count_words, find_salient_terms, save_terms

        counts = []
        for inputs in (text, general):
            with _Prepared(inputs, settings, tokenizer, offline, progress) as corpus:
                counts.append(count_words(corpus, _words(corpus)))
        found = find_salient_terms(*counts)
        save_terms(out, found)
    _print_list("terms", out, [term.text for term in found], "--strategy terms --set masking.terms", as_json)


def collocations(
    text: options.TextArgument,
    out: options.ListFile,
    tokenizer: options.TokenizerOrShards = None,
    documents: options.DocumentsOption = None,
    text_field: options.TextField = None,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """List words that often occur together.

    They are masked together with --strategy ngram.

    Examples:
        unmask collocations notes/ --tokenizer bert-base-uncased -o pairs.json
        unmask train notes/ --model bert-base-uncased --strategy ngram \\
            --set masking.collocations=pairs.json
    """
    settings = options.load_settings({"documents": documents, "text_field": text_field}).data
    with shell.working() as progress, _Prepared(text, settings, tokenizer, offline, progress) as corpus:
        from unmask.data.masking.collocations import find_collocations, save_collocations

        found = find_collocations(corpus, _words(corpus), progress=progress)
        save_collocations(out, found)
    names = [collocation.text for collocation in found]
    _print_list("collocations", out, names, "--strategy ngram --set masking.collocations", as_json)


def _print_list(kind: str, out: Path, found: list[str], use: str, as_json: bool) -> None:
    """Print how many terms or collocations a file has, and how to use it."""
    if as_json:
        shell.emit({"file": out, kind: found})
        return
    page = shell.page()
    page.say(f"{plural(len(found), kind[:-1])} in {out}: {', '.join(found[:8])}")
    page.command(f"use the file with: unmask train TEXT... {use}={out}")


def _vocabulary(corpus: Corpus) -> Any:
    from unmask.data.tokenizer import load_tokenizer, vocabulary_of

    return vocabulary_of(load_tokenizer(str(corpus.folder / "tokenizer"), offline=True))


def _words(corpus: Corpus) -> Any:
    words = _vocabulary(corpus).words
    if words is None:
        raise ConfigError("the tokenizer does not mark where words begin; take another with --tokenizer")
    return words


class _Prepared:
    """Prepared shards as they are, or text tokenised into a folder that goes away again; a context manager."""

    def __init__(
        self,
        inputs: Sequence[str],
        settings: DocumentSettings,
        tokenizer: str | None,
        offline: bool,
        progress: Progress,
    ) -> None:
        from unmask.evaluation.text_cache import EvaluationText

        self._texts = EvaluationText(inputs, settings, progress)
        self._tokenizer, self._offline = tokenizer, offline

    def __enter__(self) -> Corpus:
        from unmask.data.tokenizer import load_tokenizer

        texts = self._texts.__enter__()
        name = self._tokenizer
        if texts.shards is not None:
            name = str(texts.shards / "tokenizer")
        if name is None:
            raise ConfigError("no tokenizer: name one with --tokenizer, or give a folder of 'unmask prepare'")
        return texts.corpus(load_tokenizer(name, offline=self._offline))

    def __exit__(self, *error: Any) -> None:
        self._texts.__exit__(*error)


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
            "mask rate": percent(result["asked_rate"], 2),
            "rate achieved": percent(result["rate"], 2),
            "tokens": result["tokens"],
            "targets": result["targets"],
            "replaced by the mask": percent(split["mask"], 2),
            "replaced at random": percent(split["random"], 2),
            "unchanged": percent(split["keep"], 2),
            "words masked whole": percent(result["whole_words"], 2),
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
