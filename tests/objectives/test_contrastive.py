"""Contrast of passages: the loss against transformers and plain torch, embeddings, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import unmask
from unmask.config.settings import DocumentSettings, MaskingSettings
from unmask.data.batches import Batch, TextSource
from unmask.data.masking.random_bits import MaskKey
from unmask.data.pairs import SHORTEST, PairSource
from unmask.data.preparation import prepare
from unmask.data.tokenizer import load_tokenizer
from unmask.errors import ConfigError, DataError
from unmask.inference.embed import Embedder
from unmask.model.load import load_for_inference, set_dropout
from unmask.model.masked_lm import MaskedLM
from unmask.objectives.contrastive import ContrastiveLearning
from unmask.objectives.objective import Loss
from unmask.storage import write_json
from unmask.training.loss import step_gradients
from unmask.training.parallel import GradientSum

KEY = MaskKey(3, 1)
WORDS = "river boat letter winter telescope engineer unripe dictionary mountains".split()


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    """Documents of one to eight sentences, each about two or three words of its own, and ten of a word or two."""
    draw = np.random.default_rng(0)

    def document(number: int) -> str:
        topic = draw.choice(WORDS, 3, replace=False)
        sentences = (" ".join(draw.choice(topic, draw.integers(4, 12))) for _ in range(1 + number % 8))
        return ". ".join(sentences) + "."

    return [document(number) for number in range(80)] + [
        f"{a} {b}" for a, b in zip(WORDS, WORDS[1:] + WORDS[:1], strict=True)
    ]


@pytest.fixture(scope="module")
def long_shards(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path], corpus: list[str]
) -> Any:
    folder = tmp_path_factory.mktemp("passages")
    (folder / "text.txt").write_text("\n".join(corpus), encoding="utf-8")
    tokenizer = load_tokenizer(str(checkpoint("bert")))
    return prepare([folder / "text.txt"], DocumentSettings(documents="line"), tokenizer, folder / "shards")


def prepared(
    model: MaskedLM, shards: Any, objective: ContrastiveLearning | None = None
) -> tuple[ContrastiveLearning, PairSource]:
    objective = objective or ContrastiveLearning(weight=0.7)
    objective.prepare(model, 0)
    model.model.train()
    source = objective.source(TextSource(shards, None, model.vocabulary, MaskingSettings(rate=0.3), 40))
    assert isinstance(source, PairSource)
    return objective, source


def step(
    model: MaskedLM, objective: ContrastiveLearning, batches: list[Batch]
) -> tuple[Tensor, dict[str, Tensor]]:
    summed = GradientSum(model)
    summed.begin(objective)
    model.model.zero_grad(set_to_none=True)
    divisors = [sum(counts) for counts in zip(*map(objective.counts, batches), strict=True)]
    losses, _ = step_gradients(summed, batches, divisors)
    found = {
        name: weight.grad.clone()
        for name, weight in model.model.named_parameters()
        if weight.grad is not None
    }
    return losses, found


def passages_of(source: PairSource, number: int) -> list[np.ndarray]:
    """The token ids of a sequence's passages, from the text and where the pair was split."""
    packed = source.pack(np.array([number]), KEY)
    document, start, body = (int(part[0]) for part in source.sequences.find(np.array([number])))
    text = source.corpus.gather(np.array([document]), np.array([start]), np.array([body]))
    if body < SHORTEST:
        return [source.vocabulary.framed(text)]
    cut = int(packed.second[0]) - len(source._middle) - len(source.vocabulary.prefix)
    return [source.vocabulary.framed(part) for part in (text[:cut], text[cut:])]


