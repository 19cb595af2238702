"""What the figures of a check mean: findings, each a problem, a warning or a note, the most important first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

Level = Literal["problem", "warning", "note", "ok"]
Found = Mapping[str, Any]
_ORDER: tuple[Level, ...] = ("problem", "warning", "note", "ok")

DUPLICATES = 0.01
FAULTY, BROKEN = 0.001, 0.05
UNKNOWN, UNREADABLE = 0.005, 0.05
FEW_TOKENS = 50_000
LITTLE = 0.001
_KEPT = {"NUL bytes", "changed while read", "mixed line ends", "no text"}
_KINDS = {
    "replacement": "the sign U+FFFD, where a character was lost",
    "mojibake": "UTF-8 that was read in another encoding (such as Ã© for é)",
    "control": "control characters",
    "invisible": "invisible characters (soft hyphens, zero-width spaces)",
}


@dataclass(frozen=True)
class Finding:
    """One thing to know.

    Attributes:
        level: ``problem``, ``warning``, ``note`` or ``ok``.
        about: which part of the check it comes from.
        text: one sentence with its figures.
    """

    level: Level
    about: str
    text: str


def findings_of(check: Found) -> list[Finding]:
    """Read the findings off the figures of a check.

    Args:
        check: :meth:`unmask.checking.check.DataCheck.to_dict`.
    """
    parts = (_leakage, _unreadable, _errors, _encoding, _duplicates, _boilerplate, _vocabulary, _specials)
    rest = (_personal, _scripts, _sizes, _limit, _amount)
    found = [finding for part in (*parts, *rest) for finding in part(check)]
    return sorted(found, key=lambda finding: _ORDER.index(finding.level))


def _share(part: int, whole: int, what: str) -> str:
    share = part / max(1, whole)
    percent = "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"
    return f"{part:,} of {whole:,} {what} ({percent})"


def _leakage(check: Found) -> Iterator[Finding]:
    if check["leakage"] is None:
        return
    run = check["leakage"]["run"]
    if not check["leakage"]["searched"]:
        text = "the test files are all there is: nothing else was given to look for them in"
        yield Finding("problem", "leakage", text)
        return
    for row in check["leakage"]["files"]:
        name, texts = row["file"], f"{row['documents']:,} texts"
        more = f"{row['overlap']:,} more share a run of {run} words with it" if row["overlap"] else ""
        where = sorted({PurePath(pair["in"]).name for pair in row["pairs"] if pair["kind"] == "exact"})
        if row["exact"]:
            there = " and ".join(where[:3]) if len(where) <= 3 else f"{len(where)} files"
            text = f"{name}: {_share(row['exact'], row['documents'], 'texts')} stand word for word in {there}"
            yield Finding("problem", "leakage", f"{text}; {more}" if more else text)
        elif row["overlap"]:
            level: Level = "problem" if row["mostly"] else "warning"
            some = _share(row["overlap"], row["documents"], "texts")
            mostly = f", {row['mostly']:,} of them over half their length" if row["mostly"] else ""
            yield Finding(
                level, "leakage", f"{name}: {some} share a run of {run} words with the training text{mostly}"
            )
        else:
            yield Finding(
                "ok",
                "leakage",
                f"{name}: none of {texts} stands in the training text, nor a run of {run} words",
            )


def _unreadable(check: Found) -> Iterator[Finding]:
    errors = check["unreadable"]
    if errors:
        many = "1 input" if len(errors) == 1 else f"{len(errors):,} inputs"
        yield Finding("problem", "reading", f"{many} could not be read to the end: {errors[0]['error']}")


def _errors(check: Found) -> Iterator[Finding]:
    """What the reader left out or changed; control characters are counted by :func:`_encoding`."""
    found = {name: count for name, count in check["read"]["errors"].items() if name != "control characters"}
    lost = {name: count for name, count in found.items() if name not in _KEPT}
    for errors, level, what in (
        (lost, "problem", "left out"),
        (found.keys() - lost.keys(), "note", "taken as it is"),
    ):
        if errors:
            listed = ", ".join(f"{name} ({found[name]:,})" for name in sorted(errors))
            first = f"; for example {check['read']['error_examples'][0]}" if level == "problem" else ""
            yield Finding("problem" if level == "problem" else "note", "reading", f"{what}: {listed}{first}")


def _encoding(check: Found) -> Iterator[Finding]:
    documents, clean = check["read"]["documents"], True
    for kind, tally in check["text"]["encoding"].items():
        if not tally["documents"]:
            continue
        clean, share = False, tally["documents"] / documents
        level: Level = "problem" if share >= BROKEN else "warning" if share >= FAULTY else "note"
        if kind in ("invisible", "control"):
            level = "note" if kind == "invisible" or level == "note" else "warning"
        text = f"{_share(tally['documents'], documents, 'documents')} hold {_KINDS[kind]}"
        yield Finding(level, "encoding", text + _first(tally))
    if clean and not check["unreadable"] and not check["read"]["errors"]:
        yield Finding("ok", "encoding", "no encoding errors, no control characters")


def _first(tally: Found) -> str:
    if not tally["examples"]:
        return ""
    place = tally["examples"][0]
    return f"; first at {place['source']}" + (f":{place['line']}" if place["line"] else "")


def _duplicates(check: Found) -> Iterator[Finding]:
    found, documents = check["duplicates"], check["read"]["documents"]
    level: Level = "warning" if found["exact_share"] >= DUPLICATES else "note" if found["exact"] else "ok"
    if found["exact"]:
        yield Finding(
            level,
            "duplicates",
            f"{_share(found['exact'], documents, 'documents')} repeat an earlier one exactly",
        )
    else:
        yield Finding("ok", "duplicates", "no document stands there twice")
    near = found["near"]
    if near is None:
        text = "near duplicates were not looked for; that needs: pip install 'unmask[duplicates]'"
        yield Finding("note", "near duplicates", text)
    elif near["documents"]:
        level = "warning" if near["share"] >= DUPLICATES else "note"
        text = f"{_share(near['documents'], documents, 'documents')} are nearly an earlier one"
        yield Finding(
            level, "near duplicates", f"{text} (similarity {near['similarity']} or more, estimated)"
        )
    else:
        yield Finding("ok", "near duplicates", "no document is nearly another")
    if near is not None and near["left_out"]:
        text = f"{near['left_out']:,} documents came after the first {near['compared']:,}, which alone were compared"
        yield Finding("note", "near duplicates", text)


def _boilerplate(check: Found) -> Iterator[Finding]:
    found = check["text"]["boilerplate"]
    if found["share"] < LITTLE:
        return
    top = found["examples"][0]
    many = "1 line recurs" if found["lines"] == 1 else f"{found['lines']:,} lines recur"
    text = f"{many} in {found['at_least_documents']:,} documents or more"
    much = f"{found['share']:.1%} of the text; the most frequent, in {top['documents']:,}: {top['line']}"
    yield Finding("warning" if found["share"] >= DUPLICATES else "note", "boilerplate", f"{text}, {much}")


def _vocabulary(check: Found) -> Iterator[Finding]:
    found = check["vocabulary"]
    if found is None:
        return
    unknown = found["unknown"]
    if unknown["tokens"]:
        share = unknown["share"]
        level: Level = "problem" if share >= UNREADABLE else "warning" if share >= UNKNOWN else "note"
        words = ", ".join(word for word, _ in unknown["words"][:5])
        text = f"{_share(unknown['tokens'], found['tokens'], 'tokens')} are unknown to the tokenizer"
        yield Finding(level, "unknown tokens", text + (f", for example {words}" if words else ""))
    else:
        yield Finding("ok", "unknown tokens", "the tokenizer can spell everything")
    if found["pieces_per_word"] is None:
        return
    saved = f"{found['added_words']:,} added words would save {found['saved_share']:.1%} of the tokens"
    worth = (
        "worth extending the vocabulary" if check["plan"]["extend"] else "not worth extending the vocabulary"
    )
    yield Finding("note", "fertility", f"{found['pieces_per_word']:.2f} pieces per word; {saved}: {worth}")


def _specials(check: Found) -> Iterator[Finding]:
    found = check["text"]["special_tokens"]
    if found:
        listed = ", ".join(f"{token} ({tally['count']:,}×)" for token, tally in list(found.items())[:5])
        first = _first(next(iter(found.values())))
        text = f"literal special tokens in the text: {listed}{first}; unmask takes them as text, other tools may not"
        yield Finding("warning", "special tokens", text)


def _personal(check: Found) -> Iterator[Finding]:
    found = check["text"]["personal"]
    parts = {"email": ("e-mail address", "es"), "phone": ("telephone number", "s")}
    listed = [
        f"{found[key]['count']:,} {name}{plural * (found[key]['count'] != 1)}"
        for key, (name, plural) in parts.items()
        if found[key]["count"]
    ]
    if listed:
        text = f"{' and '.join(listed)}, by their form; a model may learn them by heart"
        yield Finding("warning", "personal data", text)


def _scripts(check: Found) -> Iterator[Finding]:
    found = check["text"]["scripts"]
    shown = [row for row in found if row["share_of_letters"] >= 0.001] or found[:1]
    if not shown:
        yield Finding("warning", "scripts", "there are no letters in the text")
        return
    listed = ", ".join(f"{row['script']} {row['share_of_letters']:.1%}" for row in shown[:4])
    by_documents = sorted((row["documents"] for row in found), reverse=True)
    others = sum(by_documents[1:])
    mixed = others >= 0.01 * check["read"]["documents"]
    more = f"; {others:,} documents are mostly in another script than the rest" if others else ""
    yield Finding("note" if mixed else "ok", "scripts", f"letters: {listed}{more}")


def _sizes(check: Found) -> Iterator[Finding]:
    read, sizes = check["read"], check["text"]["sizes"]
    if read["empty"]:
        yield Finding("note", "sizes", f"{read['empty']:,} records or lines are empty and were passed over")
    short = sizes["short"]["documents"]
    if short >= 0.05 * read["documents"]:
        text = f"{_share(short, read['documents'], 'documents')} have fewer than 5 words"
        yield Finding(
            "warning" if short >= 0.25 * read["documents"] else "note", "sizes", text + _first(sizes["short"])
        )
    if sizes["huge"]["documents"]:
        text = f"{sizes['huge']['documents']:,} documents are longer than 100,000 characters"
        cut = f", {read['split_documents']:,} of them are read in parts" if read["split_documents"] else ""
        yield Finding("note", "sizes", text + cut + _first(sizes["huge"]))


def _limit(check: Found) -> Iterator[Finding]:
    found = check["limit"]
    if found is None:
        return
    if not found["longer"]:
        text = f"no document is longer than a sequence of {found['max_length']:,} tokens"
        yield Finding("ok", "limit", text)
        return
    longer = _share(found["longer"], check["read"]["documents"], "documents")
    text = f"{longer} are longer than a sequence of {found['max_length']:,} tokens"
    text += f" and go on in others, {found['sequences']:,} in all"
    lost = f"; a tool that cuts them off loses {found['tokens_beyond_share']:.1%} of the tokens"
    yield Finding("note", "limit", text + lost)


def _amount(check: Found) -> Iterator[Finding]:
    plan = check["plan"]
    about = "about " if plan["tokens_estimated"] else ""
    text = f"{about}{plan['tokens']:,} tokens"
    if plan["tokens"] < FEW_TOKENS:
        yield Finding("warning", "amount", f"{text}: very little to learn a domain from; look for more text")
    else:
        yield Finding("ok", "amount", text)
