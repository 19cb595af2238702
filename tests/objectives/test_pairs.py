"""Next sentence and sentence order prediction: pairs of passages, both losses, and what is saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import FAMILIES
from torch import Tensor
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    BertForNextSentencePrediction,
    BertForPreTraining,
)

import unmask
from unmask.config.settings import DocumentSettings, MaskingSettings
from unmask.data.batches import Batch, TextSource
from unmask.data.masking.random_bits import MaskKey
from unmask.data.pairs import SHORTEST, UNLABELLED, Change, PairSource
from unmask.data.preparation import prepare
from unmask.data.sentences import SentenceEnds
from unmask.data.tokenizer import load_tokenizer, vocabulary_of
from unmask.errors import ConfigError, DataError
from unmask.model.load import load_for_inference
from unmask.model.masked_lm import MaskedLM
from unmask.objectives.pairs import NextSentencePrediction, SentenceOrderPrediction, SentencePairs
from unmask.training.loss import step_gradients
from unmask.training.parallel import GradientSum

Load = Callable[..., MaskedLM]
# The sentences of the tests have some 20 tokens, and what is swapped are whole ones on both sides of a split.
LENGTH = {"nsp": 48, "sop": 120}
OBJECTIVES: dict[str, type[SentencePairs]] = {"nsp": NextSentencePrediction, "sop": SentenceOrderPrediction}
KEY = MaskKey(3, 1)


@pytest.fixture(scope="module")
def long_shards(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path], corpus: list[str]
) -> Any:
    """Documents of one to eight sentences, and ten of a word or two."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "text.txt").write_text("\n".join(corpus), encoding="utf-8")
    tokenizer = load_tokenizer(str(checkpoint("bert")))
    return prepare([folder / "text.txt"], DocumentSettings(documents="line"), tokenizer, folder / "shards")


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    words = "river boat letter winter telescope engineer unripe dictionary mountains".split()
    draw = np.random.default_rng(0)

    def sentence() -> str:
        return " ".join(draw.choice(words, draw.integers(4, 12))) + "."

    documents = [" ".join(sentence() for _ in range(1 + n % 8)) for n in range(80)]
    return documents + [f"{a} {b}" for a, b in zip(words, words[1:] + words[:1], strict=True)]


def prepared(
    model: MaskedLM, name: str, shards: Any, length: int | None = None
) -> tuple[SentencePairs, PairSource]:
    length = length or LENGTH[name]
    objective = OBJECTIVES[name]()
    objective.prepare(model, 0)
    source = objective.source(TextSource(shards, None, model.vocabulary, MaskingSettings(rate=0.3), length))
    assert isinstance(source, PairSource)
    return objective, source


@pytest.mark.parametrize("name", OBJECTIVES)
def test_pairs_are_of_their_documents_and_fit_their_sizes(name: str, load: Load, long_shards: Any) -> None:
    """`[CLS] A [SEP] B [SEP]`: labels say where B is from, half and half, and nothing is lost of pairs in order."""
    model = load("bert")
    _, source = prepared(model, name, long_shards)
    numbers = np.arange(len(source.sequences))
    documents, starts, bodies = source.sequences.find(numbers)
    cls, sep = model.vocabulary.prefix[0], model.vocabulary.suffix[0]
    labels, same = [], 0
    for epoch in range(4):
        packed = source.pack(numbers, MaskKey(0, epoch))
        assert np.array_equal(np.diff(packed.cu_seqlens), source.sizes(numbers))
        assert int(np.diff(packed.cu_seqlens).max()) == source.longest == LENGTH[name]
        assert source.tokens == len(packed.input_ids)
        for number, (begin, end) in enumerate(zip(packed.cu_seqlens, packed.cu_seqlens[1:], strict=False)):
            ids, second = packed.input_ids[begin:end], packed.second[number] - begin
            text = long_shards.document(documents[number])[starts[number] :][: bodies[number]].tolist()
            label = packed.labels[number]
            if bodies[number] < SHORTEST:
                assert (label, second) == (UNLABELLED, end - begin)
                assert ids[1:-1].tolist() == text
                continue
            labels.append(label)
            assert (ids[0], ids[second - 1], ids[-1]) == (cls, sep, sep)
            first, other = ids[1 : second - 1].tolist(), ids[second:-1].tolist()
            if label != 1:
                assert min(len(first), len(other)) >= len(text) // 4
                assert first + other == text
            elif name == "sop":
                assert swaps_neighbours(text, first, other)
            else:
                assert first == text[: len(first)]
                same += other == text[len(first) :]
                assert any(
                    has_end(long_shards, at, other)
                    for at in range(len(long_shards))
                    if at != documents[number]
                )
        kinds = packed.token_type_ids
        assert set(kinds[packed.cu_seqlens[:-1]].tolist()) == {0}
    counts = np.unique(np.array(labels), return_counts=True)
    known = dict(zip(*(part.tolist() for part in counts), strict=True))
    # Sequences of 45 tokens may have no whole sentence on either side.
    assert known.get(UNLABELLED, 0) < (0.02 if name == "nsp" else 0.4) * len(labels)
    assert known[0] + known[1] > 200
    assert same < 0.05 * known[1]  # short passages may be equal by chance
    assert abs(known[1] / (known[0] + known[1]) - 0.5) < 0.1
    assert source.pairs == int((bodies >= SHORTEST).sum())
    assert source.short_documents == sum(
        len(long_shards.document(at)) < SHORTEST for at in range(len(long_shards))
    )


