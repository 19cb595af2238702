"""What grows with the work: text, documents, shards, vocabulary and length, and on paper what a terabyte would take.

Text is that of ``--text`` again and again with other words in it, and is prepared and trained on. Documents, shards, vocabulary
and length are of shards of random tokens and a small model, with which all of ``unmask train`` is run for some steps; documents
are prepared too, as lines of eight words. Costs are also given in CPU seconds, which other work on the machine changes less.
``private`` is by how much the memory of the process rose meanwhile; mapped files belong to the page cache of the system, which
all processes of a host share and which is given back when memory is short.

The default sizes take about 15 minutes on two cores that do nothing else. ``--megabytes 10 100 1000 3000`` goes further.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

import harness
from harness import Result

PARTS = ("text", "documents", "shards", "vocabulary", "length")
_A_SHARD = 2_000_000
_START = {"layers": 2, "hidden": 128}
_HOST, _CLUSTER = 64, 1024  # cores
_BILLION, _TERABYTE = 1e9, 1e6  # documents, megabytes
_KEYS = 8  # bytes of a document on disk that a random order reads


def options() -> argparse.ArgumentParser:
    made = harness.parser(__doc__ or "", rounds=1)
    add = made.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    add("--megabytes", type=int, nargs="+", default=[10, 100, 1000], help="sizes of the text")
    add(
        "--documents",
        type=int,
        nargs="+",
        default=[1000, 100_000, 1_000_000, 10_000_000],
        help="numbers of documents",
    )
    add("--prepared", type=int, default=1_000_000, help="most documents that are prepared too")
    add("--tokens", type=int, default=8, help="mean tokens of a document")
    add(
        "--shards",
        type=int,
        nargs="+",
        default=[1, 32, 1024],
        help="numbers of shards of a million documents",
    )
    add(
        "--vocabularies",
        type=int,
        nargs="+",
        default=[8192, 65_536, 262_144],
        help="entries of the vocabulary",
    )
    add("--lengths", type=int, nargs="+", default=[128, 1024, 8192], help="tokens of a sequence")
    add("--steps", type=int, default=12, help="steps of training")
    return made


def work(args: argparse.Namespace) -> None:
    measured: dict[str, dict[str, Result]] = {}
    goals: list[Result] = []
    for part in args.parts:
        measured[part], more = _PARTS[part](args)
        goals += more
        document = harness.report("growth", args, measured=measured, goals=goals, paper=_on_paper(measured))
        harness.write(args.json, document)
    paper = _on_paper(measured)
    if paper:
        harness.table(["on paper", ""], [[name, f"{value:,.3g}"] for name, value in paper.items()])
    harness.show_goals(goals)


# ---------------------------------------------------------------- parts


def _text(args: argparse.Namespace) -> tuple[dict[str, Result], list[Result]]:
    files = harness.texts(args.text, 1)
    start, about = harness.start(args.vocabulary, **_START), harness.fingerprint(files)

    def measure(size: int) -> Result:
        text = harness.once(f"text-{size}", about, "grown", "text", {"files": files, "megabytes": size})
        out = str(harness.WORK / f"grown-{size}")
        prepared = harness.run(
            "grown", "prepare", {"start": start, "text": text, "out": out, "documents": "block"}
        )
        return _with_training(args, prepared, out, start, 128, 4096)

    found = _turns(args, args.megabytes, measure, "MB")
    _show("MB of text", found, _PREPARING | _PLANNING | _TRAINING)
    first, *_, last = found.values()
    more = 1e-6 * max(
        last[name] - first[name] for name in ("prepare_private", "plan_private", "train_first_step_private")
    )
    return found, [
        harness.goal("CPU a token of preparation, most over least text", _each(last, "prepare_cpu", "tokens") / _each(first, "prepare_cpu", "tokens"), most=1.1),
        harness.goal("CPU a token of training, most over least text", last["train_cpu_per_token"] / first["train_cpu_per_token"], most=1.1),
        harness.goal("MB of memory more, most than least text", more, most=200),
        harness.goal("seconds to the first step, most more than least text", last["train_first_step"] - first["train_first_step"], most=5),
    ]  # fmt: skip


def _documents(args: argparse.Namespace) -> tuple[dict[str, Result], list[Result]]:
    files = harness.texts(args.text, 1)
    start, about = harness.start(args.vocabulary, **_START), harness.fingerprint(files)

    def measure(count: int) -> Result:
        found: Result = {}
        if count <= args.prepared:
            text = harness.once(
                f"lines-{count}", about, "grown", "lines", {"files": files, "documents": count}
            )
            out = str(harness.WORK / f"grown-lines-{count}")
            found = _prefixed("prepare", harness.run("grown", "prepare", {"start": start, "text": text, "out": out,
                                                                          "documents": "line"}))  # fmt: skip
        return found | _random(args, documents=count, shards=-(-count // _A_SHARD))

    found = _turns(args, args.documents, measure, "documents")
    _show("documents", found, _PREPARING | _PLANNING | _TRAINING)
    prepared = {name: result for name, result in found.items() if "prepare_private" in result}
    first, last = _ends(found)
    return found, [
        harness.goal("bytes a document, preparation", _slope(prepared, "prepare_private"), most=40),
        harness.goal("bytes a document, opening and planning", _slope(found, "plan_private"), most=40),
        harness.goal("bytes a document, to the first step", _slope(found, "train_first_step_private"), most=40),
        harness.goal("seconds to the first step, most more than fewest documents", last["train_first_step"] - first["train_first_step"], most=5),
    ]  # fmt: skip


def _shards(args: argparse.Namespace) -> tuple[dict[str, Result], list[Result]]:
    found = _turns(args, args.shards, lambda count: _random(args, shards=count), "shards")
    _show("shards", found, _PLANNING | _TRAINING)
    return found, []


def _vocabulary(args: argparse.Namespace) -> tuple[dict[str, Result], list[Result]]:
    found = _turns(
        args, args.vocabularies, lambda size: _random(args, documents=100_000, vocabulary=size), "entries"
    )
    _show("vocabulary", found, _TRAINING)
    return found, []


def _length(args: argparse.Namespace) -> tuple[dict[str, Result], list[Result]]:
    found = _turns(
        args,
        args.lengths,
        lambda length: _random(args, documents=2000, length=length, tokens=length),
        "tokens",
    )
    _show("length", found, _TRAINING)
    return found, []


_PARTS: dict[str, Callable[[argparse.Namespace], tuple[dict[str, Result], list[Result]]]] = {
    "text": _text,
    "documents": _documents,
    "shards": _shards,
    "vocabulary": _vocabulary,
    "length": _length,
}


def _random(args: argparse.Namespace, documents: int = 1_000_000, length: int = 128, **other: int) -> Result:
    """Measure shards of random tokens."""
    settings = {
        "documents": documents,
        "tokens": args.tokens,
        "shards": 1,
        "vocabulary": 8192,
        "length": length,
    } | other
    folder = harness.once("grown", [], "grown", "corpus", settings)
    found = {"documents": documents}
    return _with_training(args, found, f"{folder}/shards", f"{folder}/model", length, max(4096, 2 * length))


def _with_training(
    args: argparse.Namespace, found: Result, shards: str, model: str, length: int, batch_tokens: int
) -> Result:
    """Add what planning and training on shards cost; what was found of preparing them gets a name for it."""
    planned = harness.run("grown", "plan", {"shards": shards, "model": model})
    trained = harness.run("grown", "train", {"shards": shards, "model": model, "length": length,
                                             "batch_tokens": batch_tokens, "steps": args.steps})  # fmt: skip
    about = {"documents": planned["documents"], "tokens": planned["tokens"]}
    prepared = _prefixed("prepare", found) if "cpu" in found else {}
    return about | prepared | _prefixed("plan", planned) | _prefixed("train", trained)


def _prefixed(name: str, result: Result) -> Result:
    return {f"{name}_{key}": value for key, value in result.items()}


def _turns(
    args: argparse.Namespace, values: Iterable[int], measure: Callable[[int], Result], what: str
) -> dict[str, Result]:
    """Measure every value in turns; return the medians."""
    sides = {f"{value:,}": (lambda value=value: measure(value)) for value in values}
    found = harness.take_turns(sides, args.rounds, lambda side, result: harness.say(f"  {side} {what}"))
    return {
        side: {key: harness.middle(results, key) for key in results[0] if results[0][key] is not None}
        for side, results in found.items()
    }


# ---------------------------------------------------------------- tables and slopes

Columns = dict[str, Callable[[Result], float]]


def _each(result: Result, key: str, of: str) -> float:
    return float(result[key] / result[of])


_PREPARING: Columns = {
    "prepare MB/s": lambda result: _each(result, "prepare_megabytes", "prepare_seconds"),
    "MB a CPU s": lambda result: _each(result, "prepare_megabytes", "prepare_cpu"),
    "us CPU a token": lambda result: 1e6 * _each(result, "prepare_cpu", "prepare_tokens"),
    "private MB": lambda result: result["prepare_private"] / 1e6,
}
_PLANNING: Columns = {
    "open, ms": lambda result: 1e3 * result["plan_open"],
    "begin an epoch, ms": lambda result: 1e3 * result["plan_epoch"],
    "plan a step, ms": lambda result: 1e3 * result["plan_take"],
    "plan, private MB": lambda result: result["plan_private"] / 1e6,
}
_TRAINING: Columns = {
    "first step, s": lambda result: result["train_first_step"],
    "CPU s": lambda result: result["train_first_step_cpu"],
    "private MB until then": lambda result: result["train_first_step_private"] / 1e6,
    "tokens/s": lambda result: result["train_tokens_per_second"],
    "us CPU a trained token": lambda result: 1e6 * result["train_cpu_per_token"],
    "private MB to the end of the run": lambda result: result["train_private"] / 1e6,
    "checkpoint MB": lambda result: result["train_checkpoint"] / 1e6,
    "checkpoint s": lambda result: result["train_checkpoint_whole"],
}


def _show(what: str, found: dict[str, Result], columns: Columns) -> None:
    """Print a table with a line for each cost and a column for each size."""
    rows = [[name, *(_cell(value, result) for result in found.values())] for name, value in columns.items()]
    harness.table([what, *found], rows)


def _cell(value: Callable[[Result], float], result: Result) -> str:
    try:
        return f"{value(result):,.4g}"
    except KeyError:  # not measured at this size
        return ""


def _ends(found: dict[str, Result]) -> tuple[Result, Result]:
    first, *_, last = sorted(found.values(), key=lambda result: result["documents"])
    return first, last


def _slope(found: dict[str, Result], key: str, over: str = "documents") -> float | None:
    """Return by how much a value rises for each document, from the second largest size to the largest."""
    if len(found) < 2:
        return None
    *_, before, last = sorted(found.values(), key=lambda result: result[over])
    return float((last[key] - before[key]) / (last[over] - before[over]))


def _on_paper(measured: dict[str, dict[str, Result]]) -> dict[str, float]:
    """Return what a terabyte of text and a billion documents would take, by the slopes between the two largest sizes."""
    paper: dict[str, float] = {}
    if len(text := measured.get("text", {})) > 1:
        hours = (_slope(text, "prepare_cpu", "prepare_megabytes") or 0) * _TERABYTE / 3600
        paper |= {
            "1 TB: core hours of preparation": hours,
            f"1 TB: hours on {_HOST} cores": hours / _HOST,
            f"1 TB: hours on {_CLUSTER:,} cores": hours / _CLUSTER,
            "1 TB: GB of shards": (_slope(text, "prepare_disk", "prepare_megabytes") or 0) * _TERABYTE / 1e9,
            "1 TB: seconds to the first step": _first_step(text, "prepare_megabytes", _TERABYTE),
        }
    if len(documents := measured.get("documents", {})) > 1:
        paper |= {
            "1e9 documents: GB of memory of a process": (_slope(documents, "plan_private") or 0)
            * _BILLION
            / 1e9,
            "1e9 documents: GB of lengths and keys on disk": 2 * _KEYS * _BILLION / 1e9,
            "1e9 documents: seconds to open": (_slope(documents, "plan_open") or 0) * _BILLION,
            "1e9 documents: seconds to the first step": _first_step(documents, "documents", _BILLION),
        }
    return paper


def _first_step(found: dict[str, Result], over: str, size: float) -> float:
    *_, last = sorted(found.values(), key=lambda result: result[over])
    return float(
        last["train_first_step"] + (_slope(found, "train_first_step", over) or 0) * (size - last[over])
    )


if __name__ == "__main__":
    raise SystemExit(harness.main(work, options()))
