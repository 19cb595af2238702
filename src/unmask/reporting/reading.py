"""What was left out of a text, in sentences, from the counts of its reading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from unmask.data.reading.errors import KEPT
from unmask.errors import plural
from unmask.reporting.format import percent

_RECORDS = {"JSONL", "JSON", "CSV", "TSV", "Parquet", "Arrow"}
_TEXTS = {
    "text": "the text",
    "heldout": "the held-out text",
    "replay": "the replayed text",
    "general": "the general text",
}


def left_out(read: Mapping[str, Any], *, examples: bool = True) -> Iterator[str]:
    """Yield what was left out, a part of a sentence for each kind.

    Args:
        read: :class:`unmask.data.reading.documents.ReadStats` as a dictionary; keys may be absent.
        examples: whether to quote an error, with its file.
    """
    unreadable = read.get("unreadable_files", 0)
    if unreadable:
        first = f", the first: {read['unreadable'][0]['error']}" if examples else ""
        yield f"{plural(unreadable, 'file')} of which nothing could be read{first}"
    lost = {reason: count for reason, count in read.get("errors", {}).items() if reason not in KEPT}
    if lost:
        listed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(lost.items()))
        found = [example for reason in lost for example in read["error_examples"].get(reason, [])]
        first = f", for example {found[0]}" if examples and found and not unreadable else ""
        what = plural(sum(lost.values()), *_units(read))
        share = sum(lost.values()) / (sum(lost.values()) + read.get("documents", 0))
        yield f"{what} with errors, {percent(share)} of all ({listed}{first})"
    if skipped := read.get("skipped_files"):
        listed = ", ".join(f"{count:,} {why}" for why, count in sorted(skipped.items()))
        yield f"{plural(sum(skipped.values()), 'entry', 'entries')} of folders ({listed})"
    if read.get("empty"):
        yield plural(read["empty"], "empty document or record", "empty documents or records")


def _units(read: Mapping[str, Any]) -> tuple[str, str]:
    """What is left out of the kinds of text that were read: singular and plural."""
    kinds = {
        "file": bool(read.get("unreadable_files")),
        "record": not _RECORDS.isdisjoint(read.get("contents", ())),
        "document": bool(read.get("splits")),
    }
    names = [name for name, is_there in kinds.items() if is_there] or ["record", "document"]
    return " or ".join(names), " or ".join(f"{name}s" for name in names)


def left_out_of_run(info: Mapping[str, Any], *, examples: bool = True) -> list[str]:
    """Return a sentence for each text of a run of which something was left out, from the content of ``run.json``."""
    found = {
        name: "; ".join(left_out(read, examples=examples)) for name, read in (info.get("read") or {}).items()
    }
    return [f"Left out of {_TEXTS.get(name, name)}: {listed}." for name, listed in found.items() if listed]
