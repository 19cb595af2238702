from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unmask.errors import ConfigError
from unmask.model import attention, packed_layout
from unmask.model.load import set_dropout
from unmask.model.masked_lm import MaskedLM

ARCHITECTURES = "bert roberta distilbert electra albert deberta-v2 modernbert eurobert mpnet".split()
Load = Callable[..., MaskedLM]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_a_model_says_of_itself(load: Load, architecture: str) -> None:
    model = load(architecture)
    # RoBERTa's and MPNet's tables have 130 rows, of which 2 are never used.
    assert model.max_length == 128
    assert model.parameters == sum(weight.numel() for weight in {*model.model.parameters()})
    assert model.device == torch.device("cpu")


def test_positions_of_roberta_begin_behind_the_padding(load: Load, make_batch: Any) -> None:
    """A sequence as long as the model takes uses the last row of the table, and no row behind it."""
    model = load("roberta")
    batch = make_batch(model.vocabulary, [model.max_length])
    with model.plain() as raw, torch.no_grad():
        wanted = raw(input_ids=torch.from_numpy(batch.input_ids)[None]).logits[0, batch.target_index]
    torch.testing.assert_close(model.target_logits(batch), wanted, rtol=1e-5, atol=1e-5)


def test_a_tokenizer_may_lower_the_length(tiny_model: Any, wordpiece_tokenizer: Any) -> None:
    model = tiny_model("bert", len(wordpiece_tokenizer), max_position_embeddings=40)
    assert MaskedLM(model, wordpiece_tokenizer).max_length == 40


def test_a_vocabulary_larger_than_the_model_is_refused(tiny_model: Any, wordpiece_tokenizer: Any) -> None:
    model = tiny_model("bert", len(wordpiece_tokenizer) - 1)
    with pytest.raises(ConfigError, match=r"the tokenizer has \d+ entries but the model only \d+ rows"):
        MaskedLM(model, wordpiece_tokenizer)


def test_a_vocabulary_smaller_than_the_model_is_taken(tiny_model: Any, wordpiece_tokenizer: Any) -> None:
    assert MaskedLM(tiny_model("bert", len(wordpiece_tokenizer) + 9), wordpiece_tokenizer).packed


@pytest.mark.parametrize("architecture", ["bert", "deberta-v2"])
def test_plain_gives_the_model_as_its_users_call_it(load: Load, architecture: str) -> None:
    model = load(architecture)
    ids = torch.tensor([[5, 6, 7, 0]])
    with model.plain() as raw, torch.no_grad():
        assert raw.config._attn_implementation in ("sdpa", "eager")
        masked = raw(input_ids=ids, attention_mask=torch.tensor([[1, 1, 1, 0]])).logits[0, :3]
        alone = raw(input_ids=ids[:, :3]).logits[0]
        torch.testing.assert_close(masked, alone, rtol=1e-5, atol=1e-5)
    assert (model.model.config._attn_implementation == attention.NAME) is model.packed


def test_plain_restores_packed_attention_after_an_error(load: Load, make_batch: Any) -> None:
    model = load("bert")
    batch = make_batch(model.vocabulary, [9, 4, 4])
    before = model.target_logits(batch)
    with pytest.raises(KeyError), model.plain():
        raise KeyError
    assert torch.equal(model.target_logits(batch), before)


