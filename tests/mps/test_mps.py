"""What is computed on ``mps`` is what the CPU computes, and a model is computed there only after a trial."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unmask.errors import ConfigError
from unmask.evaluation.predictions import score_targets
from unmask.inference.embed import Embedder
from unmask.inference.explain import explain
from unmask.inference.fill import FillMask
from unmask.model.load import load_for_inference, pick_device, set_dropout
from unmask.model.masked_lm import MaskedLM
from unmask.model.mps import use_mps
from unmask.model.verify import verify
from unmask.objectives.contrastive import ContrastiveLearning
from unmask.objectives.objective import Objective
from unmask.objectives.pairs import NextSentencePrediction
from unmask.objectives.rtd import ReplacedTokenDetection
from unmask.objectives.sampling import sample
from unmask.probing.examples import Examples
from unmask.probing.targets import Numbers
from unmask.progress import Progress
from unmask.scoring.scorer import Scorer
from unmask.training.checkpoint import restore, save_checkpoint
from unmask.training.loop import Loop
from unmask.training.loss import step_gradients
from unmask.training.parallel import GradientSum

Load = Callable[..., MaskedLM]


class Log(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


def test_the_device_refuses_float64(mps: torch.device) -> None:
    """The tests below can fail."""
    with pytest.raises(TypeError, match="float64"):
        torch.ones(2).to(mps).double()
    with pytest.raises(TypeError, match="float64"):
        torch.zeros(2, dtype=torch.float64, device=mps)
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(2, device=mps) + torch.ones(2)


# --- the trial ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bert", "mpnet"])
def test_a_model_that_passes_the_trial_is_moved(
    mps: torch.device, checkpoint: Callable[[str], Path], load: Load, architecture: str
) -> None:
    log = Log()
    model = load_for_inference(str(checkpoint(architecture)), progress=log)
    assert {weight.device for weight in model.model.parameters()} == {mps}  # type: ignore[attr-defined]
    assert log.lines == ["computing on mps: in a trial, logits and gradients are those of the CPU"]
    verify(model)
    ours, theirs = (
        list(Scorer(each)(["the old boat", "letters in winter"])) for each in (model, load(architecture))
    )
    np.testing.assert_allclose([s.pll for s in ours], [s.pll for s in theirs], rtol=1e-5)


class Off(torch.autograd.Function):
    """The same values, and a gradient that is half of what it should be."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient / 2


def refused(values: torch.Tensor) -> torch.Tensor:
    return values.double().float()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (
            lambda values: values.roll(1, -1),
            r"on mps BertForMaskedLM does not give what it gives on the CPU \(logits are off by .* and gradients are .*\)",
        ),
        (
            Off.apply,
            r"on mps BertForMaskedLM does not give what it gives on the CPU \(gradients are off by 0\.[0-9]+ of the largest\)",
        ),
        (refused, r"mps cannot compute BertForMaskedLM \(.*float64.*\)"),
    ],
)
def test_a_model_that_fails_the_trial_stays_on_the_cpu(
    mps: torch.device, load: Load, make_batch: Any, wrong: Callable[..., torch.Tensor], reason: str
) -> None:
    log, model = Log(), load("bert")
    batch = make_batch(model.vocabulary, [9, 4])
    with torch.no_grad():
        before = model.target_logits(batch)
    hooked = model.model.bert.encoder.layer[0].output.register_forward_hook(  # type: ignore[attr-defined]
        lambda _, __, found: wrong(found) if found.device.type == "mps" else None
    )
    use_mps(model, "auto", log)
    assert re.fullmatch(f"computing on the CPU: {reason}", "\n".join(log.lines))
    assert {weight.device.type for weight in model.model.parameters()} == {"cpu"}
    with torch.no_grad():
        assert torch.equal(model.target_logits(batch), before)
    with pytest.raises(ConfigError, match=f"^{reason}; use --device=cpu or auto$"):
        use_mps(model, "mps", log)
    hooked.remove()
    use_mps(model, "mps", log)
    assert model.device == mps


