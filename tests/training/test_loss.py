from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.model.masked_lm import MaskedLM
from unmask.objectives import cross_entropy
from unmask.objectives.cross_entropy import masked_cross_entropy
from unmask.training.loss import step_gradients
from unmask.training.parallel import GradientSum


def logits_of(
    rows: int, entries: int, scale: float = 3.0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(rows + entries)
    logits = (torch.randn(rows, entries, generator=draw) * scale).to(dtype)
    return logits.requires_grad_(), torch.randint(entries, (rows,), generator=draw)


def torchs_own(logits: Tensor, labels: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
    """Loss in fp32 and the gradient of the logits, by torch."""
    other = logits.detach().float().requires_grad_()
    loss = F.cross_entropy(other, labels, reduction="sum") / divisor
    loss.backward()
    assert other.grad is not None
    return loss.detach(), other.grad


@pytest.mark.parametrize(
    ("rows", "entries"), [(1, 2), (7, 50), (64, 100), (65, 100), (200, 1000), (3, 30_000)]
)
@pytest.mark.parametrize("scale", [0.1, 30.0])
def test_loss_and_gradient_are_those_of_torch(rows: int, entries: int, scale: float) -> None:
    """Rows are computed in blocks, so counts around the size of a block are among them."""
    logits, labels = logits_of(rows, entries, scale)
    loss, hits = masked_cross_entropy(logits, labels, 2 * rows)
    wanted, gradient = torchs_own(logits, labels, 2 * rows)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.detach(), wanted, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(logits.grad, gradient, rtol=1e-5, atol=1e-8)
    assert int(hits) == int((logits.argmax(-1) == labels).sum())


def test_large_logits_do_not_overflow() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-3e4, -3e4, -3.0001e4]], requires_grad=True)
    labels = torch.tensor([1, 0])
    loss, _ = masked_cross_entropy(logits, labels, 2)
    wanted, gradient = torchs_own(logits, labels, 2)
    loss.backward()
    torch.testing.assert_close(loss.detach(), wanted)
    torch.testing.assert_close(logits.grad, gradient)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_are_fp32_whatever_the_logits_are(dtype: torch.dtype) -> None:
    logits, labels = logits_of(300, 500, dtype=dtype)
    loss, _ = masked_cross_entropy(logits, labels, 300)
    wanted, gradient = torchs_own(logits, labels, 300)
    loss.backward()
    torch.testing.assert_close(loss.detach(), wanted, rtol=1e-6, atol=0)
    assert logits.grad is not None
    assert logits.grad.dtype == dtype
    torch.testing.assert_close(logits.grad.float(), gradient, rtol=0.01, atol=1e-6)


@pytest.mark.parametrize("spare", [1, 90])
def test_rows_behind_the_last_label_do_not_count(spare: int) -> None:
    """More of them than are computed at once, and not numbers at that."""
    logits, labels = logits_of(70, 20_000)
    with torch.no_grad():
        logits[70 - spare :] = torch.nan
    if spare > 70:
        labels = labels[:0]
    loss, hits = masked_cross_entropy(logits, labels[: 70 - spare], 10)
    (wanted, right) = masked_cross_entropy(logits.detach()[: 70 - spare], labels[: 70 - spare], 10)
    loss.backward()
    assert (loss.item(), int(hits)) == (wanted.item(), int(right))
    assert logits.grad is not None
    assert not logits.grad[70 - spare :].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_device_without_the_kernel_computes_the_same(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for compute in (cross_entropy._on_cpu, cross_entropy._on_device):
        monkeypatch.setattr(cross_entropy, "_on_cpu", compute)
        logits, labels = logits_of(70, 20_000, dtype=dtype)
        labels[::3] = logits.argmax(-1)[::3]
        loss, hits = masked_cross_entropy(logits, labels, 90)
        loss.backward()
        assert logits.grad is not None
        found.append((loss.detach(), hits, logits.grad))
    torch.testing.assert_close(found[1], found[0], rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-9)


def test_no_rows_are_a_loss_of_zero() -> None:
    logits = torch.empty(0, 10, requires_grad=True)
    loss, hits = masked_cross_entropy(logits, torch.empty(0, dtype=torch.int64), 1)
    loss.backward()
    assert (float(loss.detach()), int(hits)) == (0.0, 0)


def test_the_gradient_of_a_scaled_loss() -> None:
    logits, labels = logits_of(20, 30)
    (masked_cross_entropy(logits, labels, 20)[0] * 5).backward()
    _, gradient = torchs_own(logits, labels, 4)
    torch.testing.assert_close(logits.grad, gradient, rtol=1e-5, atol=1e-8)


# --- a step -------------------------------------------------------------------------------------------------------


def gradients(model: MaskedLM) -> Tensor:
    found = torch.cat([w.grad.reshape(-1) for w in model.model.parameters() if w.grad is not None])
    model.model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("architecture", ["bert", "mpnet"])
def test_a_step_is_the_mean_over_all_its_targets(
    load: Callable[..., MaskedLM], make_batch: Any, architecture: str
) -> None:
    """Micro-batches of very uneven target counts, one of them without any."""
    model = load(architecture)
    batches = [
        make_batch(model.vocabulary, [40, 30], rate=0.6, seed=1),
        make_batch(model.vocabulary, [5, 4, 3], rate=0.3, seed=2),
        make_batch(model.vocabulary, [9, 9], rate=0.0, seed=3),
    ]
    count = sum(len(batch.target_ids) for batch in batches)
    loss, correct = step_gradients(GradientSum(model), batches, [count])
    found = gradients(model)
    logits = torch.cat([model.target_logits(batch) for batch in batches])
    labels = torch.cat([torch.from_numpy(batch.target_ids) for batch in batches])
    wanted = F.cross_entropy(logits, labels)
    wanted.backward()
    torch.testing.assert_close(loss, wanted.detach()[None], rtol=1e-6, atol=0)
    torch.testing.assert_close(found, gradients(model), rtol=1e-4, atol=1e-7)
    assert int(correct) == int((logits.argmax(-1) == labels).sum())


def test_a_step_adds_to_the_gradient_that_is_there(load: Callable[..., MaskedLM], make_batch: Any) -> None:
    model = load("bert")
    batch = make_batch(model.vocabulary, [20, 10])
    step_gradients(GradientSum(model), [batch], [10])
    once = gradients(model)
    for _ in range(2):
        step_gradients(GradientSum(model), [batch], [10])
    torch.testing.assert_close(gradients(model), 2 * once)


def test_a_step_without_targets_is_zero_and_no_number_is_lost(
    load: Callable[..., MaskedLM], make_batch: Any
) -> None:
    model = load("bert")
    loss, correct = step_gradients(GradientSum(model), [make_batch(model.vocabulary, [9], rate=0.0)], [0])
    assert (float(loss), int(correct)) == (0.0, 0)
    assert all(weight.grad is None for weight in model.model.parameters())
