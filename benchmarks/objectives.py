"""Which training objective helps? Train the same encoder by each, for equal seconds and for equal tokens.

Each start (``--starts``) is trained by each objective with several seeds: ``scratch`` is a new model of ``--preset`` (4 layers
of width 256) on general text, ``encoder`` one that was trained on general text before and goes on with biomedical text,
``minilm`` all-MiniLM-L6-v2 (installed from the package index) on biomedical text. The last text file of each kind is held out.
Next sentence and sentence order prediction need a BERT, so they are left out where the preset is none. Every model is evaluated by its held-out loss at frozen masks where it has an LM head, by
linear probes on tasks, and by retrieval: the first half of a held-out passage finds the second.

The speed of each objective is measured first, in turns, with its share of the matrix products. All runs are then as many
steps as the objective makes in ``--seconds`` at that speed, or as ``mlm`` makes (equal tokens), so a busy machine changes
nothing. Where both are nearly the same, one run stands for both. ``--half`` also gives ``rtd`` half of the time.

Finished parts are kept; an interrupted call continues with the missing ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path
from statistics import mean, median, stdev

import adaptation
import harness
from harness import Result, say

OBJECTIVES = ("mlm", "rtd", "nsp", "sop", "clm", "contrastive")
DETOUR = 0.6
PAIRS = ("nsp", "sop")
TASKS = ("chemprot", "sci-cite", "citation-intent", "bc5cdr", "ncbi-disease", "sst2")
BATCH_TOKENS = 4096
SHARE_GOAL, RETRIEVAL_GOAL = 0.85, 0.10
ALIKE = 0.04  # speeds that differ less are measured as one
_PASSAGE = 600  # characters of a held-out passage whose halves are matched
_PASSAGES = 1_000


def options() -> argparse.ArgumentParser:
    made = harness.parser(__doc__ or "", rounds=3)
    adaptation.add_encoder_options(made, base_steps=600)
    add = made.add_argument
    data = harness.DATA
    add("--tasks", nargs="*", type=Path, default=[data / "tasks" / name for name in TASKS], metavar="FOLDER",
        help="labelled tasks")  # fmt: skip
    add("--starts", nargs="+", choices=("scratch", "encoder", "minilm"), default=["scratch", "encoder", "minilm"],
        help="what is trained")  # fmt: skip
    add("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES), help="what is compared")
    add(
        "--equal",
        nargs="+",
        choices=("seconds", "tokens"),
        default=["seconds", "tokens"],
        help="what is equal",
    )
    add("--half", action="store_true", help="also train rtd for half of the seconds")
    add("--seconds", type=float, default=60.0, help="seconds of training of a run")
    add("--seeds", type=int, default=3, help="runs of each")
    add("--limit", type=int, default=1000, help="maximum training examples per probe")
    add(
        "--speed-seconds",
        type=float,
        default=12.0,
        help="seconds of each of the --rounds measurements of speed",
    )
    add("--speed", action="store_true", help="only measure speed")
    add("--parts", type=Path, default=harness.WORK / "objectives", help="folder for finished parts")
    return made


def work(args: argparse.Namespace) -> None:
    general, domain = harness.texts(args.text), harness.texts(args.domain)
    tokenizer = harness.start(args.vocabulary, 4, 256)  # for its tokenizer alone
    document = harness.report("objectives", args, text=general, domain=domain)
    rows: list[Result] = []
    for start in [] if args.speed else args.starts:
        files = general if start == "scratch" else domain
        flags = _start(args, start, tokenizer, general)
        for case in _cases(args, start, _speeds(args, start, flags, files)):
            rows.append(case | _case(args, start, case, flags, files))
            harness.write(args.json, document | {"rows": rows})
    first = args.starts[0]
    files = general if first == "scratch" else domain
    speeds = _speeds(args, first, _start(args, first, tokenizer, general), files)
    document |= {"rows": rows, "speeds": speeds, "goals": _speed_goals(speeds) + _goals(rows)}
    harness.write(args.json, document)
    _show(args, document)


def _cases(args: argparse.Namespace, start: str, speeds: dict[str, list[Result]]) -> list[Result]:
    """Return what is trained from a start: objective, what is equal to ``mlm``, and the steps."""
    rates = {name: harness.middle(runs, "tokens_per_second") for name, runs in speeds.items()}
    if "clm" in rates:  # measured in the detour, which is a share of the steps
        rates["clm"] = 1 / (DETOUR / rates["clm"] + (1 - DETOUR) / rates["mlm"])
    steps = {name: round(args.seconds * rate / BATCH_TOKENS) for name, rate in rates.items()}

    def case(objective: str, equal: str, share: float = 1.0) -> Result:
        count = round(share * steps["mlm" if equal == "tokens" else objective])
        seconds = count * BATCH_TOKENS / rates[objective]
        return {"objective": objective, "equal": equal, "share": share, "steps": count, "seconds": seconds}

    cases = []
    for objective in steps:
        alike = abs(rates[objective] / rates["mlm"] - 1) < ALIKE
        cases += [case(objective, equal) for equal in (["both"] if alike else args.equal)]
    if args.half and "rtd" in steps:
        cases.append(case("rtd", "seconds", 0.5))
    return cases


# ---------------------------------------------------------------- the parts


def _start(args: argparse.Namespace, start: str, tokenizer: str, general: list[str]) -> Result:
    """Return the settings of the model to start from."""
    new = {"model.preset": args.preset, "model.tokenizer": tokenizer}
    if start == "scratch":
        return new
    if start == "minilm":
        return {"model.name": adaptation.minilm()}
    return {"model.name": adaptation.base_model(args, adaptation.texts_of(args))}


def _flags(args: argparse.Namespace, files: list[str], model: Result, seed: int) -> Result:
    """Return the settings of a run; its text is prepared once for all runs."""
    start = model.get("model.tokenizer") or model["model.name"]

    def shards(files: list[str]) -> list[str]:
        settings: Result = {"start": start, "files": files, "documents": "auto"}
        return [harness.once("shards", harness.fingerprint(files), "ours", "shards", settings)]

    return {"data.inputs": shards(files[:-1]), "data.heldout": shards(files[-1:]), "data.max_length": args.length,
            "train.batch_tokens": BATCH_TOKENS, "train.seed": seed, "train.patience": 0,
            "train.eval_tokens": 10_000} | model  # fmt: skip


def _speeds(args: argparse.Namespace, start: str, flags: Result, files: list[str]) -> dict[str, list[Result]]:
    """Return the speed of each objective that a start can have, measured in turns."""
    path = args.parts / f"{start}-speeds.json"
    if path.is_file():
        kept: dict[str, list[Result]] = json.loads(path.read_text(encoding="utf-8"))
        if not set(args.objectives) - set(PAIRS) <= kept.keys():
            raise SystemExit(
                f"{path} is of other --objectives; remove it, so that all are measured side by side"
            )
        return {name: runs for name, runs in kept.items() if name in args.objectives}
    sides = {
        objective: partial(harness.run, "objectives", "speed", {
            "objective": objective, "seconds": args.speed_seconds,
            "flags": _flags(args, files, flags, 0)})
        for objective in args.objectives
        if start == "minilm" or args.preset.startswith("bert") or objective not in PAIRS
    }  # fmt: skip
    found = harness.take_turns(
        sides, args.rounds, lambda name, run: say(f"{start}, {name}: {run['tokens_per_second']:,.0f} tok/s")
    )
    harness.write(path, found)
    return found


def _case(args: argparse.Namespace, start: str, case: Result, flags: Result, files: list[str]) -> Result:
    """Train a case with every seed, and evaluate each model."""
    objective = case["objective"]
    name = f"{start}-{objective}-{case['steps']}"
    found = []
    for seed in range(args.seeds):
        own = _flags(args, files, flags, seed)
        own |= {
            "train.objective": objective,
            "train.max_steps": case["steps"],
            "train.eval_every": case["steps"],
        }
        part = f"{name}-{seed}"
        run = harness.part(args.parts, part, "objectives", "trained", {
            "out": str(args.parts / part), "flags": own})  # fmt: skip
        probes = harness.part(args.parts, f"{part}-probes", "objectives", "probed", {
            "model": run["model"], "tasks": [str(task.resolve()) for task in args.tasks], "limit": args.limit,
            "heldout": files[-1]})  # fmt: skip
        found.append(run | probes)
    return {"start": start, "runs": found}


# ---------------------------------------------------------------- measured in its own process


def trained(out: str, flags: Result) -> Result:
    """Train as ``unmask train`` does, and return the final metrics; for ``rtd`` those of masked tokens are its generator's."""
    return adaptation.trained(out, flags)


