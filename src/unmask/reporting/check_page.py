"""The page of a check of text, from what ``check`` prints with ``--json``."""

from __future__ import annotations

from collections.abc import Iterator

from unmask.errors import plural
from unmask.reporting.format import count, fertility_text, number, percent, place, rough_duration
from unmask.reporting.render import environment
from unmask.storage import JsonDict

_WORDS = {"problem": "Problem", "warning": "Warning", "note": "Note", "ok": "OK"}
_GLYPHS = {"problem": "✕", "warning": "!", "note": "i", "ok": "✓"}
_ENCODING = {
    "replacement": "U+FFFD, the replacement character",
    "mojibake": "mojibake: UTF-8 decoded as another encoding",
    "control": "control characters",
    "invisible": "invisible characters",
}
_PAIRS = 25


def render_check(found: JsonDict) -> str:
    """Return the page of a check.

    Args:
        found: :meth:`unmask.checking.results.DataCheck.to_dict`.
    """
    loader = environment()
    loader.filters["place"] = place
    return loader.get_template("check.html.j2").render(
        found=found,
        kind="Check",
        name=", ".join(found["inputs"]),
        verdict=verdict(found),
        words=_WORDS,
        glyphs=_GLYPHS,
        facts=list(facts(found)),
        lengths=list(length_rows(found["lengths"])),
        errors=list(error_rows(found)),
        shown_pairs=_PAIRS,
        time=rough_duration(found["plan"]["seconds"]),
    )


def verdict(found: JsonDict) -> str:
    """The main result in one sentence."""
    by_level = [
        (sum(item["level"] == level for item in found["findings"]), name)
        for level, name in (("problem", "problem"), ("warning", "warning"))
    ]
    listed = [plural(level, name) for level, name in by_level if level]
    text = f"{plural(found['read']['documents'], 'document')}, {_tokens(found)}"
    return f"{text}: {' and '.join(listed) or 'nothing found that hinders training'}."


def _tokens(found: JsonDict) -> str:
    about = "about " if found["plan"]["tokens_estimated"] else ""
    return about + plural(found["plan"]["tokens"], "token")


def facts(found: JsonDict) -> Iterator[tuple[str, str]]:
    """Yield what was read: name and value."""
    read, lengths = found["read"], found["lengths"]
    quantiles = lengths["quantiles"]
    yield "Files", count(read["files"])
    yield "Documents", count(read["documents"])
    unit = "characters" if read["words"] is None else "words"
    yield unit.capitalize(), count(read[unit])
    yield "Tokens", _tokens(found)
    yield "Empty", count(read["empty"])
    yield (
        "Length",
        f"median {number(quantiles['0.5'])} {lengths['unit']}, 95% below {number(quantiles['0.95'])}",
    )
    yield (
        "Longest",
        f"{count(lengths['longest']['length'])} {lengths['unit']}, {place(lengths['longest']['place'])}",
    )
    if found["model"]:
        yield "Model", found["model"]
    if found["vocabulary"] and (fertility := fertility_text(found["vocabulary"])):
        yield "Fertility", fertility.removeprefix("no fertility: ")
    scripts = found["text"]["scripts"][:5]
    yield (
        "Letters",
        ", ".join(f"{row['script']} {percent(row['share_of_letters'])}" for row in scripts) or "none",
    )


def length_rows(lengths: JsonDict) -> Iterator[tuple[str, int, float]]:
    """Yield the rows of the table of lengths: the range, its documents, and their share of the fullest row."""
    filled = [row for row in lengths["bins"] if row["documents"]]
    if not filled:
        return
    most = max(row["documents"] for row in filled)
    for row in lengths["bins"][lengths["bins"].index(filled[0]) :]:
        last = row["below"] - 1
        label = count(last) if last == row["from"] else f"{count(row['from'])} – {count(last)}"
        yield label, row["documents"], row["documents"] / most


def error_rows(found: JsonDict) -> Iterator[tuple[str, JsonDict]]:
    """Yield encoding errors and literal special tokens: what, and its tally."""
    for kind, tally in found["text"]["encoding"].items():
        if tally["documents"]:
            yield _ENCODING[kind], tally
    for token, tally in found["text"]["special_tokens"].items():
        yield f"the special token {token}", tally
