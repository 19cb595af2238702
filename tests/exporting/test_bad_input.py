"""Folders and files that are no usable exported model: one line says what was expected, what came and what to do."""

from __future__ import annotations

import builtins
import copy
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from fastapi.testclient import TestClient
from onnx import TensorProto, helper, numpy_helper

import unmask
from unmask.cli.main import main
from unmask.data.batches import Batch
from unmask.errors import ConfigError, DiskError, MissingExtra, UnmaskError
from unmask.exporting import onnx as writing
from unmask.exporting.export import export_model
from unmask.model.exported import ExportedModel
from unmask.model.load import load_for_inference, read_checkpoint
from unmask.model.onnx_graph import FACTS, OnnxGraph
from unmask.serving import Limits, create_app

Make = Callable[[], Path]
TYPES = {"int64": TensorProto.INT64, "int32": TensorProto.INT32}


def write_graph(
    path: Path,
    size: int,
    *,
    inputs: Sequence[str] = ("input_ids",),
    output: str = "logits",
    kind: str = "int64",
    shape: Sequence[int | str] = ("batch", "sequence"),
    facts: str | None = None,
) -> None:
    """Write a model whose logits are a row of a table for each token."""
    table = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    given = [helper.make_tensor_value_info(name, TYPES[kind], list(shape)) for name in inputs]
    found = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    nodes = [helper.make_node("Gather", ["table", inputs[0]], [output])]
    graph = helper.make_graph(nodes, "table", given, [found], [numpy_helper.from_array(table, "table")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if facts is not None:
        helper.set_model_props(model, {FACTS: facts})
    onnx.save(model, path)


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """Config and tokenizer of the tiny BERT, and a folder for the model itself."""
    made = tmp_path / "foreign"
    shutil.copytree(checkpoint("bert"), made, ignore=shutil.ignore_patterns("*.safetensors"))
    (made / "onnx").mkdir()
    return made


@pytest.fixture
def size(wordpiece_tokenizer: Any) -> int:
    return len(wordpiece_tokenizer)


def refusal(call: Callable[[], object], error: type[UnmaskError] = ConfigError) -> str:
    with pytest.raises(error) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message
    return message


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"no ONNX at all", os.urandom(5000)], ids=["empty", "text", "noise"]
)
def test_a_file_that_is_no_onnx_model_is_named(folder: Path, content: bytes) -> None:
    (folder / "onnx" / "model.onnx").write_bytes(content)
    message = refusal(lambda: load_for_inference(folder))
    assert message.startswith(f"'{folder / 'onnx' / 'model.onnx'}' cannot be read as an ONNX model (")
    assert message.endswith("); copy or export it again")
    assert "ONNXRuntimeError" not in message


def test_a_truncated_file_is_named(folder: Path, size: int) -> None:
    path = folder / "onnx" / "model.onnx"
    write_graph(path, size)
    path.write_bytes(path.read_bytes()[:-1000])
    assert "copy or export it again" in refusal(lambda: load_for_inference(folder))


def test_a_git_lfs_pointer_is_named(folder: Path) -> None:
    (folder / "onnx" / "model.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    assert "git lfs pull" in refusal(lambda: load_for_inference(folder))


@pytest.mark.parametrize("missing", [True, False])
def test_weights_beside_the_file_that_are_missing_or_short(
    folder: Path, size: int, missing: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    path = folder / "onnx" / "model.onnx"
    write_graph(path, size)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="model.onnx_data")
    assert load_for_inference(folder).vocabulary.size == size
    data = folder / "onnx" / "model.onnx_data"
    data.unlink() if missing else data.write_bytes(data.read_bytes()[:1000])
    assert "copy or export it again" in refusal(lambda: load_for_inference(folder))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        ({"output": "last_hidden_state"}, "has the outputs last_hidden_state, not 'logits'; export the model with its LM head"),
        ({"inputs": ["tokens"]}, "has the inputs tokens; expected input_ids, attention_mask, token_type_ids"),
        ({"inputs": ["input_ids", "position_ids"]}, "has the inputs input_ids, position_ids; expected"),
        ({"kind": "int32"}, "expected inputs in int64, of any number of texts and tokens, not 'input_ids' in int32"),
        ({"shape": (1, 16)}, "not 'input_ids' in int64 [1, 16]"),
        ({"facts": "no JSON"}, "what unmask recorded in it is damaged, or of another version; export the model again"),
        ({"facts": "[1]"}, "what unmask recorded in it is damaged"),
        ({"facts": '{"batching": "some", "shortest": 1}'}, "what unmask recorded in it is damaged"),
        ({"facts": '{"batching": "padded", "shortest": "x"}'}, "what unmask recorded in it is damaged"),
    ],
)  # fmt: skip
def test_a_graph_that_cannot_be_used_is_explained(
    folder: Path, size: int, graph: dict[str, Any], said: str
) -> None:
    write_graph(folder / "onnx" / "model.onnx", size, **graph)
    assert said in refusal(lambda: load_for_inference(folder))


