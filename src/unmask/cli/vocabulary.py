"""The verbs ``tokenizer train``, ``extend`` and ``trim``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Option

from unmask.cli import options
from unmask.cli import runtime as shell
from unmask.cli.terminal import Page
from unmask.errors import ConfigError, plural
from unmask.reporting.format import percent, round_trip_text
from unmask.run_folder import ADDED_WORDS
from unmask.storage import new_folder, require_new

if TYPE_CHECKING:
    from unmask.vocabulary.choose import AddedWord
    from unmask.vocabulary.extend import ExtendedVocabulary
    from unmask.vocabulary.trim import TrimmedVocabulary

GeneralText = Annotated[
    list[str] | None,
    Option(
        "--general",
        metavar="PATH",
        help="General text: a word counts more, the more frequent it is in TEXT than here; may be repeated.",
    ),
]
Words = Annotated[
    list[str] | None,
    Option("--words", metavar="FILE", help="Add these words in any case, one on each line; may be repeated."),
]
Add = Annotated[int, Option("--add", help="Add at most N words of TEXT.")]
MinCount = Annotated[
    int, Option("--min-count", min=1, help="Choose only words that occur at least N times in TEXT.")
]
Keep = Annotated[
    str,
    Option(
        "--keep",
        metavar="SHARE",
        help="Share of the tokens of the text whose entries are kept at least, such as 99.9% or 0.999.",
    ),
]
UsedText = Annotated[
    list[str],
    options.text("--data", metavar="PATH", help="Text of the kind that the model is for, given as TEXT is elsewhere; may be repeated."),
]  # fmt: skip
VocabSize = Annotated[int, Option("--vocab-size", min=100, help="Entries of the vocabulary.")]
Kind = Annotated[
    Literal["wordpiece", "byte-level-bpe", "unigram"],
    Option("--kind", help="As BERT has it, as RoBERTa and ModernBERT, or as XLM-R."),
]
Case = Annotated[
    Literal["auto", "lower", "keep"],
    Option("--case", help="Lower-case the text or not; auto does so for wordpiece only."),
]
Accents = Annotated[
    Literal["keep", "strip"],
    Option("--accents", help="Strip the diacritics of Latin, Greek and Cyrillic letters or not."),
]
NormalForm = Annotated[
    Literal["nfc", "nfkc", "none"], Option("--normal-form", help="Unicode normal form of the text.")
]


def extend_tokenizer(
    model: options.ModelToExtend,
    out: options.NewFolder,
    text: options.TextOrConfigArgument = None,
    words: Words = None,
    general: GeneralText = None,
    add: Add = 1000,
    min_count: MinCount = 5,
    documents: options.DocumentsOption = None,
    text_field: options.TextField = None,
    encoding: options.Encoding = None,
    delimiter: options.Delimiter = None,
    markup: options.MarkupOption = None,
    strict: options.Strict = False,
    skip_unreadable: options.SkipUnreadable = False,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Add words of a text or list to a model and its tokenizer.

    Of TEXT the words that save most tokens are added. Writes the model with its extended tokenizer; a new embedding starts as the mean of the subwords that it replaces.

    Examples:
        unmask tokenizer extend notes/ --model bert-base-uncased -o extended
        unmask tokenizer extend --words drugs.txt --model bert-base-uncased -o new
        unmask train notes/ --model extended --new-embeddings-steps 100
    """
    settings = options.load_settings(
        {**locals(), "text": None, "model": None, "general": None, "words": None}
    ).data
    with shell.working() as progress:
        from unmask.vocabulary.extend import extend_vocabulary

        result = extend_vocabulary(
            model,
            text or (),
            out,
            words=words or (),
            general=general or (),
            add=add,
            min_count=min_count,
            settings=settings,
            offline=offline,
            progress=progress,
        )
    document = {"folder": out, **result.to_dict()}
    shell.show(as_json, document, lambda page: draw_extension(page, result, model))


_SHOWN = 20


