"""The arguments and options of the verbs, each defined once, and the settings that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from unmask.cli import runtime as shell
from unmask.config.options import OPTIONS, TOKENIZER_OPTIONS

if TYPE_CHECKING:
    from unmask.config.settings import RunConfig

Documents = Literal["auto", "file", "block", "line"]
Markup = Literal["keep", "strip"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16"]
Objective = Literal["mlm", "clm", "nsp", "sop", "rtd", "contrastive"]
Recipe = Literal["auto", "adapt", "scratch"]
Freeze = Literal["none", "embeddings"]
Parallel = Literal["auto", "ddp", "fsdp"]
Strategy = Literal["token", "word", "span", "terms"]

# Headings of a long help. A name in brackets after an option's help is its default.
model = partial(Option, rich_help_panel="Model")
text = partial(Option, rich_help_panel="Text")
masking = partial(Option, rich_help_panel="Masking")
training = partial(Option, rich_help_panel="Training")
length = partial(Option, rich_help_panel="Length of the run")
compute = partial(Option, rich_help_panel="Computation")
settings = partial(Option, rich_help_panel="Settings")
output = partial(Option, rich_help_panel="Output")

_TEXT_HELP = "Text: files, folders, globs, URLs such as s3://bucket/notes, - (standard input), hf://org/name, or shards of 'unmask prepare'."
_MODEL_HELP = "Hub name, name@revision, model folder or run folder, also by URL such as s3://bucket/run."

# Arguments.
TextArgument = Annotated[list[str], Argument(metavar="TEXT", help=_TEXT_HELP)]
TextOrConfigArgument = Annotated[list[str] | None, Argument(metavar="TEXT", help=_TEXT_HELP)]
ModelArgument = Annotated[str, Argument(metavar="MODEL", help=_MODEL_HELP)]
ModelsArgument = Annotated[
    list[str],
    Argument(metavar="MODEL", help=f"One or more models: {_MODEL_HELP}"),
]
RunArgument = Annotated[Path, Argument(metavar="RUN", help="Run folder.")]

# Where results go.
Json = Annotated[bool, output("--json", help="Print one JSON document on stdout.")]
Html = Annotated[Path | None, output("--html", metavar="FILE", help="Write an HTML page as well.")]
NewFolder = Annotated[Path, output("-o", "--out", metavar="FOLDER", help="Folder to write.")]
Track = Annotated[
    list[str] | None,
    output(
        "--track",
        metavar="TRACKER",
        help="Report the run to tensorboard, wandb, mlflow or trackio too; may be repeated (extra 'track').",
    ),
]
RowsFile = Annotated[
    Path | None, output("-o", "--out", metavar="FILE", help="Write a JSON line for each text or pair here.")
]
ListFile = Annotated[Path, output("-o", "--out", metavar="FILE", help="File to write.")]
Force = Annotated[bool, output("--force", help="Replace an existing file.")]
ResumeRows = Annotated[bool, output("--resume", help="Continue the file of -o behind its last row.")]

# Settings that have no option.
ConfigFile = Annotated[
    Path | None,
    settings("-c", "--config", metavar="FILE", help="Settings file, as 'unmask init' writes it."),
]
Overrides = Annotated[
    list[str] | None,
    settings("--set", metavar="KEY=VALUE", help="Any setting, such as train.keep_last=5; may be repeated."),
]

# Model.
ModelToAdapt = Annotated[
    str | None, model("--model", metavar="MODEL", help=f"Checkpoint to adapt: {_MODEL_HELP}")
]
ModelToExtend = Annotated[str, model("--model", metavar="MODEL", help=_MODEL_HELP)]
ModelWithTokenizer = Annotated[
    str | None, model("--model", metavar="MODEL", help="Model whose tokenizer is used.")
]
Preset = Annotated[
    str | None,
    model("--preset", metavar="PRESET", help="Train from scratch: bert-mini, for example, or a config.json."),
]
Tokenizer = Annotated[
    str | None,
    model("--tokenizer", metavar="TOKENIZER", help="Tokenizer: Hub name, tokenizer folder or model folder."),
]
TokenizerOrShards = Annotated[
    str | None,
    model(
        "--tokenizer",
        "--model",
        metavar="TOKENIZER",
        help="Tokenizer: Hub name or folder; not needed with a folder of 'unmask prepare'.",
    ),
]
Offline = Annotated[bool, compute("--offline", help="Make no network call.")]

# Text.
DocumentsOption = Annotated[
    Documents | None,
    text("--documents", show_default="auto", help="What one document of plain text is: a file, a block between blank lines, or a line."),
]  # fmt: skip
TextField = Annotated[
    str | None,
    text("--text-field", metavar="FIELD", show_default="text", help="Field of the text in JSON, CSV, TSV and Parquet; also note.body, or several: the first that is filled."),
]  # fmt: skip
Encoding = Annotated[
    str | None,
    text("--encoding", metavar="ENCODING", show_default="by the byte order mark", help="Encoding of text, CSV and TSV files that are not UTF-8."),
]  # fmt: skip
Delimiter = Annotated[
    str | None,
    text("--delimiter", metavar="CHARACTER", show_default="by the first row", help="Separator in CSV and TSV files, or 'tab'."),
]  # fmt: skip
MarkupOption = Annotated[
    Markup | None,
    text("--markup", show_default="keep", help="Keep the tags of HTML and XML files, or strip them (extra 'markup')."),
]  # fmt: skip
Strict = Annotated[
    bool, text("--strict", help="Stop at the first error in the text instead of skipping the record.")
]
AllowUnknown = Annotated[
    bool,
    text("--allow-unknown", help="Take text of which more than a fifth of the tokens are unknown to the tokenizer."),
]  # fmt: skip
SkipUnreadable = Annotated[
    bool,
    text(
        "--skip-unreadable",
        help="Skip what cannot be read of a file, even most or all of it, instead of stopping.",
    ),
]
MaxLength = Annotated[
    int | None,
    text("--max-length", show_default="512, or the most the model takes", help="Tokens of a sequence, special tokens included."),
]  # fmt: skip
Heldout = Annotated[
    list[str] | None,
    text("--heldout", metavar="PATH", show_default="5% of the documents", help="Text to evaluate on; may be repeated."),
]  # fmt: skip
EvaluatedText = Annotated[
    list[str],
    text("--data", metavar="PATH", help="Text to evaluate on, given as TEXT is elsewhere; may be repeated."),
]
TrainData = Annotated[
    list[str] | None,
    text(
        "--train-data",
        metavar="PATH",
        show_default="the other documents of --data",
        help="Text in which token frequencies and baselines are counted; may be repeated.",
    ),
]
Replay = Annotated[
    list[str] | None,
    text("--replay", metavar="PATH", help="General text to mix into every step against forgetting; may be repeated."),
]  # fmt: skip
ReplayShare = Annotated[
    float | None,
    text(
        "--replay-share",
        metavar="SHARE",
        show_default="0.05",
        help="Share of the tokens that come from --replay.",
    ),
]
General = Annotated[
    list[str] | None,
    text("--general", metavar="PATH", show_default="a held-out share of --replay", help="General text to measure forgetting on; may be repeated."),
]  # fmt: skip

# Masking.
MaskRate = Annotated[
    float | None,
    masking("--mask-rate", metavar="RATE", show_default="0.15", help="Share of the tokens that are masked."),
]
StrategyOption = Annotated[
    Strategy | None,
    masking("--strategy", show_default="token", help="What is masked as one unit: see 'masking' in 'unmask init --stdout'."),
]  # fmt: skip

# Length of a run.
Epochs = Annotated[
    float | None,
    length(
        "--epochs",
        metavar="N",
        show_default="100 (small text) to 1",
        help="Stop after N passes over the text.",
    ),
]
MaxSteps = Annotated[int | None, length("--max-steps", help="Stop after N optimizer steps.")]
Minutes = Annotated[
    float | None, length("--minutes", metavar="MINUTES", help="Stop after so many minutes of training.")
]
Patience = Annotated[
    int | None,
    length(
        "--patience",
        show_default="3 to adapt, 0 from scratch",
        help="Stop after N evaluations without a lower held-out loss; 0 turns this off.",
    ),
]
SaveEvery = Annotated[
    int | None, length("--save-every", show_default="a tenth of the run", help="Steps between checkpoints.")
]
Resume = Annotated[
    bool, length("--resume", help="Continue the run in the folder of -o from its last checkpoint.")
]
CheckpointToResume = Annotated[
    Path | None,
    length("--checkpoint", metavar="PATH", show_default="the last", help="Checkpoint to continue from, with --resume."),
]  # fmt: skip
DryRun = Annotated[
    bool,
    length("--dry-run", help="Run two steps only, then print the memory, disk and time the run would need."),
]

# Training.
ObjectiveOption = Annotated[
    Objective | None,
    training(
        "--objective",
        show_default="mlm",
        help="Masked tokens; also after next tokens (clm), in pairs (nsp, sop), replaced (rtd), or embedded (contrastive).",
    ),
]
Generator = Annotated[
    str | None,
    training(
        "--generator",
        metavar="MODEL",
        show_default="new",
        help="Masked LM that replaces tokens, for --objective rtd.",
    ),
]
Detour = Annotated[
    float | None,
    training(
        "--detour",
        metavar="SHARE",
        show_default="0.6",
        help="Share of the run that is causal, for --objective clm.",
    ),
]
RecipeOption = Annotated[
    Recipe | None,
    training("--recipe", show_default="auto", help="Defaults for adapting a checkpoint, or for training from scratch."),
]  # fmt: skip
BatchTokens = Annotated[
    int | None,
    training("--batch-tokens", show_default="16,384 to adapt, less from scratch", help="Tokens in an optimizer step."),
]  # fmt: skip
LearningRate = Annotated[
    float | None,
    training(
        "--learning-rate",
        metavar="RATE",
        show_default="by model and recipe",
        help="Peak learning rate of AdamW.",
    ),
]
LayerDecay = Annotated[
    float | None,
    training(
        "--layer-decay",
        metavar="FACTOR",
        help="Factor on the learning rate from each layer to the one below, such as 0.9.",
    ),
]
FreezeOption = Annotated[
    Freeze | None, training("--freeze", show_default="none", help="Weights that are not trained.")
]
LoraRank = Annotated[
    int | None, training("--lora-rank", help="Train LoRA adapters of rank N and merge them into the model.")
]
ParallelOption = Annotated[
    Parallel | None,
    training(
        "--parallel",
        show_default="auto",
        help="With several processes: each has the whole model (ddp), or a share of it (fsdp).",
    ),
]
OffloadOption = Annotated[
    bool,
    training("--offload", help="With fsdp: keep the weights in the memory of the host, not of the device."),
]
HeadWarmupSteps = Annotated[
    int | None,
    training(
        "--head-warmup-steps", show_default="0", help="Train only the new LM head for the first N steps."
    ),
]
NewEmbeddingsSteps = Annotated[
    int | None,
    training("--new-embeddings-steps", show_default="0", help="Train only the embeddings of added words for the first N steps."),
]  # fmt: skip

ExportAlpha = Annotated[
    str | None,
    training("--export-alpha", metavar="auto|ALPHA", show_default="1", help="Mix the weights of base (0) and adapted model (1) before the export."),
]  # fmt: skip
MaxForgetting = Annotated[
    float | None,
    training("--max-forgetting", metavar="SHARE", show_default="half of what is forgotten at 1", help="Largest rise of the loss on general text for --export-alpha auto, such as 0.02."),
]  # fmt: skip
Require = Annotated[
    str | None,
    training("--require", metavar="BOUNDS", help="End with exit code 6 where the result misses bounds such as 'domain>=5%'."),
]  # fmt: skip

Task = Annotated[
    str | None,
    training("--task", metavar="PATH", help="Labelled task to probe base and result on, as 'unmask probe --task' takes it."),
]  # fmt: skip

# Computation.
Seed = Annotated[
    int | None, compute("--seed", show_default="0", help="Random seed of order, masks and new weights.")
]
SeedOrZero = Annotated[int, compute("--seed", help="Random seed.", min=0)]
DeviceOption = Annotated[Device | None, compute("--device", show_default="auto", help="Where to compute.")]
PrecisionOption = Annotated[
    Precision | None,
    compute("--precision", show_default="auto", help="Number format; auto measures whether bf16 is faster."),
]
DeviceOrAuto = Annotated[Device, compute("--device", help="Where to compute.")]
PrecisionOrFp32 = Annotated[
    Precision, compute("--precision", help="Number format; auto measures whether bf16 is faster.")
]


def load_settings(given: Mapping[str, Any]) -> RunConfig:
    """Return the configuration that the parameters of a verb stand for.

    Args:
        given: the parameters by name; those of :data:`unmask.config.options.OPTIONS` and ``TOKENIZER_OPTIONS`` are
            settings, ``config_file`` and ``overrides`` are the layers below them, and others are left alone.

    Raises:
        ConfigError: a value or a key cannot be used.
    """
    from unmask.config.load import load_config

    keys = OPTIONS | TOKENIZER_OPTIONS
    flags = {
        keys[name]: value
        for name, value in given.items()
        if name in keys and value is not None and value is not False
    }
    config_file, overrides = given.get("config_file"), given.get("overrides") or ()
    if config_file is None and not overrides:
        return load_config(None, (), flags)
    with shell.working(models=False) as progress:  # which logs renamed keys
        return load_config(config_file, overrides, flags, progress=progress)
