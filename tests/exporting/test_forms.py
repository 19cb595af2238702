"""The forms for sentence-transformers embed as the model does, and those for OpenVINO predict what it does."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unmask
from unmask.data.batches import Batch
from unmask.errors import ConfigError, MissingExtra
from unmask.exporting.embeddings import UNTRAINED, EmbeddingParity
from unmask.exporting.export import Export, export_model
from unmask.exporting.formats import FORMATS
from unmask.exporting.parity import ROUNDING, Parity
from unmask.inference.embed import Embedder
from unmask.model.exported import ExportedModel
from unmask.model.load import load_for_inference
from unmask.model.onnx_targets import choose_places
from unmask.storage import write_json

Exporter = Callable[[str, str], Export]
Checkpoint = Callable[[str], Path]
TEXTS = [
    "the patient was given aspirin",
    "for pain",
    "a long night in the small hospital by the sea",
    "fever",
]
FAMILIES = ["bert", "roberta", "distilbert", "albert", "electra", "modernbert", "deberta-v2"]


# --- sentence-transformers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", FAMILIES)
def test_sentence_transformers_embeds_texts_as_unmask_does(
    architecture: str, exported: Exporter, checkpoint: Checkpoint, capfd: pytest.CaptureFixture[str]
) -> None:
    library = pytest.importorskip("sentence_transformers")
    made = exported(architecture, "sentence-transformers")
    assert isinstance(made.parity, EmbeddingParity)
    assert made.refused is None
    assert made.parity.cosine > 1 - 1e-9
    model = load_for_inference(checkpoint(architecture))
    capfd.readouterr()
    other = library.SentenceTransformer(str(made.folder), device="cpu")
    assert "MISSING" not in "".join(capfd.readouterr())  # every weight of the encoder is there
    assert other.max_seq_length == model.max_length
    np.testing.assert_allclose(other.encode(TEXTS), Embedder(model)(TEXTS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_sparse_encoder_activates_what_the_model_predicts(
    architecture: str, exported: Exporter, checkpoint: Checkpoint
) -> None:
    library = pytest.importorskip("sentence_transformers")
    made = exported(architecture, "splade")
    assert made.refused is None
    model = load_for_inference(checkpoint(architecture))
    other = library.SparseEncoder(str(made.folder), device="cpu")
    assert other.max_seq_length == model.max_length
    found = other.encode(TEXTS, convert_to_sparse_tensor=False)
    for ids, embedding in zip(Embedder(model).rows(TEXTS), found, strict=True):
        ours = model.document_logits(ids).relu().log1p().amax(0)
        torch.testing.assert_close(embedding, ours, rtol=1e-4, atol=1e-5)


def test_card_and_message_say_that_it_is_a_beginning(exported: Exporter) -> None:
    made = exported("bert", "splade")
    assert made.parity.notes == [UNTRAINED]
    card = (made.folder / "README.md").read_text(encoding="utf-8")
    assert UNTRAINED[1:] in card
    assert "library_name: sentence-transformers" in card
    assert "sparse-encoder" in card
    assert "smallest cosine is 1.000000" in card
    assert json.loads((made.folder / "parity.json").read_text(encoding="utf-8"))["texts"] == made.parity.texts


@pytest.mark.parametrize("form", ["sentence-transformers", "splade"])
def test_it_is_written_and_compared_without_sentence_transformers(
    form: str, checkpoint: Checkpoint, heldout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    made = export_model(checkpoint("bert"), tmp_path / "out", form, heldout, force=True)
    assert made.refused is None
    assert made.parity.computed_by.startswith("transformers ")
    assert (made.folder / "modules.json").is_file()


@pytest.fixture
def pooled_by_cls(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """A model whose own modules take the first token and scale to length 1."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    folder = tmp_path / "cls"
    for kind in (AutoModelForMaskedLM, AutoTokenizer):
        kind.from_pretrained(checkpoint("bert")).save_pretrained(folder)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir()
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": 32,
            "pooling_mode_cls_token": True,
            "pooling_mode_mean_tokens": False,
        },
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 40, "do_lower_case": False})
    return folder