def probed(model: str, tasks: list[str], limit: int, heldout: str) -> Result:
    """Train a linear probe for each task on the frozen features of a model, and let halves of passages find each other."""
    from unmask.probing.probe import probe
    from unmask.probing.ranking import METRICS
    from unmask.probing.retrieval import probe_retrieval
    from unmask.probing.retrieval_tasks import task_of_text
    from unmask.probing.settings import ProbeSettings

    settings = ProbeSettings(seeds=1, limit=limit, drop_overlap=True, offline=True)
    figures = {
        Path(task).name: adaptation.main_metric(
            probe([model], task, settings).to_dict()["models"][0]["figures"]
        )["mean"]
        for task in tasks
    }
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": passage}) + "\n" for passage in _passages(heldout))
        file.flush()
        halves = task_of_text([file.name])
    found = probe_retrieval([model], halves).to_dict()["models"][0]["figures"]
    return {"probes": figures, "retrieval": {name: found[name] for name in METRICS}}


def _passages(path: str) -> list[str]:
    """Return the beginnings of the paragraphs of a text that are long enough."""
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    return [line[:_PASSAGE] for line in lines if len(line) >= _PASSAGE][:_PASSAGES]


def speed(objective: str, flags: Result, seconds: float) -> Result:
    """Train for some seconds, and return the tokens per second and the operations of a token."""

    from unmask.benchmark.bench import run_measured, training_loop
    from unmask.benchmark.stopwatch import Stopwatch
    from unmask.config.load import load_config
    from unmask.progress import Progress
    from unmask.run.components import build_components
    from unmask.run_folder import RunFolder

    own = {"train.objective": objective, "train.precision": "bf16", "train.max_steps": 10**9,
           "train.optimizer.name": "adamw", "model.offline": True}  # fmt: skip
    if objective == "clm":
        own["train.detour"] = 0.999  # the detour is what is measured
    with tempfile.TemporaryDirectory(prefix="unmask-benchmark-") as place:
        config = load_config(None, (), flags | own)
        loop = training_loop(config, build_components(config, RunFolder(Path(place)), Progress()))
        flops = _flops_per_token(loop)
        watch = Stopwatch(seconds, warm_up=3, least=5)
        run_measured(loop, watch)
    rate = watch.tokens_per_second
    return {"tokens_per_second": rate, "flops_per_token": flops, "teraflops": rate * flops / 1e12}


