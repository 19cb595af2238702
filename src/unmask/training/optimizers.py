"""Optimizers: fused AdamW, and Muon for the hidden matrices of a model trained from scratch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from unmask.training.settings import OptimizerSettings

# The quintic of Jordan et al. 2024: steepest at zero among those that keep singular values near one.
_QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum whose step is orthogonalised by Newton–Schulz iterations (Jordan et al. 2024).

    Matrices of one shape are stacked and orthogonalised in one batch. A fused projection, such as query, key and
    value in one matrix, is orthogonalised part by part.

    Args:
        parameters: 2-D weights.
        lr: step size; every step has about unit spectral norm times ``lr * sqrt(max(1, rows / columns))``.
        momentum: Nesterov momentum.
        weight_decay: decoupled.
        parts: into how many stacked matrices a weight is cut, by its ``id``.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        parts: dict[int, int] | None = None,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._parts = parts or {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step with the gradients at hand."""
        for group in self.param_groups:
            for weights in self._by_shape(group["params"]):
                self._step_stack(weights, group)

    def _by_shape(self, parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
        stacks: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for weight in parameters:
            if weight.grad is not None:
                stacks.setdefault((*weight.shape, self._parts.get(id(weight), 1)), []).append(weight)
        return list(stacks.values())

    def _step_stack(self, weights: list[nn.Parameter], group: dict[str, Any]) -> None:
        lr, momentum = group["lr"], group["momentum"]
        buffers = [self._buffer(weight) for weight in weights]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, buffers, momentum)
        parts = self._parts.get(id(weights[0]), 1)
        rows, columns = weights[0].shape
        stack = torch.stack(list(ahead)).view(-1, rows // parts, columns)
        updates = orthogonalise(stack).reshape(len(weights), rows, columns).to(weights[0].dtype)
        scale = max(1.0, rows / parts / columns) ** 0.5
        tensors: list[Tensor] = list(weights)
        if group["weight_decay"]:
            torch._foreach_mul_(tensors, 1 - lr * group["weight_decay"])
        torch._foreach_add_(tensors, list(updates.unbind()), alpha=-lr * scale)

    def _buffer(self, weight: nn.Parameter) -> Tensor:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        buffer: Tensor = state["momentum"]
        return buffer


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Bring the singular values of ``[batch, rows, columns]`` matrices near one, in bf16."""
    a, b, c = _QUINTIC
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def make_optimizers(
    model: nn.Module, settings: OptimizerSettings, name: str, learning_rate: float
) -> list[torch.optim.Optimizer]:
    """Make the optimizers of a run; every parameter group keeps its peak rate under ``peak_lr``.

    Args:
        model: a masked-LM model of transformers.
        settings: weight decay and Muon's rate.
        name: ``adamw`` or ``muon``.
        learning_rate: peak rate of AdamW.
    """
    named = [(key, weight) for key, weight in model.named_parameters() if weight.requires_grad]
    hidden = {key for key, weight in named if name == "muon" and _is_hidden_matrix(model, key, weight)}
    rest = [(key, weight) for key, weight in named if key not in hidden]
    decayed = [weight for key, weight in rest if weight.ndim >= 2 and not _is_table(model, weight)]
    plain = [weight for key, weight in rest if weight.ndim < 2 or _is_table(model, weight)]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=learning_rate,
        betas=(0.9, 0.98),
        eps=1e-8,
        fused=True,
    )
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if hidden:
        matrices = [weight for key, weight in named if key in hidden]
        parts = {id(weight): _fused_parts(key) for key, weight in named if key in hidden}
        optimizers.append(
            Muon(matrices, lr=settings.muon_learning_rate, weight_decay=settings.weight_decay, parts=parts)
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def _is_hidden_matrix(model: nn.Module, key: str, weight: Tensor) -> bool:
    """Whether a weight is a matrix inside the encoder's layers, where Muon belongs."""
    prefix = getattr(model, "base_model_prefix", "")
    inside = key.startswith(f"{prefix}.") and "embed" not in key and "pooler" not in key
    return weight.ndim == 2 and inside and not _is_table(model, weight)


def _is_table(model: nn.Module, weight: Tensor) -> bool:
    return any(module.weight is weight for module in model.modules() if isinstance(module, nn.Embedding))


def _fused_parts(key: str) -> int:
    """Into how many matrices a fused projection is cut: query, key, value; or the two halves of a gated unit."""
    if "Wqkv" in key or "qkv" in key:
        return 3
    return 2 if key.endswith("mlp.Wi.weight") else 1


def set_learning_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Set every group to its peak rate times ``factor``."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
