"""The files of a run, read and checked for the report and the model card; absent files are allowed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from unmask.errors import DataError
from unmask.run_folder import RunFolder
from unmask.storage import JsonDict, read_json


@dataclass(frozen=True)
class RunRecord:
    """The content of the files of a run; absent files are ``None`` or empty.

    Attributes:
        name: the name of the run folder.
        info: ``run.json``.
        config_text: the text of ``config.yaml``; ``config`` is the same parsed.
        training: rows of ``metrics.jsonl`` with a training loss, by step.
        heldout: rows of ``metrics.jsonl`` with held-out metrics, by step.
        evaluation: ``evaluation.json``.
        examples: ``examples.json``.
        remarks: problems of the files themselves.
        adaptation: ``adaptation.json``, of a run that adapted a checkpoint.
    """

    name: str
    info: Mapping[str, Any]
    config_text: str | None
    config: Mapping[str, Any]
    training: Sequence[JsonDict]
    heldout: Sequence[JsonDict]
    evaluation: Mapping[str, Any] | None
    examples: Sequence[Mapping[str, Any]] | None
    remarks: tuple[str, ...]
    adaptation: Mapping[str, Any] | None = None

    @property
    def finished(self) -> bool:
        """Whether the run finished."""
        return bool(self.info.get("finished"))

    @property
    def objective(self) -> str | None:
        """What was learned, as ``train.objective`` has it; ``None`` in runs of earlier versions."""
        return (self.config.get("train") or {}).get("objective")

    @property
    def detects(self) -> bool:
        """Whether the model says which tokens were replaced, and its generator alone predicts masked ones."""
        return self.objective == "rtd"

    @property
    def last(self) -> JsonDict | None:
        """The newest row, for tokens and seconds so far."""
        return max([*self.training, *self.heldout], key=lambda row: row["step"], default=None)


@dataclass(frozen=True)
class Spot:
    """One masked token of an example; the prediction is correct when the original has rank 1."""

    number: int
    original: str
    shown: str
    guess: str
    rank: int
    predictions: tuple[tuple[str, float], ...]

    @property
    def right(self) -> bool:
        return self.rank == 1


@dataclass(frozen=True)
class Piece:
    """A part of an example's text: plain, or one masked token with its original."""

    space: bool
    text: str
    spot: Spot | None


def read_record(folder: RunFolder) -> RunRecord:
    """Read the files of a run.

    Raises:
        DataError: the folder holds none of a run's files, or one of them is not in its format.
    """
    if not any(path.is_file() for path in (folder.info, folder.config, folder.metrics, folder.evaluation)):
        raise DataError(
            "expected the folder of a run (run.json, config.yaml, metrics.jsonl) and found none of its files",
            path=folder.root,
        )
    rows, remarks = _read_rows(folder.metrics)
    text = folder.config.read_text(encoding="utf-8", errors="replace") if folder.config.is_file() else None
    return RunRecord(
        name=folder.root.resolve().name,
        info=_read_kind(folder.info, dict) or {},
        config_text=text,
        config=_parse_config(text, folder.config),
        training=_by_step([row for row in rows if "loss" in row]),
        heldout=_by_step([row for row in rows if "eval_loss" in row]),
        evaluation=_checked_evaluation(_read_kind(folder.evaluation, dict), folder.evaluation),
        examples=_checked_examples(_read_kind(folder.examples, list), folder.examples),
        remarks=tuple(remarks),
        adaptation=_checked_adaptation(_read_kind(folder.adaptation, dict), folder.adaptation),
    )


def _read_kind(path: Path, kind: type) -> Any:
    content = read_json(path)
    if content is not None and not isinstance(content, kind):
        raise DataError(f"expected a JSON {kind.__name__}, not a {type(content).__name__}", path=path)
    return content


