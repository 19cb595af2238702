"""All settings of a run. Each section is a class; :class:`RunConfig` holds them together.

Unknown keys are refused, and settings never change after they are made.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unmask.config.requirements import parse_requirements
from unmask.remote.systems import is_url


class Settings(BaseModel):
    """Base of all settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class DocumentSettings(Settings):
    """How files become documents."""

    documents: Literal["auto", "file", "block", "line"] = "auto"
    """A document of plain text is a whole ``file``, a ``block`` between empty lines, or a ``line``; ``auto`` takes
    the whole file where there are many small files; otherwise blocks where a file has empty lines and lines where it has
    none."""
    text_field: str = "text"
    """The field, or column, of the text in JSONL, CSV, TSV, Parquet and Hub data sets. ``note.body`` and ``/note/body``
    are fields of inner objects; of several, such as ``content,body,"Note Text"``, the first that is filled is taken."""
    encoding: str | None = None
    """The encoding of plain text, CSV and TSV that is not UTF-8, such as ``windows-1252``; a byte order mark wins."""
    delimiter: str | None = None
    """The separator in CSV and TSV files: a character, or ``tab``; by default the one by which the first row has the
    field."""
    markup: Literal["keep", "strip"] = "keep"
    """The tags of HTML and XML files: ``keep`` them as text, or ``strip`` them. Needs the extra ``markup``."""
    split: str = "train"
    """The split of Hub data sets."""
    strict: bool = False
    """Refuse text with any error, instead of skipping the record with a warning."""
    allow_unknown: bool = False
    """Take text of which more than a fifth of the tokens are unknown to the tokenizer, instead of refusing it."""
    skip_unreadable: bool = False
    """Leave out files of which nothing can be read, and most of a file where most of it cannot be, instead of stopping."""
    offline: bool = False
    """Read Hub data sets from the local cache only."""

    @property
    def separator(self) -> str | None:
        """The delimiter as a character."""
        return {"tab": "\t", "\\t": "\t"}.get(self.delimiter or "", self.delimiter)

    @model_validator(mode="after")
    def _encoding_exists(self) -> DocumentSettings:
        try:
            "".encode(self.encoding or "utf-8")
        except LookupError:
            raise ValueError(
                f"encoding must be one that Python knows, such as windows-1252 or utf-16-le, not '{self.encoding}'"
            ) from None
        return self

    @model_validator(mode="after")
    def _delimiter_is_a_character(self) -> DocumentSettings:
        if self.separator is not None and (len(self.separator) != 1 or self.separator in '"\r\n'):
            raise ValueError(f"delimiter must be one character or 'tab', not '{self.delimiter}'")
        return self


class DataSettings(DocumentSettings):
    """The training text and the held-out text."""

    inputs: list[str] = []
    """Files, folders, globs, URLs, ``-`` for standard input, ``hf://org/name``, or shards made by ``unmask prepare``."""
    heldout: list[str] = []
    """Text to evaluate on; by default a share of the inputs is set aside."""
    heldout_share: float = Field(0.05, gt=0, lt=1)
    """Share of documents set aside, by a hash of the text: the same documents every time."""
    heldout_minimum: int | None = Field(None, ge=1)
    """Documents set aside at least, as long as they are no more than a quarter of all; by default 15."""
    replay: list[str] = []
    """General text that is mixed into every step so that the model forgets less; a share of it is held out to measure
    forgetting."""
    replay_share: float = Field(0.05, gt=0, lt=1)
    """Share of the training tokens that come from ``replay``."""
    forgetting_eval: list[str] = []
    """General text to measure forgetting on; by default the held-out share of ``replay``."""
    max_length: int | None = Field(None, ge=8)
    """Tokens of a sequence with its special tokens; longer documents are split into several. By default 512, or the
    maximum of the model if that is less."""
    overlap: int = Field(0, ge=0)
    """Tokens that the sequences of a split document share with the one before."""


