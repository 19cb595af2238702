"""What a terminal shows of a model that was asked about texts: filled masks, and one text explained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from unmask.cli.terminal import Page


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
