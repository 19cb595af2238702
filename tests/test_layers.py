"""The layers of the house, read from the source: imports run down, and no two modules import each other in a circle.

Nothing is imported here. Imports inside functions count for the layers; for circles only those count that run when
the module is imported (and those under `TYPE_CHECKING`: two modules that need each other's types are one module).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "unmask"

# From the bottom up; the first pattern that fits is the layer of a module, which may import its own layer and those
# below. A new module that fits none has to be given its place here.
LAYERS = {
    "base": "unmask.errors unmask.config.base unmask.config.keys unmask.run.energy unmask.progress unmask.benchmark.stopwatch unmask.run_folder unmask.config.yaml_text",
    "settings of the parts": "unmask.*.settings",
    "data and model": "unmask.data unmask.data.* unmask.model unmask.model.*",
    "config": "unmask.config.load",
    "training, evaluation, inference": (
        "unmask.training unmask.training.* unmask.evaluation unmask.evaluation.* unmask.inference unmask.inference.*"
    ),
    "report": "unmask.report unmask.report.*",
    "run": "unmask.run.components unmask.run.fingerprint unmask.run.train unmask.run.assemble unmask.run.adaptation unmask.run.results unmask.run.lock unmask.run.signals unmask.run.disk unmask.run.failures unmask.vocabulary.extend unmask.run.dry_run unmask.checking.check unmask.checking.findings unmask.checking.advice unmask.benchmark.bench unmask.benchmark.flops unmask.promises.checks unmask.promises.case",
    "demo": "unmask.run.demo",
    "public names": "unmask",
    "terminal": "unmask.cli.terminal unmask.cli.draw_inference unmask.cli.draw_bench unmask.cli.draw_masks unmask.cli.draw_check unmask.cli.runtime unmask.cli.draw_evaluation unmask.cli.draw_scoring unmask.cli.draw_vocabulary unmask.cli.draw_probe",
    "command line": "unmask.cli.options unmask.cli.inference unmask.cli.evaluate unmask.cli.scoring unmask.cli.bench unmask.cli.masking unmask.cli.train unmask.cli.check unmask.cli.vocabulary unmask.cli.probe unmask.cli.main unmask.__main__",
}
RANKS = {layer: rank for rank, layer in enumerate(LAYERS)}

# Between neighbours of one layer: who never imports whom, with the exceptions.
APART = {
    ("unmask.data", "unmask.model"): set(),
    ("unmask.model", "unmask.data"): {"unmask.data.batches", "unmask.data.tokenizer"},
    ("unmask.evaluation", "unmask.training"): set(),
    ("unmask.inference", "unmask.training"): set(),
}


class Import(NamedTuple):
    """One import of one of our modules by another."""

    importer: str
    line: int
    imported: str
    at_once: bool  # when the importer is imported, not when one of its functions is called


def modules(source: Path) -> dict[str, Path]:
    """Return every module of the package in the folder `source`, by its dotted name."""
    found = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: set[str]) -> Iterator[Import]:
    """Yield the imports of modules in `known`, wherever they stand in the file."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    later = {inner for node in ast.walk(tree) if isinstance(node, functions) for inner in ast.walk(node)}
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        for target in targets(node, package, known):
            yield Import(name, node.lineno, target, node not in later)


