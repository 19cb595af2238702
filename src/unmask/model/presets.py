"""Architectures to train from scratch: classes and configs of transformers only, so the result loads anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.errors import ConfigError, did_you_mean, plural
from unmask.model.config_file import config_path, make_config, read_config_file, require_model

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from unmask.config.settings import RunConfig, TrainSettings


_LARGE_VOCABULARY = 1 << 20


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
        extra: further settings of the config; all of them where there is a ``file``.
        file: the ``config.json`` of an architecture that has no name here.
    """

    family: str
    layers: int = 0
    hidden: int = 0
    max_positions: int = 512
    near_layers: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    file: Path | None = None

    def config_values(
        self, vocab_size: int, near_layers: int | None = None, pad_id: int = 0
    ) -> dict[str, Any]:
        """Return the keyword arguments of the config class.

        Args:
            vocab_size: rows of the embeddings.
            near_layers: by default those of the preset.
            pad_id: id of the padding token, behind which the positions of some families begin.

        Raises:
            ConfigError: there cannot be so many ``near_layers``.
        """
        near = self.near_layers if near_layers is None else near_layers
        if near > (self.layers if self.has_windows else 0):
            raise ConfigError(self._why_not(near))
        if self.file:
            return self.extra | {"vocab_size": vocab_size}
        windows = _windows(near, self.layers) if near else {}
        names, settings = _FAMILIES[self.family]
        positions = self.max_positions + (pad_id + 1 if self.family in _POSITIONS_AFTER_PADDING else 0)
        shared = {
            "vocab_size": vocab_size,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": max(1, self.hidden // 64),
            "intermediate_size": 4 * self.hidden,
            "max_position_embeddings": positions,
        }
        named = {names.get(key, key): value for key, value in shared.items()}
        return named | settings(self.hidden) | self.extra | windows

    @property
    def has_windows(self) -> bool:
        """Whether layers can be told to see near tokens alone."""
        return self.family == "modernbert" and not self.file

    @property
    def has_token_types(self) -> bool:
        """Whether the model tells passages apart by token types."""
        return int(getattr(self.config(), "type_vocab_size", 0)) > 1

    def config(
        self,
        vocab_size: int = _LARGE_VOCABULARY,
        token_ids: Mapping[str, int | None] | None = None,
        near_layers: int | None = None,
    ) -> PreTrainedConfig:
        """Make the config of transformers.

        Args:
            vocab_size: rows of the embeddings; by default as many as any id of a special token wants.
            token_ids: ids of special tokens by their keys in a config, such as ``pad_token_id``.
            near_layers: by default those of the preset.

        Raises:
            ConfigError: there cannot be so many ``near_layers``, or the file does not fit the class that it names.
        """
        ids = dict(token_ids or {})
        values = self.config_values(vocab_size, near_layers, ids.get("pad_token_id") or 0)
        return make_config(self.family, values | ids, str(self.file or self.family))

    def _why_not(self, near: int) -> str:
        if self.has_windows:
            return f"model.near_layers is {near}, but the preset has {plural(self.layers, 'layer')}"
        if self.file:
            return f"model.near_layers is {near}, but what the layers of {self.file} see is its own; leave it out"
        return f"model.near_layers is {near}, but the layers of {self.family} always see all tokens; leave it out"


# Keys of a config that a family calls otherwise, and further settings for a width. The sizes are those of the published models.
_FAMILIES: dict[str, tuple[dict[str, str], Callable[[int], dict[str, Any]]]] = {
    "bert": ({}, lambda hidden: {}),
    # Two thirds of four times the width: a gated unit has three matrices where BERT has two. Short documents need
    # no local attention, so every layer sees the whole sequence.
    "modernbert": (
        {},
        lambda hidden: {"intermediate_size": 8 * hidden // 3 // 64 * 64, "global_attn_every_n_layers": 1},
    ),
    "electra": ({}, lambda hidden: {"embedding_size": 128 if hidden < 768 else hidden}),
    "albert": ({}, lambda hidden: {"embedding_size": 128}),
    "roberta": ({}, lambda hidden: {"type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "distilbert": (
        {
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
        },
        lambda hidden: {},
    ),
    "deberta-v2": (  # as DeBERTaV3 sets it
        {},
        lambda hidden: {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "position_buckets": 256,
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
        },
    ),
}
_POSITIONS_AFTER_PADDING = ("roberta",)


def _windows(near: int, layers: int) -> dict[str, Any]:
    kinds = ["sliding_attention"] * near + ["full_attention"] * (layers - near)
    return {"layer_types": kinds, "local_attention": 2}  # one token on each side


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
    "electra-tiny": Preset("electra", 2, 128),
    "electra-small": Preset("electra", 12, 256),
    "electra-base": Preset("electra", 12, 768),
    "albert-tiny": Preset("albert", 2, 128),
    "albert-small": Preset("albert", 4, 512),
    "albert-base": Preset("albert", 12, 768),
    "roberta-tiny": Preset("roberta", 2, 128),
    "roberta-small": Preset("roberta", 4, 512),
    "roberta-base": Preset("roberta", 12, 768),
    "distilbert-tiny": Preset("distilbert", 2, 128),
    "distilbert-small": Preset("distilbert", 4, 512),
    "distilbert-base": Preset("distilbert", 6, 768),
    "deberta-v2-tiny": Preset("deberta-v2", 2, 128),
    "deberta-v2-small": Preset("deberta-v2", 6, 768),
    "deberta-v2-base": Preset("deberta-v2", 12, 768),
}


def preset_names() -> str:
    """Return the names of the presets for a message: of each family the first in full, of the others the size."""
    families = []
    for family, group in groupby(PRESETS, lambda name: PRESETS[name].family):
        first, *others = group
        families.append(", ".join([first, *(name.removeprefix(family) for name in others)]))
    return "; ".join(families)


def find_preset(name: str) -> Preset:
    """Return a preset by name, or the architecture in a ``config.json`` by its path or that of its folder.

    Raises:
        ConfigError: there is none of that name, or the file names no masked language model of transformers.
    """
    if name in PRESETS:
        return PRESETS[name]
    file = config_path(name)
    if file is None:
        raise ConfigError(
            f"unknown preset '{name}'{did_you_mean(name, PRESETS)}; the presets are {preset_names()}; or give the path of a "
            f"config.json"
        )
    family, values = read_config_file(file)
    return Preset(family, extra=values, file=file)


def check_trainable(config: RunConfig) -> None:
    """Refuse a configuration that does not say what to train, or on which text.

    Raises:
        ConfigError: there are no inputs; or as :func:`check_model`.
    """
    check_model(config)
    if not config.data.inputs:
        raise ConfigError("no text to train on: give files, folders or globs")


def check_model(config: RunConfig) -> None:
    """Refuse a configuration that does not say what to train.

    Raises:
        ConfigError: not exactly one of ``model.name`` and ``model.preset``, an unknown preset, or settings for pretrained weights.
    """
    name, preset = config.model.name, config.model.preset
    if name is None and preset is None:
        raise ConfigError(
            f"no model: name a checkpoint to adapt with --model, or a preset to train from scratch with --preset: {preset_names()}"
        )
    if name is not None and preset is not None:
        raise ConfigError(
            f"two models: model.name is '{name}', a checkpoint to adapt, and model.preset is '{preset}', an architecture to train "
            "from scratch; leave out one of them"
        )
    if preset is not None:
        if (found := find_preset(preset)).file:
            require_model(found.config(), str(found.file))
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
