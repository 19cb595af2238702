"""The line between the weights of a base model and of the adapted one (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903).

Both ends are on disk, so that there is one model in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


class MixedWeights:
    """Sets a model to any point between its base and its adapted weights.

    Args:
        folder: where both ends are written; an empty folder of the caller.
        base: loads the base model, of the same class; it is not kept.
        adapted: the adapted model, whose adapters are merged.

    Attributes:
        without_base: names of the weights that the base lacks or has in another shape; they keep their adapted value.
    """

    def __init__(self, folder: Path, base: Callable[[], nn.Module], adapted: nn.Module) -> None:
        self._ends = folder / "base.safetensors", folder / "adapted.safetensors"
        adapted_shapes = _save(adapted, self._ends[1])
        base_shapes = _save(base(), self._ends[0])
        self.without_base = [name for name, shape in adapted_shapes.items() if base_shapes.get(name) != shape]

    @torch.no_grad()
    def set(self, model: nn.Module, alpha: float) -> None:
        """Set the weights to ``(1 - alpha) · base + alpha · adapted``, computed in fp32; both ends are exact.

        Tied weights are one weight, so that they stay tied.
        """
        missing = set(self.without_base)
        with (
            safe_open(self._ends[0], framework="pt") as base,
            safe_open(self._ends[1], framework="pt") as adapted,
        ):
            for name, weight in model.named_parameters():
                end = adapted.get_tensor(name).float()
                mixed = end if name in missing else torch.lerp(base.get_tensor(name).float(), end, alpha)
                weight.copy_(mixed)


def _save(model: nn.Module, file: Path) -> dict[str, torch.Size]:
    """Write the weights of a model, tied ones once, and return their shapes."""
    weights: dict[str, Tensor] = {
        name: weight.detach().cpu().contiguous() for name, weight in model.named_parameters()
    }
    save_file(weights, file)
    return {name: weight.shape for name, weight in weights.items()}
