"""Probing: separable classes are learned, shuffled labels are not, and metrics are those of scikit-learn and seqeval."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unmask.data.tokenizer import plain_copy
from unmask.errors import ConfigError, DataError
from unmask.model.load import load_for_inference
from unmask.probing.features import _first_subwords
from unmask.probing.metrics import (
    MAIN,
    SeedScores,
    classes_of,
    counts_of,
    label_metrics,
    main_metric,
)
from unmask.probing.probe import probe
from unmask.probing.results import ProbeResult
from unmask.probing.settings import FineTuningSettings, ProbeSettings
from unmask.probing.tasks import read_task, resolve_overlap
from unmask.progress import Progress

pytest.importorskip("sklearn")
pytest.importorskip("seqeval")

Checkpoint = Callable[[str], Path]
QUICK = ProbeSettings(seeds=2, device="cpu", precision="fp32", offline=True)
TUNED = ProbeSettings(
    method="finetune",
    seeds=1,
    device="cpu",
    precision="fp32",
    offline=True,
    tuning=FineTuningSettings(epochs=4, batch=8, learning_rate=3e-3),
)
TOPICS = {"sea": ["river", "boat"], "war": ["election", "war"]}
FILLER = "the a in of for her old young and before".split()
PARTS = {1: 0, 2: 200}


class Recorded(Progress):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def log(self, text: str) -> None:
        self.messages.append(text)


def topic_rows(count: int, part: int) -> list[dict[str, str]]:
    """Return rows of a part; no text stands in two parts."""
    draw = random.Random(0)
    texts: dict[str, str] = {}
    while len(texts) < PARTS[part] + count:
        label = ("sea", "war")[len(texts) % 2]
        words = draw.choices(TOPICS[label], k=6) + draw.choices(FILLER, k=3)
        draw.shuffle(words)
        texts.setdefault(" ".join(words), label)
    return [{"text": text, "label": label} for text, label in list(texts.items())[PARTS[part] :]]


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_conll(path: Path, sentences: int, seed: int) -> None:
    """Boats are entities of one kind, people of another; a person may have two words."""
    draw = random.Random(seed)
    lines = []
    for number in range(sentences):
        tokens = [(word, "O") for word in draw.choices(FILLER, k=4)]
        tokens.insert(draw.randrange(4), (draw.choice(["boat", "river"]), "B-Thing"))
        tokens += [("captain", "B-Person"), ("keeper", "I-Person"), (f"{seed}{number}", "O")]
        lines += [f"{word}\t{tag}" for word, tag in tokens] + [""]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def topics(tmp_path: Path) -> Path:
    folder = tmp_path / "topics"
    folder.mkdir()
    for name, count, seed in (("train", 160, 1), ("test", 60, 2)):
        write_jsonl(folder / f"{name}.jsonl", topic_rows(count, seed))
    return folder


@pytest.fixture
def entities(tmp_path: Path) -> Path:
    folder = tmp_path / "entities"
    folder.mkdir()
    write_conll(folder / "train.tsv", 80, 1)
    write_conll(folder / "devel.tsv", 10, 2)
    write_conll(folder / "test.tsv", 30, 3)
    return folder


def mean_of(result: ProbeResult, place: int = 0) -> float:
    values = result.models[place].metrics[MAIN[result.task.kind]]
    return sum(values) / len(values)


# --- learning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert", "deberta-v2"])
def test_a_frozen_probe_separates_two_topics(checkpoint: Checkpoint, topics: Path, architecture: str) -> None:
    assert mean_of(probe([str(checkpoint(architecture))], topics, QUICK)) > 0.9


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_fine_tuning_separates_two_topics(checkpoint: Checkpoint, topics: Path, architecture: str) -> None:
    assert mean_of(probe([str(checkpoint(architecture))], topics, TUNED)) > 0.9


@pytest.mark.parametrize("settings", [QUICK, TUNED], ids=["frozen", "finetune"])
def test_shuffled_labels_cannot_be_learned(
    checkpoint: Checkpoint, topics: Path, settings: ProbeSettings
) -> None:
    rows, labels = topic_rows(160, 1), [row["label"] for row in topic_rows(160, 1)]
    random.Random(5).shuffle(labels)
    write_jsonl(topics / "train.jsonl", [{**row, "label": x} for row, x in zip(rows, labels, strict=True)])
    assert 0.2 < mean_of(probe([str(checkpoint("bert"))], topics, settings)) < 0.75


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert", "deberta-v2"])
def test_entities_are_found(checkpoint: Checkpoint, entities: Path, architecture: str) -> None:
    result = probe([str(checkpoint(architecture))], entities, QUICK)
    assert result.task.kind == "entities"
    assert mean_of(result) > 0.8
    assert result.baselines["most_frequent_label"]["f1"] == 0


@pytest.mark.parametrize("layout", ["wordpiece", "byte_level", "modernbert", "unigram"])
def test_the_first_subword_represents_a_word(request: pytest.FixtureRequest, layout: str) -> None:
    tokenizer = request.getfixturevalue(f"{layout}_tokenizer")
    words = ["for", "the", "café", "312", "captain", "."]
    encoding = plain_copy(tokenizer).encode(" ".join(words), add_special_tokens=False)
    found = _first_subwords(encoding.offsets, encoding.tokens, words)
    shown = [encoding.tokens[place].strip("▁Ġ") for place in found]
    assert all(piece and word.startswith(piece) for word, piece in zip(words, shown, strict=True)), shown


def test_entities_are_found_by_fine_tuning(checkpoint: Checkpoint, entities: Path) -> None:
    assert mean_of(probe([str(checkpoint("bert"))], entities, TUNED)) > 0.8


def test_the_new_head_learns_ten_times_as_fast(
    checkpoint: Checkpoint, topics: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: dict[tuple[int, ...], float] = {}

    class Watched(torch.optim.AdamW):
        def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
            for group in groups:
                rates.update((tuple(weight.shape), group["lr"]) for weight in group["params"])
            super().__init__(groups, **options)

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    settings = ProbeSettings(
        method="finetune",
        seeds=1,
        limit=8,
        device="cpu",
        precision="fp32",
        offline=True,
        tuning=FineTuningSettings(epochs=1, batch=8, learning_rate=2e-4),
    )
    model = load_for_inference(str(checkpoint("bert")), device="cpu", offline=True)
    probe(model, topics, settings)
    width = int(model.model.config.hidden_size)
    assert rates[2, width] == pytest.approx(2e-3)
    assert rates[width, width] == pytest.approx(2e-4)


def test_two_runs_give_the_same(checkpoint: Checkpoint, topics: Path) -> None:
    settings = ProbeSettings(
        method="both",
        seeds=2,
        limit=40,
        device="cpu",
        precision="fp32",
        tuning=FineTuningSettings(epochs=1, batch=8),
    )
    first, second = (probe([str(checkpoint("bert"))], topics, settings).to_dict() for _ in range(2))
    for answer in (first, second):
        for model in answer["models"]:
            del model["seconds"]
    assert first == second
    assert first["task"]["sizes"]["train"] == 40


def test_a_model_that_ties_itself_is_not_better(checkpoint: Checkpoint, topics: Path) -> None:
    name = str(checkpoint("bert"))
    (verdict,) = probe([name, name], topics, QUICK).verdicts
    assert verdict.differences == [0, 0]
    assert not verdict.decided
    assert verdict.better == 0
    assert "no clear difference" in str(verdict)


def test_truncated_texts_are_counted(checkpoint: Checkpoint, entities: Path) -> None:
    recorded = Recorded()
    settings = ProbeSettings(seeds=1, max_length=6, device="cpu", precision="fp32")
    result = probe([str(checkpoint("bert"))], entities, settings, progress=recorded)
    assert result.models[0].truncated == {"train": 80, "test": 30}
    assert any(
        "texts truncated to 6 tokens: 80 of training, 30 of test" in note for note in recorded.messages
    )
    # What was truncated counts as missed: the person is at the end of every sentence.
    assert result.models[0].metrics["recall"][0] <= 0.5


def test_special_tokens_in_a_text_are_text(checkpoint: Checkpoint, topics: Path) -> None:
    rows = topic_rows(160, 1)
    rows[0]["text"] = "[SEP] boat [CLS] <s> </s> [MASK]"
    write_jsonl(topics / "train.jsonl", rows)
    assert mean_of(probe([str(checkpoint("bert"))], topics, QUICK)) > 0.9


def test_a_label_that_train_lacks_is_named(checkpoint: Checkpoint, topics: Path) -> None:
    rows = topic_rows(60, 2)
    rows[0]["label"] = "sports"
    write_jsonl(topics / "test.jsonl", rows)
    result = probe([str(checkpoint("bert"))], topics, QUICK)
    assert any("1 label of test never occurs in train (sports)" in note for note in result.notes)


# --- metrics ------------------------------------------------------------------------------------------------------

GOLD = [["B-A", "I-A", "O", "B-B"], ["O", "O"], ["B-B", "O", "B-A", "I-A"]]
GUESS = [["B-A", "I-A", "O", "B-A"], ["O", "I-B"], ["B-B", "O", "B-A", "O"]]


def test_entity_metrics_by_hand() -> None:
    # True: A(0-1) B(3); B(0) A(2-3). Predicted: A(0-1) A(3); B(1), begun by an I-; B(0) A(2). Two of five are right.
    found = label_metrics("entities", GOLD, GUESS)
    assert found["precision"] == pytest.approx(2 / 5)
    assert found["recall"] == pytest.approx(2 / 4)
    assert found["f1"] == pytest.approx(2 * 2 / 9)
    # A: 1 right of 3 predicted and 2 true; B: 1 right of 2 predicted and 2 true.
    assert found["macro_f1"] == pytest.approx((2 / 5 + 2 / 4) / 2)
    assert found["accuracy"] == pytest.approx(7 / 10)


def test_metrics_from_counts_are_those_of_the_libraries() -> None:
    tags = classes_of("entities", ["B-A", "I-A", "B-B", "I-B", "O"])
    counted = counts_of("entities", GOLD, GUESS, tags).sum(axis=0)
    assert main_metric("entities", "f1", counted) == pytest.approx(
        label_metrics("entities", GOLD, GUESS)["f1"]
    )
    draw = random.Random(0)
    gold, guess = ([[draw.choice("abcd")] for _ in range(50)] for _ in range(2))
    counted = counts_of("classification", gold, guess, list("abcdefg")).sum(axis=0)
    macro = label_metrics("classification", gold, guess)["macro_f1"]
    assert main_metric("classification", "macro_f1", counted) == pytest.approx(macro)


def test_an_interval_holds_the_mean_and_shrinks_with_more_examples() -> None:
    def width(examples: int) -> float:
        draw = random.Random(1)
        gold = [[draw.choice("ab")] for _ in range(examples)]
        guess = [[a if draw.random() < 0.8 else "a"] for (a,) in gold]
        counts = counts_of("classification", gold, guess, ["a", "b"])
        span = scores([counts, counts]).interval(strata_of(gold))
        assert span is not None
        assert span[0] < label_metrics("classification", gold, guess)["macro_f1"] < span[1]
        return span[1] - span[0]

    assert width(1000) < width(100) / 2


def scores(counts: list[Any]) -> SeedScores:
    return SeedScores.of("classification", "macro_f1", counts)


def strata_of(gold: list[list[str]]) -> Any:
    return np.unique([label for (label,) in gold], return_inverse=True)[1]


def test_one_seed_or_a_few_examples_give_no_interval() -> None:
    gold = [["a"], ["b"]] * 5
    counts = counts_of("classification", gold, [["a"]] * 10, ["a", "b"])
    assert scores([counts]).interval(strata_of(gold)) is None
    assert scores([counts, counts]).interval(strata_of(gold)) is not None
    assert scores([counts[:8]] * 2).interval(strata_of(gold[:8])) is None


def test_seeds_that_differ_widen_the_interval() -> None:
    gold = [["a"], ["b"]] * 50
    good, bad = (
        counts_of("classification", gold, [*gold[:right], *[["a"]] * (100 - right)], ["a", "b"])
        for right in (95, 75)
    )
    alike, different = (
        scores(seeds).interval(strata_of(gold)) for seeds in ([good] * 5, [good, bad, good, bad, good])
    )
    assert alike is not None
    assert different is not None
    assert different[1] - different[0] > 2 * (alike[1] - alike[0])


def test_a_rare_class_is_in_every_part_of_the_interval() -> None:
    draw = random.Random(2)
    gold = [[name] for name in "ab" for _ in range(100)] + [["rare"]] * 4
    guess = [label if draw.random() < 0.95 else ["a"] for label in gold[:200]] + [["rare"], *[["a"]] * 3]
    counts = counts_of("classification", gold, guess, ["a", "b", "rare"])
    value = label_metrics("classification", gold, guess)["macro_f1"]
    span = scores([counts, counts]).interval(strata_of(gold))
    assert span is not None
    assert sum(span) / 2 == pytest.approx(value)
    assert span[1] - span[0] > 0.1  # one right of four says little


def test_a_class_with_one_test_example_is_left_out_of_macro_f1(checkpoint: Checkpoint, topics: Path) -> None:
    rows = topic_rows(160, 1)
    for row in rows[:20]:
        row["label"] = "sports"
    write_jsonl(topics / "train.jsonl", rows)
    rows = topic_rows(60, 2)
    name = str(checkpoint("bert"))
    plain = probe([name], topics, QUICK)
    rows[0]["label"] = "sports"
    write_jsonl(topics / "test.jsonl", rows)
    result = probe([name, name], topics, QUICK)
    assert any(
        "left out of macro F1: 1 class with one test example (sports)" in note for note in result.notes
    )
    found, before = (one.models[0].metrics for one in (result, plain))
    assert found["macro_f1"][0] == pytest.approx(before["macro_f1"][0], abs=0.05)  # not a third less
    assert result.verdicts[0].interval == [0, 0]


def test_one_seed_gives_no_verdict(checkpoint: Checkpoint, topics: Path) -> None:
    settings = ProbeSettings(seeds=1, device="cpu", precision="fp32")
    (verdict,) = probe([str(checkpoint(name)) for name in ("bert", "roberta")], topics, settings).verdicts
    assert not verdict.decided
    assert str(verdict).startswith("frozen: no verdict on ")
    assert str(verdict).endswith("one seed does not show how much seeds differ; use --seeds 5")


def test_copies_of_a_test_text_are_one_example(checkpoint: Checkpoint, topics: Path) -> None:
    rows = topic_rows(12, 2)
    write_jsonl(topics / "test.jsonl", rows)
    name = str(checkpoint("bert"))
    once = probe([name], topics, QUICK).models[0]
    write_jsonl(topics / "test.jsonl", rows * 20)
    copied = probe([name], topics, QUICK).models[0]
    assert copied.interval == (once.interval and pytest.approx(once.interval))


# --- reading ------------------------------------------------------------------------------------------------------


def test_shared_texts_are_refused_counted_and_dropped(topics: Path) -> None:
    rows = topic_rows(60, 2)
    for row, other in zip(rows[10:13], topic_rows(160, 1), strict=False):
        row["text"] = f"  {other['text']}"
    write_jsonl(topics / "test.jsonl", rows)
    task = read_task(topics)
    with pytest.raises(DataError, match=r"test\.jsonl:11: 3 of 60 test texts also in train"):
        resolve_overlap(task)
    dropped = resolve_overlap(task, drop=True)
    assert len(dropped.train) == 157
    allowed = resolve_overlap(task, allow=True)
    assert (len(allowed.train), allowed.shared) == (160, 3)
    assert "3 of 60" in allowed.notes[0]
    with pytest.raises(ConfigError):
        resolve_overlap(task, allow=True, drop=True)


def test_short_sentences_that_recur_are_no_leak(entities: Path) -> None:
    for name in ("train", "test"):
        path = entities / f"{name}.tsv"
        path.write_text("METHODS\tO\n.\tO\n\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    settled = resolve_overlap(read_task(entities))
    assert settled.shared == 0
    assert "1 test sentence of fewer than 5 tokens" in settled.notes[0]


@pytest.mark.parametrize(
    ("name", "content", "labels"),
    [
        ("train.csv", 'label,text\nyes,"one, two"\nno,three\n', ["yes", "no"]),
        ("train.tsv", "sentence\tlabel\none two\t1\nthree\t0\n", ["1", "0"]),
        ("train.tsv", "gj04\t1\t\tOne sentence here.\ngj04\t0\t*\tAnother this here.\n", ["1", "0"]),
        ("train.jsonl", '{"text": "one", "label": 3}\n{"text": "two", "label": 4}\n', ["3", "4"]),
    ],
)
def test_tables_are_read(tmp_path: Path, name: str, content: str, labels: list[str]) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    task = read_task(tmp_path / name, test=tmp_path / name)
    assert task.kind == "classification"
    assert task.train.labels == [[label] for label in labels]


def test_folders_of_labels_are_read(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for label in ("good", "bad"):
            (tmp_path / part / label).mkdir(parents=True)
            (tmp_path / part / label / "1.txt").write_text(f"a {label} text\nof {part}", encoding="utf-8")
    task = read_task(tmp_path)
    assert task.train.labels == [["bad"], ["good"]]
    assert task.test.texts[1] == "a good text\nof test"


def test_other_tags_than_entities_are_read(tmp_path: Path) -> None:
    path = tmp_path / "train.conll"
    path.write_text("-DOCSTART- X\n\nThe DET\nboat NOUN\n\n\nA DET\nwar NOUN\n", encoding="utf-8")
    task = read_task(path, test=path)
    assert task.kind == "tags"
    assert task.train.words == [["The", "boat"], ["A", "war"]]
    assert task.train.lines == [3, 7]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.jsonl", "", "no examples"),
        ("train.conll", "\n\n", "no examples"),
        ("train.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n', r"train\.jsonl:2: no field 'label'"),
        ("train.jsonl", '{"text": "a", "label": null}\n', r"train\.jsonl:1: the label in 'label' is empty"),
        ("train.jsonl", '{"text": " ", "label": 1}\n', r"train\.jsonl:1: the text in 'text' is empty"),
        ("train.jsonl", '{"text": "a", "label": 1}\n{"text"\n', r"train\.jsonl:2: broken JSON"),
        ("train.csv", "text,label\na,1\nb\n", r"train\.csv:3: no field 'label'; there are 'text'"),
        (
            "train.jsonl",
            '{"text": "a", "label": 1}\n{"text": "b", "label": 1}\n',
            "all examples have the label",
        ),
        (
            "train.jsonl",
            "".join(f'{{"text": "a", "label": "l{n}"}}\n' for n in range(30)),
            "30 different labels",
        ),
        ("train.tsv", "The\tO\nboat\tB-X\n\nA\tO\nwar\n", r"train\.tsv:5: expected a token and its tag"),
        ("train.tsv", "The\tO\nboat\tB-X\n\nA\tO\nwar\tX\tO\n", r"train\.tsv:5: 3 columns, expected 2"),
    ],
)
def test_errors_of_files_name_the_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_task(tmp_path / name, test=tmp_path / name)


def test_a_folder_without_test_names_what_there_is(tmp_path: Path) -> None:
    for name in ("in_domain_train.tsv", "in_domain_dev.tsv", "out_of_domain_dev.tsv"):
        (tmp_path / name).write_text("text\tlabel\none\t1\ntwo\t0\n", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"--test FILE \(there is in_domain_dev.tsv and out_of_domain_dev.tsv\)"
    ):
        read_task(tmp_path)
    task = read_task(tmp_path, test=tmp_path / "out_of_domain_dev.tsv")
    assert task.dev is not None
    assert task.dev.source.endswith("in_domain_dev.tsv")
    with pytest.raises(DataError, match="no train file"):
        read_task(tmp_path.parent / tmp_path.name / "..", test=None)


def test_the_known_leak_is_found() -> None:
    folder = Path(__file__).parents[2] / "../shared/data/tasks/citation-intent"
    if not folder.is_dir():
        pytest.skip("no labelled sets at ../shared/data")
    with pytest.raises(DataError, match="52 of 139 test texts also in train"):
        resolve_overlap(read_task(folder))
