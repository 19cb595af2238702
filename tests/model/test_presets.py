from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

from unmask.config.settings import ModelSettings
from unmask.data.special_tokens import between_passages
from unmask.data.tokenizer import TextEncoder
from unmask.errors import ConfigError
from unmask.model.load import new_model
from unmask.model.masked_lm import MaskedLM
from unmask.model.presets import PRESETS, find_preset, preset_names
from unmask.vocabulary.families import tokenizer_family
from unmask.vocabulary.new_tokenizer import train_tokenizer

SMALL = [name for name in PRESETS if name.endswith(("-tiny", "-mini"))]
VOCABULARY = 8192

# Weights of the encoders that were published under these names or sizes, without embeddings and heads.
LAYERS = {
    "bert-base": 85_054_464,
    "bert-large": 302_309_376,
    "roberta-base": 85_054_464,
    "electra-base": 85_054_464,
    "electra-small": 12 * 789_760,
    "albert-base": 7_087_872 + 128 * 768 + 768,
    "distilbert-base": 6 * 7_087_872,
    "deberta-v2-small": 6 * 7_087_872 + 512 * 768 + 2 * 768,
    "deberta-v2-base": 12 * 7_087_872 + 512 * 768 + 2 * 768,
}
SPECIALS = {
    "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    "albert": ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"],
    "deberta-v2": ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"],
}


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
    width = getattr(model.config, "embedding_size", PRESETS[name].hidden)
    assert model.get_input_embeddings().weight.shape == (VOCABULARY, width)
    assert model.config.hidden_size == PRESETS[name].hidden
    assert model.config.hidden_size % model.config.num_attention_heads == 0


@pytest.mark.parametrize(("name", "count"), LAYERS.items())
def test_presets_have_the_size_of_their_namesakes(name: str, count: int) -> None:
    encoder = weights(name).base_model
    layers = encoder.transformer if name.startswith("distilbert") else encoder.encoder
    assert sum(weight.numel() for weight in layers.parameters()) == count


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
def test_small_presets_have_a_tokenizer_of_their_family_and_load_anywhere(
    name: str, corpus_text: list[str], make_batch: Any, tmp_path: Path
) -> None:
    preset = PRESETS[name]
    family = tokenizer_family(preset.family)
    assert family is not None
    tokenizer = train_tokenizer(
        corpus_text, ModelSettings(vocab_size=400), family=family, token_types=preset.has_token_types
    ).tokenizer
    specials = SPECIALS.get(preset.family, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    assert tokenizer.convert_ids_to_tokens(range(5)) == specials
    model = MaskedLM(new_model(name, tokenizer, 0).eval(), tokenizer)
    assert model.batching == ("padded" if preset.family == "deberta-v2" else "packed")
    assert model.max_length == preset.max_positions
    assert model.takes_token_types == ("token_type_ids" in tokenizer("a"))
    assert (between_passages(tokenizer) is not None) == model.takes_token_types
    batch = make_batch(model.vocabulary, [12, 7, 7])
    found = model.target_logits(batch)
    model.model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    plain = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert plain.config.pad_token_id == tokenizer.pad_token_id
    again = AutoTokenizer.from_pretrained(tmp_path)
    pairs = [f"{text} {tokenizer.mask_token}" for text in corpus_text[:3]], corpus_text[3:6]
    assert again(*pairs) == tokenizer(*pairs)
    torch.testing.assert_close(MaskedLM(plain, again).target_logits(batch), found)
    ids = model.vocabulary.framed(TextEncoder(tokenizer)([corpus_text[0]])[0])
    with torch.no_grad():
        logits = plain(**again(corpus_text[0], return_tensors="pt")).logits[0]
    torch.testing.assert_close(model.document_logits(ids), logits)


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
    with pytest.raises(ConfigError, match=r"unknown preset 'bert-tny' \(did you mean 'bert-tiny'\?\)"):
        find_preset("bert-tny")


def test_messages_name_every_preset_in_few_lines() -> None:
    names = preset_names()
    assert "electra-tiny, -small, -base; " in names
    assert len(names) < 4 * 80
