"""The conformance suite on nine architectures, and proof that each of its checks can fail.

What is measured, and how, stands in `unmask.promises.checks`; here every promise of every architecture is a test.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AttentionInterface

from unmask.cli.main import main
from unmask.config.settings import MaskingSettings
from unmask.data import batches as data_batches
from unmask.data.batches import TextSource
from unmask.data.masking.random_bits import MaskKey
from unmask.data.packing import SequenceSplit
from unmask.errors import ConfigError, DataError
from unmask.model import attention, base
from unmask.model.load import load_for_inference
from unmask.model.masked_lm import MaskedLM
from unmask.objectives import clm, contrastive, mlm, rtd
from unmask.objectives.contrastive import contrast
from unmask.progress import Progress
from unmask.promises import case as conformance_case
from unmask.promises import checks as conformance_checks
from unmask.promises import objectives as conformance_objectives
from unmask.promises.checks import CHECKS, Check, conformance
from unmask.training import loss

# Which architectures take packed rows; the others are padded by length.
PACKED = {
    "bert": True,
    "roberta": True,
    "distilbert": True,
    "electra": True,
    "albert": True,
    "deberta-v2": False,
    "modernbert": True,
    "eurobert": True,
    "mpnet": False,
}
ALONE = [name for name in CHECKS if not name.startswith("process")]
PASSAGES = ["rtd", "contrastive"]
OBJECTIVES = {
    "bert": ["nsp", "sop", "rtd", "clm", "contrastive"],
    "deberta-v2": PASSAGES,
    "mpnet": PASSAGES,
}
"""Objectives of an architecture with its tokenizer; of others those for which packing is enough."""


@pytest.fixture(scope="module")
def checks(checkpoint: Callable[[str], Path]) -> Callable[[str], dict[str, Check]]:
    """Return `found(architecture)`: its checks by name, measured once; for BERT by the verb, with two processes."""

    @cache
    def found(architecture: str) -> dict[str, Check]:
        folder = str(checkpoint(architecture))
        if architecture != "bert":
            measured = conformance(folder, processes=False)
        else:
            with redirect_stdout(StringIO()) as printed:
                assert main(["conformance", folder, "--json"]) == 0
            measured = [Check(**check) for check in json.loads(printed.getvalue())]
        return {check.name: check for check in measured}

    return found


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("architecture", PACKED)
def test_a_promise_holds(checks: Any, architecture: str, name: str) -> None:
    check = checks(architecture)[name]
    assert check.passed, f"{check.what}: {check.measured:.3g} > {check.tolerance:.3g} ({check.detail})"


@pytest.mark.parametrize("name", ["process loss", "process gradient"])
def test_a_promise_over_two_processes_holds(checks: Any, name: str) -> None:
    check = checks("bert")[name]
    assert check.passed, f"{check.what}: {check.measured:.3g} > {check.tolerance:.3g} ({check.detail})"


@pytest.mark.parametrize("architecture", PACKED)
def test_the_losses_of_objectives_are_those_of_transformers(checks: Any, architecture: str) -> None:
    found = {name: check for name, check in checks(architecture).items() if name not in CHECKS}
    wanted = OBJECTIVES.get(architecture, ["rtd", "clm", "contrastive"])
    assert [*found] == [f"{name} loss" for name in wanted]
    assert [
        f"{check.name}: {check.measured} {check.detail}" for check in found.values() if not check.passed
    ] == []


@pytest.mark.parametrize("count", ["bernoulli", "fixed"])
@pytest.mark.parametrize("strategy", ["word", "span", "terms"])
def test_promises_hold_for_every_strategy(
    checkpoint: Callable[[str], Path], strategy: str, count: str
) -> None:
    masking = MaskingSettings.model_validate(
        {"strategy": strategy, "count": count, "terms_pattern": "a", "rate": 0.2}
    )
    checks = conformance(str(checkpoint("bert")), masking=masking, processes=False, objectives=False)
    assert [f"{check.name}: {check.detail}" for check in checks if not check.passed] == []


def test_tolerances_are_those_promised(checks: Any) -> None:
    found = checks("bert")
    assert [*found] == [*CHECKS, *(f"{name} loss" for name in OBJECTIVES["bert"])]
    tolerances = {
        name: check.tolerance
        for name, check in found.items()
        if name not in ("masks and epochs", "mask rate")
    }
    close = {"packing": 1e-5, "evaluation alone": 1e-5, "contrastive loss": 1e-5}
    computed = [name for name in found if name.endswith(("loss", "gradient"))]
    exact = dict.fromkeys([*computed, "neighbours"], 1e-6)
    assert tolerances == {name: {**exact, **close}.get(name, 0) for name in tolerances}


@pytest.mark.parametrize("architecture", PACKED)
def test_which_architectures_pack(checkpoint: Callable[[str], Path], architecture: str) -> None:
    assert load_for_inference(str(checkpoint(architecture)), device="cpu").packed is PACKED[architecture]


def test_the_window_of_modernbert_is_felt(checkpoint: Callable[[str], Path], checks: Any) -> None:
    """The packing check has documents that are longer than the window on both sides, and layers with one."""
    config = load_for_inference(str(checkpoint("modernbert")), device="cpu").model.config
    assert "sliding_attention" in config.layer_types
    assert "to 96 tokens" in checks("modernbert")["packing"].detail
    assert 2 * config.sliding_window + 1 < 96


def test_the_model_is_left_as_it_was(checkpoint: Callable[[str], Path]) -> None:
    model = load_for_inference(str(checkpoint("electra")), device="cpu", precision="bf16")
    model.model.train()
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    checks = conformance(model, processes=False)
    assert all(check.passed for check in checks)
    assert model.autocast
    assert model.model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.model.state_dict().items())
    assert all(weight.grad is None for weight in model.model.parameters())


def test_progress_is_told_and_a_missing_model_is_refused(checkpoint: Callable[[str], Path]) -> None:
    shown: list[Any] = []
    shares: list[float | None] = []

    class Listener(Progress):
        def advance(self, share: float | None, figures: Any) -> None:
            shares.append(share)
            if "check" in figures:
                shown.append(figures["check"])

    conformance(str(checkpoint("bert")), processes=False, objectives=False, progress=Listener())
    assert shown == ALONE
    assert shares[-1] == 1.0
    with pytest.raises(ConfigError, match="there/is/none"):
        conformance("there/is/none", offline=True)


# --- every check can fail -----------------------------------------------------------------------------------------


def failing(model: MaskedLM) -> set[str]:
    """Return the names of the checks that fail."""
    return {check.name for check in conformance(model, processes=False, objectives=False) if not check.passed}


@pytest.fixture
def model(checkpoint: Callable[[str], Path]) -> MaskedLM:
    return load_for_inference(str(checkpoint("modernbert")), device="cpu")


def test_a_mean_over_each_micro_batch_is_found(model: MaskedLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Trainer did to BERT: each micro-batch is divided by its own targets."""

    def step(summed: Any, parts: list[Any], counts: list[int]) -> Any:
        results = [loss.step_gradients(summed, [part], [len(part.target_ids)]) for part in parts]
        return tuple(map(sum, zip(*results, strict=True)))

    monkeypatch.setattr(conformance_case, "step_gradients", step)
    assert failing(model) == {"micro-batch loss", "micro-batch gradient"}


