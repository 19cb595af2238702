"""Advice after a check: tokens in the literature, epochs, whether to add words, the training time, commands."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unmask.config.options import arguments
from unmask.config.settings import DocumentSettings
from unmask.data.shards import TemporaryFolder
from unmask.errors import DataError, UnmaskError

LITERATURE = (
    (
        157_000,
        "the texts of one task, ChemProt (Gururangan et al. 2020: 4,169 texts, 100 epochs; F1 81.9 → 82.6)",
        "about 0.16 M",
    ),
    (2_110_000_000, "product reviews (Gururangan et al. 2020; IMDB, F1 95.0 → 95.4)", "2.11 B"),
    (3_170_000_000, "SciBERT (Beltagy et al. 2019: 1.14 M papers)", "3.17 B"),
    (3_300_000_000, "BERT from scratch (Devlin et al. 2019, words)", "3.3 B"),
    (7_550_000_000, "biomedical papers (Gururangan et al. 2020; ChemProt, F1 81.9 → 84.2)", "7.55 B"),
    (8_100_000_000, "computer science papers (Gururangan et al. 2020; ACL-ARC, F1 63.0 → 75.4)", "8.10 B"),
    (18_000_000_000, "BioBERT (Lee et al. 2020, words: PubMed 4.5 B and PMC 13.5 B)", "18 B"),
)
"""Tokens (or words) that others adapted encoders on: number, what and what it brought, as text."""
SAVED_SHARE = 0.05
"""Share of the tokens that a thousand added words must save to be worth it."""
EXTEND_TOKENS = 1_000_000
"""Tokens below which a text teaches new words too little."""
TOKENS_PER_WORD = 1.2
"""Estimate for a BERT vocabulary, where no model is given."""
DEFAULT_MODEL, MULTILINGUAL_MODEL = "bert-base-uncased", "xlm-roberta-base"
# BERT-base with 15% of the tokens at the head, sequences of 128: operations a token takes in training.
_BERT_BASE = 545e6
_EFFICIENCY = 0.4
_STEP_TOKENS = 2048


def literature(tokens: int) -> list[dict[str, Any]]:
    """Return how many tokens published models were adapted on, and ``tokens`` as a share of each."""
    return [{"what": what, "tokens": text, "share": tokens / number} for number, what, text in LITERATURE]


def estimated_rate() -> tuple[float, str]:
    """Estimate training tokens a second of BERT-base in fp32 from this processor's matrix products; say how."""
    import numpy as np

    side, best = 1024, 0.0
    left = np.full((side, side), 0.5, dtype=np.float32)
    for _ in range(4):
        begin = time.perf_counter()
        left @ left
        best = max(best, 2.0 * side**3 / (time.perf_counter() - begin))
    return _EFFICIENCY * best / _BERT_BASE, (
        f"BERT-base in fp32 at {_EFFICIENCY:.0%} of this processor's matrix products; bf16 or a GPU may be much faster"
    )


def measured_rate(
    model: str, texts: Sequence[str], tokens_per_character: float, *, offline: bool
) -> tuple[float, str]:
    """Return tokens a second of real training steps of a model, and how that is known.

    Args:
        model: a checkpoint.
        texts: some of the text, which is repeated until it fills the steps.
        tokens_per_character: of the text, by the model's tokenizer.
        offline: make no network call.

    Raises:
        UnmaskError: the model cannot be trained on this text.
    """
    from unmask.config.load import load_config
    from unmask.run.dry_run import dry_run

    tokens = tokens_per_character * sum(map(len, texts))
    times = math.ceil(2 * _STEP_TOKENS / max(tokens, 1.0))
    with TemporaryFolder("unmask-check-") as place:
        once, sample = Path(place) / "once.jsonl", Path(place) / "sample.jsonl"
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        once.write_text(lines, encoding="utf-8")
        sample.write_text(lines * times, encoding="utf-8")
        flags = {
            "data.inputs": [str(sample)],
            "data.heldout": [str(once)],  # a single text could not be divided
            "model.name": model,
            "model.offline": offline or None,
            "train.batch_tokens": _STEP_TOKENS,
            "train.max_steps": 2,
            "data.allow_unknown": True,  # they are as fast, and the check reports them
        }
        try:
            found = dry_run(load_config(None, (), flags))
        except UnmaskError as error:
            named = str(error).replace(str(sample), "the text").replace(str(once), "the text")
            raise UnmaskError(named) from None
    if not found.seconds_per_step or found.tokens_per_epoch < _STEP_TOKENS:
        raise DataError(f"a step of {_STEP_TOKENS:,} tokens could not be filled with the text")
    repeated = ", of repeated text, since there is little" if times > 1 else ""
    return (
        _STEP_TOKENS / found.seconds_per_step,
        f"a training step of {_STEP_TOKENS:,} tokens, measured here{repeated}",
    )


def model_for(scripts: Sequence[Mapping[str, Any]]) -> tuple[str, str | None]:
    """Return the model to propose for text in these scripts, the most frequent first; and why, if it is not the usual one."""
    latin = sum(item["share_of_letters"] for item in scripts if item["script"] == "Latin")
    if not scripts or latin >= 0.5:
        return DEFAULT_MODEL, None
    first = scripts[0]
    return MULTILINGUAL_MODEL, (
        f"{first['share_of_letters']:.0%} of the letters are {first['script']}, which {DEFAULT_MODEL} was not trained on; "
        f"{MULTILINGUAL_MODEL} knows 100 languages, and a model of your language may be better"
    )


def train_command(
    inputs: Sequence[str],
    model: str | None,
    epochs: int,
    settings: DocumentSettings,
    *,
    extend: bool,
    tokenizer_only: bool = False,
    unknown: bool = False,
    unreadable: bool = False,
    default: str = DEFAULT_MODEL,
) -> list[str]:
    """Return the commands to run next, the last of which trains ``model``, or without one ``default``.

    It trains from scratch if ``model`` is a tokenizer only, or if most of the text is ``unknown`` to its tokenizer. Where
    files are ``unreadable``, it leaves them out.
    """
    usual, read = DocumentSettings().model_dump(), settings.model_dump()
    given = {"text_field", "documents", "encoding", "delimiter", "markup"}
    text = arguments({f"data.{name}": read[name] for name in sorted(given) if read[name] != usual[name]})
    if unreadable:
        text.append("--skip-unreadable")
    name = model or default
    commands = []
    if extend and model and not (tokenizer_only or unknown):
        base, name = name, "runs/extended"
        extending = ["unmask", "tokenizer", "extend", *inputs, "--model", base, "--add", "1000", *text]
        commands.append(shlex.join([*extending, "-o", name]))
    start = ["--model", name]
    if unknown:
        start = ["--preset", "modernbert-mini"]
    elif tokenizer_only:
        start = ["--preset", "modernbert-mini", "--tokenizer", name]
    training = ["unmask", "train", *inputs, *start, "--epochs", str(epochs), *text, "-o", "runs/adapted"]
    return [*commands, shlex.join(training)]
