"""Mixtures of base and adapted weights: what is exported, what is chosen, the verdict, and what is required."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import unmask
from unmask.config.load import load_config
from unmask.config.requirements import parse_requirements
from unmask.errors import ConfigError, DataError
from unmask.evaluation.trade_off import choose_alpha, forgetting_limit
from unmask.evaluation.verdict import unmet, verdict
from unmask.probing.adaptation import task_probe
from unmask.probing.probe import probe
from unmask.probing.settings import ProbeSettings
from unmask.reporting.adaptation import trade_off, verdict_text
from unmask.reporting.format import no_gain_over_frequency
from unmask.run.train import train

WORDS = "the river carried a letter before winter came an unripe telescope measured mountains".split()
OTHERS = "her brother's violin sold two handwritten constitution boats while it rained in april".split()


def lines(path: Path, words: list[str], count: int, seed: int) -> str:
    draw = np.random.default_rng(seed)
    texts = (" ".join(draw.choice(words, draw.integers(3, 25))) + f" {number}" for number in range(count))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Return `run(name, resume, **flags)`: a short adaptation of a tiny checkpoint with general text."""
    place = tmp_path_factory.mktemp("mixing")
    settings = {
        "data.inputs": [lines(place / "domain.jsonl", WORDS, 200, 1)],
        "data.forgetting_eval": [lines(place / "general.jsonl", OTHERS, 60, 2)],
        "data.heldout_share": 0.2,
        "data.max_length": 32,
        "train.max_steps": 10,
        "train.batch_tokens": 256,
        "train.precision": "fp32",
        "train.device": "cpu",
        "train.optimizer.learning_rate": 1e-3,
    }

    def make(name: str, resume: str | None = None, model: str = "bert", **flags: Any) -> Any:
        flags = {key.replace("__", "."): value for key, value in flags.items()}
        config = load_config(None, flags=settings | {"model.name": str(checkpoint(model))} | flags)
        return train(config, place / name, resume=resume, probe=task_probe(config))

    return make


def test_the_mixture_is_exported_that_was_evaluated_and_again_on_resume(
    run: Callable[..., Any], checkpoint: Callable[[str], Path]
) -> None:
    whole = run("whole")
    points = read(whole.folder.adaptation)["interpolation"]["points"]
    assert [each["alpha"] for each in points] == [step / 10 for step in range(11)]
    assert points[0]["domain"]["change"]["value"] == points[0]["general"]["change"]["value"] == 0
    evaluation = read(whole.folder.evaluation)
    assert points[-1]["domain"]["loss"] == pytest.approx(evaluation["loss"], rel=1e-6)
    adapted = load_file(whole.folder.model / "model.safetensors")
    page = whole.folder.report.read_text(encoding="utf-8")
    assert "Gain against forgetting" in page
    assert "Verdict" in page
    base = load_file(checkpoint("bert") / "model.safetensors")
    losses = []
    for _ in range(2):
        mixed = run("whole", "auto", train__export_alpha=0.25)
        found = load_file(mixed.folder.model / "model.safetensors")
        assert found.keys() == adapted.keys()
        for name, weight in found.items():
            assert torch.equal(weight, torch.lerp(base[name], adapted[name], 0.25)), name
        losses.append(read(mixed.folder.evaluation)["loss"])
        again = read(mixed.folder.adaptation)["interpolation"]
        assert again["alpha"] == 0.25
        at = next(each for each in again["points"] if each["alpha"] == 0.25)
        assert at["domain"]["loss"] == pytest.approx(losses[-1], rel=1e-6)
        assert not list(mixed.folder.root.glob("weights-to-mix*"))
    assert losses[0] == losses[1]


