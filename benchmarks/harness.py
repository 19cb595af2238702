"""What the benchmarks share: text and vocabulary, one process for each measurement, turns, medians, tables, JSON.

This file imports nothing heavy, so that the process that starts the others takes no memory and no time of theirs.
A measurement is a function of another file here, called by name in a process of its own::

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
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
WORK = ROOT / "build" / "benchmarks"
DATA = ROOT.parent / "shared" / "data"
TEXTS = DATA / "general"
VOCABULARY = DATA / "vocab" / "bert-base-uncased-vocab.txt"
SITE = WORK / "site"

Result = dict[str, Any]


class Failure(Exception):
    """A benchmark that cannot go on; the message is all that a person has to see."""


# ---------------------------------------------------------------- a process for each measurement


def run(module: str, function: str, settings: Result) -> Result:
    """Call a function of a file in this folder in a process of its own and return its result.

    The result gains ``peak_rss_bytes``, the peak of the process's resident memory, ``process_seconds``, and the time of
    its processors in ``user_seconds`` and ``system_seconds``.

    Raises:
        Failure: the process failed; the message has the end of what it said.
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
    """Return the environment of a measurement: offline, its caches in the work folder, the peer's packages at hand."""
    caches = {"HF_DATASETS_CACHE": str(WORK / "datasets"), "HF_HUB_OFFLINE": "1"}
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    paths = [str(SITE), os.environ.get("PYTHONPATH", "")]
    return os.environ | caches | quiet | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def _called(arguments: Sequence[str]) -> None:
    """Be the process of a measurement."""
    module, function, given, found = arguments
    settings = json.loads(Path(given).read_text(encoding="utf-8"))
    result = getattr(importlib.import_module(module), function)(**settings)
    Path(found).write_text(json.dumps(result | _own_peak()), encoding="utf-8")


def _own_peak() -> Result:
    """Return the peak of this process alone, where Linux tells it: what a parent counts begins with its own size."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return {}
    lines = dict(
        line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines() if ":" in line
    )
    return {"peak_rss_bytes": int(lines["VmHWM"].split()[0]) * 1024} if "VmHWM" in lines else {}


def need_peer() -> None:
    """See to it that the peer's packages are there.

    Raises:
        Failure: they are not, and could not be installed.
    """
    if importlib.util.find_spec("accelerate") or (SITE / "accelerate").is_dir():
        return
    wanted = HERE / "requirements.txt"
    say(f"installing what the peer needs ({wanted.name}) into {SITE}")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    if subprocess.run([*pip, "--target", str(SITE), "-r", str(wanted)]).returncode:
        raise Failure(f"the peer's packages could not be installed; see {wanted}")


# ---------------------------------------------------------------- taking turns


def take_turns(
    sides: dict[str, Callable[[], Result]], rounds: int, report: Callable[[str, Result], None]
) -> dict[str, list[Result]]:
    """Measure every side once a round, A B A B, so that a machine that slows down slows all of them."""
    found: dict[str, list[Result]] = {name: [] for name in sides}
    for number in range(1, rounds + 1):
        for name, measure in sides.items():
            result = measure()
            found[name].append(result)
            report(f"round {number} of {rounds}, {name}", result)
    return found


def middle(results: Iterable[Result], key: str) -> float:
    """Return the median of one figure over the rounds."""
    return median(result[key] for result in results)


def summary(results: Sequence[Result], key: str) -> Result:
    """Return median, least and greatest of one figure over the rounds."""
    values = [result[key] for result in results]
    return {"median": median(values), "least": min(values), "greatest": max(values), "rounds": len(values)}


# ---------------------------------------------------------------- what is measured with


def parser(text: str, rounds: int | None = 3) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = made.add_argument
    add("--text", nargs="+", type=Path, metavar="FILE", help="text files; an article ends at an empty line")
    add("--vocabulary", type=Path, metavar="FILE", default=VOCABULARY, help="WordPiece vocab.txt")
    add("--json", type=Path, metavar="FILE", help="write every figure there, after each part of the work")
    if rounds is not None:
        add("--rounds", type=int, default=rounds, help="times that every side is measured")
    return made


def texts(given: list[Path] | None, most: int | None = None) -> list[str]:
    """Return the text files to use: those given, or ``most`` of those at hand.

    Raises:
        Failure: there are none.
    """
    files = given or sorted(TEXTS.glob("enwiki-*.txt"))[:most]
    missing = [str(path) for path in files if not path.is_file()]
    if missing or not files:
        raise Failure(f"no such text: {', '.join(missing) or TEXTS}; name text files with --text")
    return [str(path.resolve()) for path in files]


def start(vocabulary: Path, layers: int, hidden: int, **config: Any) -> str:
    """Return the folder of a BERT with new weights and its tokenizer, from which both sides start.

    Raises:
        Failure: there is no vocabulary.
    """
    if not vocabulary.is_file():
        raise Failure(f"no such vocabulary: {vocabulary}; name a WordPiece vocab.txt with --vocabulary")
    settings: Result = {"vocabulary": str(vocabulary.resolve()), "layers": layers, "hidden": hidden} | config
    folder = WORK / f"start-{layers}x{hidden}-{key_of(settings)}"
    if not (folder / "config.json").is_file():
        run("ours", "make_start", settings | {"out": str(folder)})
    return str(folder)


def key_of(content: Any) -> str:
    """Return a short name for whatever decides the content of a folder."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:10]


def identity(files: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return what says whether text files are still the same."""
    return [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in files]


def once(name: str, content: Any, module: str, function: str, settings: Result) -> str:
    """Return the folder of something prepared, making it in a process of its own the first time."""
    folder = WORK / f"{name}-{key_of([content, settings])}"
    if not folder.is_dir():
        say(f"preparing {folder.name}")
        run(module, function, settings | {"out": str(folder)})
    return str(folder)


def part(folder: Path, name: str, module: str, function: str, settings: Result) -> Result:
    """Return the result of a long part of a benchmark, kept from an earlier call with the same settings or made now."""
    path = folder / f"{name}.json"
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["settings"] == json.loads(json.dumps(settings)):
            say(f"{name}: done before")
            result: Result = kept["result"]
            return result
    say(f"{name}: at work")
    folder.mkdir(parents=True, exist_ok=True)
    result = run(module, function, settings)
    write(path, {"settings": settings, "result": result})
    return result


# ---------------------------------------------------------------- what comes out


def report(name: str, options: argparse.Namespace, **content: Any) -> Result:
    """Return the document of a benchmark; machine and versions are looked up in a process of their own."""
    machine = run("ours", "machine", {})
    settings = {key: value for key, value in vars(options).items() if key != "json"}
    when = datetime.now(UTC).isoformat(timespec="seconds")
    about = {"benchmark": name, "date": when, "machine": machine, "settings": settings}
    return about | content


def write(path: Path | None, document: Result) -> None:
    """Write the document whole, if a file was asked for."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    text = json.dumps(document, indent=2, default=str, ensure_ascii=False)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


def goal(what: str, value: float | None, least: float | None = None, most: float | None = None) -> Result:
    """Return a goal beside what was measured."""
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
    """Print the table of goals, where there are any."""
    if goals:
        table(["goal", "wanted", "measured", ""], goal_rows(goals))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout; the first column holds words, the others figures."""
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
    """Run a benchmark; what it cannot do is said in one message."""
    try:
        work(made.parse_args())
    except Failure as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped")
        return 130
    return 0


if __name__ == "__main__":
    _called(sys.argv[1:])