class MaskingSettings(Settings):
    """Which tokens are masked, and what replaces them (BERT's 15% and 80/10/10 by default)."""

    strategy: Literal["token", "word", "span", "terms", "custom"] = "token"
    """The unit that is masked as a whole: a ``token``, a ``word``, a ``span`` of words (SpanBERT), or a word, domain
    ``terms`` more often. ``custom`` stands for a strategy of one's own, which Python alone can pass."""
    rate: float = Field(0.15, gt=0, le=1)
    """Share of the text's tokens that are predicted, whatever the strategy."""
    initial_rate: float | None = Field(None, gt=0, le=1)
    """Mask rate at the first step, from which it changes linearly to ``rate``; by default twice ``rate`` from scratch,
    and ``rate`` to adapt. Evaluation always masks ``rate``."""
    count: Literal["bernoulli", "fixed"] = "bernoulli"
    """``bernoulli`` decides independently for every token, word or span, so that the number of targets varies;
    ``fixed`` masks the same share of every sequence, rounded up or down at random."""
    mask_share: float = Field(0.8, ge=0, le=1)
    """Share of the targets that become the mask token. With ``span`` the replacement is drawn once for a whole span, as
    in SpanBERT, otherwise for every token, as in BERT."""
    random_share: float = Field(0.1, ge=0, le=1)
    """Share of the targets that become a random token; the rest keep their own."""
    span_words: int = Field(10, ge=1)
    """Maximum number of words in a span."""
    terms: str | None = None
    """For ``terms``: a file with a term of one or more words on each line, and after a tab its weight, if any."""
    terms_pattern: str | None = None
    """For ``terms``: a regular expression; a word that it matches anywhere is a term."""

    @model_validator(mode="after")
    def _shares_fit(self) -> MaskingSettings:
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise ValueError(
                f"mask_share + random_share must be at most 1, "
                f"not {self.mask_share} + {self.random_share} = {self.mask_share + self.random_share:g}"
            )
        return self

    @model_validator(mode="after")
    def _files_are_local(self) -> MaskingSettings:
        if is_url(self.terms):
            raise ValueError(f"terms must be a file of this machine, not the URL {self.terms}")
        return self

    @model_validator(mode="after")
    def _pattern_compiles(self) -> MaskingSettings:
        try:
            re.compile(self.terms_pattern or "")
        except re.error as error:
            raise ValueError(
                f"terms_pattern must be a regular expression, not '{self.terms_pattern}': {error}"
            ) from None
        return self


class ModelSettings(Settings):
    """The model to train, and its tokenizer."""

    name: str | None = None
    """Checkpoint to adapt: a Hub name (``name@revision`` pins one) or a local folder."""
    preset: str | None = None
    """Architecture to train from scratch: a preset such as ``bert-mini`` or ``electra-small``, or the path of a
    ``config.json`` of transformers, or of its folder, whose architecture gets new weights."""
    tokenizer: str | None = None
    """Hub name or folder of the tokenizer; by default the checkpoint's, or one trained on the data."""
    generator: str | None = None
    """For objective ``rtd``: the masked language model that replaces tokens, a Hub name or a folder; by default the one in the
    folder of the checkpoint, where an earlier run left it, or a new one of a quarter of the width or half the layers."""
    near_layers: int | None = Field(None, ge=0)
    """Of a ModernBERT preset, so many first layers see the token before and the token behind alone; by default as many as
    the preset has."""
    vocab_size: int = Field(8192, ge=100)
    """Entries of a tokenizer that is trained on the data (only used with a preset)."""
    tokenizer_kind: Literal["wordpiece", "byte-level-bpe", "unigram"] | None = None
    """Kind of a tokenizer that is trained; by default that of the preset's family: ``byte-level-bpe`` for RoBERTa, ``unigram``
    for ALBERT and DeBERTa, ``wordpiece`` for others."""
    case: Literal["auto", "lower", "keep"] = "auto"
    """Whether it lower-cases text; ``auto`` does so for ``wordpiece`` and for ALBERT."""
    accents: Literal["keep", "strip"] = "keep"
    """``strip`` removes the diacritics of Latin, Greek and Cyrillic letters, so that é is e."""
    normal_form: Literal["nfc", "nfkc", "none"] = "nfc"
    """Unicode normal form of its text: ``nfc`` composes characters; ``nfkc`` also replaces ligatures and wide letters."""
    dropout: float | None = Field(0.0, ge=0.0, lt=1.0)
    """Dropout during training; ``null`` keeps the checkpoint's own. The saved config is not changed."""
    offline: bool = False
    """Make no network call, neither for the model nor for the text; use only files that are on this machine."""


