"""The part ``throughput`` of ``gpu.py``: training steps of unmask and of ``run_mlm``, and matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from gpu_inputs import Result, Step, peak, release


def throughput(sizes: Result, name: str, length: int) -> Iterator[Step]:
    """Measure both sides in turns, at one model and length; the sides that have to be compiled come last."""
    length //= sizes["scale"]
    yield "ceiling", lambda: _ceiling(sizes)
    yield "ours", lambda: ours_speed(sizes, name, length, False)
    yield "peer blocks", lambda: peer_speed(sizes, name, length)
    yield "peer padded", lambda: peer_speed(sizes, name, length, padded=True)
    yield "peer blocks, no dropout", lambda: peer_speed(sizes, name, length, dropout=0.0)
    if sizes["device"] == "cuda" and sizes["compile"]:  # unmask compiles nothing on a CPU
        yield "ours, compiled", lambda: ours_speed(sizes, name, length, True)
    if sizes["compile"] and (length == 512 or sizes["device"] == "cpu"):
        yield "peer blocks, compiled", lambda: peer_speed(sizes, name, length, compiled=True)
    yield "ceiling, once more", lambda: _ceiling(sizes)


def _ceiling(sizes: Result) -> Result:
    import torch

    from unmask.benchmark.flops import matmul_rate

    found = matmul_rate(sizes["precision"], torch.device(sizes["device"]), sizes["seconds"] / 8)
    return {"teraflops": found.teraflops, "shape": found.shape, "shown": f"{found.teraflops:.1f} TFLOP/s"}


def ours_speed(sizes: Result, name: str, length: int, compiled: bool) -> Result:
    """Train with unmask as its users do."""
    from ours import speed

    place = Path(sizes["place"])
    found = speed(
        str(place / name), str(place / "shards"), length, sizes["step_tokens"], sizes["precision"], sizes["seconds"],
        sizes["warm_up"] * (3 if compiled else 1), device=sizes["device"], least=sizes["least"], compiled=compiled,
    )  # fmt: skip
    return found | {"shown": f"{found['tokens_per_second']:,.0f} tokens/s"}


# ---------------------------------------------------------------- run_mlm


def peer_speed(
    sizes: Result,
    name: str,
    length: int,
    *,
    padded: bool = False,
    compiled: bool = False,
    dropout: float | None = None,
) -> Result:
    """Train as ``run_mlm`` does, at its best, with what ``Trainer`` does in a step and nothing of its overhead.

    ``Trainer`` itself needs packages that may be absent. Where a step does not fit, it is computed in more parts.
    """
    import torch

    parts = 1
    while True:
        try:
            found = _peer(sizes, name, length, padded, compiled, dropout, parts)
            return found | {"parts": parts, "shown": f"{found['tokens_per_second']:,.0f} tokens/s"}
        except torch.OutOfMemoryError:
            if parts == 16:
                raise
        parts *= 2
        release()


def _peer(
    sizes: Result, name: str, length: int, padded: bool, compiled: bool, dropout: float | None, parts: int
) -> Result:
    import torch

    from unmask.benchmark.flops import settle
    from unmask.benchmark.stopwatch import Stopwatch

    device = torch.device(sizes["device"])
    model = _peer_model(sizes, name, dropout).to(device)
    # At its best the norm is taken of all gradients at once, and the update is fused, which is the default of Trainer.
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1.0 - step / 10_000))
    called = torch.compile(model, backend=sizes["compiler"]) if compiled else model
    watch = Stopwatch(
        sizes["seconds"], warm_up=sizes["warm_up"], least=sizes["least"], settle=lambda: settle(device)
    )
    batches = _peer_batches(sizes, name, length, padded, sizes["step_tokens"] // length // parts)
    tokens = 0
    for number in count(1):
        batch = next(batches)
        tokens += int(batch["attention_mask"].sum())
        moved = {key: tensor.to(device, non_blocking=True) for key, tensor in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=sizes["precision"] == "bf16"):
            loss = called(**moved).loss / parts
        loss.backward()
        if number % parts:
            continue
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if watch.tick(tokens):
            break
        tokens = 0
    batches.close()
    return {
        "tokens_per_second": watch.tokens_per_second,
        "seconds_per_step": watch.seconds_per_step,
        "steps": len(watch.step_seconds),
        "peak_device_bytes": peak(sizes["device"]),
    }


def _peer_model(sizes: Result, name: str, dropout: float | None) -> Any:
    from transformers import AutoConfig, AutoModelForMaskedLM

    folder = Path(sizes["place"]) / name
    config = AutoConfig.from_pretrained(folder)
    if dropout is not None:
        for key in [key for key in config.to_dict() if key.endswith(("dropout", "dropout_prob"))]:
            if getattr(config, key) is not None:
                setattr(config, key, dropout)
    model = AutoModelForMaskedLM.from_pretrained(folder, config=config, attn_implementation="sdpa")
    return model.train()


def _peer_batches(sizes: Result, name: str, length: int, padded: bool, rows: int) -> Iterator[Any]:
    """Yield batches without end: joined text in blocks, or documents cut off and padded to the longest of the batch.

    Workers put them together; the special tokens mask is there, so that the collator need not compute it.
    """
    import torch
    from transformers import AutoTokenizer, DataCollatorForLanguageModeling

    from unmask.data.corpus import open_corpus

    tokenizer = AutoTokenizer.from_pretrained(Path(sizes["place"]) / name)
    corpus = open_corpus(Path(sizes["place"]) / "shards", verify=False)
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    documents = ([first, *corpus.document(number).tolist(), last] for number in range(len(corpus)))
    if padded:
        examples = [[*ids[: length - 1], last] if len(ids) > length else ids for ids in documents]
    else:
        joined = [token for ids in documents for token in ids]
        whole = len(joined) // length * length
        examples = [joined[begin : begin + length] for begin in range(0, whole, length)]
    data = [{"input_ids": ids, "special_tokens_mask": [int(i in (first, last)) for i in ids]} for ids in examples]  # fmt: skip
    on_gpu = sizes["device"] == "cuda"
    loader: Any = torch.utils.data.DataLoader(
        data,  # type: ignore[arg-type]
        batch_size=min(rows, len(data)),
        shuffle=True,
        drop_last=True,
        collate_fn=DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm_probability=0.15),
        num_workers=8 if on_gpu else 0,
        pin_memory=on_gpu,
        persistent_workers=on_gpu,
    )
    while True:
        yield from loader
