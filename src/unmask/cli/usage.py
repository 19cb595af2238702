"""Usage lines, and the message about a wrong verb or option."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from typer.core import TyperArgument

from unmask.config.options import OPTION_OF, flag, meant_by, renamed
from unmask.errors import UnmaskError

_BY_KEY = ("config_file", "overrides", "resume", "checkpoint")
"""The parameters of verbs by which settings are given by their keys."""
_BOUNDS = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}


def usage(argument: Any) -> str:
    """Return an argument as the usage line has it: ``MODEL``, ``TEXT...`` or ``[FILE]``."""
    name = argument.metavar + ("..." if argument.nargs != 1 else "")
    return name if argument.required else f"[{name}]"


@contextmanager
def errors_as_typed(given: Mapping[str, Any]) -> Iterator[None]:
    """Name settings in the errors that are raised meanwhile as the user did: by options, or by keys as in a settings file.

    Args:
        given: the parameters of the verb by name.
    """
    by_key = any(given.get(name) for name in _BY_KEY)

    def name(key: str) -> str:
        option = OPTION_OF[key]
        is_typed = given.get(option) not in (None, False) if by_key else option in given
        return flag(key) if is_typed else key

    try:
        yield
    except UnmaskError as error:
        error.args = tuple(renamed(part, name) if isinstance(part, str) else part for part in error.args)
        raise


def usage_message(error: Any) -> str:
    """Return the message about a wrong verb or option, with what is meant and where help is."""
    context = getattr(error, "ctx", None)
    if plain := _plain(error.__cause__):
        error.message = plain
    message = error.format_message()
    if (name := getattr(error, "option_name", None)) and hasattr(error, "possibilities"):
        hint = _hint(name, context) if context else ""
        message = f"No such option: {name}{f' ({hint})' if hint else ''}"
    message = message.replace("Value error, ", "").rstrip(".")
    return message if context is None else f"{message} (see '{context.command_path} --help')"


def _plain(cause: BaseException | None) -> str:
    """Return what an option expected and got, where typer had its value parsed by pydantic; nothing otherwise."""
    from pydantic import ValidationError

    if not isinstance(cause, ValidationError):
        return ""
    first = cause.errors(include_url=False)[0]
    value, limits = first["input"], first.get("ctx", {})
    bound = next((f"{_BOUNDS[name]} {limits[name]:g}" for name in _BOUNDS if name in limits), "")
    kind = "whole number" if first["type"].startswith("int_") else "number"
    if not bound and first["type"] not in ("int_parsing", "int_from_float", "float_parsing"):
        return ""
    said = f"expected a {kind}{f' {bound}' if bound else ''}, not {value if isinstance(value, int | float) else repr(value)}"
    share = (
        str(value).strip().removesuffix("%") if kind == "number" and str(value).strip().endswith("%") else ""
    )
    return f"{said}; {value} is {float(share) / 100:g}" if share.replace(".", "", 1).isdecimal() else said


def _hint(name: str, context: Any) -> str:
    """Return what to write instead of an option that the verb does not have."""
    command = context.command
    params = {_key(option): param for param in command.params for option in param.opts if option[:2] == "--"}
    arguments: dict[str, Any] = {
        str(param.metavar).lower(): param for param in command.params if isinstance(param, TyperArgument)
    }
    meant = meant_by(name.lstrip("-").replace("-", "_"), [*params, *arguments])
    if meant in params:
        return f"did you mean {'--' + meant.replace('_', '-')}?"
    if meant in arguments:
        call = " ".join(usage(argument) for argument in arguments.values())
        return f"{arguments[meant].metavar} is an argument: {context.command_path} {call}"
    return f"did you mean --set {meant}=VALUE?" if meant and "set" in params else ""


def _key(option: str) -> str:
    return option.lstrip("-").replace("-", "_")
