"""What a run works with: tokenizer, model, training text and held-out text, made or loaded as settings say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unmask.config.settings import RunConfig
from unmask.data.batches import TextSource
from unmask.data.corpus import Corpus, is_corpus, open_corpus, prepare
from unmask.data.reading.documents import DocumentReader
from unmask.data.tokenizer import load_tokenizer, tokenizer_hash, train_tokenizer
from unmask.errors import ConfigError, DataError
from unmask.model.layers import freeze_embeddings
from unmask.model.load import new_model, pick_device, read_checkpoint, set_dropout
from unmask.model.lora import add_lora
from unmask.model.masked_lm import MaskedLM
from unmask.model.precision import pick_precision
from unmask.model.presets import find_preset
from unmask.model.unigram_bias import set_unigram_bias
from unmask.progress import Progress
from unmask.run_folder import ADDED_WORDS, RunFolder, model_folder
from unmask.storage import new_folder, read_json
from unmask.training.distributed import World

if TYPE_CHECKING:
    from peft import LoraModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

"""What ``unmask tokenizer extend`` leaves in the folder of a model: the new words and their ids."""

_TOKENIZER_CHARACTERS = 20_000_000
_LONGEST = 512


@dataclass(frozen=True)
class Texts:
    """The texts of a run.

    Attributes:
        text: what is trained on.
        heldout: what is evaluated on, or ``None`` where there is too little text.
        replay: general text that is mixed in, if any.
        general: general text to measure forgetting on, if any.
    """

    text: TextSource
    heldout: TextSource | None
    replay: TextSource | None = None
    general: TextSource | None = None


@dataclass(frozen=True)
class RunComponents(Texts):
    """What a run works with.

    Attributes:
        model: on its device, in training mode, with the dropout of the settings.
        scratch: whether the weights are new.
        precision: ``fp32`` or ``bf16``.
        max_length: tokens of a sequence.
        world: the processes of the run.
        adapters: the LoRA adapters in the model, if any.
        new_rows: ids of the tokens whose rows move first.
    """

    model: MaskedLM = field(kw_only=True)
    scratch: bool = field(kw_only=True)
    precision: str = field(kw_only=True)
    max_length: int = field(kw_only=True)
    world: World = field(kw_only=True)
    adapters: LoraModel | None = None
    new_rows: list[int] = field(default_factory=list)


def build_components(config: RunConfig, folder: RunFolder, progress: Progress) -> RunComponents:
    """Load or make everything that a run needs.

    Raises:
        ConfigError: model, tokenizer and settings do not fit.
        DataError: the text cannot be used.
    """
    device = pick_device(config.train.device)
    world = World.join(device)
    if not world.is_main:
        progress = Progress()
    tokenizer = _tokenizer(config, folder, world, progress)
    precision, why = pick_precision(config.train.precision, device)
    progress.log(why)
    raw, new_head = _weights(config, tokenizer, progress)
    raw.to(device)  # type: ignore[arg-type]
    if config.train.gradient_checkpointing:
        # The other kind of checkpointing gives no gradient where the embeddings take none.
        raw.gradient_checkpointing_enable({"use_reentrant": False})
    model = MaskedLM(raw, tokenizer, autocast=precision == "bf16")
    adapters = _restrict(config, raw, new_head, progress)
    if config.model.dropout is not None:
        set_dropout(raw, config.model.dropout)
    length = _max_length(config, model, progress)
    texts = _texts(config, folder, model, length, world, progress)
    if config.model.preset and set_unigram_bias(raw, texts.text.token_counts()):
        progress.log("a new model's head starts at the frequencies of the tokens in the text")
    return RunComponents(
        texts.text,
        _asking(texts.heldout, config, "the held-out text", progress),
        texts.replay,
        _asking(texts.general, config, "the held-out general text", progress),
        model=model,
        scratch=bool(config.model.preset),
        precision=precision,
        max_length=length,
        world=world,
        adapters=adapters,
        new_rows=_new_rows(config) if config.train.new_embeddings_steps else [],
    )


def _weights(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, progress: Progress
) -> tuple[PreTrainedModel, bool]:
    """Return the model, and whether a checkpoint came without an LM head."""
    train, name = config.train, config.model.name
    if config.model.preset:
        return new_model(config.model.preset, tokenizer, train.seed), False
    assert name is not None
    read = read_checkpoint(name, offline=config.model.offline, seed=train.seed, progress=progress)
    if train.head_warmup_steps and not read.new_head:
        raise ConfigError(
            f"train.head_warmup_steps (--head-warmup-steps) is for a checkpoint without an LM head, but '{name}' brings one; "
            f"leave it out"
        )
    if read.new_head and not train.head_warmup_steps:
        progress.log(
            "the new LM head will disturb the encoder until it has learned something; "
            "--head-warmup-steps 200 lets it move alone for the first 200 steps"
        )
    return read.model, bool(read.new_head)


def _restrict(
    config: RunConfig, model: PreTrainedModel, new_head: bool, progress: Progress
) -> LoraModel | None:
    """Freeze what the settings keep as it is; return the adapters that move in its place, if any."""
    train = config.train
    adapters = None
    if train.lora_rank:
        adapters = add_lora(model, train.lora_rank, seed=train.seed, head=new_head)
    elif train.freeze == "embeddings" and freeze_embeddings(model):
        progress.log(
            "the embeddings keep as they are, and with them the head's output matrix, which is the same one; "
            "the head's other weights move"
        )
    if adapters or train.freeze != "none":
        moving = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        every = sum(weight.numel() for weight in model.parameters())
        progress.log(f"{moving:,} of {every:,} weights move ({moving / every:.1%})")
    return adapters


def _new_rows(config: RunConfig) -> list[int]:
    """Return the ids of the words that were added to the checkpoint."""
    path = Path(model_folder(config.model.name or "")) / ADDED_WORDS
    content = read_json(path)
    if not content:
        raise ConfigError(
            f"train.new_embeddings_steps is for a model with added words, but {path} is not there; "
            f"give a folder made by 'unmask tokenizer extend', or leave it out"
        )
    try:
        return [int(word["id"]) for word in content["words"]]
    except (TypeError, KeyError, ValueError):
        raise ConfigError(
            f'{path}: expected {{"words": [{{"word": …, "id": …}}, …]}}; make the folder again'
        ) from None


def _tokenizer(
    config: RunConfig, folder: RunFolder, world: World, progress: Progress
) -> PreTrainedTokenizerBase:
    name = config.model.tokenizer or config.model.name
    if name is None and is_corpus(config.data.inputs[0]):
        name = str(Path(config.data.inputs[0]) / "tokenizer")
        progress.log(f"taking the tokenizer that made the shards: {name}")
    if name is not None:
        return load_tokenizer(name, offline=config.model.offline)
    assert config.model.preset is not None
    saved = folder.root / "tokenizer"
    if world.is_main and not (saved / "tokenizer.json").is_file():
        with new_folder(saved) as partial:
            _train_tokenizer(config, progress).save_pretrained(partial)
    world.wait()
    return load_tokenizer(str(saved), offline=True)


def _train_tokenizer(config: RunConfig, progress: Progress) -> PreTrainedTokenizerBase:
    assert config.model.preset is not None
    progress.begin("tokenizer")
    reader = DocumentReader(config.data.inputs, config.data, log=progress.log)
    texts = _until(_TOKENIZER_CHARACTERS, (document.text for document in reader))
    token_types = find_preset(config.model.preset).family == "bert"
    tokenizer = train_tokenizer(texts, config.model.vocab_size, token_types=token_types)
    progress.end()
    progress.log(f"trained a WordPiece tokenizer of {len(tokenizer):,} entries on the text")
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


def _texts(
    config: RunConfig, folder: RunFolder, model: MaskedLM, length: int, world: World, progress: Progress
) -> Texts:
    data = config.data

    def corpus(inputs: list[str], place: str) -> Corpus:
        return _corpus(config, inputs, folder.root / place, model, world, progress)

    def source(of: Corpus, documents: np.ndarray) -> TextSource:
        return TextSource(of, documents, model.vocabulary, config.masking, length, data.overlap)

    def all_of(inputs: list[str], place: str) -> TextSource:
        of = corpus(inputs, place)
        return source(of, np.arange(len(of)))

    def halves(inputs: list[str], place: str, what: str) -> tuple[TextSource, TextSource | None]:
        of = corpus(inputs, place)
        train, heldout = _split(of, data.heldout_share)
        if heldout is None:
            progress.log(
                f"{what} is one single document, so nothing is held out and nothing can be evaluated"
            )
        return source(of, train), None if heldout is None else source(of, heldout)

    replay = general = None
    if data.heldout:
        text: TextSource = all_of(data.inputs, folder.shards.name)
        heldout: TextSource | None = all_of(data.heldout, "shards-heldout")
    else:
        text, heldout = halves(data.inputs, folder.shards.name, "the text")
    if data.replay and data.forgetting_eval:
        replay = all_of(data.replay, "shards-replay")
    elif data.replay:
        replay, general = halves(data.replay, "shards-replay", "the general text")
    if data.forgetting_eval:
        general = all_of(data.forgetting_eval, "shards-general")
    return Texts(text, heldout, replay, general)


def _split(corpus: Corpus, share: float) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the documents to train on, and those held out: at least one where there are two."""
    train, heldout = corpus.split(share)
    if len(corpus) == 1:
        return np.arange(1), None
    if not len(heldout) or not len(train):
        heldout = np.array([int(np.argmin(corpus.keys))])
        train = np.setdiff1d(np.arange(len(corpus)), heldout)
    return train, heldout


def _asking(text: TextSource | None, config: RunConfig, what: str, progress: Progress) -> TextSource | None:
    """Return a text if an evaluation of it has a target: one of a few words may have none."""
    tokens = config.train.eval_tokens
    if text is None or any(len(batch.target_ids) for batch in text.evaluation_batches(tokens, tokens)):
        return text
    progress.log(f"no token of {what} is masked, so nothing can be evaluated; hold out more text")
    return None


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
        corpus = open_corpus(Path(shards[0]), strict=config.data.strict)
        if corpus.manifest["tokenizer_sha256"] != tokenizer_hash(model.tokenizer):
            raise DataError(
                "these shards were made with another tokenizer than the model's; prepare them again with "
                "'unmask prepare --model' and the model's name",
                path=shards[0],
            )
        progress.log(f"using {corpus.tokens:,} tokens of {len(corpus):,} documents prepared in {shards[0]}")
        return corpus
    if world.is_main:
        corpus = prepare(inputs, config.data, model.tokenizer, place, progress=progress)
    world.wait()
    return corpus if world.is_main else open_corpus(place, verify=False)