def _parse_config(text: str | None, path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(text or "") or {}
    except yaml.YAMLError as error:
        raise DataError(f"not valid YAML: {str(error).splitlines()[0]}", path=path) from None
    if not isinstance(content, dict):
        raise DataError(f"expected a mapping of settings, not a {type(content).__name__}", path=path)
    return content


def _read_rows(path: Path) -> tuple[list[JsonDict], list[str]]:
    """The rows of the metrics, and a remark where the last line is incomplete, as in a live or killed run."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else [""]
    *whole, torn = lines
    rows = []
    for number, line in enumerate(whole, 1):
        try:
            row = json.loads(line)
            int(row["step"])
        except (ValueError, TypeError, KeyError):
            raise DataError("expected a JSON object with a step", path=path, line=number) from None
        rows.append(row)
    remarks = [f"Line {len(lines)} of metrics.jsonl is incomplete and was skipped."] if torn else []
    return rows, remarks


def _by_step(rows: Sequence[JsonDict]) -> list[JsonDict]:
    """One row a step, ascending; the later row counts for a step that a resumed run repeated."""
    latest = {int(row["step"]): row for row in rows}
    return [latest[step] for step in sorted(latest)]


def _checked_evaluation(evaluation: Any, path: Path) -> Any:
    for key in ("accuracy", "loss", "perplexity", "masked_tokens") if evaluation is not None else ():
        if key not in evaluation:
            raise DataError(f"expected the metric '{key}'; run the evaluation again", path=path)
    return evaluation


def _checked_adaptation(found: Any, path: Path) -> Any:
    """An adaptation.json with all the keys that the page shows."""
    if found is None:
        return None
    try:
        added = found["added_words"]
        parts = [found["domain"], *found["by_frequency"]["rows"], *filter(None, [found["general"]])]
        for part in [*parts, *([added] if added and added["masked_tokens"] else [])]:
            for side in ("before", "after"):
                _ = (
                    part[side]["loss"],
                    part[side]["perplexity"],
                    part[side]["accuracy"],
                    part[side]["intervals"],
                )
            for key in ("loss", "accuracy"):
                _ = part["change"][key]["value"], part["change"][key]["interval"]
            _ = part["masked_tokens"], part["documents"], part["change"]["relative_accuracy"]
        _ = found["forgetting"] and [found["forgetting"][key]["value"] for key in ("loss", "accuracy")]
        for example in found["examples"]:
            _ = example["text_before"], example["original"], example["text_after"]
            _ = [
                example[name][key]
                for name in ("base", "adapted")
                for key in ("guess", "probability", "original")
            ]
        _ = found["by_frequency"]["counted_on"], found["hashes"], found["base"]
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(
            f"not in the format of adaptation.json ({type(error).__name__}: {error})", path=path
        ) from None
    return found


def _checked_examples(examples: Any, path: Path) -> Any:
    """Examples in the format that the page shows; a broken one refuses the file."""
    for place, example in enumerate(examples or []):
        try:
            passage_of(example)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            problem = (
                f"example {place} is not in the format of examples.json ({type(error).__name__}: {error})"
            )
            raise DataError(problem, path=path) from None
    return examples


def passage_of(example: Mapping[str, Any]) -> list[Piece]:
    """The text of an example in parts: plain text and masked tokens, in order."""
    tokens, spaces = example["tokens"], example["words_before"]
    targets = {target["index"]: target for target in example["targets"]}
    if len(tokens) != len(spaces) or not all(0 <= index < len(tokens) for index in targets):
        raise ValueError(f"{len(tokens)} tokens, {len(spaces)} spaces, targets at {sorted(targets)}")
    pieces: list[Piece] = []
    for place, (token, space) in enumerate(zip(tokens, spaces, strict=True)):
        space = bool(space) and place > 0
        if place in targets:
            number = sum(piece.spot is not None for piece in pieces) + 1
            original = surface(str(targets[place]["original"]), space)
            pieces.append(Piece(space, original, _spot(targets[place], number)))
        elif pieces and pieces[-1].spot is None:
            pieces[-1] = Piece(pieces[-1].space, pieces[-1].text + " " * space + surface(token, space), None)
        else:
            pieces.append(Piece(space, surface(token, space), None))
    return pieces


def _spot(target: Mapping[str, Any], number: int) -> Spot:
    predictions = tuple((str(each["token"]), float(each["probability"])) for each in target["predictions"])
    guess = predictions[0][0] if predictions else "nothing"
    return Spot(
        number, str(target["original"]), str(target["shown"]), guess, int(target["rank"]), predictions
    )


def surface(token: str, space: bool) -> str:
    """Return ``token`` as in running text: without WordPiece's prefix of a continuation."""
    return token[2:] if not space and token.startswith("##") and len(token) > 2 else token
