"""The ``run_mlm`` side: masked language modelling as the example script of transformers does it.

``datasets`` reads text line by line. Lines are tokenised with special tokens and either joined and split into blocks of
one length (the script's default), or kept, truncated and padded (its ``--line_by_line``). ``Trainer`` trains with the
default collator; everything else has the defaults of ``TrainingArguments``. Of unmask only the stopwatch is imported,
which is plain Python.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from itertools import chain
from pathlib import Path
from typing import Any

from unmask.benchmark.stopwatch import Stopwatch

Result = dict[str, Any]

BEST: Result = {"bf16": True, "remove_unused_columns": False}
"""bf16, and the special tokens mask kept for the collator; by default it is dropped and computed again in Python."""
VARIANTS: dict[str, Result] = {
    "sdpa": BEST | {"attention": "sdpa"},
    "eager": BEST | {"attention": "eager"},
    "sdpa, one worker": BEST | {"attention": "sdpa", "dataloader_num_workers": 1},
    "eager, one worker": BEST | {"attention": "eager", "dataloader_num_workers": 1},
}
"""The fastest of these on a CPU is found by trial, because it depends on model and machine."""
CUDA_VARIANTS: dict[str, Result] = {
    f"{attention}{', compiled' if compiled else ''}": BEST
    | {"attention": attention, "torch_compile": compiled, "dataloader_num_workers": 4}
    for attention in ("sdpa", "eager")
    for compiled in (False, True)
}
"""The same on a GPU."""


# ---------------------------------------------------------------- text


def blocks(out: str, start: str, files: list[str], length: int, processes: int | None = None) -> Result:
    """Make and save the data set of joined text in blocks."""
    made = _blocks(start, files, length, processes, None)
    made.save_to_disk(out)
    return {"rows": len(made)}


def lines(out: str, start: str, files: list[str], length: int) -> Result:
    """Make and save the data set of single lines, truncated to ``length``; the collator pads them to the longest."""
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(start)

    def tokenise(rows: Result) -> Result:
        full = [line for line in rows["text"] if line and not line.isspace()]
        return tokenizer(full, truncation=True, max_length=length, return_special_tokens_mask=True)

    raw = load_dataset("text", data_files={"train": files})["train"]
    made = raw.map(tokenise, batched=True, remove_columns=["text"])
    made.save_to_disk(out)
    return {"rows": len(made)}


def count(data: str) -> Result:
    """Return rows and tokens of a data set."""
    from datasets import load_from_disk

    rows = load_from_disk(data)["input_ids"]
    return {"rows": len(rows), "tokens": sum(len(row) for row in rows)}


def prepare_speed(start: str, files: list[str], length: int, processes: int | None) -> Result:
    """Time what ``run_mlm`` does before training, without imports: read, tokenise, join and split."""
    with tempfile.TemporaryDirectory(prefix="peer-benchmark-") as place:
        begin = time.perf_counter()
        made = _blocks(start, files, length, processes, place)
        seconds = time.perf_counter() - begin
        tokens = len(made) * length
    read = sum(Path(path).stat().st_size for path in files)
    return {"seconds": seconds, "tokens": tokens, "megabytes_per_second": read / 1e6 / seconds,
            "tokens_per_second": tokens / seconds}  # fmt: skip


def _blocks(start: str, files: list[str], length: int, processes: int | None, cache: str | None) -> Any:
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(start)

    def tokenise(rows: Result) -> Result:
        return tokenizer(rows["text"], return_special_tokens_mask=True)

    def join_and_split(rows: Result) -> Result:
        joined = {key: list(chain(*values)) for key, values in rows.items()}
        whole = len(joined["input_ids"]) // length * length
        return {
            key: [values[begin : begin + length] for begin in range(0, whole, length)]
            for key, values in joined.items()
        }

    raw = load_dataset("text", data_files={"train": files}, cache_dir=cache)["train"]
    tokenised = raw.map(tokenise, batched=True, num_proc=processes, remove_columns=["text"])
    return tokenised.map(join_and_split, batched=True, num_proc=processes)


# ---------------------------------------------------------------- training


def speed(
    start: str,
    data: str,
    rows: int,
    settings: Result,
    seconds: float,
    warm_up: int,
    dropout: float | None = None,
    device: str = "cpu",
    least: int = 5,
) -> Result:
    """Train for some seconds and return real tokens per second, with everything a step of ``Trainer`` does."""
    import torch

    settle = torch.cuda.synchronize if device == "cuda" else lambda: None
    watch = Stopwatch(seconds, warm_up=warm_up, least=least, settle=settle)
    with tempfile.TemporaryDirectory(prefix="peer-benchmark-") as place:
        trainer = _trainer(place, start, data, rows, settings, dropout, device)
        trainer.add_callback(_timing(watch, trainer))
        trainer.train()
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return {
        "tokens_per_second": watch.tokens_per_second,
        "seconds_per_step": watch.seconds_per_step,
        "step_seconds": watch.step_seconds,
        "tokens_per_step": watch.tokens / len(watch.step_seconds),
        "settings": settings,
        "dropout": dropout,
        "peak_device_bytes": peak,
    }


def fastest(
    start: str, data: str, rows: int, variants: dict[str, Result], seconds: float, device: str = "cpu"
) -> Result:
    """Try settings one after another and return the name of the fastest."""
    # Compilation continues for some steps.
    warm_up = 6 if device == "cuda" else 2
    found: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name, settings in variants.items():
        try:
            tried = speed(start, data, rows, settings, seconds, warm_up, device=device, least=2)
            found[name] = tried["tokens_per_step"] / tried["seconds_per_step"]
        except Exception as error:  # a setting that this machine cannot run is skipped
            failed[name] = f"{type(error).__name__}: {error}"
        _release()
    if not found:
        raise RuntimeError(f"none of the settings could be run: {failed}")
    best = max(found, key=lambda name: found[name])
    return {"best": best, "tokens_per_second": found, "failed": failed}


def _release() -> None:
    """Free the memory of the previous trainer, whose reference cycles need the garbage collector."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _trainer(
    place: str,
    start: str,
    data: str,
    rows: int,
    settings: Result,
    dropout: float | None,
    device: str,
    **more: Any,
) -> Any:
    """Build the ``Trainer`` of the example script; it also counts the real tokens of every step."""
    from datasets import load_from_disk
    from transformers import (
        AutoModelForMaskedLM,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    class Counting(Trainer):
        real: list[Any]

        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            mask = inputs.get("attention_mask")
            self.real.append(inputs["input_ids"].numel() if mask is None else mask.sum())
            return super().training_step(model, inputs, *args, **kwargs)

    settings = dict(settings)
    config: Result = {"attn_implementation": settings.pop("attention", None)}
    if dropout is not None:
        config |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    arguments: Result = {
        "output_dir": place,
        "per_device_train_batch_size": rows,
        "max_steps": 10**6,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": device == "cpu",
    }
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(start)
    trainer = Counting(
        model=AutoModelForMaskedLM.from_pretrained(start, **config),
        args=TrainingArguments(**(arguments | settings | more)),
        train_dataset=load_from_disk(data),
        processing_class=tokenizer,
        data_collator=DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm_probability=0.15),
    )
    trainer.real = []
    return trainer


