"""The public names: a change here is a change for everybody who uses the library."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys

import unmask

FUNCTIONS = """
    bench check compare conformance convert demo evaluate explain export extend_tokenizer fill forecast load load_config
    masks pairs prepare probe probe_retrieval push report score terms train train_tokenizer trim_tokenizer
""".split()
CLASSES = """
    Callback Candidate Comparison ConfigError Corpus DataCheck DataError DataSettings DiskError DivergedError DocumentSettings
    Evaluation Explanation Export ExtendedVocabulary FillResult Forecast Interrupted Loss MLMCollator MaskedLanguageModelling MaskingSettings MissingExtra Model
    ModelSettings Objective PairMetrics ProbeResult Progress ProgressEvent Push RetrievalResult RunConfig RunEnd RunFolder RunResult RunStart Score TrainSettings
    TrimmedVocabulary UnmaskError
""".split()


def test_the_public_names_are_these() -> None:
    assert sorted(unmask.__all__) == sorted([*FUNCTIONS, *CLASSES, "__version__"])


def test_every_public_name_loads_and_is_documented() -> None:
    for name in FUNCTIONS:
        assert inspect.isfunction(getattr(unmask, name)), name
    for name in CLASSES:
        assert inspect.isclass(getattr(unmask, name)), name
    for name in [*FUNCTIONS, *CLASSES]:
        assert getattr(unmask, name).__doc__, name


def test_no_module_has_the_name_of_a_public_function() -> None:
    """Importing ``unmask.x`` sets the attribute ``x`` of the package: a module of that name would hide the function."""
    modules = [module.name for module in pkgutil.iter_modules(unmask.__path__)]
    assert not {*modules} & {*FUNCTIONS, *CLASSES}
    code = (
        "import importlib, inspect, pkgutil, unmask\n"
        "for module in pkgutil.walk_packages(unmask.__path__, 'unmask.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        f"print(*[name for name in {FUNCTIONS} if not inspect.isfunction(getattr(unmask, name))])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        == []
    )


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(unmask, "no_such_name")


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "numpy", "pydantic", "rich", "datasets")
    code = f"import sys, unmask; dir(unmask); print(*[m for m in {heavy} if m in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert loaded == []
