"""The JSON that verbs print and that a run folder holds, as types.

``docs/reference.py`` makes the published JSON Schemas of them, and ``tests/test_reference.py`` compares what is written
with them, key by key. A number that is NaN or infinite is ``null``. New keys may come; those that are here stay.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

Interval = list[float] | None
"""The ends of a 95% interval; ``null`` where there are too few documents for one."""


class Estimate(TypedDict):
    """A value, or a difference of two, with its interval."""

    value: float
    interval: Interval


class Row(TypedDict):
    """A line of ``metrics.jsonl``: of training steps (with ``loss``), of an evaluation (with ``eval_loss``), or of a step that was
    left out (with ``skipped``). Objectives add their own numbers, ``NAME_loss``, ``NAME_accuracy`` and ``eval_NAME``.
    """

    step: int
    tokens: int
    seconds: float
    loss: NotRequired[float]
    accuracy: NotRequired[float]
    learning_rate: NotRequired[float]
    mask_rate: NotRequired[float]
    grad_norm: NotRequired[float]
    epoch: NotRequired[float]
    tokens_per_second: NotRequired[float]
    wait_share: NotRequired[float]
    progress: NotRequired[float]
    objective: NotRequired[str]
    eval_loss: NotRequired[float]
    eval_accuracy: NotRequired[float]
    general_loss: NotRequired[float]
    skipped: NotRequired[str]


class Machine(TypedDict):
    """The machine of a run."""

    cpu: str
    cores: int
    memory_gb: float
    gpu: str | None


class RunInfo(TypedDict):
    """``run.json``. ``finished`` comes last; ``choices`` has what ``train`` chose, ``read`` what was read and left out."""

    unmask: str
    torch: str
    transformers: str
    python: str
    machine: Machine
    command: list[str]
    masks: str
    started: str
    finished: NotRequired[str]
    precision: NotRequired[str]
    model_class: NotRequired[str]
    base_model: NotRequired[str | None]
    new_head: NotRequired[bool]
    parameters: NotRequired[int]
    trained_parameters: NotRequired[int]
    vocabulary: NotRequired[int]
    packed: NotRequired[bool]
    corpus: NotRequired[dict[str, float]]
    read: NotRequired[dict[str, Any]]
    batch_tokens: NotRequired[int]
    tokens_per_epoch: NotRequired[int]
    steps: NotRequired[int | None]
    choices: NotRequired[dict[str, Any]]
    overlap: NotRequired[dict[str, Any]]
    advice: NotRequired[Any]


class Metrics(TypedDict):
    """A model at masked tokens. Loss in nats per token; accuracy from 0 to 1."""

    loss: float
    perplexity: float
    accuracy: float
    masked_tokens: NotRequired[int]
    tokens: NotRequired[int]
    intervals: NotRequired[dict[str, Interval]]
    interval_notes: NotRequired[list[str]]


class GeneralMetrics(Metrics):
    """The same on general text, and of the base model."""

    before: NotRequired[Metrics]


class Baseline(TypedDict):
    """Metrics without a model."""

    accuracy: float
    loss: float
    what: str
    intervals: NotRequired[dict[str, Interval]]


class ReplacedRow(TypedDict):
    """Targets that one kind of replacement stands for."""

    label: str
    masked_tokens: int
    loss: float
    accuracy: float


class Replaced(TypedDict):
    """Metrics where targets are replaced as in training."""

    masks: str
    rows: list[ReplacedRow]


class Selection(TypedDict):
    """The held-out documents that the exported weights were chosen on."""

    documents: int
    tokens: int
    is_reported: bool
    before: NotRequired[Metrics]


class RunEvaluation(Metrics):
    """``evaluation.json``: the exported model on the held-out text; ``before`` is the base model."""

    documents: int
    masks: str
    mask_rate: float
    baselines: dict[str, Baseline]
    before: NotRequired[Metrics]
    by_replacement: NotRequired[Replaced | None]
    general: NotRequired[GeneralMetrics | None]
    objective: NotRequired[dict[str, Any]]
    step: int
    stopped_early: bool
    selection: Selection | None


class Sides(TypedDict):
    """The base model and the adapted one at the same masked tokens."""

    masked_tokens: int
    documents: int
    before: Metrics
    after: Metrics
    change: dict[str, Estimate | None]
    label: NotRequired[str]


class Frequencies(TypedDict):
    """The same by how frequent the token is."""

    counted_on: str
    rows: list[Sides]


class Guess(TypedDict):
    """The first prediction of a model, and the probability that it gives to the original."""

    guess: str
    probability: float
    original: float


class ChangedExample(TypedDict):
    """A masked token that both models predict; ``change`` is that of its log-probability."""

    text_before: str
    original: str
    text_after: str
    change: float
    base: Guess
    adapted: Guess


class Verdict(TypedDict):
    """Whether to use the adapted model."""

    decision: str
    alpha: float | None
    reason: str
    measures: dict[str, Estimate | None]
    requirements: list[dict[str, Any]]


class RunAdaptation(TypedDict):
    """``adaptation.json``: the base model and the adapted one, compared."""

    base: str
    masks: str
    mask_rate: float
    domain: Sides
    general: Sides | None
    forgetting: dict[str, Estimate | None] | None
    by_frequency: Frequencies | None
    added_words: dict[str, Any] | None
    examples: list[ChangedExample]
    hashes: dict[str, Any]
    interval: str
    interpolation: NotRequired[dict[str, Any] | None]
    probes: NotRequired[dict[str, Any] | None]
    verdict: NotRequired[Verdict | None]


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


DOCUMENTS: dict[str, tuple[str, Any]] = {
    "train": ("`unmask train --json`", TrainDocument),
    "eval": ("`unmask eval --json`", EvaluationDocument | EvaluationsDocument),
    "compare": ("`unmask compare --json`", ComparisonDocument),
    "score": ("a text of `unmask score --json` (`scores`), and a line of its `-o`", TextScore),
    "pairs": ("`unmask pairs --json`", PairsDocument),
    "check": ("`unmask check --json`", CheckDocument),
    "probe": ("`unmask probe --json`", ProbeDocument),
    "metrics": ("a line of `metrics.jsonl` in a run folder", Row),
    "run": ("`run.json`", RunInfo),
    "evaluation": ("`evaluation.json`", RunEvaluation),
    "adaptation": ("`adaptation.json`", RunAdaptation),
}
"""What has a published schema, by the name of the schema: which document it is, and its type."""
