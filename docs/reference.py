"""Put the pages of the site together: a copy of docs/, and the reference, made from the code.

python docs/reference.py FOLDER

The reference is the command line from its parser, the settings from their schema, the Python API from docstrings, and JSON
Schemas of what is read and written as JSON. Nothing of it is kept in the repository, so it cannot go out of date.
"""

from __future__ import annotations

import html
import inspect
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent


def main(out: Path) -> None:
    """Write all pages of the site into an empty folder."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(DOCS, out, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    folder = out / "reference"
    (folder / "schemas").mkdir(parents=True)
    for name, schema in schemas().items():
        text = json.dumps(schema, indent=2, ensure_ascii=False)
        (folder / "schemas" / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    for name, lines in pages().items():
        (folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for page in out.rglob("*.md"):
        page.write_text(titled_links(page), encoding="utf-8")


def pages() -> dict[str, Iterable[str]]:
    """Return the pages of the reference by name, each as lines of Markdown."""
    from unmask.reporting.results import Result

    return {
        **command_line(),
        "settings": settings(),
        "python-functions": python("Functions", inspect.isfunction),
        "python-results": python("Results", lambda thing: is_a(thing, Result)),
        "python-classes": python("Classes", lambda thing: inspect.isclass(thing) and not is_a(thing, Result)),
        "json": json_outputs(),
        "files": files(),
        "checks": checks(),
    }


def is_a(thing: Any, kind: type) -> bool:
    return inspect.isclass(thing) and issubclass(thing, kind)


def titled_links(page: Path) -> str:
    """Return a page in which a link whose text is a file name has the title of that page instead.

    File names are what a reader of the repository wants to see; on the site they are no names.
    """

    def titled(link: re.Match[str]) -> str:
        target = page.parent / link[1]
        title = target.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        return f"[{title}]({link[1]}{link[2]})"

    text = page.read_text(encoding="utf-8")
    path = r"(?:\.\./)*(?:[\w-]+/)*[\w-]+\.md"
    return re.sub(rf"\[{path}\]\(({path})((?:#[\w-]*)?)\)", titled, text)


# --- the command line ---------------------------------------------------------------------------------------------


def command_line() -> dict[str, list[str]]:
    """Return a page for each group of verbs, as the help of `unmask` has them."""
    found: dict[str, list[str]] = {}
    for name, command in verbs():
        group = command.rich_help_panel
        start = [f"# {group}: verbs and options\n", "What each verb takes. " + _COMMANDS]
        found.setdefault(f"cli-{group.lower()}", start).extend(verb(name, command))
    return found


def verbs() -> Iterable[tuple[str, Any]]:
    """Return the verbs by name."""
    import typer

    from unmask.cli.command import _verbs
    from unmask.cli.main import app

    return _verbs(typer.main.get_command(app))


_COMMANDS = "[Commands](../commands.md) explains them together.\n"


def verb(name: str, command: Any) -> Iterator[str]:
    """Yield the help of a verb, its options as tables."""
    about, _, examples = inspect.cleandoc(command.help).partition("Examples:\n")
    with command.make_context(f"unmask {name}", [], resilient_parsing=True) as context:
        formatter = context.make_formatter()
        formatter.width = 10_000  # an option a line
        command.format_usage(context, formatter)
        usage = formatter.getvalue().removeprefix("Usage: ")
        formatter.buffer.clear()
        command.format_options(context, formatter)
        options = formatter.getvalue()
    yield f"## unmask {name}\n\n{plain(about.strip())}\n"
    yield from fenced("text", usage)
    yield from fenced("console", textwrap.dedent(examples))
    for part in options.strip().split("\n\n"):
        heading, _, rows = part.partition(":\n")
        yield f"| {heading} | |\n|---|---|"
        for option, meaning in re.findall(r"^  (\S.*?)(?:  |\n) *(.*)$", rows, re.MULTILINE):
            yield row(f"`{option}`", meaning)
        yield ""


def fenced(language: str, text: str) -> Iterator[str]:
    """Yield a block of code, if there is any."""
    if text.strip():
        yield f"```{language}\n{text.strip(chr(10))}\n```\n"


# --- settings -----------------------------------------------------------------------------------------------------


def settings() -> Iterator[str]:
    """Yield a table of the keys of each section."""
    from unmask.config.keys import Keys, expected
    from unmask.config.settings import RunConfig

    keys = Keys(RunConfig, {})
    yield "# Settings\n"
    yield (
        "Every key of a settings file (`unmask init run.yaml` writes one, `unmask train -c run.yaml` reads it), of "
        "`--set KEY=VALUE`, and of `settings={…}` in Python. Editors check a file against its "
        "[JSON Schema](schemas/settings.json).\n"
    )
    for section in ["", *keys.sections]:
        inside = {key: info for key, info in keys.leaves.items() if key.rpartition(".")[0] == section}
        if not inside:
            continue
        if section:
            yield f"## {section}\n\n{plain(inspect.getdoc(keys.sections[section].annotation) or '')}\n"
        yield "| key | takes | default | meaning |\n|---|---|---|---|"
        for key, info in inside.items():
            default = json.dumps(info.get_default(call_default_factory=True), ensure_ascii=False)
            yield row(f"`{key.rpartition('.')[2]}`", expected(info), f"`{default}`", info.description or "")
        yield ""


def row(*cells: str) -> str:
    """Return a row of a table; a bar in a cell is no border, for which code is written as HTML."""

    def code(found: re.Match[str]) -> str:
        return f"<code>{html.escape(found[1], quote=False)}</code>" if "|" in found[1] else found[0]

    texts = (re.sub(r"`([^`]*)`", code, " ".join(plain(cell).split())) for cell in cells)
    return "| " + " | ".join(text.replace("|", "&#124;") for text in texts) + " |"


# --- Python -------------------------------------------------------------------------------------------------------

_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields):$")


def python(title: str, kind: Any) -> Iterator[str]:
    """Yield the public functions or classes with their signatures and docstrings."""
    import unmask

    yield f"# {title}\n"
    yield "All of them are names of the module `unmask`. [Python API](../python-api.md) is the introduction.\n"
    for name in sorted(unmask.__all__, key=str.lower):
        thing = getattr(unmask, name)
        if not kind(thing):
            continue
        yield f"## {name}\n"
        if inspect.isfunction(thing):
            yield from fenced("python", signature(name, thing))
        yield from docstring(thing)
        for inner, method in vars(thing).items() if inspect.isclass(thing) else ():
            if inspect.isfunction(method) and not inner.startswith("_") and method.__doc__:
                yield f"### {name}.{inner}\n"
                yield from fenced("python", signature(inner, method))
                yield from docstring(method)


def signature(name: str, function: Any) -> str:
    """Return the signature of a function, a parameter a line, with annotations as they are written."""
    found = inspect.signature(function)
    parameters = [param.replace(annotation=_written(param.annotation)) for param in found.parameters.values()]
    parts = [
        re.sub(r"<unmask\.\S+\.(\w+) object at \w+>", r"\1()", text).replace("'", "")
        for text in map(str, parameters)
    ]
    marks = _with_marks(parameters, parts)
    returns = "" if found.return_annotation is inspect.Signature.empty else f" -> {found.return_annotation}"
    flat = f"{name}({', '.join(marks)}){returns}"
    return flat if len(flat) < 90 else f"{name}(\n    " + ",\n    ".join(marks) + f",\n){returns}"


def _written(annotation: Any) -> Any:
    return annotation if annotation is inspect.Parameter.empty else str(annotation)


def _with_marks(parameters: list[inspect.Parameter], parts: list[str]) -> list[str]:
    kinds = [param.kind for param in parameters]
    only = kinds.index(inspect.Parameter.KEYWORD_ONLY) if inspect.Parameter.KEYWORD_ONLY in kinds else None
    starred = inspect.Parameter.VAR_POSITIONAL in kinds
    return parts if only is None or starred else [*parts[:only], "*", *parts[only:]]


def docstring(thing: Any) -> Iterator[str]:
    """Yield a docstring as Markdown: its sections become lists."""
    listed, part = False, ""
    for line in (inspect.getdoc(thing) or "").splitlines():
        if _SECTION.match(line):
            listed = True
            yield f"\n**{line.removesuffix(':')}**\n"
        elif listed and (entry := re.match(r"    ([*\w, ]+): (.*)", line)):
            yield f"- `{entry[1]}`: {plain(entry[2])}"
        else:
            listed = listed and (not line or line.startswith("    "))
            part = line.strip() if listed else line
            yield f"  {plain(part)}" if listed and part else plain(part)
    yield ""


def plain(text: str) -> str:
    """Return a text with its roles and double backticks as Markdown, and nothing in it taken for a tag or a link."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")
    parts = re.split(r"(`[^`]*`|\[[^]]*\]\([^)]*\))", text)
    return "".join(
        part if number % 2 else re.sub(r"([\[*_])", r"\\\1", part).replace("<", "&lt;")
        for number, part in enumerate(parts)
    )


