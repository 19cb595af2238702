"""New rows are the means of the rows they stand for, in every architecture, tied or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM

from unmask.vocabulary.embeddings import add_rows

ARCHITECTURES: list[tuple[str, dict[str, Any]]] = [
    *(
        (name, {})
        for name in "bert roberta distilbert electra albert deberta-v2 modernbert eurobert mpnet".split()
    ),
    *(
        (name, {"tie_word_embeddings": False})
        for name in "bert roberta distilbert electra modernbert".split()
    ),
    ("deberta-v2", {"legacy": False}),
    ("mobilebert", {}),
]
PIECES = [(20, 21), (30, 31, 32), (40, 41, 41, 43)]
IDS = torch.tensor([[5, 20, 31, 40, 7, 9]])


@pytest.fixture(params=ARCHITECTURES, ids=str)
def extended(request: pytest.FixtureRequest, tiny_model: Callable[..., Any]) -> tuple[Any, Any]:
    """A model before and after, with biases that are not zero."""
    architecture, config = request.param
    both = [tiny_model(architecture, 100, **config) for _ in range(2)]
    for model in both:
        draw = torch.Generator().manual_seed(1)
        for name, weight in model.named_parameters():
            if name.endswith("bias") and weight.shape == (100,):
                weight.data.normal_(generator=draw)
    add_rows(both[1], 100, PIECES)
    return both[0], both[1]


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids).logits[0]
    return found


def test_logits_of_new_tokens_are_means_and_old_ones_stay(extended: tuple[Any, Any]) -> None:
    before, after = map(logits, extended)
    assert after.shape[-1] == 103
    assert torch.equal(before, after[:, :100])
    for place, pieces in enumerate(PIECES):
        torch.testing.assert_close(after[:, 100 + place], before[:, list(pieces)].mean(-1))
    assert len({tuple(row.tolist()) for row in after[:, 100:].T}) == len(PIECES)


def test_input_rows_are_means(extended: tuple[Any, Any]) -> None:
    table = extended[1].get_input_embeddings().weight
    assert len(table) == extended[1].config.vocab_size == 103
    for place, pieces in enumerate(PIECES):
        torch.testing.assert_close(table[100 + place], table[list(pieces)].mean(0))


def test_ties_stay_and_plain_transformers_loads_it(extended: tuple[Any, Any], tmp_path: Path) -> None:
    before, after = extended
    tied = before.get_input_embeddings().weight is before.get_output_embeddings().weight
    assert (after.get_input_embeddings().weight is after.get_output_embeddings().weight) is tied
    after.save_pretrained(tmp_path)
    loaded, info = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    ids = torch.tensor([[5, 100, 101, 102, 7]])
    assert torch.equal(logits(loaded.eval(), ids), logits(after, ids))


def test_untied_rows_are_means_of_their_own(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("bert", 100, tie_word_embeddings=False)
    before = logits(model)
    add_rows(model, 100, PIECES)
    after = logits(model)
    assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight
    torch.testing.assert_close(after[:, 101], before[:, list(PIECES[1])].mean(-1))
    assert torch.equal(before, after[:, :100])


def test_spare_rows_are_used_first(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("modernbert", 128)
    before = logits(model)
    add_rows(model, 100, PIECES)
    after = logits(model)
    assert after.shape == before.shape
    torch.testing.assert_close(after[:, 102], before[:, list(PIECES[2])].mean(-1))
    assert torch.equal(before[:, 103:], after[:, 103:])
