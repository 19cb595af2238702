"""How a run is put together: what its settings leave open is decided, and its loop made from what they say."""

from __future__ import annotations

from unmask.config.load import RunConfig, load_config
from unmask.data.batches import TrainingStream
from unmask.run.components import Material
from unmask.run_folder import RunFolder
from unmask.training.loop import Length, Loop, Position
from unmask.training.optimizers import make_optimizers
from unmask.training.recipe import Recipe, resolve
from unmask.training.schedules import batch_share, learning_rate_factor, mask_rate
from unmask.training.staged_start import Opening, head_first, rows_first


def measured_before(config: RunConfig, folder: RunFolder) -> RunConfig:
    """Keep the precision that a run took when it began: measured again, it might come out otherwise."""
    if config.train.precision != "auto" or not folder.config.is_file():
        return config
    precision = load_config(folder.config).train.precision
    return config.model_copy(update={"train": config.train.model_copy(update={"precision": precision})})


def recipe_of(config: RunConfig, material: Material) -> Recipe:
    """Decide what the settings leave open."""
    model = material.model
    return resolve(
        config.train,
        config.masking,
        scratch=material.scratch,
        family=str(model.model.config.model_type),
        hidden=int(getattr(model.model.config, "hidden_size", 768)),
        device=model.device.type,
    )


def with_recipe(config: RunConfig, recipe: Recipe, material: Material) -> RunConfig:
    """Return the configuration with every open choice filled in."""
    optimizer = {"name": recipe.optimizer, "learning_rate": recipe.learning_rate}
    changes = {
        "recipe": recipe.name,
        "epochs": recipe.epochs,
        "batch_tokens": recipe.batch_tokens,
        "batch_ramp": recipe.batch_ramp,
        "micro_batch_tokens": recipe.micro_batch_tokens,
        "patience": recipe.patience,
        "keep_best": recipe.keep_best,
        "precision": material.precision,
        "device": material.model.device.type,
        "optimizer": config.train.optimizer.model_copy(update=optimizer),
        "schedule": config.train.schedule.model_copy(update={"name": recipe.schedule}),
    }
    return config.model_copy(
        update={
            "train": config.train.model_copy(update=changes),
            "masking": config.masking.model_copy(update={"rate_start": recipe.rate_start}),
            "data": config.data.model_copy(update={"max_length": material.max_length}),
        }
    )


def make_stream(config: RunConfig, recipe: Recipe, material: Material) -> TrainingStream:
    """Make the stream of batches, with general text mixed in where there is some."""
    return TrainingStream(
        material.text, recipe.batch_tokens, config.train.seed, material.replay, config.data.replay_share
    )


def make_loop(config: RunConfig, recipe: Recipe, material: Material, stream: TrainingStream) -> Loop:
    """Put a training loop together from a resolved configuration."""
    settings = config.train
    optimizers = make_optimizers(
        material.model.model, settings.optimizer, recipe.optimizer, recipe.learning_rate
    )
    rates = recipe.rate_start, config.masking.rate
    return Loop(
        model=material.model,
        stream=stream,
        optimizers=optimizers,
        length=Length(settings.max_steps, recipe.epochs, settings.minutes and settings.minutes * 60),
        lr_factor=learning_rate_factor(settings.schedule, recipe.schedule),
        mask_rate=lambda progress: mask_rate(*rates, progress, config.masking.rate_schedule),
        batch_tokens=lambda progress: round(recipe.batch_tokens * batch_share(progress, recipe.batch_ramp)),
        micro_batch_tokens=recipe.micro_batch_tokens,
        clip_norm=settings.optimizer.clip_norm,
        log_every=settings.log_every,
        world=material.world,
        position=Position(),
        on_row=lambda row: None,
        after_step=lambda loop: None,
        opening=_opening(config, recipe, material),
        max_bad_steps=settings.max_bad_steps,
        skip_spikes=settings.skip_spikes,
    )


def _opening(config: RunConfig, recipe: Recipe, material: Material) -> Opening:
    settings, model = config.train, material.model.model
    if settings.init_head_steps:
        return head_first(model, settings.init_head_steps)
    if settings.warm_new_rows:
        return rows_first(model, settings.warm_new_rows, material.new_rows, recipe.learning_rate)
    return Opening()
