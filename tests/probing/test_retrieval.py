"""Retrieval: ranks and metrics are those of trec_eval, tasks are read or made as documented, errors are one line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import unmask
from unmask.cli.main import main
from unmask.data.reading.documents import Document
from unmask.errors import ConfigError, DataError, DivergedError
from unmask.probing.bm25 import BM25
from unmask.probing.ranking import METRICS, query_metrics, relevant_ranks, unit_length
from unmask.probing.retrieval import probe_retrieval
from unmask.probing.retrieval_tasks import is_retrieval_folder, read_beir, task_of_documents
from unmask.probing.settings import EncoderSettings

Checkpoint = Callable[[str], Path]
Run = Callable[..., tuple[int, str, str]]
QUICK = EncoderSettings(device="cpu", precision="fp32", offline=True)


def ranked(scores: np.ndarray, relevant: list[dict[int, int]], block: int = 1 << 20) -> list[list[float]]:
    """Return the metrics of each query for a table of scores; equal scores are ranked by descending number."""
    passages = np.eye(scores.shape[1], dtype=np.float32)
    same = np.arange(scores.shape[1])
    ranks = relevant_ranks(
        scores.astype(np.float32), passages, same, [np.array([*grades]) for grades in relevant], -same, np.full(len(scores), -1), block
    )  # fmt: skip
    return [
        query_metrics(found, np.array([*grades.values()])).tolist()
        for found, grades in zip(ranks, relevant, strict=True)
    ]


def written_out(scores: np.ndarray, relevant: list[dict[int, int]]) -> list[list[float]]:
    """The same from complete rankings, by the definitions of trec_eval."""
    found = []
    for row, grades in zip(scores, relevant, strict=True):
        order = sorted(range(len(row)), key=lambda passage: (-row[passage], -passage))
        gains = [grades.get(passage, 0) for passage in order]
        ideal = sorted(gains, reverse=True)
        dcg, best = (sum(g / math.log2(n + 2) for n, g in enumerate(side[:10])) for side in (gains, ideal))
        hits = [gain > 0 for gain in gains]
        found.append(
            [dcg / best, *(sum(hits[:k]) / sum(hits) for k in (10, 100)), 1 / (1 + hits.index(True))]
        )
    return found


@pytest.fixture(scope="module")
def judged() -> tuple[np.ndarray, list[dict[int, int]]]:
    """Scores of 30 queries and 300 passages with many ties, and their graded judgements."""
    draw = np.random.default_rng(0)
    scores = draw.integers(0, 12, (30, 300)) / 8
    relevant = [
        {
            int(passage): int(draw.integers(1, 4))
            for passage in draw.choice(300, 1 + number % 14, replace=False)
        }
        for number in range(30)
    ]
    return scores, relevant


def test_metrics_are_those_written_out(judged: tuple[np.ndarray, list[dict[int, int]]]) -> None:
    scores, relevant = judged
    for block in (1, 1000, 1 << 20):
        np.testing.assert_allclose(ranked(scores, relevant, block), written_out(scores, relevant), atol=1e-9)


def test_metrics_are_those_of_trec_eval(judged: tuple[np.ndarray, list[dict[int, int]]]) -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    scores, relevant = judged
    qrels = {str(q): {f"{p:03}": grade for p, grade in grades.items()} for q, grades in enumerate(relevant)}
    run = {str(q): {f"{p:03}": float(score) for p, score in enumerate(row)} for q, row in enumerate(scores)}
    names = {
        "ndcg_cut.10": "ndcg_cut_10",
        "recall.10": "recall_10",
        "recall.100": "recall_100",
        "recip_rank": "recip_rank",
    }
    found = pytrec_eval.RelevanceEvaluator(qrels, {*names}).evaluate(run)
    wanted = [[found[str(q)][name] for name in names.values()] for q in range(len(scores))]
    np.testing.assert_allclose(ranked(scores, relevant), wanted, atol=1e-6)


def test_copies_share_a_vector_and_a_query_does_not_find_itself() -> None:
    vectors = unit_length(np.array([[1, 0], [1, 1], [0, 0]], dtype=np.float32))
    ranks = relevant_ranks(
        vectors[:1],
        vectors,
        np.array([0, 1, 0, 1, 2]),
        [np.array([1, 3, 4])],
        np.arange(5)[::-1],
        np.array([0]),
    )
    assert next(ranks).tolist() == [3, 2, 4]  # after passage 2; of the copies 1 and 3 the later comes first
    with pytest.raises(DivergedError):
        unit_length(np.array([[np.nan]], dtype=np.float32))


def test_bm25_is_the_formula_written_out() -> None:
    passages = ["the boat and the river", "A war!", "the old boat sold the boat", ""]
    found = BM25(passages).scores("Boat the war war 船")
    words = [
        ["the", "boat", "and", "the", "river"],
        ["a", "war"],
        ["the", "old", "boat", "sold", "the", "boat"],
        [],
    ]
    mean = sum(map(len, words)) / 4
    for place, passage in enumerate(words):
        wanted = 0.0
        for word in ("boat", "the", "war", "war"):
            having = sum(word in other for other in words)
            idf, times = math.log(1 + (4 - having + 0.5) / (having + 0.5)), passage.count(word)
            wanted += idf * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * len(passage) / mean))
        assert found[place] == pytest.approx(wanted, abs=1e-6)


# --- tasks


def write_beir(folder: Path, qrels: str = "q1\tp1\t1\nq2\tp2\t2\nq2\tp3\t0\nq3\tp3\t0\n") -> Path:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    corpus = [
        {"_id": "p1", "title": "The river", "text": "a boat on the river"},
        {"_id": "p2", "title": "", "text": "the election in the war"},
        {"_id": "p3", "text": "her old telescope"},
        {"_id": "q2", "text": "election and war"},
    ]
    queries = [
        {"_id": "q1", "text": "a boat"},
        {"_id": "q2", "text": "election and war"},
        {"_id": "q3", "text": "nothing"},
    ]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels, encoding="utf-8")
    return folder


def test_the_layout_of_beir_is_read(tmp_path: Path) -> None:
    folder = write_beir(tmp_path)
    assert is_retrieval_folder(folder)
    task = read_beir(folder)
    assert task.queries == ["a boat", "election and war"]
    assert task.passages[:2] == ["The river a boat on the river", "the election in the war"]
    assert task.relevant == [{0: 1}, {1: 2}]
    assert task.order.tolist() == [3, 2, 1, 0]
    assert task.excluded.tolist() == [-1, 3]
    assert "1 query of test.tsv without a relevant passage" in task.notes[0]
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "dev.tsv")
    assert read_beir(folder).queries == task.queries
    (folder / "qrels" / "train.tsv").write_text("q1\tp1\t1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"there are dev\.tsv, train\.tsv; choose with --test FILE"):
        read_beir(folder)
    assert len(read_beir(folder, folder / "qrels" / "train.tsv").queries) == 1


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ("q1\tp1\t1\nq1\tp9\t1\n", r"test\.tsv:3: the passage 'p9' is not in corpus\.jsonl"),
        ("q9\tp1\t1\n", r"test\.tsv:2: the query 'q9' is not in queries\.jsonl"),
        (
            "q1\tp1\t1\nq2\tp2\t1\nq1\tp1\t0\n",
            r"test\.tsv:4: the query 'q1' and the passage 'p1' are judged twice, in line 2 already",
        ),
        ("q1\tp1\tyes\n", r"test\.tsv:2: expected query id, passage id and a whole number"),
        ("q1\tp1\t0\n", "no query has a relevant passage"),
    ],
)
def test_broken_judgements_are_one_line(tmp_path: Path, qrels: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_beir(write_beir(tmp_path, qrels))
    assert "\n" not in str(caught.value)


def test_an_id_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    path = write_beir(tmp_path) / "corpus.jsonl"
    path.write_text(path.read_text(encoding="utf-8") * 2, encoding="utf-8")
    with pytest.raises(DataError, match=r"corpus\.jsonl:5: the id 'p1' occurs twice"):
        read_beir(tmp_path)


def documents(*texts: str) -> list[Document]:
    return [Document(text, "memory", None) for text in texts]


def test_documents_are_split_in_halves_and_titles() -> None:
    one, two = "a boat on the wide river", "carried the old telescope"
    task = task_of_documents(documents(f"{one} {two}", f"{two} {one}", "too short", f"{one} {two}"))
    assert (task.queries, task.passages) == ([one, two], [two, one])
    assert task.relevant == [{0: 1}, {1: 1}]
    assert any(
        "1 of 4 documents are too short for two halves of 20 characters" in note for note in task.notes
    )
    assert "1 copy of other passages left out" in task.notes
    task = task_of_documents(documents(f"News\n{one}", f"News\n\n{two}", f"Untitled {two}"), "titles")
    assert (task.queries, task.passages, task.relevant) == (["News"], [one, two], [{0: 1, 1: 1}])
    with pytest.raises(DataError, match="two different passages or more, found 1"):
        task_of_documents(documents(f"{one} {two}"))
    assert task_of_documents(documents("春" * 30 + "天" * 30, "我" * 60)).passages == ["天" * 30, "我" * 30]


# --- models


@pytest.fixture
def notes(tmp_path: Path, corpus_text: list[str]) -> Path:
    """Sixty documents of four sentences."""
    lines = [" ".join(corpus_text[4 * number : 4 * number + 4]) for number in range(60)]
    path = tmp_path / "notes.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    before = dict(os.environ)

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["probe", *map(str, arguments), "--offline"])
        return code, *capsys.readouterr()

    yield call
    os.environ.clear()
    os.environ.update(before)


def test_a_query_that_is_its_passage_is_found(checkpoint: Checkpoint, corpus_text: list[str]) -> None:
    """Half of the words of a passage find it; with one vector for all texts every rank would be chance."""
    texts = [f"{text} {text}" for text in corpus_text[:40] if len(text) >= 20]
    task = task_of_documents(documents(*texts))
    result = probe_retrieval(str(checkpoint("bert")), task, QUICK)
    found = result.models[0]
    assert found.metrics["mrr"].value > 0.9
    assert result.baselines["bm25"]["mrr"].value > 0.9
    assert found.by_query.shape == (len(task.queries), len(METRICS))
    again = probe_retrieval(str(checkpoint("bert")), task, QUICK).models[0]
    np.testing.assert_array_equal(found.by_query, again.by_query)


def test_models_are_compared_on_their_own_text(run: Run, checkpoint: Checkpoint, notes: Path) -> None:
    models = [checkpoint("bert"), checkpoint("roberta")]
    code, out, err = run(*models, "--data", notes, "--limit", 50, "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert answer["task"] | {"name": ""} == {
        "name": "", "kind": "retrieval", "queries_from": "first half → second half of each document",
        "queries": 50, "passages": 60, "relevant": 50,
    }  # fmt: skip
    first, second = (row["figures"] for row in answer["models"])
    (verdict,) = answer["verdicts"]
    assert first["intervals"]["recall_at_100"] is None  # all 60 passages are among the first 100
    for figures in (first, second, answer["baselines"]["bm25"], verdict["differences"]):
        assert figures["recall_at_100"] is None
    assert "no recall@100: it is 100% for any model, with 60 passages in all" in answer["notes"]
    for name in set(METRICS) - {"recall_at_100"}:
        assert 0 <= first["intervals"][name][0] <= first[name] <= first["intervals"][name][1] <= 1
        assert verdict["differences"][name] == pytest.approx(second[name] - first[name])
    code, out, err = run(*models, "--data", notes, "--max-length", 12)
    assert code == 0, err
    assert "nDCG@10" in out
    assert "BM25" in out
    assert "100.0%" not in out.partition("BM25")[2].partition("\n")[0]
    assert "truncated to 12 tokens: 60 queries and 60 passages" in out


def test_python_takes_texts_and_folders(
    checkpoint: Checkpoint, tmp_path: Path, corpus_text: list[str]
) -> None:
    name = checkpoint("bert")
    found = unmask.probe_retrieval(
        name, data=[f"Title\n{text}" for text in corpus_text[:30]], queries="titles", progress=False
    )
    assert len(found.task.passages) == 30
    assert found.to_rows()[0]["metric"] == "ndcg_at_10"
    assert "<data>" in repr(found)
    both = unmask.probe_retrieval([name, name], write_beir(tmp_path), offline=True, progress=False)
    assert str(both.verdicts[0]).startswith("no clear difference between ")
    with pytest.raises(ConfigError):
        unmask.probe_retrieval(name, progress=False)


def test_wrong_calls_end_with_one_line(run: Run, checkpoint: Checkpoint, tmp_path: Path, notes: Path) -> None:
    name = checkpoint("bert")
    folder = write_beir(tmp_path / "task", "q1\tp1\t1\nq1\tp9\t1\n")
    code, out, err = run(name, "--task", folder)
    assert (code, out) == (3, "")
    assert "the passage 'p9' is not in corpus.jsonl" in err.splitlines()[-1]
    code, _, err = run(name, "--data", notes, "--seeds", 3)
    assert code == 2
    assert "--seeds has no effect on retrieval" in err
    assert run(name)[0] == run(name, "--task", folder, "--data", notes)[0] == 2
