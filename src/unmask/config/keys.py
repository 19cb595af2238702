"""What a tree of settings holds, in words: dotted keys, what each takes, a commented YAML file of it."""

from __future__ import annotations

import inspect
import textwrap
import types
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from unmask.config import yaml_text
from unmask.config.settings import Settings


class Keys:
    """The dotted keys of a tree of settings, such as ``train.optimizer.learning_rate``.

    Args:
        root: the settings at the top.
        other_names: what other programs call a setting, to the key that is meant.
    """

    def __init__(self, root: type[Settings], other_names: Mapping[str, str]) -> None:
        self._all = dict(_walk(root, ""))
        self._other_names = other_names

    @cached_property
    def leaves(self) -> dict[str, FieldInfo]:
        """Every setting by its key."""
        return {key: info for key, info in self._all.items() if _section(info) is None}

    @cached_property
    def sections(self) -> dict[str, FieldInfo]:
        """Every section by its key."""
        return {key: info for key, info in self._all.items() if _section(info) is not None}

    def names(self, section: str) -> str:
        """Return the keys in a section (``""`` is the top), for a message."""
        return ", ".join(key.rpartition(".")[2] for key in self._all if key.rpartition(".")[0] == section)

    def unknown(self, key: str) -> str:
        """Return the message about a key that does not exist, with the nearest one that does."""
        near = self._nearest(key)
        if near:
            return f"unknown key '{key}' (did you mean {' or '.join(repr(other) for other in near)}?)"
        section = key.rpartition(".")[0]
        section = section if section in self.sections else ""
        place = f"of '{section}'" if section else "at the top"
        return f"unknown key '{key}'; the keys {place} are {self.names(section)}"

    def _nearest(self, key: str) -> list[str]:
        """Return the keys that may be meant: the same name elsewhere, a similar one here, one anywhere."""
        section, _, name = key.rpartition(".")
        same = [other for other in self._all if other.rpartition(".")[2] == name]
        if same or name in self._other_names:
            return same or [self._other_names[name]]
        here = [other for other in self._all if other.rpartition(".")[0] == section]
        for candidates in (here, self._all):
            by_name = {other.rpartition(".")[2]: other for other in candidates}
            found = get_close_matches(name, by_name, n=1, cutoff=0.6)
            if found:
                return [by_name[found[0]]]
        return []


def takes(info: FieldInfo, kind: type) -> bool:
    """Tell whether a setting takes values of the plain type ``kind``; a choice counts as text."""
    return kind in {str if get_origin(part) is Literal else get_origin(part) or part for part in _parts(info)}


def choices(info: FieldInfo) -> list[str]:
    """Return the words that a setting chooses from, or nothing where it takes any."""
    return [
        str(choice)
        for part in [*_parts(info), *_items(info)]
        if get_origin(part) is Literal
        for choice in get_args(part)
    ]


def expected(info: FieldInfo, null: bool = True) -> str:
    """Return what a setting takes: ``a whole number, at least 8, or null``."""
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        list: "a list of texts",
    }
    limits = _limits(info)
    what = next(word for kind, word in words.items() if takes(info, kind))
    if named := ", ".join(choices(info)):
        several = takes(info, list)
        what = f"a list of some of {named}" if several else f"one of {named}"
        what = f"{named} or {words[float]}" if takes(info, float) else what
    or_null = (", or null" if limits else " or null") if null and takes(info, types.NoneType) else ""
    return what + (f", {limits}" if limits else "") + or_null


def starter_lines(settings: type[Settings], indent: str = "") -> Iterator[str]:
    """Yield a YAML file of all settings at their defaults, commented by their docstrings."""
    fields = settings.model_fields
    for name, info in fields.items():
        if _section(info) is None:
            yield from _comment(f"{info.description or name}{_note(info)}", indent)
            yield indent + yaml_text.dump({name: info.get_default(call_default_factory=True)}).rstrip()
    for name, info in fields.items():
        inner = _section(info)
        if inner is not None:
            yield ""
            yield from _comment(inspect.getdoc(inner) or name, indent)
            yield f"{indent}{name}:"
            yield from starter_lines(inner, indent + "  ")


def _note(info: FieldInfo) -> str:
    """Return what a value is held to, where the default does not show it."""
    limited = bool(choices(info) or _limits(info))
    return f" [{expected(info, null=False).removeprefix('a number, ')}]" if limited else ""


def _comment(text: str, indent: str) -> list[str]:
    plain = " ".join(text.replace("``", "`").split())
    start = f"{indent}# "
    return textwrap.wrap(
        plain,
        100,
        initial_indent=start,
        subsequent_indent=start,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _walk(settings: type[Settings], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, info in settings.model_fields.items():
        yield prefix + name, info
        inner = _section(info)
        if inner is not None:
            yield from _walk(inner, f"{prefix}{name}.")


def _section(info: FieldInfo) -> type[Settings] | None:
    kind = info.annotation
    return kind if inspect.isclass(kind) and issubclass(kind, Settings) else None


def _parts(info: FieldInfo) -> list[Any]:
    """Return the alternatives of a union, or the one type."""
    kind = info.annotation
    return list(get_args(kind)) if get_origin(kind) in (Union, types.UnionType) else [kind]


def _items(info: FieldInfo) -> list[Any]:
    """Return what the entries of a list are."""
    return [item for part in _parts(info) if get_origin(part) is list for item in get_args(part)]


def _limits(info: FieldInfo) -> str:
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    rules = [(word, getattr(rule, name, None)) for rule in info.metadata for name, word in words.items()]
    return " and ".join(f"{word} {limit:g}" for word, limit in rules if limit is not None)
