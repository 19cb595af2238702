"""YAML with its lines kept, and with the scalars of YAML 1.2.

``5e-5`` is a number, ``no`` and ``on`` are words (which a true-or-false setting still understands), and
``1:30`` or ``010`` are not turned into other numbers, as YAML 1.1 would. Merge keys are not read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from unmask.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """The safe loader with the scalars of YAML 1.2."""


class _Dumper(yaml.SafeDumper):
    """The safe dumper; it quotes words that YAML 1.1 or 1.2 would take for something else."""


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(node.value)  # 1.1 would read 010 as 8


_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9][0-9_]*$")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_BOOL = re.compile(r"(true|True|TRUE|false|False|FALSE)$")
_NULL = re.compile(r"(~|null|Null|NULL|)$")
_Loader.yaml_implicit_resolvers = {}  # without those of 1.1
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(f"{_TAG}int", _INT, list("-+0123456789"))
    _class.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+.0123456789"))
_Loader.add_implicit_resolver(f"{_TAG}bool", _BOOL, list("tTfF"))
_Loader.add_implicit_resolver(f"{_TAG}null", _NULL, ["~", "n", "N", ""])
_Loader.add_constructor(f"{_TAG}int", _construct_int)


def read_text(path: Path) -> str:
    """Return the text of a configuration file.

    Raises:
        ConfigError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file ('unmask init {path}' writes one to start from)") from None
    except UnicodeDecodeError as error:
        line, byte = error.object[: error.start].count(b"\n") + 1, error.object[error.start]
        raise ConfigError(f"{path}:{line}: expected UTF-8 text, found the byte 0x{byte:02x}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read as a configuration file: {error.strerror}") from None


def compose(text: str, where: str, lines: bool = True) -> yaml.Node | None:
    """Return the one document of ``text`` as nodes, which know their lines; ``None`` where it is empty.

    Args:
        text: YAML.
        where: what messages begin with, for example the path.
        lines: whether a line number means anything to the reader.

    Raises:
        ConfigError: the text is not YAML.
    """
    try:
        return _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if lines and error.problem_mark else ""
        raise ConfigError(f"{where}{line}: {_problem(error)}") from None
    except yaml.reader.ReaderError as error:
        line = f":{text[: error.position].count(chr(10)) + 1}" if lines else ""
        raise ConfigError(
            f"{where}{line}: a control character (U+{ord(text[error.position]):04X}); remove it"
        ) from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply to be a configuration") from None


def construct(node: yaml.Node, where: str) -> Any:
    """Return the value of a node, made of plain values only.

    Raises:
        ConfigError: a tag that is not plain YAML, or that does not fit its value.
    """
    try:
        return _Loader("").construct_object(node, deep=True)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{where}: {_problem(error)}") from None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):  # `!!int ten` and the like
        raise ConfigError(
            f"{where}: the value is not of the type '{node.tag.removeprefix(_TAG)}' that its tag names"
        ) from None


def dump(content: Any) -> str:
    """Return ``content`` as YAML, in its order, so that :func:`construct` gives the same back."""
    dumped: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)
    return dumped


def is_null(node: yaml.Node) -> bool:
    """Tell whether a node is ``null`` or nothing."""
    return node.tag == f"{_TAG}null"


def kind(node: yaml.Node) -> str:
    """Return what a node is, for a message."""
    if isinstance(node, yaml.ScalarNode):
        return f"'{node.value[:60]}'"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


def _problem(error: yaml.MarkedYAMLError) -> str:
    if "'\\t'" in (error.problem or ""):
        return "a tab; YAML takes only spaces"
    about = "not valid YAML: " + ", ".join(part for part in (error.context, error.problem) if part)
    if isinstance(error, yaml.scanner.ScannerError | yaml.parser.ParserError):
        return f"{about} (text that holds : # [ {{ @ * or & goes in quotes)"
    return about
