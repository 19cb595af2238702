"""The last layer, computed where something is to be predicted and nowhere else.

What the last layer makes of a place that is not asked about reaches nothing; only the keys and values there do. So the
places that are asked about are picked between its attention and all that follows, which is most of a layer, and not
behind it. How a layer is built is not known but found: the layer is handed the chosen rows for what goes around its
attention, one module within it, which leads to keys and values, is handed all rows, and the first module behind the
attention gets the chosen ones of its output. Which module is the one, a trial shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from unmask.errors import ConfigError
from unmask.model.attention import packed_attention, register
from unmask.model.depth import encoder_layers


class LastLayer:
    """The last layer of an encoder, which can be told to compute chosen rows of ``[1, T, H]`` alone.

    Args:
        layer: called once in a pass.
        entry: name of the module in it that gets all rows.
        behind: name of the first module behind its attention.
    """

    def __init__(self, layer: nn.Module, entry: str, behind: str) -> None:
        # Names, since a module may be replaced, by one with an adapter for example.
        self._layer, self._entry, self._behind = layer, entry, behind
        self._all: Tensor | None = None
        self._chosen: Tensor | None = None

    @contextmanager
    def computing(self, index: Tensor) -> Iterator[None]:
        """Let passes in this context compute ``int64 [M]`` rows: the layer then returns ``[1, M, H]``."""

        def choose(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (args[0].index_select(1, index), *args[1:])

        def begin(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            chosen = choose(module, args)
            self._all, self._chosen = args[0], chosen[0]
            return chosen

        layer = self._layer
        hooks = (
            layer.register_forward_pre_hook(begin),
            layer.get_submodule(self._entry).register_forward_pre_hook(self._give_all, with_kwargs=True),
            layer.get_submodule(self._behind).register_forward_pre_hook(choose),
        )
        try:
            yield
        finally:
            self._all = self._chosen = None
            for hook in hooks:
                hook.remove()

    def _give_all(
        self, _: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        everything, chosen = self._all, self._chosen
        return (
            tuple(everything if value is chosen else value for value in args),
            {name: everything if value is chosen else value for name, value in named.items()},
        )


def find_last_layer(
    model: Any, run: Callable[[], Any], works: Callable[[LastLayer], bool]
) -> LastLayer | None:
    """Return the last layer of a model, or ``None`` where it cannot compute chosen rows alone.

    Args:
        model: a masked-LM model of transformers that takes packed rows.
        run: runs a packed row through it.
        works: whether the model gives the same when the layer computes some rows alone.
    """
    try:
        layer = encoder_layers(model)[1][-1]
    except ConfigError:
        return None
    entries, behind = _watch(layer, run)
    for entry in entries if behind else ():
        found = LastLayer(layer, entry, behind)
        try:
            if works(found):
                return found
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            # The trial is the test: a module that is not the one says so by failing here.
            pass
    return None


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
