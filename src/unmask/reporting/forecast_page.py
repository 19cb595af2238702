"""The page of a forecast, from what ``unmask forecast`` prints with ``--json``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from unmask.reporting.drawing import COLOUR, Chart, Legend, Role, drawing, dress, tick_labels
from unmask.reporting.forecast import absent, change_text, conclusions, headline, interval_text
from unmask.reporting.format import axis_number, count, loss, number, percent, rough_duration
from unmask.reporting.render import environment
from unmask.storage import JsonDict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PURPOSES = {
    "length": "length",
    "repeats": "part of the text, repeated",
    "replay": "with general text",
    "rate": "learning rate",
}
_PARAMETERS = {
    "floor": "loss that is never reached, E",
    "fall": "fall, C",
    "alpha": "exponent, alpha",
    "offset": "offset in tokens",
    "repeats": "passes after which repeats are worth nothing, about",
    "other": "worth of a token of general text for the domain",
    "jump": "jump of the first steps, J",
    "rise": "rise, A",
    "beta": "exponent, beta",
    "shield": "protection by replay, B",
    "learned": "learned from general text, G",
    "passes": "exponent of the passes over the text, p",
}


def render_forecast(found: JsonDict) -> str:
    """Return the page of a forecast.

    Args:
        found: :meth:`unmask.forecasting.forecast.Forecast.to_dict`.
    """
    charts = [_chart(found, "domain", "Loss on the domain")]
    if "general" in found["base"]:
        charts.append(_chart(found, "forgetting", "Rise of the loss on general text, without replay"))
    return (
        environment()
        .get_template("forecast.html.j2")
        .render(
            found=found,
            kind="Forecast",
            name=found["model"],
            verdict=headline(found),
            conclusions=list(conclusions(found)),
            charts=charts,
            horizons=list(_horizon_lines(found)),
            probes=[_probe_row(row, found["base"]) for row in found["probes"]],
            laws=[
                (name, _decision(found, name), found[name]["reasons"], _law_rows(found[name]))
                for name in ("domain", "forgetting")
            ],
            facts=list(_facts(found)),
            back=_back(found["domain"].get("backtest")),
        )
    )


def _horizon_lines(found: JsonDict) -> Iterator[tuple[str, list[str]]]:
    """Yield a name and the text for each horizon: two columns fit on a phone, seven do not."""
    texts: dict[str, Callable[[JsonDict], str]] = {
        "tokens in all": lambda row: count(row["tokens"]),
        "passes": lambda row: number(row["passes"]),
        "time here": lambda row: rough_duration(row["seconds"]),
        "domain loss": lambda row: _or_unknown(row["domain"], lambda found: interval_text(found, loss)),
        "change": lambda row: _or_unknown(row["change"], change_text),
        "forgetting": lambda row: _or_unknown(
            row["forgetting"], lambda found: interval_text(found, signed), without
        ),
        "best replay": lambda row: _or_unknown(
            row["replay"], lambda found: percent(found["best"], 0), without
        ),
    }
    signed, without = partial(loss, signed=True), absent(found)
    for name, text in texts.items():
        yield name, [text(row) for row in found["horizons"]]


def _or_unknown(found: JsonDict | None, text: Any, without: str = "cannot tell") -> str:
    return without if found is None else str(text(found))


def _decision(found: JsonDict, name: str) -> str:
    decision = str(found[name]["decision"])
    return absent(found) if decision == "unknown" else decision


def _probe_row(row: JsonDict, base: JsonDict) -> list[str]:
    return [
        _PURPOSES[row["purpose"]],
        count(row["steps"]),
        count(row["tokens"]),
        number(row["tokens"] / row["text_tokens"]),
        percent(row["replay_share"], 0) if row["replay_share"] else "–",
        f"{number(row['rate'])} x" if row["rate"] != 1 else "–",
        loss(row["domain"]),
        loss(row["general"] - base["general"]["value"], signed=True) if "general" in row else "–",
    ]


def _law_rows(found: JsonDict) -> list[tuple[str, str]]:
    return [(_PARAMETERS[name], interval_text(each, number)) for name, each in found.get("law", {}).items()]


def _back(found: JsonDict | None) -> str | None:
    if found is None:
        return None
    return (
        f"Fitted to the runs of at most a quarter of the longest one, the law forecasts {interval_text(found, loss)} for that one; "
        f"{loss(found['measured'])} was measured."
    )


def _facts(found: JsonDict) -> Iterator[tuple[str, str]]:
    text, settings = found["text"], found["settings"]
    yield "Training text", f"{count(text['documents'])} documents, {count(text['tokens'])} tokens"
    yield (
        "Held out",
        f"{count(text['heldout_documents'])} documents, {count(found['plan']['eval_tokens'])} tokens at most",
    )
    if "general_tokens" in text:
        yield (
            "General text held out",
            f"{count(text['general_documents'])} documents, {count(text['general_tokens'])} tokens",
        )
    yield (
        "Learning rate",
        f"{number(settings['learning_rate'])}, {settings['schedule']} schedule in every run",
    )
    yield "Tokens a step", count(settings["batch_tokens"])
    yield "Probing runs", f"{count(len(found['probes']))} in {rough_duration(found['seconds'])}"
    yield "Seed", count(settings["seed"])


def _chart(found: JsonDict, key: str, title: str) -> Chart:
    """Draw what was measured, and the forecast with its interval, over tokens on a logarithmic axis."""
    base = found["base"]["domain" if key == "domain" else "general"]["value"]
    level = base if key == "domain" else 0.0
    measured = [
        (row["tokens"], row["domain"] if key == "domain" else row["general"] - base)
        for row in found["probes"]
        if row["purpose"] == "length"
    ]
    curve = [(row["tokens"], row[key]) for row in found["curve"] if row[key] is not None]

    # An interval that reaches far beyond all values is cut off: they would be a flat line beside it.
    values = [level, *(each for _, each in measured), *(each["value"] for _, each in curve)]
    lowest, highest = 2 * min(values) - max(values), 2 * max(values) - min(values)
    ends = [end for _, each in curve for end in each["interval"]]
    cut = ", cut off where wide" if any(not lowest <= end <= highest for end in ends) else ""

    def paint(axes: Axes) -> None:
        if curve:
            xs = [at for at, _ in curve]
            low, high = zip(*(each["interval"] for _, each in curve), strict=True)
            axes.fill_between(xs, low, high, color=COLOUR["baseline"], alpha=0.18, linewidth=0)
            middle = [each["value"] for _, each in curve]
            axes.plot(xs, middle, color=COLOUR["baseline"], linewidth=2.0, linestyle="--")
        axes.plot(
            *zip(*measured, strict=True), linestyle="none", marker="D", markersize=5.5, color=COLOUR["train"]
        )
        axes.axhline(level, color=COLOUR["before"], linewidth=1.5, linestyle=(0, (1.2, 2.2)))
        _dress(axes, [at for at, _ in measured] + [at for at, _ in curve])
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, lowest), min(top, highest))

    legend: list[tuple[str, Role]] = [("measured", "point")]
    if curve:
        legend.append((f"forecast, 90% interval{cut}", "baseline"))
    legend.append(("before training", "before"))
    svg = drawing(key, _summary(title, measured, curve, level), (440, 285), (52, 42, 14, 10), paint)
    return Chart(key, title, svg, tuple(Legend(label, role) for label, role in legend))


def _dress(axes: Axes, tokens: Sequence[float]) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(min(tokens) / 1.3, max(tokens) * 1.3)
    axes.xaxis.set_major_locator(LogLocator(numticks=6))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    tick_labels(axes.xaxis, _tokens)
    tick_labels(axes.yaxis, axis_number)
    dress(axes, 13)
    axes.set_xlabel("tokens", fontsize=13, color=COLOUR["axis"], labelpad=6)


def _tokens(value: float) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _summary(
    title: str, measured: Sequence[tuple[float, float]], curve: Sequence[tuple[float, JsonDict]], level: float
) -> str:
    parts = [
        f"{title} over tokens. Before training {loss(level)}; measured {loss(measured[0][1])} to {loss(measured[-1][1])}."
    ]
    if curve:
        parts.append(f"Forecast for {_tokens(curve[-1][0])} tokens: {interval_text(curve[-1][1], loss)}.")
    return " ".join(parts)
