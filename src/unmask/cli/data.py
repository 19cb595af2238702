"""The verbs ``prepare`` and ``check``."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Option

from unmask.cli import options
from unmask.cli import runtime as shell
from unmask.cli.command import Command
from unmask.cli.terminal import Page
from unmask.errors import ConfigError, DataError, plural
from unmask.reporting.format import count, percent, place, rough_duration
from unmask.reporting.reading import left_out
from unmask.storage import JsonDict

if TYPE_CHECKING:
    from unmask.checking.results import DataCheck

Model = Annotated[
    str | None,
    Option("--model", metavar="MODEL", help="Model whose tokenizer and speed are measured: Hub name or folder."),
]  # fmt: skip
Test = Annotated[
    list[str] | None,
    Option("--test", metavar="PATH", help="Test text that must not occur in TEXT: file, folder or glob; may be repeated, or list several."),
]  # fmt: skip
Shards = Annotated[str | None, Option("-o", "--out", metavar="FOLDER", help="Folder or URL to write.")]
Deduplicate = Annotated[
    Literal["exact", "near"] | None,
    options.text("--deduplicate", show_default="all are kept", help="Leave out documents that occur before: the same text, or nearly so (extra 'cluster')."),
]  # fmt: skip
ExecutorOption = Annotated[
    Literal["local", "slurm", "ray"] | None,
    options.compute("--executor", show_default="local with --tasks", help="Share the work out to tasks: on this machine, by Slurm or by Ray (extra 'cluster')."),
]  # fmt: skip
Tasks = Annotated[
    int | None,
    options.compute("--tasks", min=1, show_default="with local, one a core", help="Tasks that share the work; the shards are the same for any number."),
]  # fmt: skip
Strict = Annotated[bool, Option("--strict", help="Exit with code 3 if a problem was found.")]


class CheckCommand(Command):
    """Takes several files after one ``--test`` where TEXT comes first: ``check train.txt --test dev.txt test.txt``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        is_text_first = bool(args) and (args[0] == "-" or not args[0].startswith("-"))
        return super().parse_args(ctx, spread(args) if is_text_first else args)


def spread(arguments: list[str]) -> list[str]:
    """Put ``--test`` before each of the values that follow one."""
    found: list[str] = []
    within = False
    for argument in arguments:
        is_value = argument == "-" or not argument.startswith("-")
        if within and is_value and found[-1] != "--test":
            found.append("--test")
        within = argument == "--test" or (within and is_value)
        found.append(argument)
    return found


