"""What torch's variable-length kernel is called with, and that what it gives is put together rightly."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import varlen
from torch.nn.attention.varlen import varlen_attn

from unmask.data.batches import Batch
from unmask.model import attention, masked_lm, packed_layout
from unmask.model.attention import packed_attention
from unmask.model.masked_lm import MaskedLM
from unmask.model.packed_layout import PackedLayout

Load = Callable[..., MaskedLM]
PACKED = ("bert", "roberta", "distilbert", "electra", "albert", "modernbert", "eurobert")
LENGTHS = [40, 40, 23, 23, 23, 9, 1]


def gradients(model: MaskedLM, batch: Batch) -> dict[str, torch.Tensor]:
    model.model.zero_grad(set_to_none=True)
    model.target_logits(batch).square().mean().backward()
    return {name: w.grad for name, w in model.model.named_parameters() if w.grad is not None}


@pytest.mark.parametrize("shares_heads", [True, False])
@pytest.mark.parametrize("architecture", PACKED)
def test_the_kernel_gives_what_other_attention_gives(
    load: Load,
    make_batch: Any,
    kernel: Any,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    shares_heads: bool,
) -> None:
    """Logits and gradients, with a sliding window and with shared heads, also where the kernel cannot share them."""
    kernel.shares_heads = shares_heads
    monkeypatch.setattr(attention, "_KERNEL_SHARES_HEADS", shares_heads)
    model = load(architecture)
    batch = make_batch(model.vocabulary, LENGTHS)
    kernel.calls.clear()
    found, slopes = model.target_logits(batch), gradients(model, batch)
    assert len(kernel.calls) == 2 * 2
    monkeypatch.setattr(attention, "fits_kernel", lambda query: False)
    torch.testing.assert_close(found, model.target_logits(batch), rtol=1e-4, atol=1e-5)
    wanted = gradients(model, batch)
    assert slopes.keys() == wanted.keys()
    for name, gradient in slopes.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("architecture", PACKED)
def test_calls_are_such_as_the_installed_kernel_takes(
    load: Load, make_batch: Any, kernel: Any, architecture: str
) -> None:
    """Under bf16 autocast queries, keys and values have one half-precision type, also where rotary embeddings give fp32."""
    model = load(architecture)
    kernel.calls.clear()
    with torch.autocast("cpu", torch.bfloat16):
        model.target_logits(make_batch(model.vocabulary, LENGTHS))
    assert kernel.calls
    for call in kernel.calls:
        q, k, v, starts, longest = (call.pop(name) for name in ("q", "k", "v", "starts", "longest"))
        assert (q.dtype, k.dtype, v.dtype, starts.dtype) == (*[torch.bfloat16] * 3, torch.int32)
        assert {tensor.stride(-1) for tensor in (q, k, v)} == {1}
        assert q.shape[-1] % 8 == 0
        assert longest == max(LENGTHS)
        inspect.signature(varlen_attn).bind(q, k, v, starts, starts, longest, longest, **call)


@pytest.mark.parametrize("size", [4, 8, 26, 64, 100, 256])
def test_heads_of_any_size(kernel: Any, size: int) -> None:
    """The kernel takes multiples of eight; 312 features in 12 heads are 26 each."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 9, size, requires_grad=True) for _ in range(3))
    layout = PackedLayout.of(np.array([0, 5, 9]), q.device)
    found, _ = packed_attention(torch.nn.Module(), q, k, v, None, layout=layout)
    (call,) = kernel.calls
    assert call["q"].shape[-1] % 8 == 0
    assert call["scale"] == pytest.approx(size**-0.5)
    for begin, end in ((0, 5), (5, 9)):
        parts = (tensor[:, :, begin:end] for tensor in (q, k, v))
        wanted = torch.nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2)
        torch.testing.assert_close(found[:, begin:end], wanted, rtol=1e-5, atol=1e-6)
    found.sum().backward()
    assert q.grad is not None
    assert q.grad.shape == q.shape


