"""How to forget less? Adapt a small general encoder to another domain in several ways, over equal tokens and several seeds.

Compared are replay, layer-wise learning rates, LoRA, frozen embeddings, an average of the last checkpoints, and mixtures of base
and adapted weights. One table has what each gains on the domain and loses on general text, as shares of what plain training with
the same seed gains and loses. The encoder is trained from scratch as for ``adaptation.py``, or given by ``--base``.

Finished parts are kept; an interrupted call continues with the missing ones.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev

import adaptation
import harness
from harness import Result

WAYS: dict[str, Result] = {
    "plain": {},
    "5% replay": {"data.replay_share": 0.05},
    "20% replay": {"data.replay_share": 0.2},
    "layer decay 0.8": {"train.optimizer.layer_decay": 0.8},
    "LoRA, rank 16": {"train.lora_rank": 16},
    "frozen embeddings": {"train.freeze": "embeddings"},
}
MIXED = ("plain", "5% replay", "20% replay")
ALPHAS = (0.5, 0.6, 0.7, 0.8, 0.9)


def options() -> argparse.ArgumentParser:
    made = harness.parser(__doc__ or "", rounds=None)
    adaptation.add_encoder_options(made, base_steps=2000)
    add = made.add_argument
    add("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="what is compared with plain")
    add("--steps", type=int, default=400, help="steps of adapting")
    add("--batch-tokens", type=int, default=8192, help="tokens per step of adapting")
    add("--learning-rate", type=float, default=1e-3, help="of adapting")
    add("--tail", type=int, default=5, help="checkpoints that are averaged")
    add("--seeds", type=int, default=3, help="runs of each way")
    add("--parts", type=Path, default=harness.WORK / "adaptation", help="folder for finished parts")
    return made


def work(args: argparse.Namespace) -> None:
    texts = adaptation.texts_of(args)
    base = adaptation.base_model(args, texts)
    rows: dict[str, list[tuple[float, float]]] = {}
    for seed in range(args.seeds):
        ways = dict.fromkeys(["plain", *args.ways])
        runs = {way: _adapt(args, way, seed, base, texts) for way in ways}
        whole = runs["plain"]["points"][-1]
        for way, run in runs.items():
            points = {each["alpha"]: each for each in run["points"]}
            rows.setdefault(way, []).append(_shares(points[1.0], whole))
            for alpha in ALPHAS if way in MIXED else ():
                rows.setdefault(f"{way}, alpha {alpha:g}", []).append(_shares(points[alpha], whole))
            if "tail" in run:
                rows.setdefault(f"{way}, average of the last {args.tail}", []).append(
                    _shares(run["tail"], whole)
                )
    goals = [
        harness.goal(
            f"forgetting of plain's where 90% of the gain is kept: {way}",
            mean(lost for _, lost in found),
            most=0.3,
        )
        for way, found in rows.items()
        if mean(gain for gain, _ in found) >= 0.9
    ]
    document = harness.report("forgetting", args, texts=texts, rows=rows, goals=goals)
    harness.write(args.json, document)
    harness.table(
        ["adapted", "share of plain's gain", "share of plain's forgetting"],
        [
            [way, *(_share_text([pair[place] for pair in found]) for place in (0, 1))]
            for way, found in rows.items()
        ],
    )
    harness.show_goals(goals)


def _adapt(args: argparse.Namespace, way: str, seed: int, base: str, texts: Result) -> Result:
    flags = {"model.name": base, "data.inputs": texts["domain"], "data.heldout": texts["heldout"],
             "data.forgetting_eval": texts["forgetting_eval"], "data.max_length": args.length,
             "train.max_steps": args.steps, "train.batch_tokens": args.batch_tokens, "train.seed": seed,
             "train.optimizer.learning_rate": args.learning_rate, "train.patience": 0, "train.export_best": False,
             "train.save_every": max(1, args.steps // 20), "train.keep_last": args.tail,
             "train.eval_every": args.steps, "train.eval_tokens": 20_000} | WAYS[way]  # fmt: skip
    if "replay" in way:
        flags["data.replay"] = texts["general"]
    name = f"forget-{way.replace(' ', '-').replace('%', '').replace(',', '')}-{seed}"
    return harness.part(args.parts, name, "forgetting", "mixed", {
        "out": str(args.parts / name), "flags": flags, "tail": args.tail if way == "plain" else 0})  # fmt: skip


def _shares(point: Result, whole: Result) -> tuple[float, float]:
    """Return gain and forgetting of a point as shares of those of plain training."""
    gain, lost = (
        point[text]["change"]["value"] / whole[text]["change"]["value"] for text in ("domain", "general")
    )
    return gain, lost


def _share_text(values: list[float]) -> str:
    spread = f" ± {100 * stdev(values):.0f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.0f}{spread}%"


# ---------------------------------------------------------------- measured in its own process


def mixed(out: str, flags: Result, tail: int) -> Result:
    """Adapt, and return the mixtures of base and adapted weights, and the average of the last checkpoints at alpha 1."""
    result = adaptation.trained(out, flags)
    points = json.loads((Path(out) / "adaptation.json").read_text("utf-8"))["interpolation"]["points"]
    found = {"points": points, "seconds": result["seconds"]}
    return found | ({"tail": _tail(Path(out), flags, tail, points)} if tail else {})


def _tail(out: Path, flags: Result, tail: int, points: list[Result]) -> Result:
    """Evaluate the average of the last checkpoints on the same masks as the mixtures."""
    import torch

    from unmask.config.load import load_config
    from unmask.progress import Progress
    from unmask.run.components import build_components
    from unmask.run.results import metrics_on
    from unmask.run_folder import RunFolder
    from unmask.training.checkpoint import list_checkpoints, restore

    config = load_config(out / "config.yaml", (), {"model.offline": True})
    components = build_components(config, RunFolder(out), Progress())
    model, total = components.model.model, {}
    kept = list_checkpoints(RunFolder(out).checkpoints)[-tail:]
    for checkpoint in kept:
        restore(checkpoint, model, [])
        for name, weight in model.named_parameters():
            total[name] = total.get(name, 0) + weight.detach().double() / len(kept)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(total[name])
    texts = {"domain": components.heldout, "general": components.general}
    losses = {
        name: metrics_on(components, text, flags["train.eval_tokens"]).loss for name, text in texts.items()
    }
    return {name: {"change": {"value": loss - points[0][name]["loss"]}} for name, loss in losses.items()}


if __name__ == "__main__":
    raise SystemExit(harness.main(work, options()))
