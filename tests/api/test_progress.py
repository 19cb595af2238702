"""Progress of the Python API: shown where somebody looks, off with False, or handed to a function."""

from __future__ import annotations

import logging
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from unmask.api.progress import ProgressEvent, shown
from unmask.errors import ConfigError
from unmask.progress import Progress


def work(progress: Progress) -> None:
    progress.log("a <choice>")
    progress.begin("train")
    progress.advance(0.5, {"loss": 3.21456})
    progress.end()
    progress.warning("text was skipped")


def test_a_function_is_called_with_each_event() -> None:
    events: list[ProgressEvent] = []
    with shown(events.append) as progress:
        work(progress)
    assert events == [
        ProgressEvent("log", text="a <choice>"),
        ProgressEvent("begin", "train"),
        ProgressEvent("advance", "train", 0.5, {"loss": 3.21456}),
        ProgressEvent("end", "train"),
        ProgressEvent("warning", text="text was skipped"),
    ]


def test_false_is_silent_and_an_object_is_used_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(False) as progress:
        work(progress)
    own = Progress()
    with shown(own) as progress:
        assert progress is own
    assert capsys.readouterr() == ("", "")


def test_something_else_is_an_error() -> None:
    with pytest.raises(ConfigError, match="not str"), shown("yes"):  # type: ignore[arg-type]
        pass


def test_off_a_terminal_only_warnings_are_seen(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), shown(None) as progress:
        work(progress)
    assert [record.message for record in caplog.records] == ["text was skipped"]
    caplog.clear()
    with caplog.at_level(logging.INFO, "unmask"), shown(None) as progress:
        work(progress)
    assert [record.message for record in caplog.records] == ["a <choice>", "text was skipped"]


def test_on_a_terminal_there_is_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    with shown(None) as progress:
        work(progress)
    printed = capsys.readouterr().err
    assert "train" in printed
    assert "loss 3.215" in printed


def test_in_a_notebook_one_output_is_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[str] = []

    class Handle:
        def update(self, shown: Any) -> None:
            pages.append(shown._repr_html_())

    def display(shown: Any, display_id: bool = False) -> Handle:
        assert display_id
        assert not pages, "there is one output"
        pages.append(shown._repr_html_())
        return Handle()

    ipython, module = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    module.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    with shown(None) as progress:
        work(progress)
    assert any("<progress" in page and 'value="0.5000"' in page and "loss 3.215" in page for page in pages)
    assert "a &lt;choice&gt;" in pages[-1]
    assert "warning: text was skipped" in pages[-1]
    assert "<progress" not in pages[-1]
