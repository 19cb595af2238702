"""Replaced token detection: both losses and their gradients, the draws, the shared embeddings, and what is saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForTokenClassification, ElectraForPreTraining

import unmask
from unmask.config.settings import MaskingSettings
from unmask.data.batches import Batch, unmasked_batch
from unmask.data.masking.random_bits import MaskKey
from unmask.data.masking.units import plan_of
from unmask.data.packing import Packed
from unmask.errors import ConfigError
from unmask.model.load import load_for_inference
from unmask.model.masked_lm import MaskedLM
from unmask.objectives.rtd import WEIGHT, ReplacedTokenDetection, area_under_curve
from unmask.objectives.sampling import sample
from unmask.run_folder import GENERATOR
from unmask.training.loss import step_gradients
from unmask.training.parallel import GradientSum

Load = Callable[..., MaskedLM]


def batch_for(model: MaskedLM, objective: ReplacedTokenDetection) -> Batch:
    """Sequences of four tokens, which alone may replace another, with the special tokens around them."""
    lengths, draw = np.array([30, 21, 21, 8, 3]), np.random.default_rng(0)
    cuts = np.concatenate([[0], np.cumsum(lengths)])
    few = model.vocabulary.replacements[:4]
    allowed: Any = model.attached["discriminator"].replacements
    allowed.zero_()[torch.from_numpy(few)] = True
    ids = draw.choice(few, cuts[-1]).astype(np.int64)
    ids[cuts[:-1]], ids[cuts[1:] - 1] = model.vocabulary.prefix[0], model.vocabulary.suffix[0]
    packed = Packed(ids, cuts, draw.integers(0, 2**63, 5).astype(np.uint64), np.full(5, -1))
    return objective.batch(packed, plan_of(model.vocabulary, MaskingSettings()), MaskKey(3, 1), 0.3)


@pytest.mark.parametrize("architecture", ["electra", "bert", "modernbert", "deberta-v2"])
def test_losses_and_gradients_are_those_of_transformers(architecture: str, load: Load) -> None:
    """The generator, padded, draws the same tokens; each part has the gradient of its own loss alone."""
    objective = ReplacedTokenDetection()
    model = objective.trained_model(load(architecture), 0)
    batch = batch_for(model, objective)
    summed = GradientSum(model)
    summed.begin(objective)
    model.model.train()
    losses, correct = step_gradients(summed, [batch], objective.counts(batch))

    discriminator: Any = model.attached["discriminator"]
    tables = [each.get_input_embeddings() for each in (model.model, discriminator.network)]
    with model.plain() as plain, torch.no_grad():
        generator = type(plain)(deepcopy(plain.config)).train()
        generator.load_state_dict(plain.state_dict())
        detector = type(discriminator.network)(deepcopy(discriminator.network.config)).train()
        detector.load_state_dict(discriminator.network.state_dict())
        detector.get_input_embeddings().weight += tables[0].weight
    lengths = np.diff(batch.cu_seqlens)
    real = torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])

    def padded(values: Tensor, empty: int) -> Tensor:
        return torch.full(real.shape, empty, dtype=values.dtype).masked_scatter(real, values)

    ids, targets = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.target_index)
    labels = torch.full_like(ids, -100)
    labels[targets] = torch.from_numpy(batch.target_ids)
    inputs = {"attention_mask": real.long()}
    found = generator(input_ids=padded(ids, 0), labels=padded(labels, -100), **inputs)
    bits, original = torch.from_numpy(batch.of_targets["bits"]), labels[targets]
    drawn = sample(found.logits[real][targets], bits, discriminator.replacements)
    shown, replaced = ids.clone(), torch.zeros(len(ids))
    shown[targets], replaced[targets] = drawn, (drawn != original).float()
    logits = detector(input_ids=padded(shown, 0), **inputs).logits[real]
    logits = logits if logits.ndim == 1 else logits[:, 1] - logits[:, 0]
    judged = torch.from_numpy(~model.vocabulary.special)[shown.masked_scatter(labels != -100, original)]
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits[judged], replaced[judged])
    (found.loss + WEIGHT * loss).backward()

    assert 0 < replaced.sum() < len(targets)
    assert losses.tolist() == pytest.approx([found.loss.item(), loss.item()], rel=2e-6)
    assert correct[1] == ((logits > 0) == (replaced > 0))[judged].sum()
    for ours, theirs in ((model.model, generator), (discriminator.network, detector)):
        wanted = {name: weight.grad for name, weight in theirs.named_parameters() if weight.grad is not None}
        own = {name: weight.grad for name, weight in ours.named_parameters() if weight.grad is not None}
        own = {name: gradient for name, gradient in own.items() if not name.startswith("objective.")}
        assert set(own) == set(wanted)
        for name, gradient in own.items():
            scale = max(1.0, float(wanted[name].abs().max()))
            assert float((gradient - wanted[name]).abs().max()) < 1e-5 * scale, name


def test_draws_have_the_probabilities_of_the_softmax() -> None:
    """Of what is allowed; a row's draw does not depend on the other rows."""
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(1, 50, generator=generator)).expand(20_000, 50)
    allowed = torch.arange(50) % 5 > 0
    bits = torch.randint(-(2**63), 2**63 - 1, (20_000,), generator=generator)
    drawn = sample(logits, bits, allowed)
    shares = torch.bincount(drawn, minlength=50) / len(drawn)
    wanted = logits[0].masked_fill(~allowed, -torch.inf).softmax(-1)
    assert not shares[~allowed].any()
    assert float((shares - wanted).abs().max()) < 4 * float((wanted * (1 - wanted) / len(drawn)).sqrt().max())
    assert torch.equal(sample(logits[7:9], bits[7:9], allowed), drawn[7:9])


