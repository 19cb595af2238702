"""Masked language modelling for BERT-family encoders, from your own text.

The public names are loaded when they are first used, so that ``import unmask`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unmask.check import DataCheck, check_data
    from unmask.config import RunConfig, load_config
    from unmask.data.collator import MLMCollator
    from unmask.data.corpus import Corpus, open_corpus, prepare
    from unmask.data.documents import Document, DocumentReader
    from unmask.data.settings import DataSettings, DocumentSettings, MaskingSettings
    from unmask.data.tokenizer import load_tokenizer, train_tokenizer
    from unmask.demo import run_demo
    from unmask.errors import (
        ConfigError,
        DataError,
        DiskError,
        DivergedError,
        Interrupted,
        MissingExtra,
        UnmaskError,
    )
    from unmask.evaluation.comparison import Comparison, compare_models
    from unmask.evaluation.evaluation import Evaluation, EvaluationSettings, evaluate_models
    from unmask.evaluation.pair_files import PairReader
    from unmask.evaluation.pairs import Pair, PairFigures, compare_pairs
    from unmask.evaluation.probe import ProbeResult, ProbeSettings, probe
    from unmask.evaluation.scores import Score
    from unmask.evaluation.scoring import score
    from unmask.inference.explain import Explanation, explain
    from unmask.inference.fill import Candidate, FillMask, FillResult
    from unmask.model.load import load_masked_lm
    from unmask.model.masked_lm import MaskedLM
    from unmask.model.settings import ModelSettings
    from unmask.plan import Plan, plan
    from unmask.progress import Progress
    from unmask.report.page import write_report
    from unmask.run import RunResult, train
    from unmask.run_folder import RunFolder
    from unmask.training.settings import TrainSettings
    from unmask.vocabulary import ExtendedVocabulary, extend_vocabulary

__version__ = "0.1.0"

_HOMES = {
    "unmask.check": ("DataCheck", "check_data"),
    "unmask.config": ("RunConfig", "load_config"),
    "unmask.data.collator": ("MLMCollator",),
    "unmask.data.corpus": ("Corpus", "open_corpus", "prepare"),
    "unmask.data.documents": ("Document", "DocumentReader"),
    "unmask.data.settings": ("DataSettings", "DocumentSettings", "MaskingSettings"),
    "unmask.data.tokenizer": ("load_tokenizer", "train_tokenizer"),
    "unmask.demo": ("run_demo",),
    "unmask.errors": (
        "ConfigError",
        "DataError",
        "DiskError",
        "DivergedError",
        "Interrupted",
        "MissingExtra",
        "UnmaskError",
    ),
    "unmask.evaluation.comparison": ("Comparison", "compare_models"),
    "unmask.evaluation.evaluation": ("Evaluation", "EvaluationSettings", "evaluate_models"),
    "unmask.evaluation.pair_files": ("PairReader",),
    "unmask.evaluation.pairs": ("Pair", "PairFigures", "compare_pairs"),
    "unmask.evaluation.probe": ("ProbeResult", "ProbeSettings", "probe"),
    "unmask.evaluation.scores": ("Score",),
    "unmask.evaluation.scoring": ("score",),
    "unmask.inference.explain": ("Explanation", "explain"),
    "unmask.inference.fill": ("Candidate", "FillMask", "FillResult"),
    "unmask.model.load": ("load_masked_lm",),
    "unmask.model.masked_lm": ("MaskedLM",),
    "unmask.model.settings": ("ModelSettings",),
    "unmask.plan": ("Plan", "plan"),
    "unmask.progress": ("Progress",),
    "unmask.report.page": ("write_report",),
    "unmask.run": ("RunResult", "train"),
    "unmask.run_folder": ("RunFolder",),
    "unmask.training.settings": ("TrainSettings",),
    "unmask.vocabulary": ("ExtendedVocabulary", "extend_vocabulary"),
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
    "Plan",
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
    "compare_models",
    "compare_pairs",
    "evaluate_models",
    "explain",
    "extend_vocabulary",
    "load_config",
    "load_masked_lm",
    "load_tokenizer",
    "open_corpus",
    "plan",
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
