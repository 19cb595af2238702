"""The generator of replaced token detection: a masked-LM model of the same family, smaller than the discriminator.

ELECTRA's (Clark et al. 2020) is as deep and a quarter as wide, since its embeddings are projected to the width of the layers.
Where they are not, layers are left out and not width, as in DeBERTaV3 (He et al. 2021), whose generator has half of them.
"""

from __future__ import annotations

import re
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

from unmask.data.tokenizer import load_tokenizer
from unmask.errors import ConfigError
from unmask.model.layers import encoder_layers
from unmask.model.load import read_checkpoint
from unmask.run_folder import saved_generator

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from unmask.model.masked_lm import MaskedLM

_PROJECTED = ("electra", "albert")
_FRACTION = 4  # of the attention heads, and of the width with them


def open_generator(
    discriminator: MaskedLM, name: str | None, seed: int, *, offline: bool = False
) -> tuple[PreTrainedModel, str]:
    """Return a generator for a discriminator, and where its weights are from; they are new where that is empty.

    Args:
        discriminator: whose generator it is.
        name: of a masked-LM checkpoint; by default the one that was saved in the folder of the discriminator, if any.
        seed: of new weights.
        offline: make no network call.

    Raises:
        ConfigError: it cannot be loaded, has no LM head or another vocabulary, or is larger than the discriminator.
    """
    model = discriminator.model
    if name is None and (saved := saved_generator(str(model.config.name_or_path or ""))):
        name = str(saved)
    if name is None:
        with discriminator.plain():  # whose configuration names the attention of transformers
            return _new_generator(model, seed).to(discriminator.device), ""  # type: ignore[arg-type]
    generator, new_head = read_checkpoint(name, offline=offline)
    if new_head:
        raise ConfigError(
            f"the generator '{name}' has no LM head, which replaces tokens by its predictions; name a masked language model with "
            f"--generator, or leave it out"
        )
    own, wanted = load_tokenizer(name, offline=offline).get_vocab(), discriminator.tokenizer.get_vocab()
    shapes = [list(each.get_input_embeddings().weight.shape) for each in (generator, model)]  # type: ignore[arg-type]
    if own != wanted or shapes[0] != shapes[1]:
        what = "{} and {}".format(*shapes)
        raise ConfigError(
            f"the generator '{name}' and the model to train share their token embeddings, and need the same vocabulary and tables "
            f"of one size; {'their vocabularies differ' if own != wanted else f'theirs are {what}'}"
        )
    sizes = [sum(weight.numel() for weight in each.base_model.parameters()) for each in (generator, model)]
    if sizes[0] > sizes[1]:
        raise ConfigError(
            f"the generator '{name}' is larger than its discriminator ({sizes[0]:,} and {sizes[1]:,} weights in the encoders), which "
            f"could not tell its tokens from the original ones; name a smaller one with --generator, or leave it out"
        )
    return generator.to(discriminator.device), name  # type: ignore[arg-type]


def _new_generator(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """Return a smaller model with the weights of ``model`` wherever it has one of the same shape, such as embeddings."""
    from transformers import AutoModelForMaskedLM

    config, kept = _smaller(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator: PreTrainedModel = AutoModelForMaskedLM.from_config(config, dtype=torch.float32)
    stack = re.escape(encoder_layers(generator)[0])
    source, found = model.state_dict(), generator.state_dict()
    for name, weight in found.items():
        origin = re.sub(rf"^{stack}\.(\d+)\.", lambda at: f"{at[0][: at.start(1)]}{kept[int(at[1])]}.", name)
        if origin in source and source[origin].shape == weight.shape:
            found[name] = source[origin].detach().clone()
    generator.load_state_dict(found)
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        generator.gradient_checkpointing_enable({"use_reentrant": False})
    return generator


def _smaller(model: PreTrainedModel) -> tuple[PretrainedConfig, list[int]]:
    """Return the configuration of a generator, and which layers of ``model`` its own correspond to."""
    config = deepcopy(model.config)
    config.name_or_path = ""
    layers = list(range(len(encoder_layers(model)[1])))
    if config.model_type in _PROJECTED:
        heads = max(1, config.num_attention_heads // _FRACTION)
        for name in ("hidden_size", "intermediate_size"):
            setattr(config, name, getattr(config, name) * heads // config.num_attention_heads)
        config.num_attention_heads = heads
        return config, layers
    kept = layers[::-2][::-1]  # the last one is among them: it sees all tokens where others have windows
    values: dict[str, Any] = config.to_dict()
    name = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    if name not in values:
        raise ConfigError(
            f"{type(model).__name__} has no number of layers in its configuration, so no smaller generator can be made of it; name one "
            f"with --generator, or use an ELECTRA, BERT or ModernBERT"
        )
    values[name] = len(kept)
    if values.get("layer_types"):
        values["layer_types"] = [values["layer_types"][layer] for layer in kept]
    return type(config).from_dict(values), kept