def test_the_area_counts_pairs_in_order() -> None:
    scores, positive = np.array([0.1, 0.4, 0.4, 0.8, 0.2]), np.array([False, True, False, True, True])
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive].tolist() for b in scores[~positive].tolist()]
    assert area_under_curve(scores, positive) == pytest.approx(np.mean(pairs))


def test_a_new_generator_is_smaller(load: Load) -> None:
    """A quarter as wide where embeddings are projected; else it has every other layer, with their weights."""
    narrow = ReplacedTokenDetection().trained_model(load("electra"), 0).model.config
    assert (narrow.hidden_size, narrow.num_attention_heads, narrow.intermediate_size) == (8, 1, 16)
    assert (narrow.embedding_size, narrow.num_hidden_layers) == (16, 2)
    whole = load("modernbert").model
    short = ReplacedTokenDetection().trained_model(load("modernbert"), 0).model
    assert short.config.layer_types == whole.config.layer_types[-1:]
    weights, others = short.state_dict(), whole.state_dict()
    assert torch.equal(weights["model.layers.0.attn.Wqkv.weight"], others["model.layers.1.attn.Wqkv.weight"])
    assert torch.equal(weights["decoder.bias"], others["decoder.bias"])


ARGUMENTS: dict[str, Any] = {"objective": "rtd", "max_steps": 4, "precision": "fp32", "device": "cpu"}
SETTINGS = {"train.eval_every": 2, "train.log_every": 1, "train.batch_tokens": 400, "data.max_length": 48}
SETTINGS |= {"data.heldout_share": 0.3, "data.documents": "line"}


