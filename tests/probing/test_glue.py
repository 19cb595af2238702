"""The tasks of GLUE are read from small files of their published layout, and probed by their own metric."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from unmask.errors import DataError
from unmask.probing.probe import probe
from unmask.probing.settings import ProbeSettings
from unmask.probing.tasks import read_task, resolve_overlap

Checkpoint = Callable[[str], Path]

TREES = "sentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse"
# Folder: the first line of train and dev, a row with text 1, text 2 and label, the first line of test, labels, metric.
TASKS = {
    "CoLA": ("", "gj04\t{label}\t\t{one}", "index\tsentence", "01", "matthews"),
    "SST-2": ("sentence\tlabel", "{one} \t{label}", "index\tsentence", "01", "accuracy"),
    "MRPC": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", "{label}\t70\t71\t{one}\t{two}",
        "index\t#1 ID\t#2 ID\t#1 String\t#2 String", "01", "f1",
    ),
    "STS-B": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "0\tmain\tMSR\t2012\t1\tnone\tnone\t{one}\t{two}\t{label}",
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2", ["0.5", "4.250"], "pearson",
    ),
    "QQP": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "5\t6\t7\t{one}\t{two}\t{label}",
        "id\tquestion1\tquestion2", "01", "f1",
    ),
    "MNLI": (
        f"index\tpromptID\tpairID\tgenre\t{TREES}\tsentence1\tsentence2\tlabel1\tgold_label",
        "0\t1\t1n\tfiction\t( a )\t( b )\t(A)\t(B)\t{one}\t{two}\t{label}\t{label}",
        f"index\tpromptID\tpairID\tgenre\t{TREES}\tsentence1\tsentence2", ["neutral", "entailment"], "accuracy",
    ),
    "QNLI": ("index\tquestion\tsentence\tlabel", "0\t{one}\t{two}\t{label}", "index\tquestion\tsentence", ["entailment", "not_entailment"], "accuracy"),
    "RTE": ("index\tsentence1\tsentence2\tlabel", "0\t{one}\t{two}\t{label}", "index\tsentence1\tsentence2", ["entailment", "not_entailment"], "accuracy"),
    "WNLI": ("index\tsentence1\tsentence2\tlabel", "0\t{one}\t{two}\t{label}", "index\tsentence1\tsentence2", "01", "accuracy"),
}  # fmt: skip
SINGLE = ("CoLA", "SST-2")


def write_task(folder: Path, name: str, train: int = 40, dev: int = 20) -> Path:
    """Write train, dev and test; a quote opens in every text and does not close."""
    head, row, test_head, labels, _ = TASKS[name]
    folder.mkdir(exist_ok=True)
    draw, matched = random.Random(0), "_matched" if name == "MNLI" else ""
    for part, count in (("train", train), (f"dev{matched}", dev)):
        lines = [head] if head else []
        for number in range(count):
            label = number % 2
            topic = [("river", "boat"), ("war", "election")][label]
            one, two = (f'"{" ".join(draw.choices(topic, k=6))} {part} {number}' for _ in range(2))
            lines.append(row.format(one=one, two=two, label=labels[label]))
        (folder / f"{part}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / f"test{matched}.tsv").write_text(test_head + "\n0\ta\tb\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_read_from_its_published_files(tmp_path: Path, name: str) -> None:
    task = read_task(write_task(tmp_path, name))
    assert (len(task.train), len(task.test), task.metric) == (40, 20, TASKS[name][4])
    assert task.train.texts[0].startswith('"')
    assert task.train.texts[0].endswith("train 0")
    assert (task.train.seconds is None) == (name in SINGLE)
    assert task.train.labels[:2] == [[label] for label in TASKS[name][3]]
    assert task.kind == ("regression" if name == "STS-B" else "classification")
    by = "its columns and labels" if name in ("RTE", "WNLI") else "its columns"
    assert task.notes == (f"{name} of GLUE, by {by}; tested on {Path(task.test.source).name}",)


def test_a_task_that_is_not_known_by_columns_and_labels_gets_no_name(tmp_path: Path) -> None:
    folder = write_task(tmp_path, "RTE")
    for path in (folder / "train.tsv", folder / "dev.tsv"):
        path.write_text(
            path.read_text(encoding="utf-8").replace("not_entailment", "contradiction"), encoding="utf-8"
        )
    task = read_task(tmp_path)
    assert (len(task.train), len(task.test), task.metric, task.published) == (40, 20, None, False)
    said = (
        "unknown task: the columns are those of RTE and WNLI of GLUE, the labels are not; tested on dev.tsv"
    )
    assert task.notes == (said,)


@pytest.mark.parametrize("name", ["CoLA", "MRPC", "STS-B"])
def test_a_task_is_probed_by_its_own_metric(checkpoint: Checkpoint, tmp_path: Path, name: str) -> None:
    pytest.importorskip("sklearn")
    settings = ProbeSettings(seeds=2, device="cpu", precision="fp32", offline=True)
    result = probe(str(checkpoint("bert")), write_task(tmp_path, name, train=160, dev=40), settings).to_dict()
    assert result["metric"] == TASKS[name][4]
    assert result["models"][0]["figures"][result["metric"]]["mean"] > 0.7


def test_other_files_of_a_task_are_read_alike(tmp_path: Path) -> None:
    folder = write_task(tmp_path, "MNLI")
    other = (folder / "dev_matched.tsv").rename(folder / "dev_mismatched.tsv")
    (folder / "dev_matched.tsv").write_bytes(other.read_bytes())
    assert read_task(folder, test=other).test.source == str(other)
    with pytest.raises(
        DataError, match=r"test_matched\.tsv:1: no column 'gold_label' of MNLI; expected a file with labels"
    ):
        read_task(folder, test=folder / "test_matched.tsv")


def test_the_original_files_of_mrpc_are_read(tmp_path: Path) -> None:
    folder = write_task(tmp_path, "MRPC")
    for role, name in (("train", "train"), ("test", "dev")):
        (folder / f"{name}.tsv").rename(folder / f"msr_paraphrase_{role}.txt")
    task = read_task(folder)
    assert (len(task.train), len(task.test), task.metric) == (40, 20, "f1")


def test_rows_without_columns_are_counted(tmp_path: Path) -> None:
    path = write_task(tmp_path, "QQP", train=200) / "train.tsv"
    path.write_text(path.read_text(encoding="utf-8") + "a broken row\n", encoding="utf-8")
    assert "left out of train.tsv: 1 row without all columns" in read_task(tmp_path).notes[1]
    path.write_text(path.read_text(encoding="utf-8") + "a broken row\n" * 5, encoding="utf-8")
    with pytest.raises(DataError, match="6 of 206 rows without the columns of QQP"):
        read_task(tmp_path)


def test_shared_texts_of_a_published_task_are_kept_and_noted(tmp_path: Path) -> None:
    folder = write_task(tmp_path, "SST-2")
    with (folder / "train.tsv").open("a", encoding="utf-8") as file:
        file.write('"river dev_shared\t1\n')
    with (folder / "dev.tsv").open("a", encoding="utf-8") as file:
        file.write('"river dev_shared\t1\n')
    task = read_task(folder)
    kept = resolve_overlap(task)
    assert (kept.shared, len(kept.train)) == (1, 41)
    assert "kept, as in published figures" in kept.notes[-1]
    assert len(resolve_overlap(task, drop=True).train) == 40


def test_a_folder_with_a_labelled_test_is_no_task_of_glue(tmp_path: Path) -> None:
    folder = write_task(tmp_path, "SST-2")
    (folder / "test.tsv").write_text("sentence\tlabel\na river\t1\na war\t0\n", encoding="utf-8")
    task = read_task(folder)
    assert (task.metric, len(task.test), task.published) == (None, 2, False)