def test_auto_decides_on_other_documents_than_are_reported(run: Callable[..., Any]) -> None:
    result = run("auto", train__export_alpha="auto", train__require="domain>=90%,forgetting<=50%")
    found = read(result.folder.adaptation)
    corpus = read(result.folder.info)["corpus"]
    mixed = found["interpolation"]
    assert mixed["decided_on"] == {
        "domain_documents": corpus["selection_documents"],
        "general_documents": corpus["general_selection_documents"],
        "is_reported": False,
    }
    assert corpus["general_documents"] + corpus["general_selection_documents"] == 60
    assert mixed["alpha"] == (mixed["suggested"] or 1.0)
    assert "domain>=90% was required" in result.unmet
    assert "forgetting" not in result.unmet
    assert (result.folder.root / "exit_code").read_text() == "6\n"
    # A number in place of auto: the texts stay divided, so that base and model are of the same documents.
    again = run("auto", resume="auto", train__export_alpha=0.5, train__require="forgetting<=50%")
    assert again.unmet == ""
    later = read(again.folder.adaptation)
    assert read(again.folder.info)["corpus"] == corpus
    for text in ("domain", "general"):
        assert later[text]["before"] == found[text]["before"]
        assert later[text]["texts"] == found[text]["texts"]
    assert later["interpolation"]["alpha"] == 0.5


def test_a_resume_with_auto_divides_nothing_anew(run: Callable[..., Any]) -> None:
    first = read(run("number", train__export_alpha=1.0).folder.adaptation)
    result = run("number", resume="auto", train__export_alpha="auto")
    found = read(result.folder.adaptation)
    assert found["interpolation"]["decided_on"]["is_reported"]
    assert found["general"]["before"] == first["general"]["before"]