def test_another_loss_is_found(model: MaskedLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum that is right for any split, and not what the model's users mean by the loss."""
    real = mlm.masked_cross_entropy
    monkeypatch.setattr(
        mlm, "masked_cross_entropy", lambda logits, labels, n: real(logits * 1.001, labels, n)
    )
    assert failing(model) == {"loss", "gradient"}


def test_another_loss_of_an_objective_is_found(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another temperature, attention that looks ahead, pairs without token types, other draws, each in its own check."""
    monkeypatch.setattr(conformance_checks, "CHECKS", {})
    model = load_for_inference(str(checkpoint("bert")), device="cpu")
    real = conformance_objectives._sequences

    def untyped(*args: Any) -> Any:
        return (one._replace(inputs={"input_ids": one.inputs["input_ids"]}) for one in real(*args))

    def failing() -> set[str]:
        return {check.name for check in conformance(model, processes=False) if not check.passed}

    with monkeypatch.context() as patch:
        patch.setattr(conformance_objectives, "_sequences", untyped)
        assert failing() == {"nsp loss", "sop loss"}
    monkeypatch.setattr(clm.CausalLanguageModelling, "prepare", lambda *_: None)
    monkeypatch.setattr(
        MaskedLM,
        "encode",
        lambda self, batch, causal=False, _real=MaskedLM.encode, **more: _real(self, batch, **more),
    )
    monkeypatch.setattr(rtd, "sample", lambda logits, bits, allowed: logits.argmax(-1))
    monkeypatch.setattr(contrastive, "contrast", lambda *args: contrast(args[0], args[1], 0.06))
    assert failing() == {"rtd loss", "clm loss", "contrastive loss"}


def test_a_batch_without_targets_that_is_no_number_is_found(
    model: MaskedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(summed: Any, parts: list[Any], counts: list[int]) -> Any:
        found, correct = loss.step_gradients(summed, parts, counts)
        return found if any(counts) else found / 0, correct

    monkeypatch.setattr(conformance_case, "step_gradients", step)
    assert failing(model) == {"no targets"}


@pytest.fixture
def packing() -> Any:
    """Return `replace(function)`, to put another packed attention in place until the test is over."""
    yield lambda function: AttentionInterface.register(attention.NAME, function)
    attention.register()


def test_documents_that_see_each_other_are_found(model: MaskedLM, packing: Any) -> None:
    packing(lambda *args, layout=None, **kwargs: attention.packed_attention(*args, **kwargs))
    assert failing(model) >= {"loss", "gradient", "micro-batch loss", "packing", "neighbours"}


@pytest.mark.parametrize("off", [-1, 1])
def test_a_window_that_is_one_token_off_is_found(model: MaskedLM, packing: Any, off: int) -> None:
    def other(*args: Any, sliding_window: int | None = None, **kwargs: Any) -> Any:
        window = sliding_window and sliding_window + off
        return attention.packed_attention(*args, sliding_window=window, **kwargs)

    packing(other)
    assert "packing" in failing(model)


def test_positions_that_go_on_over_a_row_are_found(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bert = load_for_inference(str(checkpoint("bert")), device="cpu")
    monkeypatch.setattr(data_batches, "frame_positions", lambda cu_seqlens: np.arange(cu_seqlens[-1]) % 128)
    assert {"loss", "packing", "evaluation alone"} <= failing(bert)


def test_lost_tokens_are_found(model: MaskedLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """What group_texts does: the remainder of a document that is too long is dropped."""
    real = SequenceSplit.counts
    monkeypatch.setattr(SequenceSplit, "counts", lambda self, lengths: np.minimum(real(self, lengths), 1))
    assert failing(model) == {"tokens kept"}


def test_masks_with_a_state_are_found(model: MaskedLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a collator does: masks depend on how many batches were drawn before."""
    real, calls = TextSource.batch, itertools.count()

    def drawn(self: TextSource, numbers: Any, key: MaskKey, rate: float, **kind: Any) -> Any:
        return real(self, numbers, MaskKey(key.seed + next(calls), key.epoch), rate, **kind)

    monkeypatch.setattr(TextSource, "batch", drawn)
    assert failing(model) >= {"masks and splits", "masks and resuming", "evaluation again"}


def test_masks_that_never_change_are_found(model: MaskedLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a collator with a seed does: the same masks in every epoch."""
    real = TextSource.batch
    monkeypatch.setattr(
        TextSource,
        "batch",
        lambda self, numbers, key, rate, **kind: real(self, numbers, MaskKey(0, 0), rate, **kind),
    )
    assert failing(model) == {"masks and epochs"}


def test_special_targets_and_replacements_are_found(model: MaskedLM) -> None:
    nothing = np.zeros_like(model.vocabulary.special)
    model.vocabulary = replace(model.vocabulary, special=nothing)
    assert failing(model) == {"special tokens", "mask rate"}
    fresh = base.vocabulary_of(model.tokenizer)
    everything = np.arange(fresh.size)
    model.vocabulary = replace(fresh, replacements=everything)
    assert failing(model) == {"special tokens"}


def test_control_tokens_read_from_the_text_are_found(
    model: MaskedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Naive:
        def __init__(self, tokenizer: Any) -> None:
            self.encode = tokenizer

        def __call__(self, texts: list[str]) -> list[Any]:
            return [np.array(ids) for ids in self.encode(texts, add_special_tokens=False)["input_ids"]]

    monkeypatch.setattr(conformance_checks, "TextEncoder", Naive)
    assert failing(model) == {"literal tokens"}


def test_a_check_that_cannot_run_has_not_passed(model: MaskedLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no such kernel\nand more")

    monkeypatch.setattr(conformance_checks, "evaluate_batches", broken)
    checks = {check.name: check for check in conformance(model, processes=False)}
    assert {name for name, check in checks.items() if not check.passed} == {
        "evaluation again",
        "evaluation alone",
    }
    assert checks["evaluation alone"].detail == "RuntimeError: no such kernel"


@pytest.mark.parametrize(
    ("bound", "rounding", "tolerance"), [(5e-7, 1e-7, 1e-6), (5e-7, 2e-6, 4e-6), (2e-6, 1e-7, 2e-6)]
)
def test_a_deep_or_wide_model_is_held_to_its_own_rounding(
    bound: float, rounding: float, tolerance: float
) -> None:
    class Deep:
        pass

    case: Any = Deep()
    case.rounding, case.bound, case.terms = rounding, bound, 100
    found = conformance_checks._gradient(case, conformance_case.Distance(0.0, 3e-6), "")
    assert found.tolerance == tolerance
    assert f"{rounding:.1e}" in found.detail


def wide(tokenizer: Any) -> MaskedLM:
    """A random BERT whose vocabulary of 30,522 entries is much larger than its layers are wide.

    Its weights are wide too, so that sums round by more than 1e-6 on any processor.
    """
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer

    vocab = tokenizer.get_vocab()
    vocab |= {f"word{number}": number for number in range(len(vocab), 30522)}
    sizes = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_attention_heads": 4,
        "initializer_range": 0.25,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(vocab_size=30522, num_hidden_layers=2, max_position_embeddings=64, **sizes)
        return load_for_inference(BertForMaskedLM(config), BertTokenizer(vocab=vocab))


def test_tolerances_follow_the_size_and_faults_are_still_found(
    wordpiece_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums over 30,522 entries round by more than 1e-6; a mean over each micro-batch, and a loss off by 1e-4, are more."""
    computed = {name: found for name, found in CHECKS.items() if name.endswith(("loss", "gradient"))}
    monkeypatch.setattr(conformance_checks, "CHECKS", computed)
    model = wide(wordpiece_tokenizer)
    checks = {check.name: check for check in conformance(model, processes=False, objectives=False)}
    assert [check for check in checks.values() if not check.passed] == []
    assert 1e-6 < checks["micro-batch gradient"].measured < checks["micro-batch gradient"].tolerance < 2e-5
    real = mlm.masked_cross_entropy
    with monkeypatch.context() as patch:
        patch.setattr(mlm, "masked_cross_entropy", lambda *args: tuple(x * 1.0001 for x in real(*args)))
        assert failing(model) >= {"loss", "gradient"}
    step = loss.step_gradients
    monkeypatch.setattr(
        conformance_case,
        "step_gradients",
        lambda summed, parts, counts: step(summed, parts, [len(parts[0].target_ids)]),
    )
    assert failing(model) >= {"micro-batch loss", "micro-batch gradient"}


@pytest.mark.parametrize("architecture", ["esm", "convbert", "funnel", "fnet"])
def test_promises_hold_where_the_batch_matters(checkpoint: Callable[[str], Path], architecture: str) -> None:
    """The loss and the gradient too, of architectures whose output changes with padding or packing."""
    checks = conformance(str(checkpoint(architecture)), processes=False)
    assert [f"{check.name}: {check.measured} {check.detail}" for check in checks if not check.passed] == []


def test_a_rate_that_short_documents_do_not_meet_is_found(
    model: MaskedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least one target in every document: nearly half of three tokens."""
    from unmask.promises import masks

    real = masks.mask

    def drawn(packed: Any, *args: Any) -> Any:
        found = real(packed, *args)
        first = packed.cu_seqlens[:-1] + 1
        return found._replace(target_index=np.union1d(found.target_index, first))

    monkeypatch.setattr(masks, "mask", drawn)
    assert failing(model) == {"mask rate"}


def test_a_tokenizer_that_knows_no_text_is_refused(model: MaskedLM) -> None:
    model.vocabulary = replace(model.vocabulary, special=np.ones_like(model.vocabulary.special))
    with pytest.raises(DataError, match="nothing but special or unknown tokens"):
        conformance(model, processes=False)


def test_a_process_that_fails_is_no_pass() -> None:
    code = "import sys; sys.exit('gone')"
    worker = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8"
    )
    with pytest.raises(RuntimeError, match="ended with 1: gone"):
        conformance_case._wait([worker])