def test_the_model_keeps_its_own_modules(pooled_by_cls: Path, heldout: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    made = export_model(pooled_by_cls, tmp_path / "out", "sentence-transformers", heldout)
    assert made.parity.notes == []
    other = library.SentenceTransformer(str(made.folder), device="cpu")
    assert other.max_seq_length == 40
    before = library.SentenceTransformer(str(pooled_by_cls), device="cpu")
    np.testing.assert_allclose(other.encode(TEXTS), before.encode(TEXTS), atol=1e-6)
    sparse = export_model(
        pooled_by_cls, tmp_path / "splade", "splade", heldout
    )  # not those of another pooling
    assert sparse.parity.notes == [UNTRAINED]


def test_embeddings_that_differ_are_refused(
    checkpoint: Checkpoint, heldout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = FORMATS["sentence-transformers"]

    def coarse(model: Any, folder: Path) -> None:
        for weight in model.encoder.parameters():
            weight.data = (weight.data * 8).round() / 8
        form.write(model, folder)
        model.encoder.load_state_dict(kept)

    model = load_for_inference(checkpoint("bert"))
    kept = {name: weight.clone() for name, weight in model.encoder.state_dict().items()}  # type: ignore[attr-defined]
    monkeypatch.setitem(FORMATS, "sentence-transformers", form._replace(write=coarse))
    with pytest.raises(ConfigError, match=r"not written: its embeddings are up to .* or --force to keep it"):
        export_model(model, tmp_path / "out", "sentence-transformers", heldout)
    assert list(tmp_path.iterdir()) == []


# --- OpenVINO -----------------------------------------------------------------------------------------------------


@pytest.fixture
def from_onnx(exported: Exporter, monkeypatch: pytest.MonkeyPatch) -> Exporter:
    """Return `make(architecture, format) -> Export`, which takes the graph of the session's ONNX export."""
    if find_spec("openvino") is None:  # importing it here would turn its telemetry on
        pytest.skip("openvino is not installed")
    import onnx

    from unmask.exporting import openvino

    def make(architecture: str, form: str) -> Export:
        graph = exported(architecture, "onnx").folder / "onnx" / "model.onnx"
        monkeypatch.setattr(openvino, "exported_graph", lambda _: onnx.load(graph))
        return exported(architecture, form)

    return make


@pytest.mark.parametrize("outputs", [["logits"], ["logits", "last_hidden_state"]])
def test_onnx_computes_the_end_of_the_last_layer_at_the_chosen_places_alone(
    outputs: list[str],
    exported: Exporter,
    checkpoint: Checkpoint,
    make_batch: Callable[..., Batch],
    tmp_path: Path,
) -> None:
    import onnx

    folder = tmp_path / "made"
    shutil.copytree(exported("bert", "onnx").folder, folder)
    path = folder / "onnx" / "model.onnx"
    model = onnx.load(path)
    kept = [value for value in model.graph.output if value.name in outputs]
    model.graph.value_info.extend(value for value in model.graph.output if value.name not in outputs)
    del model.graph.output[:]
    model.graph.output.extend(kept)
    onnx.save(model, path)
    choose_places(model.graph)
    after = {"places"}
    for node in model.graph.node:
        after.update(node.output if after.intersection(node.input) else ())
    products = [
        node for node in model.graph.node if node.op_type == "MatMul" and after.intersection(node.input)
    ]
    # Behind the attention: its own last one, the two of the feed-forward layer, the two of the LM head.
    assert len(products) == 5
    original, other = load_for_inference(checkpoint("bert")), load_for_inference(folder)
    batch = make_batch(original.vocabulary, [21, 20, 3, 1])
    with torch.inference_mode(), original.evaluating():
        torch.testing.assert_close(
            other.target_logits(batch), original.target_logits(batch), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "deberta-v2"])
def test_openvino_agrees_with_pytorch_in_batches_of_unequal_texts(
    architecture: str, from_onnx: Exporter, checkpoint: Checkpoint, make_batch: Callable[..., Batch]
) -> None:
    made = from_onnx(architecture, "openvino")
    assert isinstance(made.parity, Parity)
    assert made.refused is None
    assert made.parity.log_probability <= ROUNDING
    original, other = load_for_inference(checkpoint(architecture)), load_for_inference(made.folder)
    assert isinstance(other, ExportedModel)
    assert "last_hidden_state" in other.graph.outputs
    assert (other.max_length, other.parameters) == (original.max_length, original.parameters)
    batch = make_batch(original.vocabulary, [original.max_length, 21, 20, 3, 1])
    with torch.inference_mode(), original.evaluating():
        logits = [model.target_logits(batch) for model in (other, original)]
        states = [model.hidden_states(batch.input_ids, batch.cu_seqlens) for model in (other, original)]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-4)


