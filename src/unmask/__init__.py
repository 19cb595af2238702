"""Adapt, train, evaluate and use BERT-family encoders by masked language modelling.

>>> import unmask
>>> run = unmask.train("notes/", model="bert-base-uncased")
>>> run.model.fill("The patient was given [MASK] for the pain.")

A name is loaded when it is first used, so that ``import unmask`` is quick. The imports below are their only list.
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unmask.api.data import bench as bench
    from unmask.api.data import check as check
    from unmask.api.data import extend_tokenizer as extend_tokenizer
    from unmask.api.data import prepare as prepare
    from unmask.api.data import train_tokenizer as train_tokenizer
    from unmask.api.data import trim_tokenizer as trim_tokenizer
    from unmask.api.evaluation import compare as compare
    from unmask.api.evaluation import conformance as conformance
    from unmask.api.evaluation import evaluate as evaluate
    from unmask.api.evaluation import pairs as pairs
    from unmask.api.evaluation import probe as probe
    from unmask.api.evaluation import probe_retrieval as probe_retrieval
    from unmask.api.exporting import export as export
    from unmask.api.exporting import push as push
    from unmask.api.forecasting import forecast as forecast
    from unmask.api.masking import masks as masks
    from unmask.api.masking import terms as terms
    from unmask.api.model import Model as Model
    from unmask.api.model import convert as convert
    from unmask.api.model import explain as explain
    from unmask.api.model import fill as fill
    from unmask.api.model import load as load
    from unmask.api.model import score as score
    from unmask.api.progress import ProgressEvent as ProgressEvent
    from unmask.api.training import RunResult as RunResult
    from unmask.api.training import demo as demo
    from unmask.api.training import report as report
    from unmask.api.training import train as train
    from unmask.checking.results import DataCheck as DataCheck
    from unmask.config.load import load_config as load_config
    from unmask.config.settings import DataSettings as DataSettings
    from unmask.config.settings import DocumentSettings as DocumentSettings
    from unmask.config.settings import MaskingSettings as MaskingSettings
    from unmask.config.settings import ModelSettings as ModelSettings
    from unmask.config.settings import RunConfig as RunConfig
    from unmask.config.settings import TrainSettings as TrainSettings
    from unmask.data.collator import MLMCollator as MLMCollator
    from unmask.data.corpus import Corpus as Corpus
    from unmask.errors import ConfigError as ConfigError
    from unmask.errors import DataError as DataError
    from unmask.errors import DiskError as DiskError
    from unmask.errors import DivergedError as DivergedError
    from unmask.errors import Interrupted as Interrupted
    from unmask.errors import MissingExtra as MissingExtra
    from unmask.errors import UnmaskError as UnmaskError
    from unmask.evaluation.compare import Comparison as Comparison
    from unmask.evaluation.evaluate import Evaluation as Evaluation
    from unmask.exporting.export import Export as Export
    from unmask.exporting.push import Push as Push
    from unmask.forecasting.forecast import Forecast as Forecast
    from unmask.inference.explanation import Explanation as Explanation
    from unmask.inference.results import Candidate as Candidate
    from unmask.inference.results import FillResult as FillResult
    from unmask.objectives.mlm import MaskedLanguageModelling as MaskedLanguageModelling
    from unmask.objectives.objective import Loss as Loss
    from unmask.objectives.objective import Objective as Objective
    from unmask.probing.results import ProbeResult as ProbeResult
    from unmask.probing.retrieval import RetrievalResult as RetrievalResult
    from unmask.progress import Progress as Progress
    from unmask.run.callbacks import Callback as Callback
    from unmask.run.callbacks import RunEnd as RunEnd
    from unmask.run.callbacks import RunStart as RunStart
    from unmask.run_folder import RunFolder as RunFolder
    from unmask.scoring.pairs import PairMetrics as PairMetrics
    from unmask.scoring.results import Score as Score
    from unmask.vocabulary.extend import ExtendedVocabulary as ExtendedVocabulary
    from unmask.vocabulary.trim import TrimmedVocabulary as TrimmedVocabulary

__version__ = "0.1.0"


def _modules() -> dict[str, str]:
    """Return the module of each public name, read from the imports above."""
    (block,) = (
        node
        for node in ast.parse(Path(__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.If)
    )
    return {
        alias.name: str(line.module)
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }


_MODULES = _modules()
__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'unmask' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
