"""The reference that `make docs` makes from the code: it covers all names, and its schemas fit what is written."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

REFERENCE = Path(__file__).parent.parent / "docs" / "reference.py"


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    return runpy.run_path(str(REFERENCE))


def test_every_verb_setting_and_public_name_has_its_place(reference: dict[str, Any]) -> None:
    import unmask
    from unmask.config.keys import Keys
    from unmask.config.settings import RunConfig

    pages = {name: "\n".join(lines) for name, lines in reference["pages"]().items()}
    verbs = "".join(text for name, text in pages.items() if name.startswith("cli-"))
    assert "## unmask train\n" in verbs
    assert "## unmask tokenizer extend\n" in verbs
    assert "| `--mask-rate N` | Share of the tokens that are masked." in verbs
    keys = [key.rpartition(".")[2] for key in Keys(RunConfig, {}).leaves]
    assert [key for key in keys if f"| `{key}` |" not in pages["settings"]] == []
    named = "".join(text for name, text in pages.items() if name.startswith("python-"))
    assert [name for name in unmask.__all__ if f"## {name}\n" not in named] == ["__version__"]
    assert "| 75 |" in pages["files"]
    assert "`literal tokens`" in pages["checks"]


def test_what_is_printed_fits_the_published_schemas(
    reference: dict[str, Any], checkpoint: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from unmask.cli.main import main

    def printed(*arguments: str) -> Any:
        assert main([*arguments, "--json", "--quiet"]) == 0
        return json.loads(capsys.readouterr().out)

    schemas = reference["schemas"]()
    model = str(checkpoint("bert"))
    jsonschema.validate(printed("fill", model, "The river [MASK] the [MASK]."), schemas["fill"])
    jsonschema.validate(printed("explain", model, "The river and the boat."), schemas["explain"])
    jsonschema.validate(printed("init", "--stdout"), schemas["settings"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"train": {"max_step": 5}}, schemas["settings"])
    check = {"name": "", "what": "", "measured": None, "tolerance": 0.0, "passed": False, "detail": ""}
    jsonschema.validate([check], schemas["conformance"])
    assert "/fill" in schemas["server"]["paths"]