class OptimizerSettings(Settings):
    """The optimizer and its learning rate."""

    name: Literal["auto", "adamw", "muon"] = "auto"
    """``adamw``, or ``muon`` for the hidden matrices; ``auto``: muon from scratch, adamw to adapt."""
    learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate of AdamW; by default derived from the kind of run and the model family."""
    muon_learning_rate: float = Field(0.02, gt=0)
    """Peak learning rate of Muon."""
    layer_decay: float | None = Field(None, gt=0, lt=1)
    """Factor of the learning rate from each layer to the one below it, for example 0.9: the head gets the full rate,
    the embeddings the lowest."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay of matrices; biases, norms and embeddings get none."""
    clip_norm: float = Field(1.0, gt=0)
    """Maximum global norm of the gradient, which is scaled down to it."""


class ScheduleSettings(Settings):
    """The learning rate over the run, as shares of it."""

    name: Literal["auto", "linear", "cosine", "trapezoid", "constant"] = "auto"
    """``linear`` and ``cosine`` decay after warm-up; ``trapezoid`` stays, then decays; ``auto``: trapezoid from
    scratch, linear to adapt."""
    warmup_share: float = Field(0.06, ge=0, le=1)
    """Share of the run in which the rate rises linearly to its peak: over n steps from 1/n of it."""


