"""What is known of a GPU only where there is one: its kernels, its memory, what waits for it, and compiled code.

``UNMASK_TEST_DEVICE=cpu`` runs the same code on a CPU, with the stand-in for the kernel, so that it is known to be right
before it meets a device. It shows nothing about a GPU.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.attention import varlen

import unmask
from unmask.config.load import load_config
from unmask.config.settings import DocumentSettings, MaskingSettings
from unmask.data.batches import Batch, TextSource
from unmask.data.preparation import prepare
from unmask.data.tokenizer import load_tokenizer
from unmask.data.training_stream import Cursor
from unmask.errors import Interrupted
from unmask.evaluation.heldout import evaluate_batches
from unmask.model import attention
from unmask.model.head import PaddedLinear
from unmask.model.load import load_for_inference
from unmask.model.masked_lm import MaskedLM
from unmask.objectives.cross_entropy import fused_kernel, masked_cross_entropy
from unmask.progress import Progress
from unmask.run.train import train
from unmask.training import loop as loop_module
from unmask.training.loop import Loop
from unmask.training.loss import step_gradients
from unmask.training.parallel import GradientSum
from unmask.training.position import Length

DEVICE = os.environ.get("UNMASK_TEST_DEVICE", "cuda")
ON_CPU = DEVICE == "cpu"
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no CUDA device"),
]

Load = Callable[..., MaskedLM]
LoopMaker = Callable[..., Loop]
PACKED = ("bert", "roberta", "distilbert", "electra", "albert", "modernbert", "eurobert")
PADDED = ("mobilebert", "mpnet", "deberta-v2")
LENGTHS = [60, 60, 23, 23, 9, 2]  # the windows of the tiny ModernBERT are 16 wide
BF16 = 0.06
"""Relative distance of vectors over all logits or weights; bf16 has 8 bits, and rounds in every layer."""


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[tuple[int, ...]]:
    """The shapes of the queries that the variable-length kernel is given."""
    calls: list[tuple[int, ...]] = []
    compute = request.getfixturevalue("kernel") if ON_CPU else varlen.varlen_attn

    def watch(query: torch.Tensor, *args: Any, **named: Any) -> Any:
        calls.append(tuple(query.shape))
        return compute(query, *args, **named)

    monkeypatch.setattr(varlen, "varlen_attn", watch)
    if ON_CPU:
        monkeypatch.setattr(attention, "fits_kernel", lambda query: query.dtype == torch.bfloat16)
    return calls


@pytest.fixture
def on_device(checkpoint: Callable[[str], Path]) -> Load:
    """Return `load(architecture, **arguments)`: a tiny model on the device."""
    return lambda architecture, **named: load_for_inference(
        str(checkpoint(architecture)), device=DEVICE, offline=True, **named
    )


@pytest.fixture(scope="module")
def make_texts(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path]
) -> Callable[..., Any]:
    """Return `make(architecture="bert")`: some thousand documents of up to fifty words, tokenised for it."""
    made: dict[str, Any] = {}

    def make(architecture: str = "bert") -> Any:
        if architecture not in made:
            folder = tmp_path_factory.mktemp(architecture)
            words = "river boat letter winter telescope engineer unripe dictionary mountains".split()
            lines = [" ".join(np.random.default_rng(n).choice(words, 3 + n % 47)) for n in range(3000)]
            (folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")
            tokenizer = load_tokenizer(str(checkpoint(architecture)))
            settings = DocumentSettings(documents="line")
            made[architecture] = prepare([folder / "text.txt"], settings, tokenizer, folder / "shards")
        return made[architecture]

    return make


@pytest.fixture
def make_loop(
    make_texts: Callable[..., Any], loop_of: LoopMaker, monkeypatch: pytest.MonkeyPatch
) -> LoopMaker:
    """Return `make(model, steps, **fields) -> Loop`: rows go to `loop.rows`; figures are read late, as on a GPU."""
    if ON_CPU:
        monkeypatch.setattr(Loop, "_reads_at_once", False)

    def make(
        model: MaskedLM, steps: int, optimizer: str = "adamw", batch_tokens: int = 1024, **more: Any
    ) -> Loop:
        texts = make_texts(model.model.config.model_type)
        fields = {"length": Length(steps=steps), "micro_batch_tokens": 512, "log_every": 1} | more
        return loop_of(model, texts, batch_tokens, optimizer, **fields)

    return make


def plans(loop: Loop, count: int) -> Iterator[Any]:
    cursor = Cursor()
    for step in range(count):
        plan = loop.plan(cursor, step)
        assert plan is not None
        cursor = plan.following
        yield plan


def weights(model: MaskedLM) -> torch.Tensor:
    return torch.cat([weight.detach().reshape(-1).cpu() for weight in model.model.parameters()])


def gradient(model: MaskedLM, batches: list[Batch]) -> tuple[float, torch.Tensor]:
    """The loss of a step and its gradient, one vector on the CPU."""
    model.model.zero_grad(set_to_none=True)
    loss, _ = step_gradients(GradientSum(model), batches, [sum(len(batch.target_ids) for batch in batches)])
    found = [w.grad if w.grad is not None else torch.zeros_like(w) for w in model.model.parameters()]
    return float(loss), torch.cat([part.reshape(-1).float().cpu() for part in found])


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    found, wanted = found.detach().double().cpu(), wanted.detach().double().cpu()
    return float((found - wanted).norm() / wanted.norm())


def alone(batch: Batch) -> list[Batch]:
    """Each sequence of a batch in a batch of its own."""
    parts = []
    for begin, end in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
        here = (batch.target_index >= begin) & (batch.target_index < end)
        ends = np.array([0, end - begin], dtype=np.int32)
        index, ids = batch.target_index[here] - begin, batch.target_ids[here]
        row = (batch.input_ids[begin:end], batch.position_ids[begin:end], ends)
        if len(ids):
            parts.append(Batch(*row, index, ids, np.arange(1)))
    return parts


# --- what is computed ---------------------------------------------------------------------------------------------


def compare(model: MaskedLM, reference: MaskedLM, batch: Batch, most: float) -> None:
    """Compare logits and gradient with those of each sequence alone on the CPU in fp32."""
    parts = alone(batch)
    with torch.no_grad():
        wanted = torch.cat([reference.target_logits(part) for part in parts])
        assert distance(model.target_logits(batch), wanted) < most
    found, slopes = gradient(model, [batch])
    loss, wanted_slopes = gradient(reference, parts)
    assert found == pytest.approx(loss, rel=most)
    assert distance(slopes, wanted_slopes) < most


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("architecture", PACKED)
def test_packed_batches_give_what_each_sequence_gives_alone_in_fp32(
    load: Load,
    on_device: Load,
    make_batch: Any,
    kernel_calls: list[tuple[int, ...]],
    architecture: str,
    precision: str,
) -> None:
    model, reference = on_device(architecture, precision=precision), load(architecture)
    assert (model.packed, model.precision_name, model.device.type) == (True, precision, DEVICE)
    kernel_calls.clear()
    compare(
        model, reference, make_batch(model.vocabulary, LENGTHS), most=BF16 if precision == "bf16" else 1e-3
    )
    assert bool(kernel_calls) is (precision == "bf16")


@pytest.mark.parametrize("architecture", PADDED)
def test_padded_batches_give_what_each_sequence_gives_alone_in_fp32(
    load: Load, on_device: Load, make_batch: Any, architecture: str
) -> None:
    model, reference = on_device(architecture, precision="bf16"), load(architecture)
    assert model.batching != "packed"
    compare(model, reference, make_batch(model.vocabulary, LENGTHS), most=2 * BF16)


def test_heads_of_26_features(
    tiny_model: Any, wordpiece_tokenizer: Any, make_batch: Any, kernel_calls: list[tuple[int, ...]]
) -> None:
    """312 features in 12 heads, as in some small models; the kernel takes multiples of eight."""
    shape = {"hidden_size": 312, "num_attention_heads": 12}
    models = []
    for device, precision in ((DEVICE, "bf16"), ("cpu", "fp32")):
        made = tiny_model("bert", len(wordpiece_tokenizer), **shape, initializer_range=0.03).to(device)
        models.append(load_for_inference(made, wordpiece_tokenizer, device=device, precision=precision))
    kernel_calls.clear()
    compare(*models, make_batch(models[0].vocabulary, LENGTHS), most=BF16)
    assert {size for _, _, size in kernel_calls} == {32}


def test_a_row_of_many_sequences(
    load: Load, on_device: Load, make_batch: Any, kernel_calls: list[tuple[int, ...]]
) -> None:
    """More sequences and tokens than a block of the kernel has."""
    model, reference = on_device("bert", precision="bf16"), load("bert")
    lengths = np.random.default_rng(0).integers(1, 128, 10 if ON_CPU else 300).tolist()
    compare(model, reference, make_batch(model.vocabulary, lengths), most=BF16)
    assert kernel_calls


# --- a run --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_loss_falls_as_it_does_on_a_cpu(
    load: Load, on_device: Load, make_loop: LoopMaker, optimizer: str
) -> None:
    curves = []
    for model in (on_device("bert"), load("bert")):
        loop = make_loop(model, 20, optimizer)
        loop.run()
        curves.append([row["loss"] for row in loop.rows])  # type: ignore[attr-defined]
    assert curves[0] == pytest.approx(curves[1], rel=1e-3 if optimizer == "adamw" else 5e-3)  # Muon is bf16
    assert curves[0][-1] < 0.9 * curves[0][0]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_a_step_waits_for_nothing(
    on_device: Load,
    make_loop: LoopMaker,
    kernel_calls: list[tuple[int, ...]],
    architecture: str,
    optimizer: str,
) -> None:
    """CUDA itself says so, from the first copy to the device to the update of the weights."""
    model = on_device(architecture, precision="bf16")
    loop = make_loop(model, 9, optimizer)
    first, second, *rest = plans(loop, 4)
    for plan in (first, second):  # state is made, and libraries are loaded
        loop._count(plan, loop.step(plan), 0.0)
    loop.settle()
    with waits_are_errors():
        for plan in rest:
            loop._count(plan, loop.step(plan), 0.0)
    loop.settle()
    assert kernel_calls
    assert loop.position.window["steps"] == 4


@contextlib.contextmanager
def waits_are_errors() -> Iterator[None]:
    if ON_CPU:
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(ON_CPU, reason="on a CPU nothing waits")
def test_what_waits_is_found(on_device: Load) -> None:
    """The test above can fail."""
    weight = next(on_device("bert").model.parameters())
    with waits_are_errors(), pytest.raises(RuntimeError, match="synchroniz"):
        float(weight.detach().sum())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_spoiled_gradient_moves_no_weight(on_device: Load, make_loop: LoopMaker, optimizer: str) -> None:
    """Which is found out when the next step has been computed."""
    at = [torch.empty(0)]

    def spoil(number: int) -> None:
        if number == 1:
            gradients = (weight.grad for weight in loop.model.model.parameters())
            next(gradient for gradient in gradients if gradient is not None).fill_(float("inf"))

    loop = make_loop(
        on_device("bert"), 4, optimizer, after_step=lambda loop: at.append(weights(loop.model).clone())
    )
    loop.staged_start.mask = spoil  # type: ignore[method-assign]
    loop.run()
    assert torch.equal(at[1], at[2])
    assert not torch.equal(at[2], at[3])
    assert bool(at[4].isfinite().all())
    assert [row["step"] for row in loop.rows if "skipped" in row] == [2]  # type: ignore[attr-defined]


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_compiled_layers_train_as_others_do(
    on_device: Load, make_loop: LoopMaker, kernel_calls: list[tuple[int, ...]], architecture: str
) -> None:
    losses = []
    for compiled in (False, True):
        torch._dynamo.reset()
        model = on_device(architecture, precision="bf16")
        if compiled:
            model.compile_layers("aot_eager" if ON_CPU else "inductor")
        loop = make_loop(model, 8)
        loop.run()
        losses.append([row["loss"] for row in loop.rows])  # type: ignore[attr-defined]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    torch._dynamo.reset()


# --- memory -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def little_memory(loop: Loop, plan: Any, most: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave so much memory that micro-batches of ``most`` tokens fit, and those of twice as many do not."""
    if ON_CPU:
        whole = loop_module.step_gradients

        def compute(summed: GradientSum, batches: list[Batch], counts: Any) -> Any:
            if max(batch.tokens for batch in batches) > 1.5 * most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return whole(summed, batches, counts)

        monkeypatch.setattr(loop_module, "step_gradients", compute)
        yield
        return
    peaks = []
    for tokens in (most, 2 * most):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        batches = loop._split(plan.cursor, plan.sequences, 0.3, tokens, plan.objective)
        step_gradients(loop.gradient_sum, batches, plan.counts)
        loop.model.model.zero_grad(set_to_none=True)
        peaks.append(torch.cuda.max_memory_reserved())
    assert peaks[1] > 1.2 * peaks[0]
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((peaks[0] + peaks[1]) / 2 / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_out_of_memory_halves_the_micro_batch(
    on_device: Load, make_loop: LoopMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is really short, and the losses are those of a run that has enough."""
    few = 1024 if ON_CPU else 16_384
    plain = make_loop(on_device("bert"), 2, batch_tokens=4 * few, micro_batch_tokens=few)
    plain.run()
    told: list[str] = []
    loop = make_loop(on_device("bert"), 2, batch_tokens=4 * few, micro_batch_tokens=4 * few, log=told.append)
    (plan,) = plans(loop, 1)
    with little_memory(loop, plan, few, monkeypatch):
        loop.run()
    assert loop.micro_batch_tokens <= 2 * few
    assert told[0].startswith(f"step 1: out of memory; computing {2 * few:,} tokens at once from here on")
    losses = [[row["loss"] for row in one.rows] for one in (loop, plain)]  # type: ignore[attr-defined]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# --- from the command to the files ----------------------------------------------------------------------------------


class Stop(Progress):
    """Ends a run as a scheduler would, after its third step."""

    def advance(self, share: float | None, figures: Any) -> None:
        if figures.get("step") == 3:
            raise Interrupted("the test ends it")


def test_a_resumed_run_is_the_undisturbed_one(
    checkpoint: Callable[[str], Path], tmp_path: Path, make_texts: Callable[..., Any]
) -> None:
    """To the last bit on a CPU; on a GPU, whose sums come in any order, as near as a run is to itself."""
    flags = {
        "data.inputs": [str(make_texts().folder)],
        "model.name": str(checkpoint("bert")),
        "model.offline": True,
        "train.device": DEVICE,
        "train.precision": "fp32",
        "train.max_steps": 6,
        "train.batch_tokens": 512,
        "train.save_every": 1,
    }
    config = load_config(None, flags=flags)
    for name in ("whole", "again"):
        train(config, tmp_path / name)
    with contextlib.suppress(Interrupted):
        train(config, tmp_path / "part", progress=Stop())
    train(config, tmp_path / "part", resume="auto")
    files = [
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "again", "part")
    ]
    whole, again, part = (torch.cat([tensor.reshape(-1) for tensor in file.values()]) for file in files)
    assert distance(part, whole) <= 4 * distance(again, whole) + 1e-6 * (not ON_CPU)


def test_evaluation_scores_and_fills_agree_with_the_cpu(
    checkpoint: Callable[[str], Path], make_texts: Callable[..., Any]
) -> None:
    found, texts = [], make_texts()
    asked = ["the river", "an unripe letter boat engineer", "mountains"]
    for device in (DEVICE, "cpu"):
        model = unmask.load(checkpoint("bert"), device=device, offline=True)
        lm = model.lm
        assert isinstance(lm, MaskedLM)
        source = TextSource(texts, np.arange(100), lm.vocabulary, MaskingSettings(), 64)
        loss = evaluate_batches(lm, source.evaluation_batches(1024)).loss
        scores = [score.pll for score in model.score(asked)]
        filled = model.fill("the [MASK] of an engineer", top_k=3)
        found.append((loss, scores, [candidate.text for candidate in filled.candidates]))
    (loss, scores, filled), (cpu_loss, cpu_scores, cpu_filled) = found
    assert loss == pytest.approx(cpu_loss, rel=1e-4)
    assert scores == pytest.approx(cpu_scores, rel=1e-4)
    assert filled == cpu_filled


# --- the loss -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("rows", "entries"), [(1, 3), (70, 1000), (300, 30_522), (33, 250_002)])
@pytest.mark.parametrize(("within", "factor"), [(False, 1.0), (True, 3.0)])
def test_the_loss_is_that_of_a_cpu(
    rows: int, entries: int, dtype: torch.dtype, within: bool, factor: float
) -> None:
    """Also where a row is a part of a wider one, where rows have no label, and where the loss is scaled."""
    draw = torch.Generator().manual_seed(rows)
    wide = (3 * torch.randn(rows + 5, entries + 6, generator=draw)).to(dtype)
    wide[:, :2] = wide[:, :1]  # the first of the highest counts
    labels = torch.randint(entries, (rows,), generator=draw)
    labels[::2] = wide[:rows:2, :entries].argmax(-1)
    found = []
    for device in (DEVICE, "cpu"):
        held = wide.clone().to(device) if within else wide[:, :entries].contiguous().to(device)
        held.requires_grad_()
        loss, hits = masked_cross_entropy(held[:, :entries], labels.to(device), 2 * rows)
        (factor * loss).backward()
        assert held.grad is not None
        found.append((float(loss.detach()), int(hits), held.grad.float().cpu()))
    (loss, hits, slopes), (cpu_loss, cpu_hits, cpu_slopes) = found
    assert loss == pytest.approx(cpu_loss, rel=1e-5)
    assert hits == cpu_hits
    assert not slopes[rows:].any()
    assert distance(slopes, cpu_slopes) < (5e-3 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.skipif(ON_CPU, reason="Triton computes on a GPU")
def test_the_loss_is_one_kernel() -> None:
    pytest.importorskip("triton")
    assert fused_kernel() is not None


def test_heads_of_a_vocabulary_of_any_size(
    tiny_model: Any, wordpiece_tokenizer: Any, make_batch: Any
) -> None:
    """Products of round sizes are fast, so the output layer has more rows while it computes."""
    models = []
    for device, precision in ((DEVICE, "bf16"), ("cpu", "fp32")):
        made = tiny_model("bert", len(wordpiece_tokenizer) + 1).to(device)
        models.append(load_for_inference(made, wordpiece_tokenizer, device=device, precision=precision))
    assert ON_CPU or isinstance(models[0].model.get_output_embeddings(), PaddedLinear)
    compare(*models, make_batch(models[0].vocabulary, LENGTHS), most=BF16)
