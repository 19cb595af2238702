"""Runs of several processes of this machine, as ``torchrun`` starts them but forked, so that torch is imported once.

``python processes.py SCENARIO FOLDER`` writes what it found to ``FOLDER/found.json``; without arguments it does the
scenarios that it is told on standard input.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.distributed import TCPStore
from transformers import AutoTokenizer, DebertaV2Config, DebertaV2ForMaskedLM
from transformers.utils.logging import disable_progress_bar

from unmask.config.load import dump_config, load_config
from unmask.config.settings import DocumentSettings, RunConfig
from unmask.data.preparation import prepare
from unmask.data.tokenizer import load_tokenizer
from unmask.errors import Interrupted, UnmaskError
from unmask.evaluation import predictions
from unmask.model import presets
from unmask.progress import Progress
from unmask.run import results, writing
from unmask.run.train import train
from unmask.storage import read_json, read_rows
from unmask.training import loop as loop_module
from unmask.training import unshared
from unmask.training.loop import Loop

WORDS = "the river carried a letter before winter came an unripe telescope measured mountains".split()
SAME = 1e-6
"""The largest difference of weights, relative to the largest weight, between runs of other numbers of processes."""

disable_progress_bar()
presets.PRESETS["tiny-bert"] = presets.Preset("bert", 2, 32)


# --- a run ----------------------------------------------------------------------------------------------------------


def make_text(folder: Path, seed: int = 1860, name: str = "text") -> Path:
    """Write 120 documents of 3 to 24 words."""
    draw, path = random.Random(seed), folder / f"{name}.jsonl"
    lines = (" ".join(draw.choices(WORDS, k=draw.randint(3, 24))) for _ in range(120))
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), encoding="utf-8")
    return path


def make_deberta(folder: Path, tokenizer: Path) -> Path:
    """Make a model that cannot take packed rows."""
    torch.manual_seed(0)
    made, out = AutoTokenizer.from_pretrained(tokenizer), folder / "deberta"
    config = DebertaV2Config(vocab_size=len(made), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                             intermediate_size=64, max_position_embeddings=64, hidden_dropout_prob=0.0,
                             attention_probs_dropout_prob=0.0, pad_token_id=made.pad_token_id)  # fmt: skip
    DebertaV2ForMaskedLM(config).save_pretrained(out)
    made.save_pretrained(out)
    return out


def configure(text: Path, **flags: Any) -> RunConfig:
    """Return a run of six steps in fp32 without dropout; `__` stands for a dot."""
    settings = {
        "data.inputs": [str(text)],
        "data.heldout_share": 0.1,
        "data.heldout_minimum": 1,
        "data.max_length": 32,
        "model.preset": None if "model__name" in flags else "tiny-bert",
        "model.dropout": 0.0,
        "train.max_steps": 6,
        "train.batch_tokens": 400,
        "train.micro_batch_tokens": 400,
        "train.precision": "fp32",
        "train.device": "cpu",
        "train.log_every": 1,
        "train.eval_every": 3,
        "train.save_every": 3,
        "train.optimizer.name": "adamw",
        "train.optimizer.learning_rate": 1e-4,
        "train.timeout_minutes": 0.5,
    }
    if "model__name" not in flags:
        settings["model.vocab_size"] = 200
    flags = {key.replace("__", "."): value for key, value in flags.items()}
    return load_config(
        None, flags={key: value for key, value in (settings | flags).items() if value is not None}
    )


class Heard(Progress):
    """Appends what is logged to a file, so that it outlives the process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def log(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def start(rank: int, size: int, port: int, work: Callable[[], Any], log: Path, **environment: str) -> int:
    """Do some work in a new process, one of several; return its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        if size > 1:
            os.environ.update(
                RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(size),
                MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True",
            )  # fmt: skip
        os.environ.update(environment)
        writing.write_report = lambda folder: folder.report  # it takes a second
        work()
        code = 0
    except UnmaskError as error:
        Heard(log).log(f"error: {error}")
        code = error.exit_code
    except BaseException:
        Heard(log).log(traceback.format_exc())
    finally:
        os._exit(code)


def new_store() -> int:
    """Start the store of a launcher, which outlives each of its processes; return its port.

    It has a process of its own, since its threads may hold locks when this one forks.
    """
    launcher, (read, write) = os.getpid(), os.pipe()
    if not os.fork():
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        os.write(write, f"{store.port}\n".encode())
        while os.getppid() == launcher:
            time.sleep(0.2)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        return int(pipe.readline())


def ended(children: list[int], most: float = 120.0) -> list[int]:
    """Wait for processes; return their exit codes, or minus the signals that killed them."""
    codes: dict[int, int] = {}
    until = time.monotonic() + most
    while len(codes) < len(children):
        for child in children:
            if child not in codes:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    codes[child] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            for child in set(children) - set(codes):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                codes[child] = 99  # it hung
        time.sleep(0.05)
    return [codes[child] for child in children]


def together(
    size: int,
    work: Callable[[int], Any],
    folder: Path,
    name: str,
    store: int | None = None,
    hosts: int = 1,
) -> list[int]:
    """Do some work in so many processes; return their exit codes. With a store, the launcher starts them once more."""
    restart, store, here = "0" if store is None else "1", store or new_store(), size // hosts
    children = []
    for rank in range(size):
        local = {"LOCAL_RANK": str(rank % here), "LOCAL_WORLD_SIZE": str(here)} if size > 1 else {}
        log, restarts = folder / f"{name}-{rank}.log", {"TORCHELASTIC_RESTART_COUNT": restart}
        children.append(start(rank, size, store, partial(work, rank), log, **restarts, **local))
    return ended(children)


def said(folder: Path, name: str) -> list[str]:
    """Return what each process of :func:`together` logged."""
    return [path.read_text(encoding="utf-8") for path in sorted(folder.glob(f"{name}-*.log"))]


# --- comparing ------------------------------------------------------------------------------------------------------


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Return the weights of the exported model."""
    return load_file(run / "model" / "model.safetensors")


def difference(one: Path, other: Path) -> dict[str, float]:
    """Return how far two runs differ: the weights relative to the largest one, and the metrics."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    largest = max(float(tensor.abs().max()) for tensor in ours.values())
    gap = max(float((ours[name] - theirs[name]).abs().max()) for name in ours) / largest
    rows = [read_rows(run / "metrics.jsonl") for run in (one, other)]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    assert [row.get("tokens") for row in rows[0]] == [row.get("tokens") for row in rows[1]]
    found = {"weights": gap}
    for key in ("loss", "accuracy", "eval_loss", "eval_accuracy"):
        found[key] = max(abs(a[key] - b[key]) for a, b in zip(*rows, strict=True) if key in a)
    return found


# --- scenarios ------------------------------------------------------------------------------------------------------


def matrix(folder: Path, sizes: tuple[int, ...] = (1, 2), whole: bool = False) -> dict[str, Any]:
    """Train packed and padded, with one and three micro-batches, by DDP and FSDP, and resume with other numbers.

    Args:
        folder: for the runs.
        sizes: numbers of processes, 1 first.
        whole: every combination; otherwise two that have each once.
    """
    text, first, found = make_text(folder), folder / "first", {}
    codes = together(1, lambda _: train(configure(text, train__max_steps=1), first), folder, "first")
    assert codes == [0], said(folder, "first")
    models: dict[str, dict[str, Any]] = {
        "packed": {},
        "padded": {"model__name": str(make_deberta(folder, first / "model"))},
    }
    for layout, parts in [("packed", 3), ("padded", 1), ("packed", 1), ("padded", 3)][: 4 if whole else 2]:
        base = {**models[layout], "train__micro_batch_tokens": 400 // parts}
        runs = [
            (f"{layout}-{parts}-{size}-{kind}", size, configure(text, **base, train__parallel=kind))
            for size in sizes
            for kind in ("ddp", "fsdp")[: 2 if size > 1 else 1]
        ]
        alone = folder / runs[0][0]
        for name, size, config in runs:
            codes = together(size, partial(_run_and_half, folder, name, config), folder, name)
            assert set(codes) == {0}, said(folder, name)
            if name != runs[0][0]:
                found[name] = difference(alone, folder / name)
        # Each is resumed as the next one, the last one as the first: from DDP to FSDP and back.
        for (name, _, _), (other, size, config) in zip(runs, runs[1:] + runs[:1], strict=True):
            key, half = f"{name} resumed as {other}", folder / f"{name}-half"
            codes = together(size, lambda _, c=config, h=half: train(c, h, resume="auto"), folder, key)
            assert set(codes) == {0}, said(folder, key)
            found[key] = difference(alone, half)
    return found


def fsdp(folder: Path) -> dict[str, Any]:
    """Resume one process by FSDP with weights in the memory of the host, and FSDP with adapters and with a sentence head by one."""
    text = make_text(folder)
    shared = {"train__parallel": "fsdp", "train__offload": True}
    alone, half = folder / "alone", folder / "alone-half"
    adapters = {"model__name": str(alone / "model"), "model__preset": None, "train__lora_rank": 2}
    lora, lora_half = folder / "lora", folder / "fsdp-half"

    def done(size: int, name: str, work: Callable[[int], Any]) -> None:
        assert set(together(size, work, folder, name)) == {0}, said(folder, name)

    pairs = partial(configure, text, train__objective="nsp", model__preset="tiny-bert")
    done(1, "pairs alone", lambda _: train(pairs(), folder / "pairs"))
    done(2, "pairs", partial(_run_and_half, folder, "pairs-shared", pairs(train__parallel="fsdp")))
    done(1, "resumed pairs", lambda _: train(pairs(), folder / "pairs-shared-half", resume="auto"))
    done(1, "alone", partial(_run_and_half, folder, "alone", configure(text)))
    done(2, "resumed", lambda _: train(configure(text, **shared), half, resume="auto"))
    done(1, "lora", lambda _: train(configure(text, **adapters), lora))
    done(2, "fsdp", partial(_run_and_half, folder, "fsdp", configure(text, **shared, **adapters)))
    done(1, "resumed lora", lambda _: train(configure(text, **adapters), lora_half, resume="auto"))
    return {
        "resumed by fsdp": difference(alone, half),
        "lora": difference(lora, folder / "fsdp"),
        "lora resumed by one process": difference(lora, lora_half),
        "pairs": difference(folder / "pairs", folder / "pairs-shared"),
        "pairs resumed by one process": difference(folder / "pairs", folder / "pairs-shared-half"),
    }


def evaluated(folder: Path) -> dict[str, Any]:
    """Evaluate weights that do not change, packed and padded, by one process and by several."""
    text, found = make_text(folder), {}
    rest = {"train__optimizer__learning_rate": 1e-30, "train__max_steps": 2, "train__eval_every": 1}
    rest["data__forgetting_eval"] = [str(make_text(folder, seed=7, name="general"))]
    for layout in ("packed", "padded"):
        model = make_deberta(folder, folder / "packed-1-ddp-fp32" / "model") if layout == "padded" else None
        settings = rest | ({"model__name": str(model), "train__lora_rank": 2} if model else {})
        runs = [(1, "ddp", "fp32"), (2, "fsdp", "bf16") if model else (2, "ddp", "fp32"), (3, "fsdp", "fp32")]
        for size, kind, precision in runs:
            name = f"{layout}-{size}-{kind}-{precision}"
            config = configure(text, **settings, train__parallel=kind, train__precision=precision)
            codes = together(size, partial(_evaluate, folder, name, config), folder, name)
            assert set(codes) == {0}, said(folder, name)
            found[name] = {
                "batches": [int(text.rsplit("batches: ", 1)[1]) for text in said(folder, name)],
                "files": {
                    path: read_json(folder / name / path) for path in ("evaluation.json", "examples.json")
                },
                "rows": [row for row in read_rows(folder / name / "metrics.jsonl") if "eval_loss" in row],
                "returned": [read_json(folder / f"{name}-{rank}.json") for rank in range(size)],
            }
            if model:
                found[name]["files"]["adaptation.json"] = read_json(folder / name / "adaptation.json")
    return found


def _evaluate(folder: Path, name: str, config: RunConfig, rank: int) -> None:
    """Make a run; log how many batches this process evaluated, and keep what the run returned."""
    results._EVALUATION_BUDGET, predict, done = 48, predictions._predict, []

    def counted(model: Any, batch: Any) -> Any:
        done.append(batch)
        return predict(model, batch)

    predictions._predict, log = counted, Heard(folder / f"{name}-{rank}.log")
    finished = train(config, folder / name, progress=log)
    (folder / f"{name}-{rank}.json").write_text(json.dumps(finished.evaluation), encoding="utf-8")
    log.log(f"batches: {len(done)}")


def _stop_after(steps: int, rank: int) -> None:
    """Send the main process a signal in the step with this number, from 1."""
    step = Loop.step

    def stopped(self: Loop, plan: Any) -> Any:
        if self.position.step == steps - 1 and rank == 0:
            signal.raise_signal(signal.SIGTERM)
        return step(self, plan)

    Loop.step = stopped  # type: ignore[method-assign]


def _run_and_half(folder: Path, name: str, config: RunConfig, rank: int) -> None:
    """Make a run, and one that a signal to one of its processes stops after the third step."""
    train(config, folder / name, progress=Heard(folder / f"{name}-{rank}.log"))
    _stop_after(3, rank)
    try:
        train(config, folder / f"{name}-half", progress=Heard(folder / f"{name}-{rank}.log"))
    except Interrupted:
        return
    raise AssertionError("the signal did not stop the run")


def lost(folder: Path, how: str = "kill", size: int = 2, rank: int = 1) -> dict[str, Any]:
    """Kill or stop a process in a step, then resume what the others saved."""
    text = make_text(folder)
    config = configure(text, train__save_every=5, train__max_steps=6)
    if how == "stop":
        config = config.model_copy(update={"train": config.train.model_copy(update={"timeout_minutes": 0.1})})
    whole = folder / "whole"
    assert together(1, lambda _: train(config, whole), folder, "whole") == [0], said(folder, "whole")
    step = Loop.step

    def work(number: int) -> None:
        def broken(self: Loop, plan: Any) -> Any:
            if number == rank and self.position.step == 3:
                os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSTOP)
            return step(self, plan)

        Loop.step = broken  # type: ignore[method-assign]
        train(config, folder / "run", progress=Heard(folder / f"run-{number}.log"))

    begin, store = time.monotonic(), new_store()
    logs = [folder / f"run-{number}.log" for number in range(size)]
    children = [start(n, size, store, lambda n=n: work(n), logs[n]) for n in range(size)]
    others = [child for number, child in enumerate(children) if number != rank]
    codes = ended(others)
    seconds = time.monotonic() - begin
    os.kill(children[rank], signal.SIGKILL)
    ended([children[rank]])
    checkpoints = sorted(path.name for path in (folder / "run" / "checkpoints").glob("step-*"))
    code = (folder / "run" / "exit_code").read_text(encoding="utf-8").strip()
    resumed = together(size, lambda _: train(config, folder / "run", resume="auto"), folder, "resumed", store)
    assert set(resumed) == {0}, said(folder, "resumed")
    return {
        "codes": codes,
        "seconds": seconds,
        "said": said(folder, "run"),
        "checkpoints": checkpoints,
        "exit_code": code,
        "difference": difference(whole, folder / "run"),
    }


def apart(folder: Path, kind: str = "ddp", size: int = 2) -> dict[str, Any]:
    """Train where two hosts have folders of their own; then damage the newest checkpoint of the main one and resume."""
    text = make_text(folder)
    config = configure(text, train__save_every=2, train__parallel=kind)
    whole = folder / "whole"
    assert together(1, lambda _: train(config, whole), folder, "whole") == [0], said(folder, "whole")

    def work(resume: str | None, name: str, rank: int) -> None:
        unshared._CHUNK = 10_000  # a file is sent in several parts
        if resume is None:
            _stop_after(4, rank)
        log = Heard(folder / f"{name}-{rank}.log")
        train(config, folder / f"host-{rank * 2 // size}" / "run", resume=resume, progress=log)

    codes = together(size, partial(work, None, "apart"), folder, "apart", hosts=2)
    main, other = (folder / f"host-{host}" / "run" for host in range(2))
    held = {path.relative_to(other).parts[0] for path in other.rglob("*") if path.is_file()}
    newest = max((main / "checkpoints").glob("step-*"))
    files = sorted(newest.glob("*model-00001-of-00002.safetensors"))
    files[-1].write_bytes(b"damaged")
    # A newer checkpoint of another run must not be taken for one of this run.
    stale = other / "checkpoints" / "step-00000009"
    stale.mkdir(parents=True)
    (stale / "manifest.json").write_text("{}", encoding="utf-8")
    resumed = together(size, partial(work, "auto", "again"), folder, "again", hosts=2)
    return {
        "codes": codes + resumed,
        "held": sorted(held),
        "files": [path.name for path in files],
        "said": said(folder, "apart") + said(folder, "again"),
        "difference": difference(whole, main) if set(resumed) == {0} else None,
    }


def different(folder: Path) -> dict[str, Any]:
    """Begin with other settings, other text, and a folder that is taken; each must end alike in all processes."""
    text, other = make_text(folder), make_text(folder, seed=7, name="other")
    taken = folder / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine", encoding="utf-8")

    def settings(rank: int) -> None:
        train(configure(text, train__seed=rank), folder / "settings")

    def texts(rank: int) -> None:  # the same name, on two hosts
        host = folder / f"host-{rank}"
        host.mkdir()
        (host / "text.jsonl").write_bytes((text, other)[rank].read_bytes())
        os.chdir(host)
        train(configure(Path("text.jsonl")), host / "run")

    def full(rank: int) -> None:
        train(configure(text), taken)

    def offload(rank: int) -> None:
        train(configure(text, train__offload=True, train__parallel="ddp"), folder / "offload")

    def damaged(flags: dict[str, Any], rank: int) -> None:  # copies of shards on two hosts
        os.chdir(folder / f"host-{rank}")
        train(configure(Path("shards"), **flags), folder / "damaged")

    def few(rank: int) -> None:  # more processes than a batch has documents
        train(configure(text, train__batch_tokens=32, train__micro_batch_tokens=32), folder / "few")

    found = {}
    for name, work in {
        "settings": settings,
        "texts": texts,
        "full": full,
        "offload": offload,
        "few": few,
    }.items():
        begin = time.monotonic()
        codes = together(2, work, folder, name)
        found[name] = {"codes": codes, "said": said(folder, name), "seconds": time.monotonic() - begin}
    tokenizer = load_tokenizer(str(folder / "few" / "tokenizer"))
    for rank in range(2):
        prepare(text, DocumentSettings(), tokenizer, folder / f"host-{rank}" / "shards")
    tokens = folder / "host-1" / "shards" / "part-00000" / "shard-00000.tokens.npy"
    tokens.write_bytes(tokens.read_bytes()[:-2] + b"\x07\x00")
    model = {"model__name": str(folder / "few" / "model")}
    for name, flags in {"damaged": model, "damaged, new model": {}}.items():
        codes = together(2, partial(damaged, flags), folder, name, hosts=2)
        found[name] = {"codes": codes, "said": said(folder, name)}
    found["left"] = sorted(path.name for path in folder.iterdir() if path.is_dir())
    return found


def broken_steps(folder: Path) -> dict[str, Any]:
    """A loss that is NaN, memory that runs out at once or later, and a full disk, in one process alone."""
    text, found = make_text(folder), {}
    gradients, predict, calls = loop_module.step_gradients, predictions._predict, count()

    def nan(*args: Any, **named: Any) -> Any:
        loss, correct = gradients(*args, **named)
        return (loss * float("nan") if os.environ["RANK"] == "1" else loss), correct

    def memory(*args: Any, **named: Any) -> Any:
        if os.environ["RANK"] == "1" and len(args[1][0].input_ids) > 200:
            raise MemoryError
        return gradients(*args, **named)

    def later(*args: Any, **named: Any) -> Any:
        if os.environ["RANK"] == "1" and next(calls) == 4:
            raise MemoryError
        return gradients(*args, **named)

    def disk(*args: Any, **named: Any) -> Any:
        if os.environ["RANK"] == "1":
            raise OSError(28, "No space left on device")
        return gradients(*args, **named)

    def evaluation(*args: Any) -> Any:
        if os.environ["RANK"] == "1" and next(calls) == 3:
            raise MemoryError
        return predict(*args)

    def no_number(*args: Any) -> Any:
        found = predict(*args)
        return found._replace(loss=found.loss * float("nan")) if os.environ["RANK"] == "1" else found

    def work(owner: Any, fault: Any, name: str, rank: int) -> None:
        owner.step_gradients = owner._predict = fault
        results._EVALUATION_BUDGET = 32
        train(configure(text), folder / name, progress=Heard(folder / f"{name}-{rank}.log"))

    faults = {
        "nan": (loop_module, nan),
        "memory": (loop_module, memory),
        "later": (loop_module, later),
        "disk": (loop_module, disk),
        "evaluation": (predictions, evaluation),
        "no number": (predictions, no_number),
    }
    for name, (owner, fault) in faults.items():
        codes = together(2, partial(work, owner, fault, name), folder, name)
        saved = sorted(path.name for path in (folder / name / "checkpoints").glob("step-*"))
        found[name] = {"codes": codes, "said": said(folder, name), "checkpoints": saved}
    return found


def launchers(folder: Path) -> dict[str, Any]:
    """Train by FSDP under two launchers of two processes each, as two hosts do, and in one process."""
    text, file = make_text(folder), folder / "run.yaml"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file.write_text(
        dump_config(
            configure(text, model__preset="bert-tiny", train__parallel="fsdp", train__timeout_minutes=3)
        )
    )
    unmask = ["-m", "unmask", "train", "--config", str(file), "-o"]
    hosts = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
             "--rdzv-endpoint", f"127.0.0.1:{port}", *unmask, str(folder / "hosts")]  # fmt: skip
    running = [
        subprocess.Popen([sys.executable, *hosts], stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    told = "".join(process.communicate()[1] for process in running)
    codes = [process.returncode for process in running]
    codes.append(
        subprocess.run([sys.executable, *unmask, str(folder / "one")], stderr=subprocess.DEVNULL).returncode
    )
    assert codes == [0, 0, 0], told
    return {"said": told, "difference": difference(folder / "one", folder / "hosts")}


def signalled(folder: Path) -> dict[str, Any]:
    """SIGTERM to one process: all save at one step and end with 75."""
    text = make_text(folder)
    step = Loop.step

    def work(rank: int) -> None:
        def slow(self: Loop, plan: Any) -> Any:
            if rank == 1 and self.position.step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(self, plan)

        Loop.step = slow  # type: ignore[method-assign]
        train(configure(text), folder / "run", progress=Heard(folder / f"run-{rank}.log"))

    codes = together(2, work, folder, "run")
    return {"codes": codes, "exit_code": (folder / "run" / "exit_code").read_text().strip(),
            "checkpoints": sorted(path.name for path in (folder / "run" / "checkpoints").glob("step-*"))}  # fmt: skip


def perform(name: str, named: dict[str, Any], place: Path) -> None:
    """Write what a scenario found to ``found.json`` in a folder."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "found.json").write_text(json.dumps(globals()[name](place, **named)), encoding="utf-8")
    assert read_json(place / "found.json") is not None


def listen() -> None:
    """Do each scenario of standard input, a line of JSON with the arguments of :func:`perform`, and print its exit code.

    Each has a process of its own.
    """
    for line in sys.stdin:
        name, named, place = json.loads(line)
        child = os.fork()
        if not child:
            code = 1
            try:
                perform(name, named, Path(place))
                code = 0
            except BaseException:
                (Path(place) / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            finally:
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        listen()
    else:
        scenario, _, extra = sys.argv[1].partition(":")
        perform(scenario, json.loads(extra) if extra else {}, Path(sys.argv[2]))
