"""The tasks of GLUE (Wang et al. 2019) from their published files, recognised by the columns of their training file.

RTE and WNLI have the same columns and are told apart by their labels. Labels of the test files are not published, so a task
is tested on its development file. The files are separated by tabs, and quotes are part of the text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from unmask.errors import DataError, plural
from unmask.probing.examples import OfTexts
from unmask.probing.tables import LabelledRow, read_lines


@dataclass(frozen=True)
class GlueLayout:
    """The columns of a task.

    Attributes:
        name: of the task; empty where its columns are those of several tasks, and its labels those of none.
        metric: the first of those that it is known by; ``None`` without a name.
        label: column of the label.
        text, second: columns of the text or texts.
        kind: what is predicted.
        columns: their names, of files without a first line of names.
        labels: all there are, which tell it from another task with the same columns.
    """

    name: str
    metric: str | None
    label: str
    text: str
    second: str | None = None
    kind: OfTexts = "classification"
    columns: tuple[str, ...] | None = None
    labels: frozenset[str] | None = None

    @property
    def title(self) -> str:
        """The name, and by what the task was recognised."""
        if not self.name:
            names = " and ".join(each.name for each in _sharing(self))
            return f"unknown task: the columns are those of {names} of GLUE, the labels are not"
        return f"{self.name} of GLUE, by its columns{' and labels' if self.labels else ''}"

    @property
    def needed(self) -> set[str]:
        return {name for name in (self.label, self.text, self.second) if name is not None}


_COLA = GlueLayout("CoLA", "matthews", "label", "sentence", columns=("source", "label", "mark", "sentence"))
LAYOUTS = (
    GlueLayout("MNLI", "accuracy", "gold_label", "sentence1", "sentence2"),
    GlueLayout("STS-B", "pearson", "score", "sentence1", "sentence2", "regression"),
    GlueLayout("MRPC", "f1", "Quality", "#1 String", "#2 String"),
    GlueLayout("QQP", "f1", "is_duplicate", "question1", "question2"),
    GlueLayout("QNLI", "accuracy", "label", "question", "sentence"),
    GlueLayout(
        "RTE",
        "accuracy",
        "label",
        "sentence1",
        "sentence2",
        labels=frozenset({"entailment", "not_entailment"}),
    ),
    GlueLayout("WNLI", "accuracy", "label", "sentence1", "sentence2", labels=frozenset({"0", "1"})),
    GlueLayout("SST-2", "accuracy", "label", "sentence"),
)
_UNLABELLED = "-"  # in MNLI, a pair on which its annotators do not agree
_MOST_LEFT_OUT = 0.01


def find_glue(folder: Path) -> tuple[GlueLayout, dict[str, Path]] | None:
    """Return the layout of a folder and its train and test file, or ``None`` if it holds no task of GLUE.

    These are ``train.tsv`` and ``dev.tsv`` (or ``dev_matched.tsv``) beside a ``test.tsv`` (or ``test_matched.tsv``) without
    labels; or the two files ``msr_paraphrase_*.txt`` of MRPC, whose test is labelled.
    """
    original = {role: folder / f"msr_paraphrase_{role}.txt" for role in ("train", "test")}
    if all(path.is_file() for path in original.values()):
        layout = _layout(original["train"])
        return None if layout is None else (layout, original)
    train = folder / "train.tsv"
    dev, test = (
        next((path for end in ("", "_matched") if (path := folder / f"{role}{end}.tsv").is_file()), None)
        for role in ("dev", "test")
    )
    if not train.is_file() or dev is None or test is None:
        return None
    layout = _layout(train)
    if layout is None or layout.label in _first_line(test) or layout.text not in _first_line(test):
        return None
    return layout, {"train": train, "test": dev}


def _layout(train: Path) -> GlueLayout | None:
    first = _first_line(train)
    if len(first) == len(_COLA.columns or ()) and first[1] in ("0", "1") and first[2] in ("", "*"):
        return _COLA
    found = next((layout for layout in LAYOUTS if layout.needed <= set(first)), None)
    if found is None or found.labels is None:
        return found
    labels: set[str] = set()
    place = first.index(found.label)
    for _, line in islice(read_lines(train), 1, None):
        labels.update(line.split("\t")[place : place + 1])
    unknown = replace(found, name="", metric=None, labels=None)
    return next(
        (layout for layout in _sharing(found) if layout.labels and labels - {""} <= layout.labels), unknown
    )


def _sharing(layout: GlueLayout) -> list[GlueLayout]:
    """Return the tasks with the columns of a layout."""
    return [each for each in LAYOUTS if each.needed == layout.needed]


def _first_line(path: Path) -> list[str]:
    return next((line.split("\t") for _, line in read_lines(path)), [])


def read_glue(path: Path, layout: GlueLayout) -> tuple[list[LabelledRow], str]:
    """Read a file of a task.

    Returns:
        its rows, and a remark on those that were left out: with too few columns, or without a text or label.

    Raises:
        DataError: a column is missing, or over 1% of the rows cannot be used.
    """
    names, rows, total = layout.columns, [], 0
    for number, line in read_lines(path):
        fields = line.split("\t")
        if names is None:
            names = tuple(fields)
            if missing := sorted(layout.needed - {*names}):
                what = f"no column '{missing[0]}' of {layout.name or 'the training file'}; expected a file with labels, train or dev"
                raise DataError(what, path=path, line=number)
            continue
        total += 1
        values = dict(zip(names, fields, strict=False))
        texts = [values.get(name, "").strip() for name in (layout.text, layout.second) if name is not None]
        label = values.get(layout.label, "").strip()
        if len(fields) >= len(names) and all(texts) and label not in ("", _UNLABELLED):
            rows.append(LabelledRow(texts[0], texts[1] if layout.second else None, label, number))
    lost = total - len(rows)
    if lost > _MOST_LEFT_OUT * total or not rows:
        what = f"{lost:,} of {plural(total, 'row')} without the columns of {layout.name or 'the training file'}; expected the published file"
        raise DataError(what, path=path)
    return (
        rows,
        f"left out of {path.name}: {plural(lost, 'row')} without all columns, a text or a label"
        if lost
        else "",
    )
