"""The verb ``push``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from unmask.cli import options
from unmask.cli import runtime as shell

PushedModel = Annotated[Path, Argument(metavar="RUN", help="Run folder or model folder.")]
Repository = Annotated[
    str, Argument(metavar="ORG/NAME", help="Repository on the Hub; made if there is none.")
]
Forms = Annotated[
    list[Path] | None,
    Option("--export", metavar="FOLDER", help="Upload this exported form as well; may be repeated.", show_default=False),
]  # fmt: skip
Private = Annotated[bool, Option("--private", help="Make a new repository private.")]
Revision = Annotated[
    str | None, Option("--revision", metavar="BRANCH", help="Branch to push to.", show_default="main")
]
DryRun = Annotated[bool, Option("--dry-run", help="List the files and check the card; upload nothing.")]


def push(
    run: PushedModel,
    repository: Repository,
    forms: Forms = None,
    private: Private = False,
    revision: Revision = None,
    dry_run: DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Upload a model to the Hugging Face Hub.

    Weights, tokenizer and card go up in one commit, and exported forms with --export. Checkpoints, shards and texts never
    do, and the card quotes no text. Log in with 'hf auth login', or set HF_TOKEN.

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
            progress=progress,
        )

    def draw(page: object) -> None:
        for row in done.to_rows():
            page.say(f"{row['bytes']:>13,}  {row['file']}")  # type: ignore[attr-defined]
        page.say(done._title())  # type: ignore[attr-defined]

    shell.show(as_json, done.to_dict(), draw)