def _flops_per_token(loop) -> float:  # type: ignore[no-untyped-def]
    """Count six operations for every weight that a row is multiplied with in a step, and those of attention scores."""
    import numpy as np
    import torch

    from unmask.data.training_stream import Cursor

    done = 0

    def count(module, args, _):  # type: ignore[no-untyped-def]
        nonlocal done
        done += args[0].numel() // args[0].shape[-1] * module.weight.numel()

    plan = loop.plan(Cursor(), 0)
    hooks = [
        module.register_forward_hook(count)
        for module in loop.model.model.modules()
        if isinstance(module, torch.nn.Linear)
    ]
    tokens = squares = 0
    try:
        with torch.no_grad():
            for batch in plan.batches:
                plan.objective.losses(loop.model, batch, plan.counts)
                tokens += batch.tokens
                squares += int((np.diff(batch.cu_seqlens).astype(np.int64) ** 2).sum())
    finally:
        for hook in hooks:
            hook.remove()
    config = loop.model.model.config
    return 6 * done / tokens + 12 * config.num_hidden_layers * config.hidden_size * squares / tokens


# ---------------------------------------------------------------- results


def _share(runs: list[Result], mlm: list[Result]) -> float:
    """Return the operations a second of an objective, times those of ``mlm`` in the same round; the median."""
    return median(run["teraflops"] / base["teraflops"] for run, base in zip(runs, mlm, strict=True))


