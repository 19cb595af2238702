"""What every result can do: a short repr, a table in a notebook, and a pandas DataFrame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, TypeVar

from unmask.errors import MissingExtra, plural

if TYPE_CHECKING:
    import pandas

T = TypeVar("T", bound="Result")

Rows = Sequence[Mapping[str, object]]
_SHOWN_ROWS, _SHOWN_CHARACTERS, _LAST_CHARACTERS = 12, 60, 400
_STYLE = "text-align:left;padding:0.2em 0.8em"


class Result:
    """Base class of results; a subclass says what its title and its rows are.

    Its dataclasses are made with ``repr=False``, so that they have the repr of this class.
    """

    __slots__ = ()

    def _title(self) -> str:
        """Return one line that says what the result is."""
        return type(self).__name__

    def to_rows(self) -> Rows:
        """Return the result as rows of a table, numbers unrounded: values by column name."""
        return ()

    def _shown_rows(self) -> Rows:
        """Return the rows that repr and notebooks show; numbers may be text already."""
        return self.to_rows()

    def _listed_rows(self) -> Rows:
        """Return the rows that repr and notebooks show of this result in a list."""
        return self.to_rows()

    def to_dict(self) -> Any:
        """Return plain lists, numbers and strings, ready for JSON."""
        raise NotImplementedError

    def to_pandas(self) -> pandas.DataFrame:
        """Return the result as a table, numbers unrounded.

        Raises:
            MissingExtra: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise MissingExtra("pandas", None, "to_pandas()") from None
        return pandas.DataFrame([dict(row) for row in self.to_rows()])

    def __repr__(self) -> str:
        cells = _cells(self._shown_rows())
        if not cells:
            return self._title()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)
        return "\n".join([self._title(), *lines, *_left_out(self._shown_rows())])

    def _repr_html_(self) -> str:
        cells = _cells(self._shown_rows())
        caption = f"<div>{escape(self._title())}</div>"
        if not cells:
            return caption
        head, *body = ("".join(f'<{tag} style="{_STYLE}">{escape(cell)}</{tag}>' for cell in row)
                       for tag, row in zip(["th", *["td"] * len(cells)], cells, strict=False))  # fmt: skip
        rows = "".join(f"<tr>{row}</tr>" for row in body)
        rest = "".join(f"<div>{escape(line)}</div>" for line in _left_out(self._shown_rows()))
        return f"{caption}<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{rest}"


class Table(Result):
    """A result that is nothing but rows with a title."""

    def __init__(self, title: str, rows: Rows) -> None:
        self._name, self._content = title, rows

    def _title(self) -> str:
        return self._name

    def to_rows(self) -> Rows:
        return self._content

    def to_dict(self) -> list[dict[str, object]]:
        """Return the rows, ready for JSON."""
        return [dict(row) for row in self._content]


class ResultList(list[T], Result):
    """A list of results, in the order of the inputs, that is shown as one table."""

    __repr__ = Result.__repr__

    def _title(self) -> str:
        return f"{len(self)} × {type(self[0]).__name__}" if self else "no results"

    def to_rows(self) -> Rows:
        return [row for result in self for row in result.to_rows()]

    def _shown_rows(self) -> Rows:
        return [row for result in self for row in result._listed_rows()]

    def to_dict(self) -> list[Any]:
        """Return a list of the results, ready for JSON."""
        return [result.to_dict() for result in self]


def metric_rows(columns: Mapping[str, Mapping[str, object] | None]) -> Rows:
    """Return a row for each metric of several evaluations (values by metric), which become columns.

    Only metrics of the masked tokens are taken; an evaluation that is ``None`` is left out.
    """
    from unmask.reporting.format import METRICS

    there = {name: metrics for name, metrics in columns.items() if metrics is not None}
    return [
        {"metric": metric} | {name: metrics.get(metric) for name, metrics in there.items()}
        for metric in METRICS
        if any(metric in metrics for metrics in there.values())
    ]


def frame(page: str, height: str) -> str:
    """Return a whole HTML page as part of a notebook: in a frame, so that its style stays out of the notebook's."""
    return f'<iframe srcdoc="{escape(page)}" style="width:100%;height:{height};border:0"></iframe>'


def short(text: str, most: int = _SHOWN_CHARACTERS) -> str:
    """Return a text on one line, cut to so many characters; a lone surrogate, which cannot be printed, is escaped."""
    line = " ".join(text.split()).encode("utf-8", "backslashreplace").decode("utf-8")
    return line if len(line) <= most else line[: most - 1] + "…"


def _cells(rows: Rows) -> list[list[str]]:
    """Return the names of the columns and the first rows as text, or nothing without rows; columns without any value go."""
    from unmask.reporting.format import cell

    names = [
        name for name in dict.fromkeys(_names(rows)) if any(_known(row.get(name)) is not None for row in rows)
    ]
    widths = [*[_SHOWN_CHARACTERS] * (len(names) - 1), _LAST_CHARACTERS]
    body = [
        [short(cell(_known(row.get(name))), most) for name, most in zip(names, widths, strict=True)]
        for row in rows[:_SHOWN_ROWS]
    ]
    return [names, *body] if names else []


def _known(value: object) -> object:
    """Return a value, or ``None`` for NaN."""
    return None if isinstance(value, float) and value != value else value


def _names(rows: Rows) -> Iterable[str]:
    return (name for row in rows for name in row)


def _left_out(rows: Rows) -> list[str]:
    left = len(rows) - _SHOWN_ROWS
    return [f"… and {plural(left, 'more row')}; to_pandas() has all"] if left > 0 else []
