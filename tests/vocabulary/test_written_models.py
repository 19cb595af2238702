"""A model that is written is loaded again and compared before it gets its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForMaskedLM, BertTokenizer

import unmask
from unmask.errors import UnmaskError
from unmask.model.load import load_for_inference
from unmask.progress import Progress
from unmask.vocabulary import extend

TEXT = "The cardiomyopathy of {} patients is an echocardiogramme, or diclofenac {}."
CASES: list[tuple[str, dict[str, Any]]] = [
    ("bert", {"tie_word_embeddings": False}),
    ("roberta", {"tie_word_embeddings": False}),
    ("electra", {"tie_word_embeddings": False}),
    ("deberta-v2", {"legacy": False}),
    ("mobilebert", {}),
]


@pytest.fixture
def domain(tmp_path: Path) -> Path:
    path = tmp_path / "domain.txt"
    path.write_text("".join(TEXT.format(n, n % 7) + "\n" for n in range(60)), encoding="utf-8")
    return path


def with_biases(model: Any) -> Any:
    """Give the output biases values: those of a new model are zero, so that losing them would not show."""
    draw = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if name.endswith("bias") and weight.shape == (model.config.vocab_size,):
            weight.data.normal_(generator=draw)
    return model


@pytest.mark.parametrize(("architecture", "config"), CASES, ids=str)
def test_old_tokens_keep_their_logits(
    domain: Path, checkpoint: Any, tiny_model: Any, tmp_path: Path, architecture: str, config: dict[str, Any]
) -> None:
    tokenizer = load_for_inference(checkpoint(architecture), device="cpu").tokenizer
    with_biases(tiny_model(architecture, len(tokenizer), **config)).save_pretrained(tmp_path / "old")
    tokenizer.save_pretrained(tmp_path / "old")
    found = unmask.extend_tokenizer(domain, model=tmp_path / "old", out=tmp_path / "new", add=3)
    ids = torch.tensor([tokenizer("Three small boats.")["input_ids"]])
    before, after = (
        AutoModelForMaskedLM.from_pretrained(tmp_path / name).eval()(input_ids=ids).logits.detach()
        for name in ("old", "new")
    )
    assert after.shape[-1] == before.shape[-1] + 3
    torch.testing.assert_close(after[..., : found.first], before)
    for place, word in enumerate(found.words):
        wanted = before[..., list(word.subwords)].mean(-1)
        torch.testing.assert_close(after[..., found.first + place], wanted)
    run = unmask.train(
        domain,
        model=tmp_path / "new",
        out=tmp_path / "run",
        max_steps=2,
        new_embeddings_steps=1,
        batch_tokens=64,
    )
    assert run.steps == 2


def test_new_words_do_not_take_ids_of_others_where_ids_have_gaps(
    domain: Path, tiny_model: Any, wordpiece_tokenizer: Any, tmp_path: Path
) -> None:
    entries = sorted(wordpiece_tokenizer.get_vocab(), key=wordpiece_tokenizer.get_vocab().__getitem__)
    entries.insert(40, entries[20])  # a repeated line: the first of the two ids is unused
    tokenizer = BertTokenizer(
        vocab={entry: number for number, entry in enumerate(entries)}, model_max_length=128
    )
    assert len(tokenizer) == len(entries) - 1
    tiny_model("bert", len(entries)).save_pretrained(tmp_path / "old")
    tokenizer.save_pretrained(tmp_path / "old")
    found = unmask.extend_tokenizer(domain, model=tmp_path / "old", out=tmp_path / "new", add=3)
    assert found.first == len(entries)
    again = unmask.load(tmp_path / "new", device="cpu").lm.tokenizer
    vocabulary = again.get_vocab()
    assert len({*vocabulary.values()}) == len(vocabulary)
    assert {vocabulary[word.entry] for word in found.words} == {*range(found.first, found.first + 3)}
    assert all(vocabulary[entry] == number for entry, number in tokenizer.get_vocab().items())
    assert again("a cardiomyopathy", add_special_tokens=False)["input_ids"][-1] >= found.first


@pytest.mark.parametrize("fault", ["bias", "shape"])
def test_a_model_that_changed_is_not_kept(
    domain: Path,
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    add = extend.add_rows

    def wrong(model: Any, *given: Any) -> None:
        add(model, *given)
        if fault == "bias":
            model.get_output_embeddings().bias.data += 1
        else:
            model.config.vocab_size += 1

    monkeypatch.setattr(extend, "add_rows", wrong)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UnmaskError, match="is not kept") as caught:
        unmask.extend_tokenizer(domain, model=checkpoint("bert"), out=tmp_path / "new", add=3)
    assert "by up to 1" in str(caught.value) or fault == "shape"
    assert sorted(tmp_path.iterdir()) == before


def test_a_run_does_not_keep_a_model_that_changed(
    domain: Path, checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import PreTrainedModel

    save = PreTrainedModel.save_pretrained

    def wrong(model: Any, folder: Any, **given: Any) -> None:
        save(model, folder, **given)
        path = Path(folder) / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(config | {"hidden_act": "relu"}), encoding="utf-8")

    out = tmp_path / "run"
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", wrong)
    with pytest.raises(UnmaskError, match="loaded again it gives other logits"):
        unmask.train(domain, model=checkpoint("bert"), out=out, max_steps=1, batch_tokens=64)
    assert not (out / "model").exists()
    assert (out / "checkpoints").is_dir()
    monkeypatch.undo()
    assert unmask.train(out=out, resume=True).model is not None


def sentence_model(folder: Path, base: Path) -> Path:
    """Write a folder as sentence-transformers does: an encoder at its root, modules beside it."""
    shutil.copytree(base, folder)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
        {"idx": 4, "name": "4", "path": "4_Normalize", "type": "sentence_transformers.models.Normalize"},
        {"idx": 3, "name": "3", "path": "../outside", "type": "sentence_transformers.models.Dense"},
    ]
    for name, content in {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": 64, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": {"query": "query: "}},
        "1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_cls_token": True},
        "2_Dense/config.json": {"in_features": 32, "out_features": 8},
        "../outside/secret.json": {},
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    save_file({"linear.weight": torch.ones(8, 32)}, folder / "2_Dense" / "model.safetensors")
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"pickle")
    return folder


class Recorded(Progress):
    def __init__(self, logs: list[str]) -> None:
        self.log = logs.append  # type: ignore[method-assign]


KEPT = [
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
]


def test_the_modules_of_a_sentence_model_are_kept(
    domain: Path, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    base = sentence_model(tmp_path / "base", checkpoint("bert"))
    logs: list[str] = []
    unmask.extend_tokenizer(domain, model=base, out=tmp_path / "new", add=3, progress=Recorded(logs))
    (warning,) = [text for text in logs if "warning: " in text]
    assert "'../outside' is outside the model" in warning
    run = unmask.train(domain, model=tmp_path / "new", out=tmp_path / "run", max_steps=1, batch_tokens=64)
    for folder in (tmp_path / "new", run.folder.model):
        for name in KEPT:
            if name != "modules.json":
                assert (folder / name).read_bytes() == (base / name).read_bytes()
        assert json.loads((folder / "modules.json").read_text()) == json.loads(
            (base / "modules.json").read_text()
        )
        assert not (folder / "2_Dense" / "pytorch_model.bin").exists()
        assert not list(folder.parent.glob("outside/*.json")) or folder.parent == tmp_path
