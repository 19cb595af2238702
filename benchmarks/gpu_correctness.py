"""The part ``correctness`` of ``gpu.py``: the promises on the device, packed rows in bf16, and the loss beside the CPU's."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from gpu_inputs import Result, Step, tokenizer

COMMON = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 160,
    "initializer_range": 0.1,  # wide, so that in so small a model attention shows
}
# The first six are packed; one window is shorter than the documents, one shares heads, one has 26 features a head.
ARCHITECTURES: dict[str, Result] = {
    "bert": COMMON | {"hidden_size": 104},
    "roberta": COMMON | {"pad_token_id": 0},
    "distilbert": {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "max_position_embeddings": 160},
    "electra": COMMON | {"embedding_size": 32},
    "modernbert": COMMON
    | {"layer_types": ["full_attention", "sliding_attention"], "local_attention": 16}
    | {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
    "eurobert": COMMON
    | {"num_key_value_heads": 2, "mask_token_id": 4, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
    "mobilebert": COMMON | {"embedding_size": 32, "intra_bottleneck_size": 32, "num_feedforward_networks": 1},
    "mpnet": COMMON | {"pad_token_id": 0},
}


def correctness(sizes: Result) -> Iterator[Step]:
    for name in ARCHITECTURES:
        yield f"bf16 {name}", partial(_in_bf16, sizes, name)
    for name in ("bert", "modernbert"):
        yield f"loss curve {name}", partial(_curves, sizes, name)
    for name in list(ARCHITECTURES)[: None if sizes["device"] == "cuda" else 1]:
        yield f"promises {name}", partial(_promises, sizes, name)


def _made(sizes: Result, name: str, device: str, precision: str = "fp32") -> Any:
    """Return a tiny model, the same on every device."""
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM

    from unmask.model.load import load_for_inference

    entries = tokenizer(sizes)
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, vocab_size=len(entries), **ARCHITECTURES[name])
    model = AutoModelForMaskedLM.from_config(config).eval().to(device)
    return load_for_inference(model, entries, device=device, precision=precision)


def _promises(sizes: Result, name: str) -> Result:
    from unmask.promises.checks import conformance

    checks = conformance(_made(sizes, name, sizes["device"]), processes=False)
    failed = {check.name: check.to_dict() for check in checks if not check.passed}
    measured = {check.name: check.measured for check in checks}
    shown = f"{len(checks) - len(failed)} of {len(checks)} hold" + "".join(
        f"; not: {name}" for name in failed
    )
    return {"measured": measured, "failed": failed, "shown": shown}


def _in_bf16(sizes: Result, name: str) -> Result:
    """Compare logits and gradient of a batch in bf16, packed where it can be and padded, with fp32 on the CPU."""
    import numpy as np
    import torch

    from unmask.data.batches import Batch
    from unmask.training.loss import step_gradients
    from unmask.training.parallel import GradientSum

    def batch_of(vocabulary: Any) -> Batch:
        draw = np.random.default_rng(0)
        lengths = np.sort(draw.integers(2, 120, 40))[::-1]
        cuts = np.concatenate([[0], np.cumsum(lengths)])
        ids = draw.choice(vocabulary.replacements, cuts[-1]).astype(np.int64)
        index = np.flatnonzero(draw.random(len(ids)) < 0.3)
        targets, ids[index] = ids[index], vocabulary.mask_id
        places = np.concatenate([np.arange(length) for length in lengths])
        return Batch(ids, places, cuts.astype(np.int32), index, targets, np.arange(len(lengths)))

    def step(model: Any) -> tuple[Any, Any]:
        batch = batch_of(model.vocabulary)
        model.model.zero_grad(set_to_none=True)
        step_gradients(GradientSum(model), [batch], [len(batch.target_ids)])
        grads = [w.grad for w in model.model.parameters() if w.grad is not None]
        with torch.no_grad():
            logits = model.target_logits(batch)
        return logits.float().cpu(), torch.cat([grad.reshape(-1).float().cpu() for grad in grads])

    wanted = step(_made(sizes, name, "cpu"))
    model = _made(sizes, name, sizes["device"], "bf16")
    ways = {model.batching: step(model)}
    if model.packed:
        model.find_batching(("padded",))
        ways["padded"] = step(model)
    apart = {
        way: [float((one - other).norm() / other.norm()) for one, other in zip(found, wanted, strict=True)]
        for way, found in ways.items()
    }
    shown = "; ".join(f"{way}: logits {a:.2%}, gradient {b:.2%} off" for way, (a, b) in apart.items())
    return {"relative_distance_of_logits_and_gradient": apart, "shown": shown}


def _curves(sizes: Result, name: str) -> Result:
    """Train some steps in fp32 on the CPU, and on the device in fp32 and bf16."""
    from ours import ready_loop

    place = Path(sizes["place"])
    source = place / f"small-{name}"
    if not source.is_dir():
        made = _made(sizes, name, "cpu")
        with made.plain() as raw:
            raw.save_pretrained(source)
        tokenizer(sizes).save_pretrained(source)
    curves = {}
    for device, precision in (("cpu", "fp32"), (sizes["device"], "fp32"), (sizes["device"], "bf16")):
        rows: list[Result] = []
        ends = {
            "train.max_steps": sizes["steps"],
            "train.log_every": 1,
            "train.optimizer.learning_rate": 1e-3,
        }
        with tempfile.TemporaryDirectory(prefix="unmask-benchmark-") as folder:
            loop = ready_loop(
                folder, str(source), str(place / "shards"), 128, 2048, precision, device, **ends
            )
            loop.on_row = rows.append
            loop.run()
        curves[f"{device} {precision}"] = [row["loss"] for row in rows]
    wanted, *others = curves.values()
    most = [max(abs(a - b) / b for a, b in zip(other, wanted, strict=True)) for other in others]
    shown = f"from {wanted[0]:.3f} to {wanted[-1]:.3f}; fp32 {most[-2]:.1e} off at most, bf16 {most[-1]:.1e}" if len(most) > 1 else f"bf16 {most[-1]:.1e} off"  # fmt: skip
    return {"curves": curves, "greatest_relative_difference": most, "shown": shown}
