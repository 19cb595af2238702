"""Run folders as a run leaves them, with made-up figures: nothing is trained here."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from unmask.run_folder import RunFolder
from unmask.storage import write_json

# A passage is its words; one written with * is masked, and what follows it in brackets is what the model says first.
PASSAGES = [
    "Return a new *list(list) of the items in ascending order . The *sort(value) is stable , which means that items "
    "that compare *equal(equal) keep their relative *order(position) , and a *key(key) function may be given to say "
    "what is compared .",
    "Open the file *at(at) this path and *return(return) a file object . If the *file(path) cannot be opened , an "
    "*OSError(ValueError) is *raised(raised) ; the mode and the *encoding(name) are those of the built in function .",
    "Compute the *gradient(sum) of the current tensor with respect *to(to) graph leaves . This function accum ##ulates "
    "gradi ##*ents(ents) in the leaves : you might need to *zero(set) their values *before(when) calling it .",
    "A decorator that *indicates(is) abstract methods . It requires that the *class(class) has a metaclass derived "
    "*from(from) this one ; such a class cannot be *instanti(used) ##ated unless all of its abstract *methods(methods) "
    "are overridden .",
]
CLOSING = {".", ",", ";", ":"}


VOID = {"meta", "link", "br", "hr", "img", "input"}


class Outline(HTMLParser):
    """Tags, attributes and text of a page; fails on a tag that is not closed in its place."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def values(self, attribute: str) -> list[str]:
        return [attrs[attribute] or "" for _, attrs in self.elements if attribute in attrs]


def example_of(passage: str, chance: random.Random) -> dict[str, Any]:
    """One entry of ``examples.json`` from the short writing above."""
    tokens, before, targets = [], [], []
    for word in passage.split(" "):
        piece = word.startswith("##")
        before.append(not piece and word not in CLOSING)
        if "*" in word:
            original, guess = word.replace("*", "").rstrip(")").split("(")
            guess = "##" + guess if piece else guess
            targets.append(target_of(len(tokens), original, guess, chance))
            tokens.append(original)
        else:
            tokens.append(word)
    return {"tokens": tokens, "words_before": before, "targets": targets}


def target_of(index: int, original: str, guess: str, chance: random.Random) -> dict[str, Any]:
    """A target that the model fills with ``guess``; the original is first, third, or not among the five."""
    others = chance.sample(
        ["the", "a", "value", "object", "this", "name", "type", "given", "default", "string"], 4
    )
    tokens = [guess, *others]
    rank = 1 if guess == original else chance.choice([3, 17, 212])
    if rank == 3:
        tokens[2] = original
    left = 1.0
    predictions = []
    for token in tokens:
        probability = left * chance.uniform(0.2, 0.75)
        left -= probability
        predictions.append({"token": token, "probability": round(probability, 5)})
    predictions.sort(key=lambda each: -each["probability"])
    for each, token in zip(predictions, tokens, strict=True):
        each["token"] = token
    shown = chance.choices(["[MASK]", original, "river"], [8, 1, 1])[0]
    return {"index": index, "original": original, "shown": shown, "predictions": predictions, "rank": rank}


