"""Read labelled tasks: a folder of train, dev and test files, or single files.

Text classification is JSON Lines, CSV or TSV with a column for the text and one for the label, or a folder with a
subfolder of text files per label. Pairs of texts have two columns, several labels are a list, and labels that are numbers
with decimals are predicted as such. Token classification is CoNLL: a token and its tag per line, an empty line between
sentences. The tasks of GLUE are recognised by their files (:mod:`unmask.probing.glue`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from unmask.data.reading.files import readable_stat
from unmask.errors import ConfigError, DataError, plural
from unmask.probing.conll import is_conll, marks_entities, read_conll
from unmask.probing.examples import Examples, Kind, OfTexts, Task, label_set
from unmask.probing.glue import GlueLayout, find_glue, read_glue
from unmask.probing.tables import Columns, LabelledRow, read_label_folders, read_table
from unmask.progress import Progress

SHORT = 5
"""Sentences of fewer tokens ("2 .", "METHODS .") recur in any tagged text; this is no leak."""
_ROLES = {
    "train": re.compile(r"(?<![a-z])train(ing)?(?![a-z])"),
    "dev": re.compile(r"(?<![a-z])(dev|devel|development|val|valid|validation)(?![a-z])"),
    "test": re.compile(r"(?<![a-z])test(ing)?(?![a-z])"),
}
_LABEL_SEPARATOR = re.compile(r"\s*[,;|]\s*")


def read_task(
    task: str | Path,
    *,
    test: str | Path | None = None,
    dev: str | Path | None = None,
    text_field: str | None = None,
    label_field: str | None = None,
    pair_field: str | None = None,
    kind: str | None = None,
    progress: Progress = Progress(),
) -> Task:
    """Read a labelled task.

    Args:
        task: a folder with train, (dev) and test, or the train file (or folder of label folders).
        test, dev: files of their own, instead of those of the folder.
        text_field, label_field, pair_field: fields or columns, or numbers of columns of a table without names; the last of the
            second text of pairs.
        kind: what is predicted of a text: ``classification``, ``multilabel`` or ``regression``; by default from the labels.
        progress: logs what was chosen.

    Raises:
        DataError: a file is missing, empty or broken, or all examples have one label.
        ConfigError: there is no test part, or the file format holds no labelled text.
    """
    if (
        Path(task).is_dir()
        and not (text_field or label_field or pair_field or kind)
        and (glue := find_glue(Path(task)))
    ):
        layout, files = glue
        given = {role: Path(path) for role, path in (("dev", dev), ("test", test)) if path is not None}
        return _glue_task(str(task), layout, files | given, progress)
    parts = _find_parts(Path(task), _path(test), _path(dev))
    for role, path in parts.items():
        _require(role, path)
    if is_conll(parts["train"]):
        if kind is not None or pair_field is not None:
            raise ConfigError(
                f"{parts['train']}: tagged tokens, which have no --{'kind' if kind else 'pair-field'}"
            )
        read = {role: read_conll(path) for role, path in parts.items()}
        found: Kind = "entities" if marks_entities(read["train"].labels) else "tags"
    else:
        columns = Columns(text_field, label_field, pair_field, progress)
        rows = {role: _read_labelled(path, columns) for role, path in parts.items()}
        for role, path in parts.items() if kind is None else ():
            _refuse_lists_and_single(rows[role], path)
        found = kind_of_texts(rows["train"], kind, parts["train"], progress)
        read = {role: examples_of(rows[role], found, path) for role, path in parts.items()}
    made = Task(str(task), found, read["train"], read.get("dev"), read["test"])
    check_labels(made)
    progress.log(_describe(made, parts))
    return made


def _glue_task(name: str, layout: GlueLayout, files: dict[str, Path], progress: Progress) -> Task:
    """Read a task of GLUE as it is published."""
    notes = [f"{layout.title}; tested on {files['test'].name}"]
    read = {}
    for role, path in files.items():
        _require(role, path)
        rows, lost = read_glue(path, layout)
        notes += [lost] if lost else []
        read[role] = examples_of(rows, layout.kind, path)
    made = Task(
        name, layout.kind, read["train"], read.get("dev"), read["test"], notes=tuple(notes), metric=layout.metric, published=bool(layout.name)
    )  # fmt: skip
    check_labels(made)
    progress.log(_describe(made, files))
    return made


def resolve_overlap(task: Task, *, allow: bool = False, drop: bool = False) -> Task:
    """Handle test texts that occur in train, white space aside.

    Tagged sentences of fewer than :data:`SHORT` tokens are not counted.

    Args:
        task: the task.
        allow: keep them, with a note; of a published task they are kept if they are not dropped.
        drop: remove them from train.

    Raises:
        DataError: there are some, and neither option was given; or nothing would be left to train on.
        ConfigError: both options were given.
    """
    if allow and drop:
        raise ConfigError(
            "--allow-overlap and --drop-overlap exclude each other: keep shared texts or drop them"
        )
    known, tested = {*task.train.keys}, {*task.test.keys}
    shared = [row for row, key in enumerate(task.test.keys) if key in known]
    counted = [row for row in shared if _counts(task, row)]
    notes = list(task.notes)
    if uncounted := len(shared) - len(counted):
        notes.append(
            f"{plural(uncounted, 'test sentence')} of fewer than {SHORT} tokens in train too; this is no leak"
        )
    share = f"{len(counted):,} of {plural(len(task.test), 'test text')} also in train"
    if counted and drop:
        kept = [row for row, key in enumerate(task.train.keys) if key not in tested]
        if not kept:
            raise DataError(
                "every text of train occurs in test; nothing is left to train on", path=task.train.source
            )
        notes.append(
            f"{share}; removed from train, which has {plural(len(kept), 'example')} instead of {len(task.train):,}"
        )
        task = replace(task, train=task.train.take(kept))
    elif counted and (allow or task.published):
        reason = ", as in published figures" if task.published else ""
        notes.append(f"{share}; they were kept{reason}, so the metrics are too high")
    elif counted:
        raise DataError(
            f"{share}, this one first, so the metrics would reward memorisation; remove them from train with --drop-overlap, "
            f"or report all the same with --allow-overlap",
            path=task.test.source,
            line=task.test.lines[counted[0]],
        )
    return replace(task, shared=len(counted), notes=tuple(notes))


def _counts(task: Task, row: int) -> bool:
    return task.test.words is None or len(task.test.words[row]) >= SHORT


def _require(role: str, path: Path) -> None:
    readable_stat(path, f"expected the {role} file of the task")


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


# --- train, dev and test


def _find_parts(task: Path, test: Path | None, dev: Path | None) -> dict[str, Path]:
    """Return the path of train and test, and of dev if there is one."""
    readable_stat(
        task,
        "expected a folder with train, (dev) and test files, or a train file if --test names the test file",
    )
    given = {role: path for role, path in (("test", test), ("dev", dev)) if path is not None}
    found = _roles(task) if task.is_dir() else {}
    if "train" not in found:
        if task.is_dir() and (test is None or not any(entry.is_dir() for entry in task.iterdir())):
            names = ", ".join(sorted(entry.name for entry in task.iterdir())[:8]) or "nothing"
            raise DataError(f"no train file; expected train, (dev) and test, found {names}", path=task)
        found = {"train": [task]}
    if "test" not in found | given:
        raise ConfigError(f"{task}: no test file; name one with --test FILE{_there(found)}")
    taken = set(given.values())
    parts = dict(given)
    for role, paths in found.items():
        if role not in given:
            # One of two dev files may be given as the test.
            parts[role] = _single(role, [path for path in paths if path not in taken] or paths)
    return {role: parts[role] for role in ("train", "dev", "test") if role in parts}


def _roles(folder: Path) -> dict[str, list[Path]]:
    """Return the entries of a folder by their role: those named train, dev or test."""
    found: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()):
        stem = entry.name.split(".")[0].lower()
        roles = [role for role, name in _ROLES.items() if name.search(stem)]
        if len(roles) == 1:
            found.setdefault(roles[0], []).append(entry)
    return found


def _single(role: str, paths: list[Path]) -> Path:
    if len(paths) == 1:
        return paths[0]
    names = " and ".join(path.name for path in paths)
    # Even dev, which may be absent, is never chosen by alphabetical order.
    how = "give the train file itself as --task" if role == "train" else f"choose with --{role} FILE"
    raise ConfigError(f"{paths[0].parent}: {names} could both be {role}; {how}")


def _there(found: dict[str, list[Path]]) -> str:
    others = [path.name for path in found.get("dev", [])]
    return f" (there is {' and '.join(others)})" if others else ""


# --- reading


def _read_labelled(path: Path, columns: Columns) -> list[LabelledRow]:
    rows = list(read_label_folders(path) if path.is_dir() else read_table(path, columns))
    if not rows:
        raise DataError("no examples; expected labelled texts", path=path)
    return rows


def kind_of_texts(
    rows: Sequence[LabelledRow], kind: str | None, path: Path, progress: Progress = Progress()
) -> OfTexts:
    """Return what is predicted of a text: as given, or from the labels.

    Lists of labels are several, numbers of which one has decimals are a regression.

    Raises:
        ConfigError: no such kind.
        DataError: the labels are of more than one kind.
    """
    for known in get_args(OfTexts):
        if kind == known:
            return known
    if kind is not None:
        raise ConfigError(f"kind is '{kind}', expected one of {', '.join(get_args(OfTexts))}")
    if any(isinstance(row.label, list) for row in rows):
        return "multilabel"
    _refuse_other_than_numbers(rows, path)
    if any(map(_has_decimals, rows)):
        progress.log(
            f"{path}: labels are numbers with decimals: a regression; --kind classification takes them as classes"
        )
        return "regression"
    return "classification"


def _refuse_lists_and_single(rows: Sequence[LabelledRow], path: Path) -> None:
    """Raise :class:`DataError` if some labels of a file are lists and others are not."""
    single = [row for row in rows if not isinstance(row.label, list)]
    if single and len(single) < len(rows):
        raise DataError(
            f"the label '{single[0].label:.40}' is a single one, and {len(rows) - len(single):,} of {plural(len(rows), 'label')} are lists; "
            f"make it a list, or take all as several labels with --kind multilabel",
            path=path,
            line=single[0].line,
        )


def _refuse_other_than_numbers(rows: Sequence[LabelledRow], path: Path) -> None:
    """Raise :class:`DataError` if labels are numbers with decimals and others are not, or if all but NaN or infinity are numbers."""
    numbers = [row for row in rows if _number(row.label) is not None]
    others = [row for row in rows if _number(row.label) is None]
    decimals = next(filter(_has_decimals, numbers), None)
    if not numbers or not others or not (decimals or all(_is_not_finite(row.label) for row in others)):
        return
    there = decimals or numbers[0]
    where = "" if there.line is None else f" in line {there.line:,}"
    raise DataError(
        f"the label '{others[0].label:.40}' is no number, and {len(numbers):,} of {plural(len(rows), 'label')} are numbers, such as "
        f"'{there.label:.40}'{where}; leave such lines out, or take all labels as classes with --kind classification",
        path=path,
        line=others[0].line,
    )


def examples_of(rows: Sequence[LabelledRow], kind: OfTexts, path: Path) -> Examples:
    """Return rows as examples of a kind.

    Raises:
        DataError: a label is not of that kind.
    """
    labels = [_labels(row, kind, path) for row in rows]
    seconds = [row.second for row in rows if row.second is not None]
    return Examples(
        str(path), [row.text for row in rows], None, labels, [row.line for row in rows], seconds or None
    )


def _labels(row: LabelledRow, kind: OfTexts, path: Path) -> list[str]:
    """Return the labels of a row, those of a multi-label text sorted and each once."""
    if kind == "multilabel":
        several = row.label if isinstance(row.label, list) else _LABEL_SEPARATOR.split(row.label)
        return sorted({label for label in several if label})
    if isinstance(row.label, list):
        what = f"a list of labels, expected one {'number' if kind == 'regression' else 'class'}"
        raise DataError(what, path=path, line=row.line)
    if kind == "regression" and _number(row.label) is None:
        raise DataError(
            f"the label '{row.label:.40}' is no number, expected one to predict", path=path, line=row.line
        )
    return [row.label]


def _has_decimals(row: LabelledRow) -> bool:
    number = _number(row.label)
    return number is not None and number != int(number)


def _is_not_finite(label: str | list[str]) -> bool:
    try:
        return isinstance(label, str) and not math.isfinite(float(label))
    except ValueError:
        return False


def _number(label: str | list[str]) -> float | None:
    """Return a label as a finite number, if it is one."""
    try:
        value = float(label) if isinstance(label, str) else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


# --- checks


def check_labels(task: Task) -> None:
    """Check that there is something to learn.

    Raises:
        DataError: there is one label only, or labels are hardly classes.
    """
    labels = label_set(task.train)
    if not labels:
        raise DataError("no example has a label; at least two labels are needed", path=task.train.source)
    if len(labels) < 2:
        raise DataError(
            f"all examples have the label '{labels[0]}'; at least two {'numbers' if task.kind == 'regression' else 'labels'} are needed",
            path=task.train.source,
        )
    if task.kind == "classification" and len(labels) > max(20, len(task.train) // 3):
        raise DataError(
            f"{len(labels):,} different labels in {len(task.train):,} examples, such as '{labels[0][:40]}', are not "
            f"classes; choose the column with --label-field",
            path=task.train.source,
        )


def _describe(task: Task, parts: dict[str, Path]) -> str:
    unit = "sentence" if task.train.words else "pair of texts" if task.train.seconds else "text"
    units = "pairs of texts" if task.train.seconds else None
    what = {
        "classification": "text classification",
        "multilabel": "texts with several labels",
        "regression": "regression",
        "entities": "entities (CoNLL)",
        "tags": "token labels (CoNLL)",
    }[task.kind]
    counted = {"train": task.train, "dev": task.dev, "test": task.test}
    sizes = ", ".join(
        f"{plural(len(part), unit, units)} in {parts[role].name}" for role, part in counted.items() if part
    )
    labels = "" if task.kind == "regression" else f", {len(label_set(task.train))} labels"
    return f"{task.name}: {what}{labels}; {sizes}"
