"""The verbs ``tokenizer train`` and ``tokenizer extend``."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from unmask.cli import options
from unmask.cli import runtime as shell
from unmask.cli.terminal import Page
from unmask.errors import ConfigError, DataError
from unmask.run_folder import ADDED_WORDS
from unmask.storage import new_folder

if TYPE_CHECKING:
    from unmask.vocabulary.extend import ExtendedVocabulary

Data = Annotated[
    list[str],
    Option("--data", metavar="DATA", help="Text of the domain; may be repeated.", show_default=False),
]
GeneralText = Annotated[
    list[str] | None,
    Option(
        "--general",
        metavar="PATH",
        help="General text: words count the more, the likelier they are in the domain; may be repeated.",
    ),
]
Add = Annotated[int, Option(metavar="WORDS", help="How many words to add, at most.")]
MinCount = Annotated[int, Option(help="Occurrences of a word in the text, at least.", min=1)]


def extend(
    model: options.RequiredModel,
    data: Data,
    out: options.NewFolder,
    general: GeneralText = None,
    add: Add = 1000,
    min_count: MinCount = 5,
    documents: options.DocumentsOption = None,
    text_field: options.TextField = None,
    strict: options.Strict = False,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Add the words of a domain that save the most tokens to a model and its tokenizer."""
    from unmask.config.load import load_config

    flags = {
        "data.documents": documents,
        "data.text_field": text_field,
        "data.strict": strict or None,
    }
    settings = load_config(None, (), flags).data
    with shell.working() as progress:
        from unmask.vocabulary.extend import extend_vocabulary

        result = extend_vocabulary(
            model,
            data,
            out,
            general=general or (),
            add=add,
            min_count=min_count,
            settings=settings,
            offline=offline,
            progress=progress,
        )
    if as_json:
        shell.emit({"folder": out, **result.to_dict()})
        return
    draw_extension(shell.page(), result, model)


_SHOWN = 20


def draw_extension(page: Page, found: ExtendedVocabulary, model: str) -> None:
    """Draw the first of the new words, and how finely text is cut before and after."""
    page.table(
        ["word", "count", "pieces", "tokens saved", "times likelier"],
        [
            [word.word, word.count, len(word.pieces), word.tokens_saved, f"{word.weight:.1f}"]
            for word in found.words[:_SHOWN]
        ],
    )
    if len(found.words) > _SHOWN:
        page.say(f"… and {len(found.words) - _SHOWN:,} more, all in {found.folder / ADDED_WORDS}")
    page.say("")
    before, after = found.before, found.after
    page.table(
        ["on held-out documents" if found.held_out else "on the text itself", "before", "after"],
        [
            ["tokens", before.tokens, after.tokens],
            ["tokens per word", f"{before.fertility:.3f}", f"{after.fertility:.3f}"],
            ["tokens per byte", f"{before.tokens_per_byte:.4f}", f"{after.tokens_per_byte:.4f}"],
        ],
    )
    if found.changed:
        page.say(f"{found.changed:,} documents are cut differently in more than the new words")
    page.say("")
    page.say(f"{len(found.words):,} words added; the vocabulary has {found.entries:,} entries now")
    page.say(f"model and tokenizer: {found.folder}")
    page.say(f"train it with:       unmask train DATA... --model {found.folder}")
    where = model if not Path(model).exists() else str(Path(model))
    page.say(f"what it costs now:   unmask compare {where} {found.folder} --data HELDOUT")


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
