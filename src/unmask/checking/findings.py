"""Findings of a check: problems, warnings and notes, the worst first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count as count_from
from pathlib import PurePath
from typing import Literal

from unmask.checking.advice import EXTEND_TOKENS
from unmask.checking.characters import UNSPACED
from unmask.checking.duplicates import NEAR_WORDS
from unmask.config.settings import DataSettings, MaskingSettings
from unmask.data.heldout_size import FEWEST_UNITS, MINIMUM, PART, held_out_texts, smaller_documents
from unmask.data.reading.errors import KEPT, left_out_share, lost_documents
from unmask.data.unknown import MANY, MOST
from unmask.errors import plural
from unmask.reporting.format import fertility_text, no_interval, percent, place, round_trip_text
from unmask.storage import JsonDict

Level = Literal["problem", "warning", "note", "ok"]
_ORDER: tuple[Level, ...] = ("problem", "warning", "note", "ok")

# Shares from which a finding is a warning or a problem.
_DUPLICATES = 0.01
_ENCODING_WARNING, _ENCODING_PROBLEM = 0.001, 0.05
_CHANGED_WARNING, _CHANGED_PROBLEM = 0.005, 0.05
_BOILERPLATE_NOTE = 0.001
_FEW_TOKENS = 50_000
_LISTED = 5
_KINDS = {
    "replacement": "U+FFFD, the replacement character of lost characters",
    "mojibake": "mojibake: UTF-8 decoded as another encoding (Ã© for é)",
    "control": "control characters",
    "invisible": "invisible characters (soft hyphens, zero-width spaces)",
}


@dataclass(frozen=True)
class Finding:
    """One thing to know.

    Attributes:
        level: ``problem``, ``warning``, ``note`` or ``ok``.
        about: which part of the check it comes from.
        text: one sentence with its numbers.
    """

    level: Level
    about: str
    text: str


def findings_of(check: JsonDict) -> list[Finding]:
    """Return the findings of a check, the worst first.

    Args:
        check: :meth:`unmask.checking.results.DataCheck.to_dict`.
    """
    parts = (_leakage, _errors, _contents, _encoding, _duplicates, _boilerplate, _vocabulary, _specials)
    rest = (_personal, _scripts, _sizes, _limit, _amount, _held_out)
    found = [finding for part in (*parts, *rest) for finding in part(check)]
    return sorted(found, key=lambda finding: _ORDER.index(finding.level))


def _share(part: int, whole: int, what: str) -> str:
    return f"{part:,} of {plural(whole, what)} ({percent(part / max(1, whole))})"


def _level(share: float, warning: float, problem: float) -> Level:
    return "problem" if share >= problem else "warning" if share >= warning else "note"


def _leakage(check: JsonDict) -> Iterator[Finding]:
    if check["leakage"] is None:
        return
    run = check["leakage"]["run"]
    if not check["leakage"]["searched"]:
        text = "the inputs are the test files themselves: there is no training text to search; give it before --test"
        yield Finding("problem", "leakage", text)
        return
    for row in check["leakage"]["files"]:
        name = row["file"]
        more = f"{row['overlap']:,} more share a run of {run} words" if row["overlap"] else ""
        where = sorted({PurePath(pair["in"]).name for pair in row["pairs"] if pair["kind"] == "exact"})
        if row["exact"]:
            there = " and ".join(where[:3]) if len(where) <= 3 else f"{len(where)} files"
            text = f"{name}: {_share(row['exact'], row['documents'], 'text')} word for word in {there}"
            yield Finding("problem", "leakage", f"{text}; {more}" if more else text)
        elif row["overlap"]:
            level: Level = "problem" if row["mostly"] else "warning"
            some = _share(row["overlap"], row["documents"], "text")
            mostly = f", {row['mostly']:,} of them at least half of their text" if row["mostly"] else ""
            yield Finding(
                level, "leakage", f"{name}: {some} with a run of {run} words of the training text{mostly}"
            )
        else:
            text = f"{name}: none of {plural(row['documents'], 'text')} occurs in the training text"
            if row["short"] < row["documents"]:
                text += f", nor a run of {run} words"
            if row["short"]:
                text += f"; {row['short']:,} {'has' if row['short'] == 1 else 'have'} fewer than {run} words: compared only as a whole"
            yield Finding("note" if 2 * row["short"] > row["documents"] else "ok", "leakage", text)


def _errors(check: JsonDict) -> Iterator[Finding]:
    """What the reader left out or changed; control characters are counted by :func:`_encoding`."""
    read, unreadable = check["read"], check["unreadable"]
    found = {name: count for name, count in sorted(read["errors"].items()) if name != "control characters"}
    parts = []
    if unreadable:
        listed = "; ".join(item["error"] for item in unreadable[:_LISTED])
        more = f"; and {len(unreadable) - _LISTED:,} more" if len(unreadable) > _LISTED else ""
        parts.append(f"{plural(len(unreadable), 'input')} could not be read: {listed}{more}")
    if lost := [name for name in found if name not in KEPT]:
        listed = ", ".join(f"{name} ({found[name]:,})" for name in lost)
        first = "" if unreadable else f"; for example {read['error_examples'][lost[0]][0]}"
        share = left_out_share(lost_documents(found), read["documents"])
        parts.append(f"left out: {listed}, {share}{first}")
    if parts:
        yield Finding("problem", "reading", "; ".join(parts))
    if kept := [name for name in found if name in KEPT]:
        listed = ", ".join(f"{name} ({found[name]:,}; {KEPT[name]})" for name in kept)
        yield Finding("note", "reading", f"noted in text that is read: {listed}")
    if skipped := read["skipped_files"]:
        listed = ", ".join(f"{count:,} {why}" for why, count in sorted(skipped.items()))
        yield Finding("note", "reading", f"entries of folders that are not read: {listed}")


def _contents(check: JsonDict) -> Iterator[Finding]:
    """What plain text files hold, and how they are split into documents."""
    contents, splits = check["read"]["contents"], check["read"]["splits"]
    for kind in ("HTML", "XML"):
        if number := contents.get(kind):
            text = f"{plural(number, 'file')} of {kind} read with the tags; --markup strip takes the text between them"
            yield Finding("warning", "contents", text)
    if number := contents.get("source code"):
        yield Finding("note", "contents", f"{plural(number, 'file')} of source code read as text")
    names = {"file": "the whole file", "block": "a block between empty lines", "line": "a line"}
    listed = ", ".join(f"{names[mode]} ({plural(number, 'file')})" for mode, number in splits.items())
    if sum(splits.values()) > 1:
        yield Finding("note", "documents", f"a document of plain text is: {listed}; --documents changes it")


def _encoding(check: JsonDict) -> Iterator[Finding]:
    documents, clean = check["read"]["documents"], True
    for kind, tally in check["text"]["encoding"].items():
        if not tally["documents"]:
            continue
        clean = False
        level = _level(tally["documents"] / documents, _ENCODING_WARNING, _ENCODING_PROBLEM)
        if kind in ("invisible", "control"):
            level = "note" if kind == "invisible" or level == "note" else "warning"
        text = f"{_KINDS[kind]} in {_share(tally['documents'], documents, 'document')}"
        yield Finding(level, "encoding", text + _first(tally))
    if clean and not check["unreadable"] and not check["read"]["errors"]:
        yield Finding("ok", "encoding", "no encoding errors, no control characters")


def _first(tally: JsonDict) -> str:
    if not tally["examples"]:
        return ""
    return f"; first at {place(tally['examples'][0])}"


def _duplicates(check: JsonDict) -> Iterator[Finding]:
    found, documents = check["duplicates"], check["read"]["documents"]
    level: Level = "warning" if found["exact_share"] >= _DUPLICATES else "note" if found["exact"] else "ok"
    if found["exact"]:
        yield Finding(
            level,
            "duplicates",
            f"exact duplicates: {_share(found['exact'], documents, 'document')}"
            + ("; 'unmask prepare --deduplicate exact' leaves them out" if level == "warning" else ""),
        )
    else:
        yield Finding("ok", "duplicates", "no exact duplicates")
    near = found["near"]
    if near is None:
        text = "near duplicates were not searched for; install: pip install 'unmask[duplicates]'"
        yield Finding("note", "near duplicates", text)
    elif near["documents"]:
        level = "warning" if near["share"] >= _DUPLICATES else "note"
        text = f"near duplicates: {_share(near['documents'], documents, 'document')}"
        yield Finding(
            level, "near duplicates", f"{text} (estimated Jaccard similarity of {near['similarity']} or more)"
        )
    elif near["compared"]:
        yield Finding("ok", "near duplicates", "no near duplicates")
    if near is not None and near["short"]:
        text = f"{_share(near['short'], documents, 'document')} {'has' if near['short'] == 1 else 'have'} fewer than {NEAR_WORDS} words: compared only for exact duplicates"
        yield Finding("note", "near duplicates", text)
    if near is not None and near["left_out"]:
        text = (
            f"compared: the first {plural(near['compared'], 'document')}; not compared: {near['left_out']:,}"
        )
        yield Finding("note", "near duplicates", text)


def _boilerplate(check: JsonDict) -> Iterator[Finding]:
    found = check["text"]["boilerplate"]
    if found["share"] < _BOILERPLATE_NOTE:
        return
    top = found["examples"][0]
    many = "1 line recurs" if found["lines"] == 1 else f"{found['lines']:,} lines recur"
    text = f"{many} in at least {plural(found['at_least_documents'], 'document')}"
    much = f"{percent(found['share'])} of the text; the most frequent, in {top['documents']:,}: {top['line']}"
    yield Finding("warning" if found["share"] >= _DUPLICATES else "note", "boilerplate", f"{text}, {much}")


def _vocabulary(check: JsonDict) -> Iterator[Finding]:
    found = check["vocabulary"]
    if found is None:
        return
    unknown = found["unknown"]
    if unknown["tokens"]:
        level = _level(unknown["share"], MANY, MOST)
        words = ", ".join(word for word, _ in unknown["words"][:5])
        text = f"unknown to the tokenizer: {_share(unknown['tokens'], found['tokens'], 'token')}"
        yield Finding(level, "unknown tokens", text + (f", for example {words}" if words else ""))
    else:
        yield Finding("ok", "unknown tokens", "no unknown tokens")
    yield _round_trip(found["round_trip"])
    fertility = fertility_text(found)
    if fertility is None:
        return
    saved = "no word is frequent enough to be added to the vocabulary"
    if found["added_words"]:
        saved = f"adding {plural(found['added_words'], 'word')} would save {percent(found['saved_share'])} of the tokens: "
        saved += "" if check["plan"]["extend"] or check["plan"]["too_little_to_extend"] else "not "
        saved += "worth extending the vocabulary"
        if check["plan"]["too_little_to_extend"]:
            saved += f", but their embeddings are learned from {EXTEND_TOKENS:,} tokens or more, and the text has fewer"
    yield Finding("note", "fertility", f"{fertility}; {saved}")


def _round_trip(found: JsonDict) -> Finding:
    """What the tokenizer drops or changes; unknown words are in it too."""
    level = _level(max(found["dropped_share"], found["changed_share"]), _CHANGED_WARNING, _CHANGED_PROBLEM)
    lossless = not found["dropped"] and not found["changed"]
    return Finding("ok" if lossless else level, "round trip", round_trip_text(found))


def _specials(check: JsonDict) -> Iterator[Finding]:
    kinds: tuple[tuple[str, Level, str, str], ...] = (
        ("special_tokens", "warning", "literal special tokens in", "unmask reads them as plain text, other tools may not"),
        ("added_special_tokens", "note", "special tokens added to the tokenizer, in", "read as one token each, never masked"),
    )  # fmt: skip
    for key, level, what, how in kinds:
        if found := check["text"][key]:
            listed = ", ".join(f"{token} ({tally['count']:,}×)" for token, tally in list(found.items())[:5])
            first = _first(next(iter(found.values())))
            yield Finding(level, "special tokens", f"{what} the text: {listed}{first}; {how}")


def _personal(check: JsonDict) -> Iterator[Finding]:
    found = check["text"]["personal"]
    parts = {
        "email": ("e-mail address", "e-mail addresses"),
        "phone": ("telephone number", "telephone numbers"),
    }
    listed = [plural(found[key]["count"], *names) for key, names in parts.items() if found[key]["count"]]
    if listed:
        text = f"{' and '.join(listed)}; a model may memorise them"
        yield Finding("warning", "personal data", text)


def _scripts(check: JsonDict) -> Iterator[Finding]:
    found = check["text"]["scripts"]
    shown = [row for row in found if row["share_of_letters"] >= 0.001] or found[:1]
    if not shown:
        yield Finding("warning", "scripts", "the text contains no letters")
        return
    listed = ", ".join(f"{row['script']} {percent(row['share_of_letters'])}" for row in shown[:4])
    main = found[0]["script"]
    others = sum(row["documents"] for row in found[1:])
    mixed = others >= 0.01 * check["read"]["documents"]
    more = f"; {plural(others, 'document')} mostly in another script than {main}" if others else ""
    if check["read"]["words"] is None and main in UNSPACED:
        more += f"; {main} does not mark words: texts are compared by characters or pieces of about 4 letters in their place"
    yield Finding("note" if mixed else "ok", "scripts", f"letters: {listed}{more}")


def _sizes(check: JsonDict) -> Iterator[Finding]:
    read, sizes = check["read"], check["text"]["sizes"]
    if read["empty"]:
        yield Finding(
            "note",
            "sizes",
            f"{plural(read['empty'], 'empty record or line', 'empty records or lines')} skipped",
        )
    short = sizes["short"]["documents"]
    if short >= 0.05 * read["documents"]:
        text = f"fewer than 5 words in {_share(short, read['documents'], 'document')}"
        yield Finding(
            "warning" if short >= 0.25 * read["documents"] else "note", "sizes", text + _first(sizes["short"])
        )
    if sizes["huge"]["documents"]:
        text = f"{plural(sizes['huge']['documents'], 'document')} of more than 100,000 characters"
        cut = f", {read['split_documents']:,} of them split into parts" if read["split_documents"] else ""
        yield Finding("note", "sizes", text + cut + _first(sizes["huge"]))


def _limit(check: JsonDict) -> Iterator[Finding]:
    found = check["limit"]
    if found is None:
        return
    if not found["longer"]:
        text = f"no document is longer than a sequence of {found['max_length']:,} tokens"
        yield Finding("ok", "limit", text)
        return
    longer = _share(found["longer"], check["read"]["documents"], "document")
    text = f"{longer} are longer than a sequence of {found['max_length']:,} tokens"
    text += f" and are split into several, {found['sequences']:,} sequences in all"
    lost = f"; a tool that truncates them loses {percent(found['tokens_beyond_share'])} of the tokens"
    yield Finding("note", "limit", text + lost)


def _amount(check: JsonDict) -> Iterator[Finding]:
    plan = check["plan"]
    about = "about " if plan["tokens_estimated"] else ""
    text = f"{about}{plural(plan['tokens'], 'token')}"
    if plan["tokens"] < _FEW_TOKENS:
        yield Finding(
            "warning", "amount", f"{text}: very little to adapt a model to a domain; look for more text"
        )
    else:
        yield Finding("ok", "amount", text)


def _held_out(check: JsonDict) -> Iterator[Finding]:
    """Whether enough documents can be held out for intervals; with test files it is theirs that count."""
    texts = check["read"]["documents"] - check["duplicates"]["exact"]
    data, masked = DataSettings(), _masked_share(check)
    most = held_out_texts(int(data.heldout_share * texts), texts)
    if check["test"] or _suffices(most, masked):
        return
    least = next(number for number in count_from(FEWEST_UNITS) if _suffices(number, masked))
    enough = PART * least if least <= MINIMUM else math.ceil(least / data.heldout_share)
    few = no_interval(most)
    if most > FEWEST_UNITS:
        few = f"perhaps {no_interval()}, since about {percent(1 - masked, 0)} of them are so short that no token is masked"
    smaller = smaller_documents(check["read"]["splits"])
    text = (
        f"{few}: of {plural(texts, 'document')} training holds out {most} at most; {enough:,} documents "
        f"would be enough. Give other text to evaluate on (--heldout){f', or {smaller}' if smaller else ''}"
    )
    yield Finding("warning", "held-out text", text)


def _masked_share(check: JsonDict) -> float:
    """Return the expected share of documents in which an evaluation masks a token, from their lengths."""
    bins, documents = check["lengths"]["bins"], check["read"]["documents"]
    units = check["lengths"]["mean"] * documents
    tokens = check["plan"]["tokens"] / max(1.0, units)  # in a unit
    rate, found = MaskingSettings().rate, 0.0
    for each in bins:
        middle = tokens * (each["from"] + each["below"] - 1) / 2
        found += each["documents"] * (1 - (1 - rate) ** middle)
    return found / max(1, documents)


def _suffices(heldout: int, masked: float) -> bool:
    """Return whether so many documents most probably give an interval, and one that chooses the weights; two standard deviations count."""
    return heldout * masked - 2 * math.sqrt(heldout * masked * (1 - masked)) > FEWEST_UNITS + 0.5
