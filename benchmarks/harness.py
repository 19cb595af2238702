"""Shared by the benchmarks: text and vocabulary, one process per measurement, turns, medians, tables, JSON.

This file imports nothing heavy, so that the parent process takes no memory or time from the measurements. A measurement
is a function of another file here, called by name in its own process::

    run("peers", "speed", {"rows": 32, ...})  ->  {"tokens_per_second": 1694.2, ...}
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
WORK = ROOT / "build" / "benchmarks"
DATA = Path(os.environ.get("UNMASK_BENCHMARK_DATA") or ROOT.parent / "shared" / "data")
TEXTS = DATA / "general"
VOCABULARY = DATA / "vocab" / "bert-base-uncased-vocab.txt"
SITE = WORK / "site"
FORMS = ("onnx", "onnx-int8", "openvino", "openvino-int8")

Result = dict[str, Any]


class Failure(Exception):
    """A benchmark cannot continue; its message is printed without a traceback."""


# ---------------------------------------------------------------- one process per measurement


def run(module: str, function: str, settings: Result) -> Result:
    """Call a function of a file in this folder in its own process and return its result.

    The result also has ``peak_rss_bytes`` (peak resident memory of the process), ``process_seconds``, and its CPU time in
    ``user_seconds`` and ``system_seconds``.

    Raises:
        Failure: the process failed; the message has the end of its output.
    """
    place = WORK / "jobs"
    place.mkdir(parents=True, exist_ok=True)
    stem = f"{os.getpid()}-{time.time_ns()}"
    given, found, log = (place / f"{stem}.{kind}" for kind in ("in.json", "out.json", "log"))
    given.write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, str(HERE / "harness.py"), module, function, str(given), str(found)]
    begin = time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=_environment())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not found.is_file():
        end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:])
        raise Failure(f"{module}.{function} failed with exit code {process.returncode}\n{end}\n(log: {log})")
    result: Result = json.loads(found.read_text(encoding="utf-8"))
    for path in (given, found, log):
        path.unlink()
    unit = 1 if sys.platform == "darwin" else 1024
    return result | {
        "peak_rss_bytes": result.get("peak_rss_bytes") or usage.ru_maxrss * unit,
        "process_seconds": round(time.perf_counter() - begin, 2),
        "user_seconds": round(usage.ru_utime, 2),
        "system_seconds": round(usage.ru_stime, 2),
    }


def _environment() -> dict[str, str]:
    """Return the environment of a measurement: offline, caches in the work folder, the packages of ``run_mlm`` on the path."""
    caches = {"HF_DATASETS_CACHE": str(WORK / "datasets"), "HF_HUB_OFFLINE": "1"}
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    paths = [str(SITE), os.environ.get("PYTHONPATH", "")]
    return os.environ | caches | quiet | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def _called(arguments: Sequence[str]) -> None:
    """Run one measurement in this process."""
    module, function, given, found = arguments
    settings = json.loads(Path(given).read_text(encoding="utf-8"))
    result = getattr(importlib.import_module(module), function)(**settings)
    Path(found).write_text(json.dumps(result | _own_peak()), encoding="utf-8")


def _own_peak() -> Result:
    """Return the peak memory of this process on Linux; the count that a parent gets starts at the parent's own size."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return {}
    lines = dict(
        line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines() if ":" in line
    )
    return {"peak_rss_bytes": int(lines["VmHWM"].split()[0]) * 1024} if "VmHWM" in lines else {}


def need_peer() -> None:
    """Install the packages that ``run_mlm`` needs, if they are missing.

    Raises:
        Failure: they could not be installed.
    """
    if importlib.util.find_spec("accelerate") or (SITE / "accelerate").is_dir():
        return
    wanted = HERE / "requirements.txt"
    say(f"installing the packages of run_mlm ({wanted.name}) into {SITE}")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    if subprocess.run([*pip, "--target", str(SITE), "-r", str(wanted)]).returncode:
        raise Failure(f"the packages of run_mlm could not be installed; see {wanted}")


def exported(model: str, form: str, source: str) -> str:
    """Export a model once; new weights predict nothing, so its comparison decides nothing."""
    folder = WORK / f"{Path(model).name}-{form}"
    if not folder.is_dir():
        options = ["--format", form, "--data", source, "--tokens", "5000", "--force", "-q"]
        command = [sys.executable, "-m", "unmask", "export", model, "-o", str(folder), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return str(folder)


# ---------------------------------------------------------------- taking turns


def take_turns(
    sides: dict[str, Callable[[], Result]], rounds: int, report: Callable[[str, Result], None]
) -> dict[str, list[Result]]:
    """Measure every side once per round, A B A B, so that a slower machine affects all sides alike."""
    found: dict[str, list[Result]] = {name: [] for name in sides}
    for number in range(1, rounds + 1):
        for name, measure in sides.items():
            result = measure()
            found[name].append(result)
            report(f"round {number} of {rounds}, {name}", result)
    return found


def middle(results: Iterable[Result], key: str) -> float:
    """Return the median of one value over the rounds."""
    return median(result[key] for result in results)


def summary(results: Sequence[Result], key: str) -> Result:
    """Return median, minimum and maximum of one value over the rounds."""
    values = [result[key] for result in results]
    return {"median": median(values), "least": min(values), "greatest": max(values), "rounds": len(values)}


# ---------------------------------------------------------------- inputs


def parser(text: str, rounds: int | None = 3) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = made.add_argument
    add("--text", nargs="+", type=Path, metavar="FILE", help="text files; an article ends at an empty line")
    add("--vocabulary", type=Path, metavar="FILE", default=VOCABULARY, help="WordPiece vocab.txt")
    add("--json", type=Path, metavar="FILE", help="write all measurements to this file, after each part")
    if rounds is not None:
        add("--rounds", type=int, default=rounds, help="measurements per side")
    return made


def add_size(made: argparse.ArgumentParser, what: str = "the model") -> None:
    """Add the option ``--size`` of models with new weights."""
    made.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=[6, 384],
        metavar=("LAYERS", "WIDTH"),
        help=f"size of {what} with new weights",
    )


