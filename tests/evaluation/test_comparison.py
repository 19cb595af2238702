"""Comparing two models: identical positions with one tokenizer, whole words and bits per byte with two."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unmask.api.progress import CallbackProgress, ProgressEvent
from unmask.data.reading.documents import Document
from unmask.errors import ConfigError, DataError
from unmask.evaluation.bootstrap import ratios
from unmask.evaluation.compare import compare, compare_evaluations
from unmask.evaluation.cross_tokenizer import DIFFERENCE_LEVEL, compare_bits, compare_words
from unmask.evaluation.evaluate import Evaluation, EvaluationSettings, evaluate, labels
from unmask.evaluation.sampling import sample_documents, sample_passages
from unmask.evaluation.text_cache import EvaluationText
from unmask.evaluation.word_units import Passage, UnitTokenizer, WordSplitter, score_words, words_of
from unmask.model.masked_lm import MaskedLM
from unmask.scoring.scorer import score

Load = Callable[[str], MaskedLM]
Checkpoint = Callable[[str], Path]
Jsonl = Callable[..., Path]

CPU = EvaluationSettings(device="cpu", offline=True)


@pytest.fixture
def noisy(loaded: Load, tmp_path: Path) -> Callable[..., Path]:
    """Return `make(scale, name="noisy") -> Path`: the tiny BERT with noise on its weights, and its tokenizer."""

    def make(scale: float, name: str = "noisy") -> Path:
        import copy

        model = copy.deepcopy(loaded("bert").model)
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in model.parameters():
                weight += scale * torch.randn(weight.shape, generator=draw)
        model.set_attn_implementation("sdpa")
        model.save_pretrained(tmp_path / name)
        loaded("bert").tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


# ---- one tokenizer


def test_a_model_compared_with_itself_differs_by_exactly_nothing(
    checkpoint: Checkpoint, jsonl: Jsonl, documents: list[str]
) -> None:
    name = str(checkpoint("bert"))
    found = compare(name, name, [str(jsonl(documents))], CPU)
    content = found.to_dict()
    nothing = {"value": 0.0, "interval": [0.0, 0.0]}
    assert found.one_tokenizer
    assert all(change == nothing for change in content["difference"].values())
    rows = [row for table in content["tables"].values() for row in table["rows"]]
    assert rows
    assert all(row[key]["value"] == 0.0 for row in rows for key in ("loss", "accuracy"))
    assert "are the same on this text" in found.verdict


def test_models_and_text_may_be_strings_paths_or_in_memory(
    checkpoint: Checkpoint, loaded: Load, jsonl: Jsonl, documents: list[str]
) -> None:
    path, model, data = checkpoint("bert"), loaded("bert"), jsonl(documents)
    (by_name,) = evaluate(str(path), [str(data)], CPU)
    (by_path,) = evaluate(path, data, CPU)
    (in_memory,) = evaluate([model], data, CPU)
    assert by_name.to_dict() == by_path.to_dict() == in_memory.to_dict()
    assert [row["metric"] for row in by_name.to_rows()] == list(by_name.metrics)
    rows = compare(path, model, data, CPU).to_rows()
    assert {row["metric"] for row in rows} == {*by_name.metrics} - {"perplexity"}
    assert all(row["low"] == row["difference"] == row["high"] == 0 for row in rows)


def test_two_models_with_one_tokenizer_predict_the_same_tokens(
    checkpoint: Checkpoint, noisy: Callable[..., Path], jsonl: Jsonl, documents: list[str]
) -> None:
    data = [str(jsonl(documents))]
    first, second = str(checkpoint("bert")), str(noisy(0.05))
    content = compare(first, second, data, CPU).to_dict()
    alone = [evaluate([name], data, CPU)[0] for name in (first, second)]
    assert content["a"]["positions"] == content["b"]["positions"] == alone[0].tally.positions
    assert content["difference"]["loss"]["value"] == pytest.approx(alone[1].loss - alone[0].loss)
    assert content["difference"]["accuracy"]["value"] == pytest.approx(alone[1].accuracy - alone[0].accuracy)
    assert content["masked_tokens"] == alone[0].masked_tokens == content["b"]["masked_tokens"]


def test_the_paired_interval_is_tighter_than_that_of_either_model(
    checkpoint: Checkpoint, noisy: Callable[..., Path], jsonl: Jsonl, documents: list[str]
) -> None:
    found = compare(str(checkpoint("bert")), str(noisy(0.01)), [str(jsonl(documents))], CPU).to_dict()
    low, high = found["difference"]["loss"]["interval"]
    own = found["a"]["intervals"]["loss"]
    assert low <= found["difference"]["loss"]["value"] <= high
    assert high - low < 0.5 * (own[1] - own[0])


@pytest.fixture
def evaluated(checkpoint: Checkpoint, jsonl: Jsonl, documents: list[str]) -> Evaluation:
    return evaluate([str(checkpoint("bert"))], [str(jsonl(documents))], CPU)[0]


def changed(found: Evaluation, label: str, loss: float, accuracy: float) -> Evaluation:
    """An evaluation with other sums: ``loss`` nats more, and ``accuracy`` more of the tokens right."""
    import dataclasses

    sums = found.tally.sums.copy()
    draw = np.random.default_rng(0).uniform(0.9, 1.1, size=(len(sums), 1))
    sums[:, :, 1] += loss * sums[:, :, 0] * draw
    sums[:, :, 2] += accuracy * sums[:, :, 0] * draw
    return dataclasses.replace(found, label=label, tally=dataclasses.replace(found.tally, sums=sums))


@pytest.mark.parametrize(
    ("loss", "accuracy", "text"),
    [
        (-0.5, 0.1, "new predicts this text better than old: its loss is 0.49"),
        (0.5, -0.1, "old predicts this text better than new: its loss is 0.49"),
        (-0.5, 0.102, "and it fills in 10."),
        (-0.5, -0.102, "yet old fills in 10."),
        (-0.5, 0.0, "does not tell them apart"),
        (math.log(0.75), 0.0, "its perplexity is 25% lower"),
    ],
)
def test_the_verdict_says_who_is_better(
    evaluated: Evaluation, loss: float, accuracy: float, text: str
) -> None:
    old, new = changed(evaluated, "old", 0, 0), changed(evaluated, "new", loss, accuracy)
    assert text in compare_evaluations(old, new).verdict


def test_the_verdict_says_when_there_is_no_difference(evaluated: Evaluation) -> None:
    import dataclasses

    sums = evaluated.tally.sums.copy()
    sign = np.where(np.arange(len(sums)) % 2, 1.0, -1.0)[:, None]
    sums[:, :, 1] += 0.3 * sign * sums[:, :, 0]
    other = dataclasses.replace(evaluated, label="new", tally=dataclasses.replace(evaluated.tally, sums=sums))
    verdict = compare_evaluations(changed(evaluated, "old", 0, 0), other).verdict
    assert verdict.startswith("No difference between old and new can be told from this text")


@pytest.mark.parametrize("loss", [-1e-5, 4e-4])
def test_a_difference_of_0_000_makes_no_model_better(evaluated: Evaluation, loss: float) -> None:
    old, new = changed(evaluated, "old", 0, 0), changed(evaluated, "new", loss, 0)
    found = compare_evaluations(old, new)
    low, high = found.to_dict()["difference"]["loss"]["interval"]
    assert low * high > 0  # certain, and too small to matter
    assert found.verdict == (
        "old and new predict this text equally well: the loss differs by less than 0.001 nats per masked token."
    )


def test_a_verdict_rests_on_one_look(evaluated: Evaluation) -> None:
    import dataclasses

    more = changed(evaluated, "new", 0, 0.1)
    sums = more.tally.sums.copy()
    sums[:, :, 1] += 0.3 * np.where(np.arange(len(sums)) % 2, 1.0, -1.0)[:, None] * sums[:, :, 0]
    other = dataclasses.replace(more, tally=dataclasses.replace(more.tally, sums=sums))
    found = compare_evaluations(changed(evaluated, "old", 0, 0), other)
    assert found.to_dict()["difference"]["accuracy"]["interval"][0] > 0
    assert found.verdict.startswith("No difference")
    assert "more of the masked tokens" not in found.verdict


def test_a_comparison_has_no_captions_of_tables_that_it_does_not_show(evaluated: Evaluation) -> None:
    old, new = changed(evaluated, "old", 0, 0), changed(evaluated, "new", 0.1, 0)
    notes = compare_evaluations(old, new).to_dict()["notes"]
    assert evaluated.captions
    assert not {*notes} & {*evaluated.captions}
    assert {*evaluated.notes} - {*evaluated.captions} <= {*notes}


def test_copies_of_documents_are_said_and_do_not_narrow_intervals(
    checkpoint: Checkpoint, jsonl: Jsonl, documents: list[str]
) -> None:
    name, texts = str(checkpoint("bert")), sorted({*documents})[:12]
    (once,) = evaluate([name], jsonl(texts, "once"), CPU)
    (copied,) = evaluate([name], jsonl(texts * 10, "copied"), CPU)
    assert copied.tally.documents == 120
    assert copied.metrics["loss"] == pytest.approx(once.metrics["loss"])
    assert (
        "108 of 120 documents are copies of others; copies count as one document in the intervals"
        in copied.notes
    )
    assert "intervals are wide: they rest on 12 documents" in copied.notes


def test_a_few_documents_give_no_verdict(
    checkpoint: Checkpoint, noisy: Callable[..., Path], jsonl: Jsonl
) -> None:
    data = [str(jsonl(["the old war in the village " * 4] * 2))]
    found = compare(str(checkpoint("bert")), str(noisy(0.1)), data, CPU)
    assert "cannot be told apart: too few documents" in found.verdict
    assert found.to_dict()["difference"]["loss"]["interval"] is None
    assert any(note.startswith("too few documents (") for note in found.to_dict()["notes"])


def test_a_tokenizer_that_was_saved_differently_is_still_the_same(
    noisy: Callable[..., Path], checkpoint: Checkpoint, jsonl: Jsonl, documents: list[str]
) -> None:
    folder = noisy(0.05)
    path = folder / "tokenizer.json"
    definition = json.loads(path.read_text(encoding="utf-8"))
    definition["decoder"] = None  # changes no id
    path.write_text(json.dumps(definition), encoding="utf-8")
    assert compare(str(checkpoint("bert")), str(folder), [str(jsonl(documents))], CPU).one_tokenizer


# ---- words of a text


def spelt(text: str) -> list[str]:
    places, _ = words_of(text)
    return [text[begin:end] for begin, end in places]


def test_words_come_from_the_text_alone() -> None:
    assert spelt("Don't  stop (the 2nd) war.\n") == [
        "Don",
        "'",
        "t",
        "stop",
        "(",
        "the",
        "2nd",
        ")",
        "war",
        ".",
    ]
    assert spelt("naïve cafe\u0301 हिन्दी") == ["naïve", "cafe\u0301", "हिन्दी"]
    assert spelt("春天来了。ok") == ["春", "天", "来", "了", "。", "ok"]
    assert spelt("a\u200db 🙂🙂 \x00c") == ["a\u200db", "🙂", "🙂", "c"]
    assert words_of("a. b")[1].tolist() == [True, False, True]
    assert spelt(" \n") == []


def splitter(loaded: Load, first: str, second: str, rate: float = 0.5, length: int = 64) -> WordSplitter:
    models = loaded(first), loaded(second)
    tokenizers = [
        UnitTokenizer(model.tokenizer, model.vocabulary, length, name)
        for model, name in zip(models, (first, second), strict=True)
    ]
    return WordSplitter((tokenizers[0], tokenizers[1]), rate)


def chosen_words(passage: Passage, model: MaskedLM, which: int) -> list[str]:
    """Return the chosen units of a passage as the text of their tokens, without marks and capitals."""
    side = passage.sides[which]
    subwords = [
        model.tokenizer.decode(side.ids[side.unit == number].tolist()) for number in range(passage.chosen)
    ]
    return ["".join(subword.split()).lower() for subword in subwords]


@pytest.mark.parametrize("second", ["roberta", "albert", "modernbert"])
def test_both_tokenizers_get_the_same_words(second: str, loaded: Load, corpus_text: list[str]) -> None:
    text = " ".join(corpus_text[:60])
    cut = splitter(loaded, "bert", second)
    passages = list(cut.passages(0, text))
    assert sum(passage.chosen for passage in passages) > 100
    for passage in passages:
        first, other = (
            chosen_words(passage, loaded(name), side) for side, name in enumerate(("bert", second))
        )
        plain = [
            word.replace("ï", "i").replace("é", "e") for word in other
        ]  # as BERT's tokenizer writes them
        assert [word.replace("ï", "i").replace("é", "e") for word in first] == plain
        assert all(any(character.isalnum() for character in word) for word in first)
        for side in passage.sides:
            assert len(side.ids) <= 62
            assert set(side.unit.tolist()) >= set(range(passage.chosen))


def test_the_rate_of_words_is_the_rate_set_and_does_not_depend_on_the_tokenizers(
    loaded: Load, corpus_text: list[str]
) -> None:
    text = " ".join(corpus_text)
    words = [word for word, is_word in zip(spelt(text), words_of(text)[1], strict=True) if is_word]
    counts = []
    for second in ("roberta", "albert"):
        cut = splitter(loaded, "bert", second, rate=0.3)
        counts.append(sum(p.chosen for p in cut.passages(0, text)) + sum(cut.left_out.values()))
    assert counts[0] == pytest.approx(0.3 * len(words), rel=0.1)
    assert counts[1] == pytest.approx(counts[0], rel=0.02)  # but for units where tokens reach over a border


def test_a_document_is_cut_at_the_same_words_for_both(loaded: Load, corpus_text: list[str]) -> None:
    text = " ".join(corpus_text[:40])
    cut = splitter(loaded, "bert", "roberta", rate=1.0, length=24)
    passages = list(cut.passages(0, text))
    assert len(passages) > 10
    for passage in passages:
        written = [
            loaded(name).tokenizer.decode(side.ids.tolist())
            for name, side in zip(("bert", "roberta"), passage.sides, strict=True)
        ]
        bare = [
            "".join(character for character in text.lower() if character.isalnum() and character.isascii())
            for text in written
        ]
        assert bare[0].replace("i", "").replace("e", "") == bare[1].replace("i", "").replace("e", "")


def test_what_a_tokenizer_cannot_spell_is_left_out_and_counted(loaded: Load) -> None:
    cut = splitter(loaded, "bert", "roberta", rate=1.0)
    passages = list(cut.passages(0, "the war 北京 village " + "x" * 80))
    assert sum(passage.chosen for passage in passages) == 3
    assert cut.left_out["the tokenizer of bert cannot spell them"] == 2
    assert cut.left_out["of more than 32 subwords"] == 1


def test_words_that_a_tokenizer_cannot_spell_are_left_out_whatever_the_models_are_called(
    loaded: Load,
) -> None:
    models = loaded("bert"), loaded("roberta")
    both = [UnitTokenizer(model.tokenizer, model.vocabulary, 64, "same") for model in models]
    cut = WordSplitter((both[0], both[1]), 1.0)
    assert sum(passage.chosen for passage in cut.passages(0, "the war 北京 village")) == 3
    assert cut.left_out["the tokenizer of same cannot spell them"] == 2


def test_text_that_one_tokenizer_cannot_spell_names_its_model(checkpoint: Checkpoint, jsonl: Jsonl) -> None:
    models, text = (checkpoint("bert"), checkpoint("roberta")), jsonl(["北京的心不全" * 20] * 4)
    said = rf"words: the tokenizer of {re.escape(str(models[0]))} cannot spell them\. .*unmask eval"
    with pytest.raises(DataError, match=said):
        compare(*models, [str(text)], CPU)


def test_the_score_of_a_word_is_the_sum_of_its_subwords_masked_together(loaded: Load) -> None:
    model = loaded("bert")
    text = "the unbelievably patient keeper counterbalanced a telescope in the village"
    (passage,) = splitter(loaded, "bert", "roberta", rate=0.4).passages(0, text)
    found = score_words(model, [passage], 0)
    side = passage.sides[0]
    shown = np.where(side.unit >= 0, model.vocabulary.mask_id, side.ids)
    row = torch.tensor([[*model.vocabulary.prefix, *shown.tolist(), *model.vocabulary.suffix]])
    with model.plain() as plain, torch.no_grad():
        logits = plain(input_ids=row).logits[0, 1:-1].double()
    assert passage.chosen >= 2
    assert max(found.subwords) > 1
    for number in range(passage.chosen):
        places = np.flatnonzero(side.unit == number)
        loss = -sum(float(logits[place].log_softmax(-1)[side.ids[place]]) for place in places)
        assert found.loss[number] == pytest.approx(loss, abs=1e-4)
        assert found.right[number] == all(int(logits[place].argmax()) == side.ids[place] for place in places)
        assert found.subwords[number] == len(places)


def test_words_of_passages_of_unequal_lengths_keep_their_order(loaded: Load, corpus_text: list[str]) -> None:
    cut = splitter(loaded, "bert", "deberta-v2", rate=0.4)
    passages = [
        passage for number, text in enumerate(corpus_text[:12]) for passage in cut.passages(number, text)
    ]
    for which, name in enumerate(("bert", "deberta-v2")):  # packed, and padded by length
        together = score_words(loaded(name), passages, which)
        alone = [score_words(loaded(name), [passage], which) for passage in passages]
        assert np.allclose(together.loss, np.concatenate([found.loss for found in alone]), atol=1e-4)
        assert (together.subwords == np.concatenate([found.subwords for found in alone])).all()


def test_text_of_which_most_tokens_are_unknown_is_not_evaluated(checkpoint: Checkpoint, jsonl: Jsonl) -> None:
    with pytest.raises(DataError, match=r"^100.0% of the tokens are unknown to the tokenizer"):
        evaluate([str(checkpoint("bert"))], jsonl(["ሰላም ኢትዮጵያ ውሃ መጽሐፍ ቤት ልጅ"] * 5), CPU)


# ---- different tokenizers


def test_different_tokenizers_are_compared_on_words_and_bytes(
    checkpoint: Checkpoint, jsonl: Jsonl, corpus_text: list[str]
) -> None:
    data = [str(jsonl(corpus_text[:30]))]
    names = str(checkpoint("bert")), str(checkpoint("roberta"))
    found = compare(*names, data, CPU, pll_bytes=1500)
    content = found.to_dict()
    words, bits = content["words"], content["bits_per_byte"]
    assert not found.one_tokenizer
    assert words["masked_words"] > 20
    sides = [side["loss_per_word"] for side in words["models"]]
    assert words["difference"]["loss_per_word"]["value"] == pytest.approx(sides[1] - sides[0])
    assert 750 < bits["bytes"] <= 1500
    costs = [side["value"] for side in bits["models"]]
    assert bits["difference"]["value"] == pytest.approx(costs[1] - costs[0])
    low, high = bits["difference"]["interval"]
    assert low <= bits["difference"]["value"] <= high
    assert any("drops capitals" in note for note in content["notes"])
    assert any(
        note.startswith("bits per byte rest on") and "--pll-bytes" in note for note in content["notes"]
    )
    assert content["level"] == 0.975
    again = compare(*names, data, CPU, pll_bytes=1500).to_dict()
    assert again == content


def test_two_looks_make_one_decision() -> None:
    draw = np.random.default_rng(0)
    decided = [0, 0]
    for seed in range(300):
        looks = draw.standard_normal((12, 2)) * 0.5
        for column, level in enumerate((0.95, DIFFERENCE_LEVEL)):
            found = ratios(looks, np.ones((12, 1)), level=level, resamples=200, seed=seed)
            decided[column] += any(metric.sign for metric in found)
    assert decided[1] <= 0.06 * 300 < decided[0]


def test_one_model_on_both_sides_differs_by_exactly_nothing_on_words_and_bytes(
    loaded: Load, jsonl: Jsonl, corpus_text: list[str]
) -> None:
    pair = loaded("bert"), loaded("bert")
    with EvaluationText([str(jsonl(corpus_text[:30]))]) as texts:
        words, bits = compare_words(pair, texts, CPU, 64), compare_bits(pair, texts, 1500)
    for change in (*words["difference"].values(), bits["difference"]):
        assert change == {"value": 0.0, "interval": [0.0, 0.0]}


def test_bits_per_byte_without_an_interval_are_not_said_to_be_equal(
    checkpoint: Checkpoint, jsonl: Jsonl, documents: list[str]
) -> None:
    data = [str(jsonl(documents))]
    found = compare(str(checkpoint("bert")), str(checkpoint("roberta")), data, CPU, pll_bytes=300)
    bits = found.content["bits_per_byte"]
    assert bits["documents"] < 10
    assert bits["difference"]["interval"] is None
    assert "fewer per masked word" in found.verdict
    assert (
        f"of bits per byte nothing can be said: too few documents ({bits['documents']}) for an interval"
        in found.verdict
    )


def test_the_share_of_bits_per_byte_is_one_over_both_models(
    loaded: Load, jsonl: Jsonl, corpus_text: list[str]
) -> None:
    events: list[ProgressEvent] = []
    models = loaded("bert"), loaded("roberta")
    with EvaluationText([str(jsonl(corpus_text[:8]))]) as text:
        compare_bits(models, text, 1000, CallbackProgress(events.append))
    assert [event.kind for event in events if event.kind in ("begin", "end")] == ["begin", "end"]
    steps = [(event.share, event.metrics["model"]) for event in events if event.kind == "advance"]
    shares = [share for share, _ in steps if share is not None]
    assert shares == sorted(shares)
    assert max(share for share in shares if share < 1) >= 0.5
    assert steps[-1] == (1.0, 2)
    assert all(share <= 0.5 for share, model in steps if share is not None and model == 1)


def test_bits_per_byte_are_the_score_over_the_bytes(
    loaded: Load, jsonl: Jsonl, corpus_text: list[str]
) -> None:
    pair = loaded("bert"), loaded("modernbert")
    with EvaluationText([str(jsonl(corpus_text[:12]))]) as texts:
        found = compare_bits(pair, texts, 10_000)
        passages = [part.text for part in sample_passages(texts.documents(), 10_000, 300)]
    assert found["passages"] == 12
    assert sorted(passages) == sorted(corpus_text[:12])
    for model, side in zip(pair, found["models"], strict=True):
        scores = list(score(passages, model, method="within_word_l2r"))
        size = sum(len(text.encode()) for text in passages)
        assert side["value"] == pytest.approx(-sum(item.pll for item in scores) / math.log(2) / size)
        assert found["bytes"] == size


def test_a_passage_that_one_tokenizer_cannot_spell_is_left_out(loaded: Load, jsonl: Jsonl) -> None:
    texts = ["the old war in the village", "a telescope 北京 in the river"]
    with EvaluationText([str(jsonl(texts))]) as opened:
        found = compare_bits((loaded("bert"), loaded("roberta")), opened, 10_000)
        assert (found["passages"], found["left_out"]) == (1, 1)
    with (
        EvaluationText([str(jsonl(texts[1:], "bad.jsonl"))]) as opened,
        pytest.raises(DataError, match=r"the tokenizer of \S+ cannot spell the text. Give text"),
    ):
        compare_bits((loaded("bert"), loaded("roberta")), opened, 10_000)


# ---- samples


def as_documents(texts: list[str]) -> list[Document]:
    return [Document(text, "here", None) for text in texts]


def test_samples_do_not_depend_on_the_order_of_documents(documents: list[str]) -> None:
    documents = [*documents, *(text.upper() for text in documents[:8])]  # variants of a text share a key
    turned = documents[::-1]
    some = [item.text for item in sample_documents(as_documents(documents), 2_000)]
    assert 0 < len(some) < len(documents)
    assert sum(len(text.encode()) for text in some) <= 2_000
    assert [item.text for item in sample_documents(as_documents(turned), 2_000)] == some
    passages = sample_passages(as_documents(documents), 1_500, 80)
    assert sample_passages(as_documents(turned), 1_500, 80) == passages
    assert sum(len(item.text.encode()) for item in passages) <= 1_500


def test_passages_come_from_as_many_documents_as_there_are(documents: list[str]) -> None:
    few, many = (
        sample_passages(as_documents(documents), 600, 40),
        sample_passages(as_documents(documents[5:7]), 900, 40),
    )
    assert len({item.key for item in few}) == len(few)
    assert len({item.key for item in many}) == 2
    assert len(many) > 5
    assert all(len(item.text.encode()) <= 40 for item in few)
    whole = " ".join(documents[5:7])
    assert all(item.text in whole for item in many)


# ---- bad input


def test_shards_hold_one_tokenizer_only(
    checkpoint: Checkpoint, jsonl: Jsonl, documents: list[str], tmp_path: Path
) -> None:
    from unmask.config.settings import DocumentSettings
    from unmask.data.preparation import prepare
    from unmask.data.tokenizer import load_tokenizer

    first, second = str(checkpoint("bert")), str(checkpoint("roberta"))
    shards = tmp_path / "shards"
    prepare([str(jsonl(documents))], DocumentSettings(), load_tokenizer(first), shards)
    assert evaluate([first], [str(shards)], CPU)[0].masked_tokens > 0
    with pytest.raises(DataError, match="another tokenizer"):
        evaluate([second], [str(shards)], CPU)
    with pytest.raises(DataError, match="give the text"):
        compare(first, second, [str(shards)], CPU)
    with pytest.raises(DataError, match="must be the only input"):
        evaluate([first], [str(shards), str(jsonl(documents))], CPU)


@pytest.mark.parametrize("second", ["bert", "roberta"])
def test_an_empty_or_missing_text_is_an_error(
    second: str, checkpoint: Checkpoint, tmp_path: Path, jsonl: Jsonl
) -> None:
    names = str(checkpoint("bert")), str(checkpoint(second))
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n", encoding="utf-8")
    with pytest.raises(DataError, match="hold no text"):
        compare(*names, [str(empty)], CPU)
    with pytest.raises(DataError, match="no-such-file"):
        compare(*names, [str(tmp_path / "no-such-file.txt")], CPU)
    with pytest.raises(DataError, match="higher --mask-rate"):
        compare(*names, [str(jsonl(["."]))], CPU)


def test_a_sequence_that_is_too_long_for_a_model_is_an_error(
    checkpoint: Checkpoint, jsonl: Jsonl, documents: list[str]
) -> None:
    long = EvaluationSettings(max_length=4096, device="cpu", offline=True)
    with pytest.raises(ConfigError, match="takes at most 128"):
        evaluate([str(checkpoint("bert"))], [str(jsonl(documents))], long)
    with pytest.raises(ConfigError, match="name a checkpoint"):
        evaluate([], [str(jsonl(documents))], CPU)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["org/bert", "org/roberta"], ["bert", "roberta"]),
        (["runs/a/model", "runs/b/model"], ["a/model", "b/model"]),
        (["x/bert", "y/bert"], ["x/bert", "y/bert"]),
        (["bert", "bert"], ["bert (1)", "bert (2)"]),
        (["/tmp/model"], ["tmp/model"]),
        (["model"], ["model"]),
    ],
)
def test_labels_tell_models_apart(names: list[str], expected: list[str]) -> None:
    assert labels(names) == expected


# ---- evaluations of several models


def test_several_models_share_what_depends_on_the_tokenizer_alone(
    checkpoint: Checkpoint, noisy: Callable[..., Path], jsonl: Jsonl, documents: list[str]
) -> None:
    names = [str(checkpoint("bert")), str(noisy(0.05)), str(checkpoint("roberta"))]
    found = evaluate(names, [str(jsonl(documents))], CPU)
    assert [item.model for item in found] == names
    assert found[0].tally.positions == found[1].tally.positions != found[2].tally.positions
    assert found[0].baselines is found[1].baselines
    assert found[2].baselines is not found[0].baselines


def test_documents_of_the_training_text_are_counted(
    checkpoint: Checkpoint, jsonl: Jsonl, documents: list[str]
) -> None:
    logged: list[str] = []

    from unmask.progress import Progress

    class Listener(Progress):
        def log(self, text: str) -> None:
            logged.append(text)

    (found,) = evaluate(
        [str(checkpoint("bert"))],
        [str(jsonl(documents[:10]))],
        CPU,
        train_data=[str(jsonl(documents[7:], "train.jsonl"))],
        progress=Listener(),
    )
    answer: dict[str, Any] = found.to_dict()
    assert answer["documents_in_train_data"] == 3
    assert "training text given" in answer["baselines_fitted_on"]
    assert answer["tables"]["by_frequency"]["note"] == "times seen in the training text given"
    assert "3 of 10 documents also in the training text, word for word" in logged


def test_text_is_split_as_in_the_run_that_trained_the_model(
    checkpoint: Callable[[str], Path], tmp_path: Path, documents: list[str]
) -> None:
    import shutil

    run, texts = tmp_path / "run", tmp_path / "texts"
    shutil.copytree(checkpoint("bert"), run / "model")
    (run / "config.yaml").write_text("data: {inputs: [x]}", encoding="utf-8")
    texts.mkdir()
    for number in range(3):
        lines = documents[6 * number : 6 * number + 6]
        (texts / f"{number}.txt").write_text("\n".join(lines), encoding="utf-8")

    def evaluated(splits: dict[str, int]) -> Evaluation:
        info = {"read": {"text": {"splits": splits}}}
        (run / "run.json").write_text(json.dumps(info), encoding="utf-8")
        return evaluate([str(run)], str(texts), CPU)[0]

    assert evaluated({"file": 12}).tally.documents == 3
    by_line = evaluated({"line": 12})
    assert by_line.tally.documents > 10
    assert any(note.startswith("each line of 3 files of plain text counts") for note in by_line.notes)
    (run / "config.yaml").write_text("data: {inputs: [x], documents: file}", encoding="utf-8")
    assert evaluated({"line": 12}).tally.documents == 3


@pytest.mark.parametrize("trained_on", ["texts/text.jsonl", "texts", "other.jsonl", "-"])
def test_text_that_a_run_was_trained_on_is_said(
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    documents: list[str],
    jsonl: Callable[..., Path],
    trained_on: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import shutil

    from unmask.progress import Progress

    monkeypatch.chdir(tmp_path)
    shutil.copytree(checkpoint("bert"), "run/model")
    Path("run/config.yaml").write_text(f"data: {{inputs: ['{trained_on}']}}", encoding="utf-8")
    Path("run/run.json").write_text("{}", encoding="utf-8")
    Path("texts").mkdir()
    data = str(jsonl(documents[:6], "texts/text.jsonl"))
    warned: list[str] = []

    class Listener(Progress):
        def warning(self, text: str) -> None:
            warned.append(text)

    evaluate(["run"], data, CPU, progress=Listener())
    compare("run/model", str(checkpoint("bert")), data, CPU, progress=Listener())
    said = [text for text in warned if "was trained on" in text]
    assert len(said) == (2 if trained_on.startswith("texts") else 0)
    for text, model in zip(said, ("run", "run/model"), strict=False):
        assert text.startswith(f"'{data}' is, or holds, text that '{model}' was trained on")
