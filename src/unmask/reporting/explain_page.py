"""An explanation as one HTML page: the same figures, told in eight steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from jinja2 import Environment

Explanation = Any  # of unmask.inference.explain, which imports this module
Prediction = Any

_TEMPLATES = Path(__file__).parent / "templates"
ReplacementKind = Literal["", "mask", "random", "kept"]
_SHARED = {
    "token": "",
    "word": ", and all pieces of a word share one",
    "span": ", and all tokens of a span of words share one",
    "ngram": ", and all tokens of a collocation, or else of a word, share one",
    "terms": ", and all tokens of a term, or else of a word, share one",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One token with everything that the steps say of it; ``fate`` is what became of it, if it was selected."""

    position: int
    token: str
    input_id: int
    label: int
    draw: float | None
    chance: float | None
    special: bool
    fate: ReplacementKind
    shown: str
    shown_id: int
    loss: float | None
    height: float


@dataclass(frozen=True, slots=True)
class Row:
    """One bar of a prediction."""

    token: str
    probability: float
    right: bool
    beyond: bool


@dataclass(frozen=True, slots=True)
class Card:
    """The prediction at one position, with some tokens on both sides of it."""

    position: int
    original: str
    shown: str
    fate: ReplacementKind
    before: list[str]
    after: list[str]
    rows: list[Row]
    rank: int | None
    probability: float
    loss: float


def page(explanation: Explanation) -> str:
    """Return the page: it needs no script, no network and no other file, and everything in it is escaped."""
    cells = list(_cells(explanation))
    cards = [_card(explanation, prediction, cells) for prediction in explanation.predictions]
    scored = [cell.loss for cell in cells if cell.loss is not None]
    return (
        _environment()
        .get_template("explain.html.j2")
        .render(
            it=explanation,
            quote=list(_quote(explanation, cells)),
            cells=cells,
            cards=cards,
            scored=scored,
            right=sum(card.rank == 1 for card in cards),
            replacement_kinds={
                fate: sum(cell.fate == fate for cell in cells) for fate in ("mask", "random", "kept")
            },
            rate=explanation.masking.rate,
            shared=_SHARED[explanation.masking.strategy],
            own_share=max(0.0, 1 - explanation.masking.mask_share - explanation.masking.random_share),
        )
    )


def _quote(explanation: Explanation, cells: list[Cell]) -> Iterator[tuple[str, ReplacementKind]]:
    """Yield the text in stretches, each with the fate of its token; the space before a token stays outside."""
    text, done = explanation.text, 0
    for (start, end), cell in zip(explanation.spans, cells, strict=True):
        # Tokens that share a character (its bytes, or the ▁ before it) mark it once.
        start = max(done, end - len(text[start:end].lstrip()))
        if cell.fate and start < end:
            yield text[done:start], ""
            yield text[start:end], cell.fate
            done = end
    yield text[done:], ""


def _cells(explanation: Explanation) -> Iterator[Cell]:
    highest = max((loss for loss in explanation.token_loss if loss is not None), default=0.0) or 1.0
    for position, token in enumerate(explanation.tokens):
        loss = explanation.token_loss[position]
        yield Cell(
            position=position,
            token=token,
            input_id=explanation.input_ids[position],
            label=explanation.labels[position],
            draw=explanation.random_draw[position] if explanation.random_draw else None,
            chance=explanation.chances[position] if explanation.chances else None,
            special=bool(explanation.special_tokens_mask[position]),
            fate=_replacement_kind(explanation, position),
            shown=explanation.masked_tokens[position],
            shown_id=explanation.masked_input_ids[position],
            loss=loss,
            height=0.0 if loss is None else loss / highest,
        )


def _replacement_kind(explanation: Explanation, position: int) -> ReplacementKind:
    if not explanation.mask[position]:
        return ""
    shown = explanation.masked_input_ids[position]
    if shown == explanation.mask_token_id:
        return "mask"
    return "kept" if shown == explanation.input_ids[position] else "random"


def _card(explanation: Explanation, prediction: Prediction, cells: list[Cell], around: int = 4) -> Card:
    at = prediction.position
    shown = explanation.masked_tokens
    original = explanation.input_ids[at]
    ids = [guess.token_id for guess in prediction.top]
    rows = [
        Row(guess.token, guess.probability, guess.token_id == original, False) for guess in prediction.top
    ]
    probability = math.exp(-prediction.loss)
    if original not in ids:
        rows.append(Row(prediction.original, probability, True, True))
    return Card(
        position=at,
        original=prediction.original,
        shown=prediction.shown,
        fate=cells[at].fate,
        before=shown[max(0, at - around) : at],
        after=shown[at + 1 : at + 1 + around],
        rows=rows,
        rank=ids.index(original) + 1 if original in ids else None,
        probability=probability,
        loss=prediction.loss,
    )


def percent(share: float) -> str:
    """Return a measured share with about three digits: 91.2%, 4.05%, < 0.01%."""
    value = 100 * share
    if 0 < value < 0.01:
        return "< 0.01%"
    return f"{value:.1f}%" if value >= 10 else f"{value:.2f}%"


def setting(share: float) -> str:
    """Return a share as it was set: 80%, 12.5%."""
    return f"{round(100 * share, 6):g}%"


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(percent=percent, setting=setting)
    return found