@pytest.mark.usefixtures("mps")
def test_several_processes_stay_on_the_cpu(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    log, model = Log(), load("bert")
    use_mps(model, "auto", log)
    assert log.lines == ["computing on the CPU: mps takes a single process"]
    assert model.device.type == "cpu"
    with pytest.raises(ConfigError, match="takes a single process; use --device=cpu or auto"):
        pick_device("mps")


def test_without_the_device_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(
        ConfigError, match="mps was asked for, but torch finds none; use --device=cpu or auto"
    ):
        pick_device("mps")


# --- what is computed there ---------------------------------------------------------------------------------------


def test_predictions_and_draws_are_those_of_the_cpu(mps: torch.device) -> None:
    """From the same logits; the sums over the vocabulary and the noise of the draws are in float64 on either."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 300, generator=draw) * 3
    logits[5, 7] = logits[5, 9] = logits[5].max() + 1
    targets = torch.randint(300, (40,), generator=draw)
    targets[5] = 9
    ours, theirs = score_targets(logits.to(mps), targets.to(mps)), score_targets(logits, targets)
    for name, one, other in zip(ours._fields, ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6, err_msg=name)
        assert one.dtype == other.dtype
    bits = torch.randint(-(2**63), 2**63 - 1, (40,), generator=draw)
    allowed = torch.arange(300) % 7 > 0
    drawn = sample(logits.to(mps), bits.to(mps), allowed.to(mps))
    assert drawn.device == mps
    assert drawn.cpu().tolist() == sample(logits, bits, allowed).tolist()


OBJECTIVES = (
    NextSentencePrediction,
    ReplacedTokenDetection,
    ContrastiveLearning,
)


@pytest.mark.parametrize("make", OBJECTIVES)
def test_losses_gradients_and_answers_of_objectives(
    mps: torch.device, load: Load, make: Callable[[], Objective]
) -> None:
    found = []
    for device in ("cpu", "mps"):
        given = load("bert")
        use_mps(given, device)
        objective = make()
        model = objective.trained_model(given, 0)
        objective.prepare(model, 0)
        set_dropout(model.model, 0.0)
        batch = objective.trial(model.vocabulary, 12, 60, 0.4)
        summed = GradientSum(model)
        summed.begin(objective)
        model.model.train()
        losses, correct = step_gradients(
            summed, [batch, batch], [2 * count for count in objective.counts(batch)]
        )
        assert losses.device == correct.device == model.device
        weights = [weight.grad for weight in model.model.parameters() if weight.grad is not None]
        gradient = torch.cat([weight.flatten().cpu() for weight in weights])
        with model.evaluating(), torch.no_grad():
            answers = objective.answers(model, batch) if objective.has_answers else np.zeros(0)
        found.append((losses.cpu(), correct.cpu(), gradient, torch.from_numpy(answers)))
    assert given.device == mps
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_loop_makes_the_same_steps(
    mps: torch.device, load: Load, shards: Any, loop_of: Callable[..., Loop], optimizer: str, tmp_path: Path
) -> None:
    """Clipping too, which here bounds every step; and a checkpoint has what was computed."""
    loops = []
    for device in ("cpu", "mps"):
        model = load("bert")
        use_mps(model, device)
        loop = loop_of(model, shards, 200, optimizer, clip_norm=0.05, log_every=1)
        loop.run()
        assert loop.model.device.type == device
        loops.append(loop)
    ours, theirs = (loop.rows for loop in loops)  # type: ignore[attr-defined]
    assert len(ours) == 4
    for one, other in zip(ours, theirs, strict=True):
        assert one["grad_norm"] > 0.05
        assert (one["loss"], one["grad_norm"]) == pytest.approx((other["loss"], other["grad_norm"]), rel=1e-3)
    # A step of AdamW or Muon is the same for a gradient of any scale; their running means of it tell whether it was clipped.
    for one, other in zip(*(loop.optimizers for loop in loops), strict=True):
        means = [
            torch.cat(
                [(mean.get("exp_avg", mean.get("momentum"))).flatten().cpu() for mean in each.state.values()]
            )
            for each in (one, other)
        ]
        assert float((means[0] - means[1]).norm() / means[0].norm()) < 0.02
    loop = loops[1]
    saved = save_checkpoint(tmp_path, loop.model.model, loop.optimizers, {"step": 4}, keep_last=1)
    weights = [weight.detach().cpu().clone() for weight in loop.model.model.parameters()]
    with torch.no_grad():
        for weight in loop.model.model.parameters():
            weight.zero_()
    restore(saved, loop.model.model, loop.optimizers)
    for weight, before in zip(loop.model.model.parameters(), weights, strict=True):
        assert torch.equal(weight.detach().cpu(), before)


def test_a_step_that_is_not_finite_is_skipped(
    mps: torch.device, load: Load, shards: Any, loop_of: Callable[..., Loop]
) -> None:
    model = load("bert")
    use_mps(model, "mps")
    weight = model.model.get_input_embeddings().weight
    loop = loop_of(model, shards, 200, clip_norm=math.inf)
    model.head.register_forward_pre_hook(lambda _, states: states[0] * math.nan)
    before = weight.detach().cpu().clone()
    loop.run()
    assert [row["skipped"] for row in loop.rows] == ["the loss is nan"] * 4  # type: ignore[attr-defined]
    assert torch.equal(weight.detach().cpu(), before)


@pytest.mark.usefixtures("mps")
def test_a_model_is_used_there(load: Load) -> None:
    models = load("bert"), load("bert")
    use_mps(models[1], "mps")
    fills = [FillMask(model)("the [MASK] boat", targets=["old", "war"]) for model in models]
    explained = [explain("the old boat in winter", model, labels="all") for model in models]
    embedded = [Embedder(model)(["the old boat", "letters"]) for model in models]
    assert models[1].device.type == "mps"
    for one, other in ([[filling.probability for filling in fill.candidates] for fill in fills], embedded):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert explained[0].loss == pytest.approx(explained[1].loss, rel=1e-5)


def test_numbers_are_predicted_in_float64(mps: torch.device) -> None:
    """Of regression by fine-tuning: labels stay exact, and the gradient is on the device."""
    target = Numbers(Examples("test", ["a", "b"], None, [["1.5"], ["4"]], [None] * 2))
    codes = torch.from_numpy(target.codes(["1.5"]))
    outputs = torch.tensor([[0.3]], device=mps).requires_grad_()
    target.loss(outputs, codes).backward()
    assert outputs.grad is not None
    assert outputs.grad.device == mps
    assert target.decode(outputs.detach()).dtype == torch.float64
