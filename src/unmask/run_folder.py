"""The run folder: the one owner of the names and formats of the files that a run leaves behind.

::

    RUN/model/            the result, a Hugging Face checkpoint with tokenizer and model card
    RUN/checkpoints/      where a stopped run goes on from
    RUN/shards/           the tokenised text, when the run prepared it itself
    RUN/config.yaml       every setting, resolved
    RUN/run.json          versions, machine, command, parameter count, tokens of the corpus
    RUN/metrics.jsonl     one object a line, appended, never rewritten by a live run
    RUN/heldout.jsonl     the held-out documents (field ``text``), where the run keeps them
    RUN/evaluation.json   the final figures on the held-out text, beside the baselines
    RUN/examples.json     masked examples with what the model filled in
    RUN/base.npz          what an adapted checkpoint answered before training
    RUN/adaptation.json   that and the result, compared (see unmask.run.adaptation)
    RUN/report.html       the page to look at, rebuilt from the files above

Everything but weights and arrays is JSON or YAML, so a report is rebuilt without a model.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.errors import DataError


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run. Creating the object touches nothing on disk."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def info(self) -> Path:
        return self.root / "run.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def heldout(self) -> Path:
        return self.root / "heldout.jsonl"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation.json"

    @property
    def examples(self) -> Path:
        return self.root / "examples.json"

    @property
    def base(self) -> Path:
        return self.root / "base.npz"

    @property
    def adaptation(self) -> Path:
        return self.root / "adaptation.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the rows of ``metrics.jsonl``, oldest first.

        Raises:
            DataError: the file is absent or a line is not a JSON object.
        """
        if not self.metrics.is_file():
            raise DataError("no metrics here; is this the folder of a run?", path=self.metrics)
        rows = []
        with self.metrics.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise DataError(
                        f"not a JSON object ({error.msg})", path=self.metrics, line=number
                    ) from None
        return rows


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, or ``None`` where there is none.

    Raises:
        DataError: the file is not JSON.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # broken, no UTF-8, an endless number, too deep
        raise DataError(f"not valid JSON ({error})", path=path, line=getattr(error, "lineno", None)) from None


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append one object to a JSON-lines file, whole: the line is handed over in a single write."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def keep_rows(path: Path, step: int) -> None:
    """Drop the rows of metrics that a resumed run will write again: those after ``step``, and a torn last line."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row["step"] <= step:
            kept.append(line + "\n")
    write_atomically(path, "".join(kept))


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write ``content`` to ``path``, text as UTF-8, so that a reader sees the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
