"""Compute the last layer at the targets only.

The last layer's output at a position that is no target is not used; only the keys and values there are. So the targets
are selected inside it, after the keys and values and before everything else, which is most of a layer. How a layer is built is found by trial: the layer is handed the chosen rows for what goes around its
attention, one module within it, which leads to keys and values, is handed all rows, and the first module behind the
attention gets the chosen ones of its output. Which module is the one, a trial shows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from unmask.errors import ConfigError
from unmask.model.attention import PackedLayout, packed_attention, register
from unmask.model.layers import encoder_layers


class LastLayer:
    """The last layer of an encoder, which computes the targets of a :class:`PackedLayout` alone where it has some.

    Args:
        layer: called once in a pass; it then returns ``[1, M, H]`` in place of ``[1, T, H]``.
        entry: name of the module in it that gets all rows.
        behind: name of the first module behind its attention.
    """

    def __init__(self, layer: nn.Module, entry: str, behind: str) -> None:
        # Names, since a module may be replaced, by one with an adapter for example.
        self._layer, self._entry, self._behind = layer, entry, behind
        self._inner: tuple[RemovableHandle, ...] = ()
        self._hooks = (
            layer.register_forward_pre_hook(self._begin, with_kwargs=True),
            layer.register_forward_hook(self._end, always_call=True),
        )

    def remove(self) -> None:
        """Let the layer compute all rows again."""
        self._leave()
        for hook in self._hooks:
            hook.remove()

    def _begin(
        self, layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._leave()
        layout = named.get("layout")
        if not args or not isinstance(layout, PackedLayout) or layout.targets is None:
            return None
        index, everything = layout.targets, args[0]

        def choose(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (args[0].index_select(1, index), *args[1:])

        args = choose(layer, args)
        give_all = partial(_replace, args[0], everything)
        self._inner = (
            layer.get_submodule(self._entry).register_forward_pre_hook(give_all, with_kwargs=True),
            layer.get_submodule(self._behind).register_forward_pre_hook(choose),
        )
        return args, named

    def _end(self, layer: nn.Module, *_: Any) -> None:
        # With gradient checkpoints what is in the layer is called again in the backward pass, the layer itself is not.
        if not getattr(layer, "gradient_checkpointing", False):
            self._leave()

    def _leave(self) -> None:
        for hook in self._inner:
            hook.remove()
        self._inner = ()


def _replace(
    chosen: Tensor, everything: Tensor, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Hand a module all rows where its layer has the chosen ones."""
    if not any(value is chosen for value in (*args, *named.values())):
        raise RuntimeError(
            f"{type(module).__name__} in the last layer was not called with what the layer was called with; with gradient "
            f"checkpoints, enable those with use_reentrant=False"
        )
    return (
        tuple(everything if value is chosen else value for value in args),
        {name: everything if value is chosen else value for name, value in named.items()},
    )


def shorten_last_layer(model: Any, run: Callable[[], Any], works: Callable[[], bool]) -> bool:
    """Let the last layer of a model compute the targets of a layout alone.

    Args:
        model: a masked-LM model of transformers that takes packed rows.
        run: runs a packed row through it.
        works: whether a layout with targets gives the rows there, and the same ones.

    Returns:
        Whether it does so now; not every layer can.
    """
    if _holds(works):  # a model that was dealt with before
        return True
    try:
        layer = encoder_layers(model)[1][-1]
    except ConfigError:
        return False
    entries, behind = _watch(layer, run)
    for entry in entries if behind else ():
        found = LastLayer(layer, entry, behind)
        if _holds(works):
            return True
        found.remove()
    return False


def _holds(works: Callable[[], bool]) -> bool:
    try:
        return works()
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        # The trial is the test: a module that is not the right one fails here.
        return False


def _watch(layer: nn.Module, run: Callable[[], Any]) -> tuple[list[str], str]:
    """Return the modules that a layer calls with its own input before its attention, and the first one behind it."""
    inputs: list[Any] = []
    entries: list[str] = []
    behind: list[str] = []
    attended = False

    def enter(_: nn.Module, args: tuple[Any, ...]) -> None:
        inputs.append(args[0] if args else None)

    def see(name: str, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        if attended:
            behind.append(name)
        elif inputs and inputs[-1] is not None and any(x is inputs[-1] for x in (*args, *named.values())):
            entries.append(name)

    def attend(*args: Any, **named: Any) -> tuple[Tensor, None]:
        nonlocal attended
        attended = bool(inputs)
        return packed_attention(*args, **named)

    hooks = [layer.register_forward_pre_hook(enter)]
    for name, module in layer.named_modules():
        if name:
            hook = partial(lambda name, _, args, named: see(name, args, named), name)
            hooks.append(module.register_forward_pre_hook(hook, with_kwargs=True))
    register(attend)
    try:
        run()
    finally:
        register()
        for handle in hooks:
            handle.remove()
    # A layer that stands for several, as in ALBERT, is no last one.
    return (entries, behind[0]) if len(inputs) == 1 and behind else ([], "")
