"""The verb ``push``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from unmask.cli import options
from unmask.cli import runtime as shell
from unmask.cli.terminal import Page

if TYPE_CHECKING:
    from unmask.exporting.push import Push

PushedModel = Annotated[Path, Argument(metavar="RUN", help="Run folder or model folder.")]
Repository = Annotated[
    str, Argument(metavar="ORG/NAME", help="Repository on the Hub; made if there is none.")
]
Forms = Annotated[
    list[Path] | None,
    Option("--export", metavar="FOLDER", help="Upload this exported form as well; may be repeated.", show_default=False),
]  # fmt: skip
Private = Annotated[bool, Option("--private", help="Make a new repository private; refuse a public one.")]
Revision = Annotated[
    str | None,
    Option(
        "--revision", metavar="BRANCH", help="Branch to push to; made if there is none.", show_default="main"
    ),
]
DryRun = Annotated[bool, Option("--dry-run", help="List the files and check the card; upload nothing.")]


def push(
    run: PushedModel,
    repository: Repository,
    forms: Forms = None,
    private: Private = False,
    revision: Revision = None,
    dry_run: DryRun = False,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Upload a model to the Hugging Face Hub.

    Weights, tokenizer and card go up in one commit, and exported forms with --export. Checkpoints, shards and texts never
    do, and the card that unmask writes quotes no text. Log in with 'hf auth login', or set HF_TOKEN.

    Examples:
        unmask push runs/notes my-org/notes --dry-run
        unmask push runs/notes my-org/notes --private --export notes-onnx
    """
    with shell.working() as progress:
        from unmask.api.exporting import push as push_folder

        done = push_folder(
            run,
            repository,
            forms or (),
            private=private,
            revision=revision,
            dry_run=dry_run,
            offline=offline,
            progress=progress,
        )
    shell.show(as_json, done.to_dict(), lambda page: draw_push(page, done))


def draw_push(page: Page, done: Push) -> None:
    """Draw the files with their sizes, and what stays on this machine."""
    page.table(["file", "bytes"], [[row["file"], row["bytes"]] for row in done.to_rows()])
    if done.left_out:
        page.say(f"not uploaded: {', '.join(done.left_out)}")
    page.command(done._title())
