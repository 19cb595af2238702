"""The arguments and options of the verbs, each defined once; :mod:`unmask.cli.main` says which verb has which."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

_DATA = "Files, folders, globs, - for standard input, hf://org/name, or a folder of 'unmask prepare'."
_CHECKPOINT = "Checkpoint: Hub name, name@revision, or folder."
_DOCUMENTS = "What a document of plain text is: a file, a block between empty lines, or a line."

Documents = Literal["auto", "file", "block", "line"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]
Recipe = Literal["auto", "adapt", "scratch"]
Freeze = Literal["none", "embeddings"]
Strategy = Literal["token", "word", "span", "ngram", "terms"]

# Arguments.
DataArgument = Annotated[list[str], Argument(metavar="DATA", help=_DATA, show_default=False)]
DataOrConfigArgument = Annotated[list[str] | None, Argument(metavar="DATA", help=_DATA)]
ModelArgument = Annotated[str, Argument(metavar="MODEL", help=_CHECKPOINT)]
RunArgument = Annotated[Path, Argument(metavar="RUN", help="The folder of a run.")]
SettingsFileArgument = Annotated[
    Path | None, Argument(metavar="PATH", help="The file to write [default: run.yaml].")
]
TextArgument = Annotated[str, Argument(metavar="TEXT", help="The text; - reads it from standard input.")]
TextsArgument = Annotated[
    list[str] | None,
    Argument(metavar="TEXT", help="Texts with [MASK], <mask> or the model's own mask token."),
]

# Where answers and files go.
Json = Annotated[bool, Option("--json", help="Print one JSON document instead of text.")]
Html = Annotated[Path | None, Option(metavar="FILE", help="Write a page as well.")]
NewFolder = Annotated[Path, Option("-o", "--out", help="The folder to write.", show_default=False)]
NewFolderOrNone = Annotated[Path | None, Option("-o", "--out", help="The folder to write.")]
DemoFolder = Annotated[Path, Option("-o", "--out", help="The folder of the run.")]
RunFolder = Annotated[Path | None, Option("-o", "--out", help="The folder of the run [default: runs/train].")]
Schema = Annotated[bool, Option("--schema", help="The JSON Schema instead; printed if PATH is not given.")]
Force = Annotated[bool, Option("--force", help="Replace a file that is there.")]
Stdout = Annotated[bool, Option("--stdout", help="Print instead of writing.")]

# Settings from elsewhere than flags.
ConfigFile = Annotated[Path | None, Option("-c", "--config", help="Settings, as 'unmask init' writes them.")]
Overrides = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY=VALUE", help="One setting, for example train.keep_last=5; may be repeated."),
]

# The model.
Model = Annotated[str | None, Option(help="Checkpoint to adapt: Hub name, name@revision, or folder.")]
ModelWithTokenizer = Annotated[str | None, Option(help="Checkpoint whose tokenizer is used.")]
RequiredModel = Annotated[str, Option(help=_CHECKPOINT, show_default=False)]
Preset = Annotated[str | None, Option(help="Architecture to train from scratch, for example bert-mini.")]
Tokenizer = Annotated[str | None, Option(help="Hub name or folder of a tokenizer.")]
VocabSize = Annotated[int, Option(help="Entries of the vocabulary.", min=100, show_default=False)]
Offline = Annotated[bool, Option("--offline", help="Make no network call.")]

# The text.
DocumentsOption = Annotated[Documents | None, Option(help=_DOCUMENTS)]
TextField = Annotated[str | None, Option(help="Field or column of the text in JSONL, CSV, TSV and Parquet.")]
Strict = Annotated[
    bool, Option("--strict", help="Refuse text with any error, instead of leaving out what is at error.")
]
MaxLength = Annotated[int | None, Option(help="Tokens of a sequence, with its special tokens.")]
Heldout = Annotated[list[str] | None, Option(metavar="PATH", help="Text to evaluate on; may be repeated.")]
MaskRate = Annotated[
    float | None, Option("--mask-rate", "--rate", help="Share of tokens that are predicted.")
]
StrategyOption = Annotated[
    Strategy | None, Option(help="What is drawn as one: see masking in 'unmask init --stdout'.")
]
MaskPositions = Annotated[
    str | None, Option(metavar="4,14,36", help="Mask exactly these positions; the first token is 0.")
]
Labels = Annotated[Literal["all", "masked"], Option(help="Loss over the masked tokens, or over all.")]
TopK = Annotated[int, Option(help="How many predictions to show.", min=1)]
TextFile = Annotated[
    Path | None, Option("--file", help="Take a text from each line of a file; - is standard input.")
]

# Training.
MaxSteps = Annotated[int | None, Option(help="Stop after so many steps.")]
Epochs = Annotated[float | None, Option(help="Stop after so many passes over the text.")]
Minutes = Annotated[float | None, Option(help="Stop after so many minutes of training.")]
DemoMinutes = Annotated[float, Option(help="Minutes of training.", min=0.01)]
Seed = Annotated[int | None, Option(help="Seed of order, masks and new weights.")]
SeedOrZero = Annotated[int, Option(help="Seed of what is drawn.", min=0)]
DeviceOption = Annotated[Device | None, Option(help="Where to compute.")]
PrecisionOption = Annotated[Precision | None, Option(help="Precision of the computation.")]
DeviceOrAuto = Annotated[Device, Option("--device", help="Where to compute.")]
PrecisionOrFp32 = Annotated[Precision, Option("--precision", help="Precision of the computation.")]
BatchTokens = Annotated[int | None, Option(help="Tokens in one step.")]
LearningRate = Annotated[float | None, Option(help="Peak learning rate of AdamW.")]
Replay = Annotated[
    list[str] | None,
    Option(metavar="PATH", help="General text to mix in against forgetting; may be repeated."),
]
ReplayShare = Annotated[float | None, Option(help="Share of the tokens that come from it [default: 0.05].")]
General = Annotated[
    list[str] | None, Option(metavar="PATH", help="General text to measure forgetting on; may be repeated.")
]
RecipeOption = Annotated[Recipe | None, Option(help="What decides where settings are open [default: auto].")]
LayerDecay = Annotated[
    float | None,
    Option(help="Factor of the learning rate from each layer to the one below, for example 0.9."),
]
FreezeOption = Annotated[Freeze | None, Option(help="What stays as it is.")]
LoraRank = Annotated[
    int | None, Option(metavar="RANK", help="Train LoRA adapters of this rank, then merge them.")
]
Patience = Annotated[
    int | None, Option(help="Evaluations without a lower held-out loss that end the run; 0 for never.")
]
HeadWarmupSteps = Annotated[
    int | None,
    Option("--head-warmup-steps", metavar="STEPS", help="Let a new LM head move alone for so many steps."),
]
NewEmbeddingsSteps = Annotated[
    int | None, Option(metavar="STEPS", help="Let the rows of added words move alone for so many steps.")
]
SaveEvery = Annotated[int | None, Option(metavar="STEPS", help="Steps between checkpoints.")]
Resume = Annotated[
    str | None,
    Option(metavar="auto|PATH", help="Go on from the last checkpoint of the folder, or from this one."),
]
DryRun = Annotated[bool, Option("--dry-run", help="Two real steps, then what the run would need.")]
