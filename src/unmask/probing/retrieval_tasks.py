"""Retrieval tasks: queries and passages in the layout of BEIR, or made from the documents of a text without labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from unmask.config.settings import DocumentSettings
from unmask.data.reading.documents import Document, DocumentReader
from unmask.data.reading.files import readable_stat
from unmask.data.reading.formats import no_such_field
from unmask.data.reading.inputs import Given
from unmask.data.reading.records import Record, RecordReader
from unmask.errors import ConfigError, DataError, plural
from unmask.progress import Progress
from unmask.reporting.reading import left_out

Ints = NDArray[np.int64]
Queries = Literal["halves", "titles"]

SHORTEST = 20
"""Characters that a passage made from a document has at least, and a half that is a query."""
_QRELS = ("query-id", "corpus-id", "score")
_DEFAULTS = DocumentSettings()


@dataclass(frozen=True)
class RetrievalTask:
    """Queries, passages, and which passages are relevant to which query.

    Attributes:
        name: what it was read from.
        kind: where the queries come from, in words.
        queries: Q texts.
        passages: N texts.
        relevant: Q dictionaries: the grade, above 0, of each relevant passage.
        order: ``int64 [N]`` the place of a passage among those of equal score: trec_eval puts greater ids first.
        excluded: ``int64 [Q]`` the passage that is the query itself, which is left out of its ranking, or -1.
        notes: remarks for the reader.
    """

    name: str
    kind: str
    queries: list[str]
    passages: list[str]
    relevant: list[dict[int, int]]
    order: Ints
    excluded: Ints
    notes: tuple[str, ...] = ()

    def sample(self, limit: int | None) -> RetrievalTask:
        """Return the task with at most ``limit`` queries, a random choice that depends on their number only."""
        if limit is None or limit >= len(self.queries):
            return self
        rows = sorted(np.random.default_rng(0).permutation(len(self.queries))[:limit].tolist())
        note = f"{limit:,} of {len(self.queries):,} queries used, the same for every model"
        return replace(
            self,
            queries=[self.queries[row] for row in rows],
            relevant=[self.relevant[row] for row in rows],
            excluded=self.excluded[rows],
            notes=(*self.notes, note),
        )


# --- the layout of BEIR


def is_retrieval_folder(task: str | Path) -> bool:
    """Return whether a folder has the files of BEIR: ``corpus.jsonl`` and ``queries.jsonl``, compressed or not."""
    folder = Path(task)
    return folder.is_dir() and all(_files(folder, f"{name}.jsonl*") for name in ("corpus", "queries"))


def read_beir(
    folder: str | Path, qrels: str | Path | None = None, *, progress: Progress = Progress()
) -> RetrievalTask:
    """Read ``corpus.jsonl`` (``_id``, ``title``, ``text``), ``queries.jsonl`` (``_id``, ``text``) and a TSV of judgements.

    A passage is its title and its text. Of the queries, those with a relevant passage are used.

    Args:
        folder: has both files, and judgements in ``qrels/``: ``test.tsv``, or the only one.
        qrels: judgements of their own: query id, passage id and grade.
        progress: logs what was read.

    Raises:
        DataError: a file is missing or broken, an id occurs twice, or a judgement names a query or passage that is absent.
        ConfigError: there are several files of judgements, none of them called ``test.tsv``.
    """
    folder = Path(folder)
    judged = _qrels_file(folder) if qrels is None else Path(qrels)
    readable_stat(judged, "expected a table of judgements (query, passage, grade)")
    corpus = _read_texts(_only(folder, "corpus.jsonl*"), title=True)
    queries = _read_texts(_only(folder, "queries.jsonl*"), title=False)
    grades, unrelated = _read_judgements(judged, queries, corpus)
    number = {name: place for place, name in enumerate(corpus)}
    names = list(grades)
    notes = []
    if unrelated:
        notes.append(
            f"left out: {plural(unrelated, 'query', 'queries')} of {judged.name} without a relevant passage"
        )
    own = [
        number[name] if name in number and _is_itself(queries[name], corpus[name]) else -1 for name in names
    ]
    if count := sum(place >= 0 for place in own):
        notes.append(
            f"{plural(count, 'query is', 'queries are')} in the corpus too; each is left out of its own ranking"
        )
    found = RetrievalTask(
        str(folder),
        f"queries of {judged.name}",
        [queries[name][1] for name in names],
        [" ".join(filter(None, parts)) for parts in corpus.values()],
        [{number[passage]: grade for passage, grade in grades[name].items()} for name in names],
        _places(list(corpus)),
        np.array(own, dtype=np.int64),
        tuple(notes),
    )
    progress.log(f"{folder}: retrieval, {_sizes(found)}")
    return found


def _read_texts(path: Path, *, title: bool) -> dict[str, tuple[str, str]]:
    """Return title and text by id."""
    found: dict[str, tuple[str, str]] = {}
    for record in _records(path):
        name = _field(record, "_id")
        if name in found:
            raise DataError(f"the id '{name}' occurs twice", path=record.source, line=record.line)
        heading = _field(record, "title").strip() if title and record.values.get("title") else ""
        found[name] = heading, _field(record, "text").strip()
    if not found:
        raise DataError("no texts; expected an object with '_id' and 'text' per line", path=path)
    return found


def _records(path: Path, **reading: Any) -> Iterator[Record]:
    for read in RecordReader(path, skip_blank=True, **reading):
        if isinstance(read, DataError):
            raise read
        yield read


def _field(record: Record, name: str) -> str:
    if name not in record.values:
        raise no_such_field("field", name, record.values, record.source, record.line, "the layout of BEIR")
    value = record.values[name]
    if isinstance(value, bool) or not isinstance(value, str | int) or (name == "_id" and value == ""):
        what = f"field '{name}' holds {value!r:.40}, expected a string"
        raise DataError(what, path=record.source, line=record.line)
    return str(value)


def _read_judgements(
    path: Path, queries: dict[str, tuple[str, str]], corpus: dict[str, tuple[str, str]]
) -> tuple[dict[str, dict[str, int]], int]:
    """Return the grades above 0 by query and passage, and the number of queries that have none."""
    found: dict[str, dict[str, int]] = {}
    judged: dict[tuple[str, str], int | None] = {}
    for record in _records(path, kind="tsv", has_names=lambda row: tuple(row[:3]) == _QRELS):
        query, passage, grade = _judgement(record)
        for name, known, what in ((query, queries, "query"), (passage, corpus, "passage")):
            if name not in known:
                where = "queries.jsonl" if what == "query" else "corpus.jsonl"
                message = f"the {what} '{name}' is not in {where}; expected judgements of this corpus"
                raise DataError(message, path=path, line=record.line)
        if (query, passage) in judged:
            what = f"the query '{query}' and the passage '{passage}' are judged twice, in line {judged[query, passage]} already; keep one of the lines"
            raise DataError(what, path=path, line=record.line)
        judged[query, passage] = record.line
        found.setdefault(query, {})[passage] = grade
    related = {
        query: positive
        for query, grades in found.items()
        if (positive := {passage: grade for passage, grade in grades.items() if grade > 0})
    }
    if not related:
        raise DataError("no query has a relevant passage; expected a score above 0", path=path)
    return related, len(found) - len(related)


def _judgement(record: Record) -> tuple[str, str, int]:
    values = [str(value).strip() for value in record.values.values()]
    if len(values) != len(_QRELS) or not re.fullmatch(r"-?\d+", values[2]):
        shown = " ".join(values)
        what = f"expected query id, passage id and a whole number, separated by tabs, found '{shown:.60}'"
        raise DataError(what, path=record.source, line=record.line)
    return values[0], values[1], int(values[2])


def _qrels_file(folder: Path) -> Path:
    there = _files(folder / "qrels", "*.tsv*")
    chosen = [path for path in there if path.name.startswith("test.")] or there
    if not there:
        raise DataError("no judgements; expected qrels/test.tsv, or a file of --test", path=folder)
    if len(chosen) > 1:
        names = ", ".join(path.name for path in chosen)
        raise ConfigError(f"{folder / 'qrels'}: there are {names}; choose with --test FILE")
    return chosen[0]


def _only(folder: Path, pattern: str) -> Path:
    found = _files(folder, pattern)
    if not found:
        raise DataError(f"no {pattern.rstrip('*')}; expected the layout of BEIR", path=folder)
    return found[0]


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def _is_itself(query: tuple[str, str], passage: tuple[str, str]) -> bool:
    """Return whether a passage with the id of a query has its text, as in ArguAna."""
    return query[1] in (passage[1], " ".join(filter(None, passage)))


def _places(names: Sequence[str]) -> Ints:
    """Return the place of each name in descending order."""
    place = np.empty(len(names), dtype=np.int64)
    place[sorted(range(len(names)), key=names.__getitem__, reverse=True)] = np.arange(len(names))
    return place


# --- a text without labels


def task_of_text(
    inputs: Given | Sequence[Given],
    queries: str = "halves",
    documents: DocumentSettings = _DEFAULTS,
    *,
    progress: Progress = Progress(),
) -> RetrievalTask:
    """Make a retrieval task from the documents of a text: part of each document is to find the rest of it.

    Args:
        inputs: text as the readers take it.
        queries: ``halves``: the first half of a document finds the second; ``titles``: its first line finds the rest.
        documents: how files become documents.
        progress: logs what was read.

    Raises:
        DataError: the text cannot be read, or fewer than two documents are long enough.
        ConfigError: no such kind of queries.
    """
    if queries not in get_args(Queries):
        raise ConfigError(f"queries is '{queries}', expected one of {', '.join(get_args(Queries))}")
    reader = DocumentReader(inputs, documents, progress=progress)
    name = ", ".join(str(item) for item in reader.inputs[:3]) + (" …" if len(reader.inputs) > 3 else "")
    found = task_of_documents(reader, queries, name)
    notes = [f"left out: {part}" for part in left_out(vars(reader.stats))]
    found = replace(found, notes=(*notes, *found.notes))
    progress.log(f"{name}: retrieval, {_sizes(found)}")
    return found


def task_of_documents(
    documents: Iterable[Document], queries: str = "halves", name: str = "text"
) -> RetrievalTask:
    """Make a retrieval task from documents, as :func:`task_of_text`.

    Copies of a query or passage are one. A query that stands in several documents finds what follows in each.

    Raises:
        DataError: fewer than two passages remain.
    """
    split = _title_and_body if queries == "titles" else _halves
    query_number: dict[str, int] = {}
    passage_number: dict[str, int] = {}
    relevant: list[dict[int, int]] = []
    total = used = 0
    for document in documents:
        total += 1
        if (parts := split(document.text)) is None:
            continue
        used += 1
        query = query_number.setdefault(parts[0], len(query_number))
        passage = passage_number.setdefault(parts[1], len(passage_number))
        if query == len(relevant):
            relevant.append({})
        relevant[query][passage] = 1
    what = (
        f"have no title (a first line, followed by at least {SHORTEST} characters)"
        if queries == "titles"
        else f"are too short for two halves of {SHORTEST} characters"
    )
    short = f"{total - used:,} of {plural(total, 'document')} {what}"
    if len(passage_number) < 2:
        raise DataError(
            f"retrieval needs two different passages or more, found {len(passage_number)}; {short}"
        )
    notes = [f"left out: {short}"] if used < total else []
    if copies := used - len(passage_number):
        notes.append(f"{plural(copies, 'copy', 'copies')} of other passages left out")
    return RetrievalTask(
        name,
        "title → text" if queries == "titles" else "first half → second half of each document",
        list(query_number),
        list(passage_number),
        relevant,
        np.arange(len(passage_number))[::-1],
        np.full(len(query_number), -1, dtype=np.int64),
        tuple(notes),
    )


def _halves(text: str) -> tuple[str, str] | None:
    """Split a text at the white space nearest to its middle, or at the middle if there is none in the middle half."""
    middle = len(text) // 2
    spaces = (found.start() for found in re.finditer(r"\s", text))
    nearest = min(spaces, key=lambda place: abs(place - middle), default=middle)
    if abs(nearest - middle) > len(text) // 4:
        nearest = middle
    first, second = text[:nearest].strip(), text[nearest:].strip()
    return (first, second) if min(len(first), len(second)) >= SHORTEST else None


def _title_and_body(text: str) -> tuple[str, str] | None:
    title, _, body = text.strip().partition("\n")
    title, body = title.strip(), body.strip()
    return (title, body) if title and len(body) >= SHORTEST else None


def _sizes(task: RetrievalTask) -> str:
    pairs = sum(map(len, task.relevant))
    return (
        f"{task.kind}; {plural(len(task.queries), 'query', 'queries')}, {plural(len(task.passages), 'passage')}, "
        f"{plural(pairs, 'relevant pair')}"
    )