@pytest.mark.parametrize("architecture", ["bert", "deberta-v2"])
def test_loss_and_gradient_are_those_of_plain_torch(
    architecture: str, tiny_model: Any, wordpiece_tokenizer: Any, long_shards: Any
) -> None:
    """Each passage alone through the model of transformers, in one micro-batch and in three."""
    raw = tiny_model(architecture, len(wordpiece_tokenizer), pad_token_id=0)
    model = MaskedLM(raw, wordpiece_tokenizer)
    set_dropout(raw, 0.0)
    objective, source = prepared(model, long_shards)
    count = len(source.sequences)
    numbers = source.by_length(np.r_[60:84, count - 2 : count])
    batch = source.batch(numbers, KEY, 0.3, make=objective.batch)

    with model.plain() as plain:
        raw = deepcopy(plain).train()
    masked, pairs, documents = torch.zeros(()), [], []
    for place, number in enumerate(numbers.tolist()):
        begin, pooled = int(batch.cu_seqlens[place]), []
        for passage in passages_of(source, number):
            targets = np.flatnonzero(
                (batch.target_index >= begin) & (batch.target_index < begin + len(passage))
            )
            at = batch.target_index[targets] - begin
            assert np.array_equal(passage[at], batch.target_ids[targets])
            passage[at] = batch.input_ids[batch.target_index[targets]]
            out = raw(input_ids=torch.from_numpy(passage)[None], output_hidden_states=True)
            labels = torch.from_numpy(batch.target_ids[targets])
            masked = masked + F.cross_entropy(out.logits[0, at], labels, reduction="sum")
            pooled.append(out.hidden_states[-1][0].mean(0))
            begin += len(passage)
        assert begin == batch.cu_seqlens[place + 1]
        if len(pooled) == 2:
            pairs.append(torch.stack(pooled))
            documents.append(source.sequences.find(np.array([number]))[0][0])
    assert len({*documents}) < len(documents) < len(numbers)
    first, second = F.normalize(torch.stack(pairs), dim=-1).unbind(1)
    total = torch.zeros(())
    for own, other in ((first, second), (second, first)):
        for row, document in enumerate(documents):
            apart = torch.tensor([each != document for each in documents])
            candidates = torch.cat([other[row][None], other[apart], own[apart]])
            total = total - F.log_softmax(candidates @ own[row] / objective.temperature, 0)[0]
    wanted = masked / len(batch.target_ids), total / (2 * len(pairs))
    (wanted[0] + 0.7 * wanted[1]).backward()
    gradients = {name: weight.grad for name, weight in raw.named_parameters() if weight.grad is not None}

    assert objective.counts(batch) == (len(batch.target_ids), 2 * len(pairs))
    for parts in np.array_split(numbers, 1), np.array_split(numbers, 3):
        batches = [source.batch(part, KEY, 0.3, make=objective.batch) for part in parts]
        losses, found = step(model, objective, batches)
        torch.testing.assert_close(losses, torch.stack(wanted).detach(), rtol=2e-6, atol=0)
        assert set(found) == set(gradients)
        gap = torch.cat([(found[name] - gradients[name]).flatten() for name in found]).norm()
        size = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()
        assert gap < 1e-5 * size


class Compared(ContrastiveLearning):
    """Keeps how far the rows of the first pass are off those of the second."""

    gap = 0.0

    def losses(self, model: MaskedLM, batch: Batch, divisors: Any) -> tuple[Loss, ...]:
        assert batch.of_step is not None
        state = torch.get_rng_state()
        own, _ = self.rows(model, batch)
        torch.set_rng_state(state)
        first = batch.of_step.first
        others = batch.of_step.arrays[0][first : first + len(own)]
        self.gap = max(self.gap, float((own - others).detach().abs().max()))
        return super().losses(model, batch, divisors)


def test_dropout_is_the_same_in_both_passes(
    tiny_model: Any, wordpiece_tokenizer: Any, long_shards: Any
) -> None:
    raw = tiny_model("bert", len(wordpiece_tokenizer), pad_token_id=0, hidden_dropout_prob=0.5)
    objective = Compared()
    model = MaskedLM(raw, wordpiece_tokenizer)
    objective, source = prepared(model, long_shards, objective)
    numbers = source.by_length(np.arange(20))
    step(
        model,
        objective,
        [source.batch(part, KEY, 0.3, make=objective.batch) for part in np.array_split(numbers, 3)],
    )
    assert 0 <= objective.gap < 1e-5