class TrainSettings(Settings):
    """One training run."""

    objective: Literal["mlm", "clm", "nsp", "sop", "rtd", "contrastive", "custom"] = "mlm"
    """What is learned: ``mlm``, masked language modelling; ``clm``, next tokens with causal attention for a share of the run,
    then masked language modelling; ``nsp`` or ``sop``, masked language modelling in pairs of passages, with next sentence or
    sentence order prediction; ``rtd``, which tokens a small masked-LM model has replaced; ``contrastive``, masked language
    modelling and embeddings of passages. ``custom`` stands for an objective of one's own, which Python alone can pass."""
    detour: float | None = Field(None, gt=0, lt=1)
    """For ``clm``: the share of the run that is causal; by default 0.6."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after so many optimizer steps."""
    epochs: float | None = Field(None, gt=0)
    """Stop after so many passes over the training text; by default, where nothing else ends the run, 100 over a small
    text to 1 over a large one."""
    minutes: float | None = Field(None, gt=0)
    """Stop after so many minutes of training; the learning rate follows the clock."""
    recipe: Literal["auto", "adapt", "scratch"] = "auto"
    """Defaults of open settings. ``adapt``: AdamW at the family's rate, a constant mask rate, linear decay, early
    stopping, the best weights exported. ``scratch``: Muon, a falling mask rate, a trapezoid. ``auto``: adapt for a
    checkpoint, scratch for a preset."""
    batch_tokens: int | None = Field(None, ge=8)
    """Tokens in one optimizer step, over all processes; by default 16,384 to adapt, less for small models
    from scratch."""
    micro_batch_tokens: int | None = Field(None, ge=8)
    """Tokens computed at once on one device; by default by the device. Does not change the result."""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """With several processes: each has the whole model (``ddp``), or a share of it (``fsdp``); by default by its size."""
    offload: bool = False
    """With ``fsdp``: keep weights, gradients and the state of the optimizer in the memory of the host, and update the
    weights on the CPU. Larger models fit onto a device, and steps take longer."""
    timeout_minutes: float = Field(10.0, gt=0)
    """With several processes: minutes that one waits for the others in a step before it gives up."""
    seed: int = Field(0, ge=0)
    """Seed of order, masks and new weights."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto`` measures whether bf16 is faster on this machine, and logs its choice."""
    compile: bool = False
    """Compile the encoder's layers with ``torch.compile``; on a GPU only."""
    save_every: int | None = Field(None, ge=1)
    """Steps between checkpoints; by default ten a run."""
    keep_last: int = Field(2, ge=1)
    """Checkpoints to keep."""
    eval_every: int | None = Field(None, ge=1)
    """Steps between evaluations on held-out text; by default ten a run, fewer where they would take more than about a tenth of
    its time."""
    eval_tokens: int = Field(50_000, ge=1)
    """Held-out tokens of an evaluation during training (the final one takes four times as many)."""
    patience: int | None = Field(None, ge=0)
    """Stop after so many evaluations in a row without a lower held-out loss; 0 never stops early. By default 3 to adapt
    and 0 from scratch."""
    export_best: bool | None = None
    """Export the weights with the lowest held-out loss instead of the last ones; by default only to adapt."""
    export_alpha: Literal["auto"] | float | None = None
    """To adapt, with general text: export the weights ``(1 - alpha) * base + alpha * adapted``. ``auto`` chooses the alpha
    with the lowest loss on the domain whose forgetting is within ``max_forgetting``, on one half of the held-out text;
    the metrics are of the other half. By default the adapted weights, which are alpha 1."""
    max_forgetting: float | None = Field(None, ge=0)
    """For ``export_alpha: auto`` and the verdict: the largest rise of the loss on general text, as a share of that of the
    base, such as 0.02; by default half of the rise at alpha 1."""
    require: str | None = None
    """What the exported model must reach, such as ``domain>=5%,forgetting<=2%``: the fall of the held-out loss and the rise
    of the loss on general text, as shares of those of the base, ``leaks<=1%``, or ``task>=0``: points of the metric of ``task``.
    A run that does not ends with exit code 6."""
    task: str | None = None
    """To adapt: a labelled task, as ``unmask probe --task`` takes it. A linear probe compares base and exported model on it
    for the verdict. Needs the extra ``probe``."""
    freeze: Literal["none", "embeddings"] = "none"
    """``embeddings`` freezes them, and with them an output matrix that is tied to them."""
    lora_rank: int | None = Field(None, ge=1)
    """Train LoRA adapters of this rank in the linear layers of the encoder instead of its weights (and the LM head, if
    it is new); they are merged into the exported model. Needs the extra ``lora``."""
    head_warmup_steps: int = Field(0, ge=0)
    """For a checkpoint without an LM head: train only the new head for the first N steps."""
    new_embeddings_steps: int = Field(0, ge=0)
    """For a model of ``unmask tokenizer extend``: train only the rows of the added words for the first N steps."""
    skip_spikes: bool = False
    """Skip steps whose loss is more than 6 sigma above its running mean. On CUDA this costs some speed."""
    log_every: int = Field(10, ge=1)
    """Steps between rows of ``metrics.jsonl``."""
    track: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = []
    """Experiment trackers that get metrics, settings and report. Needs the extra ``track``."""
    gradient_checkpointing: bool = False
    """Recompute activations to save memory."""
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()

    @model_validator(mode="after")
    def _alpha_is_between(self) -> TrainSettings:
        if isinstance(self.export_alpha, float) and not 0 <= self.export_alpha <= 1:
            raise ValueError(f"export_alpha must be auto or from 0 to 1, not {self.export_alpha:g}")
        return self

    @model_validator(mode="after")
    def _requirements_are_known(self) -> TrainSettings:
        parse_requirements(self.require)
        return self

    @model_validator(mode="after")
    def _task_is_local(self) -> TrainSettings:
        if is_url(self.task):
            raise ValueError(f"task must be a file or folder of this machine, not the URL {self.task}")
        return self

    @model_validator(mode="after")
    def _micro_fits(self) -> TrainSettings:
        if self.micro_batch_tokens and self.batch_tokens and self.micro_batch_tokens > self.batch_tokens:
            raise ValueError(
                f"train.micro_batch_tokens ({self.micro_batch_tokens}) must not exceed train.batch_tokens ({self.batch_tokens})"
            )
        return self

    @model_validator(mode="after")
    def _detour_is_causal(self) -> TrainSettings:
        if self.detour is not None and self.objective != "clm":
            raise ValueError(
                f"train.detour is a share of train.objective clm, and the objective is {self.objective}; choose train.objective clm, "
                f"or leave train.detour out"
            )
        return self

    @model_validator(mode="after")
    def _rtd_trains_all_weights(self) -> TrainSettings:
        set_otherwise = {
            "train.freeze": self.freeze != "none",
            "train.lora_rank": self.lora_rank,
            "train.head_warmup_steps": self.head_warmup_steps,
            "train.new_embeddings_steps": self.new_embeddings_steps,
            "train.optimizer.layer_decay": self.optimizer.layer_decay,
        }
        for name, is_set in set_otherwise.items():
            if is_set and self.objective == "rtd":
                raise ValueError(
                    f"train.objective rtd trains all weights of a generator and a discriminator at one rate, which {name} does not; "
                    f"leave {name} out, or choose another objective"
                )
        return self

    @model_validator(mode="after")
    def _trained_weights_agree(self) -> TrainSettings:
        if self.lora_rank and self.recipe == "scratch":
            raise ValueError("train.lora_rank adapts a checkpoint; leave train.recipe on auto")
        if self.new_embeddings_steps and (self.lora_rank or self.freeze == "embeddings"):
            other = "train.lora_rank" if self.lora_rank else "train.freeze"
            raise ValueError(
                f"train.new_embeddings_steps trains rows of the embeddings, which {other} freezes; give one of them"
            )
        if self.new_embeddings_steps and self.head_warmup_steps:
            raise ValueError(
                "train.head_warmup_steps and train.new_embeddings_steps exclude each other; give one (train a new head before new "
                "embeddings)"
            )
        return self


