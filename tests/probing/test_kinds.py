"""Pairs of texts, several labels, numbers and the metrics to choose from: learned by both ways, and checked."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask.cli.main import main
from unmask.errors import ConfigError, DataError
from unmask.probing.features import encode_pairs
from unmask.probing.metrics import SeedScores, correlation, counts_of, label_metrics, main_metric
from unmask.probing.probe import probe
from unmask.probing.results import ProbeResult
from unmask.probing.settings import FineTuningSettings, ProbeSettings
from unmask.probing.tasks import read_task

pytest.importorskip("sklearn")

Checkpoint = Callable[[str], Path]
FROZEN = ProbeSettings(seeds=2, device="cpu", precision="fp32", offline=True)
TUNED = ProbeSettings(
    method="finetune",
    seeds=1,
    device="cpu",
    precision="fp32",
    offline=True,
    tuning=FineTuningSettings(epochs=3, batch=8, learning_rate=3e-3),
)
SEA, WAR, FILLER = ["river", "boat"], ["election", "war"], "the a in of for her old young and before".split()


def task_of(
    folder: Path, row: Callable[[random.Random], dict[str, Any]], train: int = 160, test: int = 60
) -> Path:
    """Write train and test, of rows that are all different."""
    draw, rows = random.Random(0), dict[str, dict[str, Any]]()
    while len(rows) < train + test:
        made = row(draw)
        rows.setdefault(json.dumps({name: value for name, value in made.items() if name != "label"}), made)
    made_rows = [json.dumps(made) + "\n" for made in rows.values()]
    folder.mkdir(exist_ok=True)
    (folder / "train.jsonl").write_text("".join(made_rows[:train]), encoding="utf-8")
    (folder / "test.jsonl").write_text("".join(made_rows[train:]), encoding="utf-8")
    return folder


def text(draw: random.Random, topic: list[str], count: int = 5) -> str:
    words = draw.choices(topic, k=count) + draw.choices(FILLER, k=8 - count)
    draw.shuffle(words)
    return " ".join(words)


def second_decides(draw: random.Random) -> dict[str, Any]:
    topic = draw.randrange(2)
    return {"text_a": text(draw, FILLER), "text_b": text(draw, (SEA, WAR)[topic]), "label": topic}


def one_topic(draw: random.Random) -> dict[str, Any]:
    first, second = draw.randrange(2), draw.randrange(2)
    texts = [text(draw, (SEA, WAR)[topic]) for topic in (first, second)]
    return {"premise": texts[0], "hypothesis": texts[1], "label": ("different", "same")[first == second]}


def several(draw: random.Random) -> dict[str, Any]:
    topics = [name for name in ("sea", "war") if draw.random() < 0.5]
    words = [word for name in topics for word in draw.choices(SEA if name == "sea" else WAR, k=3)]
    words += draw.choices(FILLER, k=9 - len(words))
    draw.shuffle(words)
    return {"text": " ".join(words), "label": topics}


def number(draw: random.Random) -> dict[str, Any]:
    count = draw.randrange(9)
    return {"text": text(draw, SEA, count), "label": count / 2}


def main_of(result: ProbeResult) -> float:
    return float(np.mean(result.models[0].metrics[result.task.metric or ""]))


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert"])
def test_a_pair_is_framed_as_by_the_tokenizer(load: Callable[..., Any], architecture: str) -> None:
    lm = load(architecture)
    firsts, seconds = (
        ["The river", "a boat " * 40, "the old boat"],
        ["was measured.", "in winter", "her letters " * 40],
    )
    found = encode_pairs(lm, firsts, seconds, 32)
    wanted = lm.tokenizer(
        firsts, seconds, truncation="longest_first", max_length=32, return_token_type_ids=True
    )
    assert [ids.tolist() for ids in found.ids] == wanted["input_ids"]
    assert found.truncated == 2
    if architecture == "bert":
        assert [types.tolist() for types in found.types or []] == wanted["token_type_ids"]
    else:
        assert found.types is None


def test_pairs_are_learned_by_both_ways(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = str(checkpoint("bert"))
    result = probe(model, task_of(tmp_path / "same", one_topic), FROZEN)
    assert main_of(result) > 0.9
    assert result.to_dict()["task"]["pairs"] is True
    assert result.models[0].chosen["features"] == 4 * 32
    assert main_of(probe(model, task_of(tmp_path / "second", second_decides), TUNED)) > 0.9


def test_unknown_tokens_of_both_texts_of_a_pair_are_one_note(checkpoint: Checkpoint, tmp_path: Path) -> None:
    def row(draw: random.Random) -> dict[str, Any]:
        made = one_topic(draw)
        return made | {"premise": made["premise"] + " ☃", "hypothesis": made["hypothesis"] + " ☃ ☃"}

    task = task_of(tmp_path, row, 40, 20)
    notes = [note for note in probe(str(checkpoint("bert")), task, FROZEN).notes if "are unknown" in note]
    assert [("training" in note, "120 of" in note, "60 of" in note) for note in notes] == [
        (True, True, False),
        (False, False, True),
    ]


@pytest.mark.parametrize("settings", [FROZEN, TUNED], ids=["frozen", "finetune"])
def test_several_labels_are_learned(checkpoint: Checkpoint, tmp_path: Path, settings: ProbeSettings) -> None:
    result = probe([str(checkpoint("bert"))] * 2, task_of(tmp_path, several), settings)
    assert result.task.kind == "multilabel"
    assert main_of(result) > 0.85
    assert result.verdicts[0].differences == [0] * settings.seeds
    assert result.baselines["most_frequent_labels"]["macro_f1"] < 0.8


@pytest.mark.parametrize("settings", [FROZEN, TUNED], ids=["frozen", "finetune"])
def test_numbers_are_learned(checkpoint: Checkpoint, tmp_path: Path, settings: ProbeSettings) -> None:
    result = probe(str(checkpoint("bert")), task_of(tmp_path, number), settings)
    assert (result.task.kind, result.task.metric) == ("regression", "pearson")
    assert main_of(result) > 0.8
    if settings.seeds > 1:
        low, high = result.models[0].interval or [1, 0]
        assert low < main_of(result) < high
    assert result.to_dict()["task"]["labels"] == []


# --- metrics


def test_correlations_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    draw = np.random.default_rng(0)
    true = draw.integers(0, 6, 40).astype(float)
    guess = true + draw.normal(size=40)
    assert correlation("pearson", true, guess) == pytest.approx(stats.pearsonr(true, guess).statistic)
    assert correlation("spearman", true, guess) == pytest.approx(stats.spearmanr(true, guess).statistic)
    assert correlation("pearson", true, np.ones(40)) == 0
    gold, predicted = ([[repr(float(x))] for x in side] for side in (true, guess))
    scores = SeedScores.of_numbers("pearson", gold, [predicted, predicted], np.arange(40))
    assert scores.without[3] == pytest.approx(
        stats.pearsonr(np.delete(true, 3), np.delete(guess, 3)).statistic
    )


@pytest.mark.parametrize("metric", ["matthews", "accuracy", "f1", "macro_f1"])
def test_metrics_from_counts_are_those_of_scikit_learn(metric: str) -> None:
    draw = random.Random(0)
    gold, guess = ([[draw.choice("0111")] for _ in range(60)] for _ in range(2))
    counted = counts_of("classification", gold, guess, ["0", "1"]).sum(axis=0)
    wanted = label_metrics("classification", gold, guess)[metric]
    assert main_metric("classification", metric, counted) == pytest.approx(wanted)


def test_several_labels_are_counted_as_scikit_learn_does() -> None:
    from sklearn.metrics import f1_score
    from sklearn.preprocessing import MultiLabelBinarizer

    draw = random.Random(0)
    gold, guess = ([sorted({*draw.choices("abc", k=draw.randrange(3))}) for _ in range(50)] for _ in range(2))
    binary = MultiLabelBinarizer(classes=list("abc"))
    true, predicted = binary.fit_transform(gold), binary.fit_transform(guess)
    found = label_metrics("multilabel", gold, guess)
    for average in ("macro", "micro"):
        assert found[f"{average}_f1"] == pytest.approx(f1_score(true, predicted, average=average))
    assert found["accuracy"] == pytest.approx((true == predicted).all(axis=1).mean())


# --- reading


@pytest.mark.parametrize(
    ("train", "test", "kind", "message"),
    [
        ('{"text": "a", "label": ["x"]}\n{"text": "b", "label": []}\n{"text": "c", "label": "y"}\n', None, "multilabel", ""),
        ('{"text": "a", "label": ["x"]}\n{"text": "c", "label": "y"}\n', None, None, r"train\.jsonl:2: the label 'y' is a single one"),
        ('{"text": "a", "label": "y"}\n{"text": "c", "label": 1.5}\n', None, None, r"train\.jsonl:1: the label 'y' is no number, and 1 of 2 labels are numbers, such as '1.5' in line 2"),
        ('{"text": "a", "label": 1}\n{"text": "b", "label": 2}\n{"text": "c", "label": NaN}\n', None, None, r"train\.jsonl:3: the label 'nan' is no number"),
        ('{"text": "a", "label": 1}\n{"text": "b", "label": null}\n', None, None, r"train\.jsonl:2: the label in 'label' is empty"),
        ('{"text": "a", "label": 1}\n{"text": "b", "label": 2}\n', '{"text": "a", "label": [1]}\n', None, r"test\.jsonl:1: a list of labels"),
        ('{"text": "a", "label": 1.5}\n{"text": "b", "label": 2}\n', '{"text": "a", "label": "x"}\n', None, r"test\.jsonl:1: the label 'x' is no number"),
        ('{"text": "a", "label": "x"}\n{"text": "b", "label": 2}\n', None, "regression", r"train\.jsonl:1: the label 'x' is no number"),
        ('{"text": "a", "label": []}\n{"text": "b", "label": []}\n', None, None, "no example has a label"),
        ('{"text_a": "a", "text_b": "b", "label": 1}\n{"text_a": "a", "label": 2}\n', None, None, r"train\.jsonl:2: no field 'text_b'"),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit_are_one_line(
    tmp_path: Path, train: str, test: str | None, kind: str | None, message: str
) -> None:
    (tmp_path / "train.jsonl").write_text(train, encoding="utf-8")
    (tmp_path / "test.jsonl").write_text(test or train, encoding="utf-8")
    if not message:
        assert read_task(tmp_path, kind=kind).train.labels == [["x"], [], ["y"]]
        return
    with pytest.raises(DataError, match=message):
        read_task(tmp_path, kind=kind)


def test_columns_of_a_table_are_pairs_and_lists(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text('one,two,topics\na,b,"x, y"\nc,d,z\n', encoding="utf-8")
    task = read_task(
        path, test=path, text_field="one", pair_field="two", label_field="topics", kind="multilabel"
    )
    assert (task.train.texts, task.train.seconds) == (["a", "c"], ["b", "d"])
    assert task.train.labels == [["x", "y"], ["z"]]


def test_a_metric_that_the_task_lacks_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, model = task_of(tmp_path, second_decides), str(checkpoint("bert"))
    with pytest.raises(
        ConfigError, match="no metric 'pearson' of this task; there are macro_f1, accuracy, matthews, f1"
    ):
        probe(model, folder, FROZEN.model_copy(update={"metric": "pearson"}))
    assert (
        main(["probe", model, "--task", str(folder), "--metric", "matthews", "--seeds", "2", "--offline"])
        == 0
    )
    assert "Matthews correlation" in capsys.readouterr().out
