from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unmask.config.settings import OptimizerSettings
from unmask.training.optimizers import (
    Muon,
    clip_gradients,
    make_optimizers,
    orthogonalise,
    set_learning_rate,
)
from unmask.training.staged_start import StagedStart

ARCHITECTURES = "bert roberta distilbert electra albert deberta-v2 modernbert eurobert mpnet".split()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- Muon ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(8, 8), (32, 96), (96, 32), (64, 1)])
def test_orthogonalising_brings_singular_values_near_one(shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrices = random(3, *shape) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    out = orthogonalise(matrices, dtype)
    assert out.dtype == dtype
    out = out.float()
    values = torch.linalg.svdvals(out)
    assert out.shape == matrices.shape
    assert float(values.max()) < 1.35
    # The iteration lifts all but the smallest; those it has not reached are few.
    assert float((values > 0.6).float().mean()) > 0.85


def test_orthogonalising_keeps_the_directions() -> None:
    u, _, v = torch.linalg.svd(random(16, 24), full_matrices=False)
    matrix = u @ torch.diag(torch.linspace(0.2, 1.0, 16)) @ v
    inside = u.T @ orthogonalise(matrix[None])[0].float() @ v.T
    off = inside - torch.diag(inside.diagonal())
    assert float(inside.diagonal().min()) > 0.6
    assert float(off.abs().max()) < 0.05


def test_muon_computes_in_the_precision_that_it_is_given(tiny_model: Any) -> None:
    """In fp32 gradients that differ in their last digits move the weights alike; bf16 rounds more coarsely."""

    def after_step(dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
        model = tiny_model("bert", 200)
        optimizer = make_optimizers(model, OptimizerSettings(), "muon", 1e-3, dtype=dtype)[1]
        weights = optimizer.param_groups[0]["params"]
        torch.manual_seed(0)
        for weight in weights:
            weight.grad = torch.randn_like(weight) * scale
        optimizer.step()
        return torch.cat([weight.detach().flatten() for weight in weights])

    exact = after_step(torch.float32)
    torch.testing.assert_close(after_step(torch.float32, 1 + 1e-6), exact, rtol=0, atol=1e-6)
    apart = (after_step(torch.bfloat16) - exact).abs().max()
    assert 1e-5 < float(apart) < 2e-3


def test_orthogonalising_zeros_gives_zeros() -> None:
    assert not orthogonalise(torch.zeros(1, 4, 4)).any()


def muon(weights: list[Tensor], gradients: list[Tensor], **settings: Any) -> list[Tensor]:
    """Take one step and return by how much each weight moved."""
    parameters = [nn.Parameter(weight.clone()) for weight in weights]
    parts = {id(p): n for p, n in zip(parameters, settings.pop("parts", [1] * len(weights)), strict=True)}
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    Muon(parameters, parts=parts, **settings).step()
    return [p.detach() - weight for p, weight in zip(parameters, weights, strict=True)]


@pytest.mark.parametrize(("shape", "size"), [((32, 32), 1.0), ((64, 16), 2.0), ((16, 64), 1.0)])
def test_a_step_has_the_size_of_the_rate_whatever_the_gradient(shape: tuple[int, int], size: float) -> None:
    for scale in (1e-4, 1e4):
        (moved,) = muon([random(*shape)], [random(*shape, seed=1) * scale], lr=0.02)
        assert float(torch.linalg.matrix_norm(moved, 2)) == pytest.approx(0.02 * size, rel=0.35)


def test_a_step_goes_against_the_gradient() -> None:
    gradient = random(16, 16, seed=1)
    (moved,) = muon([random(16, 16)], [gradient], lr=0.02)
    assert float((moved * gradient).sum()) < 0


def test_stacked_matrices_move_as_each_alone() -> None:
    weights = [random(24, 16, seed=n) for n in range(3)] + [random(16, 24, seed=9)]
    gradients = [random(*weight.shape, seed=100 + n) for n, weight in enumerate(weights)]
    together = muon(weights, gradients, lr=0.1)
    for weight, gradient, moved in zip(weights, gradients, together, strict=True):
        (alone,) = muon([weight], [gradient], lr=0.1)
        torch.testing.assert_close(moved, alone, rtol=1e-2, atol=1e-4)


def test_a_fused_projection_moves_as_its_parts() -> None:
    """Query, key and value in one matrix: a large gradient of one part does not drown the others."""
    parts = [random(16, 16, seed=n) for n in range(3)]
    gradients = [random(16, 16, seed=10 + n) * 10.0**n for n in range(3)]
    (fused,) = muon([torch.cat(parts)], [torch.cat(gradients)], lr=0.1, parts=[3])
    torch.testing.assert_close(fused, torch.cat(muon(parts, gradients, lr=0.1)), rtol=1e-2, atol=1e-4)


def test_weights_without_a_gradient_stay() -> None:
    weight = nn.Parameter(random(4, 4))
    before = weight.detach().clone()
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(weight, before)


def test_weight_decay_is_decoupled() -> None:
    weight, gradient = random(8, 8), random(8, 8, seed=1)
    (plain,) = muon([weight], [gradient], lr=0.1)
    (decayed,) = muon([weight], [gradient], lr=0.1, weight_decay=0.2)
    torch.testing.assert_close(decayed - plain, -0.1 * 0.2 * weight, rtol=1e-4, atol=1e-6)


def test_muon_descends() -> None:
    target, weight = random(12, 12), nn.Parameter(torch.zeros(12, 12))
    optimizer = Muon([weight], lr=0.05)
    losses = []
    for _ in range(60):
        loss = (weight - target).square().mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]


# --- which weights go where ---------------------------------------------------------------------------------------


def groups_of(model: nn.Module, name: str) -> dict[str, tuple[str, float]]:
    """Return for every weight its optimizer and weight decay."""
    names = {id(weight): key for key, weight in model.named_parameters()}
    optimizers = make_optimizers(model, OptimizerSettings(weight_decay=0.1), name, 1e-3)
    found: dict[str, tuple[str, float]] = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                assert names[id(weight)] not in found
                found[names[id(weight)]] = (type(optimizer).__name__, group["weight_decay"])
    return found


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_weight_has_one_place(tiny_model: Any, architecture: str, name: str) -> None:
    model = tiny_model(architecture, 200)
    assert groups_of(model, name).keys() == dict(model.named_parameters()).keys()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_muon_gets_matrices_of_the_layers_and_nothing_else(tiny_model: Any, architecture: str) -> None:
    model = tiny_model(architecture, 200)
    places, modules = groups_of(model, "muon"), dict(model.named_modules())
    by_muon = {key for key, (optimizer, _) in places.items() if optimizer == "Muon"}
    layers = {
        key
        for key, weight in model.base_model.named_parameters(prefix=model.base_model_prefix)
        if (weight.ndim == 2 and ".layer" in key) or ("transformer.layer" in key and weight.ndim == 2)
    }
    assert by_muon
    for key in by_muon:
        assert isinstance(modules[key.removesuffix(".weight")], nn.Linear), key
    assert {key for key in layers if isinstance(modules[key.removesuffix(".weight")], nn.Linear)} <= by_muon
    head = set(places) - {key for key, _ in model.base_model.named_parameters(prefix=model.base_model_prefix)}
    assert not head & by_muon


def test_decay_is_for_matrices_alone(tiny_model: Any) -> None:
    model = tiny_model("bert", 200)
    weights = dict(model.named_parameters())
    for key, (_, decay) in groups_of(model, "adamw").items():
        assert decay == (0.1 if weights[key].ndim == 2 and "embeddings" not in key else 0.0), key


def test_frozen_weights_are_left_out(tiny_model: Any) -> None:
    model = tiny_model("bert", 200)
    model.bert.embeddings.requires_grad_(False)
    assert not any("embeddings" in key for key in groups_of(model, "muon"))


def test_fused_projections_of_modernbert_are_cut(tiny_model: Any) -> None:
    """One Muon step on a model with fused matrices is that on the same weights in separate matrices."""
    model = tiny_model("modernbert", 200)
    names = {id(weight): key for key, weight in model.named_parameters()}
    muon_ = make_optimizers(model, OptimizerSettings(), "muon", 1e-3)[1]
    before = copy.deepcopy(dict(model.named_parameters()))
    for weight in model.parameters():
        weight.grad = random(*weight.shape, seed=weight.numel())
    muon_.step()
    rate = OptimizerSettings().muon_learning_rate
    for weight in muon_.param_groups[0]["params"]:
        key = names[id(weight)]
        pieces = 3 if "Wqkv" in key else 2 if "mlp.Wi" in key else 1
        moved = weight.detach() - before[key].detach()
        spectral = [float(torch.linalg.matrix_norm(part, 2)) for part in moved.chunk(pieces)]
        rows, columns = weight.shape
        size = rate * max(1.0, rows / pieces / columns) ** 0.5
        assert spectral == [pytest.approx(size, rel=0.4)] * pieces, key


def test_a_fused_matrix_is_updated_as_its_parts_are(tiny_model: Any) -> None:
    """The halves of a gated unit (and query, key, value) are orthogonalised one by one, not as one matrix."""
    model = tiny_model("modernbert", 200)
    muon_ = make_optimizers(model, OptimizerSettings(), "muon", 1e-3)[1]
    named = {key: weight for key, weight in model.named_parameters() if "Wqkv" in key or "mlp.Wi" in key}
    before = {key: weight.detach().clone() for key, weight in named.items()}
    for number, weight in enumerate(model.parameters()):
        weight.grad = random(*weight.shape, seed=number)
    muon_.param_groups[0]["weight_decay"] = 0.0
    muon_.step()
    for key, weight in named.items():
        assert weight.grad is not None
        parts = weight.grad.chunk(3 if "Wqkv" in key else 2)
        wanted = torch.cat([orthogonalise(part[None])[0].float() for part in parts])
        rate = OptimizerSettings().muon_learning_rate * max(1.0, parts[0].shape[0] / parts[0].shape[1]) ** 0.5
        update = (before[key] - weight.detach()) / rate
        assert float((update - wanted).norm() / wanted.norm()) < 0.1, key  # bf16


def test_the_moments_of_adam_decay_at_the_rates_of_the_recipe(tiny_model: Any) -> None:
    """β1 = 0.9 and β2 = 0.98 (Liu et al. 2019), as two steps of constant gradients show."""
    model = tiny_model("bert", 200)
    (adam,) = make_optimizers(model, OptimizerSettings(), "adamw", 1e-3)
    for size in (1.0, 3.0):
        for weight in model.parameters():
            weight.grad = torch.full_like(weight, size)
        adam.step()
    for state in adam.state.values():
        assert float(state["exp_avg"].mean()) == pytest.approx(0.1 * 0.9 * 1.0 + 0.1 * 3.0, rel=1e-4)
        assert float(state["exp_avg_sq"].mean()) == pytest.approx(0.02 * 0.98 * 1.0 + 0.02 * 9.0, rel=1e-4)


def test_rates_rise_again_after_a_staged_start(tiny_model: Any) -> None:
    """The moments of the weights that were frozen begin after it, so the rates rise over as many steps."""
    optimizers = make_optimizers(tiny_model("bert", 200), OptimizerSettings(), "adamw", 1e-3)
    staged = StagedStart(steps=4, rate=0.5)
    rates = []
    for step in range(10):
        staged.set_rates(optimizers, step, 0.8)
        rates.append(optimizers[0].param_groups[0]["lr"])
    rising = [8e-4 * share for share in (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)]
    assert rates == pytest.approx([0.5] * 4 + rising)


def test_rates_follow_their_peaks(tiny_model: Any) -> None:
    optimizers = make_optimizers(
        tiny_model("bert", 200), OptimizerSettings(muon_learning_rate=0.02), "muon", 3e-3
    )
    set_learning_rate(optimizers, 0.5)
    set_learning_rate(optimizers, 0.25)
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    assert rates == [[pytest.approx(7.5e-4)] * 2, [pytest.approx(5e-3)]]


# --- clipping -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [0.5, 1e9])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_clipping_moves_weights_as_torchs_own_does(tiny_model: Any, name: str, most: float) -> None:
    """Gradients of very different sizes one after another, so that momentum shows how each was scaled."""
    moved = []
    for ours in (True, False):
        model = tiny_model("bert", 200)
        optimizers = make_optimizers(model, OptimizerSettings(), name, 1e-3)
        for step, size in enumerate((10.0, 0.01, 1.0)):
            for number, weight in enumerate(model.parameters()):
                weight.grad = size * random(*weight.shape, seed=1000 * step + number)
            kept = [weight.grad.clone() for weight in model.parameters()]
            if ours:
                norm = clip_gradients(optimizers, model.parameters(), most)
                assert float(norm) == pytest.approx(float(torch.cat([g.reshape(-1) for g in kept]).norm()))
            else:
                nn.utils.clip_grad_norm_(model.parameters(), most)
            for optimizer in optimizers:
                optimizer.step()
        moved.append(list(model.parameters()))
    for found, wanted in zip(*moved, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=2e-5 if name == "adamw" else 5e-4)