def test_an_architecture_that_leaks_is_padded(
    tiny_model: Any, wordpiece_tokenizer: Any, make_batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial at the start finds attention across documents, whatever its cause, and does without packing."""
    whole = PackedWhole()
    monkeypatch.setattr(packed_layout.PackedLayout, "of", whole)
    model = MaskedLM(tiny_model("bert", len(wordpiece_tokenizer)), wordpiece_tokenizer)
    assert whole.asked
    assert not model.packed
    batch = make_batch(model.vocabulary, [9, 4, 4])
    found = model.target_logits(batch)
    monkeypatch.undo()
    honest = MaskedLM(tiny_model("bert", len(wordpiece_tokenizer)), wordpiece_tokenizer)
    assert honest.packed
    torch.testing.assert_close(found, honest.target_logits(batch), rtol=1e-5, atol=1e-5)


class PackedWhole:
    """Takes a packed row for one document."""

    def __init__(self) -> None:
        self.asked, self.real = 0, packed_layout.PackedLayout.of

    def __call__(
        self, cu_seqlens: np.ndarray, device: torch.device, targets: torch.Tensor | None = None, *_: bool
    ) -> packed_layout.PackedLayout:
        self.asked += 1
        return self.real(cu_seqlens[[0, -1]], device, targets)


@pytest.mark.parametrize("architecture", ["bert", "mpnet"])
def test_a_batch_without_targets_gives_no_rows(load: Load, make_batch: Any, architecture: str) -> None:
    model = load(architecture)
    logits = model.target_logits(make_batch(model.vocabulary, [9, 4], rate=0.0))
    assert logits.shape == (0, model.model.config.vocab_size)


@pytest.mark.parametrize("architecture", ["roberta", "deberta-v2"])
def test_sequences_of_very_different_lengths(load: Load, make_batch: Any, architecture: str) -> None:
    """Where batches are padded they are cut into buckets; the rows must come back in the order of the targets."""
    model = load(architecture)
    batch = make_batch(model.vocabulary, [128, 100, 64, 63, 30, 8, 3, 2, 1], rate=0.5)
    cuts = batch.cu_seqlens
    parts = []
    for begin, end in pairwise(cuts):
        inside = (batch.target_index >= begin) & (batch.target_index < end)
        with model.plain() as raw, torch.no_grad():
            logits = raw(input_ids=torch.from_numpy(batch.input_ids[begin:end])[None]).logits[0]
        parts.append(logits[batch.target_index[inside] - begin])
    torch.testing.assert_close(model.target_logits(batch), torch.cat(parts), rtol=1e-5, atol=1e-5)


def test_half_precision_is_autocast_and_leaves_the_weights(load: Load, make_batch: Any) -> None:
    exact, half = load("bert"), load("bert", precision="bf16")
    batch = make_batch(exact.vocabulary, [12, 12, 5])
    logits = half.target_logits(batch)
    assert logits.dtype == torch.bfloat16
    assert all(weight.dtype == torch.float32 for weight in half.model.parameters())
    torch.testing.assert_close(logits.float(), exact.target_logits(batch), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_gradient_checkpointing_changes_nothing(load: Load, make_batch: Any, architecture: str) -> None:
    model = load(architecture)
    model.model.train()
    batch = make_batch(model.vocabulary, [20, 20, 7])
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            model.model.gradient_checkpointing_enable()
        model.model.zero_grad(set_to_none=True)
        model.target_logits(batch).square().mean().backward()
        weights = model.model.parameters()
        gradients.append(torch.cat([w.grad.reshape(-1) for w in weights if w.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dropout_is_set_everywhere_and_the_config_is_left(
    tiny_model: Any, wordpiece_tokenizer: Any, make_batch: Any, tmp_path: Path, architecture: str
) -> None:
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout")
    shares = dict.fromkeys((*names, "embedding_dropout", "mlp_dropout"), 0.4)
    ids = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    raw = tiny_model(architecture, len(wordpiece_tokenizer), **shares, **ids)
    written = raw.config.to_dict()
    model = MaskedLM(raw, wordpiece_tokenizer)
    batch = make_batch(model.vocabulary, [20, 9])

    def twice() -> bool:
        raw.train()
        return torch.equal(model.target_logits(batch), model.target_logits(batch))

    assert not twice()
    set_dropout(raw, 0.0)
    assert twice()
    raw.eval()
    quiet = model.target_logits(batch)
    set_dropout(raw, 0.3)
    assert not twice()
    raw.eval()
    assert torch.equal(model.target_logits(batch), quiet)
    assert raw.config.to_dict() == written


def test_the_documents_of_a_row_are_named_by_its_cuts(load: Load, make_batch: Any) -> None:
    """The same tokens cut in another place are other documents."""
    model = load("bert")
    batch = make_batch(model.vocabulary, [8, 8], rate=1.0)
    joined = replace(batch, cu_seqlens=np.array([0, 16], dtype=np.int32), position_ids=np.arange(16))
    assert not torch.allclose(model.target_logits(batch), model.target_logits(joined), atol=1e-3)