def training_rows(steps: int, start: float, end: float, chance: random.Random) -> list[dict[str, Any]]:
    """Rows of training and of evaluation, as they stand in ``metrics.jsonl``."""
    rows: list[dict[str, Any]] = []
    for step in range(5, steps + 1, 5):
        share = step / steps
        loss = end + (start - end) * math.exp(-5.5 * share) - 0.35 * share
        seen = {"step": step, "tokens": step * 4096, "seconds": round(step * 0.247, 3)}
        rate = min(1.0, share / 0.06, (1 - share) / 0.4 + 1e-3)
        rows.append(
            seen
            | {
                "loss": loss + chance.gauss(0, 0.09),
                "learning_rate": 0.004 * rate,
                "grad_norm": 0.9 + 2.5 * math.exp(-20 * share) + abs(chance.gauss(0, 0.12)),
                "tokens_per_second": 16600 + chance.gauss(0, 320),
                "mask_rate": 0.4 - 0.25 * share,
                "wait_share": 0.004,
            }
        )
        if step % (steps // 10) == 0:
            accuracy = 0.38 * (1 - math.exp(-3.2 * share)) / (1 - math.exp(-3.2))
            rows.append(seen | {"eval_loss": loss + 0.12, "eval_accuracy": accuracy})
    return rows


EVALUATION: dict[str, Any] = {
    "loss": 3.941,
    "perplexity": 51.47,
    "accuracy": 0.3642,
    "masked_tokens": 23412,
    "masks": "every target replaced by the mask token",
    "by_replacement": {
        "masks": "80% of the targets replaced by the mask token, 10% by a random token, 10% unchanged",
        "rows": [
            {"label": "mask token", "masked_tokens": 4683, "loss": 3.962, "accuracy": 0.3601},
            {"label": "random token", "masked_tokens": 586, "loss": 4.871, "accuracy": 0.2611},
            {"label": "unchanged", "masked_tokens": 587, "loss": 0.612, "accuracy": 0.8922},
            {"label": "all, as in training", "masked_tokens": 5856, "loss": 3.717, "accuracy": 0.4035},
        ],
    },
    "documents": 1196,
    "mask_rate": 0.15,
    "baselines": {
        "most_frequent_token": {"accuracy": 0.0511, "loss": 6.91},
        "ngram": {
            "accuracy": 0.3204,
            "loss": 4.702,
            "what": "interpolated counts of both neighbours, which it sees unmasked, from the training text",
        },
    },
    "before": None,
}
INFO: dict[str, Any] = {
    "unmask": "0.1.0",
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "python": "3.11.9",
    "machine": {"cpu": "AMD EPYC 9554", "cores": 2, "memory_gb": 15.6, "gpu": None},
    "command": ["unmask", "demo", "-o", "runs/my demo"],
    "masks": "every target replaced by the mask token",
    "started": "2026-11-23T06:41:07.123456+00:00",
    "finished": "2026-11-23T06:44:31+00:00",
    "precision": "bf16",
    "model_class": "ModernBertForMaskedLM",
    "parameters": 4_460_544,
    "vocabulary": 8192,
    "corpus": {
        "documents": 57604,
        "tokens": 10_311_020,
        "heldout_documents": 1196,
        "heldout_tokens": 211_846,
    },
    "batch_tokens": 4096,
    "tokens_per_epoch": 10_426_228,
    "steps": 800,
}
CONFIG: dict[str, Any] = {
    "model": {
        "name": None,
        "preset": "modernbert-tiny",
        "tokenizer": None,
        "vocab_size": 8192,
        "dropout": 0.0,
    },
    "data": {"inputs": ["runs/demo/text.jsonl"], "heldout_share": 0.02, "max_length": 128},
    "masking": {"strategy": "token", "rate": 0.4, "rate_end": 0.15, "mask_share": 0.8, "random_share": 0.1},
    "train": {
        "max_steps": 800,
        "seed": 0,
        "optimizer": {"name": "muon", "learning_rate": 0.004, "weight_decay": 0.01},
        "schedule": {"name": "trapezoid", "warmup_share": 0.06},
    },
}


def write_rows(folder: RunFolder, rows: list[dict[str, Any]]) -> None:
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_run(root: Path) -> RunFolder:
    """A finished run from scratch."""
    chance = random.Random(5)
    root.mkdir(parents=True)
    folder = RunFolder(root)
    write_rows(folder, training_rows(800, 9.0, 4.3, chance))
    write_json(folder.evaluation, EVALUATION)
    write_json(folder.info, INFO)
    write_json(folder.examples, [example_of(passage, chance) for passage in PASSAGES])
    folder.config.write_text(yaml.safe_dump(CONFIG, sort_keys=False), encoding="utf-8")
    return folder


def write_adapted_run(root: Path) -> RunFolder:
    """A finished run that adapted a published checkpoint."""
    folder = write_run(root)
    rows = training_rows(800, 2.9, 2.2, random.Random(6))
    for row in rows:
        if "eval_accuracy" in row:
            row["eval_accuracy"] = 0.46 + row["eval_accuracy"] / 4
    write_rows(folder, rows)
    before = {"loss": 2.861, "accuracy": 0.4635, "perplexity": 17.48}
    after = {"loss": 2.064, "accuracy": 0.5566, "perplexity": 7.88, "before": before}
    write_json(folder.evaluation, EVALUATION | after)
    model = {"name": "google-bert/bert-base-uncased@main", "preset": None, "dropout": 0.0}
    config = CONFIG | {"model": model, "data": {"inputs": ["hf://some/corpus?split=train", "notes/*.txt"]}}
    folder.config.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished run from scratch."""
    return write_run(tmp_path / "demo")


@pytest.fixture
def adapted(tmp_path: Path) -> RunFolder:
    """A finished run that adapted a published checkpoint."""
    return write_adapted_run(tmp_path / "adapted")


@pytest.fixture
def rewrite() -> Callable[[RunFolder, list[dict[str, Any]]], None]:
    """Replace the rows of a run's metrics."""
    return write_rows
