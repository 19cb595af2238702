"""An exported model predicts what the model in PyTorch does, in every verb, and is refused where it does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForMaskedLM

import unmask
from unmask.data.batches import Batch
from unmask.data.corpus import open_corpus
from unmask.data.heldout_size import MINIMUM
from unmask.data.split import split_documents
from unmask.errors import ConfigError
from unmask.exporting.export import Export, export_model
from unmask.exporting.parity import ROUNDING
from unmask.model.exported import ExportedModel
from unmask.model.load import load_for_inference

Exporter = Callable[[str, str], Export]
ARCHITECTURES = [
    "bert",
    "roberta",
    "distilbert",
    "electra",
    "albert",
    "camembert",
    "modernbert",
    "deberta-v2",
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_onnx_agrees_with_pytorch_in_batches_of_unequal_texts(
    architecture: str, exported: Exporter, checkpoint: Callable[[str], Path], make_batch: Callable[..., Batch]
) -> None:
    made = exported(architecture, "onnx")
    assert made.refused is None
    assert made.parity.log_probability <= ROUNDING
    assert made.parity.masked_tokens > 50
    original, other = load_for_inference(checkpoint(architecture)), load_for_inference(made.folder)
    assert isinstance(other, ExportedModel)
    assert (other.max_length, other.parameters) == (original.max_length, original.parameters)
    batch = make_batch(original.vocabulary, [original.max_length, 21, 20, 3, 1])
    with torch.inference_mode(), original.evaluating():
        torch.testing.assert_close(
            other.target_logits(batch), original.target_logits(batch), rtol=1e-4, atol=1e-4
        )
        states = [model.hidden_states(batch.input_ids, batch.cu_seqlens) for model in (original, other)]
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["bert", "albert", "deberta-v2"])
def test_int8_stores_tables_once_and_does_not_mix_texts(
    architecture: str, exported: Exporter, make_batch: Callable[..., Batch]
) -> None:
    made = exported(architecture, "onnx-int8")
    model = load_for_inference(made.folder)
    assert model.precision_name == "int8"
    graph = onnx.load(made.folder / "onnx" / "model_quantized.onnx").graph
    large = [
        weight for weight in graph.initializer if len(weight.dims) == 2 and np.prod(weight.dims) >= 1 << 12
    ]
    assert large
    assert {weight.data_type for weight in large} <= {onnx.TensorProto.UINT8}
    batch = make_batch(model.vocabulary, [40, 21, 20, 3])
    together = model.target_logits(batch)
    cuts = batch.cu_seqlens
    alone = [model.document_logits(batch.input_ids[begin:end]) for begin, end in pairwise(cuts)]
    assert torch.equal(together, torch.cat(alone)[batch.target_index])


@pytest.mark.parametrize("form", ["fp16", "bf16"])
def test_half_precision_is_a_checkpoint_of_transformers(
    form: str, exported: Exporter, fits_schema: Callable[[str, Any], None]
) -> None:
    made = exported("bert", form)
    fits_schema("export", json.loads(json.dumps(made.to_dict())))
    loaded = AutoModelForMaskedLM.from_pretrained(made.folder)
    assert loaded.dtype == {"fp16": torch.float16, "bf16": torch.bfloat16}[form]
    assert made.megabytes[0] < 0.6 * made.megabytes[1] + 0.05
    assert abs(made.parity.difference["accuracy"].value) < 0.2


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_fill_score_explain_and_eval_take_an_onnx_folder(
    architecture: str, exported: Exporter, checkpoint: Callable[[str], Path], heldout: Path
) -> None:
    folder = exported(architecture, "onnx").folder
    both = [unmask.load(where) for where in (checkpoint(architecture), folder / "onnx" / "model.onnx")]
    mask = both[0].tokenizer.mask_token
    texts = [f"the {mask} was given {mask}", f"{mask} for pain", "no mask", "she took ___ twice"]
    filled = [model.fill(texts) for model in both]
    for first, second in zip(*filled, strict=True):
        assert first.error == second.error
        ours, other = ([c.probability for c in result.candidates] for result in (first, second))
        assert other == pytest.approx(ours, rel=1e-4)
    scores = [model.score(["the patient was given aspirin", "for pain"]) for model in both]
    assert [s.pll for s in scores[1]] == pytest.approx([s.pll for s in scores[0]], abs=1e-4)
    losses = [model.explain("the patient was given aspirin", seed=1).loss for model in both]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    found: Any = unmask.evaluate(both, heldout)
    assert found[1].loss == pytest.approx(found[0].loss, abs=1e-4)
    assert found[0].tally.positions == found[1].tally.positions


def test_the_folder_holds_what_others_look_for_and_no_place_of_this_machine(exported: Exporter) -> None:
    made = exported("bert", "onnx-int8")
    names = {str(path.relative_to(made.folder)) for path in made.folder.rglob("*") if path.is_file()}
    assert {"config.json", "tokenizer.json", "onnx/model_quantized.onnx", "parity.json", "README.md"} <= names
    parity = json.loads((made.folder / "parity.json").read_text(encoding="utf-8"))
    assert parity["masked_tokens"] == made.parity.masked_tokens
    assert parity["difference"]["accuracy"]["value"] == pytest.approx(
        made.parity.difference["accuracy"].value
    )
    card = (made.folder / "README.md").read_text(encoding="utf-8")
    assert "onnx-int8" in card
    assert "pipeline_tag: fill-mask" in card
    for name in ("README.md", "parity.json", "config.json", "tokenizer_config.json"):
        assert str(made.folder.parent) not in (made.folder / name).read_text(encoding="utf-8")


def test_a_form_that_became_worse_is_refused_and_leaves_nothing(
    checkpoint: Callable[[str], Path], heldout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unmask.exporting import formats

    def coarse(model: Any, folder: Path) -> None:
        copy = deepcopy(model.model)
        for weight in copy.parameters():
            weight.data = (weight.data * 2).round() / 2
        copy.save_pretrained(folder)

    monkeypatch.setitem(formats.FORMATS, "bf16", formats.FORMATS["bf16"]._replace(write=coarse, exact=True))
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"'bf16' is not written: log-probabilities .* nats off"):
        export_model(load_for_inference(checkpoint("bert")), out, "bf16", heldout)
    assert list(tmp_path.iterdir()) == []
    made = export_model(load_for_inference(checkpoint("bert")), out, "bf16", heldout, force=True)
    assert made.refused
    assert made.refused in (out / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("given", ["run", "run/model"])
def test_the_run_gives_the_held_out_text(
    given: str, checkpoint: Callable[[str], Path], heldout: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    unmask.train(
        heldout,
        model=str(checkpoint("bert")),
        out=run,
        max_steps=1,
        settings={"data.heldout_share": 0.3},
        progress=False,
    )
    made = export_model(tmp_path / given, tmp_path / "fp16", "fp16")
    corpus = open_corpus(run / "shards")
    heldout_documents = split_documents(corpus, 0.3, MINIMUM)[1]
    assert 5 < made.parity.documents <= len(heldout_documents) < len(corpus) / 2
    assert made.parity.tokens == sum(len(corpus.document(number)) + 2 for number in heldout_documents)


def test_a_text_of_unknown_words_is_said_without_quoting_it(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(
        "\n\n".join(f"the patient saw the river and the old letter रोगी को दवा {n}" for n in range(12)),
        encoding="utf-8",
    )
    made = export_model(checkpoint("bert"), tmp_path / "out", "bf16", text, force=True)
    assert any("unknown tokens are never targets" in note for note in made.parity.notes)
    for name in ("parity.json", "README.md"):
        written = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert "unknown to the tokenizer" in written
        assert "रोगी" not in written


def test_a_model_without_an_lm_head_has_none_in_half_precision(
    checkpoint: Callable[[str], Path], heldout: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(checkpoint("bert"), tmp_path / "base"))
    AutoModelForMaskedLM.from_pretrained(base).base_model.save_pretrained(base)
    export_model(base, tmp_path / "half", "bf16", data=[str(heldout)], force=True)
    found = load_for_inference(tmp_path / "half", device="cpu")
    assert found.new_head == load_for_inference(base, device="cpu").new_head != []