def _speed_goals(speeds: dict[str, list[Result]]) -> list[Result]:
    return [
        harness.goal(
            f"{name}: operations a second, times those of mlm", _share(runs, speeds["mlm"]), SHARE_GOAL
        )
        for name, runs in speeds.items()
        if name != "mlm"
    ]


def mean_probe(run: Result) -> float:
    return mean(run["probes"].values())


def _find(rows: list[Result], start: str, objective: str, share: float = 1.0) -> list[Result]:
    """Return the runs of equal seconds."""
    for row in rows:
        same = (row["start"], row["objective"], row["share"]) == (start, objective, share)
        if same and row["equal"] != "tokens":
            runs: list[Result] = row["runs"]
            return runs
    return []


def _goals(rows: list[Result]) -> list[Result]:
    goals = []
    for start in dict.fromkeys(row["start"] for row in rows):
        mlm, half = _find(rows, start, "mlm"), _find(rows, start, "rtd", share=0.5)
        if mlm and half:
            gain = mean(map(mean_probe, half)) - mean(map(mean_probe, mlm))
            goals.append(
                harness.goal(f"{start}: probes of rtd in half the seconds, minus those of mlm", gain, 0.0)
            )
        detour = _find(rows, start, "clm")
        if len(mlm) > 1 and detour:  # one seed has no spread
            gains = sum(_gains(mlm, detour, task) for task in mlm[0]["probes"])
            goals.append(
                harness.goal(f"{start}: tasks of {len(mlm[0]['probes'])} that gain by the detour, beyond the spread",
                             gains, len(mlm[0]["probes"]) / 2)
            )  # fmt: skip
        contrastive = _find(rows, start, "contrastive")
        if mlm and contrastive:
            gain = mean(run["retrieval"]["ndcg_at_10"] for run in contrastive) - mean(
                run["retrieval"]["ndcg_at_10"] for run in mlm
            )
            goals.append(harness.goal(f"{start}: nDCG@10 of contrastive minus mlm", gain, RETRIEVAL_GOAL))
    return goals


def _gains(mlm: list[Result], other: list[Result], task: str) -> bool:
    """Return whether a task gains more than the standard deviations of both over the seeds."""
    sides = [[run["probes"][task] for run in runs] for runs in (mlm, other)]
    spread = max((stdev(side) for side in sides if len(side) > 1), default=0.0)
    return mean(sides[1]) - mean(sides[0]) > spread


def _show(args: argparse.Namespace, document: Result) -> None:
    speeds = document["speeds"]
    rows = []
    for name, runs in speeds.items():
        rate, flops = (harness.middle(runs, key) for key in ("tokens_per_second", "flops_per_token"))
        rows.append([name, f"{rate:,.0f}", f"{flops / 1e6:.1f}", f"{_share(runs, speeds['mlm']):.2f}"])
    harness.table(["objective", "tok/s", "million operations a token", "operations a second, mlm = 1"], rows)
    names = [task.name for task in args.tasks]
    header = ["start", "objective", "equal", "steps", "seconds", "held-out loss", *names, "probes", "nDCG@10",
              "recall@10"]  # fmt: skip
    rows = []
    for row in document["rows"]:
        runs = row["runs"]
        losses = [run["evaluation"]["loss"] for run in runs]
        equal = row["equal"] + (", half" if row["share"] < 1 else "")
        cells = [row["start"], row["objective"], equal]
        cells += [f"{row['steps']}", f"{row['seconds']:.0f}"]
        cells.append(_spread(losses, 3))
        cells += [_spread([100 * run["probes"][name] for run in runs]) for name in names]
        cells.append(_spread([100 * mean_probe(run) for run in runs]))
        cells += [
            _spread([100 * run["retrieval"][name] for run in runs]) for name in ("ndcg_at_10", "recall_at_10")
        ]
        rows.append(cells)
    harness.table(header, rows)
    say("mean ± standard deviation over seeds; the loss of rtd is that of its generator")
    harness.show_goals(document["goals"])


def _spread(values: list[float], digits: int = 1) -> str:
    shown = f"{mean(values):.{digits}f}"
    return f"{shown} ± {stdev(values):.{digits}f}" if len(values) > 1 else shown


if __name__ == "__main__":
    raise SystemExit(harness.main(work, options()))