def swaps_neighbours(text: list[int], first: list[int], other: list[int]) -> bool:
    """Whether two neighbouring parts of a text are swapped, and what is around them is where it was."""
    for low in range(len(first) + 1):
        if text[:low] != first[:low]:
            break
        for high in range(len(first), len(text) + 1):
            cut = low + high - len(first)
            swapped = text[cut:high], text[low:cut] + text[high:]
            if (first[low:], other) == swapped:
                return True
    return False


def has_end(shards: Any, document: int, passage: list[int]) -> bool:
    """Whether a passage is the end of a sequence of a document, which begin every 45 tokens."""
    ids = shards.document(document).tolist()
    return any(ids[at : at + 45][-len(passage) :] == passage for at in range(0, len(ids), 45))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_both_kinds_of_pairs_begin_and_end_alike(name: str, load: Load, long_shards: Any) -> None:
    """What ends a sentence at the ends of A and B is as frequent in both, so that the form does not give the label away."""
    model = load("bert")
    _, source = prepared(model, name, long_shards)
    stop = model.tokenizer.convert_tokens_to_ids(".")
    ends: dict[int, list[tuple[bool, bool]]] = {0: [], 1: []}
    for epoch in range(6):
        packed = source.pack(np.arange(len(source.sequences)), MaskKey(0, epoch))
        for label, second, end in zip(packed.labels, packed.second, packed.cu_seqlens[1:], strict=True):
            if label != UNLABELLED:
                places = packed.input_ids[second - 2], packed.input_ids[end - 2]
                ends[int(label)].append((places[0] == stop, places[1] == stop))
    shares = [np.mean(ends[label], axis=0) for label in (0, 1)]
    assert np.abs(shares[0] - shares[1]).max() < 0.1


