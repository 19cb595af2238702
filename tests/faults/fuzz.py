"""Fuzzing of what reads foreign bytes: the readers of text, of records, of settings and of manifests.

    python tests/faults/fuzz.py --seconds 60 [--seed 0]

With ``atheris`` installed (pip install atheris) inputs are guided by coverage; without it they are mutations of seeds,
by chance but the same for the same ``--seed``. Whatever is raised but an UnmaskError, or takes longer than 10 s, is a
find: its bytes go to a file, which ``--again FILE`` tries once more.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
try:
    import atheris
except ImportError:
    atheris = None
    from unmask.config.load import load_config, starter_yaml
    from unmask.config.settings import DocumentSettings
    from unmask.data.corpus import open_corpus
    from unmask.data.reading.documents import DocumentReader
    from unmask.data.reading.records import RecordReader
else:
    with atheris.instrument_imports(include=["unmask"]):
        from unmask.config.load import load_config, starter_yaml
        from unmask.config.settings import DocumentSettings
        from unmask.data.corpus import open_corpus
        from unmask.data.reading.documents import DocumentReader
        from unmask.data.reading.records import RecordReader

import hostile

from unmask.errors import UnmaskError

SLOW = 10
SUFFIXES = ["txt", "jsonl", "json", "csv", "tsv", "parquet", "txt.gz", "txt.zst", "jsonl.gz", "parquet.gz"]
MODES = ["auto", "file", "block", "line"]
KINDS = ["text", "jsonl", "csv", "tsv"]
MANIFEST = {"format": 2, "documents": 1, "read": {"errors": {}}, "shards": [], "files": {}, "sha256": "0"}
SCRATCH = Path(tempfile.mkdtemp(prefix="unmask-fuzz-"))


def read_text(choice: int, content: bytes) -> None:
    """Read documents, strictly or not, in every format and mode."""
    path = SCRATCH / f"a.{SUFFIXES[choice % len(SUFFIXES)]}"
    path.write_bytes(content)
    mode: Any = MODES[choice // 16 % 4]
    for document in DocumentReader([path], DocumentSettings(documents=mode, strict=choice > 127)):
        document.text.encode("utf-8")
        assert document.text.strip()
        assert "\0" not in document.text
    path.unlink()


def read_records(choice: int, content: bytes) -> None:
    path = SCRATCH / "records.txt"
    path.write_bytes(content)
    list(RecordReader(path, KINDS[choice % 4]))


def read_settings(choice: int, content: bytes) -> None:
    path = SCRATCH / "run.yaml"
    path.write_bytes(content)
    if choice % 2:
        load_config(None, [content.decode("utf-8", "surrogateescape")], {})
    load_config(path, (), {})


def read_manifest(choice: int, content: bytes) -> None:
    (SCRATCH / "shards").mkdir(exist_ok=True)
    (SCRATCH / "shards" / "manifest.json").write_bytes(content)
    open_corpus(SCRATCH / "shards")


TARGETS: list[Callable[[int, bytes], None]] = [read_text, read_records, read_settings, read_manifest]


def try_one(data: bytes) -> None:
    """Hand one input to the target that its first byte names."""
    if len(data) < 2:
        return
    signal.alarm(SLOW)
    try:
        TARGETS[data[0] % len(TARGETS)](data[1], data[2:])
    except UnmaskError:
        pass  # said in one line, with an exit code of its own
    finally:
        signal.alarm(0)


def seeds() -> list[bytes]:
    """Return inputs to begin with: the hostile files, and good ones, for each target."""
    found = []
    for case in hostile.CASES:
        if callable(case.make):
            continue
        content = case.make.encode() if isinstance(case.make, str) else case.make
        suffix = case.file.partition(".")[2]
        choice = SUFFIXES.index(suffix) if suffix in SUFFIXES else 0
        found += [bytes([target, choice]) + content[:4096] for target in (0, 1)]
    found.append(bytes([0, SUFFIXES.index("parquet")]) + hostile.parquet_of(text=["one", "two", None]))
    found.append(
        bytes([0, SUFFIXES.index("parquet.gz")]) + gzip.compress(hostile.parquet_of(text=["one"]), mtime=0)
    )
    texts = [
        starter_yaml(),
        "data:\n  inputs: [a.txt]\n  max_length: 64\n",
        "masking: {rate: 0.3}\n",
        "train.seed=1",
    ]
    found += [bytes([2, number]) + text.encode() for number, text in enumerate(texts)]
    found.append(bytes([3, 0]) + json.dumps(MANIFEST).encode())
    return found


PIECES = [
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xf6", b"\n", b"\r", b'"', b"'", b"{", b"}", b"[", b"]", b",", b":", b"\t", b"\\u0000",
    b"\\ud800", b"1e999", b"-1", b"9" * 5000, b"null", b"[" * 2000, b"{a: " * 500, b"&a [*a, *a]", b"!!python/object:os.system",
    b"!!binary aa", b"2001-99-99", b"<<: *x", b"? ", b"- ", b"| ", b"%YAML 9", b"---\n", b"PAR1", b"\x1f\x8b\x08",
]  # fmt: skip


def mutated(draw: random.Random, pool: list[bytes]) -> bytes:
    """Return one of the pool after some changes."""
    data = bytearray(draw.choice(pool))
    for _ in range(draw.randint(1, 6)):
        at, end = sorted((draw.randint(2, max(2, len(data))), draw.randint(2, max(2, len(data)))))
        end = min(end, at + 64)
        kind = draw.randrange(7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del data[at:end]
        elif kind == 2:
            data[at:at] = draw.choice(PIECES)
        elif kind == 3:
            data[at:at] = data[at:end] * draw.randint(1, 50)
        elif kind == 4:
            data[at:end] = draw.randbytes(end - at)
        elif kind == 5:
            data[at:] = draw.choice(pool)[2:][draw.randrange(64) :]
        else:
            data[: draw.randint(1, 2)] = draw.randbytes(1)
    return bytes(data[:100_000])


def by_chance(seconds: float, seed: int) -> int:
    """Try mutations until time is up; return the number of different finds."""
    draw, pool, tried, finds = random.Random(seed), seeds(), 0, Counter[str]()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        data = pool[tried] if tried < len(pool) else mutated(draw, pool)
        tried += 1
        try:
            try_one(data)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            name = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
            finds[name] += 1
            if finds[name] == 1:
                path = Path(f"find-{hashlib.sha256(data).hexdigest()[:12]}")
                path.write_bytes(data)
                print(f"{name}: {str(error)[:200]!r}; bytes in {path}", flush=True)
    print(
        f"{tried:,} inputs in {seconds:g} s without coverage (atheris is not installed): {len(finds)} finds"
    )
    return len(finds)


def by_coverage(seconds: float, seed: int) -> None:
    """Let atheris look for inputs; it ends the process, with a trace and a file at the first find."""
    corpus = SCRATCH / "seeds"
    corpus.mkdir()
    for number, data in enumerate(seeds()):
        (corpus / str(number)).write_bytes(data)
    flags = [f"-max_total_time={int(seconds)}", f"-seed={seed + 1}", "-max_len=65536", "-rss_limit_mb=4096"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], try_one)
    atheris.Fuzz()


def _too_slow(*_: Any) -> None:
    raise TimeoutError(f"an input that takes more than {SLOW} s")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", type=Path, metavar="FILE", help="try one input, and show its traceback")
    arguments = parser.parse_args()
    signal.signal(signal.SIGALRM, _too_slow)
    if arguments.again:
        try_one(arguments.again.read_bytes())
        return 0
    if atheris is not None:
        by_coverage(arguments.seconds, arguments.seed)
    return 1 if by_chance(arguments.seconds, arguments.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