# --- what is written ----------------------------------------------------------------------------------------------


def schemas() -> dict[str, Any]:
    """Return the JSON Schemas that are published, by name."""
    from pydantic import TypeAdapter

    from unmask.benchmark.bench import Bench
    from unmask.benchmark.uses import ModelSpeeds
    from unmask.config.load import json_schema
    from unmask.inference.explanation import Explanation
    from unmask.inference.results import FillResult
    from unmask.promises.checks import Check
    from unmask.reporting.json_documents import DOCUMENTS

    results: dict[str, Any] = {"fill": list[FillResult], "explain": Explanation, "conformance": list[Check]}
    results |= {"bench": Bench | ModelSpeeds}
    results |= {name: kind for name, (_, kind) in DOCUMENTS.items()}
    found = {name: TypeAdapter(kind).json_schema(mode="serialization") for name, kind in results.items()}
    place = {"file": {"type": ["string", "null"]}, "line": {"type": ["integer", "null"]}}
    found["fill"]["$defs"]["FillResult"]["properties"] |= place  # of the text in the input
    return {"settings": json_schema(), **_or_null(found), "server": _server()}


def _or_null(schema: Any) -> Any:
    """Let every number be null, as which NaN and infinity are printed."""
    if isinstance(schema, list):
        return [_or_null(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    number = {"type": ["number", "null"]} if schema.get("type") == "number" else {}
    return {name: _or_null(item) for name, item in schema.items()} | number


def _server() -> Any:
    from unmask.serving.app import create_app

    return create_app({}).openapi()


def json_outputs() -> Iterator[str]:
    """Yield what --json prints, and where its schema is."""
    from unmask.reporting.json_documents import DOCUMENTS

    yield "# JSON\n"
    yield (
        "With `--json` a verb prints one JSON document on stdout; everything else goes to stderr. A number that is NaN or "
        "infinite is `null`. What a document holds is what `to_dict()` of the result returns in Python "
        "([results](python-results.md)). New keys may come, so a schema allows more than it names.\n"
    )
    yield "| document | JSON Schema |\n|---|---|"
    yield row("a settings file", "[settings.json](schemas/settings.json)")
    yield row("`unmask fill --json`: each text, with its file and line", "[fill.json](schemas/fill.json)")
    yield row("`unmask bench --json`, of training or of models", "[bench.json](schemas/bench.json)")
    yield row("`unmask explain --json`", "[explain.json](schemas/explain.json)")
    yield row("`unmask conformance --json`", "[conformance.json](schemas/conformance.json)")
    for name, (document, _) in DOCUMENTS.items():
        yield row(document, f"[{name}.json](schemas/{name}.json)")
    yield row("requests and answers of `unmask serve` (OpenAPI 3.1)", "[server.json](schemas/server.json)")


def files() -> Iterator[str]:
    """Yield the files of a run, and the exit codes."""
    from unmask import errors, run_folder

    about = inspect.getdoc(run_folder) or ""
    block = about.partition("::\n")[2].partition("\n\n")[0] or about
    yield "# Run folder and exit codes\n\n## Run folder\n"
    yield "| file or folder | content |\n|---|---|"
    entries = re.findall(r"^ +RUN/(\S+) +(.+)$", block, re.MULTILINE)
    yield from (row(f"`{name}`", text) for name, text in entries)
    yield "\n## Exit codes\n\n| code | meaning | in Python |\n|---|---|---|"
    yield row("0", "done", "")
    tree = {errors.UnmaskError.exit_code: errors.UnmaskError} | errors.ERRORS
    for code, kind in tree.items():
        yield row(str(code), (inspect.getdoc(kind) or "").partition("\n")[0], f"`{kind.__name__}`")
    yield row("130", "stopped by Ctrl-C, with nothing to resume", "`KeyboardInterrupt`")


def checks() -> Iterator[str]:
    """Yield the checks of `unmask conformance`."""
    from unmask.promises.checks import CHECKS

    yield "# Checks of the promises\n"
    yield "`unmask conformance MODEL` measures these on a model, and exits with 1 if one does not hold."
    yield "[promises.md](../promises.md) says what is promised.\n"
    yield "| check | what must hold |\n|---|---|"
    yield from (row(f"`{name}`", promise.what) for name, promise in CHECKS.items())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
