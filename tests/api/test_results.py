"""What results share: a short repr, escaped HTML, and a clear error without pandas."""

from __future__ import annotations

import math
import sys

import pytest

from unmask.errors import MissingExtra
from unmask.reporting.results import ResultList, Table


def test_repr_and_html_show_the_first_rows_and_say_how_many_are_left() -> None:
    rows = [
        {"name": f"<b>{number}</b>", "share": number / 3, "empty": None, "nan": math.nan}
        for number in range(20)
    ]
    table = Table("a & b", rows)
    lines = repr(table).splitlines()
    assert lines[:3] == ["a & b", "name       share", "<b>0</b>   0.000"]
    assert lines[-1] == "… and 8 more rows; to_pandas() has all"
    assert len(lines) == 15
    html = table._repr_html_()
    assert "a &amp; b" in html
    assert "<b>" not in html
    assert html.count("<tr>") == 13
    assert len(table.to_pandas()) == 20
    assert table.to_dict()[1]["share"] == 1 / 3


def test_a_list_is_one_table() -> None:
    results = ResultList([Table("one", [{"a": 1}]), Table("two", [{"a": 2}, {"b": 3}])])
    assert repr(results).splitlines() == ["2 × Table", "a  b", "1  –", "2  –", "–  3"]
    assert results.to_dict() == [[{"a": 1}], [{"a": 2}, {"b": 3}]]
    assert repr(ResultList[Table]()) == "no results"


def test_without_pandas_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match=r"to_pandas\(\) needs the package 'pandas': pip install pandas"):
        Table("one", [{"a": 1}]).to_pandas()


def test_a_text_that_cannot_be_encoded_is_shown_all_the_same() -> None:
    table = Table("one", [{"text": "half \ud800"}])
    assert repr(table).encode().splitlines()[-1] == rb"half \ud800"
    assert r"half \ud800" in table._repr_html_()
