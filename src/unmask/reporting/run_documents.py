"""The files of a run folder that hold JSON, as types. ``json_documents.py`` publishes them, with what verbs print."""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict

Interval = list[float] | None
"""The ends of a 95% interval; ``null`` where there are too few documents for one."""


class Estimate(TypedDict):
    """A value, or a difference of two, with its interval."""

    value: float
    interval: Interval
    texts: NotRequired[int]


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
    texts: NotRequired[int]
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
    texts: NotRequired[int]
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
