"""The FLOP rate of a machine's matrix products, and the FLOPs that a model needs for a token.

Their ratio at a given training speed is the model FLOPs utilisation (MFU): padding, an LM head over every position and
waiting for data do not count as work done, and so lower it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from unmask.data.batches import Batch
from unmask.model.masked_lm import MaskedLM

# Rows, inner side and columns: squares, and the products of layers 768 and 1024 wide over a batch of tokens.
_CPU_SHAPES = ((2048, 2048, 2048), (4096, 1024, 1024), (4096, 768, 3072), (4096, 3072, 768))
_CUDA_SHAPES = ((8192, 8192, 8192), (16384, 4096, 4096), (65536, 768, 3072), (65536, 3072, 768))
_FEW, _MANY = 64, 4  # rows that are tried first; times the seconds of a shape that one product may take
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PRECISIONS = tuple(_DTYPES)
"""What the ceiling can be measured in."""


@dataclass(frozen=True)
class MatmulRate:
    """The rate of matrix products, an upper bound for training.

    Attributes:
        precision: ``fp32`` or ``bf16``.
        teraflops: 10^12 floating-point operations a second, the best of some large shapes.
        shape: rows, inner side and columns of the best.
    """

    precision: str
    teraflops: float
    shape: tuple[int, int, int]


def matmul_rate(precision: str, device: torch.device, seconds: float) -> MatmulRate:
    """Measure the best rate of matrix products among some large shapes.

    Args:
        precision: ``fp32`` or ``bf16``.
        device: where to compute.
        seconds: how long each shape is tried.
    """
    shapes = _CUDA_SHAPES if device.type == "cuda" else _CPU_SHAPES
    best, shape = max(_product_rate(shape, _DTYPES[precision], device, seconds) for shape in shapes)
    return MatmulRate(precision, best / 1e12, shape)


def _product_rate(
    shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device, seconds: float
) -> tuple[float, tuple[int, int, int]]:
    """Return operations a second of the fastest product of one shape, the right side plain or transposed, and the shape.

    It has fewer rows where a single product would take many times ``seconds``, as one in bf16 on a CPU that has none.
    """
    rows, inner, columns = shape
    left = torch.rand(rows, inner, device=device).to(dtype)
    plain = torch.rand(inner, columns, device=device).to(dtype)
    few = min(_product_seconds(left[:_FEW], plain) for _ in range(2))  # the first one prepares itself
    if few * rows / _FEW > _MANY * seconds:
        rows = max(_FEW, int(_FEW * seconds / few))
        left = left[:rows]
    best = 0.0
    for right in (plain, plain.T.contiguous().T):
        end = time.perf_counter() + seconds / 2
        while time.perf_counter() < end:
            best = max(best, 2.0 * rows * inner * columns / _product_seconds(left, right))
    return best, (rows, inner, columns)


def _product_seconds(left: Tensor, right: Tensor) -> float:
    # A single product on a GPU is too short for the host's clock, so several are timed there.
    times = 10 if left.is_cuda else 1
    settle(left.device)
    begin = time.perf_counter()
    for _ in range(times):
        left @ right
    settle(left.device)
    return (time.perf_counter() - begin) / times


def flops_per_token(model: MaskedLM, attended: float, predicted: float) -> float:
    """Return the floating-point operations that training needs for one token.

    Six for every weight that a token is multiplied with (two forward, four backward), twelve times width for every
    token attended to in every layer. Of the head, and of the last layer behind its attention where it is computed at the
    targets alone, only the share of tokens that are targets counts. For BERT of ``L`` layers and width ``H`` with a whole
    last layer: ``6L(4H² + 2HF) + 12LsH + 6p(H² + VH)``.

    Args:
        model: its weight matrices are counted with hooks in a short forward pass.
        attended: tokens that a token attends to, on average (``s``).
        predicted: share of the tokens that reach the head (``p``).
    """
    everywhere, at_targets = _weights_used(model)
    config = model.model.config
    scores = 12 * config.num_hidden_layers * attended * config.hidden_size
    return 6 * everywhere + scores + 6 * predicted * at_targets


@torch.no_grad()
def _weights_used(model: MaskedLM) -> tuple[int, int]:
    """Count the weights that every token is multiplied with, and those that a target is multiplied with besides."""
    tokens = 4
    used = {tokens: 0, 1: 0}  # by rows of the product: every token's, or the one target's

    def count(module: nn.Module, args: tuple[Tensor, ...], _: Tensor) -> None:
        used[args[0].numel() // args[0].shape[-1]] += module.weight.numel()  # type: ignore[operator]

    hooks = [
        module.register_forward_hook(count)
        for module in model.model.modules()
        if isinstance(module, nn.Linear)
    ]
    ids = model.vocabulary.replacements[:tokens]
    places, ends = np.arange(tokens), np.array([0, tokens], dtype=np.int32)
    try:
        model.target_logits(Batch(ids, places, ends, places[:1], ids[:1], places[:1]))
    finally:
        for hook in hooks:
            hook.remove()
    return used[tokens], used[1]


def settle(device: torch.device) -> None:
    """Wait until a device has finished its queued work."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