def test_openvino_int8_stores_tables_in_bytes(from_onnx: Exporter) -> None:
    made, whole = from_onnx("bert", "openvino-int8"), from_onnx("bert", "openvino")
    model = load_for_inference(made.folder)
    assert (model.precision_name, model.batching) == ("int8", "alone")
    table = model.vocabulary.size * 32 * 3 / 1e6
    assert made.megabytes[0] < whole.megabytes[0] - 0.8 * table
    assert 0 < made.parity.log_probability < 0.1


def test_verbs_take_an_openvino_folder_and_file(
    from_onnx: Exporter, checkpoint: Checkpoint, heldout: Path
) -> None:
    folder = from_onnx("bert", "openvino").folder
    both = [unmask.load(where) for where in (checkpoint("bert"), folder / "openvino_model.xml")]
    texts = ["the [MASK] was given [MASK]", "[MASK] for pain"]
    filled = [model.fill(texts) for model in both]
    for first, second in zip(*filled, strict=True):
        ours, other = ([c.probability for c in result.candidates] for result in (first, second))
        assert other == pytest.approx(ours, rel=1e-4)
    scores = [[score.pll for score in model.score(TEXTS)] for model in both]
    assert scores[1] == pytest.approx(scores[0], abs=1e-4)
    found: Any = unmask.evaluate([checkpoint("bert"), folder], heldout)
    assert found[1].loss == pytest.approx(found[0].loss, abs=1e-4)


def test_the_file_may_lie_below_the_tokenizer(from_onnx: Exporter, tmp_path: Path) -> None:
    folder = tmp_path / "openvino"  # the name of the folder below is no hint by itself
    shutil.copytree(from_onnx("bert", "openvino").folder, folder)
    beside = load_for_inference(folder / "openvino_model.xml")
    (folder / "openvino").mkdir()
    for file in folder.glob("openvino_model.*"):
        file.rename(folder / "openvino" / file.name)
    for name in (folder, folder / "openvino" / "openvino_model.xml"):
        assert load_for_inference(name).parameters == beside.parameters


def test_nothing_of_this_machine_is_in_the_files(from_onnx: Exporter) -> None:
    for form in ("onnx", "openvino"):
        folder = from_onnx("bert", form).folder
        for path in folder.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert b"site-packages" not in content, path
                assert str(Path(unmask.__file__).parent).encode() not in content, path
                assert str(folder.parent).encode() not in content, path


def test_openvino_reports_nothing_to_its_maker(from_onnx: Exporter) -> None:
    from_onnx("bert", "openvino")
    assert sys.modules["openvino_telemetry"] is None
    assert "stub" in sys.modules["openvino.tools.ovc.telemetry_utils"].tm.__name__


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            lambda xml, weights: weights.unlink(),
            r"cannot be read as a model of OpenVINO \(Empty weights data",
        ),
        (lambda xml, weights: weights.write_bytes(b"short"), "cannot be read as a model of OpenVINO"),
        (
            lambda xml, weights: xml.write_bytes(xml.read_bytes()[:3000]),
            "cannot be read as a model of OpenVINO",
        ),
        (lambda xml, weights: xml.write_text("the patient"), "is no model of OpenVINO: there is no <net>"),
    ],
)
def test_a_damaged_file_is_named(
    damage: Callable[[Path, Path], object], expected: str, from_onnx: Exporter, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(from_onnx("bert", "openvino").folder, folder)
    damage(folder / "openvino_model.xml", folder / "openvino_model.bin")
    with pytest.raises(ConfigError, match=expected):
        load_for_inference(folder)


def test_a_missing_package_is_named_with_its_extra(
    from_onnx: Exporter,
    checkpoint: Checkpoint,
    heldout: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = from_onnx("bert", "openvino").folder
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"pip install 'unmask\[openvino\]'"):
        load_for_inference(folder)
    with pytest.raises(MissingExtra, match=r"pip install 'unmask\[openvino\]'"):
        export_model(checkpoint("bert"), tmp_path / "out", "openvino", heldout)
    assert list(tmp_path.iterdir()) == []


def test_the_formats_have_one_list() -> None:
    from typer.testing import CliRunner

    from unmask.cli.main import app

    shown = "".join(CliRunner().invoke(app, ["export", "--help"]).output.split())
    assert f"{','.join(FORMATS)}." in shown.replace("│", "")
