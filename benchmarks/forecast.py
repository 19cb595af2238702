"""Do forecasts hold? Forecast adaptations from short probing runs, then make the long runs and compare.

A pair is a text and a base model. The texts are biomedical papers, two topics of Wikipedia (articles with enough of a few words) and
the docstrings of the installed Python packages; the models are encoders of several sizes, trained from scratch on general
text, and all-MiniLM-L6-v2 with an LM head trained on it. For each pair ``unmask forecast`` is made first, with runs of a fixed
number of steps, and written to a file. Then follow the runs that it is about: 10 times the tokens of its longest run without
replay, with the recommended share, and for ``--grids`` models with those of ``--shares``; for ``--hundredfold`` pairs also 100 times
the tokens, without replay. They are made as the probing runs are, with other numbers, and evaluated at the same masked tokens.

Counted are losses inside their 90% intervals, the error of the forecast domain loss, and whether the net gain (fall of the domain
loss less rise of the general loss) with the recommended replay share is within 5% of the best share that was run.

Finished parts are kept; an interrupted call continues with the missing ones, and calls with other ``--pairs`` can run beside it.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from statistics import median

import adaptation
import harness
from harness import Result, say

MODELS: dict[str, Result] = {
    "2x128": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256,
              "layer_types": ["sliding_attention", "full_attention"], "local_attention": 16},
    "4x256": {"preset": "modernbert-mini"},
    "6x384": {"preset": "modernbert-small"},
    "minilm": {},
}  # fmt: skip
TOPICS = {
    "sport": r"\b(league|season|championship|goals?|coach|tournament|playoffs?|club)\b",
    "music": r"\b(album|band|song|guitar|chart|single|recording|vocals?)\b",
}
PAIRS = (
    "biomedical:2x128",
    "sport:2x128",
    "python:2x128",
    "music:4x256",
    "biomedical:4x256",
    "python:6x384",
    "biomedical:minilm",
)
_TOPIC_WORDS = 0.012  # of the words of an article about a topic
_PYTHON_CHARACTERS = 4_000_000
_EQUAL = 0.05
COVERED, ERROR = 0.85, 0.02


def options() -> argparse.ArgumentParser:
    made = harness.parser(__doc__ or "", rounds=None)
    add = made.add_argument
    data = harness.DATA
    add("--domain", nargs="+", type=Path, default=sorted((data / "biomedical").glob("*.txt")), metavar="FILE",
        help="biomedical text; the last file is held out")  # fmt: skip
    add("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS), help="text and base model")
    add("--base-steps", type=int, default=300, help="steps of 4,096 tokens of the base models, from scratch")
    add("--longest", type=int, default=48, help="steps of the longest probing run")
    add("--batch-tokens", type=int, default=1024, help="tokens per step")
    add("--learning-rate", type=float, default=5e-4, help="of all runs")
    add("--length", type=int, default=128, help="tokens per sequence")
    add("--eval-tokens", type=int, default=20_000, help="held-out tokens of an evaluation")
    add("--hundredfold", nargs="*", choices=PAIRS, default=["biomedical:2x128"],
        help="pairs that also run 100 times as long")  # fmt: skip
    add("--grids", nargs="*", choices=MODELS, default=["2x128", "4x256"], help="models that run all --shares")
    add(
        "--shares",
        nargs="*",
        type=float,
        default=[0.05, 0.2, 0.5],
        help="replay shares beside none and the recommended",
    )
    add("--parts", type=Path, default=harness.WORK / "forecast", help="folder for finished parts")
    return made


def work(args: argparse.Namespace) -> None:
    general, domain = harness.texts(args.text), harness.texts(args.domain)
    if len(general) < 4:
        raise harness.Failure(
            "expected at least 4 files of general text (--text): for topics, for replay and to train on"
        )
    document = harness.report("forecast", args, text=general, domain=domain)
    rows: list[Result] = []
    for pair in args.pairs:
        topic, model = pair.split(":")
        flags = _flags(args, general, _texts(args, topic, general, domain), _base(args, model, general))
        rows += _pair(args, pair, flags)
        harness.write(args.json, document | {"rows": rows})
    document |= {"rows": rows, "goals": _goals(rows)}
    harness.write(args.json, document)
    _show(document)


def _texts(args: argparse.Namespace, topic: str, general: list[str], domain: list[str]) -> Result:
    """Return the training text of a topic, and its held-out text where it is a file of its own."""
    if topic == "biomedical":
        # By paragraph: a few long papers are no sample to resample.
        return {"train": domain[:-1], "heldout": domain[-1:], "documents": "line"}
    if topic == "python":
        return {"train": [harness.documentation(_PYTHON_CHARACTERS)[0]], "heldout": [], "documents": "auto"}
    settings: Result = {"topic": topic, "files": general[-3:-1]}
    folder = harness.once("topic", harness.fingerprint(settings["files"]), "forecast", "topic_text", settings)
    return {"train": [str(next(Path(folder).iterdir()))], "heldout": [], "documents": "auto"}


def _base(args: argparse.Namespace, model: str, general: list[str]) -> str:
    """Return the folder of a base model, trained on all general text but the last three files."""
    start = harness.start(args.vocabulary, 4, 256)  # for its tokenizer alone
    flags: Result = {"data.inputs": _shards(start, general[:-3]), "data.heldout": _shards(start, general[-1:]),
                     "data.max_length": args.length, "train.batch_tokens": 4096, "train.max_steps": args.base_steps}  # fmt: skip
    if model == "minilm":
        flags |= {"model.name": adaptation.minilm(), "train.head_warmup_steps": args.base_steps // 2}
    else:
        flags |= {
            "model.preset": MODELS[model].get("preset") or _config(args, model),
            "model.tokenizer": start,
        }
    out = str(args.parts / f"base-{model}")
    run = harness.part(args.parts, f"base-{model}", "adaptation", "trained", {"out": out, "flags": flags})
    return str(run["model"])


def _config(args: argparse.Namespace, model: str) -> str:
    entries = len(args.vocabulary.read_text(encoding="utf-8").splitlines())
    path = args.parts / f"{model}.json"
    shape = {"model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"], "vocab_size": entries,
             "max_position_embeddings": 512}  # fmt: skip
    harness.write(path, shape | MODELS[model])
    return str(path)


def _shards(start: str, files: list[str], documents: str = "auto") -> list[str]:
    """Return prepared text, which all runs share."""
    settings: Result = {"start": start, "files": files, "documents": documents}
    return [harness.once("shards", harness.fingerprint(files), "ours", "shards", settings)]


def _flags(args: argparse.Namespace, general: list[str], texts: Result, model: str) -> Result:
    """Return the settings of the runs of a pair."""
    train, heldout = (
        _shards(model, texts[name], texts["documents"]) if texts[name] else []
        for name in ("train", "heldout")
    )
    return {"model.name": model, "data.inputs": train, "data.heldout": heldout, "data.replay": _shards(model, general[-1:]),
             "data.max_length": args.length, "train.batch_tokens": args.batch_tokens,
             "train.eval_tokens": args.eval_tokens, "train.optimizer.learning_rate": args.learning_rate}  # fmt: skip


def _pair(args: argparse.Namespace, pair: str, flags: Result) -> list[Result]:
    """Forecast, run, and return what was forecast and what came for each later run."""
    name = pair.replace(":", "-")
    forecast = harness.part(
        args.parts, f"{name}-forecast", "forecast", "forecasted", {"flags": flags, "longest": args.longest}
    )
    rows = []
    for horizon in forecast["horizons"]:
        far = horizon["factor"] > 10
        if far and pair not in args.hundredfold:
            continue
        if far:  # where a replay share takes as long again
            horizon["replay"] = None
        steps = int(horizon["factor"]) * args.longest
        best = (horizon["replay"] or {}).get("best") or 0.0
        grid = [] if far or pair.split(":")[1] not in args.grids else args.shares
        later = harness.part(args.parts, f"{name}-{horizon['factor']}x", "forecast", "later", {
            "flags": flags, "plan": forecast["plan"], "steps": steps, "shares": sorted({0.0, best, *grid})})  # fmt: skip
        rows.append(
            {"pair": pair, "reasons": _reasons(forecast, horizon)} | _compared(forecast, horizon, later)
        )
        say(f"{pair}, {horizon['factor']} times: {rows[-1]}")
    return rows


def _reasons(forecast: Result, horizon: Result) -> list[str]:
    found = forecast["domain"]["reasons"] + forecast["forgetting"]["reasons"] + [horizon["reason"]]
    return [reason for reason in found if reason]


def _compared(forecast: Result, horizon: Result, later: Result) -> Result:
    """Return the forecast values of a horizon beside the measured ones."""
    runs = {run["replay_share"]: run for run in later["runs"]}
    base = {text: later["base"][text]["value"] for text in ("domain", "general")}
    replay = horizon["replay"] or {}
    cases = [("domain", 0.0, horizon["domain"]), ("forgetting", 0.0, horizon["forgetting"])]
    if best := replay.get("best"):
        cases += [("domain", best, replay["domain"]), ("forgetting", best, replay["forgetting"])]
    found = []
    for what, share, expected in cases:
        run = runs[share]
        measured = run["domain"] if what == "domain" else run["general"] - base["general"]
        found.append({"what": what, "share": share, "measured": measured, "forecast": expected})
    nets = {
        share: base["domain"] - run["domain"] - (run["general"] - base["general"])
        for share, run in runs.items()
    }
    return {"factor": horizon["factor"], "tokens": horizon["tokens"], "base": base, "cases": found,
            "recommended": replay.get("best"), "as_good": replay.get("as_good"), "net_gains": nets}  # fmt: skip


# ---------------------------------------------------------------- measured in its own process


def topic_text(out: str, topic: str, files: list[str]) -> Result:
    """Write the text of a topic to a folder."""
    folder = Path(out)
    folder.mkdir(parents=True)
    articles = [article for file in files for article in re.split(r"\n\s*\n", Path(file).read_text("utf-8"))]
    about = [
        article
        for article in articles
        if len(re.findall(TOPICS[topic], article.lower())) > _TOPIC_WORDS * max(50, len(article.split()))
    ]
    (folder / f"{topic}.txt").write_text("\n\n".join(about), encoding="utf-8")
    return {"articles": len(about)}


def forecasted(flags: Result, longest: int) -> Result:
    """Make the forecast of a pair, with a longest probing run of so many steps."""
    from unmask.forecasting.plan import REPLAY_SHARES, plan_runs

    manifests = [
        json.loads((Path(path) / "manifest.json").read_text("utf-8")) for path in flags["data.inputs"]
    ]
    tokens = sum(manifest["tokens"] for manifest in manifests)
    share = min(1.0, longest * flags["train.batch_tokens"] / tokens)
    return _run(
        flags, [run.to_dict() for run in plan_runs(longest, share, REPLAY_SHARES)], flags["train.eval_tokens"]
    )


def later(flags: Result, plan: Result, steps: int, shares: list[float]) -> Result:
    """Make the later runs of a pair, one for each replay share, and return what they reached."""
    from unmask.forecasting.plan import ProbingRun

    runs = [
        ProbingRun("replay" if share else "length", steps, replay_share=share).to_dict() for share in shares
    ]
    found = _run(flags, runs, plan["eval_tokens"])
    return {"base": found["base"], "runs": found["probes"]}


def _run(flags: Result, runs: list[Result], eval_tokens: int) -> Result:
    import tempfile

    from unmask.config.load import load_config
    from unmask.forecasting.forecast import forecast

    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump({"plan": {"runs": runs, "eval_tokens": eval_tokens}}, file)
        file.flush()
        return forecast(load_config(None, (), flags | {"model.offline": True}), plan=file.name).to_dict()


# ---------------------------------------------------------------- results


def _forecast_cases(rows: list[Result]) -> list[Result]:
    return [case for row in rows for case in row["cases"] if case["forecast"]]


def _goals(rows: list[Result]) -> list[Result]:
    cases = _forecast_cases(rows)
    domain = [case for case in cases if case["what"] == "domain"]
    errors = [abs(case["forecast"]["value"] / case["measured"] - 1) for case in domain]
    chosen = [_within(row) for row in rows if row["recommended"] is not None]
    return [
        harness.goal("pairs of text and model", len({row["pair"] for row in rows}), least=6),
        harness.goal("losses inside their intervals", _share(map(_inside, cases)), least=COVERED),
        harness.goal("of these, domain losses", _share(map(_inside, domain)), least=COVERED),
        harness.goal("median error of the domain loss", median(errors) if errors else None, most=ERROR),
        harness.goal("recommended replay within 5% of the best share", _share(chosen), least=1.0),
    ]


def _share(found) -> float | None:  # type: ignore[no-untyped-def]
    values = list(found)
    return sum(values) / len(values) if values else None


def _inside(case: Result) -> bool:
    low, high = case["forecast"]["interval"]
    return bool(low <= case["measured"] <= high)


def _within(row: Result) -> bool:
    nets = {float(share): net for share, net in row["net_gains"].items()}
    best = max(nets.values())
    return bool(best - nets[row["recommended"]] <= _EQUAL * abs(best))


def _show(document: Result) -> None:
    lines = []
    for row in document["rows"]:
        for case in row["cases"]:
            expected = case["forecast"]
            if expected:
                low, high = expected["interval"]
                text = [
                    f"{expected['value']:.3f}",
                    f"{low:.3f} to {high:.3f}",
                    "yes" if _inside(case) else "no",
                ]
            else:
                text = ["cannot tell", "", ""]
            lines.append([row["pair"], f"{row['factor']}", case["what"], f"{case['share']:.0%}",
                          f"{row['base']['domain']:.3f}" if case["what"] == "domain" else "",
                          f"{case['measured']:.3f}", *text])  # fmt: skip
    harness.table(
        ["pair", "times", "what", "replay", "before", "came", "forecast", "interval", "inside"], lines
    )
    lines = [
        [row["pair"], f"{row['factor']}", "-" if row["recommended"] is None else f"{row['recommended']:.0%}",
         "  ".join(f"{float(share):.0%} {net:+.3f}" for share, net in row["net_gains"].items())]
        for row in document["rows"]
    ]  # fmt: skip
    harness.table(["pair", "times", "recommended replay", "net gains by replay share, nats"], lines)
    harness.show_goals(document["goals"])


if __name__ == "__main__":
    raise SystemExit(harness.main(work, options()))
