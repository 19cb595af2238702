"""Held-out evaluation: targets never change, and sums equal direct computation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from unmask.data.batches import Batch, TextSource
from unmask.data.corpus import token_counts
from unmask.errors import DataError, DivergedError
from unmask.evaluation import heldout
from unmask.evaluation.heldout import Tally, by_replacement, evaluate_batches, evaluation_batches, tally
from unmask.evaluation.metrics import COLUMNS
from unmask.evaluation.predictions import score_targets
from unmask.evaluation.strata import Strata, places
from unmask.model.masked_lm import MaskedLM
from unmask.progress import Progress

Source = Callable[..., TextSource]
Load = Callable[[str], MaskedLM]


def strata_of(source: TextSource) -> Strata:
    counts = token_counts(source.corpus, source.documents, source.vocabulary.size)
    return Strata(counts, "the text", words=source.vocabulary.words is not None)


def tallied(model: MaskedLM, source: TextSource, **options: Any) -> Tally:
    return tally(model, source, strata_of(source), **options)


def totals(found: Tally) -> dict[str, float]:
    return dict(zip(COLUMNS, found.sums[:, 0].sum(axis=0), strict=True))


# ---- scores of targets


@pytest.mark.parametrize("entries", [40, 256, 300])
def test_scores_are_those_of_a_sorted_softmax(entries: int) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(150, entries, generator=draw)
    logits[:, ::7] = logits[:, ::7].round()  # ties
    targets = torch.randint(entries, (150,), generator=draw)
    found = score_targets(logits, targets)
    for row in range(150):
        probabilities = logits[row].double().softmax(-1)
        order = probabilities.argsort(descending=True, stable=True).tolist()
        assert found.loss[row] == pytest.approx(-float(probabilities[targets[row]].log()), abs=1e-5)
        assert found.rank[row] == order.index(int(targets[row])) + 1
        assert found.guess[row] == order[0]
        assert found.confidence[row] == pytest.approx(float(probabilities.max()), abs=1e-6)


def test_constant_logits_are_not_right_by_a_tie() -> None:
    found = score_targets(torch.zeros(5, 10), torch.arange(5))
    assert found.rank.tolist() == [1, 2, 3, 4, 5]
    assert np.allclose(found.confidence, 0.1)


def test_ties_agree_with_argmax() -> None:
    draw = torch.Generator().manual_seed(1)
    logits = torch.randint(0, 4, (200, 12), generator=draw).bfloat16()
    targets = torch.randint(12, (200,), generator=draw)
    right = torch.from_numpy(score_targets(logits, targets).rank == 1)
    assert torch.equal(right, logits.argmax(-1) == targets)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_or_infinite_logits_are_an_error(bad: float) -> None:
    logits = torch.zeros(3, 5)
    logits[1, 2] = bad
    with pytest.raises(DivergedError, match="NaN or infinite"):
        score_targets(logits, torch.tensor([0, 1, 2])).require_finite()


# ---- against direct computation


def directly(model: MaskedLM, source: TextSource) -> dict[str, float]:
    """The same sums by the bare transformers model: a sequence at a time, all logits, ranks by sorting."""
    found = dict.fromkeys(COLUMNS, 0.0)
    with model.plain() as plain, torch.no_grad():
        for batch in source.evaluation_batches(10_000):
            for begin, end in zip(batch.cu_seqlens, batch.cu_seqlens[1:], strict=False):
                ids = torch.from_numpy(batch.input_ids[begin:end]).unsqueeze(0)
                logits = plain(input_ids=ids).logits[0].double()
                inside = (batch.target_index >= begin) & (batch.target_index < end)
                for place, token in zip(batch.target_index[inside], batch.target_ids[inside], strict=True):
                    scores = logits[place - begin].log_softmax(-1)
                    rank = scores.argsort(descending=True, stable=True).tolist().index(token) + 1
                    values = (1, -float(scores[token]), rank <= 1, rank <= 5, rank <= 10, 1 / rank)
                    for name, value in zip(COLUMNS, values, strict=True):
                        found[name] += value
    return found


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "roberta", "deberta-v2"])
def test_sums_are_those_of_one_sequence_at_a_time(
    architecture: str, loaded: Load, source: Source, documents: list[str]
) -> None:
    model = loaded(architecture)
    text = source(model, documents, max_length=32, rate=0.3)
    assert totals(tallied(model, text)) == pytest.approx(directly(model, text), rel=1e-5)


def test_the_metrics_of_a_training_run_are_the_same(
    loaded: Load, source: Source, documents: list[str]
) -> None:
    model = loaded("bert")
    text = source(model, documents)
    found, old = totals(tallied(model, text)), evaluate_batches(model, text.evaluation_batches(1000))
    assert old.masked_tokens == found["masked_tokens"]
    assert old.loss == pytest.approx(found["loss"] / old.masked_tokens, rel=1e-5)
    assert old.accuracy == found["accuracy"] / old.masked_tokens


# ---- targets


def test_two_evaluations_are_bit_identical(loaded: Load, source: Source, documents: list[str]) -> None:
    model = loaded("bert")
    first, second = (tallied(model, source(model, documents)) for _ in range(2))
    assert (first.sums == second.sums).all()
    assert (first.bins == second.bins).all()
    assert first.positions == second.positions


def test_positions_do_not_depend_on_batches_model_or_order_but_on_rate_and_text(
    loaded: Load, source: Source, documents: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("bert")
    usual = tallied(model, source(model, documents)).positions
    assert tallied(model, source(model, documents[::-1])).positions == usual
    assert tallied(loaded("electra"), source(model, documents)).positions == usual
    assert tallied(model, source(model, documents, rate=0.16)).positions != usual
    assert tallied(model, source(model, documents[1:])).positions != usual
    monkeypatch.setattr(heldout, "_BUDGET", (64, 64))
    assert tallied(model, source(model, documents)).positions == usual


def test_the_logits_of_a_batch_are_bounded(
    loaded: Load, source: Source, documents: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("bert")
    text = source(model, documents, max_length=16, rate=1.0)
    monkeypatch.setattr(heldout, "_BUDGET", (16, 8_192))
    monkeypatch.setattr(heldout, "_MOST_LOGITS", 40 * text.vocabulary.size)
    sizes = [batch.tokens for batch in evaluation_batches(text)]
    assert max(sizes) <= 40
    assert sum(sizes) == text.tokens


def test_a_limit_of_tokens_takes_documents_by_hash(
    loaded: Load, source: Source, documents: list[str]
) -> None:
    model = loaded("bert")
    some = tallied(model, source(model, documents), most=300)
    assert 200 < some.tokens <= 300
    assert 0 < some.documents < len(documents)
    again = tallied(model, source(model, documents[::-1]), most=300)
    assert again.positions == some.positions


def test_progress_rises_to_one_though_whole_documents_stop_short_of_the_limit(
    loaded: Load, source: Source, documents: list[str]
) -> None:
    shares: list[float | None] = []

    class Shares(Progress):
        def advance(self, share: float | None, figures: Mapping[str, object]) -> None:
            shares.append(share)

    model = loaded("bert")
    assert tallied(model, source(model, documents), most=300, progress=Shares()).tokens < 300
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_document_counts_where_it_has_a_target(loaded: Load, source: Source) -> None:
    model = loaded("bert")
    found = tallied(model, source(model, ["the river", *["the old war in the village"] * 3], rate=1.0))
    assert found.documents == 4
    assert found.texts == (found.sums[:, 0, 0] > 0).sum() == 2  # three are copies of one text


def test_text_without_a_masked_token_is_an_error(loaded: Load, source: Source) -> None:
    model = loaded("bert")
    with pytest.raises(DataError, match="higher --mask-rate"):
        tallied(model, source(model, ["river"], rate=1e-9))


def test_the_model_is_left_in_its_mode(loaded: Load, source: Source, documents: list[str]) -> None:
    model = loaded("bert")
    model.model.train()
    try:
        tallied(model, source(model, documents))
        assert model.model.training
    finally:
        model.model.eval()


# ---- tables


@pytest.mark.parametrize("architecture", ["bert", "roberta", "albert"])
def test_the_rows_of_every_table_sum_to_the_whole(
    architecture: str, loaded: Load, source: Source, documents: list[str]
) -> None:
    model = loaded(architecture)
    text = source(model, documents, max_length=24)
    strata = strata_of(text)
    found = tally(model, text, strata)
    assert [table.key for table, _ in strata.spans()] == ["by_frequency", "by_piece", "by_position"]
    for _, span in strata.spans():
        parts = found.sums[:, 1:][:, span].sum(axis=1)
        assert np.allclose(parts, found.sums[:, 0])  # for every document, every metric
        assert (parts[:, 0] == found.sums[:, 0, 0]).all()
    assert found.bins[:, 0].sum() == found.masked_tokens


def test_a_token_in_plain_sight_counts_in_a_row_of_its_own_and_not_in_the_metrics(
    loaded: Load, source: Source, documents: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("bert")

    def copied(batch: Batch) -> torch.Tensor:
        """Logits of a model that says the token it sees."""
        seen = torch.from_numpy(batch.input_ids[batch.target_index])
        return 20.0 * torch.nn.functional.one_hot(seen, model.vocabulary.size)

    monkeypatch.setattr(model, "target_logits", copied)
    text = source(model, documents, rate=0.5)
    masking = text.masking
    strata = Strata(np.zeros(text.vocabulary.size, np.int64), "nothing", masking=masking)
    found = tally(model, text, strata)
    assert totals(found)["accuracy"] == 0
    (_, span) = strata.spans()[-1]
    count, _, right = found.sums[:, 1:][:, span, :3].sum(axis=0).T
    assert right.tolist() == [0, 0, count[2], count[2]]
    assert count[3] == count[:3].sum() == found.masked_tokens
    assert count[:3] / count[3] == pytest.approx([0.8, 0.1, 0.1], abs=0.05)
    assert [row["accuracy"] for row in by_replacement(model, text.evaluation_batches(500, hidden=False))] == [
        *(0, 0, 1),
        pytest.approx(count[2] / count[3]),
    ]
    # Where training replaces all by the mask token too, there is nothing to tell apart.
    assert not Strata(
        np.zeros(5, np.int64), "nothing", masking=masking.model_copy(update={"mask_share": 1})
    ).replaced


def test_replaced_targets_are_of_no_more_tokens_than_the_limit(
    loaded: Load, source: Source, documents: list[str]
) -> None:
    model = loaded("bert")
    text = source(model, documents)
    strata = Strata(np.zeros(text.vocabulary.size, np.int64), "nothing", masking=text.masking)
    found = tally(model, text, strata, most=300)
    assert 0 < found.sums[:, -1, 0].sum() <= found.masked_tokens


def test_metrics_do_not_depend_on_the_replacements_of_training(
    loaded: Load, source: Source, documents: list[str]
) -> None:
    model = loaded("bert")
    usual, other = (
        tallied(model, source(model, documents, **masking))
        for masking in ({}, {"mask_share": 0.2, "random_share": 0.5})
    )
    assert (usual.sums == other.sums).all()


def everything(source: TextSource) -> tuple[Batch, Any]:
    (batch,) = source.evaluation_batches(100_000)
    return batch, places(source, batch)


def test_places_are_those_of_the_document_however_it_is_cut(
    loaded: Load, source: Source, documents: list[str]
) -> None:
    model = loaded("bert")
    text = " ".join(documents)
    (ids,) = (model.tokenizer(text, add_special_tokens=False)["input_ids"],)
    whole, cut = (everything(source(model, [text], max_length=length, rate=1.0)) for length in (128, 11))
    continues = np.array([piece.startswith("##") for piece in model.tokenizer.convert_ids_to_tokens(ids)])
    assert continues.any()
    for batch, at in (whole, cut):
        order = np.argsort(at.position)
        assert at.position[order].tolist() == list(range(len(ids)))
        assert batch.target_ids[order].tolist() == ids
        assert (at.length == len(ids)).all()
        assert (at.begins_word[order] == ~continues).all()  # even where a sequence begins inside a word


def test_the_fifths_of_a_document_are_equal(loaded: Load, source: Source) -> None:
    model = loaded("bert")
    text = source(model, ["a " * 100], rate=1.0)
    batch, at = everything(text)
    strata = strata_of(text)
    fifth = strata.rows_of(at, batch.target_ids)[2] - strata.spans()[2][1].start
    assert np.bincount(fifth).tolist() == [20] * 5
    assert (np.diff(fifth[np.argsort(at.position)]) >= 0).all()


def test_frequency_is_counted_on_the_given_text(loaded: Load, source: Source) -> None:
    model = loaded("bert")
    text = source(model, ["a " * 9 + "b"], rate=1.0)
    batch, at = everything(text)
    first, second = (model.tokenizer.convert_tokens_to_ids(word) for word in "ab")
    labels = Strata(np.zeros(text.vocabulary.size, dtype=np.int64), "nothing").tables[0].labels
    for counts, expected in (
        ({first: 9, second: 10}, ("1–9", "10–99")),
        ({first: 100_000}, ("100,000 or more", "never")),
    ):
        table = np.zeros(text.vocabulary.size, dtype=np.int64)
        table[list(counts)] = list(counts.values())
        rows = Strata(table, "another text").rows_of(at, batch.target_ids)[0]
        assert {labels[row] for row in rows[batch.target_ids == first]} == {expected[0]}
        assert {labels[row] for row in rows[batch.target_ids == second]} == {expected[1]}


def test_counts_of_a_corpus_are_those_of_its_tokens(
    loaded: Load, source: Source, documents: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.data.corpus._COUNTED_AT_ONCE", 50)
    model = loaded("bert")
    text = source(model, documents)
    chosen = np.arange(3, 20)
    ids = np.concatenate([text.corpus.document(number) for number in chosen])
    assert (
        token_counts(text.corpus, chosen, text.vocabulary.size)
        == np.bincount(ids, minlength=text.vocabulary.size)
    ).all()
