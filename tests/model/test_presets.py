from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from unmask.errors import ConfigError
from unmask.model.load import new_model
from unmask.model.masked_lm import MaskedLM
from unmask.model.presets import PRESETS, find_preset

SMALL = [name for name in PRESETS if name.endswith(("-tiny", "-mini"))]
VOCABULARY = 8192

# Weights of the encoders that were published under these names or sizes, without embeddings and heads.
LAYERS = {"bert-base": 85_054_464, "bert-large": 302_309_376}


def weights(name: str) -> Any:
    """Return a preset as a model without memory: shapes alone."""
    preset = PRESETS[name]
    ids = dict.fromkeys(("pad_token_id", "cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id"), 0)
    config = AutoConfig.for_model(preset.family, **preset.config_values(VOCABULARY), **ids)
    with torch.device("meta"):
        return AutoModelForMaskedLM.from_config(config)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_from_classes_of_transformers(name: str) -> None:
    model = weights(name)
    assert type(model).__module__.startswith("transformers.models.")
    assert model.config.model_type == PRESETS[name].family
    assert model.get_input_embeddings().weight.shape == (VOCABULARY, PRESETS[name].hidden)
    assert model.config.hidden_size % model.config.num_attention_heads == 0


@pytest.mark.parametrize(("name", "count"), LAYERS.items())
def test_presets_have_the_size_of_their_namesakes(name: str, count: int) -> None:
    assert sum(weight.numel() for weight in weights(name).bert.encoder.parameters()) == count


def test_modernbert_base_is_the_published_shape() -> None:
    config = weights("modernbert-base").config
    published = AutoConfig.for_model("modernbert")
    for key in (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "layer_types",
    ):
        assert getattr(config, key) == getattr(published, key), key


@pytest.mark.parametrize("name", SMALL)
def test_small_presets_run_pack_and_load_again(
    name: str, wordpiece_tokenizer: Any, make_batch: Any, tmp_path: Path
) -> None:
    model = MaskedLM(new_model(name, wordpiece_tokenizer, 0).eval(), wordpiece_tokenizer)
    assert model.packed
    assert model.max_length == min(PRESETS[name].max_positions, wordpiece_tokenizer.model_max_length)
    batch = make_batch(model.vocabulary, [12, 7, 7])
    found = model.target_logits(batch)
    model.model.save_pretrained(tmp_path)
    again = MaskedLM(AutoModelForMaskedLM.from_pretrained(tmp_path).eval(), wordpiece_tokenizer)
    assert torch.equal(again.target_logits(batch), found)


def test_near_layers_see_direct_neighbours_alone(wordpiece_tokenizer: Any, make_batch: Any) -> None:
    model = MaskedLM(new_model("modernbert-tiny", wordpiece_tokenizer, 0).eval(), wordpiece_tokenizer)
    kinds = ["sliding_attention"] * 2 + ["full_attention"]
    assert model.model.config.layer_types == kinds
    states = []
    for far in (7, 8):
        ids = torch.tensor([[5, 6, 9, 10, far]])
        with torch.no_grad():
            states.append(model.model(input_ids=ids, output_hidden_states=True).hidden_states)
    changed = [(one != other).any(-1)[0].tolist() for one, other in zip(*states, strict=True)]
    # The embeddings, then what each layer lets a token see.
    assert changed[0] == [False, False, False, False, True]
    assert changed[1] == [False, False, False, True, True]
    assert changed[2] == [False, False, True, True, True]
    assert changed[3] == [True] * 5


@pytest.mark.parametrize(
    ("name", "near", "message"),
    [
        ("bert-tiny", 1, "model.near_layers is 1, but the layers of bert always see all tokens"),
        ("modernbert-tiny", 4, "model.near_layers is 4, but the preset has 3 layers"),
    ],
)
def test_impossible_near_layers_are_refused(name: str, near: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PRESETS[name].config_values(VOCABULARY, near)


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no preset 'bert-tny' \(did you mean 'bert-tiny'\?\)"):
        find_preset("bert-tny")
