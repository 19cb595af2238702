"""The verb ``train``, and what a finished run answers."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from unmask.cli import options
from unmask.cli import runtime as shell

if TYPE_CHECKING:
    from unmask.config.settings import RunConfig
    from unmask.run.train import RunResult


def train(
    data: options.DataOrConfigArgument = None,
    model: options.Model = None,
    preset: options.Preset = None,
    tokenizer: options.Tokenizer = None,
    out: options.RunFolder = None,
    config_file: options.ConfigFile = None,
    overrides: options.Overrides = None,
    max_steps: options.MaxSteps = None,
    epochs: options.Epochs = None,
    minutes: options.Minutes = None,
    seed: options.Seed = None,
    device: options.DeviceOption = None,
    precision: options.PrecisionOption = None,
    batch_tokens: options.BatchTokens = None,
    learning_rate: options.LearningRate = None,
    mask_rate: options.MaskRate = None,
    strategy: options.StrategyOption = None,
    documents: options.DocumentsOption = None,
    text_field: options.TextField = None,
    strict: options.Strict = False,
    max_length: options.MaxLength = None,
    heldout: options.Heldout = None,
    replay: options.Replay = None,
    replay_share: options.ReplayShare = None,
    general: options.General = None,
    recipe: options.RecipeOption = None,
    layer_decay: options.LayerDecay = None,
    freeze: options.FreezeOption = None,
    lora_rank: options.LoraRank = None,
    patience: options.Patience = None,
    head_warmup_steps: options.HeadWarmupSteps = None,
    new_embeddings_steps: options.NewEmbeddingsSteps = None,
    save_every: options.SaveEvery = None,
    resume: options.Resume = None,
    dry_run: options.DryRun = False,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Adapt a checkpoint, or train from scratch, on your text."""
    flags = {
        "data.inputs": data,
        "data.documents": documents,
        "data.text_field": text_field,
        "data.strict": strict or None,
        "data.max_length": max_length,
        "data.heldout": heldout,
        "model.name": model,
        "model.preset": preset,
        "model.tokenizer": tokenizer,
        "model.offline": offline or None,
        "masking.rate": mask_rate,
        "masking.strategy": strategy,
        "train.max_steps": max_steps,
        "train.epochs": epochs,
        "train.minutes": minutes,
        "train.seed": seed,
        "train.device": device,
        "train.precision": precision,
        "train.batch_tokens": batch_tokens,
        "train.optimizer.learning_rate": learning_rate,
        "train.save_every": save_every,
        "data.replay": replay,
        "data.replay_share": replay_share,
        "data.forgetting_eval": general,
        "train.recipe": recipe,
        "train.optimizer.layer_decay": layer_decay,
        "train.freeze": freeze,
        "train.lora_rank": lora_rank,
        "train.patience": patience,
        "train.head_warmup_steps": head_warmup_steps,
        "train.new_embeddings_steps": new_embeddings_steps,
    }
    from unmask.config.load import load_config
    from unmask.run.components import check_trainable

    folder = out or Path("runs/train")
    messages = [] if out or dry_run else [f"the run goes to {folder} (choose with -o)"]
    if (
        resume
        and config_file is None
        and not (data or model or preset)
        and (folder / "config.yaml").is_file()
    ):
        config_file = folder / "config.yaml"
        messages.append(f"settings from {config_file}")
    config = load_config(config_file, overrides or (), flags)
    check_trainable(config)
    if dry_run:
        _answer_plan(config, as_json)
        return
    with shell.working() as progress:
        for log in messages:
            progress.log(log)
        from unmask.run.train import train as run_training

        command = ["unmask", *sys.argv[1:]]
        result = run_training(config, folder, resume=resume, command=command, progress=progress)
    answer_run(result, as_json)


def answer_run(result: RunResult, as_json: bool, examples: bool = False) -> None:
    """Print the figures of a run that is over, once where several processes trained together."""
    if os.environ.get("RANK", "0") != "0":
        return
    figures = {"steps": result.steps, "tokens": result.tokens, "seconds": result.seconds, "loss": result.loss}
    folder = result.folder
    if as_json:
        paths = {"run": str(folder.root), "model": str(folder.model), "report": str(folder.report)}
        shell.emit({**paths, **figures, "evaluation": result.evaluation})
        return
    from unmask.cli.terminal import draw_evaluation, draw_examples, format_seconds
    from unmask.storage import read_json

    page = shell.page()
    if result.evaluation is not None:
        draw_evaluation(page, result.evaluation)
    if examples:
        draw_examples(page, read_json(folder.examples) or [])
    page.say("")
    page.say(f"{result.steps:,} steps over {result.tokens:,} tokens in {format_seconds(result.seconds)}")
    page.say(f"model:  {folder.model}")
    page.say(f"report: {folder.report}")


def _answer_plan(config: RunConfig, as_json: bool) -> None:
    """Print what a run would need."""
    with shell.working() as progress:
        from unmask.run.dry_run import plan as plan_training

        plan = plan_training(config, progress=progress)
    if as_json:
        shell.emit(plan)
        return
    from unmask.cli.terminal import draw_plan

    draw_plan(shell.page(), plan)
