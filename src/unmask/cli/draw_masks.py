"""How ``unmask masks`` and ``unmask conformance`` look on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from unmask.cli.terminal import Page

if TYPE_CHECKING:
    from unmask.promises.checks import Check

# Not by colour alone: a mask is written as one, a random token carries an arrow, a kept one stands in brackets.
_STYLES = {"mask": "bold black on yellow", "random": "bold white on red", "keep": "bold black on green"}


def draw_masks(page: Page, answer: Mapping[str, Any]) -> None:
    """Draw a passage with its masks, and the figures below it."""
    page.text(_passage(answer["sample"]))
    page.say("")
    split = answer["split"]
    page.pairs(
        {
            "strategy": answer["strategy"],
            "rate asked": f"{answer['asked_rate']:.2%}",
            "rate achieved": _percent(answer["rate"]),
            "tokens looked at": answer["tokens"],
            "targets": answer["targets"],
            "became the mask": _percent(split["mask"]),
            "became a random token": _percent(split["random"]),
            "stayed": _percent(split["keep"]),
            "words masked whole": _percent(answer["whole_words"]),
            "mean span in tokens": _number(answer["mean_span"]["tokens"]),
            "mean span in words": _number(answer["mean_span"]["words"]),
            "sequences without a target": f"{answer['without_targets']:,} of {answer['sequences']:,}",
        }
    )
    if answer["by_word_length"]:
        page.say("")
        page.table(
            ["tokens in the word", "words", "masked whole"],
            [
                [
                    f"{row['tokens']}{' or more' if row['or_more'] else ''}",
                    row["words"],
                    _percent(row["rate"]),
                ]
                for row in answer["by_word_length"]
            ],
        )


def _passage(sample: Sequence[Mapping[str, Any]]) -> Text:
    line = Text()
    for token in sample:
        kind = token["target"]
        shown = {None: token["shown"], "mask": token["shown"], "keep": f"[{token['token']}]"}.get(
            kind, f"{token['token']}→{token['shown']}"
        )
        line.append(shown, style=_STYLES.get(kind, "dim" if token["special"] else ""))
        line.append(" ")
    return line


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def draw_checks(page: Page, checks: Sequence[Check]) -> None:
    """Draw a row for each promise, and what was compared where one does not hold."""
    page.table(
        ["promise", "measured", "allowed", "", "compared"],
        [
            [check.name, f"{check.measured:.1e}", f"{check.tolerance:.0e}", _verdict(check), check.detail]
            for check in checks
        ],
        left=(0, 3, 4),
    )
    failed = [check for check in checks if not check.passed]
    for check in failed:
        page.say(f"does not hold: {check.what}")
    page.say(f"{len(checks) - len(failed)} of {len(checks)} promises hold")


def _verdict(check: Check) -> str:
    return "holds" if check.passed else "FAILS"
