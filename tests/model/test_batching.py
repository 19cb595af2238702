"""How batches are computed: whatever shares a batch with a text, its output is that of the text alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unmask
from unmask.errors import ConfigError
from unmask.model.load import load_for_inference
from unmask.model.masked_lm import MaskedLM

# Architecture: how its batches are computed, and the fewest tokens that it takes.
BATCHING = {
    "bert": ("packed", 1),
    "camembert": ("packed", 1),
    "gte": ("packed", 1),
    "nomic_bert": ("packed", 1),
    "jina_embeddings_v3": ("packed", 1),
    "ultrabert": ("packed", 1),
    "esm": ("padded", 1),
    "deberta": ("padded", 1),
    "deberta-v2": ("padded", 1),
    "mpnet": ("padded", 1),
    "fnet": ("equal", 1),
    "convbert": ("equal", 1),
    "nystromformer": ("equal", 1),
    "funnel": ("equal", 5),
}
Load = Callable[..., MaskedLM]


@pytest.mark.parametrize("architecture", BATCHING)
def test_a_text_gives_the_same_beside_others(load: Load, make_batch: Any, architecture: str) -> None:
    """Unequal lengths, down to a single token, and unequal shares of masks."""
    model = load(architecture)
    assert (model.batching, model.shortest) == BATCHING[architecture]
    batch = make_batch(model.vocabulary, [40, 38, 17, 17, 9, 5, 4, 3, 2, 1], rate=0.4)
    batch = replace(batch, target_index=np.arange(batch.tokens), target_ids=batch.input_ids)
    with torch.no_grad():
        found = model.target_logits(batch)
        with model.plain():
            alone = [model.alone(batch.input_ids[begin:end]) for begin, end in pairwise(batch.cu_seqlens)]
    # A text of masks alone has no output in ESM, which divides by the share that is not masked.
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("architecture", [*BATCHING, "modernbert", "eurobert", "roberta", "albert"])
def test_bf16_is_close_to_fp32_and_has_a_gradient(load: Load, make_batch: Any, architecture: str) -> None:
    """Every kind of attention under autocast, in evaluation and in training."""
    exact = load(architecture)
    batch = make_batch(exact.vocabulary, [20, 20, 9, 7, 5])
    if architecture == "deberta":
        with pytest.raises(
            ConfigError, match=r"cannot compute in bf16 \(value cannot .* use --precision fp32"
        ):
            load(architecture, precision="bf16")
        return
    half = load(architecture, precision="bf16")
    with torch.no_grad():
        wanted, found = exact.target_logits(batch), half.target_logits(batch).float()
    assert (found - wanted).abs().max() < 0.05 * wanted.abs().max()
    half.model.train()
    half.target_logits(batch, filled=True).float().square().mean().backward()
    assert all(weight.grad.isfinite().all() for weight in half.model.parameters() if weight.grad is not None)


def test_where_bf16_cannot_be_computed_auto_is_fp32(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.model.precision._ratio", lambda: 4.0)
    messages: list[str] = []

    class Listener(unmask.Progress):
        def log(self, text: str) -> None:
            messages.append(text)

    def loaded(architecture: str) -> bool:
        folder = str(checkpoint(architecture))
        return load_for_inference(folder, device="cpu", precision="auto", progress=Listener()).autocast

    assert [loaded("eurobert"), loaded("deberta")] == [True, False]
    assert messages[-1].startswith("DebertaForMaskedLM cannot compute in bf16")
    assert messages[-1].endswith("; computing in fp32")


TEXTS = [
    "A young engineer sold the weather.",
    "The river",
    "a",
    "Every student measured two letters while it rained.",
]


@pytest.mark.parametrize("architecture", ["bert", "esm", "convbert", "fnet", "funnel"])
def test_verbs_give_a_text_what_it_gets_alone(checkpoint: Callable[[str], Path], architecture: str) -> None:
    """Scores, fills and explanations, of texts that are shorter than the fewest tokens of Funnel too."""
    model = unmask.load(str(checkpoint(architecture)), device="cpu")
    together, alone = model.score(TEXTS), [model.score(text) for text in TEXTS]
    assert [score.pll for score in together] == pytest.approx([score.pll for score in alone], rel=1e-5)
    masked = [f"{text} [MASK]" for text in TEXTS]
    filled = [model.fill(text).candidates[0].probability for text in masked]
    found = [result.candidates[0].probability for result in model.fill(masked)]
    assert found == pytest.approx(filled, rel=1e-4)
    assert (model.explain("a", mask_positions=[1]).loss or 0) > 0


def test_a_model_that_mixes_the_texts_of_a_batch_is_refused(
    tiny_model: Any, wordpiece_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("mpnet", len(wordpiece_tokenizer))
    norm = model.mpnet.embeddings.LayerNorm
    norm.register_forward_hook(lambda _m, _a, output: output + output.mean(dim=(0, 1)))
    with pytest.raises(
        ConfigError, match="MPNetForMaskedLM gives a text other probabilities when other texts"
    ):
        MaskedLM(model, wordpiece_tokenizer)
