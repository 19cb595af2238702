"""Optimizers: fused AdamW, and Muon for the hidden matrices of a model trained from scratch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from unmask.config.settings import OptimizerSettings
from unmask.model.layers import depths, encoder_layers, is_table, networks
from unmask.training.distributed import World
from unmask.training.parallel import computing_device, whole

# The quintic of Jordan et al. 2024: steepest at zero among those that keep singular values near one.
_QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum whose step is orthogonalised by Newton–Schulz iterations (Jordan et al. 2024).

    Matrices of one shape are stacked and orthogonalised in one batch. A fused projection, such as query, key and
    value in one matrix, is orthogonalised part by part. Of several processes, each orthogonalises a share of the matrices.

    Args:
        parameters: 2-D weights, or groups of them.
        lr: step size; every step has about unit spectral norm times ``lr * sqrt(max(1, rows / columns))``.
        momentum: Nesterov momentum.
        weight_decay: decoupled.
        parts: number of matrices that a weight is split into, by its ``id``.
        world: the processes of the run.
        dtype: that matrices are orthogonalised in. On a CPU without bf16 its products take forty times those in fp32.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        parts: dict[int, int] | None = None,
        world: World | None = None,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._parts, self._world, self._dtype = parts or {}, world or World(), dtype
        # As in torch's fused AdamW: gradients are divided by the one, and no step is taken where the other is 1.
        self.grad_scale: Tensor | None = None
        self.found_inf: Tensor | None = None

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
        if self.grad_scale is not None:
            gradients = list(torch._foreach_div(gradients, self.grad_scale))
        applied: float | Tensor = 1.0
        if self.found_inf is not None:  # a gradient that is the momentum leaves the momentum as it is
            applied, skip = 1.0 - self.found_inf, self.found_inf > 0
            gradients = [torch.where(skip, *pair) for pair in zip(buffers, gradients, strict=True)]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, buffers, momentum)
        parts = self._parts.get(id(weights[0]), 1)
        rows, columns = weights[0].shape
        device = computing_device(weights[0])
        stack = torch.stack([whole(matrix.to(device)) for matrix in ahead]).view(-1, rows // parts, columns)
        updates = self._orthogonalised(stack).reshape(len(weights), rows, columns).to(weights[0].dtype)
        if self.found_inf is not None:
            updates = updates * applied
        scale = max(1.0, rows / parts / columns) ** 0.5
        tensors: list[Tensor] = list(weights)
        if group["weight_decay"]:
            torch._foreach_mul_(tensors, 1 - lr * group["weight_decay"] * applied)
        own = [_laid_out(update, weight) for update, weight in zip(updates.unbind(), weights, strict=True)]
        torch._foreach_add_(tensors, own, alpha=-lr * scale)

    def _orthogonalised(self, stack: Tensor) -> Tensor:
        """Orthogonalise ``[N, rows, columns]``, of several processes each its share, and gather the results."""
        size = self._world.size
        if size == 1:
            return orthogonalise(stack, self._dtype)
        share = -(-len(stack) // size)
        own = stack[self._world.rank * share :][:share]
        part = torch.zeros(share, *stack.shape[1:], dtype=self._dtype, device=stack.device)
        if len(own):
            part[: len(own)] = orthogonalise(own, self._dtype)
        gathered = part.new_empty(size * share, *stack.shape[1:])
        # Under torch 2.11 it has another name.
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        gather(gathered.view(torch.uint8), part.view(torch.uint8))  # gloo has no bf16
        return gathered[: len(stack)]

    def _buffer(self, weight: nn.Parameter) -> Tensor:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        buffer: Tensor = state["momentum"]
        return buffer


def _laid_out(update: Tensor, weight: Tensor) -> Tensor:
    """Return an update as its weight is laid out over the processes."""
    if not isinstance(weight, DTensor):
        return update
    # Every process has the whole update, so nothing is sent.
    laid_out = distribute_tensor(update, weight.device_mesh, weight.placements, src_data_rank=None)
    return laid_out.to(weight.device)


def orthogonalise(matrices: Tensor, dtype: torch.dtype = torch.bfloat16, steps: int = 5) -> Tensor:
    """Bring the singular values of ``[batch, rows, columns]`` matrices near one, computing in ``dtype``."""
    a, b, c = _QUINTIC
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def make_optimizers(
    model: nn.Module,
    settings: OptimizerSettings,
    name: str,
    learning_rate: float,
    world: World | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> list[torch.optim.Optimizer]:
    """Make the optimizers of a run; a parameter group keeps its peak rate under ``peak_lr`` and its
    weight decay under ``full_decay``.

    Args:
        model: a masked-LM model of transformers.
        settings: weight decay, Muon's rate, and the layer-wise decay of rates.
        name: ``adamw`` or ``muon``.
        learning_rate: peak rate of AdamW.
        world: the processes of the run.
        dtype: that Muon computes in.

    Raises:
        ConfigError: there is a ``layer_decay``, and the model's layers are not found.
    """
    named = [(key, weight) for key, weight in model.named_parameters() if weight.requires_grad]
    inside = tuple(f"{begin}{each.base_model_prefix}." for begin, each in networks(model).items())
    hidden = {
        key for key, weight in named if name == "muon" and _is_hidden_matrix(model, key, weight, inside)
    }
    rest = [(key, weight) for key, weight in named if key not in hidden]
    decayed = [(key, weight) for key, weight in rest if weight.ndim >= 2 and not is_table(model, weight)]
    plain = [(key, weight) for key, weight in rest if weight.ndim < 2 or is_table(model, weight)]
    factors = depth_factors(model, settings.layer_decay)
    decay = settings.weight_decay
    groups = _by_factor(decayed, factors, learning_rate, decay) + _by_factor(
        plain, factors, learning_rate, 0.0
    )
    optimizers: list[torch.optim.Optimizer] = []
    if groups:
        optimizers.append(torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-8, fused=True))
    if hidden:
        matrices = [(key, weight) for key, weight in named if key in hidden]
        parts = {id(weight): _fused_parts(key) for key, weight in matrices}
        optimizers.append(
            Muon(
                _by_factor(matrices, factors, settings.muon_learning_rate, decay),
                parts=parts,
                world=world,
                dtype=dtype,
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"], group["full_decay"] = group["lr"], group["weight_decay"]
    return optimizers


def clip_gradients(
    optimizers: Iterable[torch.optim.Optimizer], weights: Iterable[Tensor], most: float
) -> Tensor:
    """Have the optimizers of :func:`make_optimizers` clip the gradient norm in their next step.

    They scale in the pass that they make over the gradient anyway; the gradient itself is not changed, except on mps.

    Args:
        optimizers: of all the weights that are trained.
        weights: with their gradients.
        most: largest norm.

    Returns:
        The norm before clipping; scalar on the device.
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm(gradients, foreach=True))
    scale = ((norm + 1e-6) / most).clamp(min=1.0)
    if norm.device.type == "mps":  # where torch's fused AdamW has ignored what it is to divide by
        torch._foreach_div_(gradients, scale)
        return norm
    for optimizer in optimizers:
        optimizer.grad_scale = scale  # type: ignore[attr-defined]
    return norm


