"""The layers of the package, read from the source: imports run down, and no modules import each other in a circle.

Nothing is imported here. Imports inside functions and under `TYPE_CHECKING` count as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "unmask"

# From the bottom up. A package stands for its modules; each layer may import itself and those below.
LAYERS = {
    "base": "errors machine progress",
    "files and settings": "storage remote run_folder config",
    "data": "data",
    "reporting": "reporting",
    "model": "model",
    "objectives": "objectives",
    "training, inference, scoring, vocabulary": "training inference scoring vocabulary",
    "evaluation": "evaluation",
    "run, probing, promises, serving, exporting": "run probing promises serving exporting",
    "checking, benchmark, forecasting": "checking benchmark forecasting",
    "public names": "api",
    "command line": "cli __main__",
}
RANKS = {layer: rank for rank, layer in enumerate(LAYERS)}
ROOMS = {room: layer for layer, rooms in LAYERS.items() for room in rooms.split()} | {"": "public names"}

# Rooms of one layer that never import each other.
APART = {frozenset(pair) for pair in (("training", "inference"), ("training", "scoring"), ("run", "probing"))}


class Import(NamedTuple):
    """One import of one of our modules by another."""

    importer: str
    line: int
    imported: str


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
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        for target in targets(node, package, known):
            yield Import(name, node.lineno, target)


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


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def layer_of(module: str) -> str | None:
    return ROOMS.get(room_of(module))


def error(item: Import) -> str | None:
    """Say what is wrong with an import, if anything is; both modules have a layer."""
    lower, upper = layer_of(item.imported), layer_of(item.importer)
    assert lower is not None
    assert upper is not None
    where = f"{item.importer}:{item.line} imports {item.imported}"
    if RANKS[lower] > RANKS[upper]:
        return f"{where}: '{upper}' is below '{lower}'"
    rooms = frozenset({room_of(item.importer), room_of(item.imported)})
    return f"{where}: {' and '.join(sorted(rooms))} never import each other" if rooms in APART else None


def errors(source: Path) -> list[str]:
    """Return what is wrong with the layers of the package in the folder `source`, one line each."""
    found = modules(source)
    homeless = [name for name in found if layer_of(name) is None]
    if homeless:
        return [
            f"{name} has no layer: give it its place in LAYERS of {Path(__file__).name}" for name in homeless
        ]
    return [text for item in all_imports(found) if (text := error(item))]


def all_imports(found: dict[str, Path]) -> list[Import]:
    return [item for name, path in found.items() for item in imports(name, path, set(found))]


def circle(source: Path) -> list[str]:
    """Return the modules of a circle of imports, its first one repeated at the end, or an empty list."""
    found = modules(source)
    graph: dict[str, set[str]] = {name: set() for name in found}
    for item in all_imports(found):
        graph[item.importer].add(item.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))  # graphlib lists each after what it imports
    return []


def test_imports_run_down_the_layers() -> None:
    assert {"unmask.errors", "unmask.config.settings"} <= set(modules(SOURCE)), f"no package at {SOURCE}"
    assert not (found := errors(SOURCE)), "\n" + "\n".join(found)


def test_no_module_imports_itself_in_a_circle() -> None:
    found = circle(SOURCE)
    assert not found, " -> ".join(found)


# --- the check itself can fail ------------------------------------------------------------------------------------


def package(folder: Path, **files: str) -> Path:
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
        ("errors", "from unmask.config.settings import X", "config__settings"),
        ("config__settings", "import unmask.data.corpus", "data__corpus"),
        ("data__corpus", "import unmask.model.load", "model__load"),
        ("data__corpus", "from ..model import load", "model__load"),
        ("model__load", "from ..training import loop", "training__loop"),
        ("evaluation__heldout", "def f():\n    from unmask.run import train", "run__train"),
        ("inference__fill", "if True:\n    import unmask.training.loop as r", "training__loop"),
        ("scoring__scorer", "from unmask.training.loop import Loop", "training__loop"),
        ("reporting__page", "import unmask.training.loop", "training__loop"),
        ("reporting__page", "from ..run import demo", "run__demo"),
        ("run__train", "from unmask.checking import check, findings", "checking__check"),
        ("run__demo", "class A:\n    from unmask.cli.main import main", "cli__main"),
        ("run__train", "import unmask.probing.probe", "probing__probe"),
        ("data__corpus", "from unmask import __version__", "data____init__"),
        ("checking__check", "from unmask.api.texts import TextFiles", "api__texts"),
    ],
)
def test_an_import_upwards_or_sideways_is_found(
    tmp_path: Path, importer: str, text: str, imported: str
) -> None:
    if imported == "data____init__":  # what is no module of the package comes from its __init__
        source = package(tmp_path, **{importer: text})
        (source / "__init__.py").write_text("__version__ = '1'\n", encoding="utf-8")
        expected = "imports unmask:"
    else:
        source = package(tmp_path, **{importer: text, imported: ""})
        expected = f"imports unmask.{imported.replace('__', '.')}:"
    (found,) = errors(source)
    assert found.startswith(f"unmask.{importer.replace('__', '.')}:")
    assert expected in found


@pytest.mark.parametrize(
    ("importer", "text", "imported"),
    [
        ("data__corpus", "from unmask.errors import DataError", "errors"),
        ("model__load", "from unmask.data.batches import Batch", "data__batches"),
        ("model__load", "from unmask.config.settings import DataSettings", "config__settings"),
        ("config__load", "from unmask.config.settings import TrainSettings", "config__settings"),
        ("evaluation__heldout", "from unmask.inference import fill", "inference__fill"),
        ("cli__train", "def train():\n    from unmask.run.demo import run_demo", "run__demo"),
    ],
)
def test_an_import_downwards_is_allowed(tmp_path: Path, importer: str, text: str, imported: str) -> None:
    source = package(tmp_path, **{importer: text, imported: ""})
    assert [item.imported for item in all_imports(modules(source))] == [
        f"unmask.{imported.replace('__', '.')}"
    ]
    assert errors(source) == []


def test_a_module_without_a_layer_is_named(tmp_path: Path) -> None:
    (found,) = errors(package(tmp_path, attic="", errors=""))
    assert found == "unmask.attic has no layer: give it its place in LAYERS of test_layers.py"


def test_a_circle_is_named_in_the_order_of_its_imports(tmp_path: Path) -> None:
    source = package(
        tmp_path,
        data__a="import unmask.data.b",
        data__b="from unmask.data import c",
        data__c="from .a import x",
    )
    found = circle(source)
    assert len(found) == 4
    assert set(found) == {"unmask.data.a", "unmask.data.b", "unmask.data.c"}
    assert "unmask.data.a unmask.data.b" in " ".join(found + found[1:])


def test_a_circle_through_a_function_is_found(tmp_path: Path) -> None:
    source = package(
        tmp_path, data__a="import unmask.data.b", data__b="def f():\n    from unmask.data import a"
    )
    assert len(circle(source)) == 3
