"""An explanation of one text as an HTML page, in eight steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from unmask.reporting.render import environment
from unmask.storage import JsonDict

ReplacementKind = Literal["", "mask", "random", "kept"]
_SHARED = {
    "token": "",
    "word": ", and all subwords of a word share one",
    "span": ", and all tokens of a span of words share one",
    "terms": ", and all tokens of a term, or else of a word, share one",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One token in all steps; ``kind`` is its kind of replacement, if it was selected."""

    position: int
    token: str
    input_id: int
    label: int
    draw: float | None
    chance: float | None
    special: bool
    kind: ReplacementKind
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
    kind: ReplacementKind
    before: list[str]
    after: list[str]
    rows: list[Row]
    rank: int | None
    probability: float
    loss: float


def render_explanation(explanation: JsonDict) -> str:
    """Return the page: it needs no script, no network and no other file, and everything in it is escaped.

    Args:
        explanation: what :meth:`unmask.inference.explanation.Explanation.to_dict` returns.
    """
    cells = list(_cells(explanation))
    cards = [_card(explanation, prediction, cells) for prediction in explanation["predictions"]]
    masking = explanation["masking"]
    template = environment().get_template("explain.html.j2")
    return template.render(
        it=explanation,
        quote=list(_quote(explanation, cells)),
        cells=cells,
        cards=cards,
        scored=[cell.loss for cell in cells if cell.loss is not None],
        right=sum(card.rank == 1 for card in cards),
        replacement_kinds={
            kind: sum(cell.kind == kind for cell in cells) for kind in ("mask", "random", "kept")
        },
        rate=masking["rate"],
        shared=_SHARED[masking["strategy"]],
        own_share=max(0.0, 1 - masking["mask_share"] - masking["random_share"]),
    )


def _quote(explanation: JsonDict, cells: list[Cell]) -> Iterator[tuple[str, ReplacementKind]]:
    """Yield the text in stretches, each with the kind of its token; the space before a token stays outside."""
    text, done = explanation["text"], 0
    for (start, end), cell in zip(explanation["spans"], cells, strict=True):
        # Tokens that share a character (its bytes, or the ▁ before it) mark it once.
        start = max(done, end - len(text[start:end].lstrip()))
        if cell.kind and start < end:
            yield text[done:start], ""
            yield text[start:end], cell.kind
            done = end
    yield text[done:], ""


def _cells(explanation: JsonDict) -> Iterator[Cell]:
    highest = max((loss for loss in explanation["token_loss"] if loss is not None), default=0.0) or 1.0
    for position, token in enumerate(explanation["tokens"]):
        loss = explanation["token_loss"][position]
        yield Cell(
            position=position,
            token=token,
            input_id=explanation["input_ids"][position],
            label=explanation["labels"][position],
            draw=explanation["random_draw"][position] if explanation["random_draw"] else None,
            chance=explanation["chances"][position] if explanation["chances"] else None,
            special=bool(explanation["special_tokens_mask"][position]),
            kind=_replacement_kind(explanation, position),
            shown=explanation["masked_tokens"][position],
            shown_id=explanation["masked_input_ids"][position],
            loss=loss,
            height=0.0 if loss is None else loss / highest,
        )


def _replacement_kind(explanation: JsonDict, position: int) -> ReplacementKind:
    if not explanation["mask"][position]:
        return ""
    shown = explanation["masked_input_ids"][position]
    if shown == explanation["mask_token_id"]:
        return "mask"
    return "kept" if shown == explanation["input_ids"][position] else "random"


def _card(explanation: JsonDict, prediction: JsonDict, cells: list[Cell], around: int = 4) -> Card:
    at, top = prediction["position"], prediction["top"]
    shown, original = explanation["masked_tokens"], explanation["input_ids"][at]
    ids = [item["token_id"] for item in top]
    rows = [Row(item["token"], item["probability"], item["token_id"] == original, False) for item in top]
    probability = math.exp(-prediction["loss"])
    if original not in ids:
        rows.append(Row(prediction["original"], probability, True, True))
    return Card(
        position=at,
        original=prediction["original"],
        shown=prediction["shown"],
        kind=cells[at].kind,
        before=shown[max(0, at - around) : at],
        after=shown[at + 1 : at + 1 + around],
        rows=rows,
        rank=ids.index(original) + 1 if original in ids else None,
        probability=probability,
        loss=prediction["loss"],
    )
