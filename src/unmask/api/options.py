"""Keyword arguments as settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from unmask.config.load import load_config
from unmask.config.options import OPTIONS, TOKENIZER_OPTIONS, flat_settings, hint
from unmask.config.settings import RunConfig
from unmask.errors import ConfigError
from unmask.progress import Progress

S = TypeVar("S", bound=BaseModel)

READING = (
    "documents", "text_field", "encoding", "delimiter", "markup", "strict", "skip_unreadable",
)  # fmt: skip
"""How files become documents."""
MASKING = ("mask_rate", "strategy")


def sections(options: Mapping[str, Any], known: Iterable[str], offline: bool = False) -> RunConfig:
    """Return the settings for keyword arguments: those that a function knows, ``config`` and ``offline``.

    Raises:
        TypeError: an argument that the function does not know.
        ConfigError: a value that a setting does not take.
    """
    known = [*known, "config"]
    for name in options:
        if name not in known:
            raise TypeError(unknown(name, known))
    given = {name: value for name, value in options.items() if name != "config" and value is not None}
    keys = OPTIONS | TOKENIZER_OPTIONS
    flags = {keys[name]: value for name, value in given.items()}
    return configured(options.get("config"), flags | {"model.offline": offline})


def configured(
    config: str | Path | RunConfig | None, flags: Mapping[str, Any], progress: Progress = Progress()
) -> RunConfig:
    """Return ``config``, a settings file or settings, with the settings ``flags`` (by dotted key) over it.

    ``progress`` gets the warnings about keys of earlier versions.
    """
    if isinstance(config, RunConfig):
        flags = flat_settings(config.model_dump(exclude_unset=True)) | dict(flags)
        config = None
    if config is not None and not isinstance(config, str | Path):
        kind = type(config).__name__
        raise ConfigError(
            f"config: expected a YAML file or a RunConfig, not a {kind}; settings= takes a dictionary"
        )
    nulls = [f"{key}=null" for key, value in flags.items() if value is None]
    return load_config(config, nulls, flags, keywords=True, progress=progress)


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