@pytest.mark.parametrize("architecture", ["electra", "bert"])
def test_a_run_leaves_both_models(
    architecture: str,
    corpus_text: list[str],
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    run_card: Callable[[unmask.RunFolder], str],
) -> None:
    """They load in plain transformers, a further run goes on with both, and verbs name the one with an LM head."""
    result = unmask.train(
        corpus_text[:200],
        model=checkpoint(architecture),
        out=tmp_path / "run",
        settings=SETTINGS,
        progress=False,
        **ARGUMENTS,
    )
    folder = result.folder
    kind: Any = ElectraForPreTraining if architecture == "electra" else AutoModelForTokenClassification
    detector, info = kind.from_pretrained(folder.model, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    objective = ReplacedTokenDetection()
    model = objective.trained_model(load_for_inference(str(folder.model), device="cpu"), 0)  # type: ignore[arg-type]
    assert "its head from the checkpoint" in objective.describe(None)  # type: ignore[arg-type]
    assert f"from {folder.model / GENERATOR}" in objective.describe(None)  # type: ignore[arg-type]
    discriminator: Any = model.attached["discriminator"]
    ids = model.vocabulary.replacements[:7]
    shown = torch.from_numpy(ids)
    with torch.no_grad(), model.evaluating():
        ours = discriminator.logits(unmasked_batch(ids, np.array([0, 7])), shown, torch.arange(7))
        theirs = detector.eval()(input_ids=shown[None]).logits[0]
    theirs = theirs if theirs.ndim == 1 else theirs[:, 1] - theirs[:, 0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)

    rows = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    for row in (row for row in rows if "loss" in row):
        assert row["loss"] == pytest.approx(row["mlm_loss"] + WEIGHT * row["rtd_loss"], rel=1e-5)
    assert all(0 <= row["eval_rtd_auc"] <= 1 for row in rows if "eval_loss" in row)
    assert result.evaluation is not None
    own = result.evaluation["objective"]
    assert {"rtd_accuracy", "rtd_loss", "rtd_auc", "rtd_f1", "replaced_share"} < set(own)
    low, high = own["intervals"]["replaced_share"]
    assert 0 < low <= own["replaced_share"] <= high < 0.3
    assert "Replaced token detection" in folder.report.read_text(encoding="utf-8")
    card = (folder.model / "README.md").read_text(encoding="utf-8")
    assert f"import AutoTokenizer, {type(detector).__name__}" in card
    assert "fill-mask" not in card
    run_card(folder)

    mask = model.tokenizer.mask_token
    with pytest.raises(
        ConfigError, match=r"no LM head, .*; the generator that was trained with it does"
    ) as error:
        unmask.fill(folder.root, f"the {mask}.", device="cpu")
    assert "\n" not in str(error.value)
    assert unmask.fill(folder.model / GENERATOR, f"the {mask}.", device="cpu")

    text = corpus_text[0]
    shown = unmask.explain(folder.root, text, device="cpu", top_k=2)
    alone = unmask.explain(folder.model / GENERATOR, text, device="cpu", top_k=2)
    found = shown.detection
    assert found is not None
    assert alone.detection is None
    assert shown.predictions == alone.predictions
    assert [at for at, other in enumerate(found.replaced) if other] == [
        at
        for at, (one, other) in enumerate(zip(found.input_ids, shown.input_ids, strict=True))
        if one != other
    ]
    assert set(np.flatnonzero(found.replaced)) <= set(shown.selected)
    with torch.no_grad():
        theirs = detector(input_ids=torch.tensor([found.input_ids])).logits[0]
    theirs = (theirs if theirs.ndim == 1 else theirs[:, 1] - theirs[:, 0]).sigmoid()
    judged = [at for at, special in enumerate(shown.special_tokens_mask) if not special]
    assert [found.probabilities[at] for at in judged] == pytest.approx(theirs[judged].tolist(), rel=1e-4)
    right = [p if other else 1 - p for p, other in zip(theirs.tolist(), found.replaced, strict=True)]
    assert found.loss == pytest.approx(float(np.mean([-np.log(right[at]) for at in judged])), rel=1e-4)
    assert "Which tokens were replaced?" in shown.to_html()
    json.dumps(shown.to_dict())

    pair = unmask.explain(folder.root, text, pair=corpus_text[1], device="cpu")
    assert pair.detection is not None
    with torch.no_grad():
        rows = {"input_ids": pair.detection.input_ids, "token_type_ids": pair.token_type_ids}
        theirs = detector(**{name: torch.tensor([row]) for name, row in rows.items()}).logits[0]
    theirs = (theirs if theirs.ndim == 1 else theirs[:, 1] - theirs[:, 0]).sigmoid()
    judged = [at for at, special in enumerate(pair.special_tokens_mask) if not special]
    assert [pair.detection.probabilities[at] for at in judged] == pytest.approx(
        theirs[judged].tolist(), rel=1e-4
    )


def test_what_cannot_be_used_is_refused(
    load: Load, checkpoint: Callable[[str], Path], tiny_model: Any, wordpiece_tokenizer: Any, tmp_path: Path
) -> None:
    def generator(**config: Any) -> str:
        raw = tiny_model("electra", len(wordpiece_tokenizer), pad_token_id=0, **config)
        raw.save_pretrained(tmp_path / "generator")
        wordpiece_tokenizer.save_pretrained(tmp_path / "generator")
        return str(tmp_path / "generator")

    for name, what in (
        (lambda: generator(hidden_size=64), "is larger than its discriminator"),
        (lambda: generator(embedding_size=8), r"tables of one size; theirs are \[\d+, 8\] and \[\d+, 16\]"),
        (lambda: str(checkpoint("roberta")), "their vocabularies differ"),
    ):
        with pytest.raises(ConfigError, match=what) as error:
            ReplacedTokenDetection(name()).trained_model(load("electra"), 0)
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="no smaller generator can be made of it"):
        ReplacedTokenDetection().trained_model(load("funnel"), 0)
    ElectraForPreTraining(tiny_model("electra", 600).config).save_pretrained(tmp_path / "headless")
    with pytest.raises(ConfigError, match="has no LM head, which replaces tokens"):
        ReplacedTokenDetection(str(tmp_path / "headless")).trained_model(load("electra"), 0)
    for setting in ("freeze=embeddings", "lora_rank=4", "optimizer.layer_decay=0.9", "head_warmup_steps=5"):
        with pytest.raises(ConfigError, match="objective rtd trains all weights"):
            unmask.load_config(None, ("train.objective=rtd", f"train.{setting}"))
    with pytest.raises(ConfigError, match=r"model.generator is for train.objective rtd"):
        unmask.load_config(None, ("model.generator=other",))
