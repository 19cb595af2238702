"""HTML, XML and source code among plain text: said and counted, and read without tags if wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Messages

from unmask.checking.check import check_data
from unmask.config.settings import DocumentSettings
from unmask.data.reading import markup
from unmask.data.reading.documents import DocumentReader
from unmask.errors import DataError, MissingExtra

HTML = (
    "<!DOCTYPE html><html><head><title>Title</title><style>p { }</style></head><body>\n"
    "<p>One <b>bo</b>ld\nword &amp; Grüße&nbsp;日本</p><ul><li>two<li>three</ul><script>var x = 1;</script>"
    "<table><tr><td>four</td><td>five</td></tr></table><pre>six\n  seven</pre>eight<br>nine<!-- no --></body></html>"
)
HTML_TEXT = "Title\nOne bold word & Grüße 日本\ntwo\nthree\nfour five\nsix\nseven\neight\nnine"
XML = (
    '<?xml version="1.0" encoding="ISO-8859-1"?>\n<!DOCTYPE a [<!ENTITY e "entity">]>\n'
    '<x:a xmlns:x="u"><p>One <i>it</i>alic &e;\nline</p><p>two</p><!-- no --></x:a>'
)


def read(path: Path, content: str, **settings: Any) -> tuple[list[str], DocumentReader, list[str]]:
    path.write_text(content, encoding="utf-8")
    messages: list[str] = []
    reader = DocumentReader([path], DocumentSettings(**settings), progress=Messages(messages))
    return [document.text for document in reader], reader, messages


@pytest.mark.parametrize("name", ["a.html", "a.htm", "a.txt"])
def test_html_is_said_and_counted_or_stripped(tmp_path: Path, name: str) -> None:
    pytest.importorskip("lxml")
    kept, reader, messages = read(tmp_path / name, HTML)
    assert "<p>One" in "\n".join(kept)
    assert reader.stats.contents == {"HTML": 1}
    assert "holds HTML: read as text, with its tags; --markup strip" in messages[0]
    stripped, reader, messages = read(tmp_path / name, HTML, markup="strip")
    assert stripped == [HTML_TEXT]
    assert reader.stats.contents == {"HTML, stripped": 1}
    by_line, *_ = read(tmp_path / name, HTML, markup="strip", documents="line")
    assert by_line == HTML_TEXT.split("\n")


@pytest.mark.parametrize("name", ["a.xml", "a.txt"])
def test_xml_is_said_and_counted_or_stripped(tmp_path: Path, name: str) -> None:
    pytest.importorskip("lxml")
    _, reader, messages = read(tmp_path / name, XML)
    assert reader.stats.contents == {"XML": 1}
    assert "holds XML" in messages[0]
    assert read(tmp_path / name, XML, markup="strip")[0] == ["One italic entity line\ntwo"]
    with pytest.raises(DataError, match=r"a\.\w+:1: broken XML \(.*--markup keep"):
        read(tmp_path / name, '<?xml version="1.0"?><a><b></a>', markup="strip")


def test_xml_of_many_records_is_stripped_in_linear_time(tmp_path: Path) -> None:
    pytest.importorskip("lxml")
    records = [f"<row>text {number} <b>is</b> here</row>" for number in range(20_000)]
    ((found,), *_) = read(tmp_path / "a.xml", "<a>\n" + "\n".join(records) + "\n</a>", markup="strip")
    assert found.split("\n") == [f"text {number} is here" for number in range(20_000)]


def test_source_code_is_said_and_counted(tmp_path: Path) -> None:
    texts, reader, messages = read(
        tmp_path / "a.py", "def f():\n    return 1\n", markup="strip", documents="file"
    )
    assert texts == ["def f():\n    return 1"]
    assert reader.stats.contents == {"source code": 1}
    assert "a.py holds source code, which is read as text" in messages[0]


def test_check_finds_them(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(HTML, encoding="utf-8")
    (tmp_path / "b.py").write_text("x = 1\n", encoding="utf-8")
    found = [(item.level, item.text) for item in check_data([tmp_path]).findings if item.about == "contents"]
    assert found == [
        ("warning", "1 file of HTML read with the tags; --markup strip takes the text between them"),
        ("note", "1 file of source code read as text"),
    ]
    pytest.importorskip("lxml")
    stripped = check_data([tmp_path], DocumentSettings(markup="strip"))
    assert "--markup strip" in stripped.plan["commands"][-1]
    assert [item.level for item in stripped.findings if item.about == "contents"] == ["note"]


def test_without_the_extra_it_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lxml", None)
    with pytest.raises(MissingExtra, match=r"pip install 'unmask\[markup\]'"):
        read(tmp_path / "a.html", HTML, markup="strip")


def test_html_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lxml")
    monkeypatch.setattr(markup, "RECORD_LIMIT", 100)
    with pytest.raises(DataError, match="HTML of more than 100 characters"):
        read(tmp_path / "a.html", HTML, markup="strip")