def check(
    text: options.TextArgument,
    model: Model = None,
    test: Test = None,
    max_length: options.MaxLength = None,
    documents: options.DocumentsOption = None,
    text_field: options.TextField = None,
    encoding: options.Encoding = None,
    delimiter: options.Delimiter = None,
    markup: options.MarkupOption = None,
    html: options.Html = None,
    strict: Strict = False,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> int:
    """Check text before training: errors, duplicates, leaks.

    It reports what was found, worst first, and ends with a command to run next.

    Examples:
        unmask check notes/ --model bert-base-uncased
        unmask check train.txt --test dev.txt test.txt --html check.html
    """
    shell.check_page(html)
    settings = options.load_settings({**locals(), "text": None, "model": None, "strict": None}).data
    page = Page(sys.stdout)
    with shell.working(models=model is not None) as progress:
        from unmask.checking.check import check_data

        def show_found(found: DataCheck) -> None:
            if not as_json:
                draw_check(page, found.to_dict())

        found = check_data(
            text,
            settings,
            model=model,
            test=test or (),
            max_length=max_length,
            offline=offline,
            on_found=show_found,
            progress=progress,
        )
    result = found.to_dict()
    if html is not None:
        from unmask.reporting.check_page import render_check

        shell.write_page(html, render_check(result))
    shell.show(as_json, result, lambda page: draw_plan(page, result["plan"]))
    return DataError.exit_code if strict and found.verdict == "problem" else 0


_STYLES = {"problem": "bold red", "warning": "yellow", "note": "", "ok": "green"}
_PAIRS = 3


def draw_check(page: Page, found: JsonDict) -> None:
    """Draw what :meth:`unmask.checking.results.DataCheck.to_dict` returns, but for the plan."""
    for finding in found["findings"]:
        page.say(f"{finding['level']:<8} {finding['text']}", style=_STYLES[finding["level"]])
    page.say("")
    page.pairs(_facts(found))
    _draw_leaks(page, found)
    _draw_duplicates(page, found)
    _draw_words(page, found)


def _facts(found: JsonDict) -> dict[str, object]:
    read, lengths, tokens = found["read"], found["lengths"], found["plan"]["tokens"]
    quantiles = lengths["quantiles"]
    spread = (
        f"median {count(quantiles['0.5'])}, 5% to 95%: {quantiles['0.05']:,.0f} to {quantiles['0.95']:,.0f}"
    )
    return {
        "files": read["files"],
        "documents": read["documents"],
        **({"characters": read["characters"]} if read["words"] is None else {"words": read["words"]}),
        "tokens": f"about {tokens:,} ({_estimated(found)})" if found["plan"]["tokens_estimated"] else tokens,
        f"{lengths['unit']} a document": f"{spread}, longest {lengths['longest']['length']:,} ({place(lengths['longest']['place'])})",
    }


def _estimated(found: JsonDict) -> str:
    if found["vocabulary"] is None:
        return "--model counts them"
    return f"by a tokenizer that knows the text; by that of the model {count(found['vocabulary']['tokens'])}, mostly unknown"


def _draw_leaks(page: Page, found: JsonDict) -> None:
    for row in (found["leakage"] or {"files": []})["files"]:
        if not row["pairs"]:
            continue
        page.say("")
        page.say(f"{row['file']} in the training text:")
        for pair in row["pairs"][:_PAIRS]:
            kind = "equals" if pair["kind"] == "exact" else f"shares {percent(pair['share'])} with"
            page.say(f"  line {pair['line']} {kind} {pair['in']}:{pair['in_line']}  {pair['text']}")
        if (left := row["exact"] + row["overlap"] - _PAIRS) > 0:
            page.say(f"  and {left:,} more (--json lists them)", style="dim")


def _draw_duplicates(page: Page, found: JsonDict) -> None:
    rows = found["duplicates"]["exact_examples"]
    near = (found["duplicates"]["near"] or {"examples": []})["examples"]
    if rows or near:
        page.say("")
        page.say("duplicate documents:")
    for row in rows:
        page.say(
            f"  {row['copies']:,} times, as {place(row['first'])} and {place(row['second'])}  {row['first']['text']}"
        )
    for row in near:
        page.say(f"  {percent(row['similarity'])} similar, {place(row['first'])} and {place(row['second'])}")
        page.say(f"    {row['first']['text']}", style="dim")
        page.say(f"    {row['second']['text']}", style="dim")


def _draw_words(page: Page, found: JsonDict) -> None:
    rows = (found["vocabulary"] or {"most_split": []})["most_split"][:8]
    if rows:
        page.say("")
        table = [[row["word"], row["count"], len(row["subwords"]), " ".join(row["subwords"])] for row in rows]
        page.table(["words of most subwords", "count", "subwords", "split into"], table, left=(0, 3))


def draw_plan(page: Page, plan: JsonDict) -> None:
    """Draw the plan of a check: how long training takes, and the commands to run next."""
    page.say("")
    near = min(plan["literature"], key=lambda row: abs(math.log(max(row["share"], 1e-12))))
    times = f"{near['share']:.1%} of that" if near["share"] < 1 else f"{near['share']:,.1f} times as many"
    page.say(f"in the literature: {near['tokens']} tokens, {near['what']}; this text has {times}")
    page.say(
        f"plan: {plural(plan['epochs'], 'epoch')}, {rough_duration(plan['seconds'])} ({plan['time_from']})"
    )
    if plan["seconds"] > 86_400:
        page.say("      that is long: --minutes 120 limits the time; a smaller model or a GPU is faster")
    if why := plan.get("why_model"):
        page.say(why)
    if plan["commands"]:
        page.say("next:")
    for command in plan["commands"]:
        page.command(f"  {command}")


def prepare(
    text: options.TextOrConfigArgument = None,
    model: options.ModelWithTokenizer = None,
    tokenizer: options.Tokenizer = None,
    out: Shards = None,
    documents: options.DocumentsOption = None,
    text_field: options.TextField = None,
    encoding: options.Encoding = None,
    delimiter: options.Delimiter = None,
    markup: options.MarkupOption = None,
    strict: options.Strict = False,
    allow_unknown: options.AllowUnknown = False,
    skip_unreadable: options.SkipUnreadable = False,
    max_length: options.MaxLength = None,
    deduplicate: Deduplicate = None,
    executor: ExecutorOption = None,
    tasks: Tasks = None,
    config_file: options.ConfigFile = None,
    overrides: options.Overrides = None,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Tokenise text once, into shards that 'train' can reuse.

    Examples:
        unmask prepare notes/ --model bert-base-uncased -o shards
        unmask prepare crawl/ --model bert-base-uncased -o shards --tasks 16
        unmask train shards --model bert-base-uncased
    """
    config = options.load_settings(locals())
    name = config.model.tokenizer or config.model.name
    if name is None:
        raise ConfigError("no tokenizer: name one with --tokenizer, or a model that has one with --model")
    if not config.data.inputs:
        raise ConfigError(
            "no text to prepare: name files, folders or globs, for example 'unmask prepare texts'"
        )
    if out is None:
        raise ConfigError("no folder to write to: name one with -o, for example -o shards")
    with shell.working() as progress:
        from unmask.api import data, texts

        inputs = texts.Paths(config.data.inputs)
        manifest = data.prepare(
            inputs,
            out,
            tokenizer=name,
            deduplicate=deduplicate,
            executor=executor,
            tasks=tasks,
            offline=config.model.offline,
            progress=progress,
            config=config,
        ).manifest
    shell.show(as_json, {"folder": out, **manifest}, lambda page: _draw_prepared(page, manifest, out))


def _draw_prepared(page: Page, manifest: JsonDict, out: str) -> None:
    read = manifest.get("read", {})
    counts = {name: read.get(name) for name in ("files", "characters", "empty", "split_documents")}
    counts |= {name: manifest.get(name) for name in ("documents", "tokens", "unknown_tokens", "bytes")}
    counts |= {f"error: {reason}": count for reason, count in read.get("errors", {}).items()}
    left = list(left_out(read))
    if manifest.get("deduplicate"):
        left.append(plural(manifest["duplicates"]["documents"], f"{manifest['deduplicate']} duplicate"))
    for part in left:
        page.say(f"left out: {part}", style="yellow")
    page.pairs({name.replace("_", " "): count for name, count in counts.items() if count is not None})
    page.say(f"shards in {out}; train on them with 'unmask train {out} ...'")