def skip_unless_finite(optimizers: Iterable[torch.optim.Optimizer], loss: Tensor, norm: Tensor) -> None:
    """Have the optimizers of :func:`make_optimizers` take no step if the loss or the gradient is NaN or infinite.

    The device decides, so that nothing waits for it.

    Args:
        optimizers: of all the weights that are trained.
        loss: scalar on the device.
        norm: of the gradient; scalar on the device.
    """
    found = (~(loss.isfinite() & norm.isfinite())).float()
    for optimizer in optimizers:
        optimizer.found_inf = found  # type: ignore[attr-defined]


def depth_factors(model: nn.Module, layer_decay: float | None) -> dict[str, float]:
    """Return the factor of every weight's rate: 1 in the head, and ``layer_decay`` times that of the layer above.

    This is the layer-wise decay of Howard and Ruder (2018) as Clark et al. (2020) use it for encoders.
    """
    if layer_decay is None:
        return dict.fromkeys((key for key, _ in model.named_parameters()), 1.0)
    deep = depths(model)  # type: ignore[arg-type]
    top = len(encoder_layers(model)[1]) + 1  # type: ignore[arg-type]
    return {key: layer_decay ** (top - depth) for key, depth in deep.items()}


def _by_factor(
    named: list[tuple[str, nn.Parameter]], factors: dict[str, float], rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Group weights by the factor of their rate, the largest first."""
    found: dict[float, list[nn.Parameter]] = {}
    for key, weight in named:
        found.setdefault(factors[key], []).append(weight)
    return [
        {"params": found[factor], "lr": rate * factor, "weight_decay": weight_decay}
        for factor in sorted(found, reverse=True)
    ]


def _is_hidden_matrix(model: nn.Module, key: str, weight: Tensor, encoders: tuple[str, ...]) -> bool:
    """Whether a weight is a matrix inside the layers of an encoder, where Muon belongs."""
    inside = key.startswith(encoders) and "embed" not in key and "pooler" not in key
    return weight.ndim == 2 and inside and not is_table(model, weight)


def _fused_parts(key: str) -> int:
    """Return the number of matrices in a fused one: query, key and value, or the two halves of a gated unit.

    Of LoRA's two factors, the one that reads the input is shared by all of them.
    """
    if ".lora_A." in key:
        return 1
    if "Wqkv" in key or "qkv" in key:
        return 3
    return 2 if ".mlp.Wi." in key and key.endswith(".weight") else 1


def set_learning_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Set every group to its peak rate times ``factor``."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
