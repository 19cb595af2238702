"""The parts ``profile`` and ``alone`` of ``gpu.py``: where the time of a step goes, and its ends by themselves."""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from gpu_inputs import Result, Step

PROFILED, TOP = 4, 10
KINDS = {
    "attention": "flash",
    "products": "nvjet|gemm|xmma|cutlass|cublas",
    "compiled": "^triton_",
    "loss": "^_rows|^_scaled|[Ss]oft[Mm]ax",
    "norms": "layer_norm|LayerNorm|GammaBeta",
    "optimizer": "multi_tensor|adam",
    "gelu": "[Gg]elu",
    "sums": "reduce",
    "rows picked": "index|scatter|gather|embedding|Cat",
    "copies": "copy|Mem",
    "elementwise": "elementwise",
}
"""Kinds of kernels and what is in their names; the first that fits."""


def profile(sizes: Result) -> Iterator[Step]:
    for compiled in (False, True) if sizes["device"] == "cuda" and sizes["compile"] else (False,):
        for name in ("bert", "modernbert"):
            yield f"{name}{', compiled' if compiled else ''}", partial(_profile, sizes, name, compiled)


def _profile(sizes: Result, name: str, compiled: bool) -> Result:
    """Profile some steps: milliseconds of kernels, the time in which none ran, what waited for the device."""
    import torch
    from ours import ready_loop
    from torch.profiler import ProfilerActivity, schedule
    from torch.profiler import profile as profiler

    place, on_gpu = Path(sizes["place"]), sizes["device"] == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    warm = sizes["warm_up"]
    with tempfile.TemporaryDirectory(prefix="unmask-benchmark-") as folder:
        loop = ready_loop(
            folder, str(place / name), str(place / "shards"), 512 // sizes["scale"], sizes["step_tokens"],
            sizes["precision"],
            sizes["device"], **{"train.compile": compiled},
        )  # fmt: skip
        plan = schedule(wait=warm, warmup=1, active=PROFILED, repeat=1)
        with profiler(activities=activities, schedule=plan) as found:

            def after_step(loop: Any) -> None:
                found.step()
                loop.ended = loop.position.step >= warm + 1 + PROFILED

            loop.after_step = after_step
            loop.run()
            if on_gpu:
                torch.cuda.synchronize()
    return _figures(found, on_gpu)


def _figures(found: Any, on_gpu: bool) -> Result:
    from torch.autograd import DeviceType

    device = DeviceType.CUDA if on_gpu else DeviceType.CPU
    # Operations and steps have a mark of their own on the device, which covers their kernels.
    events = [
        event
        for event in found.events()
        if event.device_type == device
        and not (on_gpu and re.match(r"ProfilerStep|aten::|Optimizer", event.name))
    ]
    busy, whole = _covered([(event.time_range.start, event.time_range.end) for event in events])
    kinds, names, calls = Counter[str](), Counter[str](), Counter[str]()
    for event in events:
        ms = (event.time_range.end - event.time_range.start) / 1e3 / PROFILED
        kinds[_kind(event.name)] += ms
        names[event.name] += ms
        calls[event.name] += 1
    top = [{"name": name, "calls": calls[name], "ms": ms} for name, ms in names.most_common(TOP)]
    waits = Counter(
        event.name
        for event in found.events()
        if "Synchronize" in event.name or event.name in ("aten::item", "aten::_local_scalar_dense", "aten::nonzero")
    )  # fmt: skip
    idle = 1 - busy / whole if whole else None
    return {
        "steps": PROFILED,
        "whole_ms": whole / 1e3,
        "busy_ms": busy / 1e3,
        "idle_share": idle,
        "waits": dict(waits),
        "ms_by_kind": dict(kinds.most_common()) if on_gpu else {},  # on a CPU one operation holds others
        "top": top,
        "shown": f"{whole / 1e3 / PROFILED:.1f} ms a step, nothing running {idle or 0:.1%} of it, waits {dict(waits)}"
        + "".join(f", {kind} {ms:.1f}" for kind, ms in kinds.most_common() if on_gpu),
    }


def _kind(name: str) -> str:
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), "other")


def _covered(spans: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the length of the union of intervals, and from the first begin to the last end."""
    busy, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        busy += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return busy, (reached - min(begin for begin, _ in spans)) if spans else 0.0


# ---------------------------------------------------------------- the ends of a step alone


def alone(sizes: Result) -> Iterator[Step]:
    for name in ("adamw", "muon"):
        yield f"{name}, with clipping", partial(_update, sizes, name)
    yield "loss", partial(_loss, sizes)


def _update(sizes: Result, name: str) -> Result:
    """Time clipping, and clipping and update, of a BERT with any gradient."""
    import torch

    from unmask.config.settings import OptimizerSettings
    from unmask.model.load import load_for_inference
    from unmask.training.optimizers import clip_gradients, make_optimizers

    model = load_for_inference(str(Path(sizes["place"]) / "bert"), device=sizes["device"], offline=True).model  # type: ignore[attr-defined]
    optimizers = make_optimizers(model, OptimizerSettings(), name, 1e-4)
    weights = list(model.parameters())
    for weight in weights:
        weight.grad = torch.randn_like(weight)

    def clip() -> None:
        clip_gradients(optimizers, weights, 1.0)

    def update() -> None:
        clip()
        for optimizer in optimizers:
            optimizer.step()

    parameters = sum(weight.numel() for weight in weights)
    times = {"clip": _timed(sizes, clip), "clip_and_update": _timed(sizes, update)}
    return times | {"parameters": parameters, "shown": _said(times)}


def _loss(sizes: Result) -> Result:
    """Time loss and gradient over the targets of a step, by unmask and by ``torch.nn.functional.cross_entropy``."""
    import torch

    from unmask.objectives.cross_entropy import masked_cross_entropy

    rows, device = sizes["step_tokens"] * 3 // 10, sizes["device"]
    logits = torch.randn(rows, sizes["vocabulary"], device=device).bfloat16().requires_grad_()
    labels = torch.randint(sizes["vocabulary"], (rows,), device=device)

    def ours() -> None:
        masked_cross_entropy(logits, labels, rows)[0].backward()
        logits.grad = None

    def torchs() -> None:
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        logits.grad = None

    times = {"ours": _timed(sizes, ours), "cross_entropy": _timed(sizes, torchs)}
    return times | {"rows": rows, "vocabulary": sizes["vocabulary"], "shown": _said(times)}


def _timed(sizes: Result, work: Callable[[], None], times: int = 20) -> Result:
    """Return milliseconds of a call, those until it has been queued, and the memory that it needs."""
    import torch

    from unmask.benchmark.flops import settle

    device = torch.device(sizes["device"])
    for _ in range(3):
        work()
    settle(device)
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    for _ in range(times):
        work()
    queued = time.perf_counter() - begin
    settle(device)
    whole = time.perf_counter() - begin
    more = torch.cuda.max_memory_allocated() - before if device.type == "cuda" else None
    return {"ms": 1e3 * whole / times, "queued_ms": 1e3 * queued / times, "more_bytes": more}


def _said(times: Result) -> str:
    return ", ".join(f"{name} {row['ms']:.2f} ms" for name, row in times.items())