def draw_extension(page: Page, found: ExtendedVocabulary, model: str) -> None:
    """Draw the first of the new words, and the tokens per word before and after."""
    from unmask.data.masking.terms import MOST_WEIGHT  # here, as it imports numpy

    before, after = found.before, found.after
    in_text = ["count", "tokens saved"] if before else []
    weighed = any(word.weight != 1 for word in found.words)  # by general text
    if weighed:
        in_text.append("times likelier")
    page.table(
        ["word", "subwords", *in_text],
        [[word.word, len(word.subwords), *_in_text(word)[: len(in_text)]] for word in found.words[:_SHOWN]],
    )
    if len(found.words) > _SHOWN:
        page.say(f"… and {len(found.words) - _SHOWN:,} more, all in {found.folder / ADDED_WORDS}")
    if weighed:
        page.say(
            f"times likelier: than in the general text, by which words are ranked with the tokens saved; more than {MOST_WEIGHT:g} "
            f"counts as {MOST_WEIGHT:g}"
        )
    page.say("")
    _draw_left_out(page, found)
    if before and after:
        page.table(
            ["on held-out documents" if found.held_out else "on the text itself", "before", "after"],
            [
                ["tokens", before.tokens, after.tokens],
                ["tokens per word", f"{before.fertility:.3f}", f"{after.fertility:.3f}"],
                ["tokens per byte", f"{before.tokens_per_byte:.4f}", f"{after.tokens_per_byte:.4f}"],
            ],
        )
        if found.changed:
            documents = plural(found.changed, "document is", "documents are")
            page.say(f"{documents} tokenised differently in more than the new words")
        page.say("")
    page.say(f"{plural(len(found.words), 'word')} added; the vocabulary has {found.entries:,} entries now")
    page.command(f"model and tokenizer: {found.folder}")
    page.command(f"train it with:       unmask train TEXT... --model {found.folder}")
    if found.has_head:
        page.command(f"what it costs now:   {_compare(model, found.folder)}")


def _in_text(word: AddedWord) -> list[object]:
    from unmask.data.masking.terms import MOST_WEIGHT

    likelier = f"≥{MOST_WEIGHT:g}" if word.weight >= MOST_WEIGHT else f"{word.weight:.1f}"
    return [word.count, word.tokens_saved, "-" if word.given else likelier]


def _draw_left_out(page: Page, found: ExtendedVocabulary) -> None:
    """Draw the first of the listed words that were not added, with the reason."""
    for word in found.left_out[:_SHOWN]:
        page.say(f"not added: '{word.word}' {word.reason}")
    if len(found.left_out) > _SHOWN:
        page.say(f"… and {len(found.left_out) - _SHOWN:,} more, all in {found.folder / ADDED_WORDS}")
    if found.left_out:
        page.say("")


def trim_tokenizer(
    model: options.ModelArgument,
    data: UsedText,
    out: options.NewFolder,
    keep: Keep = "99.9%",
    documents: options.DocumentsOption = None,
    text_field: options.TextField = None,
    encoding: options.Encoding = None,
    delimiter: options.Delimiter = None,
    markup: options.MarkupOption = None,
    strict: options.Strict = False,
    skip_unreadable: options.SkipUnreadable = False,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Drop the vocabulary entries that your text uses least.

    Text whose tokens are all kept has the same tokens and logits as before; other text is spelled by smaller entries. Special
    tokens, added words and single characters are always kept.

    Examples:
        unmask tokenizer trim xlm-roberta-base --data notes/ -o smaller
        unmask tokenizer trim runs/notes --data notes/ --keep 100% -o smaller
    """
    share = _share(keep)
    settings = options.load_settings({**locals(), "data": None, "model": None}).data
    with shell.working() as progress:
        from unmask.vocabulary.trim import trim_vocabulary

        result = trim_vocabulary(
            model, data, out, keep=share, settings=settings, offline=offline, progress=progress
        )
    document = {"folder": out, **result.to_dict()}
    shell.show(as_json, document, lambda page: draw_trimmed(page, result, model))


def _share(text: str) -> float:
    """Return the share that a text such as ``99.9%`` or ``0.999`` says."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise ConfigError(
            f"--keep: expected a share above 0 and at most 100%, such as 99.9% or 0.999, not '{text}'"
        )
    return value


