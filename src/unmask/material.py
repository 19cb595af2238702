"""What a run works with: tokenizer, model, training text and held-out text, made or loaded as settings say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unmask.config import RunConfig
from unmask.data.batches import TextSource
from unmask.data.corpus import Corpus, is_corpus, open_corpus, prepare
from unmask.data.documents import DocumentReader
from unmask.data.tokenizer import load_tokenizer, tokenizer_hash, train_tokenizer
from unmask.errors import ConfigError, DataError
from unmask.model.load import load_checkpoint, new_model, pick_device, set_dropout
from unmask.model.masked_lm import MaskedLM
from unmask.model.precision import pick_precision
from unmask.model.presets import find_preset
from unmask.progress import Progress
from unmask.run_folder import RunFolder
from unmask.training.distributed import World

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOKENIZER_CHARACTERS = 20_000_000
_LONGEST = 512


@dataclass(frozen=True)
class Material:
    """What a run works with.

    Attributes:
        model: on its device, in training mode, with the dropout of the settings.
        text: what is trained on.
        heldout: what is evaluated on, or ``None`` where there is too little text.
        scratch: whether the weights are new.
        precision: ``fp32`` or ``bf16``.
        max_length: tokens of a sequence.
        world: the processes of the run.
    """

    model: MaskedLM
    text: TextSource
    heldout: TextSource | None
    scratch: bool
    precision: str
    max_length: int
    world: World


def gather(config: RunConfig, folder: RunFolder, progress: Progress) -> Material:
    """Load or make everything that a run needs.

    Raises:
        ConfigError: model, tokenizer and settings do not fit.
        DataError: the text cannot be used.
    """
    device = pick_device(config.train.device)
    world = World.join(device)
    if not world.leads:
        progress = Progress()
    tokenizer = _tokenizer(config, folder, world, progress)
    precision, why = pick_precision(config.train.precision, device)
    progress.notice(why)
    if config.model.preset:
        raw = new_model(config.model.preset, tokenizer, config.train.seed)
    else:
        assert config.model.name is not None
        raw = load_checkpoint(
            config.model.name, offline=config.model.offline, seed=config.train.seed, notice=progress.notice
        )
    raw.to(device)  # type: ignore[arg-type]
    if config.train.gradient_checkpointing:
        raw.gradient_checkpointing_enable()
    model = MaskedLM(raw, tokenizer, autocast=precision == "bf16")
    if config.model.dropout is not None:
        set_dropout(raw, config.model.dropout)
    length = _max_length(config, model, progress)
    text, heldout = _sources(config, folder, model, length, world, progress)
    if heldout is not None and not _asks_anything(heldout, config.train.eval_tokens):
        progress.notice(
            "no token of the held-out text is masked, so nothing can be evaluated; hold out more text"
        )
        heldout = None
    return Material(model, text, heldout, bool(config.model.preset), precision, length, world)


def _tokenizer(
    config: RunConfig, folder: RunFolder, world: World, progress: Progress
) -> PreTrainedTokenizerBase:
    name = config.model.tokenizer or config.model.name
    if name is None and is_corpus(config.data.inputs[0]):
        name = str(Path(config.data.inputs[0]) / "tokenizer")
        progress.notice(f"taking the tokenizer that made the shards: {name}")
    if name is not None:
        return load_tokenizer(name, offline=config.model.offline)
    assert config.model.preset is not None
    saved = folder.root / "tokenizer"
    if world.leads and not (saved / "tokenizer.json").is_file():
        _train_tokenizer(config, progress).save_pretrained(saved)
    world.wait()
    return load_tokenizer(str(saved), offline=True)


def _train_tokenizer(config: RunConfig, progress: Progress) -> PreTrainedTokenizerBase:
    assert config.model.preset is not None
    progress.begin("tokenizer")
    reader = DocumentReader(config.data.inputs, config.data, notice=progress.notice)
    texts = _until(_TOKENIZER_CHARACTERS, (document.text for document in reader))
    token_types = find_preset(config.model.preset).family == "bert"
    tokenizer = train_tokenizer(texts, config.model.vocab_size, token_types=token_types)
    progress.end()
    progress.notice(f"trained a WordPiece tokenizer of {len(tokenizer):,} entries on the text")
    return tokenizer


def _until(limit: int, texts: Iterator[str]) -> Iterator[str]:
    """Yield texts until so many characters have gone by."""
    seen = 0
    for text in texts:
        yield text
        seen += len(text)
        if seen >= limit:
            return


def _max_length(config: RunConfig, model: MaskedLM, progress: Progress) -> int:
    wanted, most = config.data.max_length, model.max_length
    if wanted is not None and wanted > most:
        raise ConfigError(f"data.max_length is {wanted}, but the model takes at most {most} tokens")
    length = wanted or min(_LONGEST, most)
    if config.data.overlap >= length - model.vocabulary.overhead:
        raise ConfigError(
            f"data.overlap is {config.data.overlap}; it must be less than a sequence of {length} tokens"
        )
    return length


def _sources(
    config: RunConfig, folder: RunFolder, model: MaskedLM, length: int, world: World, progress: Progress
) -> tuple[TextSource, TextSource | None]:
    corpus = _corpus(config, config.data.inputs, folder.shards, model, world, progress)

    def source(of: Corpus, documents: np.ndarray) -> TextSource:
        return TextSource(of, documents, model.vocabulary, config.masking, length, config.data.overlap)

    everything = np.arange(len(corpus))
    if config.data.heldout:
        place = folder.root / "shards-heldout"
        other = _corpus(config, config.data.heldout, place, model, world, progress)
        return source(corpus, everything), source(other, np.arange(len(other)))
    train, heldout = corpus.split(config.data.heldout_share)
    if len(corpus) == 1:
        progress.notice(
            "the text is one single document, so nothing is held out and nothing can be evaluated"
        )
        return source(corpus, everything), None
    if not len(heldout) or not len(train):
        heldout = np.array([int(np.argmin(corpus.keys))])
        train = np.setdiff1d(everything, heldout)
    return source(corpus, train), source(corpus, heldout)


def _asks_anything(heldout: TextSource, tokens: int) -> bool:
    """Whether an evaluation on so many tokens has a target: a text of a few words may have none."""
    return any(len(batch.target_ids) for batch in heldout.evaluation_batches(tokens, tokens))


def _corpus(
    config: RunConfig, inputs: Sequence[str], place: Path, model: MaskedLM, world: World, progress: Progress
) -> Corpus:
    """Open shards that are given, or prepare them in the run folder."""
    shards = [item for item in inputs if is_corpus(item)]
    if shards:
        if len(inputs) > 1:
            raise DataError(
                f"'{shards[0]}' holds prepared shards; it must be the only input, not one of {len(inputs)}"
            )
        corpus = open_corpus(Path(shards[0]))
        if corpus.manifest["tokenizer_sha256"] != tokenizer_hash(model.tokenizer):
            raise DataError(
                "these shards were made with another tokenizer than the model's; prepare them again with "
                "'unmask prepare --model' and the model's name",
                path=shards[0],
            )
        progress.notice(
            f"using {corpus.tokens:,} tokens of {len(corpus):,} documents prepared in {shards[0]}"
        )
        return corpus
    if world.leads:
        corpus = prepare(inputs, config.data, model.tokenizer, place, progress=progress)
    world.wait()
    return corpus if world.leads else open_corpus(place, verify=False)
