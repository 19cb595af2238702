from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.model.attention import packed_attention
from unmask.model.packed_layout import PackedLayout

HEADS, WIDTH = 4, 8
LAYOUTS = {
    "one sequence": [7],
    "one group": [5, 5, 5],
    "several groups": [9, 9, 6, 3, 3, 3, 1],
    "no order": [3, 8, 3, 1, 8],
    "single tokens": [1, 1, 1],
    "many tokens of one length, then tails": [128] * 9 + [11, 7, 7, 2, 1] + [1] * 8,
    "too different to share a stack": [300, 200, 20, 3],
}


def layout_of(lengths: list[int]) -> PackedLayout:
    return PackedLayout.of(np.concatenate([[0], np.cumsum(lengths)]), torch.device("cpu"))


def inputs(tokens: int, key_heads: int = HEADS, seed: int = 0) -> list[Tensor]:
    """Return query, key and value as a model makes them: `[1, heads, T, width]`, a view of `[1, T, heads, width]`."""
    draw = torch.Generator().manual_seed(seed)
    shapes = [(1, tokens, heads, WIDTH) for heads in (HEADS, key_heads, key_heads)]
    return [torch.randn(shape, generator=draw).transpose(1, 2).requires_grad_() for shape in shapes]


def one_by_one(
    q: Tensor, k: Tensor, v: Tensor, lengths: list[int], scale: float | None = None, window: int | None = None
) -> Tensor:
    """Attend to each sequence by itself with torch's own attention; `[1, T, heads, width]`."""
    times = q.shape[1] // k.shape[1]
    outs = []
    for part in zip(*(tensor.split(lengths, dim=2) for tensor in (q, k, v)), strict=True):
        query, key, value = part[0], *(other.repeat_interleave(times, dim=1) for other in part[1:])
        places = torch.arange(query.shape[2])
        near = None if window is None else (places[:, None] - places[None, :]).abs() < window
        outs.append(F.scaled_dot_product_attention(query, key, value, attn_mask=near, scale=scale))
    return torch.cat(outs, dim=2).transpose(1, 2)


def compare(
    lengths: list[int], *, key_heads: int = HEADS, scale: float | None = None, window: int | None = None
) -> None:
    """Packed attention must give the output and the gradients of attention to one sequence at a time."""
    ours, theirs = inputs(sum(lengths), key_heads), inputs(sum(lengths), key_heads)
    found, weights = packed_attention(
        nn.Identity(), *ours, None, scaling=scale, sliding_window=window, layout=layout_of(lengths)
    )
    wanted = one_by_one(*theirs, lengths, scale, window)
    assert weights is None
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    pull = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    for out in (found, wanted):
        (out * pull).sum().backward()
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lengths", LAYOUTS.values(), ids=LAYOUTS)
def test_packed_is_one_sequence_at_a_time(lengths: list[int]) -> None:
    compare(lengths)


@pytest.mark.parametrize("key_heads", [1, 2])
def test_fewer_heads_of_keys_than_of_queries(key_heads: int) -> None:
    compare(LAYOUTS["several groups"], key_heads=key_heads)


@pytest.mark.parametrize("window", [1, 2, 6, 9, 100])
@pytest.mark.parametrize("lengths", LAYOUTS.values(), ids=LAYOUTS)
def test_a_window_is_kept_inside_each_sequence(lengths: list[int], window: int) -> None:
    compare(lengths, window=window)


def test_a_scale_of_its_own() -> None:
    compare(LAYOUTS["several groups"], scale=0.7)


def test_long_sequences_take_another_path_to_the_same_result() -> None:
    compare([1100, 20])