@pytest.mark.parametrize(
    ("shape", "dtype", "fits"),
    [
        ((1, 2, 9, 64), torch.bfloat16, True),
        ((1, 2, 9, 26), torch.float16, True),
        ((1, 2, 9, 256), torch.bfloat16, True),
        ((1, 2, 9, 264), torch.bfloat16, False),
        ((1, 2, 9, 64), torch.float32, False),
    ],
)
def test_what_the_kernel_is_given(shape: tuple[int, ...], dtype: torch.dtype, fits: bool) -> None:
    assert attention.fits_kernel(torch.empty(shape, dtype=dtype, device="meta")) is fits
    assert not attention.fits_kernel(torch.empty(shape, dtype=dtype))


def test_dropout_of_weights_goes_another_way(kernel: Any) -> None:
    """The kernel has none."""
    q = torch.randn(1, 2, 9, 8)
    layout = PackedLayout.of(np.array([0, 5, 9]), q.device)
    packed_attention(torch.nn.Module(), q, q, q, None, dropout=0.5, layout=layout)
    assert not kernel.calls


# --- on a device that is made up ----------------------------------------------------------------------------------


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[MaskedLM], None]]:
    """Return `move(model)`: its weights on a CUDA device that is none, for the forward pass.

    A build of torch for CPUs has no backward pass there, and cannot index.
    """

    def put(array: np.ndarray, device: torch.device) -> torch.Tensor:
        return torch.empty(array.shape, dtype=torch.from_numpy(array).dtype, device=device)

    def move(model: MaskedLM) -> None:
        for part in model.model.modules():
            for name, weight in part._parameters.items():
                if weight is not None:
                    empty = torch.empty(weight.shape, dtype=weight.dtype, device="cuda")
                    part._parameters[name] = torch.nn.Parameter(empty, requires_grad=False)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
        monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args, **named: True)
        for module in (packed_layout, masked_lm):
            monkeypatch.setattr(module, "on_device", put)

    return move


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "electra", "albert"])
def test_under_autocast_on_cuda_the_kernel_is_called_in_bf16(
    load: Load,
    make_batch: Any,
    made_up: Callable[[MaskedLM], None],
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a device, on which the tests of tests/cuda/test_device.py run")
    calls: list[tuple[Any, ...]] = []

    def watch(*args: Any, **named: Any) -> Any:
        calls.append(args)
        return varlen_attn(*args, **named)

    model = load(architecture)
    batch = make_batch(model.vocabulary, [64] * 20 + [33] * 10)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        made_up(model)
        model.autocast = True
        monkeypatch.setattr(varlen, "varlen_attn", watch)
        logits = model.target_logits(batch, filled=True)
    assert (logits.device.type, logits.dtype) == ("cuda", torch.bfloat16)
    assert len(calls) == 2
    for q, k, v, starts, _, longest, _ in calls:
        assert {q.dtype, k.dtype, v.dtype} == {torch.bfloat16}
        assert (starts.dtype, starts.device.type, longest) == (torch.int32, "cuda", 64)


# --- shapes -------------------------------------------------------------------------------------------------------


def test_few_shapes_occur(load: Load, make_batch: Any) -> None:
    """Of a hundred batches that all differ the kernel sees a handful of shapes, so that memory is used again."""
    model = load("bert")
    device = torch.device("meta")
    draw = np.random.default_rng(0)
    shapes = set()
    for seed in range(100):
        lengths = draw.integers(20, 128, 200)
        lengths = lengths[np.cumsum(lengths) <= 8192].tolist()  # a step takes so many tokens
        batch = make_batch(model.vocabulary, lengths, rate=0.15, seed=seed)
        filled = masked_lm.pad_to_round_size(batch, 0)
        layout = PackedLayout.of(filled.cu_seqlens, device)
        assert layout.longest >= max(lengths)
        shapes.add((filled.tokens, len(layout.cu_seqlens), layout.longest))
    assert len(shapes) <= 6


def test_sequences_of_no_tokens_at_the_end_change_nothing(kernel: Any) -> None:
    q = torch.randn(1, 2, 9, 8)
    few = PackedLayout(torch.tensor([0, 5, 9], dtype=torch.int32), (), 5)
    more = PackedLayout(torch.tensor([0, 5, 9, 9, 9], dtype=torch.int32), (), 64)
    found = [packed_attention(torch.nn.Module(), q, q, q, None, layout=layout)[0] for layout in (few, more)]
    assert torch.equal(*found)
    assert PackedLayout.of(np.arange(0, 500, 5), torch.device("meta")).cu_seqlens.shape == (129,)
