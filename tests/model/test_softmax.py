"""The softmax over the vocabulary, against torch's own in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unmask.errors import DivergedError
from unmask.model import softmax
from unmask.model.softmax import target_losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_are_those_of_float64_whatever_the_size_of_a_block(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    draw = torch.Generator().manual_seed(2)
    logits = (4 * torch.randn(37, 50, generator=draw)).to(dtype)
    targets = torch.randint(50, (37,), generator=draw)
    whole, wanted = target_losses(logits, targets), -logits.double().log_softmax(-1)
    monkeypatch.setattr(softmax, "_BLOCK", 160)  # three rows
    assert np.array_equal(target_losses(logits, targets), whole)
    assert whole == pytest.approx(wanted.gather(1, targets.unsqueeze(1)).squeeze(1).numpy(), abs=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinite_logits_are_an_error(bad: float) -> None:
    logits = torch.zeros(3, 5)
    logits[1, 2] = bad
    with pytest.raises(DivergedError, match="NaN or infinite"):
        target_losses(logits, torch.tensor([0, 1, 2]))


def test_no_target_is_no_loss() -> None:
    assert target_losses(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64)).shape == (0,)
