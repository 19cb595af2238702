"""The quick bench: what it counts is right, and what it measures adds up."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from unmask.benchmark import bench
from unmask.benchmark import flops as ceiling
from unmask.cli.main import main
from unmask.config.load import load_config
from unmask.config.settings import DocumentSettings
from unmask.errors import ConfigError, DataError
from unmask.model.load import load_for_inference
from unmask.progress import Progress
from unmask.training.distributed import World


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrix products and masking that take no time."""
    monkeypatch.setattr(ceiling, "_CPU_SHAPES", ((64, 64, 64), (64, 32, 128)))
    monkeypatch.setattr(bench, "_PRODUCT_SECONDS", 0.01)
    monkeypatch.setattr(bench, "_MASKING_SECONDS", 0.01)


@pytest.fixture
def text(corpus_text: list[str], tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(corpus_text) + "\n", encoding="utf-8")
    return path


def config_of(text: Path, checkpoint: Path, **flags: Any) -> Any:
    given = {"data.inputs": [str(text)], "model.name": str(checkpoint), "model.offline": True}
    given |= {"train.device": "cpu", "train.precision": "fp32", "train.batch_tokens": 256}
    return load_config(None, (), given | flags)


def test_the_operations_of_bert_are_those_of_the_formula(checkpoint: Callable[[str], Path]) -> None:
    model = load_for_inference(str(checkpoint("bert")))
    config = model.model.config
    layers, hidden, inner = config.num_hidden_layers, config.hidden_size, config.intermediate_size
    attended, predicted = 40.0, 0.15
    behind_attention = hidden**2 + 2 * hidden * inner
    expected = (
        6 * layers * (3 * hidden**2 + behind_attention)
        # The last layer is computed at the targets alone.
        - 6 * (1 - predicted) * behind_attention
        + 12 * layers * attended * hidden
        + 6 * predicted * (hidden**2 + config.vocab_size * hidden)
    )
    assert ceiling.flops_per_token(model, attended, predicted) == pytest.approx(expected)


def test_shared_layers_count_as_often_as_they_are_used(checkpoint: Callable[[str], Path]) -> None:
    model = load_for_inference(str(checkpoint("albert")))
    shared = ceiling.flops_per_token(model, 0.0, 0.0)
    weights = sum(
        module.weight.numel()
        for module in model.encoder.encoder.albert_layer_groups.modules()
        if isinstance(module, torch.nn.Linear)
    )
    assert shared >= 6 * weights * model.model.config.num_hidden_layers


def test_without_a_text_there_is_the_documentation_of_python(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_CHARACTERS", 400_000)
    config = load_config(None, flags={"model.name": str(checkpoint("bert")), "train.device": "cpu"})
    assert bench.run_bench(config, seconds=0.01).training.steps >= 1


def test_a_bench_adds_up(text: Path, checkpoint: Callable[[str], Path]) -> None:
    result = bench.run_bench(config_of(text, checkpoint("bert")), seconds=0.2)
    training = result.training
    ceiling = result.ceilings["fp32"].teraflops
    assert training.tokens_per_second * training.flops_per_token / 1e12 == pytest.approx(training.teraflops)
    assert training.share == pytest.approx(training.teraflops / ceiling)
    assert training.steps >= 5
    # Sentences of 5 to 20 words, of which 15% of the tokens without [CLS] and [SEP] are predicted.
    assert 8 < training.attended < 60
    assert 0.08 < training.predicted < 0.17
    assert result.preparation.share == pytest.approx(
        result.preparation.tokens_per_second / result.preparation.encode_tokens_per_second
    )
    assert result.masking_tokens_per_second > 0
    assert (result.precision, result.device, result.batch_tokens) == ("fp32", "cpu", 256)
    table = result.to_pandas().set_index("measure")
    assert table.loc["training, fp32", "rate"] == training.tokens_per_second
    assert table.loc["matrix products, bf16", "unit"] == "TFLOP/s"
    assert json.loads(json.dumps(result.to_dict()))["parameters"] == result.parameters
    assert "packing and masking" in repr(result)


def test_no_more_than_a_beginning_of_the_text_is_read(
    text: Path, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_CHARACTERS", 1000)
    read: list[int] = []
    real = bench.prepare

    def prepare(inputs: list[Path], *args: Any, **rest: Any) -> Any:
        lines = inputs[0].read_text(encoding="utf-8").splitlines()
        read.append(sum(len(json.loads(line)["text"]) for line in lines))
        return real(inputs, *args, **rest)

    monkeypatch.setattr(bench, "prepare", prepare)
    bench.run_bench(config_of(text, checkpoint("bert")), seconds=0.01)
    assert 1000 <= read[0] < 1200


def test_shards_are_no_text_to_measure_with(
    text: Path, checkpoint: Callable[[str], Path], wordpiece_tokenizer: Any, tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    bench.prepare([text], DocumentSettings(), wordpiece_tokenizer, shards)
    with pytest.raises(DataError, match=r"shards: prepared shards hold no text, .*; give the text itself"):
        bench.run_bench(config_of(shards, checkpoint("bert")), seconds=0.01)


def test_the_main_process_alone_says_what_it_does(
    text: Path, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    told = Progress()
    monkeypatch.setattr(told, "log", heard.append)
    monkeypatch.setattr(told, "begin", heard.append)
    for rank in (0, 1):
        world = World(rank)
        monkeypatch.setattr(bench, "joined", lambda *_, world=world: nullcontext(world))
        bench.run_bench(config_of(text, checkpoint("bert")), seconds=0.01, progress=told)
    assert heard.count("measure") == 1
    assert len(heard) == len(set(heard))


def test_a_bench_needs_one_model(text: Path) -> None:
    with pytest.raises(ConfigError, match="no model"):
        bench.run_bench(load_config(None, (), {"data.inputs": [str(text)]}), seconds=0.01)


def test_the_verb_prints_a_table_or_json(
    text: Path,
    checkpoint: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    fits_schema: Callable[[str, Any], None],
) -> None:
    verb = [
        "bench",
        "--data",
        str(text),
        "--model",
        str(checkpoint("bert")),
        "--seconds",
        "0.1",
        "--batch-tokens",
        "256",
    ]
    verb += ["--precision", "fp32", "--device", "cpu", "--offline"]
    assert main([*verb, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    fits_schema("bench", found)
    assert found["training"]["tokens_per_second"] > 0
    assert set(found["ceilings"]) == {"fp32", "bf16"}
    assert main(verb) == 0
    shown = capsys.readouterr().out
    assert "matrix products, bf16" in shown
    assert "training reaches" in shown