def test_a_run_embeds_and_is_measured_by_retrieval(
    corpus: list[str],
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    run_card: Callable[[unmask.RunFolder], str],
) -> None:
    """It finds more second halves than before, and its folder is one of sentence-transformers."""
    library = pytest.importorskip("sentence_transformers")
    settings = {
        "train.log_every": 1,
        "train.batch_tokens": 1600,
        "data.max_length": 40,
        "train.save_every": 99,
    }
    settings |= {"data.heldout_share": 0.4, "train.eval_every": 4, "train.optimizer.learning_rate": 1e-3}
    result = unmask.train(
        corpus,
        model=checkpoint("bert"),
        out=tmp_path / "run",
        objective="contrastive",
        settings=settings,
        max_steps=24,
        precision="fp32",
        device="cpu",
        patience=0,
        progress=False,
    )
    folder = result.folder
    rows = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    for row in (row for row in rows if "loss" in row):
        assert row["loss"] == pytest.approx(row["mlm_loss"] + row["contrastive_loss"])
    first, *_, last = [row["eval_retrieval_mrr"] for row in rows if "eval_loss" in row]
    assert last > first
    assert result.evaluation is not None
    own = result.evaluation["objective"]
    for name in ("retrieval_accuracy", "top10_recall", "retrieval_mrr"):
        low, high = own["intervals"][name]
        assert 0 <= low <= own[name] <= high <= 1
    assert own["retrieval_accuracy"] <= own["retrieval_mrr"] <= own["top10_recall"]
    page = folder.report.read_text(encoding="utf-8")
    for words in ("Contrastive learning of passages", "two passages that are read apart", "top10 recall"):
        assert words in page

    model = load_for_inference(str(folder.model), device="cpu")
    other = library.SentenceTransformer(str(folder.model), device="cpu")
    assert other.max_seq_length == model.max_length
    np.testing.assert_allclose(other.encode(corpus[:5]), Embedder(model)(corpus[:5]), rtol=1e-4, atol=1e-5)
    assert "tensor([[" in run_card(folder)


def test_the_pooling_is_that_of_the_checkpoint(
    checkpoint: Callable[[str], Path], long_shards: Any, tmp_path: Path
) -> None:
    """The first token where its modules say so; modules that are not computed here are refused."""
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("bert"), folder)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds]
    write_json(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})
    model = load_for_inference(str(folder), device="cpu")
    objective, source = prepared(model, long_shards)
    batch = source.batch(source.by_length(np.arange(9)), KEY, 0.3, make=objective.batch)
    assert "cls pooling" in objective.describe(source)
    with model.evaluating():
        found, _ = objective.rows(model, batch)
    first = passages_of(source, int(batch.sequence_ids[0]))[0]
    first[batch.target_index[batch.target_index < len(first)]] = batch.input_ids[
        batch.target_index[batch.target_index < len(first)]
    ]
    with model.plain() as raw, model.evaluating():
        states = raw(input_ids=torch.from_numpy(first)[None], output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(found[0, 0], states[0, 0], rtol=1e-4, atol=1e-5)
    assert "cls pooling" in objective.describe(source)
    write_json(
        folder / "modules.json", [*modules, {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]
    )
    with pytest.raises(
        ConfigError, match=r"cannot train the embeddings of this model.*got Transformer, Pooling, Dense"
    ):
        ContrastiveLearning().prepare(model, 0)


def test_text_without_two_passages_is_refused(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    for texts, what in (
        ([f"word {n}" for n in range(20)], "0 documents of the training text have the 8 tokens"),
        ([f"a {'river boat ' * 20}", "a b", "b c"], "1 document of the training text has the 8 tokens"),
    ):
        with pytest.raises(DataError, match=what) as error:
            unmask.train(
                texts,
                model=checkpoint("bert"),
                objective="contrastive",
                max_steps=1,
                out=tmp_path / "out",
                settings={"data.documents": "line"},
                progress=False,
            )
        assert "\n" not in str(error.value)
