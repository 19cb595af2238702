"""Held-out loss against training time, from scratch: unmask compared with ``run_mlm``.

Both have the same text and tokenizer, unmask has no more weights, and every model is evaluated at the same frozen masks
of the same held-out text. The time to evaluate and save does not count. ``run_mlm`` trains BERT (4 layers, width 256) in
bf16 with a good learning rate; unmask trains a preset with its own recipe. The last text file is held out.

Finished parts (the run of ``run_mlm``, each run of unmask, the evaluations) are kept in the folder ``--parts``, so an
interrupted call continues with the missing ones. Another folder, or ``--again``, starts from the beginning.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import harness
import peers
from harness import Result, say

MARKS = (1.0, 2.0, 5.0, 10.0, 20.0)
COMPARED = (5.0, 10.0, 20.0)
ROWS = 32
SHARE_GOAL, NATS_GOAL = 1 / 25, 2.0


def options() -> argparse.ArgumentParser:
    made = harness.parser(__doc__ or "", rounds=None)
    add = made.add_argument
    add("--minutes", type=float, default=20.0, help="minutes of the run_mlm run")
    add(
        "--ours-minutes",
        nargs="+",
        type=float,
        default=[0.5, 2.0, 10.0],
        help="minutes of the unmask runs, one after another",
    )
    add("--preset", default="modernbert-mini", help="preset that unmask trains")
    add("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the unmask runs")
    add("--layers", type=int, default=4, help="layers of the BERT of run_mlm")
    add("--hidden", type=int, default=256, help="hidden size of the BERT of run_mlm")
    add("--peer-lr", type=float, default=5e-4, help="peak learning rate of run_mlm")
    add("--peer-schedule", default="constant_with_warmup", help="linear is the default of the script; models saved "
        "at earlier marks are then in the middle of the decay")  # fmt: skip
    add("--each", action="store_true", help="a separate run_mlm run for each mark, with a linear decay")
    add("--length", type=int, default=128, help="tokens per sequence")
    add("--eval-tokens", type=int, default=50_000, help="held-out tokens per evaluation")
    add("--eval-every", type=int, default=15, help="steps between evaluations of unmask")
    add("--seed", type=int, default=0, help="seed of the unmask runs")
    add("--parts", type=Path, default=harness.WORK / "time-to-quality", help="folder for finished parts")
    add("--again", action="store_true", help="delete finished parts first")
    return made


def work(args: argparse.Namespace) -> None:
    harness.need_peer()
    if args.again:
        shutil.rmtree(args.parts, ignore_errors=True)
    files = harness.texts(args.text)
    if len(files) < 2:
        raise harness.Failure("give at least two text files: the last one is held out")
    start = harness.start(args.vocabulary, args.layers, args.hidden)
    _check_budget(args.preset, start)
    settings: Result = {"start": start, "files": files[:-1]}
    about, held = harness.fingerprint(files[:-1]), harness.fingerprint(files[-1:])
    data = harness.once("blocks", about, "peers", "blocks", settings | {"length": args.length})
    shards = harness.once("shards", about, "ours", "shards", settings | {"documents": "auto"})
    heldout = harness.once(
        "shards", held, "ours", "shards", {"start": start, "files": files[-1:], "documents": "auto"}
    )
    peer = _peer(args, start, data, heldout)
    ours = [_ours(args, start, shards, heldout, minutes) for minutes in args.ours_minutes]
    comparison = compare(peer, ours)
    document = harness.report(
        "time_to_quality",
        args,
        text=files,
        peer=peer,
        ours=ours,
        comparison=comparison,
        goals=_goals(comparison),
    )
    harness.write(args.json, document)
    _show(document)


# ---------------------------------------------------------------- the parts


def _peer(args: argparse.Namespace, start: str, data: str, heldout: str) -> Result:
    """Train with run_mlm, once or once per mark, and evaluate the saved models."""
    marks = [mark for mark in MARKS if mark < args.minutes] + [args.minutes]
    wanted = [(mark, [mark]) for mark in marks] if args.each else [(args.minutes, marks)]
    schedule = "linear" if args.each else args.peer_schedule
    trained = []
    for minutes, own in wanted:
        name = f"peer-{minutes:g}-minutes"
        settings = {"out": str(args.parts / name), "start": start, "data": data, "rows": ROWS, "marks": own,
                    "settings": peers.BEST | {"learning_rate": args.peer_lr}, "minutes": minutes,
                    "schedule": schedule}  # fmt: skip
        trained.append(harness.part(args.parts, name, "peers", "train_run", settings))
    models = [model for run in trained for model in run["models"]]
    figures = _evaluate(args, "peer-evaluation", [model["model"] for model in models], heldout)
    curve = [model | figure for model, figure in zip(models, figures, strict=True)]
    return {"curve": curve, "parameters": trained[0]["parameters"], "runs": trained, "schedule": schedule}


def _ours(args: argparse.Namespace, start: str, shards: str, heldout: str, minutes: float) -> Result:
    """Train the preset for some minutes; the end of its curve is checked on the saved model."""
    name = f"ours-{minutes:g}-minutes"
    settings = {"out": str(args.parts / name), "shards": shards, "heldout": heldout, "preset": args.preset,
                "tokenizer": start, "minutes": minutes, "length": args.length, "seed": args.seed,
                "eval_every": _every(args, minutes), "eval_tokens": args.eval_tokens, "overrides": args.set}  # fmt: skip
    trained = harness.part(args.parts, name, "ours", "train_run", settings)
    (saved,) = _evaluate(args, f"{name}-evaluation", [trained["model"]], heldout)
    return trained | {"minutes": minutes, "saved_model": saved}


def _every(args: argparse.Namespace, minutes: float) -> int:
    """Return the steps between evaluations; a short run is evaluated more often, to time its losses."""
    every: int = args.eval_every
    return every if minutes >= 2 else max(2, every // 5)


def _evaluate(args: argparse.Namespace, name: str, models: list[str], heldout: str) -> list[Result]:
    settings = {"models": models, "heldout": heldout, "length": args.length, "tokens": args.eval_tokens,
                "precision": "bf16"}  # fmt: skip
    figures: list[Result] = harness.part(args.parts, name, "ours", "evaluate_models", settings)["figures"]
    return figures


def _check_budget(preset: str, start: str) -> None:
    weights = harness.run("ours", "parameters", {"preset": preset, "start": start})
    if weights["preset"] > weights["start"]:
        raise harness.Failure(
            f"{preset} has {weights['preset']:,} weights and the model of run_mlm only {weights['start']:,}; "
            f"choose a smaller --preset, or more --layers or --hidden"
        )


# ---------------------------------------------------------------- the comparison


def compare(peer: Result, ours: list[Result]) -> list[Result]:
    """Return, for each model of run_mlm, when a run of unmask reached its loss, and the loss of unmask at the same time."""
    rows = []
    for model in peer["curve"]:
        reached = [seconds for run in ours if (seconds := _reached(run["curve"], model["loss"])) is not None]
        seconds = min(reached, default=None)
        same = _at(ours, model["seconds"])
        rows.append(
            {
                "minutes": model["minutes"],
                "peer_loss": model["loss"],
                "peer_accuracy": model["accuracy"],
                "peer_seconds": model["seconds"],
                "ours_reached_after_seconds": seconds,
                "share_of_time": None if seconds is None else seconds / model["seconds"],
                "ours_loss": None if same is None else same["loss"],
                "ours_accuracy": None if same is None else same["accuracy"],
                "nats_lower": None if same is None else model["loss"] - same["loss"],
            }
        )
    return rows


def _reached(curve: list[Result], loss: float) -> float | None:
    """Return when a curve first reached a loss; evaluations are steps apart, so this is an upper bound."""
    return next((row["seconds"] for row in curve if row["loss"] <= loss), None)


def _at(ours: list[Result], seconds: float) -> Result | None:
    """Return the best row of unmask within some seconds, over all runs.

    Only runs of at least a fifth of the time count: a run of seconds says nothing about minutes.
    """
    rows = [
        row
        for run in ours
        for row in run["curve"]
        if seconds / 5 <= row["seconds"] <= seconds * 1.01 and run["seconds"] >= seconds / 5
    ]
    return min(rows, key=lambda row: row["loss"], default=None)


def _goals(comparison: list[Result]) -> list[Result]:
    goals = []
    for row in comparison:
        if row["minutes"] in COMPARED:
            what = f"share of the time to reach the loss of run_mlm after {row['minutes']:g} minutes"
            goals.append(harness.goal(what, row["share_of_time"], most=SHARE_GOAL))
        if row["minutes"] == 10.0:
            goals.append(harness.goal("nats lower after 10 minutes", row["nats_lower"], NATS_GOAL))
    return goals


def _show(document: Result) -> None:
    rows = []
    for row in document["comparison"]:
        cells = [f"{row['minutes']:g} min", f"{row['peer_loss']:.3f}", f"{row['peer_accuracy']:.3f}"]
        cells += [_number(row[key], form) for key, form in (
            ("ours_reached_after_seconds", "{:.0f} s"), ("share_of_time", "1/{:.0f}"), ("ours_loss", "{:.3f}"),
            ("ours_accuracy", "{:.3f}"), ("nats_lower", "{:.2f}"))]  # fmt: skip
        rows.append(cells)
    header = ["after", "run_mlm loss", "accuracy", "ours has it after", "of the time", "ours then", "accuracy",
              "nats lower"]  # fmt: skip
    harness.table(header, rows)
    for run in document["ours"]:
        end = run["curve"][-1]
        say(
            f"ours, {run['minutes']:g} minutes: loss {end['loss']:.3f} at its end, "
            f"{run['saved_model']['loss']:.3f} from the saved model"
        )
    harness.show_goals(document["goals"])


def _number(value: float | None, form: str) -> str:
    if value is None:
        return "-"
    return form.format(1 / value if form.startswith("1/") else value)


if __name__ == "__main__":
    raise SystemExit(harness.main(work, options()))
