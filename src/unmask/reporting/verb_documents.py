"""The JSON of verbs that make or measure something, as types. ``json_documents.py`` publishes them."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from unmask.reporting.run_documents import Estimate, RunAdaptation, RunEvaluation


class DryRunDocument(TypedDict):
    """``unmask train --dry-run --json``: what a run would need; ``peak_memory_bytes`` is ``null`` where the system does not say."""

    parameters: int
    tokens_per_epoch: int
    steps: int
    processes: int
    parallel: str
    peak_memory_bytes: int | None
    disk_bytes: int
    seconds_per_step: float
    total_seconds: float


class ReportDocument(TypedDict):
    """``unmask report --json``: the report, and the metrics it shows."""

    report: str
    evaluation: RunEvaluation | None
    adaptation: RunAdaptation | None


class WordsOfLength(TypedDict):
    """Words of so many tokens (``or_more`` in the last row), and the share of their tokens that is masked."""

    tokens: int
    or_more: bool
    words: int
    rate: float | None


class ShownToken(TypedDict):
    """A token of the sample: what the model sees, and what became of it; ``word``: whether a word begins here."""

    token: str
    shown: str
    target: Literal["mask", "random", "keep"] | None
    word: bool | None
    special: bool


class MasksDocument(TypedDict):
    """``unmask masks --json``. Statistics of words are ``null`` where the tokenizer does not mark words."""

    strategy: str
    count: str
    mask_rate: float
    seed: int
    epoch: int
    sequences: int
    without_targets: int
    tokens: int
    targets: int
    rate: float | None
    split: dict[str, float | None]
    by_word_length: list[WordsOfLength] | None
    whole_words: float | None
    in_terms: float | None
    mean_span: dict[str, float | None]
    sample: list[ShownToken]


class TermsDocument(TypedDict):
    """``unmask terms --json``: the file, and the words, the most characteristic first."""

    file: str
    terms: list[str]


class PreparedDocument(TypedDict):
    """``unmask prepare --json``: the folder, and the content of its ``manifest.json``."""

    folder: str
    format: int
    documents: int
    tokens: int
    bytes: int
    unknown_tokens: int
    unknown_examples: list[str]
    read: dict[str, Any]
    inputs: list[dict[str, Any]]
    tokenizer_sha256: str
    settings: dict[str, Any]
    shards: list[dict[str, Any]]
    files: dict[str, str]
    sha256: str
    deduplicate: NotRequired[str]
    duplicates: NotRequired[dict[str, Any]]


class RoundTripDocument(TypedDict):
    """What a tokenizer loses of a text; ``examples``: words, and their tokens decoded."""

    characters: int
    dropped: int
    dropped_share: float
    words: int
    changed: int
    changed_share: float
    case_only: int
    case_only_share: float
    examples: list[list[str]]


class NewTokenizerDocument(TypedDict):
    """``unmask tokenizer train --json``."""

    tokenizer: str
    vocab_size: int
    documents: int
    round_trip: RoundTripDocument


class TextTokens(TypedDict):
    """Tokens of a text; ``fertility``: per word of the old tokenizer."""

    tokens: int
    fertility: float
    tokens_per_byte: float


class ExtendedDocument(TypedDict):
    """``unmask tokenizer extend --json``: the folder, and the content of its ``added_words.json``.

    ``weight`` of a word: how many times likelier it is than in the general text, at most 10; 1 without general text.
    """

    folder: str
    entries: int
    added: int
    held_out: bool
    before: TextTokens | None
    after: TextTokens | None
    changed_documents: int
    left_out: list[dict[str, Any]]
    words: list[dict[str, Any]]


class SizeDocument(TypedDict):
    """A vocabulary and its model; megabytes are of weights in fp32."""

    entries: int
    rows: int
    embedding_mb: float
    mb: float


class ChangedTokensDocument(TypedDict):
    """How the tokens of a sample of the text change."""

    documents: int
    changed_documents: int
    tokens_before: int
    tokens_after: int
    unchanged: float
    unknown_before: int
    unknown_after: int


class TrimmedDocument(TypedDict):
    """``unmask tokenizer trim --json``. ``kept``, ``kept_unseen``: share of the tokens whose entry is kept."""

    folder: str
    before: SizeDocument
    after: SizeDocument
    kept: float
    kept_unseen: float | None
    changed: ChangedTokensDocument


class ExportDocument(TypedDict):
    """``unmask export --json``. A masked LM has ``original``, ``exported`` and their ``difference`` at the same masked tokens;
    a model of embeddings has the largest difference and the smallest cosine.
    """

    folder: str
    format: str
    megabytes: float
    megabytes_fp32: float
    refused: str | None
    tokens: int
    largest_difference: dict[str, float]
    notes: list[str]
    masked_tokens: NotRequired[int]
    documents: NotRequired[int]
    masks: NotRequired[str]
    original: NotRequired[dict[str, Estimate]]
    exported: NotRequired[dict[str, Estimate]]
    difference: NotRequired[dict[str, Estimate]]
    interval: NotRequired[str]
    texts: NotRequired[int]
    largest_number: NotRequired[float]
    smallest_cosine: NotRequired[float]
    computed_by: NotRequired[str]


class PushedFile(TypedDict):
    """A file of the repository."""

    file: str
    bytes: int


class PushDocument(TypedDict):
    """``unmask push --json``; ``url`` of the commit is ``null`` in a dry run."""

    repository: str
    url: str | None
    bytes: int
    files: list[PushedFile]
    left_out: list[str]


class InitDocument(TypedDict):
    """``unmask init --json``: the file that was written, and whether it is a schema."""

    file: str
    schema: bool


class ConvertDocument(TypedDict):
    """``unmask convert --json``: the folder of the converted model."""

    folder: str


class ServeDocument(TypedDict):
    """``unmask serve --json``, printed once the server answers."""

    url: str
    models: list[str]
