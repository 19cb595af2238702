"""The verb ``forecast``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

from unmask.cli import options
from unmask.cli import runtime as shell
from unmask.cli.terminal import Page
from unmask.errors import ConfigError, plural
from unmask.reporting.forecast import absent, change_text, conclusions, headline, interval_text
from unmask.reporting.format import loss, rough_duration
from unmask.storage import JsonDict

Minutes = Annotated[
    float,
    options.length(
        "--minutes", metavar="MINUTES", min=0.01, help="Limit of all probing runs together, in minutes."
    ),
]
Plan = Annotated[
    Path | None,
    options.length(
        "--plan", metavar="FILE", help="Repeat the probing runs of an earlier forecast: its JSON."
    ),
]
GeneralText = Annotated[
    list[str] | None,
    options.text("--general", metavar="PATH", help="General text: a share measures forgetting, the rest is replayed; may be repeated."),
]  # fmt: skip
PlannedShare = Annotated[
    float | None,
    options.text("--replay-share", metavar="SHARE", min=0.001, max=0.9, show_default="the best is sought", help="Share of general text in the run that is planned."),
]  # fmt: skip


def forecast(
    text: options.TextArgument,
    model: options.ModelToAdapt = None,
    general: GeneralText = None,
    replay_share: PlannedShare = None,
    minutes: Minutes = 5.0,
    plan: Plan = None,
    heldout: options.Heldout = None,
    documents: options.DocumentsOption = None,
    text_field: options.TextField = None,
    encoding: options.Encoding = None,
    delimiter: options.Delimiter = None,
    markup: options.MarkupOption = None,
    max_length: options.MaxLength = None,
    batch_tokens: options.BatchTokens = None,
    learning_rate: options.LearningRate = None,
    mask_rate: options.MaskRate = None,
    strategy: options.StrategyOption = None,
    config_file: options.ConfigFile = None,
    overrides: options.Overrides = None,
    device: options.DeviceOption = None,
    precision: options.PrecisionOption = None,
    seed: options.Seed = None,
    offline: options.Offline = False,
    html: options.Html = None,
    as_json: options.Json = False,
) -> None:
    """Forecast what adapting would bring, from short runs.

    Short probing runs are extrapolated to 10 and 100 times their tokens: loss on the domain, forgetting, passes over the
    text, replay, and whether more text is worth collecting, with 90% intervals.

    Examples:
        unmask forecast notes/ --model bert-base-uncased --minutes 5
        unmask forecast notes/ --model bert-base-uncased --general wiki/
    """
    shell.check_page(html, charts=True)
    given = {**locals(), "minutes": None, "replay_share": None}
    config = options.load_settings(given)
    if not config.model.name:
        raise ConfigError("no model: name the checkpoint to adapt with --model")
    shell.check_texts(config.data)
    with shell.working() as progress:
        from unmask.forecasting.forecast import forecast as make_forecast

        found = make_forecast(
            config, minutes=minutes, plan=plan, replay_share=replay_share, progress=progress
        ).to_dict()
    if html is not None:
        from unmask.reporting.forecast_page import render_forecast

        shell.write_page(html, render_forecast(found))
    shell.show(as_json, found, lambda page: draw_forecast(page, found))


def draw_forecast(page: Page, found: JsonDict) -> None:
    """Draw what :meth:`unmask.forecasting.forecast.Forecast.to_dict` returns."""
    base, settings = found["base"], found["settings"]
    general = f", on general text {loss(base['general']['value'])}" if "general" in base else ""
    page.say(
        f"{plural(len(found['probes']), 'probing run')} in {rough_duration(found['seconds'])}, "
        f"learning rate {settings['learning_rate']:g}, {settings['batch_tokens']:,} tokens a step"
    )
    page.say(f"loss before training: on the domain {loss(base['domain']['value'])}{general}")
    page.say("")
    rows = [
        [
            f"{row['factor']} x",
            row["tokens"],
            rough_duration(row["seconds"]),
            _cell(row["domain"], partial(interval_text, text=loss)),
            _cell(row["change"], change_text),
            _cell(row["forgetting"], partial(interval_text, text=partial(loss, signed=True)), absent(found)),
        ]
        for row in found["horizons"]
    ]
    page.table(
        ["tokens", "in all", "time", "domain loss", "change", "forgetting"], rows, left=(0, 3, 4, 5), keys=2
    )
    page.say("values are followed by their 90% intervals; forgetting in nats, without replay", style="dim")
    page.say("")
    for sentence in dict.fromkeys((headline(found), *conclusions(found))):
        page.say(sentence)
    for note in found["notes"]:
        page.say(note, style="yellow")
    page.say("next:")
    for command in found["commands"]:
        page.command(f"  {command}")


def _cell(found: JsonDict | None, text: Callable[[JsonDict], str], without: str = "cannot tell") -> str:
    return without if found is None else text(found)