def test_without_a_layout_the_row_is_one_sequence() -> None:
    q, k, v = inputs(6)
    found, _ = packed_attention(nn.Identity(), q, k, v, None)
    torch.testing.assert_close(found, one_by_one(q, k, v, [6]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("lengths", LAYOUTS.values(), ids=LAYOUTS)
def test_without_gradients_the_result_is_the_same(lengths: list[int], window: int | None) -> None:
    q, k, v = inputs(sum(lengths), key_heads=2)
    with torch.no_grad():
        found, _ = packed_attention(
            nn.Identity(), q, k, v, None, sliding_window=window, layout=layout_of(lengths)
        )
        wanted = one_by_one(q, k, v, lengths, window=window)
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_half_precision_stays_near() -> None:
    lengths = LAYOUTS["several groups"]
    exact = inputs(sum(lengths))
    halves = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    found, _ = packed_attention(nn.Identity(), *halves, None, layout=layout_of(lengths))
    wanted = one_by_one(*exact, lengths)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=0.05, atol=0.05)
    found.float().sum().backward()
    wanted.sum().backward()
    for half, whole in zip(halves, exact, strict=True):
        assert half.grad is not None
        torch.testing.assert_close(half.grad.float(), whole.grad, rtol=0.1, atol=0.1)


def test_dropout_is_applied_and_unbiased() -> None:
    q, k, _ = inputs(40)
    ones = torch.ones_like(k)
    torch.manual_seed(0)
    found, _ = packed_attention(nn.Identity(), q, k, ones, None, dropout=0.5, layout=layout_of([20, 20]))
    assert not torch.allclose(found, torch.ones_like(found), atol=0.05)
    assert float(found.detach().mean()) == pytest.approx(1.0, abs=0.05)


def test_dropout_keeps_to_the_documents() -> None:
    lengths = [20, 20]
    q, k, v = (tensor.detach() for tensor in inputs(40))
    elsewhere = v.clone()
    elsewhere[:, :, 20:] += 1.0
    outs = []
    for value in (v, elsewhere):
        torch.manual_seed(0)
        outs.append(
            packed_attention(nn.Identity(), q, k, value, None, dropout=0.3, layout=layout_of(lengths))[0]
        )
    assert torch.equal(outs[0][:, :20], outs[1][:, :20])
    assert not torch.equal(outs[0][:, 20:], outs[1][:, 20:])


def test_a_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="takes no mask"):
        packed_attention(nn.Identity(), *inputs(3), torch.zeros(3))


def test_other_arguments_of_the_interface_are_taken() -> None:
    extra: dict[str, Any] = {"deterministic": True, "cu_seq_lens_q": None}
    found, _ = packed_attention(nn.Identity(), *inputs(3), None, layout=layout_of([2, 1]), **extra)
    assert found.shape == (1, 3, HEADS, WIDTH)


def test_the_layout_groups_neighbours_of_one_length() -> None:
    layout = layout_of([4, 4, 2, 2, 2, 4])
    assert layout.cu_seqlens.tolist() == [0, 4, 8, 10, 12, 14, 18]
    assert layout.groups == ((0, 2, 4), (8, 3, 2), (14, 1, 4))
    assert layout.longest == 4


def stacks(lengths: list[int]) -> list[tuple[int, int, int]]:
    """Return the first token, rows and width of each stack."""
    return [(stack.first, stack.count, stack.width) for stack in layout_of(lengths).stacks]


def test_sequences_of_nearly_one_length_are_stacked_together() -> None:
    """Many tokens in one length stay by themselves; the others are never put where most of their row would be empty."""
    assert stacks([128] * 8 + [100, 90, 7, 7]) == [(0, 8, 128), (1024, 4, 112)]
    assert stacks([300, 250, 20, 3]) == [(0, 2, 304), (550, 4, 32)]
    assert [width for _, _, width in stacks([300, 200, 20, 3])] == [304, 208, 32]


def test_small_stacks_have_round_sizes() -> None:
    """Rows that hold no sequence are cheap, and where they would not be there are none."""
    assert stacks([12] * 9 + [11, 7, 7, 2, 1]) == [(0, 16, 16)]
    assert stacks([33]) == [(0, 4, 48)]
    assert stacks([500]) == [(0, 1, 512)]
    assert stacks([512, 512]) == [(0, 2, 512)]


def test_what_fills_the_rest_of_a_stack_reaches_nobody() -> None:
    """Empty places hold a copy of the last token of their sequence: however large, it counts once and only there."""
    lengths = [6, 4, 1]
    q, k, v = inputs(sum(lengths))
    with torch.no_grad():
        v[0, :, 9:] = 1e6
    found, _ = packed_attention(nn.Identity(), q, k, v, None, layout=layout_of(lengths))
    torch.testing.assert_close(found, one_by_one(q, k, v, lengths), rtol=1e-5, atol=1e-6)
