"""Masking and batching on one core: packed rows of unmask compared with the collators of transformers, on the same text.

The time covers everything between token ids and a training step: for unmask reading sequences from the shards, special
tokens, masks, replacements and positions; for the collators padding, masks, replacements and labels. Tokens include
special tokens but no padding. If no text is found, some is generated.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
from harness import Result, say, summary

TOKEN_GOAL, WORD_GOAL = 20.0, 10.0
STRATEGIES = ("token", "word", "span", "terms")
PEERS = {"transformers token": False, "transformers whole word": True}


def options() -> argparse.ArgumentParser:
    made = harness.parser(__doc__ or "")
    add = made.add_argument
    add("--tokens", type=int, default=1_000_000, help="tokens that unmask masks per round")
    add("--peer-tokens", type=int, default=100_000, help="tokens that a collator masks per round")
    add("--length", type=int, default=128, help="tokens per sequence")
    add("--batch-tokens", type=int, default=65_536, help="tokens per packed batch")
    add("--rows", type=int, default=64, help="rows per batch of a collator")
    return made


def work(args: argparse.Namespace) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(prefix="unmask-masking-") as place:
        sides = dict(_sides(args, Path(place)))
        found = harness.take_turns(sides, args.rounds, _tell)
    rates = {side: summary(results, "mega_tokens_per_second") for side, results in found.items()}
    goals = [
        harness.goal("million tokens per second, token", rates["token"]["median"], least=TOKEN_GOAL),
        harness.goal("million tokens per second, word", rates["word"]["median"], least=WORD_GOAL),
    ]
    harness.write(args.json, harness.report("masking", args, rates=rates, measured=found, goals=goals))
    rows = [
        [side, *(f"{rate[key]:.3g}" for key in ("median", "least", "greatest"))]
        for side, rate in rates.items()
    ]
    harness.table(["million tokens per second, one core", "median", "least", "greatest"], rows)
    harness.table(["goal", "", "measured", ""], harness.goal_rows(goals))


def _sides(args: argparse.Namespace, place: Path) -> Iterator[tuple[str, Callable[[], Result]]]:
    """Yield every side, ready to be measured; text and files are made once."""
    from unmask.config.settings import DocumentSettings, MaskingSettings
    from unmask.data.collator import MLMCollator
    from unmask.data.preparation import prepare

    files = _texts(args, place)
    tokenizer = _tokenizer(args.vocabulary, files)
    corpus = prepare(files, DocumentSettings(), tokenizer, place / "shards")
    say(f"{len(corpus):,} documents, {corpus.tokens:,} tokens of text")
    terms = place / "terms.txt"
    _make_terms(corpus, tokenizer, terms)
    for strategy in STRATEGIES:
        yield strategy, _ours(args, corpus, tokenizer, MaskingSettings(strategy=strategy, terms=str(terms)))
    for strategy in ("token", "word"):
        fixed = MaskingSettings(strategy=strategy, count="fixed")
        yield f"{strategy}, fixed count", _ours(args, corpus, tokenizer, fixed)
    features = _features(args, corpus, tokenizer)
    for strategy in ("token", "word"):
        collator = MLMCollator(tokenizer, MaskingSettings(strategy=strategy))
        yield f"MLMCollator {strategy}", _collated(args, features, ("input_ids",), collator)
    for name, whole in PEERS.items():
        yield name, _peer(args, features, tokenizer, whole)


def _ours(args: argparse.Namespace, corpus: Any, tokenizer: Any, masking: Any) -> Callable[[], Result]:
    import numpy as np

    from unmask.data.batches import MaskKey, TextSource
    from unmask.data.tokenizer import vocabulary_of
    from unmask.data.training_stream import Cursor, TrainingStream

    source = TextSource(corpus, np.arange(len(corpus)), vocabulary_of(tokenizer), masking, args.length)
    stream = TrainingStream(source, args.batch_tokens, seed=0)
    cursor, batches, tokens = Cursor(), [], 0
    while tokens < args.tokens:
        numbers, cursor = stream.take(cursor)
        batches.append(numbers)
        tokens += int(source.sizes(numbers).sum())

    def measure() -> Result:
        begin = time.perf_counter()
        for numbers in batches:
            source.batch(numbers, MaskKey(0, 0), masking.rate)
        return _rate(tokens, time.perf_counter() - begin)

    measure()  # the first call builds the table of words
    return measure


def _collated(
    args: argparse.Namespace,
    features: list[Result],
    parts: tuple[str, ...],
    collate: Callable[[list[Result]], Any],
) -> Callable[[], Result]:
    rows = [{part: feature[part] for part in parts} for feature in features]
    tokens = sum(sum(feature["attention_mask"]) for feature in features)

    def measure() -> Result:
        begin = time.perf_counter()
        for at in range(0, len(rows), args.rows):
            collate([dict(row) for row in rows[at : at + args.rows]])
        return _rate(tokens, time.perf_counter() - begin)

    return measure


def _peer(
    args: argparse.Namespace, features: list[Result], tokenizer: Any, whole: bool
) -> Callable[[], Result]:
    import warnings

    from transformers import DataCollatorForLanguageModeling

    parts = ("input_ids", "attention_mask", "special_tokens_mask", *(["offset_mapping"] if whole else []))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # with whole words it replaces by the mask token only
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15, whole_word_mask=whole)
    return _collated(args, features, parts, collator)


def _features(args: argparse.Namespace, corpus: Any, tokenizer: Any) -> list[Result]:
    """Tokenise documents for the collators, truncated and padded to one length, which whole words need there."""
    texts = [tokenizer.decode(corpus.document(number).tolist()) for number in range(min(len(corpus), 4000))]
    features: list[Result] = []
    tokens = 0
    for text in texts:
        if tokens >= args.peer_tokens:
            break
        encoded = tokenizer(
            text,
            truncation=True,
            max_length=args.length,
            padding="max_length",
            return_special_tokens_mask=True,
            return_offsets_mapping=True,
        )
        features.append(dict(encoded))
        tokens += sum(encoded["attention_mask"])
    return features


def _make_terms(corpus: Any, tokenizer: Any, path: Path) -> None:
    """Take as terms the words that are more frequent in the first half of the text."""
    import numpy as np

    from unmask.data.masking.terms import count_words, find_salient_terms, save_terms
    from unmask.data.tokenizer import vocabulary_of

    words = vocabulary_of(tokenizer).words
    halves = np.array_split(np.arange(len(corpus)), 2)
    terms = find_salient_terms(
        *(count_words(corpus, words, half)[0] for half in halves), min_ratio=1.0, confidence=0.5
    )
    save_terms(path, terms)
    say(f"{len(terms):,} terms")


def _texts(args: argparse.Namespace, place: Path) -> list[str]:
    try:
        return harness.texts(args.text, most=1)
    except harness.Failure:
        if args.text:
            raise
    say("no text found: generating some")
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlucmfwyp", k=draw.randint(1, 9))) for _ in range(20_000)]
    sizes = [1 / rank for rank in range(1, len(words) + 1)]
    path = place / "generated.txt"
    with path.open("w", encoding="utf-8") as file:
        for _ in range(4000):
            file.write(" ".join(draw.choices(words, sizes, k=draw.randint(20, 400))) + ".\n\n")
    return [str(path)]


def _tokenizer(vocabulary: Path, files: list[str]) -> Any:
    if vocabulary.is_file():
        from transformers import BertTokenizer

        entries = vocabulary.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        return BertTokenizer(vocab={entry: number for number, entry in enumerate(entries)})
    from unmask.config.settings import ModelSettings
    from unmask.vocabulary.new_tokenizer import train_tokenizer

    texts = (
        line
        for name in files
        for line in Path(name).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    )
    return train_tokenizer(texts, ModelSettings(vocab_size=8_192)).tokenizer


def _rate(tokens: int, seconds: float) -> Result:
    return {"tokens": tokens, "seconds": seconds, "mega_tokens_per_second": tokens / seconds / 1e6}


def _tell(what: str, result: Result) -> None:
    say(f"  {what}: {result['mega_tokens_per_second']:.3g} million tokens/s")


if __name__ == "__main__":
    raise SystemExit(harness.main(work, options()))