def _timing(watch: Stopwatch, trainer: Any) -> Any:
    from transformers import TrainerCallback

    class Timing(TrainerCallback):
        """Passes the end of every step to a stopwatch; sums up the real tokens after the last."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if watch.tick(0):
                control.should_training_stop = True
                measured = trainer.real[-len(watch.step_seconds) :]
                watch.tokens = sum(int(count) for count in measured)

    return Timing()


# ---------------------------------------------------------------- time to quality


def train_run(
    out: str,
    start: str,
    data: str,
    rows: int,
    settings: Result,
    minutes: float,
    marks: list[float],
    schedule: str,
) -> Result:
    """Train for some minutes and save the model at each mark; the time to save does not count.

    ``Trainer`` has no time limit. The number of steps, which its schedule needs, is estimated from some seconds of
    training before.

    Args:
        out: folder for the saved models.
        start: folder of the starting weights.
        data: folder of the data set of blocks.
        rows: rows per step.
        settings: ``TrainingArguments``, including the learning rate.
        minutes: minutes of training.
        marks: minutes at which to save, ascending; the last one ends the run.
        schedule: ``lr_scheduler_type``.
    """
    shutil.rmtree(out, ignore_errors=True)
    trial = speed(start, data, rows, settings, min(20.0, minutes * 6), warm_up=3)
    steps = max(20, round(minutes * 60 / trial["seconds_per_step"]))
    more = {"max_steps": steps, "warmup_steps": max(1, steps * 6 // 100), "lr_scheduler_type": schedule}
    trainer = _trainer(out, start, data, rows, settings, None, "cpu", **more)
    saving = _saving(trainer, Path(out), minutes, marks)
    trainer.add_callback(saving)
    trainer.train()
    parameters = sum(weight.numel() for weight in trainer.model.parameters())
    return {"models": saving.saved, "steps": trainer.state.global_step, "seconds": saving.trained,
            "planned_steps": steps, "parameters": parameters}  # fmt: skip


def _saving(trainer: Any, out: Path, minutes: float, marks: list[float]) -> Any:
    from transformers import TrainerCallback

    class Saving(TrainerCallback):
        """Measures training time, saves the model at the marks and stops at the end."""

        def __init__(self) -> None:
            self.saved: list[Result] = []
            self.trained = 0.0
            self.clock = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.clock = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.trained += time.perf_counter() - self.clock
            if len(self.saved) < len(marks) and self.trained >= marks[len(self.saved)] * 60:
                self.save()
            control.should_training_stop = self.trained >= minutes * 60
            self.clock = time.perf_counter()

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # The planned steps may end slightly before the time does.
            while len(self.saved) < len(marks):
                self.save()

        def save(self) -> None:
            mark = marks[len(self.saved)]
            folder = out / f"minute-{mark:g}"
            trainer.model.save_pretrained(folder)
            trainer.processing_class.save_pretrained(folder)
            row = {"minutes": mark, "seconds": self.trained, "step": trainer.state.global_step}
            self.saved.append(row | {"model": str(folder)})

    return Saving()
