"""Resolve the open settings of a run by its recipe, and make its training loop."""

from __future__ import annotations

from typing import Any

import torch

from unmask.config.load import load_config
from unmask.config.settings import RunConfig
from unmask.data.heldout_size import least_held_out
from unmask.data.training_stream import TrainingStream
from unmask.model.layers import networks
from unmask.model.presets import find_preset
from unmask.run.components import RunComponents
from unmask.run_folder import RunFolder
from unmask.training.loop import Loop
from unmask.training.optimizers import make_optimizers
from unmask.training.parallel import GradientSum
from unmask.training.position import Length, Position
from unmask.training.recipe import Recipe, resolve
from unmask.training.schedules import learning_rate_factor, mask_rate
from unmask.training.staged_start import StagedStart, head_first, rows_first
from unmask.vocabulary.families import BERT, tokenizer_family


def keep_choices(config: RunConfig, folder: RunFolder) -> RunConfig:
    """Keep the precision, length, layers, tokenizer and held-out text that a run chose when it began: another version may choose others."""
    if not folder.config.is_file():
        return config
    begun = load_config(folder.config)
    model, train, before = config.model, config.train, begun.train
    if model.preset and model.near_layers is None:  # the presets of earlier versions had none
        model = model.model_copy(update={"near_layers": begun.model.near_layers or 0})
    if model.tokenizer_kind is None:
        model = model.model_copy(update={"tokenizer_kind": begun.model.tokenizer_kind})
    data = config.data
    if data.heldout_minimum is None:  # earlier versions had none
        data = data.model_copy(update={"heldout_minimum": begun.data.heldout_minimum or 1})
    changes: dict[str, Any] = {}
    if train.precision == "auto":
        changes["precision"] = before.precision
    if not (train.epochs or train.max_steps or train.minutes) and not (before.max_steps or before.minutes):
        changes["epochs"] = before.epochs
    return config.model_copy(update={"model": model, "data": data, "train": train.model_copy(update=changes)})


def recipe_of(config: RunConfig, components: RunComponents) -> Recipe:
    """Choose the settings that are left open."""
    model = components.model
    return resolve(
        config.train,
        config.masking,
        scratch=components.scratch,
        family=str(model.model.config.model_type),
        hidden=max(getattr(each.config, "hidden_size", 768) for each in networks(model.model).values()),
        device=model.device.type,
        tokens=components.text.tokens,
    )


def with_recipe(config: RunConfig, recipe: Recipe, components: RunComponents) -> RunConfig:
    """Return the configuration with every open setting filled in."""
    optimizer = {"name": recipe.optimizer, "learning_rate": recipe.learning_rate}
    changes = {
        "recipe": recipe.name,
        "epochs": recipe.epochs,
        "batch_tokens": recipe.batch_tokens,
        "micro_batch_tokens": recipe.micro_batch_tokens,
        "patience": recipe.patience,
        "export_best": recipe.export_best,
        "precision": components.precision,
        # On mps as it was wanted: a model that is loaded later, such as the result, may fail the trial that this one passed.
        "device": config.train.device
        if components.model.device.type == "mps"
        else components.model.device.type,
        "optimizer": config.train.optimizer.model_copy(update=optimizer),
        "schedule": config.train.schedule.model_copy(update={"name": recipe.schedule}),
    }
    model = config.model
    if model.preset:
        preset = find_preset(model.preset)
        near = preset.near_layers if model.near_layers is None else model.near_layers
        kind = model.tokenizer_kind or (tokenizer_family(preset.family) or BERT).kind
        model = model.model_copy(update={"near_layers": near, "tokenizer_kind": kind})
    return config.model_copy(
        update={
            "model": model,
            "train": config.train.model_copy(update=changes),
            "masking": config.masking.model_copy(update={"initial_rate": recipe.initial_rate}),
            "data": config.data.model_copy(
                update={
                    "max_length": components.max_length,
                    "heldout_minimum": least_held_out(config.data),
                }
            ),
        }
    )


def make_stream(config: RunConfig, recipe: Recipe, components: RunComponents) -> TrainingStream:
    """Make the stream of training batches, with general text mixed in if there is any."""
    return TrainingStream(
        components.text, recipe.batch_tokens, config.train.seed, components.replay, config.data.replay_share
    )


def make_loop(config: RunConfig, recipe: Recipe, components: RunComponents, stream: TrainingStream) -> Loop:
    """Make the training loop from a resolved configuration."""
    settings = config.train
    if settings.compile:
        components.model.compile_layers()
    gradient_sum = GradientSum(
        components.model, components.world, components.parallel[0], offload=settings.offload
    )
    optimizers = make_optimizers(
        components.model.model,
        settings.optimizer,
        recipe.optimizer,
        recipe.learning_rate,
        components.world,
        torch.bfloat16 if components.model.autocast else torch.float32,
    )
    rates = recipe.initial_rate, config.masking.rate
    return Loop(
        model=components.model,
        stream=stream,
        optimizers=optimizers,
        length=Length(settings.max_steps, recipe.epochs, settings.minutes and settings.minutes * 60),
        lr_factor=learning_rate_factor(settings.schedule, recipe.schedule),
        mask_rate=lambda progress: mask_rate(*rates, progress),
        micro_batch_tokens=recipe.micro_batch_tokens,
        clip_norm=settings.optimizer.clip_norm,
        log_every=settings.log_every,
        gradient_sum=gradient_sum,
        position=Position(),
        on_row=lambda row: None,
        after_step=lambda loop: None,
        staged_start=_staged_start(config, recipe, components),
        skip_spikes=settings.skip_spikes,
        seed=settings.seed,
        objective=components.objective,
    )


def _staged_start(config: RunConfig, recipe: Recipe, components: RunComponents) -> StagedStart:
    settings, model = config.train, components.model.model
    if settings.head_warmup_steps:
        return head_first(model, settings.head_warmup_steps)
    if settings.new_embeddings_steps:
        return rows_first(model, settings.new_embeddings_steps, components.new_rows, recipe.learning_rate)
    return StagedStart()