def test_merged_adapters_are_mixed(run: Callable[..., Any], checkpoint: Callable[[str], Path]) -> None:
    pytest.importorskip("peft")
    result = run("lora", train__lora_rank=2, train__export_alpha=0.0)
    base, found = (
        load_file(folder / "model.safetensors") for folder in (checkpoint("bert"), result.folder.model)
    )
    assert all(torch.equal(base[name], weight) for name, weight in found.items())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"train.require": "domain>5"},
            r"^--require: must be bounds such as domain>=5%,forgetting<=2%, not 'domain>5'; domain is bounded by >=",
        ),
        ({"train.require": "domain>=5"}, r"its percent sign is missing: domain>=5%"),
        ({"train.require": "doman>=5%"}, r"did you mean 'domain'"),
        ({"train.require": "domain<=5%"}, r"must bound domain by >="),
        ({"train.require": "leaks<=1%,leaks<=2%"}, r"must have one bound of leaks, not two"),
        ({"train.require": "forgetting<=2%"}, r"takes general text; give it with --general"),
        ({"train.require": "domain>=-5%"}, r"must be bounds such as"),
        (
            {"train.require": "task>=1%", "train.task": "x"},
            r"must bound task in points, without a percent sign",
        ),
        (
            {"train.require": "task>=0"},
            r"^train\.require bounds task, and there is none; name one with --task",
        ),
        ({"train.task": "s3://bucket/task"}, r"^--task: must be a file or folder of this machine"),
        ({"train.export_alpha": "auto"}, r"takes general text; give it with --general"),
        ({"train.export_alpha": "1.5"}, r"^--export-alpha: must be auto or from 0 to 1"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_training(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, flags={"model.name": "some/model"} | flags)


def points(*rows: tuple[float, float, float]) -> list[dict[str, Any]]:
    """Points of alpha, change of the domain loss and change of the general loss, of a base loss of 2."""

    def part(change: float) -> dict[str, Any]:
        around = [change - 0.01, change + 0.01]
        halves = [end / 2 for end in around]
        return {
            "loss": 2 + change,
            "change": {"value": change, "interval": around},
            "relative": {"value": change / 2, "interval": halves},
        }

    return [
        {"alpha": alpha, "domain": part(domain), "general": part(general)} for alpha, domain, general in rows
    ]


CURVE = points((0, 0, 0), (0.5, -0.2, 0.02), (0.7, -0.27, 0.05), (1, -0.3, 0.2))


def test_the_lowest_domain_loss_within_the_limit_is_chosen() -> None:
    assert forgetting_limit(CURVE, None) == pytest.approx(0.05)
    assert choose_alpha(CURVE, 0.05) == 0.7
    assert choose_alpha(CURVE, 0.01) == 0.5
    assert choose_alpha(CURVE, 0.005) is None
    assert choose_alpha(points((0, 0, 0), (0.5, -0.1, -0.1), (1, -0.2, -0.1)), np.inf) == 1


def found(gain: tuple[float, float, float] | float, lost: float | None, alpha: float = 1.0) -> dict[str, Any]:
    """The content of adaptation.json with a gain (value, or value with ends) and a forgetting, as shares."""
    value, low, high = gain if isinstance(gain, tuple) else (gain, gain - 0.005, gain + 0.005)
    general = lost if lost is None else {"value": lost, "interval": [lost - 0.001, lost + 0.001]}
    mixed = {"points": CURVE, "alpha": alpha, "limit": 0.05, "limit_given": False, "suggested": 0.7}
    return {
        "domain": {
            "documents": 40,
            "change": {"relative_loss": {"value": -value, "interval": [-high, -low]}},
        },
        "general": general and {"change": {"relative_loss": general}},
        "interpolation": mixed | {"decided_on": None} if lost is not None else None,
    }


CLEAN = {"heldout": {"same": 0, "near": 0, "documents": 40, "run": 9}}


@pytest.mark.parametrize(
    ("content", "overlap", "decision", "said"),
    [
        (found(0.15, None), CLEAN, "use", "not measured"),
        (found(0.15, 0.0), CLEAN, "use", "no forgetting was found"),
        (
            found(0.15, 0.1),
            CLEAN,
            "use with alpha",
            "alpha 0.7 keeps 90% of the gain at 25% of the forgetting",
        ),
        (found(0.15, 0.1, 0.7), CLEAN, "use", "general text rose by 10.00%"),
        (found(0.05, 0.2, 0.7), CLEAN, "do not use", "more than the domain gained"),
        (found(-0.05, 0.0), CLEAN, "do not use", "worse on the text"),
        (found((0.001, -0.002, 0.004), 0.0), CLEAN, "do not use", "No gain"),
        (found((0.002, 0.001, 0.003), 0.0), CLEAN, "do not use", "The gain is below 0.5%"),
        (found((0.03, -0.02, 0.08), 0.0), CLEAN, "cannot tell", "Too small to judge"),
        (
            found(0.15, 0.0),
            {"heldout": CLEAN["heldout"] | {"same": 4}},
            "cannot tell",
            "10.0% of the held-out",
        ),
    ],
)
def test_the_verdict(content: Any, overlap: Any, decision: str, said: str) -> None:
    got = verdict(content, overlap)
    assert got["decision"] == decision
    assert said in verdict_text(got)
    assert not unmet(got)


def test_the_verdict_is_that_of_the_headline_and_says_on_how_few_documents_it_rests() -> None:
    baselines = {"most_frequent_token": {"loss": 7.0}}
    worse, better = ({"loss": loss, "baselines": baselines} for loss in (7.5, 6.5))
    few = found(0.15, None)
    few["domain"]["texts"] = 12
    assert verdict(few, CLEAN, evaluation=better)["decision"] == "use"
    got = verdict(few, CLEAN, evaluation=worse)
    assert got["decision"] == "do not use"
    assert str(no_gain_over_frequency(worse)) in got["reason"]
    assert "The interval is wide: it rests on 12 documents." in got["reason"]
    assert verdict(found(0.15, 0.1), CLEAN, evaluation=worse)["decision"] == "do not use"  # no mixture either


def test_a_model_that_is_behind_the_ngram_model_is_not_to_be_used() -> None:
    def decided(
        gain: float | tuple[float, float, float], ngram: float, lost: float | None = None
    ) -> dict[str, Any]:
        baselines = {"most_frequent_token": {"loss": 7.5}, "ngram": {"loss": ngram}}
        baselines["ngram_true_neighbours"] = {"loss": 1.0}  # sees more than the model
        return verdict(found(gain, lost), CLEAN, evaluation={"loss": 7.205, "baselines": baselines})

    behind = decided(0.15, 5.715)
    assert behind["decision"] == decided(0.15, 5.715, 0.1)["decision"] == "do not use"
    assert "loss (7.205) is higher than that of the bidirectional n-gram (5.715)" in behind["reason"]
    assert decided(0.15, 7.3)["decision"] == "use"
    assert decided((0.03, -0.02, 0.08), 5.715)["decision"] == "cannot tell"


def test_what_is_required_is_judged_by_value_and_never_without_an_interval() -> None:
    bounds = parse_requirements("domain>=5%, forgetting<=2%, leaks<=1%")
    assert not unmet(verdict(found(0.15, 0.01), CLEAN, bounds))
    got = verdict(found(0.03, None), CLEAN, bounds)
    assert got["decision"] == "do not use"
    assert "domain>=5% was required and it is 3.00% (95% interval 2.50 to 3.50%)" in unmet(got)
    assert "forgetting<=2% cannot be judged" in unmet(got)


def probes(value: float, interval: list[float] | None) -> dict[str, Any]:
    change = {"value": value, "interval": interval}
    return {"probes": {"task": "topics", "metric": "macro_f1", "change": change, "failed": None}}


def test_a_task_that_became_worse_decides_and_may_be_bounded() -> None:
    bounds = parse_requirements("task>=-0.5")
    better = verdict(found(0.15, 0.0) | probes(0.02, [0.01, 0.03]), CLEAN, bounds)
    assert better["decision"] == "use"
    assert not unmet(better)
    said = "On the task topics, macro F1 of a linear probe changed by +2.0 points (95% interval 1.00 to 3.00 points)."
    assert better["reason"].endswith(said)
    advised = verdict(found(0.15, 0.1) | probes(0.02, [0.01, 0.03]), CLEAN)
    assert advised["reason"].endswith(
        "with the exported weights (alpha 1). The mixture of alpha 0.7 is probed when it is exported."
    )
    mixed = verdict(found(0.15, 0.0, 0.7) | probes(0.02, [0.01, 0.03]), CLEAN)
    assert mixed["reason"].endswith("3.00 points) with the exported weights (alpha 0.7).")
    unclear = verdict(found(0.15, 0.0) | probes(-0.02, [-0.05, 0.01]), CLEAN)
    assert unclear["decision"] == "use"
    worse = verdict(found(0.15, 0.0) | probes(-0.02, [-0.03, -0.01]), CLEAN, bounds)
    assert worse["decision"] == "do not use"
    said = "task>=-0.5 was required and it is −2.0 points (95% interval −3.00 to −1.00 points)"
    assert unmet(worse) == said
    assert "cannot be judged" in unmet(verdict(found(0.15, 0.0), CLEAN, bounds))


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of two topics, whose words are those of the domain and of the general text."""
    folder = tmp_path_factory.mktemp("task") / "topics"
    folder.mkdir()
    for seed, (name, count) in enumerate((("train", 60), ("test", 40))):
        draw = np.random.default_rng(seed)
        rows = [
            {"text": f"{' '.join(draw.choice((WORDS, OTHERS)[row % 2], 8))} {name}", "label": str(row % 2)}
            for row in range(count)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_base_and_exported_model_are_probed(run: Callable[..., Any], topics: Path) -> None:
    pytest.importorskip("sklearn")
    result = run("task", train__task=str(topics), train__require="task>=100")
    content = read(result.folder.adaptation)
    got = content["probes"]
    assert (got["task"], got["metric"], got["seeds"]) == ("topics", "macro_f1", 5)
    assert got["sizes"] == {"train": 60, "test": 40}
    assert got["change"]["value"] == pytest.approx(got["after"] - got["before"])
    alone = probe([str(result.folder.model)], topics, ProbeSettings(device="cpu", precision="fp32"))
    assert got["after"] == pytest.approx(np.mean(alone.models[0].metrics["macro_f1"]))
    assert content["verdict"]["measures"]["task"] == got["change"]
    assert "task>=100" in result.unmet
    for page in (result.folder.report, result.folder.model / "README.md"):
        assert "On the task topics, macro F1 of a linear probe changed by" in page.read_text(encoding="utf-8")


def test_a_bad_task_is_refused_before_training(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    domain = lines(tmp_path / "domain.jsonl", WORDS, 20, 1)
    with pytest.raises(DataError, match="nowhere"):
        unmask.train(domain, model=checkpoint("bert"), out=tmp_path / "run", task=tmp_path / "nowhere")
    assert not (tmp_path / "run" / "run.json").exists()


def test_the_trade_off_is_drawn_with_its_shares() -> None:
    drawn = trade_off(found(0.15, 0.1)["interpolation"])
    assert drawn is not None
    assert [(row[0], row[2], row[4]) for row in drawn.rows] == [
        ("0", "0%", "0%"), ("0.5", "67%", "10%"), ("0.7", "90%", "25%"), ("1", "100%", "100%")
    ]  # fmt: skip
    assert "alpha 0.7: domain loss -13.5%, general loss +2.5%" in drawn.chart.svg
    assert drawn.notes[0] == "Exported: alpha 1."
    assert trade_off(None) is None
