"""The JSON that verbs print, as types, and all types that are published, with those of ``verb_documents.py`` and
``run_documents.py``.

``docs/reference.py`` makes the published JSON Schemas of them, and ``tests/test_reference.py`` compares what is written
with them, key by key. A number that is NaN or infinite is ``null``. New keys may come; those that are here stay.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from unmask.reporting.run_documents import (
    Baseline,
    Estimate,
    Interval,
    Row,
    RunAdaptation,
    RunEvaluation,
    RunInfo,
    Verdict,
)
from unmask.reporting.verb_documents import (
    ConvertDocument,
    DryRunDocument,
    ExportDocument,
    ExtendedDocument,
    InitDocument,
    MasksDocument,
    NewTokenizerDocument,
    PreparedDocument,
    PushDocument,
    ReportDocument,
    ServeDocument,
    TermsDocument,
    TrimmedDocument,
)


class TrainDocument(TypedDict):
    """``unmask train --json``: where the run is, and its metrics."""

    run: str
    model: str
    report: str
    steps: int
    tokens: int
    seconds: float
    loss: float | None
    evaluation: RunEvaluation | None
    verdict: Verdict | None
    read: dict[str, Any] | None


class EvaluationTable(TypedDict):
    """Metrics by group of masked tokens; a row has a label and the metrics."""

    title: str
    note: str
    labels: list[str]
    rows: list[dict[str, Any]]


class EvaluationDocument(TypedDict):
    """``unmask eval --json`` of one model; of several, a list of these under ``models``."""

    model: str
    label: str
    loss: float
    perplexity: float
    accuracy: float
    accuracy_at_5: float
    accuracy_at_10: float
    mean_reciprocal_rank: float
    intervals: dict[str, Interval]
    masked_tokens: int
    tokens: int
    documents: int
    data: list[str]
    masks: str
    mask_rate: float
    strategy: str
    mask_share: float
    random_share: float
    max_length: int
    precision: str
    parameters: int
    vocabulary: int
    tokenizer: str
    unknown_tokens: int
    read: dict[str, Any]
    positions: str
    tables: dict[str, EvaluationTable]
    calibration: dict[str, Any]
    baselines: dict[str, Baseline] | None
    baselines_fitted_on: str | None
    interval: str
    notes: list[str]


class EvaluationsDocument(TypedDict):
    """``unmask eval --json`` of several models."""

    models: list[EvaluationDocument]


class ComparisonDocument(TypedDict):
    """``unmask compare --json``. With one tokenizer: ``difference``, ``tables``, ``a`` and ``b``, at the same masked tokens;
    with two: ``words`` and ``bits_per_byte``.
    """

    models: list[str]
    labels: list[str]
    one_tokenizer: bool
    verdict: str
    level: float
    interval: str
    notes: list[str]
    masked_tokens: NotRequired[int]
    documents: NotRequired[int]
    difference: NotRequired[dict[str, Estimate]]
    tables: NotRequired[dict[str, Any]]
    a: NotRequired[EvaluationDocument]
    b: NotRequired[EvaluationDocument]
    positions: NotRequired[str]
    data: NotRequired[list[str]]
    max_length: NotRequired[int]
    words: NotRequired[dict[str, Any]]
    bits_per_byte: NotRequired[dict[str, Any]]


class TextScore(TypedDict):
    """The score of a text: natural log-probabilities, ``null`` where it could not be scored. Lines of ``-o`` are the same."""

    text: str
    pll: float | None
    tokens: int
    words: int
    bytes: int
    method: str
    unknown: int
    per_token: float | None
    per_word: float | None
    per_byte: float | None
    bits_per_byte: float | None
    token_scores: NotRequired[list[dict[str, Any]]]
    word_scores: NotRequired[list[dict[str, Any]]]
    file: NotRequired[str]
    line: NotRequired[int | None]


class PairCounts(TypedDict):
    """Pairs whose good text is more probable; ``paradigm``, ``term`` and ``file`` say which pairs."""

    accuracy: float
    interval: list[float]
    pairs: int
    ties: int
    paradigm: NotRequired[str]
    term: NotRequired[str | None]
    file: NotRequired[str | None]


class PairsDocument(PairCounts):
    """``unmask pairs --json`` of one model; of several, a list of these under ``models``."""

    model: str
    method: str
    interval_method: str
    mean_of_paradigms: float
    skipped: int
    table: list[PairCounts]
    terms: list[PairCounts]
    blank_lines: int


class Finding(TypedDict):
    """One thing to know about a text."""

    level: Literal["problem", "warning", "note", "ok"]
    about: str
    text: str


class CheckDocument(TypedDict):
    """``unmask check --json``. The findings are made of the other parts."""

    verdict: Literal["ok", "warning", "problem"]
    findings: list[Finding]
    inputs: list[str]
    test: list[str]
    model: str | None
    read: dict[str, Any]
    unreadable: list[dict[str, str]]
    text: dict[str, Any]
    lengths: dict[str, Any]
    limit: dict[str, Any] | None
    duplicates: dict[str, Any]
    leakage: dict[str, Any] | None
    vocabulary: dict[str, Any] | None
    plan: dict[str, Any]


class ProbeDocument(TypedDict):
    """``unmask probe --json``, of a labelled task or of retrieval; metrics from 0 to 1."""

    task: dict[str, Any]
    metric: str
    precision: str
    pool: str | None
    models: list[dict[str, Any]]
    verdicts: list[dict[str, Any]]
    baselines: dict[str, dict[str, Any]]
    interval: str
    notes: list[str]
    seeds: NotRequired[int]
    a_seed: NotRequired[dict[str, str]]


class Expected(TypedDict):
    """A median, and the ends of its 90% interval."""

    value: float
    interval: list[float]


class ProbingRunPlan(TypedDict):
    """A probing run: what it varies, its steps, shares of the text and of replay, and the factor of its learning rate."""

    purpose: Literal["length", "repeats", "replay", "rate"]
    steps: int
    text_share: float
    replay_share: float
    rate: float


class ProbingRunResult(ProbingRunPlan):
    """A probing run that ended: its tokens, those of one pass over its text, and the losses."""

    tokens: int
    domain_tokens: int
    text_tokens: int
    seconds: float
    domain: float
    general: NotRequired[float]


class ForecastPlan(TypedDict):
    """What ``--plan`` repeats."""

    runs: list[ProbingRunPlan]
    eval_tokens: int


class ForecastBase(TypedDict):
    """Loss of the base on each text, with 90% intervals."""

    domain: Estimate
    general: NotRequired[Estimate]


class FittedLaw(TypedDict):
    """Whether a law holds, or why not; its parameters, and its error in nats."""

    decision: Literal["forecast", "cannot tell", "unknown"]
    reasons: list[str]
    law: NotRequired[dict[str, Expected]]
    error: NotRequired[float]
    backtest: NotRequired[dict[str, Any] | None]


class ForecastReplay(TypedDict):
    """The replay share of the highest expected net gain, those as good, and what the planned share brings."""

    best: float
    as_good: list[float]
    share: float
    domain: Expected
    forgetting: Expected
    net_gain: Expected
    shares: list[dict[str, float]]


class MoreText(TypedDict):
    """What more text would change at the same number of tokens trained on, and how many tokens of text are enough."""

    used_up: bool
    rows: list[dict[str, Any]]
    enough: Expected | None


class Horizon(TypedDict):
    """The forecast for some times the tokens of the longest probing run; ``reason`` says why there is none."""

    factor: float
    tokens: int
    passes: float
    steps: int
    seconds: float
    domain: Expected | None
    change: Expected | None
    forgetting: Expected | None
    replay: ForecastReplay | None
    more_text: MoreText | None
    reason: str | None


class Passes(TypedDict):
    """After how many passes another one no longer helps; an open end is ``null``. ``limit``: as far as the forecast reaches."""

    value: int | None
    interval: list[int | None] | None
    limit: float


class CurvePoint(TypedDict):
    """The forecast at some tokens, without replay."""

    tokens: float
    domain: Expected
    forgetting: Expected | None


class RateComparison(TypedDict):
    """Relative change of the losses at another learning rate, against a run of the same length."""

    factor: float
    tokens: int
    domain: Expected
    general: NotRequired[Expected]


class ForecastDocument(TypedDict):
    """``unmask forecast --json``. Losses in nats per token; a forecast that cannot be made is ``null``."""

    model: str
    text: dict[str, int]
    settings: dict[str, Any]
    minutes: float | None
    seconds: float
    seconds_per_step: float
    plan: ForecastPlan
    base: ForecastBase
    probes: list[ProbingRunResult]
    domain: FittedLaw
    forgetting: FittedLaw
    horizons: list[Horizon]
    passes: Passes | None
    curve: list[CurvePoint]
    rates: list[RateComparison]
    notes: list[str]
    commands: list[str]


DOCUMENTS: dict[str, tuple[str, Any]] = {
    "train": ("`unmask train --json` and `unmask demo --json`", TrainDocument),
    "dry-run": ("`unmask train --dry-run --json`", DryRunDocument),
    "report": ("`unmask report --json`", ReportDocument),
    "eval": ("`unmask eval --json`", EvaluationDocument | EvaluationsDocument),
    "compare": ("`unmask compare --json`", ComparisonDocument),
    "score": ("a text of `unmask score --json` (`scores`), and a line of its `-o`", TextScore),
    "pairs": ("`unmask pairs --json`", PairsDocument),
    "check": ("`unmask check --json`", CheckDocument),
    "probe": ("`unmask probe --json`", ProbeDocument),
    "forecast": ("`unmask forecast --json`", ForecastDocument),
    "masks": ("`unmask masks --json`", MasksDocument),
    "terms": ("`unmask terms --json`", TermsDocument),
    "prepare": ("`unmask prepare --json`", PreparedDocument),
    "tokenizer-train": ("`unmask tokenizer train --json`", NewTokenizerDocument),
    "tokenizer-extend": ("`unmask tokenizer extend --json`", ExtendedDocument),
    "tokenizer-trim": ("`unmask tokenizer trim --json`", TrimmedDocument),
    "export": ("`unmask export --json`", ExportDocument),
    "push": ("`unmask push --json`", PushDocument),
    "init": ("`unmask init --json`; with `--stdout` a settings file", InitDocument),
    "convert": ("`unmask convert --json`", ConvertDocument),
    "serve": ("`unmask serve --json`: where it answers", ServeDocument),
    "metrics": ("a line of `metrics.jsonl` in a run folder", Row),
    "run": ("`run.json`", RunInfo),
    "evaluation": ("`evaluation.json`", RunEvaluation),
    "adaptation": ("`adaptation.json`", RunAdaptation),
}
"""What has a published schema, by the name of the schema: which document it is, and its type."""
