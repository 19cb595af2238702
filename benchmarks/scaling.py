"""Training by two processes of this machine, one thread each, compared with one process of two threads.

A step is computed in three ways that take turns in the same processes: without summing gradients, with one sum after the
backward pass (as unmask did before), and by DDP. What summing adds to a step is the share that is waited for. ``--link``
puts each process into a network namespace, with links of a limited rate between them (needs root, and ``ip`` and ``tc``).

Further: how long training stops for a checkpoint, how long it takes to write, and how long it takes from the kill -9 of one
of two processes to the first new step of those that ``torchrun --max-restarts`` starts (``--restart``: only that).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import harness
from harness import Result

HERE = Path(__file__).resolve().parent
_CHARACTERS = 400_000  # of the text of the run that is killed
_STEPS = 4  # until it is
WAYS = ("no sum", "one sum", "ddp")


def options() -> argparse.ArgumentParser:
    made = harness.parser(__doc__ or "", rounds=5)
    made.add_argument("--preset", default="bert-mini", help="model")
    made.add_argument("--tokens", type=int, default=4096, help="tokens of a step, over all processes")
    made.add_argument("--length", type=int, default=128, help="tokens of a sequence")
    made.add_argument(
        "--link", nargs="*", default=[], metavar="RATE", help="rates of links, such as 1gbit 100mbit"
    )
    made.add_argument("--restart", action="store_true", help="measure only the restart after a kill")
    return made


def work(args: argparse.Namespace) -> None:
    if not args.restart:
        _compare(args)
    _restarts(args)


def _compare(args: argparse.Namespace) -> None:
    given = {"preset": args.preset, "tokens": args.tokens, "length": args.length, "rounds": args.rounds,
             "vocabulary": str(args.vocabulary)}  # fmt: skip
    found: Result = {"1 process, 2 threads": _launch(given | {"size": 1}, threads=2)}
    for kind in ("ddp", "fsdp"):
        found[f"2 processes, {kind}"] = _launch(given | {"size": 2, "kind": kind})
    for rate in args.link:
        with _linked(rate) as spaces:
            found[f"2 processes, ddp, {rate}"] = _launch(given | {"size": 2, "kind": "ddp"}, spaces=spaces)
    document = harness.report("scaling", args, measured=found)
    harness.write(args.json, document)
    alone = found["1 process, 2 threads"]["seconds"]["no sum"]
    rows = []
    for name, result in found.items():
        for way, seconds in result["seconds"].items():
            if name.startswith("1") or way != "no sum":
                share = (
                    1 - result["seconds"].get("no sum", seconds) / seconds
                    if "no sum" in result["seconds"]
                    else None
                )
                waited = "" if share is None or name.startswith("1") else f"{max(0.0, share):.0%}"
                rows.append([name, way, f"{seconds * 1000:,.0f} ms", f"{alone / seconds:.2f}", waited])
    harness.table(["", "", "a step", "speed over one process", "of it waiting"], rows)
    saved = found["1 process, 2 threads"]["checkpoint"]
    harness.table(
        ["checkpoint", ""],
        [
            ["training stops", f"{saved['stop'] * 1000:,.0f} ms"],
            ["written after", f"{saved['whole'] * 1000:,.0f} ms"],
        ],
    )


def _restarts(args: argparse.Namespace) -> None:
    place = harness.WORK / "restart"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    text = Path(harness.texts(args.text, 1)[0]).read_text(encoding="utf-8")[:_CHARACTERS]
    (place / "text.txt").write_text(text, encoding="utf-8")
    found = [_restart(args, place) for _ in range(args.rounds)]
    shutil.rmtree(place)
    rows = [[part, f"{harness.middle(found, part):.1f} s"] for part in found[0]]
    harness.table(["from a kill to the first new step", ""], rows)


def _restart(args: argparse.Namespace, place: Path) -> Result:
    """Kill one of two processes in a step; return the seconds until the run goes on, in parts."""
    log, run = place / "log.txt", place / "run"
    settings = {
        "log_every": 1,
        "save_every": 10**6,
        "eval_every": 10**6,
        "max_steps": 10**6,
        "device": "cpu",
        "precision": "fp32",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1",
               "--master-port", "29732", "-m", "unmask", "train", str(place / "text.txt"), "--preset", args.preset,
               "--tokenizer", str(args.vocabulary), "--batch-tokens", str(args.tokens), "--max-length", str(args.length),
               "--resume", "-o", str(run)]  # fmt: skip
    command += [f"--set=train.{key}={value}" for key, value in settings.items()]
    with log.open("w", encoding="utf-8") as file:
        started = subprocess.Popen(command, env=harness._environment(), stdout=file, stderr=file)
    try:
        first = _last_step(run)
        _until(started, lambda: _last_step(run) >= first + _STEPS)
        before = _processes(started.pid)
        os.kill(before[1], signal.SIGKILL)
        times = [time.perf_counter()]
        for happened in (
            lambda: "saved step" in log.read_text(encoding="utf-8"),
            lambda: (
                len(_processes(started.pid).keys()) == 2
                and not set(_processes(started.pid).values()) & set(before.values())
            ),
            lambda: log.read_text(encoding="utf-8").count("resuming from step") > bool(first),
        ):
            _until(started, happened)
            times.append(time.perf_counter())
        last = _last_step(run)
        _until(started, lambda: _last_step(run) > last)
        times.append(time.perf_counter())
    finally:
        started.terminate()
        started.wait()
    parts = ["noticed, and the last step saved", "processes ended and new ones started", "text, model and checkpoint loaded",
             "first step"]  # fmt: skip
    found = {part: end - begin for part, begin, end in zip(parts, times[:-1], times[1:], strict=True)}
    harness.say(f"  {found}")
    return found | {"in all": times[-1] - times[0]}


def _until(started: subprocess.Popen[bytes], happened: Callable[[], bool]) -> None:
    while not happened():
        if started.poll() is not None:
            raise harness.Failure(
                f"torchrun ended with {started.returncode}; see {harness.WORK / 'restart' / 'log.txt'}"
            )
        time.sleep(0.02)


def _last_step(run: Path) -> int:
    """Return the last step that the metrics of a run have, 0 if there is none."""
    path = run / "metrics.jsonl"
    rows = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return int(json.loads(rows[-1])["step"]) if rows else 0


def _processes(launcher: int) -> dict[int, int]:
    """Return the process ids of what a launcher started, by their rank (Linux)."""
    found = {}
    for children in Path(f"/proc/{launcher}/task").glob("*/children"):
        for child in children.read_text().split():
            with suppress(OSError, KeyError):
                lines = Path(f"/proc/{child}/environ").read_bytes().decode().split("\0")
                found[int(dict(line.partition("=")[::2] for line in lines)["RANK"])] = int(child)
    return found


@contextmanager
def _linked(rate: str) -> Iterator[list[str]]:
    """Yield two network namespaces with a link of a rate between them."""
    spaces, ends = ["unmask-a", "unmask-b"], ["veth-a", "veth-b"]

    def ip(*words: str) -> None:
        done = subprocess.run(["ip", *words], capture_output=True, text=True)
        if done.returncode:
            raise harness.Failure(f"ip {' '.join(words)}: {done.stderr.strip()} (--link needs root)")

    try:
        for space in spaces:
            ip("netns", "add", space)
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for number, (space, end) in enumerate(zip(spaces, ends, strict=True), 1):
            ip("link", "set", end, "netns", space)
            ip("-n", space, "addr", "add", f"10.77.0.{number}/24", "dev", end)
            ip("-n", space, "link", "set", end, "up")
            ip("-n", space, "link", "set", "lo", "up")
            shape = [
                "tc",
                "qdisc",
                "add",
                "dev",
                end,
                "root",
                "tbf",
                "rate",
                rate,
                "burst",
                "256kb",
                "latency",
                "50ms",
            ]
            ip("netns", "exec", space, *shape)
        yield spaces
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "del", space], capture_output=True)


def _launch(given: Result, threads: int = 1, spaces: list[str] | None = None) -> Result:
    """Run :func:`measure` in its processes, and return what the first of them found."""
    harness.WORK.mkdir(parents=True, exist_ok=True)
    out = harness.WORK / f"scaling-{os.getpid()}.json"
    size, running = given["size"], []
    for rank in range(size):
        environment = harness._environment() | {"OMP_NUM_THREADS": str(threads)}
        if size > 1:
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_PORT": "29731",
                            "MASTER_ADDR": "10.77.0.1" if spaces else "127.0.0.1", "LOCAL_WORLD_SIZE": str(size)}  # fmt: skip
        command = [sys.executable, str(HERE / "scaling.py"), "--measure", json.dumps(given), str(out)]
        if spaces:
            environment["GLOO_SOCKET_IFNAME"] = f"veth-{'ab'[rank]}"
            command = ["ip", "netns", "exec", spaces[rank], *command]
        running.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in running:
        _, errors = process.communicate()
        if process.returncode:
            raise harness.Failure(f"a process failed with exit code {process.returncode}\n{errors[-2000:]}")
    found: Result = json.loads(out.read_text(encoding="utf-8"))
    out.unlink()
    harness.say(f"  {given}: {found}")
    return found


def measure(given: Result) -> Result:
    """Compute steps in each way, in turns; return medians in seconds."""
    import tempfile
    import time
    from statistics import median

    import torch
    import torch.distributed as dist

    from unmask.config.settings import OptimizerSettings
    from unmask.data.tokenizer import load_tokenizer
    from unmask.model.load import new_model
    from unmask.model.masked_lm import MaskedLM
    from unmask.training.checkpoint import CheckpointWriter
    from unmask.training.distributed import World
    from unmask.training.loss import step_gradients
    from unmask.training.optimizers import make_optimizers
    from unmask.training.parallel import GradientSum

    world = World.join(torch.device("cpu"))
    tokenizer = load_tokenizer(given["vocabulary"])
    model = MaskedLM(new_model(given["preset"], tokenizer, 0), tokenizer)
    model.model.train()
    kind = given.get("kind", "ddp")
    alone = GradientSum(model)  # before FSDP replaces the weights
    summed = GradientSum(model, world, kind)
    batch = summed.rehearsal(given["length"], given["tokens"] // world.size)
    targets = world.size * len(batch.target_ids)
    ways = {1: ("no sum",), 2: WAYS if kind == "ddp" else ("fsdp",)}[world.size]

    def step(way: str) -> float:
        world.wait()
        begin = time.perf_counter()
        step_gradients(summed if way in ("ddp", "fsdp") else alone, [batch], [targets])
        if way == "one sum":
            gradients = [weight.grad for weight in model.model.parameters() if weight.grad is not None]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            for gradient, total in zip(
                gradients, flat.split([one.numel() for one in gradients]), strict=True
            ):
                gradient.copy_(total.view_as(gradient))
        seconds = time.perf_counter() - begin
        model.model.zero_grad(set_to_none=True)
        return seconds

    summed.begin()
    times: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(given["rounds"] + 2):
        for way in ways:
            seconds = step(way)
            if number >= 2:
                times[way].append(seconds)
    result: Result = {"seconds": {way: median(values) for way, values in times.items()}}
    if world.size == 1:
        optimizers = make_optimizers(model.model, OptimizerSettings(), "adamw", 1e-4)
        step_gradients(alone, [batch], [targets])
        for optimizer in optimizers:
            optimizer.step()
        stops, wholes = [], []
        with tempfile.TemporaryDirectory() as place:
            writer = CheckpointWriter()
            for number in range(given["rounds"]):
                begin = time.perf_counter()
                writer.save(Path(place), model.model, optimizers, {"step": number}, keep_last=2)
                stops.append(time.perf_counter() - begin)
                writer.wait()
                wholes.append(time.perf_counter() - begin)
            writer.close()
        result["checkpoint"] = {"stop": median(stops), "whole": median(wholes)}
    world.wait()
    world.leave()
    return result


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        answer: Any = measure(json.loads(sys.argv[2]))
        if os.environ.get("RANK", "0") == "0":
            Path(sys.argv[3]).write_text(json.dumps(answer), encoding="utf-8")
        raise SystemExit(0)
    raise SystemExit(harness.main(work, options()))