def texts(given: list[Path] | None, most: int | None = None) -> list[str]:
    """Return the text files to use: those given, or up to ``most`` of the data folder.

    Raises:
        Failure: there are none.
    """
    files = given or sorted(TEXTS.glob("enwiki-*.txt"))[:most]
    missing = [str(path) for path in files if not path.is_file()]
    if missing or not files:
        raise Failure(f"no such text: {', '.join(missing) or TEXTS}; name text files with --text")
    return [str(path.resolve()) for path in files]


def start(vocabulary: Path, layers: int, hidden: int, **config: Any) -> str:
    """Return the folder of a BERT with new weights and its tokenizer, where both sides start.

    Raises:
        Failure: the vocabulary is missing.
    """
    if not vocabulary.is_file():
        raise Failure(f"no such vocabulary: {vocabulary}; name a WordPiece vocab.txt with --vocabulary")
    settings: Result = {"vocabulary": str(vocabulary.resolve()), "layers": layers, "hidden": hidden} | config
    folder = WORK / f"start-{layers}x{hidden}-{key_of(settings)}"
    if not (folder / "config.json").is_file():
        run("ours", "make_start", settings | {"out": str(folder)})
    return str(folder)


def key_of(content: Any) -> str:
    """Return a short hash of the settings that determine the content of a folder."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:10]


def fingerprint(files: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return path, size and modification time of text files, to notice changes."""
    return [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in files]


def once(name: str, content: Any, module: str, function: str, settings: Result) -> str:
    """Return the folder of prepared data; the first call makes it in its own process."""
    folder = WORK / f"{name}-{key_of([content, settings])}"
    if not folder.is_dir():
        say(f"preparing {folder.name}")
        run(module, function, settings | {"out": str(folder)})
    return str(folder)


def documentation(characters: int) -> tuple[str, str]:
    """Return the files of the documentation of the installed packages: training text, and held-out text."""
    installed = sorted(f"{each.name} {each.version}" for each in distributions())
    settings = {"characters": characters}
    folder = Path(once("documentation", [sys.version, installed], "ours", "documentation", settings))
    return str(folder / "train.jsonl"), str(folder / "heldout.jsonl")


def part(folder: Path, name: str, module: str, function: str, settings: Result) -> Result:
    """Return the result of a long part of a benchmark, from an earlier call with the same settings or computed now."""
    path = folder / f"{name}.json"
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["settings"] == json.loads(json.dumps(settings)):
            say(f"{name}: kept from an earlier call")
            result: Result = kept["result"]
            return result
    say(f"{name}: running")
    folder.mkdir(parents=True, exist_ok=True)
    result = run(module, function, settings)
    write(path, {"settings": settings, "result": result})
    return result


# ---------------------------------------------------------------- results


def report(name: str, options: argparse.Namespace, **content: Any) -> Result:
    """Return the result of a benchmark as a dictionary, with machine and versions."""
    machine = run("ours", "machine", {})
    settings = {key: value for key, value in vars(options).items() if key != "json"}
    when = datetime.now(UTC).isoformat(timespec="seconds")
    about = {"benchmark": name, "date": when, "machine": machine, "settings": settings}
    return about | content


def write(path: Path | None, document: Result) -> None:
    """Write the result atomically, if a file was given."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    text = json.dumps(document, indent=2, default=str, ensure_ascii=False)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


def goal(what: str, value: float | None, least: float | None = None, most: float | None = None) -> Result:
    """Return a goal with the measured value."""
    met = value is not None and (least is None or value >= least) and (most is None or value <= most)
    return {"goal": what, "least": least, "most": most, "measured": value, "met": met}


def goal_rows(goals: Iterable[Result]) -> list[list[str]]:
    """Return the rows of a table of goals."""
    rows = []
    for item in goals:
        bound = f">= {item['least']:g}" if item["least"] is not None else f"<= {item['most']:g}"
        measured = "-" if item["measured"] is None else f"{item['measured']:.3g}"
        rows.append([item["goal"], bound, measured, "met" if item["met"] else "missed"])
    return rows


def show_goals(goals: Sequence[Result]) -> None:
    """Print the table of goals, if there are any."""
    if goals:
        table(["goal", "wanted", "measured", ""], goal_rows(goals))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout; the first column is left-aligned, the others right-aligned."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for number, line in enumerate(lines):
        cells = [
            cell.ljust(width) if not n else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
        if not number:
            sys.stdout.write("  ".join("-" * width for width in widths) + "\n")
    sys.stdout.write("\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Print a line on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main(work: Callable[[argparse.Namespace], None], made: argparse.ArgumentParser) -> int:
    """Run a benchmark and return the exit code; a :class:`Failure` is printed as one message."""
    try:
        work(made.parse_args())
    except Failure as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    return 0


if __name__ == "__main__":
    _called(sys.argv[1:])
