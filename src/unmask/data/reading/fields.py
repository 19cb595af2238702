"""The field of the text in a record: its name, a path such as ``note.body``, or several names of which one is filled."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from unmask.errors import did_you_mean

_ABSENT = object()


@lru_cache(maxsize=64)
def field_names(setting: str) -> tuple[str, ...]:
    """Return the names in a setting: ``content,body,"Note Text"`` has three. The whole of it may be a name too."""
    if "," not in setting:
        return (setting,)
    try:
        names = next(csv.reader([setting], skipinitialspace=True, strict=True))
    except csv.Error:
        return (setting,)
    return setting, *(name.strip() for name in names if name.strip())


def top_names(setting: str) -> list[str]:
    """Return the columns that hold the fields: the names, and the first parts of paths."""
    tops = (top for name in field_names(setting) for top in (name, _parts(name)[0]))
    return list(dict.fromkeys(tops))


def find_value(record: Mapping[str, Any], setting: str) -> Any:
    """Return the value of the first field that is filled (neither null nor empty), else ``None`` or the empty one.

    Raises:
        KeyError: the record has none of the fields.
    """
    if value := record.get(setting):
        return value
    there = [value for name in field_names(setting) if (value := _value(record, name)) is not _ABSENT]
    if not there:
        raise KeyError(setting)
    return next((value for value in there if value is not None and value != ""), there[0])


def has_field(record: Mapping[str, Any], setting: str) -> bool:
    """Return whether a record has one of the fields, filled or not."""
    try:
        find_value(record, setting)
    except KeyError:
        return False
    return True


def _value(record: Mapping[str, Any], name: str) -> Any:
    """Return the value of a name, of a path with dots or of a JSON pointer; a key that is spelled so comes first."""
    if name in record:
        return record[name]
    value: Any = record
    for part in _parts(name):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return _ABSENT
    return value


def _parts(name: str) -> list[str]:
    if name.startswith("/"):
        return [part.replace("~1", "/").replace("~0", "~") for part in name[1:].split("/")]
    return name.split(".")


def known_fields(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the fields of a record, those of an inner object as paths."""
    for name, value in record.items():
        inner = list(value) if isinstance(value, Mapping) else []
        yield from (f"{name}.{part}" for part in inner) if inner else (str(name),)


def missing_field(what: str, setting: str, known: Iterable[str], option: str = "--text-field") -> str:
    """Return the message for a record without the field, which lists the fields that it has."""
    wanted = field_names(setting)[1:] or (setting,)
    names = [str(name) for name in known]
    listed = ", ".join(f"'{name}'" for name in names[:20]) + (" …" if len(names) > 20 else "")
    there = f"there are {listed}" if names else "there are none"
    near = did_you_mean(setting, names) if len(wanted) == 1 else ""
    return f"no {what} {' or '.join(map(repr, wanted))}{near}; {there}; choose with {option}"
