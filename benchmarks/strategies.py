"""Which masking strategy helps? Adapt a small general encoder by each, over equal tokens and several seeds.

The strategies are tokens, words, spans, and words with domain ``terms`` more often, which ``unmask terms`` finds in the training
text. The encoder is trained from scratch as for ``adaptation.py``, or given by ``--base``. Every model is evaluated on
held-out domain text at the same masks, whatever it was trained with: single tokens, whole words, and words with terms more
often; then by linear probes on tasks of the domain, and by retrieval: the first half of a held-out passage finds the second.
Shown are differences from ``token`` with the same seed.
With ``--scratch`` a new encoder of ``--preset`` is trained on the domain text by each; the other one gives its tokenizer alone.

Finished parts are kept; an interrupted call continues with the missing ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean, stdev

import adaptation
import harness
from harness import Result

import objectives

STRATEGIES = ("token", "word", "span", "terms")
MASKS = ("token", "word", "terms")


def options() -> argparse.ArgumentParser:
    made = harness.parser(__doc__ or "", rounds=None)
    adaptation.add_encoder_options(made, base_steps=600)
    add = made.add_argument
    data = harness.DATA
    add("--tasks", nargs="*", type=Path, default=[data / "tasks" / name for name in adaptation.TASKS],
        metavar="FOLDER", help="labelled tasks of the domain")  # fmt: skip
    add(
        "--strategies",
        nargs="+",
        choices=STRATEGIES,
        default=list(STRATEGIES),
        help="what is compared with token",
    )
    add("--scratch", action="store_true", help="train a new encoder by each strategy, and adapt none")
    add("--steps", type=int, default=120, help="steps of training")
    add("--batch-tokens", type=int, default=4096, help="tokens per step of training")
    add("--seeds", type=int, default=3, help="runs of each strategy")
    add("--limit", type=int, default=1000, help="maximum training examples per probe")
    add("--parts", type=Path, default=harness.WORK / "strategies", help="folder for finished parts")
    return made


def work(args: argparse.Namespace) -> None:
    texts = adaptation.texts_of(args)
    base = adaptation.base_model(args, texts)
    terms = harness.once("terms", harness.fingerprint(texts["domain"] + texts["general"]), "strategies", "terms", {
        "model": base, "domain": texts["domain"], "general": texts["general"][:1]})  # fmt: skip
    document = harness.report("strategies", args, texts=texts)
    runs: dict[str, list[Result]] = (
        {} if args.scratch else {"base": [_measured(args, "base", base, texts, terms)]}
    )
    for seed in range(
        args.seeds
    ):  # all strategies of a seed before the next one, so that an early end leaves whole rows
        for strategy in dict.fromkeys(["token", *args.strategies]):
            runs.setdefault(strategy, []).append(_adapted(args, strategy, seed, base, texts, terms))
            harness.write(args.json, document | {"runs": runs})
    _show(runs)


def _masking(strategy: str, terms: str) -> Result:
    """Return the settings of a strategy."""
    found: Result = {"masking.strategy": strategy}
    return found | ({"masking.terms": str(Path(terms) / "terms")} if strategy == "terms" else {})


def _adapted(
    args: argparse.Namespace, strategy: str, seed: int, base: str, texts: Result, terms: str
) -> Result:
    start = {"model.preset": args.preset, "model.tokenizer": base} if args.scratch else {"model.name": base}
    flags = {"data.inputs": texts["domain"], "data.heldout": texts["heldout"],
             "data.max_length": args.length, "train.max_steps": args.steps, "train.batch_tokens": args.batch_tokens,
             "train.seed": seed, "train.patience": 0, "train.export_best": False, "train.eval_every": args.steps,
             "train.eval_tokens": 5_000} | start | _masking(strategy, terms)  # fmt: skip
    name = f"{strategy}-{'scratch-' * args.scratch}{args.steps}-{seed}"
    run = harness.part(
        args.parts, name, "adaptation", "trained", {"out": str(args.parts / name), "flags": flags}
    )
    return _measured(args, name, run["model"], texts, terms) | {
        "tokens": run["tokens"],
        "seconds": run["seconds"],
    }


def _measured(args: argparse.Namespace, name: str, model: str, texts: Result, terms: str) -> Result:
    masks = {mask: _masking(mask, terms) for mask in MASKS}
    losses = harness.part(args.parts, f"{name}-losses", "strategies", "losses", {
        "model": model, "heldout": texts["heldout"], "masks": masks, "length": args.length})  # fmt: skip
    probes = harness.part(args.parts, f"{name}-probes", "objectives", "probed", {
        "model": model, "tasks": [str(task.resolve()) for task in args.tasks], "limit": args.limit,
        "heldout": texts["heldout"][-1]})  # fmt: skip
    return {"losses": {mask: losses[mask] for mask in MASKS}} | probes


# ---------------------------------------------------------------- measured in its own process


def terms(out: str, model: str, domain: list[str], general: list[str]) -> Result:
    """Write the terms of a text to a folder."""
    import unmask

    folder = Path(out)
    folder.mkdir(parents=True)
    found = unmask.terms(domain, general, model, out=folder / "terms", offline=True).to_rows()
    return {"terms": len(found)}


def losses(model: str, heldout: list[str], masks: Result, length: int) -> Result:
    """Return the loss of a model on held-out text at several frozen masks."""
    from unmask.config.load import load_config
    from unmask.evaluation.evaluate import EvaluationSettings, evaluate
    from unmask.model.load import load_for_inference

    loaded, found = load_for_inference(model, offline=True), {}
    for mask, flags in masks.items():
        masking = load_config(None, (), flags).masking
        settings = EvaluationSettings(masking=masking, max_length=length, tokens=60_000, offline=True)
        found[mask] = evaluate([loaded], heldout, settings)[0].loss
    return found


# ---------------------------------------------------------------- results


def _figures(run: Result) -> list[float]:
    losses = [run["losses"][mask] for mask in MASKS]
    probes = [100 * value for value in run["probes"].values()]
    return [*losses, *probes, 100 * objectives.mean_probe(run), 100 * run["retrieval"]["ndcg_at_10"]]


def _show(runs: dict[str, list[Result]]) -> None:
    tasks = list(runs["token"][0]["probes"])
    rows = []
    for name, found in runs.items():
        figures = [_figures(run) for run in found]
        if name not in ("base", "token"):
            pairs = zip(figures, map(_figures, runs["token"]), strict=True)
            figures = [[one - other for one, other in zip(*pair, strict=True)] for pair in pairs]
        sign = "" if name in ("base", "token") else "+"
        cells = []
        for place, values in enumerate(zip(*figures, strict=True)):
            digits = 3 if place < len(MASKS) else 1
            spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):{sign}.{digits}f}{spread}")
        rows.append([name, *cells])
    header = ["trained by", *(f"loss, {mask} masks" for mask in MASKS), *tasks, "probes", "nDCG@10"]
    harness.table(header, rows)
    harness.say(
        "rows below token: difference from token with the same seed, mean ± standard deviation over seeds"
    )


if __name__ == "__main__":
    raise SystemExit(harness.main(work, options()))
