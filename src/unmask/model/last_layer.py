"""Compute the last layer at the targets only.

The last layer's output at a position that is no target is not used; only the keys and values there are. So the targets
are selected inside it, after the keys and values and before everything else, which is most of a layer. How a layer is built is found by trial: the layer is handed the chosen rows for what goes around its
attention, one module within it, which leads to keys and values, is handed all rows, and the first module behind the
attention gets the chosen ones of its output. Which module is the one, a trial shows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from unmask.errors import ConfigError
from unmask.model.attention import packed_attention, register
from unmask.model.layers import encoder_layers
from unmask.model.packed_layout import PackedLayout


class _Rows(NamedTuple):
    """What the last layer computes in a pass: ``[1, M, H]`` chosen of all ``[1, T, H]``, and where, ``int64 [M]``."""

    chosen: Tensor
    everything: Tensor
    places: Tensor


class LastLayer:
    """The last layer of an encoder, which computes the targets of a :class:`PackedLayout` alone where it has some.

    Args:
        layer: called once in a pass; it then returns ``[1, M, H]`` in place of ``[1, T, H]``.
        entry: name of the module in it that gets all rows.
        behind: name of the first module behind its attention.
    """

    def __init__(self, layer: nn.Module, entry: str, behind: str) -> None:
        # Names, since a module may be replaced, by one with an adapter for example.
        self._layer, self._names = layer, (entry, behind)
        self._state: _Rows | None = None
        self._hooked: list[nn.Module] = []
        self._inner: tuple[RemovableHandle, ...] = ()
        self._hooks = (
            layer.register_forward_pre_hook(self._begin, with_kwargs=True),
            layer.register_forward_hook(self._end, always_call=True),
        )
        self._hook_inner()

    def remove(self) -> None:
        """Let the layer compute all rows again."""
        for hook in (*self._inner, *self._hooks):
            hook.remove()

    def _hook_inner(self) -> None:
        """Have the hooks on the modules that have these names now, not in every pass, which could not be compiled."""
        modules = [self._layer.get_submodule(name) for name in self._names]
        if self._hooked and all(was is now for was, now in zip(self._hooked, modules, strict=True)):
            return
        for hook in self._inner:
            hook.remove()
        self._hooked = modules
        self._inner = (
            modules[0].register_forward_pre_hook(self._give_all, with_kwargs=True),
            modules[1].register_forward_pre_hook(self._choose),
        )

    def _begin(
        self, layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._state = None
        layout = named.get("layout")
        if not args or not isinstance(layout, PackedLayout) or layout.targets is None:
            return None
        self._hook_inner()
        chosen = args[0].index_select(1, layout.targets)
        self._state = _Rows(chosen, args[0], layout.targets)
        return (chosen, *args[1:]), named

    def _choose(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._state is None:
            return None
        return (args[0].index_select(1, self._state.places), *args[1:])

    def _give_all(
        self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Hand a module all rows where its layer has the chosen ones."""
        if self._state is None:
            return None
        chosen, everything = self._state.chosen, self._state.everything
        if not any(value is chosen for value in (*args, *named.values())):
            raise RuntimeError(
                f"{type(module).__name__} in the last layer was not called with what the layer was called with; with "
                f"gradient checkpoints, enable those with use_reentrant=False"
            )
        return (
            tuple(everything if value is chosen else value for value in args),
            {name: everything if value is chosen else value for name, value in named.items()},
        )

    def _end(self, layer: nn.Module, *_: Any) -> None:
        # With gradient checkpoints what is in the layer is called again in the backward pass, the layer itself is not.
        if not getattr(layer, "gradient_checkpointing", False):
            self._state = None


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
