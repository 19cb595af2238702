"""Forecasts: the law and its intervals on made-up runs, and the verb on a tiny model."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.conftest import Run
from tests.cli.conftest import run as run
from tests.conftest import understood

import unmask
from unmask.cli.forecast import draw_forecast
from unmask.cli.terminal import Page
from unmask.errors import ConfigError, DataError
from unmask.forecasting import forgetting, law
from unmask.forecasting.analysis import analyse
from unmask.forecasting.plan import ProbingRun, longest_run, plan_runs
from unmask.forecasting.probing import Probe, Probed
from unmask.reporting.forecast_page import render_forecast

TEXT = 3e6


def made_up(rng: np.random.Generator, noise: float = 0.0007) -> tuple[law.Points, Callable[..., Any]]:
    """Return runs of a law with random parameters, and the law."""
    floor, fall, repeats = rng.uniform(1, 3), rng.uniform(1, 3), rng.uniform(4, 30)
    alpha, offset = rng.uniform(0.15, 0.6), 10 ** rng.uniform(4, 6)
    tokens = 2e5 / np.array([32, 16, 8, 4, 2, 1, 1, 1])
    text = np.array([TEXT] * 6 + [5e4, 1.25e4])

    def true(tokens: Any, text: Any) -> Any:
        return floor + fall * (1 + law.effective(tokens, text, repeats) / offset) ** -alpha

    losses = true(tokens, text) * (1 + rng.normal(0, noise, len(tokens)))
    return law.Points(tokens, np.zeros(8), text, np.repeat(losses[None], 60, axis=0)), true


def test_intervals_contain_what_a_law_of_known_parameters_gives() -> None:
    inside = []
    for seed in range(12):
        points, true = made_up(np.random.default_rng(seed))
        fitted = law.fit(points, seed)
        for tokens in (2e6, 2e7):  # the second with repeats
            _, low, high = law.interval(fitted.forecast(tokens, TEXT))
            inside.append(low <= true(tokens, TEXT) <= high)
    assert np.mean(inside) >= 0.8


def test_intervals_widen_with_the_distance() -> None:
    points, _ = made_up(np.random.default_rng(1))
    fitted = law.fit(points, 0)
    widths = []
    for tokens in (2e5, 2e6, 2e7):
        _, low, high = law.interval(fitted.forecast(tokens, 1e9))
        widths.append(high - low)
    assert widths[0] < widths[1] < widths[2]


def test_repeated_tokens_count_less_and_end() -> None:
    assert law.effective(500.0, 1000.0, 15.0) == 500
    passes = law.effective(np.array([1.0, 2, 4, 1000]) * 1000, 1000.0, 15.0)
    assert passes[0] == 1000
    assert 1900 < passes[1] < 2000
    assert passes[3] == pytest.approx(16_000)


@pytest.mark.parametrize("jump", [0.0, 0.07])
def test_the_law_of_forgetting_finds_what_replay_saves(jump: float) -> None:
    """Also behind a rise by the first steps, which is no beginning of forgetting and does not grow."""
    tokens = np.array([1, 2, 4, 8, 16, 32, 8, 32, 8, 32, 8, 32]) * 1e4
    share = np.array([0, 0, 0, 0, 0, 0, 0.05, 0.05, 0.2, 0.2, 0.5, 0.5])
    domain, general = (1 - share) * tokens, share * tokens
    rises = jump + 0.05 * (domain / 1e4) ** 0.4 / (1 + 8 * general / domain)
    text = np.full(12, 1e7)
    fitted = forgetting.fit(domain, general, text, np.repeat(rises[None], 60, axis=0), 4.0, 0)
    middle, low, high = law.interval(fitted.forecast(1e6, 0.0, 1e7))
    assert low < middle < high
    assert abs(middle / (jump + 0.05 * 100**0.4) - 1) < 0.25
    assert np.median(fitted.expected(1e6, 0.2, 1e7)) < 0.5 * middle + jump
    assert np.median(fitted.expected(1e6, 0.0, 1e5)) > 1.3 * middle - jump  # ten passes over a text


def probes(losses: list[float]) -> list[Probe]:
    """Return runs of doubled length with these losses, on 20 documents alike."""
    found = []
    for place, loss in enumerate(losses):
        tokens = 1000 * 2**place
        sums = np.stack([np.full(20, 50.0), 50 * loss * np.linspace(0.9, 1.1, 20)], axis=1)
        found.append(Probe(ProbingRun("length", tokens // 100), tokens, tokens, 10**6, 1.0, {"domain": sums}))
    return found


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        ([4.0, 3.9], "only 2 runs of different length"),
        ([5.1, 5.2, 5.3, 5.4, 5.5], "no probing run lowered the loss"),
        ([4.9, 4.5, 4.2, 4.1, 4.4], "is higher than that of a shorter one"),
        ([4.9, 4.3, 4.8, 4.1, 4.0, 4.35], "misses the runs"),
    ],
)
def test_a_law_that_does_not_hold_forecasts_nothing(losses: list[float], reason: str) -> None:
    base = np.stack([np.full(20, 50.0), 250 * np.linspace(0.9, 1.1, 20)], axis=1)
    found = analyse(Probed({"domain": base}, probes(losses), 10**6, 0))
    assert found["domain"]["decision"] == "cannot tell"
    assert any(reason in text for text in found["domain"]["reasons"])
    assert found["forgetting"]["decision"] == "unknown"
    assert all(row["domain"] is None and row["more_text"] is None for row in found["horizons"])
    assert found["passes"] is None
    assert found["curve"] == []


def test_a_base_that_learns_general_text_from_the_domain_has_no_forecast_of_forgetting() -> None:
    found = {}
    for slope in (-0.002, 0.002):
        runs = probes([4.9, 4.5, 4.2, 4.0, 3.9])
        for place, probe in enumerate(runs):
            rise = 50 * slope * (place + 1) * np.linspace(0.9, 1.1, 20)
            probe.sums["general"] = np.stack([np.full(20, 50.0), 200 + rise], axis=1)
        base = {name: np.stack([np.full(20, 50.0), np.full(20, 50.0 * loss)], axis=1) for name, loss in (("domain", 5), ("general", 4))}  # fmt: skip
        found[slope] = analyse(Probed(base, runs, 10**6, 0))["forgetting"]
    assert found[0.002]["decision"] == "forecast"
    assert found[-0.002]["decision"] == "cannot tell"
    assert "lowers the loss on general text by 0.010 nats" in found[-0.002]["reasons"][0]


def test_a_plan_fits_into_the_steps() -> None:
    for shares in ((), (0.05, 0.2)):
        longest = longest_run(1000, shares)
        assert 900 < sum(each.steps for each in plan_runs(longest, 0.5, shares)) <= 1000


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, corpus_text: list[str]) -> Path:
    """A folder with domain text, general text and a short plan."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "domain.txt").write_text("\n".join(corpus_text[:300]), encoding="utf-8")
    (folder / "general.txt").write_text("\n".join(corpus_text[300:]), encoding="utf-8")
    runs = [ProbingRun("length", steps) for steps in (2, 4, 8, 16)]
    runs += [
        ProbingRun("repeats", 16, 0.1),
        ProbingRun("replay", 16, replay_share=0.2),
        ProbingRun("rate", 4, rate=3.0),
    ]
    plan = {"plan": {"runs": [each.to_dict() for each in runs], "eval_tokens": 500}}
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    return folder


