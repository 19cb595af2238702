"""What the tests of objectives share."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from unmask.run_folder import RunFolder


@pytest.fixture
def run_card(capsys: pytest.CaptureFixture[str]) -> Callable[[RunFolder], str]:
    """Return `run(folder) -> str`: run the code of a model card on the model that it describes, and return what it prints."""

    def run(folder: RunFolder) -> str:
        card = (folder.model / "README.md").read_text(encoding="utf-8")
        capsys.readouterr()
        for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
            exec(compile(code.replace("path/to/this/folder", str(folder.model)), "card", "exec"), {})
        return capsys.readouterr().out

    return run
