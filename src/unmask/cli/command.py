"""Commands and groups of the command line: the layout of their help."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from unmask.cli import runtime as shell
from unmask.cli.usage import errors_as_typed, usage
from unmask.errors import ConfigError
from unmask.remote.systems import KNOWN, refuse_url

if TYPE_CHECKING:
    Parameter = TyperArgument | TyperOption

_UNBROKEN = "\N{NO-BREAK SPACE}"
_NAME_WIDTH = 26  # longer names have a line of their own
_ORDER = {"Arguments": -2, "Options": -1, "Settings": 1, "Output": 2}
_MANY_OPTIONS = 14  # a help with more has them under several headings
_OTHER_VERBS = {
    "adapt": "train",
    "evaluate": "eval",
    "fine-tune": "train",
    "finetune": "train",
    "predict": "fill",
    "pretrain": "train",
    "test": "eval",
    "tokenize": "prepare",
}


def _be_quiet(given: bool) -> None:
    shell.mode.quiet = shell.mode.quiet or given


def _debug(given: bool) -> None:
    shell.mode.debug = shell.mode.debug or given


def _common(
    quiet: Annotated[
        bool,
        typer.Option(
            "-q", "--quiet", help="Print no progress and no log, only errors.", callback=_be_quiet,
            expose_value=False, rich_help_panel="Output",
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", help="Show the traceback of an error.", callback=_debug, expose_value=False,
            rich_help_panel="Output",
        ),
    ] = False,
) -> None:  # fmt: skip
    """The options of every verb."""


@cache
def _common_options() -> list[Any]:
    app = typer.Typer(add_completion=False)
    app.command()(_common)
    return typer.main.get_command(app).params


class Command(TyperCommand):
    """A verb: its docstring is its help, with the lines below ``Examples:`` as they are."""

    def __init__(self, name: str | None, *, params: list[Any] | None = None, **rest: Any) -> None:
        super().__init__(name, params=[*(params or []), *_common_options()], **rest)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [
            piece for param in self.params for piece in param.get_usage_pieces(ctx) and [usage(param)]
        ]
        return [*arguments, "[OPTIONS]"]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.format_usage(ctx, formatter)
        _write_help(self.help or "", formatter)
        self.format_options(ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        params: list[Any] = self.get_params(ctx)
        options = [param for param in params if isinstance(param, TyperOption)]
        panels: dict[str, list[Any]] = {"Arguments": [param for param in params if param not in options]}
        for option in options:
            panel = option.rich_help_panel or ("Output" if "--help" in option.opts else "Options")
            panels.setdefault(panel if len(options) > _MANY_OPTIONS else "Options", []).append(option)
        _write_sections(dict(sorted(panels.items(), key=lambda panel: _ORDER.get(panel[0], 0))), formatter)

    def invoke(self, ctx: Any) -> Any:
        if not shell.mode.debug:
            shell.quiet_libraries()
        self._refuse_urls(ctx.params)
        if ctx.params.get("offline"):
            from unmask.data.hub import offline_mode

            ctx.with_resource(offline_mode())
        with errors_as_typed(ctx.params):
            return super().invoke(ctx)

    def _refuse_urls(self, given: Mapping[str, Any]) -> None:
        """Refuse a URL for a parameter that is a path here: it would make a folder called ``s3:``; and one that is lost."""
        if str(out := given.get("out")).startswith("memory://"):
            raise ConfigError(
                f"-o: {out} is memory of this process, which is gone when the command ends; give a folder, or {KNOWN}"
            )
        params: list[Any] = self.params
        for param in params:
            annotation = param.type_descriptor.annotation
            if Path in (annotation, *get_args(annotation)):
                values = given.get(param.name)
                for value in values if isinstance(values, list | tuple) else [values]:
                    refuse_url(
                        value, param.opts[-1] if isinstance(param, TyperOption) else str(param.metavar)
                    )


class Group(TyperGroup):
    """Verbs under headings; those of a group inside are listed with them."""

    def __init__(self, *, params: list[Any] | None = None, **rest: Any) -> None:
        super().__init__(params=[*(params or []), *_common_options()], **rest)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["VERB", "[ARGUMENTS]", "[OPTIONS]"]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.format_usage(ctx, formatter)
        _write_help(self.help or "", formatter)
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, command in _verbs(self):
            line = (command.help or "").partition("\n")[0]
            panels.setdefault(command.rich_help_panel or "Verbs", []).append((name, line))
        width = max(len(name) for rows in panels.values() for name, _ in rows)
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl([(f"{name:<{width}}", line) for name, line in rows])
        _write_sections({"Options": self.get_params(ctx)}, formatter)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        other = _OTHER_VERBS.get(args[0])
        if other is not None and other in self.commands and args[0] not in self.commands:
            ctx.fail(f"No such command '{args[0]}'. Did you mean '{other}'?")
        return super().resolve_command(ctx, args)


def _verbs(group: TyperGroup) -> Iterable[tuple[str, Any]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from ((f"{name} {inner}", verb) for inner, verb in command.commands.items())
        else:
            yield name, command


def _write_help(text: str, formatter: Any) -> None:
    about, _, examples = text.partition("Examples:\n")
    formatter.write_paragraph()
    with formatter.indentation():
        formatter.write_text(about.strip())
    if examples:
        formatter.write_paragraph()
        formatter.write("Examples:\n" + textwrap.indent(textwrap.dedent(examples).strip("\n"), "  ") + "\n")


def _write_sections(sections: dict[str, list[Any]], formatter: Any) -> None:
    """Write options or arguments under headings, with their help in one column."""
    names = [_name(param) for params in sections.values() for param in params]
    width = max(len(name) for name in names if len(name) <= _NAME_WIDTH)
    for heading, params in sections.items():
        if params:
            with formatter.section(heading):
                for param in params:
                    formatter.write(_row(_name(param), _help(param), width, formatter.width))


def _row(name: str, text: str, name_width: int, width: int) -> str:
    """Return an option or argument with its help; no word and no default is broken over two lines."""
    lines = textwrap.wrap(text, width - name_width - 4, break_on_hyphens=False, break_long_words=False)
    indent = "\n" + " " * (name_width + 4)
    gap = indent if len(name) > name_width else " " * (name_width + 2 - len(name))
    return f"  {name}{gap}{indent.join(lines)}\n".replace(_UNBROKEN, " ")


def _name(param: Parameter) -> str:
    if isinstance(param, TyperArgument):
        return usage(param)
    names = ", ".join(sorted(param.opts, key=lambda name: name.startswith("--")))
    return names if param.is_flag else f"{names} {_metavar(param)}"


def _metavar(param: Parameter) -> str:
    about = param.type_descriptor
    if param.metavar is not None:
        return param.metavar
    if about.is_choice:
        return "|".join(str(choice) for choice in about.choices or ())
    return "N"


def _help(param: Parameter) -> str:
    shown = param.show_default if isinstance(param.show_default, str) else param.default
    if param.required:
        note = "[required]" if isinstance(param, TyperOption) else ""
    elif shown is None or isinstance(shown, bool):
        note = ""
    else:
        note = f"[default: {f'{shown:,}' if isinstance(shown, int) else shown}]"
    unbroken = note.replace(" ", _UNBROKEN) if len(note) <= _NAME_WIDTH else note
    return f"{param.help} {unbroken}".strip()
