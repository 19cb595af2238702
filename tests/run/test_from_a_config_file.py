"""A ``config.json`` of transformers is an architecture to train from scratch, or refused in one line before anything is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from unmask.config.load import load_config
from unmask.config.settings import RunConfig
from unmask.errors import ConfigError
from unmask.model.load import load_for_inference
from unmask.model.presets import check_trainable
from unmask.run.train import train

SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 9,
    "max_position_embeddings": 66,
}


def configure(folder: Path, corpus: list[str], content: Any, **flags: Any) -> RunConfig:
    """Return a run of two steps from a config file, written to a folder that a text lies beside."""
    if not (folder / "text.txt").exists():  # a resume must find it unchanged
        (folder / "text.txt").write_text("\n".join(corpus), encoding="utf-8")
    (folder / "made").mkdir(exist_ok=True)
    written = content if isinstance(content, str) else json.dumps(content)
    (folder / "made" / "config.json").write_text(written, encoding="utf-8")
    settings = {
        "data.inputs": [str(folder / "text.txt")],
        "data.documents": "line",
        "data.max_length": 32,
        "model.preset": str(folder / "made"),
        "model.vocab_size": 300,
        "train.max_steps": 2,
        "train.batch_tokens": 128,
        "train.precision": "fp32",
        "train.device": "cpu",
    }
    return load_config(None, flags=settings | flags)


def test_a_config_gives_the_architecture_and_the_text_the_vocabulary(
    corpus_text: list[str], tmp_path: Path
) -> None:
    values = {"model_type": "xlm-roberta", "type_vocab_size": 1, "hidden_act": "relu", **SHAPE}
    config = configure(tmp_path, corpus_text, values)
    result = train(config, tmp_path / "run")
    plain = AutoModelForMaskedLM.from_pretrained(result.folder.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(result.folder.model)
    assert type(plain).__name__ == "XLMRobertaForMaskedLM"
    assert (plain.config.hidden_act, plain.config.hidden_size) == ("relu", 32)
    assert 0 <= plain.config.vocab_size - len(tokenizer) < 64
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    model = load_for_inference(str(result.folder.root), device="cpu")
    assert model.max_length == 64
    encoded = tokenizer(corpus_text[0], return_tensors="pt")
    with torch.no_grad():
        logits = plain(**encoded).logits[0]
    torch.testing.assert_close(model.document_logits(encoded["input_ids"][0].numpy()), logits)

    changed = configure(tmp_path, corpus_text, values | {"hidden_act": "gelu"}, **{"train.max_steps": 3})
    with pytest.raises(ConfigError, match="the architecture of this run changed"):
        train(changed, tmp_path / "run", resume="auto")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ([], "has no model_type"),
        ({"model_type": "bertt"}, r"has no class for model_type 'bertt' \(did you mean 'bert'\?\)"),
        ({"model_type": "own", "auto_map": {}}, "classes whose code comes with the model are not run"),
        ({"model_type": "gpt2"}, "has no masked language model of model_type 'gpt2'"),
        ({"model_type": "bert", **SHAPE, "hidden_size": 33}, "cannot make a model of it: The hidden size"),
        ({"model_type": "bert", **SHAPE, "hidden_size": "3"}, "cannot make a model of it: .* expected int"),
        ({"model_type": "bert", **SHAPE, "is_decoder": True}, "has attention that looks back only"),
    ],
)
def test_other_configs_are_refused_in_one_line(
    content: Any, message: str, corpus_text: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_trainable(configure(tmp_path, corpus_text, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["none.json", "none/config.json", "."])
def test_a_missing_file_is_named(name: str, tmp_path: Path, corpus_text: list[str]) -> None:
    config = configure(tmp_path, corpus_text, {}, **{"model.preset": str(tmp_path / name)})
    with pytest.raises(ConfigError, match=r"no such file; give a config\.json of transformers"):
        check_trainable(config)
