"""Architectures to train from scratch: classes and configs of transformers only, so the result loads anywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unmask.errors import ConfigError, did_you_mean, plural

if TYPE_CHECKING:
    from unmask.config.settings import RunConfig, TrainSettings


@dataclass(frozen=True)
class Preset:
    """One architecture.

    Attributes:
        family: ``model_type`` of transformers.
        layers: Transformer layers.
        hidden: width of the residual stream; heads are 64 wide.
        max_positions: longest sequence.
        near_layers: so many first layers see the token before and the token behind alone. With little text a model
            spends long on finding out that these matter most.
        extra: further settings of the config.
    """

    family: str
    layers: int
    hidden: int
    max_positions: int = 512
    near_layers: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    def config_values(self, vocab_size: int, near_layers: int | None = None) -> dict[str, Any]:
        """Return the keyword arguments of the config class.

        Raises:
            ConfigError: there cannot be so many ``near_layers``.
        """
        near = self.near_layers if near_layers is None else near_layers
        if near > (self.layers if self.has_windows else 0):
            raise ConfigError(self._why_not(near))
        windows = _windows(near, self.layers) if near else {}
        shared = {
            "vocab_size": vocab_size,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": max(1, self.hidden // 64),
            "max_position_embeddings": self.max_positions,
        }
        return shared | _FAMILIES[self.family](self.hidden) | self.extra | windows

    @property
    def has_windows(self) -> bool:
        """Whether layers can be told to see near tokens alone."""
        return self.family == "modernbert"

    def _why_not(self, near: int) -> str:
        if self.has_windows:
            return f"model.near_layers is {near}, but the preset has {plural(self.layers, 'layer')}"
        return f"model.near_layers is {near}, but the layers of {self.family} always see all tokens; leave it out"


def _bert(hidden: int) -> dict[str, Any]:
    return {"intermediate_size": 4 * hidden}


def _modernbert(hidden: int) -> dict[str, Any]:
    # Two thirds of four times the width: a gated unit has three matrices where BERT has two. Short documents need
    # no local attention, so every layer sees the whole sequence.
    return {"intermediate_size": 8 * hidden // 3 // 64 * 64, "global_attn_every_n_layers": 1}


def _windows(near: int, layers: int) -> dict[str, Any]:
    kinds = ["sliding_attention"] * near + ["full_attention"] * (layers - near)
    return {"layer_types": kinds, "local_attention": 2}  # one token on each side


_FAMILIES = {"bert": _bert, "modernbert": _modernbert}

PRESETS: dict[str, Preset] = {
    "bert-tiny": Preset("bert", 2, 128),
    "bert-mini": Preset("bert", 4, 256),
    "bert-small": Preset("bert", 4, 512),
    "bert-medium": Preset("bert", 8, 512),
    "bert-base": Preset("bert", 12, 768),
    "bert-large": Preset("bert", 24, 1024),
    "modernbert-tiny": Preset("modernbert", 3, 256, near_layers=2),
    "modernbert-mini": Preset("modernbert", 4, 256, near_layers=2),
    "modernbert-small": Preset("modernbert", 6, 384, near_layers=2),
    "modernbert-medium": Preset("modernbert", 8, 512, near_layers=2),
    "modernbert-base": Preset(
        "modernbert", 22, 768, 8192, extra={"intermediate_size": 1152, "global_attn_every_n_layers": 3}
    ),
}


def find_preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in PRESETS:
        raise ConfigError(
            f"there is no preset '{name}'{did_you_mean(name, PRESETS)}; the presets are: {', '.join(PRESETS)}"
        )
    return PRESETS[name]


def check_trainable(config: RunConfig) -> None:
    """Refuse a configuration that does not say what to train, or on which text.

    Raises:
        ConfigError: not exactly one of ``model.name`` and ``model.preset``, an unknown preset, or no inputs.
    """
    name, preset = config.model.name, config.model.preset
    presets = ", ".join(PRESETS)
    if name is None and preset is None:
        raise ConfigError(
            "no model: name a checkpoint to adapt with --model (model.name), "
            f"or a preset to train from scratch with --preset (model.preset): {presets}"
        )
    if name is not None and preset is not None:
        raise ConfigError(
            f"two models: model.name (--model) is '{name}' and model.preset (--preset) is '{preset}'; "
            "keep one and set the other to null"
        )
    if preset is not None and preset not in PRESETS:
        raise ConfigError(
            f"unknown preset '{preset}'{did_you_mean(preset, PRESETS)}; the presets are {presets}"
        )
    if not config.data.inputs:
        raise ConfigError("no text to train on: give files, folders or globs, or set data.inputs")
    if preset is not None:
        _check_new_weights(config.train, preset)


def _check_new_weights(train: TrainSettings, preset: str) -> None:
    """Refuse what is only for pretrained weights."""
    wanted = {
        "train.recipe adapt": train.recipe == "adapt",
        "train.lora_rank": train.lora_rank,
        "train.freeze": train.freeze != "none",
        "train.head_warmup_steps": train.head_warmup_steps,
        "train.new_embeddings_steps": train.new_embeddings_steps,
    }
    for what, is_set in wanted.items():
        if is_set:
            raise ConfigError(
                f"{what} is for adapting a checkpoint (--model), but all weights of the preset '{preset}' are new and "
                f"have to be trained; leave it out, or name a checkpoint"
            )
