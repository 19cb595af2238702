"""What the verb ``check`` shows on a terminal: findings first, then where they are, then what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from unmask.cli.terminal import Page, format_number

Found = Mapping[str, Any]
_STYLES = {"problem": "bold red", "warning": "yellow", "note": "", "ok": "green"}
_PAIRS = 3


def draw_check(page: Page, found: Found) -> None:
    """Draw a check.

    Args:
        page: where to draw.
        found: :meth:`unmask.checking.check.DataCheck.to_dict`.
    """
    for finding in found["findings"]:
        page.say(f"{finding['level']:<8} {finding['text']}", style=_STYLES[finding["level"]] or None)
    page.say("")
    page.pairs(_facts(found))
    _draw_leaks(page, found)
    _draw_duplicates(page, found)
    _draw_words(page, found)
    _draw_plan(page, found["plan"])


def _facts(found: Found) -> dict[str, object]:
    read, lengths, tokens = found["read"], found["lengths"], found["plan"]["tokens"]
    quantiles = lengths["quantiles"]
    spread = f"median {format_number(round(quantiles['0.5']))}, 5% to 95%: {quantiles['0.05']:,.0f} to {quantiles['0.95']:,.0f}"
    return {
        "files": read["files"],
        "documents": read["documents"],
        "words": read["words"],
        "tokens": f"about {tokens:,} (--model counts them)" if found["plan"]["tokens_estimated"] else tokens,
        f"{lengths['unit']} a document": f"{spread}, longest {lengths['longest']['length']:,} ({where(lengths['longest']['place'])})",
    }


def duration(seconds: float) -> str:
    """Return a rough time: ``about 3 minutes``, ``about 2.5 days``."""
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 1.5 * size:
            return (
                f"about {seconds / size:.2g} {unit}s"
                if seconds < 10 * size
                else f"about {seconds / size:,.0f} {unit}s"
            )
    return f"about {max(1, round(seconds))} seconds"


def where(place: Found) -> str:
    """Return a place as ``file:line``."""
    return f"{place['source']}:{place['line']}" if place["line"] else str(place["source"])


def _draw_leaks(page: Page, found: Found) -> None:
    for row in (found["leakage"] or {"files": []})["files"]:
        if not row["pairs"]:
            continue
        page.say("")
        page.say(f"{row['file']} in the training text:")
        for pair in row["pairs"][:_PAIRS]:
            kind = "equals" if pair["kind"] == "exact" else f"shares {pair['share']:.0%} with"
            page.say(f"  line {pair['line']} {kind} {pair['in']}:{pair['in_line']}  {pair['text']}")
        if (left := row["exact"] + row["overlap"] - _PAIRS) > 0:
            page.say(f"  and {left:,} more (--json lists them)", style="dim")


def _draw_duplicates(page: Page, found: Found) -> None:
    rows = found["duplicates"]["exact_examples"]
    near = (found["duplicates"]["near"] or {"examples": []})["examples"]
    if rows or near:
        page.say("")
        page.say("documents that stand there more than once:")
    for row in rows:
        page.say(
            f"  {row['copies']:,} times, as {where(row['first'])} and {where(row['second'])}  {row['first']['text']}"
        )
    for row in near:
        page.say(f"  {row['similarity']:.0%} alike, {where(row['first'])} and {where(row['second'])}")
        page.say(f"    {row['first']['text']}", style="dim")
        page.say(f"    {row['second']['text']}", style="dim")


def _draw_words(page: Page, found: Found) -> None:
    rows = (found["vocabulary"] or {"most_cut": []})["most_cut"][:8]
    if rows:
        page.say("")
        table = [[row["word"], row["count"], len(row["pieces"]), " ".join(row["pieces"])] for row in rows]
        page.table(["words that cost most", "times", "pieces", "cut as"], table, left=(0, 3))


def _draw_plan(page: Page, plan: Found) -> None:
    page.say("")
    passes = "1 pass" if plan["epochs"] == 1 else f"{plan['epochs']} passes"
    near = min(plan["beside"], key=lambda row: abs(math.log(max(row["share"], 1e-12))))
    times = f"{near['share']:.1%} of that" if near["share"] < 1 else f"{near['share']:,.1f} times as many"
    page.say(f"others used: {near['tokens']} tokens, {near['what']}; this is {times}")
    page.say(f"plan: {passes} over the text, {duration(plan['seconds'])} ({plan['time_from']})")
    if plan["seconds"] > 86_400:
        page.say(
            "      that is long: --minutes 120 stops a run by the clock, a smaller model or a GPU shortens it"
        )
    page.say("next:")
    for command in plan["commands"]:
        page.say(f"  {command}")
