"""The components of a run: tokenizer, model, training text and held-out text, made or loaded by their settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unmask.config.settings import DataSettings, ModelSettings, RunConfig, TrainSettings
from unmask.data.batches import TextSource
from unmask.data.batching import first_characters
from unmask.data.corpus import given_shards, require_texts
from unmask.data.heldout_size import least_held_out
from unmask.data.masking.custom import CustomUnits
from unmask.data.masking.units import plan_of
from unmask.data.reading.documents import DocumentReader
from unmask.data.split import training_texts
from unmask.data.tokenizer import load_tokenizer
from unmask.data.verification import Verification
from unmask.errors import ConfigError, DataError
from unmask.evaluation.text_cache import LogOnce
from unmask.model.base import LanguageModel
from unmask.model.cooccurrence import MAX_TOKENS, set_token_vectors, token_vectors
from unmask.model.layers import add_lora, freeze_embeddings
from unmask.model.load import choose_precision, new_model, pick_device, read_checkpoint, set_dropout
from unmask.model.masked_lm import MaskedLM
from unmask.model.mps import use_mps
from unmask.model.presets import find_preset
from unmask.model.sentence_modules import find_sentence_modules
from unmask.model.unigram_bias import set_unigram_bias
from unmask.model.verify import verify
from unmask.objectives.choose import Custom, objective_of
from unmask.objectives.mlm import MaskedLanguageModelling
from unmask.objectives.objective import Objective
from unmask.progress import Progress
from unmask.run.texts import RunTexts, open_texts, with_targets
from unmask.run_folder import ADDED_WORDS, RunFolder, model_folder
from unmask.storage import new_folder, read_json
from unmask.training.distributed import World
from unmask.training.parallel import Kind, choose_parallel
from unmask.vocabulary.families import BERT, tokenizer_family
from unmask.vocabulary.new_tokenizer import KINDS, train_tokenizer

if TYPE_CHECKING:
    import torch
    from peft import LoraModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TOKENIZER_CHARACTERS = 20_000_000
_DEFAULT_LENGTH = 512


@dataclass(frozen=True)
class RunComponents(RunTexts):
    """The components of a run.

    Attributes:
        model: on its device, in training mode, with the dropout of the settings.
        scratch: whether the weights are new.
        precision: ``fp32`` or ``bf16``.
        max_length: tokens of a sequence.
        world: the processes of the run.
        parallel: how they share the work, and why so.
        adapters: the LoRA adapters in the model, if any.
        new_rows: ids of the added tokens, whose embeddings are trained first.
        sentence_modules: the folder with the modules of a sentence-transformers checkpoint.
        new_head: whether a checkpoint came without an LM head, so that there are no metrics of it before training.
        selection: held-out text that chooses the exported weights, where ``heldout`` does not.
        general_selection: general text that does, where ``general`` does not.
        objective: what is learned.
    """

    model: MaskedLM = field(kw_only=True)
    scratch: bool = field(kw_only=True)
    precision: str = field(kw_only=True)
    max_length: int = field(kw_only=True)
    world: World = field(kw_only=True)
    parallel: tuple[Kind, str] = ("ddp", "")
    adapters: LoraModel | None = None
    new_rows: list[int] = field(default_factory=list)
    sentence_modules: Path | None = None
    new_head: bool = False
    selection: TextSource | None = None
    general_selection: TextSource | None = None
    objective: Objective = field(default_factory=MaskedLanguageModelling)

    @property
    def all_heldout(self) -> TextSource | None:
        """The held-out text with the part of it that chooses the weights."""
        return _joined(self.selection, self.heldout)

    @property
    def all_general(self) -> TextSource | None:
        """The general text to measure forgetting on with the part of it that chooses the weights."""
        return _joined(self.general_selection, self.general)

    @property
    def has_base(self) -> bool:
        """Whether there is a model before training to compare with."""
        return not (self.scratch or self.new_head) and self.objective.uses_head


def _joined(first: TextSource | None, second: TextSource | None) -> TextSource | None:
    """Return the text of which both are parts; the second, where there is no first."""
    if first is None or second is None:
        return second
    return second.part(np.union1d(first.documents, second.documents))


def build_components(
    config: RunConfig,
    folder: RunFolder,
    progress: Progress,
    world: World | None = None,
    verification: Verification | None = None,
    custom: Custom = Custom(),
) -> RunComponents:
    """Load or make everything that a run needs.

    Args:
        config: its settings.
        folder: of the run.
        progress: is told what is loaded and made.
        world: the processes of the run.
        verification: compares shards that there are with their checksums; without it, they are compared here.
        custom: an objective and a masking strategy of the caller's own.

    Raises:
        ConfigError: model, tokenizer and settings do not fit.
        DataError: the text cannot be used.
    """
    settings = config.train
    device, world = pick_device(settings.device), world or World()
    world.leader_first(partial(require_texts, config.data), "looking for the text")
    progress = LogOnce(progress) if world.is_main else Progress()  # a tokenizer may read the same text first
    tokenizer = open_tokenizer(config.model, config.data, folder, world, progress)
    objective = objective_of(config, custom)
    model, new_head, adapters = _model_to_train(config, tokenizer, objective, device, progress)
    name, offline = config.model.name, config.model.offline
    sentence_modules = find_sentence_modules(name, offline=offline) if name else None
    length = sequence_length(config.data, model)
    parallel = choose_parallel(settings, model, world)  # before any text is prepared
    strategy = custom.strategy and CustomUnits(custom.strategy, model.vocabulary, tokenizer)
    masking = plan_of(model.vocabulary, config.masking, strategy)
    texts = open_texts(config.data, masking, model, length, folder, world, progress, verification)
    if not texts.text.can_have_targets():
        raise DataError(texts.text.why_no_target("the training text"))
    if config.model.preset:
        set_first_weights(model.model, texts.text, settings.seed, world, progress)
    texts.text.warn_of_no_term(progress)
    text = objective.source(texts.text)
    objective.describe(text)  # raises where there is nothing to learn
    agree_on_precision(model, settings.precision, world, progress)
    return RunComponents(
        text,
        with_targets(texts.heldout, settings.eval_tokens, "the held-out text", progress),
        None if texts.replay is None else objective.source(texts.replay),
        with_targets(texts.general, settings.eval_tokens, "the held-out general text", progress),
        model=model,
        scratch=bool(config.model.preset),
        precision="bf16" if model.autocast else "fp32",
        max_length=length,
        world=world,
        parallel=parallel,
        adapters=adapters,
        new_rows=added_token_ids(config.model.name or "") if settings.new_embeddings_steps else [],
        sentence_modules=sentence_modules,
        new_head=new_head,
        objective=objective,
    )


def _model_to_train(
    config: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    objective: Objective,
    device: torch.device,
    progress: Progress,
) -> tuple[MaskedLM, bool, LoraModel | None]:
    """Return the model, ready for the objective, whether its LM head has new weights, and its LoRA adapters, if any."""
    settings, uses_head = config.train, objective.uses_head
    log = progress if uses_head else Progress()
    raw, new_head = build_model(config.model, tokenizer, settings.seed, log)
    new_head = new_head and uses_head
    raw.to(device)  # type: ignore[arg-type]
    if settings.gradient_checkpointing:
        # The reentrant kind gives no gradient where the embeddings take none.
        raw.gradient_checkpointing_enable({"use_reentrant": False})
    model = MaskedLM(raw, tokenizer, autocast=settings.precision == "bf16")
    use_mps(model, settings.device, progress)
    verify(model, progress)
    adapters = apply_restrictions(raw, settings, new_head, progress)
    model = objective.trained_model(model, settings.seed)
    for stage in objective.stages:
        stage.prepare(model, settings.seed)
    if config.model.dropout is not None:
        set_dropout(model.model, config.model.dropout)
    return model, new_head, adapters


def agree_on_precision(model: MaskedLM, wanted: str, world: World, progress: Progress) -> None:
    """With ``auto``, measure whether bf16 is faster, and compute in what the main process finds."""
    choose_precision(model, wanted, progress)
    if world.size > 1 and wanted == "auto":  # measured in each, which may find otherwise
        found = world.from_main(model.precision_name)
        if found == "bf16" and not model.autocast and (reason := model.use_bf16()):
            raise ConfigError(f"process 0 computes in bf16, but here {reason}; use --precision fp32")
        model.autocast = found == "bf16"


def open_tokenizer(
    model: ModelSettings, data: DataSettings, folder: RunFolder, world: World, progress: Progress
) -> PreTrainedTokenizerBase:
    """Load the tokenizer that is named, of the checkpoint or of the shards; or train one on the text."""
    name = model.tokenizer or model.name
    if name is None and (shards := given_shards(data.inputs, progress)):
        name = str(shards / "tokenizer")
        progress.log(f"using the tokenizer of the shards: {name}")
    if name is not None:
        return load_tokenizer(name, offline=model.offline, progress=progress)
    saved = folder.root / "tokenizer"

    def train() -> None:
        if not (saved / "tokenizer.json").is_file():
            with new_folder(saved) as partial:
                _train_tokenizer(model, data, progress).save_pretrained(partial)

    world.leader_first(train, "training the tokenizer")
    return load_tokenizer(str(saved), offline=True)


def _train_tokenizer(model: ModelSettings, data: DataSettings, progress: Progress) -> PreTrainedTokenizerBase:
    assert model.preset is not None
    progress.begin("tokenizer")
    reader = DocumentReader(data.inputs, data, progress=progress)
    documents = (document.text for document in reader)
    # Held-out text must be as new to the tokenizer as to the model.
    minimum = least_held_out(data)
    trained_on = documents if data.heldout else training_texts(documents, data.heldout_share, minimum)
    texts = first_characters(trained_on, _TOKENIZER_CHARACTERS)
    preset = find_preset(model.preset)
    family = tokenizer_family(preset.family)
    if family is None:
        progress.log(
            f"the kind of tokenizer of {preset.family} models is not known here: one with BERT's special tokens is trained; "
            f"--tokenizer names another"
        )
        family = BERT
    trained = train_tokenizer(texts, model, family=family, token_types=preset.has_token_types)
    progress.end()
    kind = KINDS[model.tokenizer_kind or family.kind]
    progress.log(f"trained a {kind} tokenizer of {len(trained.tokenizer):,} entries on the training text")
    trained.log(progress)
    return trained.tokenizer


def build_model(
    settings: ModelSettings, tokenizer: PreTrainedTokenizerBase, seed: int, progress: Progress
) -> tuple[PreTrainedModel, bool]:
    """Return the model, and whether it is a checkpoint that came without an LM head."""
    if settings.preset:
        return new_model(settings.preset, tokenizer, seed, settings.near_layers), False
    assert settings.name is not None
    read = read_checkpoint(settings.name, offline=settings.offline, seed=seed, progress=progress)
    return read.model, bool(read.new_head)


def apply_restrictions(
    model: PreTrainedModel, train: TrainSettings, new_head: bool, progress: Progress
) -> LoraModel | None:
    """Freeze the weights that are not to be trained; return the LoRA adapters that are trained instead, if any."""
    if train.head_warmup_steps and not new_head:
        raise ConfigError(
            "train.head_warmup_steps is for a checkpoint without an LM head, but the model has "
            "one; leave it out"
        )
    if new_head and not train.head_warmup_steps:
        progress.log(
            "the gradients of an untrained LM head disturb the encoder; --head-warmup-steps 200 trains only the head "
            "for the first 200 steps"
        )
    adapters = None
    if train.lora_rank:
        adapters = add_lora(model, train.lora_rank, seed=train.seed, head=new_head)
    elif train.freeze == "embeddings" and freeze_embeddings(model):
        progress.log("the output matrix is tied to the frozen embeddings, so it is frozen too")
    if adapters or train.freeze != "none":
        trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        total = sum(weight.numel() for weight in model.parameters())
        progress.log(f"training {trained:,} of {total:,} weights ({trained / total:.1%})")
    return adapters


def set_first_weights(
    model: PreTrainedModel, text: TextSource, seed: int, world: World, progress: Progress
) -> None:
    """Start a new model from counts of the training text: output bias and embeddings."""
    # Unknown and special tokens are never targets, however frequent.
    if set_unigram_bias(model, np.where(text.vocabulary.special, 0, text.token_counts())):
        progress.log("the output bias of the new model starts at the log frequencies of the tokens")
    width = int(model.get_input_embeddings().embedding_dim)  # type: ignore[arg-type]
    # All processes begin with the same weights, and the last digits of this depend on the processor.
    found = world.from_main(token_vectors(*text.sample(MAX_TOKENS), width, seed) if world.is_main else None)
    if found is not None and set_token_vectors(model, *found):
        progress.log("its embeddings start from counts of which tokens occur near which")


def added_token_ids(name: str) -> list[int]:
    """Return the ids of the words that ``unmask tokenizer extend`` added to a checkpoint.

    Raises:
        ConfigError: the checkpoint has no such list, or a damaged one.
    """
    path = Path(model_folder(name)) / ADDED_WORDS
    content = read_json(path)
    if not content:
        raise ConfigError(
            f"train.new_embeddings_steps is for a model with added words, but there is no {path}; "
            f"give a folder made by 'unmask tokenizer extend', or leave it out"
        )
    try:
        return [int(word["id"]) for word in content["words"]]
    except (TypeError, KeyError, ValueError):
        raise ConfigError(
            f'{path}: expected {{"words": [{{"word": …, "id": …}}, …]}}; make the folder again'
        ) from None


def sequence_length(data: DataSettings, model: LanguageModel) -> int:
    """Return the tokens of a sequence with its special tokens.

    Raises:
        ConfigError: the model takes fewer, or the overlap fills a sequence.
    """
    wanted, most = data.max_length, model.max_length
    if wanted is not None and wanted > most:
        raise ConfigError(f"data.max_length is {wanted}, but the model takes at most {most} tokens")
    length = wanted or min(_DEFAULT_LENGTH, most)
    if data.overlap >= length - model.vocabulary.overhead:
        raise ConfigError(
            f"data.overlap is {data.overlap}; it must be less than a sequence of {length} tokens"
        )
    return length