def targets(node: ast.AST, package: str, known: set[str]) -> Iterator[str]:
    """Yield the modules in `known` that one statement imports, seen from `package`."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        # A name in a package is a module of it, or something that its __init__ holds.
        names = {f"{base}.{alias.name}" for alias in node.names}
        yield from sorted(known & {name if name in known else base for name in names})


def layer_of(module: str) -> str | None:
    return next((layer for layer, names in LAYERS.items() if fits(module, names.split())), None)


def fits(module: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(module, pattern) for pattern in patterns)


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def fault(item: Import) -> str | None:
    """Say what is wrong with an import, if anything is; both modules have a layer."""
    lower, upper = layer_of(item.imported), layer_of(item.importer)
    assert lower is not None
    assert upper is not None
    where = f"{item.importer}:{item.line} imports {item.imported}"
    if RANKS[lower] > RANKS[upper]:
        return f"{where}: '{upper}' is below '{lower}'"
    if RANKS[lower] < RANKS["data and model"]:
        return None
    for (package, other), allowed in APART.items():
        if inside(item.importer, package) and inside(item.imported, other) and item.imported not in allowed:
            return (
                f"{where}: {package} never imports {' '.join([other, *(f'but {name}' for name in allowed)])}"
            )
    return None


def faults(source: Path) -> list[str]:
    """Return what is wrong with the layers of the package in the folder `source`, one line each."""
    found = modules(source)
    homeless = [name for name in found if layer_of(name) is None]
    if homeless:
        return [
            f"{name} has no layer: give it its place in LAYERS of {Path(__file__).name}" for name in homeless
        ]
    return [text for item in all_imports(found) if (text := fault(item))]


def all_imports(found: dict[str, Path]) -> list[Import]:
    return [item for name, path in found.items() for item in imports(name, path, set(found))]


def circle(source: Path) -> list[str]:
    """Return the modules of a circle of imports, its first one repeated at the end, or an empty list."""
    found = modules(source)
    graph: dict[str, set[str]] = {name: set() for name in found}
    for item in all_imports(found):
        if item.at_once:
            graph[item.importer].add(item.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))  # graphlib lists each after what it imports
    return []


def test_imports_run_down_the_layers() -> None:
    assert {"unmask.errors", "unmask.config.data"} <= set(modules(SOURCE)), f"no house at {SOURCE}"
    assert not (found := faults(SOURCE)), "\n" + "\n".join(found)


def test_no_module_imports_itself_in_a_circle() -> None:
    found = circle(SOURCE)
    assert not found, " -> ".join(found)


# --- the check itself can fail ------------------------------------------------------------------------------------


def house(folder: Path, **files: str) -> Path:
    """Write a package `unmask` of the given modules (`data__corpus` is unmask/data/corpus.py) and return its folder."""
    for name, text in files.items():
        path = folder / "unmask" / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "unmask"


@pytest.mark.parametrize(
    ("importer", "text", "imported"),
    [
        ("errors", "from unmask.data import corpus", "data__corpus"),
        ("errors", "from unmask.config.data import X", "data__settings"),
        ("data__settings", "import unmask.config.load", "config"),
        ("data__corpus", "import unmask.model.load", "model__load"),
        ("model__load", "from unmask.data.corpus import Corpus", "data__corpus"),
        ("model__load", "from ..data import corpus", "data__corpus"),
        ("config", "import unmask.training.run", "training__run"),
        ("evaluation__heldout", "def f():\n    from unmask.training import run", "training__run"),
        ("inference__fill", "if True:\n    import unmask.training.run as r", "training__run"),
        ("training__run", "import unmask.reporting.page", "report__page"),
        ("report__page", "from .. import demo", "demo"),
        ("training__loop", "from unmask.run.train import train", "run"),
        ("report__page", "from unmask import demo, errors", "demo"),
        ("training__run", "import unmask.cli.terminal", "terminal"),
        ("demo", "class A:\n    from unmask.cli.main import main", "cli"),
        ("data__corpus", "from unmask import __version__", "data____init__"),
    ],
)
def test_an_import_upwards_or_sideways_is_found(
    tmp_path: Path, importer: str, text: str, imported: str
) -> None:
    if imported == "data____init__":  # what is no module of the package comes from its __init__
        source = house(tmp_path, **{importer: text})
        (source / "__init__.py").write_text("__version__ = '1'\n", encoding="utf-8")
        expected = "imports unmask:"
    else:
        source = house(tmp_path, **{importer: text, imported: ""})
        expected = f"imports unmask.{imported.replace('__', '.')}:"
    (found,) = faults(source)
    assert found.startswith(f"unmask.{importer.replace('__', '.')}:")
    assert expected in found


@pytest.mark.parametrize(
    ("importer", "text", "imported"),
    [
        ("data__corpus", "from unmask.errors import DataError", "errors"),
        ("model__load", "from unmask.data.batches import Batch", "data__batches"),
        ("model__load", "from unmask.config.data import DataSettings", "data__settings"),
        ("config", "from unmask.config.training import TrainSettings", "training__settings"),
        ("evaluation__heldout", "from unmask.config.training import TrainSettings", "training__settings"),
        ("training__run", "from unmask.evaluation import heldout", "evaluation__heldout"),
        ("cli", "def train():\n    from unmask.run.demo import run_demo", "demo"),
    ],
)
def test_an_import_downwards_is_allowed(tmp_path: Path, importer: str, text: str, imported: str) -> None:
    source = house(tmp_path, **{importer: text, imported: ""})
    assert [item.imported for item in all_imports(modules(source))] == [
        f"unmask.{imported.replace('__', '.')}"
    ]
    assert faults(source) == []


def test_a_module_without_a_layer_is_named(tmp_path: Path) -> None:
    (found,) = faults(house(tmp_path, attic="", errors=""))
    assert found == "unmask.attic has no layer: give it its place in LAYERS of test_layers.py"


def test_a_circle_is_named_in_the_order_of_its_imports(tmp_path: Path) -> None:
    source = house(
        tmp_path,
        data__a="import unmask.data.b",
        data__b="from unmask.data import c",
        data__c="from .a import x",
    )
    found = circle(source)
    assert len(found) == 4
    assert set(found) == {"unmask.data.a", "unmask.data.b", "unmask.data.c"}
    assert "unmask.data.a unmask.data.b" in " ".join(found + found[1:])


def test_a_circle_that_is_cut_by_a_function_is_none(tmp_path: Path) -> None:
    source = house(
        tmp_path, data__a="import unmask.data.b", data__b="def f():\n    from unmask.data import a"
    )
    assert circle(source) == []