@pytest.mark.parametrize("architecture", ["bert", "albert"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_and_gradient_are_those_of_transformers(
    name: str, architecture: str, load: Load, long_shards: Any, pair_model: Callable[[str], MaskedLM]
) -> None:
    """The same pairs, padded, through the class with both heads: loss, gradient and hits, in one batch and in three."""
    model = pair_model(architecture)
    objective, source = prepared(model, name, long_shards)
    numbers = source.by_length(np.arange(30))
    batch = source.batch(numbers, KEY, 0.3, make=objective.batch)
    divisors = objective.counts(batch)
    summed = GradientSum(model)
    summed.begin(objective)
    model.model.train()
    losses, _ = step_gradients(summed, [batch], divisors)
    found = gradients(model)

    head: Any = model.attached["sentence"]
    with model.plain() as plain:
        raw = AutoModelForPreTraining.from_config(deepcopy(plain.config)).train()
        raw.load_state_dict(plain.state_dict() | head.weights())
    raw.zero_grad()
    loss = raw(**padded(batch, model)).loss
    loss.backward()
    assert float(losses.sum()) == pytest.approx(loss.item(), rel=1e-6)
    wanted = {key: weight.grad for key, weight in raw.named_parameters()}
    assert set(found) == {key for key, gradient in wanted.items() if gradient is not None}
    for key, gradient in found.items():
        scale = max(1.0, float(wanted[key].abs().max()))
        assert float((gradient - wanted[key]).abs().max()) < 2e-6 * scale, key

    model.model.zero_grad(set_to_none=True)
    parts = [source.batch(part, KEY, 0.3, make=objective.batch) for part in np.array_split(numbers, 3)]
    assert sum(objective.counts(part)[1] for part in parts) == divisors[1]
    again, _ = step_gradients(summed, parts, divisors)
    torch.testing.assert_close(again, losses, rtol=1e-6, atol=0)


def gradients(model: MaskedLM) -> dict[str, Tensor]:
    """The gradients by the names that the weights have in the class with both heads."""
    head: Any = model.attached["sentence"]
    names = {id(weight): name for name, weight in zip(head.weights(), head.parameters(), strict=True)}
    named = model.model.named_parameters()
    return {names.get(id(weight), key): weight.grad for key, weight in named if weight.grad is not None}


def padded(batch: Batch, model: MaskedLM) -> dict[str, Tensor]:
    lengths = np.diff(batch.cu_seqlens)
    real = np.arange(lengths.max()) < lengths[:, None]
    labels = np.full(batch.tokens, -100)
    labels[batch.target_index] = batch.target_ids
    columns = {
        "input_ids": (batch.input_ids, model.vocabulary.pad_id),
        "token_type_ids": (batch.of_tokens["token_type_ids"], 0),
        "labels": (labels, -100),
    }
    out = {"attention_mask": torch.from_numpy(real.astype(np.int64))}
    for name, (values, empty) in columns.items():
        table = np.full(real.shape, empty)
        table[real] = values
        out[name] = torch.from_numpy(table)
    label = "next_sentence_label" if model.model.config.model_type == "bert" else "sentence_order_label"
    return out | {label: torch.from_numpy(batch.of_sequences["pair_labels"])}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_pairs_are_drawn_anew_in_each_epoch_and_masked_on_both_sides(
    name: str, load: Load, long_shards: Any
) -> None:
    objective, source = prepared(load("bert"), name, long_shards)
    numbers = source.by_length(np.arange(len(source.sequences)))
    whole = source.batch(numbers, KEY, 0.3, make=objective.batch)
    other = source.batch(numbers, MaskKey(3, 2), 0.3, make=objective.batch)
    labels, others = (batch.of_sequences["pair_labels"] for batch in (whole, other))
    both = (labels != UNLABELLED) & (others != UNLABELLED)
    assert both.sum() > 30
    assert 0.3 < (labels != others)[both].mean() < 0.7
    special = source.vocabulary.special
    assert not special[whole.target_ids].any()
    assert {0, 1} == set(whole.of_tokens["token_type_ids"][whole.target_index].tolist())


@pytest.mark.parametrize(("name", "steps"), [("nsp", 130), ("sop", 60)])
def test_a_head_learns_what_tells_the_pairs_apart(
    name: str, steps: int, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Far above chance on held-out pairs, where each document has words of its own, and other words at its end."""
    words = np.split(np.array([*"abcdefghijklmnopqrstuvwxyz012345"]), 8)
    draw = np.random.default_rng(0)

    def document() -> str:
        own = words[draw.integers(8)]
        first, second = (own, own) if name == "nsp" else np.split(own, 2)
        return " ".join(" ".join(draw.choice(part, 6)) for part in (first, second))

    settings = {"train.batch_tokens": 512, "data.max_length": 16, "data.documents": "line"}
    settings |= {"data.heldout_share": 0.2, "train.export_best": False}
    settings |= {"train.optimizer.name": "muon", "train.optimizer.learning_rate": 3e-3}
    found = unmask.train(
        [document() for _ in range(1000)],
        model=checkpoint("bert"),
        out=tmp_path / "run",
        objective=name,
        max_steps=steps,
        precision="fp32",
        device="cpu",
        settings=settings,
        progress=False,
    ).evaluation
    assert found is not None
    assert found["objective"]["answers"] > 80
    assert found["objective"]["intervals"][f"{name}_accuracy"][0] > 0.6


@pytest.mark.parametrize("labels", [[0, 0, 1], [0, 1, 1]])
def test_one_label_for_all_pairs_is_as_accurate_as_the_share_of_the_larger_label(labels: list[int]) -> None:
    answers = np.array([[number, label == labels[1], 0.7, label] for number, label in enumerate(labels)])
    objective = NextSentencePrediction()
    found = objective.metrics(objective.scores(answers))
    assert found["nsp_accuracy"] == found["larger_label_share"] == pytest.approx(2 / 3)


@pytest.fixture
def pair_model(load: Load, tiny_model: Any, wordpiece_tokenizer: Any) -> Callable[[str], MaskedLM]:
    """Return `get(architecture)`: a tiny model whose tokenizer has pairs."""

    def get(architecture: str) -> MaskedLM:
        if architecture == "bert":
            return load("bert")
        dropout = {"classifier_dropout_prob": 0.0}
        raw = tiny_model(architecture, len(wordpiece_tokenizer), pad_token_id=0, **dropout)
        return MaskedLM(raw, wordpiece_tokenizer)

    return get


def test_what_has_no_pairs_is_refused(
    load: Load, tiny_model: Any, wordpiece_tokenizer: Any, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    objective = NextSentencePrediction()
    for architecture, what in (
        ("roberta", "has no sentence head in transformers"),
        ("modernbert", "has no sentence head in transformers"),
        ("albert", "the tokenizer has no such pairs"),
    ):
        with pytest.raises(ConfigError, match=what) as error:
            objective.prepare(load(architecture), 0)
        assert "\n" not in str(error.value)

    def run(texts: list[str], objective: str) -> None:
        out, settings = tmp_path / "out", {"data.documents": "line"}
        unmask.train(
            texts,
            model=checkpoint("bert"),
            objective=objective,
            max_steps=1,
            out=out,
            settings=settings,
            progress=False,
        )

    for texts, name, what in (
        ([f"word {n}" for n in range(20)], "sop", "no document of the training text has the 8 tokens"),
        ([f"a {'river boat ' * 20}", "a b", "b c"], "nsp", "no passage of the training text can be replaced"),
    ):
        with pytest.raises(DataError, match=what) as wrong:
            run(texts, name)
        assert "\n" not in str(wrong.value)


def test_a_run_leaves_a_model_with_both_heads(
    corpus: list[str],
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    run_card: Callable[[unmask.RunFolder], str],
) -> None:
    """It loads as each class, its metrics have both losses and an interval, and another run goes on with its head."""
    settings = {"train.eval_every": 2, "train.log_every": 1, "train.batch_tokens": 400, "data.max_length": 48}
    settings |= {"data.heldout_share": 0.6}
    arguments: dict[str, Any] = {"objective": "nsp", "max_steps": 4, "precision": "fp32", "device": "cpu"}
    arguments |= {"settings": settings, "progress": False}
    result = unmask.train(corpus, model=checkpoint("bert"), out=tmp_path / "run", **arguments)
    folder = result.folder
    both, info = BertForPreTraining.from_pretrained(folder.model, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    sentence, info = BertForNextSentencePrediction.from_pretrained(folder.model, output_loading_info=True)
    assert not info["missing_keys"]
    masked, info = AutoModelForMaskedLM.from_pretrained(folder.model, output_loading_info=True)
    assert not info["missing_keys"]
    assert "tensor([[" in run_card(folder)
    tokenizer = load_tokenizer(str(folder.model))
    inputs = tokenizer("the river.", "a boat.", return_tensors="pt")
    with torch.no_grad():
        out = both.eval()(**inputs)
        assert torch.equal(out.seq_relationship_logits, sentence.eval()(**inputs).logits)
        assert torch.equal(out.prediction_logits, masked.eval()(**inputs).logits)

    rows = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    for row in (row for row in rows if "loss" in row):
        assert row["loss"] == pytest.approx(row["mlm_loss"] + row["nsp_loss"])
    assert all(0 <= row["eval_nsp_accuracy"] <= 1 for row in rows if "eval_loss" in row)
    assert all(0.5 <= row["eval_larger_label_share"] <= 1 for row in rows if "eval_loss" in row)
    assert result.evaluation is not None
    own = result.evaluation["objective"]
    low, high = own["intervals"]["nsp_accuracy"]
    assert low <= own["nsp_accuracy"] <= high
    assert 0.5 <= own["larger_label_share"] <= 1
    assert own["answers"] > 10
    page = folder.report.read_text(encoding="utf-8")
    for words in ("Next sentence prediction", "pairs of passages", "nsp accuracy", "larger label share"):
        assert words in page

    shown = unmask.explain(folder.model, "the river.", pair="a boat.", device="cpu")
    assert shown.input_ids == inputs["input_ids"][0].tolist()
    assert shown.token_type_ids == inputs["token_type_ids"][0].tolist()
    assert shown.attention_mask == inputs["attention_mask"][0].tolist()
    assert shown.text[slice(*shown.spans[-2])] == "."
    assert shown.pair is not None
    assert shown.pair.label == 0
    seen = {**inputs, "input_ids": torch.tensor([shown.masked_input_ids])}
    with torch.no_grad():
        loss = sentence(**seen, labels=torch.tensor([0])).loss
        labels = [
            label if selected else -100 for label, selected in zip(shown.labels, shown.mask, strict=True)
        ]
        masked_loss = masked(**seen, labels=torch.tensor([labels])).loss
    assert f"{shown.pair.loss:.4f}" in shown.to_html()
    assert shown.pair.loss == pytest.approx(loss.item(), rel=1e-5)
    assert shown.loss == pytest.approx(masked_loss.item(), rel=1e-5)
    without = unmask.explain(checkpoint("bert"), "the river.", pair="a boat.", device="cpu")
    assert without.pair is not None
    assert without.pair.probabilities is None
    with pytest.raises(ConfigError, match="a pair needs token types 0 and 1"):
        unmask.explain(checkpoint("roberta"), "the river.", pair="a boat.", device="cpu")

    objective = NextSentencePrediction()
    model = load_for_inference(str(folder.model), device="cpu")
    assert isinstance(model, MaskedLM)
    objective.prepare(model, 0)
    found: Any = model.attached["sentence"]
    assert not found.new
    assert torch.equal(found.classifier.weight, both.cls.seq_relationship.weight)


def _hindi(draw: np.random.Generator) -> str:
    words = "यह किताब अच्छी वह घर जाता राम नदी पहाड़ पत्र दूर पुराना".split()
    return " ".join(" ".join(draw.choice(words, draw.integers(4, 9))) + "।" for _ in range(30))


def _chinese(draw: np.random.Generator) -> str:
    letters = list("他去学校看书写信山河船灯冬天老人家门")
    return "".join("".join(draw.choice(letters, draw.integers(5, 12))) + "。" for _ in range(30))


def _unpunctuated(draw: np.random.Generator) -> str:
    return " ".join(draw.choice("river riverboats telescope wintering dictionary unripe".split(), 200))


def _numbers(draw: np.random.Generator) -> str:
    words = "river letter winter 3.5 12.75 0.5".split()
    return " ".join(" ".join(draw.choice(words, draw.integers(4, 9))) + "." for _ in range(30))


@pytest.mark.parametrize("write", [_hindi, _chinese, _numbers, _unpunctuated])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("change", ["replaced", "swapped"])
def test_the_form_of_passages_does_not_tell(
    change: Change, family: str, write: Callable[[np.random.Generator], str], tmp_path: Path
) -> None:
    """Nor in scripts whose marks a vocabulary joins to words or cuts into bytes, nor in text without marks."""
    draw = np.random.default_rng(0)
    texts = [write(draw) for _ in range(40)]
    (tmp_path / "text.txt").write_text("\n".join(texts), encoding="utf-8")
    tokenizer = FAMILIES[family](texts[:4])
    vocabulary = vocabulary_of(tokenizer)
    shards = prepare([tmp_path / "text.txt"], DocumentSettings(documents="line"), tokenizer, tmp_path / "s")
    text = TextSource(shards, None, vocabulary, MaskingSettings(), 64)
    ends = SentenceEnds(tokenizer, vocabulary.words, vocabulary.size)
    source = PairSource(text, vocabulary.suffix, ends, change)
    assert vocabulary.words is not None
    votes: dict[tuple[bool, ...], list[int]] = {}
    for epoch in range(3):
        packed = source.pack(np.arange(len(source.sequences)), MaskKey(0, epoch))
        for row, label in enumerate(packed.labels):
            if label == UNLABELLED:
                continue
            ids = packed.input_ids[packed.cu_seqlens[row] : packed.cu_seqlens[row + 1]]
            cut = packed.second[row] - packed.cu_seqlens[row]
            first, other = ids[1 : cut - 1], ids[cut:-1]
            form = [vocabulary.words.opens[passage[0]] for passage in (first, other)]
            form += [
                vocabulary.words.text(passage[-4:]).endswith(("।", "。", ".")) for passage in (first, other)
            ]
            votes.setdefault(tuple(map(bool, form)), []).append(int(label))
    pairs = sum(map(len, votes.values()))
    assert pairs > 100
    assert sum(max(of.count(0), of.count(1)) for of in votes.values()) < 0.6 * pairs
