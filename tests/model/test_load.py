from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForMaskedLM

import unmask
from unmask.cli.main import main
from unmask.data.tokenizer import load_tokenizer
from unmask.errors import ConfigError
from unmask.model.load import load_for_inference, new_model, pick_device, read_checkpoint
from unmask.progress import Progress

Checkpoint = Callable[[str], Path]


@pytest.fixture
def copy(checkpoint: Checkpoint, tmp_path: Path) -> Callable[[str], Path]:
    """Return `make(architecture)`: a copy of a tiny checkpoint, to be damaged."""
    return lambda architecture: Path(shutil.copytree(checkpoint(architecture), tmp_path / architecture))


class Listener(Progress):
    """Remembers what was logged."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def log(self, text: str) -> None:
        self.heard.append(text)


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Rewrite the weights of a checkpoint."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_folder_is_loaded_to_be_asked(checkpoint: Checkpoint) -> None:
    progress = Listener()
    model = load_for_inference(str(checkpoint("roberta")), device="cpu", progress=progress)
    assert type(model.model).__name__ == "RobertaForMaskedLM"
    assert not model.model.training
    assert not model.autocast
    assert progress.heard == []


def test_weights_are_fp32_whatever_was_saved(copy: Callable[[str], Path]) -> None:
    folder = copy("bert")
    edit(folder, lambda weights: {name: tensor.half() for name, tensor in weights.items()})
    model = read_checkpoint(str(folder)).model
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["missing", "there/is/none/such"])
def test_a_missing_folder_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        load_for_inference(str(tmp_path / name), offline=True)
    assert "\n" not in str(caught.value)


def test_a_misspelt_folder_is_not_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "notes").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"'runs/note': no such folder \(did you mean 'runs/notes'\?\)"
    ) as caught:
        load_for_inference("runs/note")
    assert "\n" not in str(caught.value)


def test_a_folder_that_may_be_a_name_on_the_hub_is_named_as_missing(tmp_path: Path) -> None:
    for load in (load_for_inference, read_checkpoint):
        with pytest.raises(ConfigError, match=r"there is no folder none/such; .* the Hub was not asked"):
            load("none/such", offline=True)


def test_a_damaged_run_says_which_file_and_is_written_again(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = [f"the river and the boat of the winter {number}" for number in range(40)]
    settings = {"train.batch_tokens": 128, "data.heldout_share": 0.2}
    quick: dict[str, Any] = {"max_steps": 2, "precision": "fp32", "device": "cpu", "progress": False}
    unmask.train(texts, model=checkpoint("bert"), out="half", settings=settings, **quick)
    weights, tokenizer = Path("half/model/model.safetensors"), Path("half/model/tokenizer.json")
    whole = weights.read_bytes(), tokenizer.read_bytes()
    again = "'unmask train -o half --resume', from the last checkpoint of the run"

    def refused() -> str:
        with pytest.raises(ConfigError) as caught:
            load_for_inference("half", offline=True)
        assert again in str(caught.value)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    weights.unlink()
    assert f"could be loaded from 'half': {weights} is missing. Write it again with" in refused()
    weights.write_bytes(whole[0][:1000])
    assert f"could be loaded from 'half': {weights} is damaged or cut off (" in refused()
    tokenizer.write_bytes(whole[1][:1000])
    assert f"'half': {tokenizer} is damaged or cut off: it is not valid JSON. Write it again" in refused()
    for file in tokenizer.parent.glob("tokenizer*"):
        file.unlink()
    assert f"Copy those of its tokenizer to {tokenizer.parent}, or write them with" in refused()
    unmask.train(out="half", resume=True, **quick)
    assert (weights.read_bytes(), tokenizer.read_bytes()) == whole


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_one_line(copy: Callable[[str], Path], name: str) -> None:
    folder = copy("bert")
    (folder / name).unlink()
    with pytest.raises(ConfigError, match="no masked language model could be loaded") as caught:
        read_checkpoint(str(folder), offline=True)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_not_read(copy: Callable[[str], Path]) -> None:
    folder = copy("bert")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"weights in pytorch_model\.bin"):
        read_checkpoint(str(folder), offline=True)


def test_code_that_comes_with_a_checkpoint_is_not_run(copy: Callable[[str], Path]) -> None:
    folder = copy("bert")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForMaskedLM": "own.M"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "own.py").write_text("raise SystemExit('code was run')", encoding="utf-8")
    with pytest.raises(ConfigError, match="no masked language model could be loaded"):
        read_checkpoint(str(folder), offline=True)


def test_damaged_weights_are_one_line(copy: Callable[[str], Path]) -> None:
    folder = copy("bert")
    (folder / "model.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(
        ConfigError, match=r"no masked language model .*safetensors is damaged or cut off"
    ) as caught:
        read_checkpoint(str(folder), offline=True)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_a_mask_token_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("modernbert")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            settings = json.loads((folder / name).read_text(encoding="utf-8"))
            settings.pop("mask_token", None)
            (folder / name).write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ConfigError, match="has no mask token"):
        load_for_inference(str(folder), device="cpu")


# --- run folders and models in memory ----------------------------------------------------------------------------


@pytest.fixture
def run(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """A run folder with its model."""
    folder = tmp_path / "run"
    shutil.copytree(checkpoint("bert"), folder / "model")
    (folder / "run.json").write_text("{}", encoding="utf-8")
    return folder


def test_a_run_folder_stands_for_its_model(run: Path, checkpoint: Checkpoint) -> None:
    whole = read_checkpoint(str(checkpoint("bert"))).model
    assert same(read_checkpoint(str(run)).model, whole)
    assert same(load_for_inference(run, device="cpu").model, whole)
    assert len(load_tokenizer(str(run))) == len(load_tokenizer(str(checkpoint("bert"))))


def test_a_run_without_a_model_is_refused_with_the_way_out(run: Path) -> None:
    shutil.rmtree(run / "model")
    for load in (load_for_inference, read_checkpoint, load_tokenizer):
        with pytest.raises(
            ConfigError, match=r"run that has no model yet; finish it with 'unmask train -o .* --resume'"
        ):
            load(str(run))


def test_a_model_in_memory_is_used_as_it_is(checkpoint: Checkpoint) -> None:
    name = str(checkpoint("bert"))
    raw, tokenizer = read_checkpoint(name).model.train(), load_tokenizer(name)
    model = load_for_inference(raw, tokenizer)
    assert model.model is raw
    assert model.tokenizer is tokenizer
    assert not raw.training
    assert load_for_inference(raw, name).vocabulary.size == model.vocabulary.size
    assert load_for_inference(model) is model
    with pytest.raises(ConfigError, match="a BertForMaskedLM in memory has no tokenizer; give it too"):
        load_for_inference(raw)


@pytest.mark.parametrize("precision", ["fp16", "half"])
def test_an_unknown_precision_is_refused(checkpoint: Checkpoint, precision: str) -> None:
    with pytest.raises(ConfigError, match=f"no precision '{precision}'; there are auto, fp32, bf16"):
        load_for_inference(str(checkpoint("bert")), device="cpu", precision=precision)


# --- checkpoints without an LM head -------------------------------------------------------------------------------


@pytest.fixture
def headless(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """A BERT encoder as an embedding model is published: no LM head, names without the prefix."""
    folder = Path(shutil.copytree(checkpoint("bert"), tmp_path / "encoder"))
    read_checkpoint(str(checkpoint("bert"))).model.base_model.save_pretrained(folder)
    return folder


def test_a_checkpoint_without_a_head_is_taken_with_a_notice(headless: Path, checkpoint: Checkpoint) -> None:
    progress = Listener()
    model = read_checkpoint(str(headless), progress=progress).model
    assert len(progress.heard) == 1
    assert "has no LM head" in progress.heard[0]
    assert "Until it is trained, its predictions say nothing" in progress.heard[0]
    whole = read_checkpoint(str(checkpoint("bert"))).model
    assert same(model.bert, whole.bert)
    assert not same(model.cls, whole.cls)


@pytest.mark.parametrize(
    "ask",
    [
        lambda model: model.fill("the [MASK] is quiet"),
        lambda model: model.score("the harbour is quiet"),
        lambda model: model.explain("the harbour is quiet"),
        lambda model: unmask.evaluate(model, ["the harbour is quiet"]),
    ],
    ids=["fill", "score", "explain", "evaluate"],
)
def test_nothing_is_predicted_with_a_head_that_was_never_trained(
    headless: Path, ask: Callable[[unmask.Model], object]
) -> None:
    progress = Listener()
    with pytest.raises(ConfigError, match=r"has no LM head .*says nothing\. Train it first: unmask train"):
        ask(unmask.load(headless, progress=progress))
    assert not [line for line in progress.heard if "LM head" in line]  # the error says it


def test_a_head_that_starts_anew_comes_from_the_seed(headless: Path) -> None:
    random = torch.get_rng_state()
    first, again, other = (read_checkpoint(str(headless), seed=seed).model for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)
    assert torch.equal(torch.get_rng_state(), random)


def test_a_checkpoint_with_half_an_encoder_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("bert")
    edit(folder, lambda weights: {name: t for name, t in weights.items() if "layer.1" not in name})
    with pytest.raises(
        ConfigError, match=r"lacks 16 weights of the encoder itself, for example bert\.encoder\.layer"
    ):
        read_checkpoint(str(folder))


def test_weights_of_another_shape_are_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("bert")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 32}), encoding="utf-8")
    with pytest.raises(ConfigError, match="no masked language model could be loaded") as caught:
        read_checkpoint(str(folder))
    assert "\n" not in str(caught.value)


# --- devices and new models ---------------------------------------------------------------------------------------


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="finds no CUDA device; use --device=cpu or auto"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("preset", ["bert-tiny", "modernbert-tiny"])
def test_a_new_model_comes_from_its_seed_alone(wordpiece_tokenizer: Any, preset: str) -> None:
    random = torch.get_rng_state()
    first, again, other = (new_model(preset, wordpiece_tokenizer, seed) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)
    assert torch.equal(torch.get_rng_state(), random)


def test_a_new_model_knows_the_special_tokens(wordpiece_tokenizer: Any) -> None:
    config = new_model("modernbert-tiny", wordpiece_tokenizer, 0).config
    tokenizer = wordpiece_tokenizer
    assert (config.pad_token_id, config.cls_token_id, config.sep_token_id) == (
        tokenizer.pad_token_id,
        tokenizer.cls_token_id,
        tokenizer.sep_token_id,
    )
    assert len(tokenizer) <= config.vocab_size < len(tokenizer) + 64
    assert config.vocab_size % 64 == 0


# --- folders that are something else, and what can be done with them ----------------------------------------------


@pytest.mark.parametrize("architecture", ["deberta", "deberta-v2"])
def test_a_head_under_debertas_own_names_is_a_head(
    unigram_tokenizer: Any, tmp_path: Path, architecture: str
) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    rows = len(unigram_tokenizer)
    config = AutoConfig.for_model(architecture, vocab_size=rows, legacy=False, **sizes)
    whole = AutoModelForMaskedLM.from_config(config).eval()
    torch.nn.init.normal_(whole.lm_predictions.lm_head.bias)
    whole.save_pretrained(tmp_path)
    unigram_tokenizer.save_pretrained(tmp_path)
    stated = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    del stated["legacy"]  # as published
    (tmp_path / "config.json").write_text(json.dumps(stated), encoding="utf-8")
    progress = Listener()
    loaded = load_for_inference(str(tmp_path), device="cpu", progress=progress)
    ids = torch.tensor([[5, 6, 7, 8]])
    assert progress.heard == []
    assert torch.equal(loaded.model(input_ids=ids).logits, whole(input_ids=ids).logits)
    loaded.model.save_pretrained(tmp_path / "saved")
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "saved").config.legacy is False


@pytest.mark.parametrize("architecture", ["bart", "mbart", "mvp"])
def test_a_model_with_a_decoder_is_refused(unigram_tokenizer: Any, tmp_path: Path, architecture: str) -> None:
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "d_model": 16}
    config = AutoConfig.for_model(architecture, vocab_size=len(unigram_tokenizer), **layers, **heads)
    model = AutoModelForMaskedLM.from_config(config)
    model.save_pretrained(tmp_path)
    for load in (
        lambda: read_checkpoint(str(tmp_path)),
        lambda: load_for_inference(model, unigram_tokenizer),
    ):
        with pytest.raises(ConfigError, match=r"has an encoder and a decoder: .* needs an encoder"):
            load()


def test_a_model_that_looks_back_only_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("bert")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"is_decoder": True}), encoding="utf-8")
    with pytest.raises(ConfigError, match="attention that looks back only"):
        load_for_inference(str(folder), device="cpu")


def test_a_model_without_a_table_of_embeddings_is_refused(unigram_tokenizer: Any) -> None:
    sizes = {"num_latents": 4, "d_latents": 32, "d_model": 32, "qk_channels": 16, "v_channels": 32}
    layers = {"num_self_attends_per_block": 1, "num_self_attention_heads": 2, "num_cross_attention_heads": 2}
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model("perceiver", **sizes, **layers))
    with pytest.raises(ConfigError, match=r"\(perceiver\) has no table of token embeddings"):
        load_for_inference(model, unigram_tokenizer)


def test_another_kind_of_model_is_named(tmp_path: Path) -> None:
    AutoConfig.for_model("gpt2").save_pretrained(tmp_path)
    with pytest.raises(
        ConfigError, match=r"no masked language model: transformers has none of its architecture \(GPT2\)"
    ):
        read_checkpoint(str(tmp_path), offline=True)


def test_a_folder_of_checkpoints_names_them(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for name in ("checkpoint-500", "checkpoint-1000", "checkpoint-90", "bert2"):
        shutil.copytree(checkpoint("bert"), tmp_path / name)
    for load in (load_tokenizer, read_checkpoint):
        with pytest.raises(
            ConfigError, match=r"models in folders below it .* for example .*checkpoint-1000$"
        ):
            load(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("adapter_config.json", "holds an adapter without its model"),
        ("dataset_info.json", "holds a data set"),
    ],
)
def test_a_folder_of_another_kind_is_named(tmp_path: Path, file: str, message: str) -> None:
    (tmp_path / file).write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_tokenizer(str(tmp_path))


# --- weights in pytorch_model.bin ---------------------------------------------------------------------------------


@pytest.fixture
def pickled(copy: Callable[[str], Path]) -> Callable[[int], Path]:
    """Return `make(files)`: a tiny BERT whose weights lie in pytorch_model*.bin only, the tied decoder among them."""

    def make(files: int) -> Path:
        folder = copy("bert")
        weights = load_file(folder / "model.safetensors")
        weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"]
        (folder / "model.safetensors").unlink()
        names = sorted(weights)
        for number in range(files):
            part = {name: weights[name] for name in names[number::files]}
            name = "pytorch_model.bin" if files == 1 else f"pytorch_model-{number + 1:05d}-of-00002.bin"
            torch.save(part, folder / name)
        return folder

    return make


@pytest.mark.parametrize("files", [1, 2])
def test_pickled_weights_are_converted(
    pickled: Callable[[int], Path], checkpoint: Checkpoint, tmp_path: Path, files: int
) -> None:
    folder, out = pickled(files), tmp_path / "new"
    with pytest.raises(ConfigError, match=rf"Convert them once with 'unmask convert {folder} -o NEW'"):
        read_checkpoint(str(folder), offline=True)
    assert main(["convert", str(folder), "-o", str(out)]) == 0
    assert same(read_checkpoint(str(out)).model, read_checkpoint(str(checkpoint("bert"))).model)
    assert len(load_tokenizer(str(out))) == len(load_tokenizer(str(folder)))
    assert not list(out.glob("*.bin"))


def test_pickled_code_is_not_run(
    pickled: Callable[[int], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    folder, out = pickled(1), tmp_path / "new"
    torch.save({"weight": Attack()}, folder / "pytorch_model.bin")
    assert main(["convert", str(folder), "-o", str(out)]) == 2
    assert "holds more than tensors (" in capfd.readouterr().err
    assert not (tmp_path / "ran").exists()
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no weights", "pytorch_model.bin is damaged, or was not written by torch; download the file again"),
        ({"model": {"weight": torch.zeros(1)}}, "is no dictionary of tensors"),
        (b"version https://git-lfs.github.com/spec/v1", "this is a Git LFS pointer"),
    ],
)
def test_weights_that_cannot_be_converted_are_named(
    pickled: Callable[[int], Path], tmp_path: Path, content: Any, message: str
) -> None:
    file = pickled(1) / "pytorch_model.bin"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(ConfigError, match=message) as caught:
        unmask.convert(file.parent, tmp_path / "new")
    assert "weights_only" not in str(caught.value)


def test_weights_that_are_a_git_lfs_pointer_are_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("bert"), tmp_path / "model")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ConfigError, match=r"model\.safetensors: this is a Git LFS pointer"):
        read_checkpoint(str(folder), offline=True)


def test_nothing_to_convert_is_said(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no pytorch_model\.bin"):
        unmask.convert(checkpoint("bert"), tmp_path / "new")
