"""The last layer, computed where something is to be predicted and nowhere else.

What the last layer makes of a place that is not asked about reaches nothing; only the keys and values there do. So the
places that are asked about are picked between its attention and all that follows, which is most of a layer, and not
behind it. How a layer is built is not known but found: the layer is handed the chosen rows for what goes around its
attention, one module within it, which leads to keys and values, is handed all rows, and the first module behind the
attention gets the chosen ones of its output. Which module is the one, a trial shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from unmask.errors import ConfigError
from unmask.model.attention import packed_attention, register
from unmask.model.depth import encoder_layers


class LastLayerGate:
    """Lets a layer compute chosen rows of ``[1, T, H]`` while an index is set, and all of them otherwise.

    Args:
        layer: the last layer of an encoder, called once in a pass.
        entry: the module in it that gets all rows.
        behind: the first module behind its attention.

    Attributes:
        index: ``int64 [M]``, the rows to compute.
    """

    def __init__(self, layer: nn.Module, entry: nn.Module, behind: nn.Module) -> None:
        self.index: Tensor | None = None
        self._all: Tensor | None = None
        self._chosen: Tensor | None = None
        self._hooks = (
            layer.register_forward_pre_hook(self._choose),
            entry.register_forward_pre_hook(self._give_all, with_kwargs=True),
            behind.register_forward_pre_hook(self._choose_again),
        )

    def remove(self) -> None:
        """Leave the layer as it was."""
        for hook in self._hooks:
            hook.remove()

    def _choose(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self.index is None:
            return None
        self._all, self._chosen = args[0], args[0].index_select(1, self.index)
        return (self._chosen, *args[1:])

    def _give_all(
        self, _: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self.index is None:
            return None
        everything, chosen = self._all, self._chosen
        self._all = self._chosen = None  # held no longer than needed
        return (
            tuple(everything if value is chosen else value for value in args),
            {name: everything if value is chosen else value for name, value in named.items()},
        )

    def _choose_again(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self.index is None:
            return None
        return (args[0].index_select(1, self.index), *args[1:])


def find_gate(
    model: Any, run: Callable[[], Any], works: Callable[[LastLayerGate], bool]
) -> LastLayerGate | None:
    """Return a gate at the last layer of a model, or ``None`` where it cannot have one.

    Args:
        model: a masked-LM model of transformers that takes packed rows.
        run: runs a packed row through it.
        works: whether the model gives the same with the gate as without.
    """
    try:
        layer = encoder_layers(model)[1][-1]
    except ConfigError:
        return None
    entries, behind = _watch(layer, run)
    if behind is None:
        return None
    for entry in entries:
        gate = LastLayerGate(layer, entry, behind)
        try:
            if works(gate):
                return gate
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            # The trial is the test: a module that is not the one says so by failing here.
            pass
        gate.remove()
    return None


def _watch(layer: nn.Module, run: Callable[[], Any]) -> tuple[list[nn.Module], nn.Module | None]:
    """Return the modules that a layer calls with its own input before its attention, and the first one behind it."""
    inputs: list[Any] = []
    entries: list[nn.Module] = []
    behind: list[nn.Module] = []
    attended = False

    def enter(_: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal attended
        inputs.append(args[0] if args else None)
        attended = False

    def see(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        if attended:
            behind.append(module)
        elif inputs and inputs[-1] is not None and any(x is inputs[-1] for x in (*args, *named.values())):
            entries.append(module)

    def attend(*args: Any, **named: Any) -> tuple[Tensor, None]:
        nonlocal attended
        attended = bool(inputs)
        return packed_attention(*args, **named)

    hooks = [layer.register_forward_pre_hook(enter)]
    inside = (module for module in layer.modules() if module is not layer)
    hooks += [module.register_forward_pre_hook(see, with_kwargs=True) for module in inside]
    register(attend)
    try:
        run()
    finally:
        register()
        for hook in hooks:
            hook.remove()
    # A layer that stands for several, as in ALBERT, is no last one.
    return (entries, behind[0]) if len(inputs) == 1 and behind else ([], None)