def draw_trimmed(page: Page, found: TrimmedVocabulary, model: str) -> None:
    """Draw the sizes before and after, and what changes in text."""
    page.table(
        ["", "before", "after"],
        [
            ["entries", found.before.entries, found.after.entries],
            ["rows of the embeddings", found.before.rows, found.after.rows],
            ["weights over the vocabulary, MB in fp32", *_megabytes(found, "embedding_mb")],
            ["all weights, MB in fp32", *_megabytes(found, "mb")],
        ],
    )
    page.say("")
    changed = found.changed
    page.table(
        ["in a sample of the text", "before", "after"],
        [
            ["tokens", changed.tokens_before, changed.tokens_after],
            ["unknown tokens", changed.unknown_before, changed.unknown_after],
        ],
    )
    digits = min(3, max(1, len(str(changed.tokens_before)) - 3))  # few tokens tell no thousandths
    page.say(
        f"{percent(changed.unchanged, digits)} of these tokens are as before; "
        f"{changed.changed_documents:,} of {plural(changed.documents, 'document')} have a token that is not"
    )
    page.say(f"the entries of {percent(found.kept, digits)} of the tokens of the whole text are kept")
    if found.kept_unseen is not None:
        page.say(
            f"of text that it was not chosen by, about {percent(found.kept_unseen, digits)}: measured on the held-out documents, with the "
            f"entries that the others need"
        )
    page.say("")
    page.command(f"model and tokenizer: {found.folder}")
    if found.has_head:
        page.command(f"what it costs:       {_compare(model, found.folder)}")
    else:  # its LM head is to be trained before there is anything to compare
        page.command(f"train it with:       unmask train TEXT... --model {found.folder}")


def _compare(model: str, folder: Path) -> str:
    where = model if not Path(model).exists() else str(Path(model))
    return f"unmask compare {where} {folder} --data HELDOUT"


def _megabytes(found: TrimmedVocabulary, name: str) -> list[str]:
    return [f"{getattr(size, name):,.1f}" for size in (found.before, found.after)]


def train_tokenizer(
    text: options.TextArgument,
    vocab_size: VocabSize,
    out: options.NewFolder,
    kind: Kind = "wordpiece",
    case: Case = "auto",
    accents: Accents = "keep",
    normal_form: NormalForm = "nfc",
    documents: options.DocumentsOption = None,
    text_field: options.TextField = None,
    encoding: options.Encoding = None,
    delimiter: options.Delimiter = None,
    markup: options.MarkupOption = None,
    strict: options.Strict = False,
    skip_unreadable: options.SkipUnreadable = False,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Train a tokenizer on text.

    It says how many characters and words the tokenizer loses.

    Examples:
        unmask tokenizer train notes/ --vocab-size 8192 -o tokenizer
        unmask tokenizer train notes/ --vocab-size 8192 --kind unigram -o new
    """
    require_new(out)
    config = options.load_settings(locals())
    with shell.working() as progress:
        from unmask.data.reading.documents import DocumentReader
        from unmask.vocabulary.new_tokenizer import train_tokenizer as train_on

        reader = DocumentReader(config.data.inputs, config.data, progress=progress)
        trained = train_on((document.text for document in reader), config.model)
        with new_folder(out) as folder:
            trained.tokenizer.save_pretrained(folder)
    result = {
        "tokenizer": str(out),
        "vocab_size": len(trained.tokenizer),
        "documents": reader.stats.documents,
    }
    shown = {name.replace("_", " "): value for name, value in result.items()}
    loss = trained.round_trip.to_dict()

    def draw(page: Page) -> None:
        page.pairs(shown)
        if trained.shortfall:
            page.say(trained.shortfall)
        page.say(round_trip_text(loss))

    shell.show(as_json, result | {"round_trip": loss}, draw)
