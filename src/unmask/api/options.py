"""Keyword arguments as settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from unmask.config.load import load_config
from unmask.config.options import OPTIONS, hint
from unmask.config.settings import RunConfig
from unmask.errors import ConfigError

S = TypeVar("S", bound=BaseModel)

READING = ("documents", "text_field", "strict")
"""How files become documents."""
MASKING = ("mask_rate", "strategy")


def sections(options: Mapping[str, Any], known: Iterable[str], offline: bool = False) -> RunConfig:
    """Return the settings for keyword arguments, of which a function knows ``known``; ``offline`` is one more.

    Raises:
        TypeError: an argument that the function does not know.
        ConfigError: a value that a setting does not take.
    """
    known = list(known)
    for name in options:
        if name not in known:
            raise TypeError(unknown(name, known))
    flags = {OPTIONS[name]: value for name, value in options.items()}
    return load_config(None, (), flags | {"model.offline": offline}, keywords=True)


def unknown(name: str, known: Iterable[str]) -> str:
    """Return the message about a keyword argument that does not exist."""
    names = list(known)
    return f"unknown option '{name}'{hint(name, names) or '; the options are ' + ', '.join(names)}"


def validated(kind: type[S], **values: Any) -> S:
    """Return settings of a kind.

    Raises:
        ConfigError: a value that one of them does not take.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{name}: {first['msg']}, not {first['input']!r}") from None