def test_a_model_of_another_vocabulary_is_refused(folder: Path, size: int) -> None:
    write_graph(folder / "onnx" / "model.onnx", size - 1)
    assert "of another model than the tokenizer" in refusal(lambda: load_for_inference(folder))


def test_a_model_of_another_architecture_is_refused(folder: Path, exported: Any) -> None:
    shutil.copy(exported("distilbert", "onnx").folder / "onnx" / "model.onnx", folder / "onnx")
    message = refusal(lambda: load_for_inference(folder))
    assert (
        "exported from a DistilBertForMaskedLM, the config.json beside it is that of a BertForMaskedLM"
        in message
    )


@pytest.mark.parametrize("place", ["file/new", "file/a/new"])
def test_a_place_where_nothing_can_be_written_is_found_before_the_work(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text", encoding="utf-8")
    message = refusal(lambda: unmask.export("no model", tmp_path / place, "onnx"), DiskError)
    assert message == f"{tmp_path / place}: {tmp_path / 'file'} is a file, not a folder; choose another place"


def test_a_batch_that_the_graph_cannot_compute_is_an_error_of_the_model(folder: Path, size: int) -> None:
    path = folder / "onnx" / "model.onnx"
    write_graph(path, size)
    graph = OnnxGraph(path)
    message = refusal(
        lambda: graph.logits({"input_ids": np.full((2, 3), size + 7)}, np.arange(6)), UnmaskError
    )
    assert f"'{path}' cannot compute a batch of 2 x 3 tokens" in message


# --- folders ------------------------------------------------------------------------------------------------------


def test_a_folder_without_config_or_tokenizer_says_which(folder: Path, size: int) -> None:
    path = folder / "onnx" / "model.onnx"
    write_graph(path, size)
    (folder / "config.json").unlink()
    for given in (folder, path):
        assert f"needs the config.json of its model in {folder}" in refusal(
            lambda given=given: load_for_inference(given)
        )  # type: ignore[misc]
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "holds no tokenizer files" in refusal(lambda: load_for_inference(folder))


def test_of_several_models_one_has_to_be_given(folder: Path, size: int) -> None:
    for name in ("model.onnx", "model_quantized.onnx"):
        write_graph(folder / "onnx" / name, size)
    first = folder / "onnx" / "model.onnx"
    message = refusal(lambda: load_for_inference(folder))
    assert "(onnx/model.onnx, onnx/model_quantized.onnx)" in message
    assert f"for example {first}" in message
    assert load_for_inference(first).vocabulary.size == size


def test_weights_in_pytorch_come_first(folder: Path, size: int, checkpoint: Callable[[str], Path]) -> None:
    write_graph(folder / "onnx" / "model.onnx", size)
    assert isinstance(load_for_inference(folder), ExportedModel)
    shutil.copy(checkpoint("bert") / "model.safetensors", folder)
    assert not isinstance(load_for_inference(folder), ExportedModel)


def test_what_needs_pytorch_says_so(folder: Path, size: int) -> None:
    write_graph(folder / "onnx" / "model.onnx", size)
    said = "is an exported model (model.onnx), and the model in PyTorch is needed here"
    assert said in refusal(lambda: read_checkpoint(str(folder)))
    assert said in refusal(lambda: read_checkpoint(str(folder / "onnx" / "model.onnx")))


@pytest.mark.parametrize("verb", ["train", "export", "conformance", "tokenizer extend", "bench"])
def test_verbs_that_need_pytorch_refuse_an_exported_model(
    verb: str, folder: Path, size: int, heldout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_graph(folder / "onnx" / "model.onnx", size)
    out = ["-o", str(tmp_path / "out")]
    given = {
        "train": ["train", str(heldout), "--model", str(folder), *out],
        "export": ["export", str(folder), *out, "--format", "onnx", "--data", str(heldout)],
        "conformance": ["conformance", str(folder)],
        "tokenizer extend": ["tokenizer", "extend", str(heldout), "--model", str(folder), *out],
        "bench": ["bench", "--model", str(folder), "--data", str(heldout)],
    }
    assert main([*given[verb], "--offline"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: '")
    assert "is an exported model" in error
    assert "that it was exported from" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--device", "cuda"], "computes on the CPU"), (["--precision", "bf16"], "whose precision is fixed")],
)
def test_a_gpu_and_another_precision_are_refused(
    options: list[str], said: str, folder: Path, size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    write_graph(folder / "onnx" / "model.onnx", size)
    assert main(["fill", str(folder), "the [MASK] sold", *options]) == 2
    assert said in capsys.readouterr().err


def test_without_the_runtime_the_command_to_install_it_is_named(
    folder: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_graph(folder / "onnx" / "model.onnx", size)
    real = builtins.__import__

    def absent(name: str, *args: Any, **rest: Any) -> Any:
        if name.startswith("onnxruntime"):
            raise ImportError(name)
        return real(name, *args, **rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert "pip install 'unmask[export]'" in refusal(lambda: load_for_inference(folder), MissingExtra)


# --- what other tools wrote ---------------------------------------------------------------------------------------


def test_a_folder_of_another_tool_fills_and_scores_but_gives_no_embeddings(folder: Path, size: int) -> None:
    write_graph(folder / "onnx" / "model.onnx", size, inputs=["input_ids", "attention_mask"])
    model = unmask.load(folder)
    assert (model.lm.batching, model.lm.max_length) == ("padded", 128)
    assert model.fill("the [MASK] sold " + "two letters " * 200).window is not None
    assert model.score("the old keeper").pll < 0
    ids = np.array([2, 3])
    message = refusal(lambda: model.lm.hidden_states(ids, np.array([0, 2])))
    assert "has no output 'last_hidden_state', so it gives no embeddings" in message


def test_a_folder_of_another_tool_is_served_without_embeddings(folder: Path, size: int) -> None:
    write_graph(folder / "onnx" / "model.onnx", size, inputs=["input_ids", "attention_mask"])
    with TestClient(
        create_app({"foreign": unmask.load(folder).lm}, Limits()), base_url="http://127.0.0.1"
    ) as client:
        filled = client.post("/models/foreign", json={"inputs": "the [MASK] sold"})
        assert client.get("/models").json()[0]["embedding_size"] == 0
        refused = client.post("/v1/embeddings", json={"input": "the old keeper", "model": "foreign"})
    assert filled.status_code == 200
    assert refused.status_code == 422
    assert "exported without its hidden states, so it gives no embeddings" in refused.text


def test_without_a_mask_of_padding_only_texts_of_one_length_share_a_batch(folder: Path, size: int) -> None:
    write_graph(folder / "onnx" / "model.onnx", size)
    assert load_for_inference(folder).batching == "equal"


def test_texts_do_not_share_a_batch_whose_scale_they_set(folder: Path, size: int) -> None:
    path = folder / "onnx" / "model.onnx"
    write_graph(path, size, inputs=["input_ids", "attention_mask"])
    model = onnx.load(path)
    scaled = helper.make_node("DynamicQuantizeLinear", ["logits"], ["bytes", "scale", "zero"])
    model.graph.node.append(scaled)
    onnx.save(model, path)
    loaded = load_for_inference(folder)
    assert (loaded.batching, loaded.precision_name) == ("alone", "int8")


# --- export -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--format", "nonsense"], "no format 'nonsense'; there are onnx"),
        (["--format", "fp16", "--tolerance", "-1"], "the tolerance is -1; expected points of accuracy from 0 to 100"),
        (["--format", "fp16"], "no held-out text to compare the exported model on"),
    ],
)  # fmt: skip
def test_an_export_that_cannot_be_made_leaves_nothing(
    options: list[str],
    said: str,
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["export", str(checkpoint("bert")), "-o", str(tmp_path / "out"), *options]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_export_does_not_touch_a_folder_that_holds_something(
    checkpoint: Callable[[str], Path], heldout: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "notes.txt"):
        assert "exists already" in refusal(
            lambda out=out: export_model(checkpoint("bert"), out, "fp16", heldout)
        )  # type: ignore[misc]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_outlier_that_ruins_int8_is_refused_by_its_accuracy(
    load: Callable[..., Any], tmp_path: Path, heldout: Path
) -> None:
    """One unit before the LM head is so large that all others round to zero, and with them the token they predict."""
    model = load("bert")
    words = heldout.read_text(encoding="utf-8")
    common = Counter(model.tokenizer(words, add_special_tokens=False)["input_ids"]).most_common(1)[0][0]
    norm = model.model.cls.predictions.transform.LayerNorm
    table = model.model.get_input_embeddings().weight
    with torch.no_grad():
        table[:, 0] = 0
        norm.weight.zero_()[0] = 1e4
        norm.bias.copy_(5 * table[common] / table[common].norm())
    hooks = len(model.head._forward_pre_hooks)
    message = refusal(lambda: export_model(model, tmp_path / "out", "onnx-int8", heldout))
    assert "'onnx-int8' is not written: its accuracy is -" in message
    assert "(95% interval -" in message
    assert "the tolerance is 0.5 points" in message
    assert list(tmp_path.iterdir()) == []
    assert len(model.head._forward_pre_hooks) == hooks


def test_an_architecture_of_one_length_is_refused(
    load: Callable[..., Any], heldout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PyTorch exports Funnel, which takes half a minute."""
    write_graph(tmp_path / "fixed.onnx", 9, shape=("batch", 14))
    made = onnx.load(tmp_path / "fixed.onnx")
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: SimpleNamespace(model_proto=made))
    message = refusal(lambda: export_model(load("bert"), tmp_path / "out", "onnx", heldout))
    assert "BertForMaskedLM to ONNX for texts of one length only; use fp16 or bf16" in message
    assert [path.name for path in tmp_path.iterdir()] == ["fixed.onnx"]


def test_texts_of_different_lengths_do_not_share_a_batch_where_padding_shows(
    exported: Callable[..., Any], load: Callable[..., Any], make_batch: Callable[..., Batch]
) -> None:
    original, other = load("fnet"), load_for_inference(exported("fnet", "onnx").folder)
    assert other.batching == "equal"
    batch = make_batch(original.vocabulary, [40, 21, 21, 20, 3])
    with torch.inference_mode(), original.evaluating():
        wanted = original.target_logits(batch)
    torch.testing.assert_close(other.target_logits(batch), wanted, rtol=1e-3, atol=1e-3)


def test_large_weights_lie_beside_the_file(
    exported: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in the format of ONNX holds at most 2 GB."""
    folder = exported("bert", "onnx").folder
    shutil.copytree(folder, tmp_path / "large")
    path = tmp_path / "large" / "onnx" / "model.onnx"
    model = onnx.load(path)
    facts = json.loads(model.metadata_props.pop().value)
    monkeypatch.setattr(writing, "_LARGEST", 1000)
    writing.save_graph(model, path, facts)
    assert (path.parent / "model.onnx_data").stat().st_size > 1e5
    small, large = (unmask.load(where) for where in (folder, tmp_path / "large"))
    assert (large.lm.max_length, large.lm.parameters) == (small.lm.max_length, small.lm.parameters)
    text = "the [MASK] sold two letters"
    found = [[c.probability for c in model.fill(text).candidates] for model in (small, large)]
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_tokenizer_that_was_changed_after_the_export_is_refused(
    exported: Callable[..., Any], tmp_path: Path
) -> None:
    shutil.copytree(exported("bert", "onnx").folder, tmp_path / "changed")
    path = tmp_path / "changed" / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[100:102]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    assert "was exported with another tokenizer than the one beside it" in refusal(
        lambda: load_for_inference(tmp_path / "changed")
    )


def test_the_length_that_a_model_takes_does_not_hang_on_its_tokenizer(
    exported: Callable[..., Any], wordpiece_tokenizer: Any
) -> None:
    tokenizer = copy.deepcopy(wordpiece_tokenizer)
    tokenizer.model_max_length = int(1e30)
    loaded = load_for_inference(exported("bert", "onnx").folder, tokenizer)
    assert loaded.max_length == 128


def test_a_weight_beyond_fp16_is_refused(load: Callable[..., Any], heldout: Path, tmp_path: Path) -> None:
    model = load("bert")
    with torch.no_grad():
        model.model.get_input_embeddings().weight[7, 0] = 1e5  # 65,504 is the largest
    message = refusal(lambda: export_model(model, tmp_path / "out", "fp16", heldout))
    assert "too large for fp16" in message
    assert list(tmp_path.iterdir()) == []


def test_a_place_below_a_file_is_a_refusal(
    checkpoint: Callable[[str], Path], heldout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out"
    options = ["--format", "fp16", "--data", str(heldout)]
    assert main(["export", str(checkpoint("bert")), "-o", str(out), *options]) == 5
    assert "is a file, not a folder; choose another place" in capsys.readouterr().err.splitlines()[-1]
