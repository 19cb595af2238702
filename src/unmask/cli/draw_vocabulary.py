"""What the verb ``tokenizer extend`` shows on a terminal."""

from __future__ import annotations

from pathlib import Path

from unmask.cli.terminal import Page
from unmask.run_folder import ADDED_WORDS
from unmask.vocabulary.extend import ExtendedVocabulary

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
