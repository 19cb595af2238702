"""The public names: a change here is a change for everybody who uses the library."""

from __future__ import annotations

import subprocess
import sys

import unmask

NAMES = """
    Candidate Comparison ConfigError Corpus DataCheck DataError DataSettings DiskError DivergedError Document
    DocumentReader DocumentSettings Evaluation EvaluationSettings Explanation ExtendedVocabulary FillMask FillResult
    Interrupted MLMCollator MaskedLM MaskingSettings MissingExtra ModelSettings Pair PairFigures PairReader DryRun
    ProbeResult ProbeSettings Progress RunConfig RunFolder RunResult Score TrainSettings UnmaskError __version__ check_data compare
    compare_pairs evaluate explain extend_vocabulary load_config load_tokenizer open_corpus dry_run prepare
    probe run_demo score train train_tokenizer write_report
""".split()


def test_the_public_names_are_these() -> None:
    assert sorted(unmask.__all__) == sorted(NAMES)


def test_every_public_name_loads_and_is_documented() -> None:
    for name in NAMES:
        value = getattr(unmask, name)
        assert name.startswith("__") or value.__doc__, name


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(unmask, "no_such_name")


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, unmask; print(*[m for m in ('torch', 'transformers', 'numpy', 'pydantic') if m in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert loaded == []