class RunConfig(Settings):
    """All settings of a run."""

    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    masking: MaskingSettings = MaskingSettings()
    train: TrainSettings = TrainSettings()

    @model_validator(mode="after")
    def _generator_is_of_rtd(self) -> RunConfig:
        if self.model.generator is not None and self.train.objective != "rtd":
            raise ValueError(
                f"model.generator is for train.objective rtd, and the objective is {self.train.objective}; leave it out, or choose "
                f"train.objective rtd"
            )
        return self

    @model_validator(mode="after")
    def _adaptation_can_be_judged(self) -> RunConfig:
        bounds = [each.measure for each in parse_requirements(self.train.require)]
        wanted = {
            "train.export_alpha": self.train.export_alpha,
            "train.max_forgetting": self.train.max_forgetting,
            "train.require": self.train.require,
            "train.task": self.train.task,
        }
        name = next((name for name, value in wanted.items() if value is not None), None)
        if name and self.model.preset:
            raise ValueError(
                f"{name} compares an adapted model with its base, and a preset has none; leave it out"
            )
        if "task" in bounds and not self.train.task:
            raise ValueError("train.require bounds task, and there is none; name one with --task")
        needs_general = {"train.export_alpha": self.train.export_alpha == "auto", "train.max_forgetting": wanted["train.max_forgetting"] is not None, "train.require": "forgetting" in bounds}  # fmt: skip
        name = next((name for name, needed in needs_general.items() if needed), None)
        if name and not (self.data.forgetting_eval or self.data.replay):
            raise ValueError(
                f"{name} measures forgetting, which takes general text; give it with --general, or --replay, part of which is held out"
            )
        return self

    @model_validator(mode="after")
    def _offline_means_the_text_too(self) -> RunConfig:
        if self.model.offline and not self.data.offline:
            self.__dict__["data"] = self.data.model_copy(update={"offline": True})
        return self
