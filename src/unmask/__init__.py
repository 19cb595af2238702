"""Masked language modelling for BERT-family encoders, from your own text.

The public names are loaded when they are first used, so that ``import unmask`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unmask.checking.check import DataCheck, check_data
    from unmask.config.load import load_config
    from unmask.config.settings import (
        DataSettings,
        DocumentSettings,
        MaskingSettings,
        ModelSettings,
        RunConfig,
        TrainSettings,
    )
    from unmask.data.collator import MLMCollator
    from unmask.data.corpus import Corpus, open_corpus, prepare
    from unmask.data.reading.documents import Document, DocumentReader
    from unmask.data.tokenizer import load_tokenizer, train_tokenizer
    from unmask.errors import (
        ConfigError,
        DataError,
        DiskError,
        DivergedError,
        Interrupted,
        MissingExtra,
        UnmaskError,
    )
    from unmask.evaluation.compare import Comparison, compare
    from unmask.evaluation.evaluate import Evaluation, EvaluationSettings, evaluate
    from unmask.inference.explain import Explanation, explain
    from unmask.inference.fill import Candidate, FillMask, FillResult
    from unmask.model.masked_lm import MaskedLM
    from unmask.probing.probe import ProbeResult, ProbeSettings, probe
    from unmask.progress import Progress
    from unmask.reporting.page import write_report
    from unmask.run.demo import run_demo
    from unmask.run.dry_run import DryRun, dry_run
    from unmask.run.train import RunResult, train
    from unmask.run_folder import RunFolder
    from unmask.scoring.pair_files import PairReader
    from unmask.scoring.pairs import Pair, PairFigures, compare_pairs
    from unmask.scoring.results import Score
    from unmask.scoring.scorer import score
    from unmask.vocabulary.extend import ExtendedVocabulary, extend_vocabulary

__version__ = "0.1.0"

_HOMES = {
    "unmask.checking.check": ("DataCheck", "check_data"),
    "unmask.config.load": ("load_config",),
    "unmask.data.collator": ("MLMCollator",),
    "unmask.data.corpus": ("Corpus", "open_corpus", "prepare"),
    "unmask.data.reading.documents": ("Document", "DocumentReader"),
    "unmask.config.settings": (
        "DataSettings",
        "DocumentSettings",
        "DryRun",
        "MaskingSettings",
        "ModelSettings",
        "RunConfig",
        "TrainSettings",
    ),
    "unmask.data.tokenizer": ("load_tokenizer", "train_tokenizer"),
    "unmask.run.demo": ("run_demo",),
    "unmask.errors": (
        "ConfigError",
        "DataError",
        "DiskError",
        "DivergedError",
        "Interrupted",
        "MissingExtra",
        "UnmaskError",
    ),
    "unmask.evaluation.compare": ("Comparison", "compare"),
    "unmask.evaluation.evaluate": ("Evaluation", "EvaluationSettings", "evaluate"),
    "unmask.scoring.pair_files": ("PairReader",),
    "unmask.scoring.pairs": ("Pair", "PairFigures", "compare_pairs"),
    "unmask.probing.probe": ("ProbeResult", "ProbeSettings", "probe"),
    "unmask.scoring.results": ("Score",),
    "unmask.scoring.scorer": ("score",),
    "unmask.inference.explain": ("Explanation", "explain"),
    "unmask.inference.fill": ("Candidate", "FillMask", "FillResult"),
    "unmask.model.masked_lm": ("MaskedLM",),
    "unmask.run.dry_run": ("DryRun", "dry_run"),
    "unmask.progress": ("Progress",),
    "unmask.reporting.page": ("write_report",),
    "unmask.run.train": ("RunResult", "train"),
    "unmask.run_folder": ("RunFolder",),
    "unmask.vocabulary.extend": ("ExtendedVocabulary", "extend_vocabulary"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Candidate",
    "Comparison",
    "ConfigError",
    "Corpus",
    "DataCheck",
    "DataError",
    "DataSettings",
    "DiskError",
    "DivergedError",
    "Document",
    "DocumentReader",
    "DocumentSettings",
    "DryRun",
    "Evaluation",
    "EvaluationSettings",
    "Explanation",
    "ExtendedVocabulary",
    "FillMask",
    "FillResult",
    "Interrupted",
    "MLMCollator",
    "MaskedLM",
    "MaskingSettings",
    "MissingExtra",
    "ModelSettings",
    "Pair",
    "PairFigures",
    "PairReader",
    "ProbeResult",
    "ProbeSettings",
    "Progress",
    "RunConfig",
    "RunFolder",
    "RunResult",
    "Score",
    "TrainSettings",
    "UnmaskError",
    "__version__",
    "check_data",
    "compare",
    "compare_pairs",
    "dry_run",
    "evaluate",
    "explain",
    "extend_vocabulary",
    "load_config",
    "load_tokenizer",
    "open_corpus",
    "prepare",
    "probe",
    "run_demo",
    "score",
    "train",
    "train_tokenizer",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'unmask' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