def test_the_verb_and_the_function_repeat_a_plan(
    run: Run, given: Path, checkpoint: Callable[[str], Path], fits_schema: Callable[[str, Any], None]
) -> None:
    options = [
        "--general",
        given / "general.txt",
        "--plan",
        given / "plan.json",
        "--batch-tokens",
        128,
        "--precision",
        "fp32",
        "--documents",
        "line",
        "--set",
        "train.eval_tokens=900",
    ]
    outcome = run("forecast", given / "domain.txt", "--model", checkpoint("bert"), *options, "--learning-rate", "1e-3", "--heldout",
                  given / "general.txt", "--html", "page.html", "--json")  # fmt: skip
    assert outcome.code == 0, outcome.err
    found = outcome.json
    fits_schema("forecast", found)
    lengths = [row for row in found["probes"] if row["purpose"] == "length"]
    assert [row["steps"] for row in lengths] == [2, 4, 8, 16]
    assert lengths[-1]["domain"] < found["base"]["domain"]["value"]  # it learns
    assert lengths[-1]["domain_tokens"] == lengths[-1]["tokens"] > lengths[0]["tokens"]
    part, replayed = (
        next(row for row in found["probes"] if row["purpose"] == name) for name in ("repeats", "replay")
    )
    assert part["text_tokens"] < 0.3 * lengths[0]["text_tokens"]
    assert 0.7 < replayed["domain_tokens"] / replayed["tokens"] < 0.9
    assert [row["factor"] for row in found["rates"]] == [3.0]
    then = understood(found["commands"][0])
    assert then["text"] == [str(given / "domain.txt")]
    assert (then["documents"], then["learning_rate"], then["overrides"]) == (
        "line",
        1e-3,
        ["train.eval_tokens=900"],
    )
    page = Path("page.html").read_text("utf-8")
    assert "Forecast" in page
    assert "<svg" in page

    unknown = {
        **found,
        "forgetting": {"decision": "unknown", "reasons": []},
        "horizons": [{**row, "forgetting": None, "replay": None} for row in found["horizons"]],
    }
    terminal = io.StringIO()
    draw_forecast(Page(terminal), unknown)
    assert terminal.getvalue().count("not measured") >= len(found["horizons"])
    page = render_forecast(unknown)
    assert page.count("<td>not measured</td>") == 2 * len(found["horizons"])  # forgetting and the best replay
    assert "Forgetting: not measured" in page

    again = unmask.forecast(
        str(given / "domain.txt"), model=checkpoint("bert"), general=str(given / "general.txt"), heldout=str(given / "general.txt"),
        plan=given / "plan.json", batch_tokens=128, learning_rate=1e-3, precision="fp32", documents="line", progress=False,
    )  # fmt: skip
    values = ("domain", "general", "tokens")
    assert [[row[name] for name in values] for row in again.probes] == [
        [row[name] for name in values] for row in found["probes"]
    ]
    assert again.domain == found["domain"]
    assert set(again.to_dict()) == set(found)
    assert len(again.to_rows()) == 2


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--replay-share", 0.1], 2, "--replay-share is a share of general text; give it with --general"),
        (["--minutes", 0.01, "--batch-tokens", 128], 2, "0.01 minutes are too short for a plan"),
        (
            ["--plan", "replayed.json"],
            2,
            "replayed.json: 1 of the 7 probing runs of this plan replay general text",
        ),
        (["--html", "."], 5, "cannot be written: it is a folder"),
        (["--plan", "plan.txt"], 2, "plan.txt: expected the JSON of an earlier forecast"),
        (["--batch-tokens", 8192], 3, "the text is too small for a forecast: one pass has"),
        (
            ["--heldout", "one.txt", "--batch-tokens", 128],
            3,
            "too few held-out documents (1) for an interval, which needs 10; give",
        ),
        (
            ["--set", "train.eval_tokens=20", "--batch-tokens", 128],
            3,
            "too few documents (1) for an interval in 20 tokens of held-out text",
        ),
    ],
)
def test_what_cannot_be_forecast_is_one_line(
    run: Run, given: Path, checkpoint: Callable[[str], Path], options: list[object], code: int, message: str
) -> None:
    Path("replayed.json").write_bytes((given / "plan.json").read_bytes())
    Path("plan.txt").write_text('{"plan": {}}', encoding="utf-8")
    Path("one.txt").write_text("The old lighthouse keeper repaired the broken telescope.", encoding="utf-8")
    outcome = run("forecast", given / "domain.txt", "--model", checkpoint("bert"), "-q", *options)
    assert (outcome.code, outcome.out) == (code, "")
    assert message in outcome.complaint


def test_steps_are_shortened_to_fit_into_the_text(
    run: Run, given: Path, checkpoint: Callable[[str], Path]
) -> None:
    outcome = run("forecast", given / "domain.txt", "--model", checkpoint("bert"), "--minutes", 0.01)
    assert "1,024 tokens a step: 16,384 would take" in outcome.err
    assert outcome.code == 2  # too few minutes for any plan
    assert "lower --batch-tokens" not in outcome.err


def test_models_that_have_no_loss_to_start_from(
    given: Path, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(checkpoint("bert")).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(checkpoint("bert")).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="has no LM head"):
        unmask.forecast(str(given / "domain.txt"), model=tmp_path, progress=False)
    with pytest.raises(DataError):
        unmask.forecast([], model=checkpoint("bert"), progress=False)
