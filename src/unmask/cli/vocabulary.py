"""The verb ``tokenizer extend``: words of a domain for the vocabulary of a model."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from unmask.cli import options
from unmask.cli import runtime as shell

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
    from unmask.cli.draw_vocabulary import draw_extension

    draw_extension(shell.page(), result, model)
