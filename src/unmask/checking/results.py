"""The result of a check."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from unmask.checking.findings import Finding
from unmask.errors import plural
from unmask.reporting.results import Result, Rows


@dataclass(repr=False)
class DataCheck(Result):
    """What a check found. The parts are plain values, the same as in ``unmask check --json``.

    Attributes:
        inputs: what was checked; ``test``: the test files that were searched for in it.
        model: whose tokenizer was used, or ``None``.
        verdict: ``ok``, ``warning`` or ``problem``, the worst of the findings.
        findings: what to know, the most important first.
        read: files, documents, empty and over-long ones, characters, words (``None`` for text that does
            not mark them, such as Thai or proteins), and tokens where there is a model.
        unreadable: files that could not be read, and why.
        text: encoding errors, sizes, scripts, boilerplate lines, literal special tokens, personal data.
        lengths: the distribution of document lengths, in ``unit`` tokens, words or characters.
        limit: how much of the text is longer than the model's sequences, or ``None`` without a model.
        duplicates: exact and near ones.
        leakage: for each test file which of its texts occur in the rest, with both lines; ``None`` without test files.
        vocabulary: unknown tokens and fertility, or ``None`` without a model.
        plan: tokens in the literature, epochs, whether to add words, the time, and the commands to run next.
    """

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
    findings: list[Finding] = field(default_factory=list)

    @property
    def verdict(self) -> Literal["ok", "warning", "problem"]:
        """The worst of the findings."""
        levels = {finding.level for finding in self.findings}
        return "problem" if "problem" in levels else "warning" if "warning" in levels else "ok"

    def _title(self) -> str:
        unit = "character" if self.read["words"] is None else "word"
        size = f"{plural(self.read['documents'], 'document')}, {plural(self.read[unit + 's'], unit)}"
        return f"check of {size}: {self.verdict}"

    def to_rows(self) -> Rows:
        """Return a row for each finding: its level, what it is about, and the text."""
        return [asdict(finding) for finding in self.findings]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        found: dict[str, Any] = {"verdict": self.verdict, "findings": [], **asdict(self)}
        return found
