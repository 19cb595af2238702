"""The curves of a run as charts of the report.

A value that is NaN or infinite is never dropped: it breaks the line and is a cross at the top of the chart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from unmask.reporting.drawing import COLOUR, Chart, Legend, Role, drawing, dress, three_digits, tick_labels
from unmask.reporting.format import (
    as_float,
    axis_number,
    axis_percent,
    axis_thousands,
    loss,
    own_name,
    percent,
)
from unmask.storage import JsonDict

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_DASH: dict[str, Any] = {
    "before": (0, (1.2, 2.2)),
    "baseline": (0, (6, 2.5)),
    "baseline2": (0, (6, 2.5, 1.2, 2.5)),
    "baseline3": (0, (6, 2.5, 1.2, 2.5, 1.2, 2.5)),
    "quiet": (0, (3, 2)),
    "train": "solid",
}
_MOST_POINTS = 600
_MOST_CROSSES = 200
_SMOOTH_SHARE = 0.04


@dataclass(frozen=True)
class _Line:
    """One line of a chart; ``ys`` has NaN where a value is NaN or infinite."""

    label: str
    role: Role
    xs: Sequence[float]
    ys: Sequence[float]
    smooth: bool = False


@dataclass(frozen=True)
class _Sketch:
    """A chart before it is drawn; ``levels`` are horizontal lines, ``marks`` vertical ones."""

    key: str
    title: str
    x_label: str
    lines: Sequence[_Line]
    levels: Sequence[tuple[str, Role, float]] = ()
    marks: Sequence[tuple[str, Role, float]] = ()
    tick: Callable[[float], str] = axis_number
    from_zero: bool = False
    small: bool = False


def not_finite_steps(rows: Iterable[JsonDict], key: str) -> list[int]:
    """Return the steps of the rows whose value of ``key`` is NaN or infinite."""
    return [int(row["step"]) for row in rows if row.get(key) is not None and math.isnan(as_float(row[key]))]


def main_charts(
    training: Sequence[JsonDict], heldout: Sequence[JsonDict], levels: Mapping[str, JsonDict]
) -> list[Chart]:
    """Draw the loss (training and held out, one pair of axes) and the held-out accuracy.

    Args:
        training: rows with ``step``, ``tokens`` and ``loss`` (natural logarithm, per masked token).
        heldout: rows with ``step``, ``tokens``, ``eval_loss`` and ``eval_accuracy`` (0 to 1).
        levels: what to draw as horizontal lines, by name: rows with ``accuracy``. The name ``before training`` is
            the starting checkpoint, whose ``loss`` is drawn too.

    Returns:
        The charts for which there is at least one row.
    """
    axis = _axis([*training, *heldout])
    roles: Iterator[Role] = iter(("baseline", "baseline2", "baseline3"))
    accuracies: list[tuple[str, Role, float]] = [
        (name, "before" if name == "before training" else next(roles, "quiet"), as_float(row.get("accuracy")))
        for name, row in levels.items()
    ]
    before = as_float(levels.get("before training", {}).get("loss"))
    stages = _stages(training)
    loss = _Sketch(
        "loss",
        "Loss",
        axis.label,
        [
            *(
                line
                for name, role, rows in stages
                for line in _line(name, role, axis, rows, _of_masked_tokens(rows), smooth=True)
            ),
            *_line("held out", "heldout", axis, heldout, "eval_loss"),
        ],
        [("held out, before training", "before", before)],
        marks=[
            ("masked tokens from here on", "before", _place(axis, rows[0])) for *_, rows in stages[1:] if rows
        ],
    )
    accuracy = _Sketch(
        "accuracy",
        "Held-out accuracy",
        axis.label,
        _line("this model", "heldout", axis, heldout, "eval_accuracy"),
        accuracies,
        tick=axis_percent,
        from_zero=True,
    )
    return [_draw(sketch) for sketch in (loss, accuracy) if sketch.lines]


def _stages(training: Sequence[JsonDict]) -> list[tuple[str, Role, Sequence[JsonDict]]]:
    """Return the rows of each part of a run, whose losses are of different targets: of a causal detour, and of what follows.

    Returns:
        The label of their line, its style and the rows; one entry for a run in one part.
    """
    detour = [row for row in training if row.get("objective") == "clm"]
    rest = [row for row in training if row.get("objective") != "clm"]
    if not detour:
        several = _of_masked_tokens(training) != "loss"
        return [("training, masked tokens" if several else "training", "train", training)]
    return [
        ("training, next tokens (causal detour)", "quiet", detour),
        ("training, masked tokens", "train", rest),
    ]


def _of_masked_tokens(rows: Sequence[JsonDict]) -> str:
    """Return the key of the loss that compares with the held-out one: of several losses, that of masked tokens."""
    return "mlm_loss" if any("mlm_loss" in row for row in rows) else "loss"


def _place(axis: _Axis, row: JsonDict) -> float:
    return float(row[axis.key]) / axis.scale


def small_charts(training: Sequence[JsonDict]) -> list[Chart]:
    """Draw learning rate, mask rate, gradient norm and speed, where the training rows have them."""
    axis = _axis(training)
    wanted: list[tuple[str, str, Callable[[float], str]]] = [
        ("learning_rate", "Learning rate", axis_number),
        ("mask_rate", "Mask rate", axis_percent),
        ("grad_norm", "Gradient norm", axis_number),
        ("tokens_per_second", "Tokens per second", axis_thousands),
    ]
    # Of an objective with several losses, each by its name.
    several = dict.fromkeys(key for row in training for key in row if key.endswith("_loss"))
    wanted += [(key, own_name(key), axis_number) for key in several]
    sketches = [
        _Sketch(key, title, axis.label, lines, tick=tick, from_zero=True, small=True)
        for key, title, tick in wanted
        if (lines := _line(title.lower(), "quiet", axis, training, key))
    ]
    return [_draw(sketch) for sketch in sketches]


def course_chart(
    heldout: Sequence[JsonDict], start: JsonDict, marks: Sequence[tuple[str, Role, JsonDict]] = ()
) -> Chart | None:
    """Draw the loss on held-out text of the domain, and of general text where it was measured, from the base on.

    Args:
        heldout: rows with ``step``, ``tokens``, ``eval_loss`` and, where there is general text, ``general_loss``.
        start: the losses of the base.
        marks: evaluations to mark by a vertical line: what it is called, its style and its row.
    """
    axis = _axis(heldout)
    rows = [{"step": 0, "tokens": 0, **start}, *heldout]
    drawn = [
        *_line("domain", "heldout", axis, rows, "eval_loss"),
        *_line("general", "baseline", axis, rows, "general_loss"),
    ]
    places = [(label, role, _place(axis, row)) for label, role, row in marks]
    return _draw(_Sketch("course", "Held-out loss", axis.label, drawn, marks=places)) if heldout else None


def trade_off_chart(points: Sequence[JsonDict], exported: float) -> Chart:
    """Draw the change of the general loss against the gain on the domain, in percent of the base's loss.

    Args:
        points: by alpha, with the ``relative`` changes of ``domain`` and ``general``.
        exported: the alpha that is marked.
    """
    gains, lost = (
        [100 * sign * as_float(each[text]["relative"]["value"]) for each in points]
        for text, sign in (("domain", -1), ("general", 1))
    )
    at = min(range(len(points)), key=lambda place: abs(points[place]["alpha"] - exported))

    def paint(axes: Axes) -> None:
        axes.axhline(0, color=COLOUR["before"], linewidth=1.2, linestyle=_DASH["before"])
        axes.plot(gains, lost, color=COLOUR["heldout"], linewidth=2, marker="o", markersize=4.5)
        axes.plot(gains[at], lost[at], color=COLOUR["train"], marker="D", markersize=9, linestyle="none")
        for place in sorted({0, len(points) // 2, len(points) - 1}):
            axes.annotate(
                f"{points[place]['alpha']:g}", (gains[place], lost[place]), (0, 8), textcoords="offset points",
                ha="center", fontsize=12, color=COLOUR["axis"],
            )  # fmt: skip
        axes.margins(0.08, 0.16)
        tick_labels(axes.yaxis, lambda value: f"{axis_number(value)}%")
        tick_labels(axes.xaxis, lambda value: f"{axis_number(value)}%")
        dress(axes, 13)
        axes.set_xlabel("fall of the loss on the domain", fontsize=13, color=COLOUR["axis"], labelpad=6)

    said = "; ".join(
        f"alpha {each['alpha']:g}: domain loss {-gain:+.1f}%, general loss {change:+.1f}%"
        for each, gain, change in zip(points, gains, lost, strict=True)
    )
    svg = drawing("trade-off", f"Gain against forgetting. {said}.", (440, 285), (48, 42, 14, 12), paint)
    legend = (
        Legend("rise of the loss on general text, alpha 0 to 1", "heldout"),
        Legend(f"exported, alpha {exported:g}", "point"),
        Legend("nothing forgotten", "before"),
    )
    return Chart("trade-off", "Gain against forgetting", svg, legend)


@dataclass(frozen=True)
class _Axis:
    key: str
    scale: float
    label: str


def _axis(rows: Sequence[JsonDict]) -> _Axis:
    """Tokens seen, in thousands, millions or billions; steps where a row has no tokens."""
    if not all(math.isfinite(as_float(row.get("tokens"))) for row in rows):
        return _Axis("step", 1.0, "step")
    most = max((float(row["tokens"]) for row in rows), default=0.0)
    for scale, unit in ((1e9, "billion tokens"), (1e6, "million tokens"), (1e3, "thousand tokens")):
        if most >= scale:
            return _Axis("tokens", scale, f"{unit} seen")
    return _Axis("tokens", 1.0, "tokens seen")


def _line(
    label: str, role: Role, axis: _Axis, rows: Sequence[JsonDict], key: str, *, smooth: bool = False
) -> list[_Line]:
    """The line of one key, or nothing where no row has it."""
    rows = [row for row in rows if row.get(key) is not None]
    xs = [float(row[axis.key]) / axis.scale for row in rows]
    return [_Line(label, role, xs, [as_float(row[key]) for row in rows], smooth)] if rows else []


def smooth(values: Sequence[float], width: int) -> list[float]:
    """Return the mean of the ``width`` values around each place; NaN stays NaN and is left out of the means.

    Args:
        values: [N] numbers, NaN allowed.
        width: how many values a mean takes, itself and its neighbours; fewer at both ends.
    """
    sums = list(accumulate((0.0 if math.isnan(value) else value for value in values), initial=0.0))
    counts = list(accumulate((not math.isnan(value) for value in values), initial=0))
    result = []
    for place, value in enumerate(values):
        low, high = max(0, place - width // 2), min(len(values), place + width // 2 + 1)
        mean = (sums[high] - sums[low]) / max(1, counts[high] - counts[low])
        result.append(math.nan if math.isnan(value) else mean)
    return result


def thin(xs: Sequence[float], ys: Sequence[float], most: int) -> tuple[list[float], list[float]]:
    """Return at most about ``most`` points that keep the ends, and every bucket's lowest and highest value and gap.

    Args:
        xs: [N] positions, ascending.
        ys: [N] values, NaN where the line breaks.
        most: how many points to keep; fewer points come back unchanged.
    """
    if len(xs) <= most:
        return list(xs), list(ys)
    size = math.ceil(2 * len(xs) / most)
    keep: list[int] = []
    for start in range(0, len(xs), size):
        bucket = range(start, min(start + size, len(xs)))
        known = [place for place in bucket if not math.isnan(ys[place])]
        extremes = {min(known, key=ys.__getitem__), max(known, key=ys.__getitem__)} if known else set()
        gap = [place for place in bucket if math.isnan(ys[place])][:1]
        ends = {0, len(xs) - 1} & {bucket[0], bucket[-1]}
        keep.extend(sorted({*extremes, *gap, *ends}))
    return [xs[place] for place in keep], [ys[place] for place in keep]


def _draw(sketch: _Sketch) -> Chart:
    def paint(axes: Axes) -> None:
        for line in sketch.lines:
            _draw_line(axes, line, sketch.small)
        _draw_levels(axes, sketch)
        for _, role, place in sketch.marks:
            axes.axvline(place, color=COLOUR[role], linewidth=1.3, linestyle=_DASH[role], zorder=1)
        _dress(axes, sketch)

    size = (200, 112) if sketch.small else (440, 285)
    margins = (40, 20, 8, 8) if sketch.small else (44, 42, 10, 10)
    svg = drawing(sketch.key, _summary(sketch), size, margins, paint)
    return Chart(sketch.key, sketch.title, svg, tuple(_legend(sketch)))


def _draw_line(axes: Axes, line: _Line, small: bool) -> None:
    colour = COLOUR[line.role]
    xs, ys = thin(line.xs, line.ys, _MOST_POINTS)
    strong: dict[str, Any] = {"color": colour, "linewidth": 1.4 if small else 2.0, "solid_capstyle": "round"}
    if line.role == "baseline" or (line.role == "quiet" and not small):  # as their legends show them
        strong["linestyle"] = _DASH[line.role]
    if line.smooth and len(line.ys) >= 20:
        axes.plot(xs, ys, color=colour, linewidth=0.9, alpha=0.35)
        width = max(3, round(_SMOOTH_SHARE * len(line.ys)))
        axes.plot(*thin(line.xs, smooth(line.ys, width), _MOST_POINTS), **strong)
    else:
        # Dots keep a single value visible, alone or between two gaps; they tell the held-out line from the others.
        dots = line.role == "heldout" or len(xs) == 1
        every = max(1, len(xs) // 20)
        axes.plot(xs, ys, marker="o" if dots and not small else "", markersize=4.5, markevery=every, **strong)
    _draw_crosses(axes, [x for x, y in zip(line.xs, line.ys, strict=True) if math.isnan(y)])


def _draw_crosses(axes: Axes, xs: Sequence[float]) -> None:
    """Draw a cross at the top for values that are NaN or infinite, at most as many as can be seen."""
    step = math.ceil(len(xs) / _MOST_CROSSES) or 1
    top = axes.get_xaxis_transform()
    style: dict[str, Any] = {
        "color": COLOUR["bad"],
        "marker": "x",
        "markersize": 6,
        "markeredgewidth": 1.8,
        "clip_on": False,
    }
    axes.plot(xs[::step], [0.965] * len(xs[::step]), linestyle="none", transform=top, **style)


def _draw_levels(axes: Axes, sketch: _Sketch) -> None:
    for _, role, value in sketch.levels:
        if not math.isnan(value):
            axes.axhline(value, color=COLOUR[role], linewidth=1.5, linestyle=_DASH[role])


def _dress(axes: Axes, sketch: _Sketch) -> None:
    """Draw axes, ticks and labels."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    _set_heights(axes, sketch)
    size = 11 if sketch.small else 13
    parts: dict[str, Any] = {"nbins": 3 if sketch.small else 8, "steps": [1, 2, 5, 10]}
    linear = axes.get_yscale() == "linear"
    axes.yaxis.set_major_locator(MaxNLocator(**parts) if linear else LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    tick_labels(axes.yaxis, sketch.tick)
    axes.xaxis.set_major_locator(MaxNLocator(**parts))
    tick_labels(axes.xaxis, axis_number)
    dress(axes, size)
    if not sketch.small:
        axes.set_xlabel(sketch.x_label, fontsize=size, color=COLOUR["axis"], labelpad=6)


def _set_heights(axes: Axes, sketch: _Sketch) -> None:
    """Set the limits: from zero for shares, logarithmic where a spike would flatten the rest."""
    values = [y for line in sketch.lines for y in line.ys] + [value for *_, value in sketch.levels]
    known = [value for value in values if not math.isnan(value)]
    if sketch.from_zero:
        axes.set_ylim(0, 1.08 * max(known, default=0) or 1)
    elif known and min(known) > 0 and max(known) > 20 * min(known):
        axes.set_yscale("log")
    starts = [line.xs[0] for line in sketch.lines]
    ends = [line.xs[-1] for line in sketch.lines]
    low, high = min(0.0, *starts), max(ends)
    if high > low:
        axes.set_xlim(low, high + 0.015 * (high - low))


def _legend(sketch: _Sketch) -> Iterator[Legend]:
    for line in sketch.lines:
        yield Legend(line.label, line.role)
    for label, role, value in sketch.levels:
        if not math.isnan(value):
            text = percent(value) if sketch.tick is axis_percent else loss(value)
            yield Legend(f"{label} {text}", role)
    for label, role, _ in sketch.marks:
        yield Legend(label, role)
    if any(math.isnan(y) for line in sketch.lines for y in line.ys):
        yield Legend("NaN or infinite", "bad")


def _summary(sketch: _Sketch) -> str:
    """The chart in words, for a screen reader."""
    parts = [f"{sketch.title} over {sketch.x_label}."]
    for line in sketch.lines:
        known = [y for y in line.ys if not math.isnan(y)]
        span = (
            f"from {sketch.tick(three_digits(known[0]))} to {sketch.tick(three_digits(known[-1]))}"
            if known
            else "no value"
        )
        missing = len(line.ys) - len(known)
        parts.append(f"{line.label}: {span}" + (f", {missing} not finite." if missing else "."))
    parts += [
        f"{label}: {sketch.tick(three_digits(v))}." for label, _, v in sketch.levels if not math.isnan(v)
    ]
    parts += [f"Marked: {label}." for label, *_ in sketch.marks]
    return " ".join(parts)
