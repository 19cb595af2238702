"""What is published, as its users get it. ``make dist`` and ``make dist-check`` run this.

python tests/distribution.py contents DIST            the wheel and the sdist hold what they must, and nothing else
python tests/distribution.py install DIST FOLDER [--extras serve] [--versions FILE...]
                                                      install the wheel in a new environment, and use it
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
import venv
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SENTENCES = (
    "The patient was given morphine for the pain.",
    "The nurse gave the patient a cup of tea.",
    "A doctor looked at the chart and wrote a note.",
)


def main() -> int:
    parser = argparse.ArgumentParser(description="Check the wheel and the sdist.")
    parser.add_argument("what", choices=["contents", "install"])
    parser.add_argument("dist", type=Path, help="folder with one wheel and one sdist")
    parser.add_argument(
        "folder", type=Path, nargs="?", help="an absent or earlier folder to install and work in"
    )
    parser.add_argument("--versions", type=Path, nargs="*", default=[], help="files of versions to install")
    parser.add_argument("--extras", default="serve")
    given = parser.parse_args()
    if given.what == "contents":
        return check_contents(given.dist)
    if given.folder is None:
        parser.error("install needs a folder")
    return use(install(given.dist, given.folder, given.versions, given.extras), given.folder)


# ---------------------------------------------------------------- contents


def check_contents(dist: Path) -> int:
    """Compare both archives with the sources; print what is missing or too much."""
    package = set(package_files())
    wheel, sdist = one(dist, "*.whl"), one(dist, "*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if not name.endswith("/")}
        metadata = archive.read(next(name for name in in_wheel if name.endswith("METADATA"))).decode()
    with tarfile.open(sdist) as archive:
        in_sdist = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    info = f"unmask-{version_of(metadata)}.dist-info"
    egg = "src/unmask.egg-info"
    wanted = {
        wheel: package
        | {f"{info}/{name}" for name in "METADATA RECORD WHEEL entry_points.txt top_level.txt".split()}
        | {f"{info}/licenses/LICENSE"},
        sdist: {f"src/{name}" for name in package}
        | set("LICENSE MANIFEST.in PKG-INFO README.md pyproject.toml setup.cfg".split())
        | {f"{egg}/{name}.txt" for name in "SOURCES dependency_links entry_points requires top_level".split()}
        | {f"{egg}/PKG-INFO"},
    }
    wrong = 0
    for path, found in ((wheel, in_wheel), (sdist, in_sdist)):
        for word, names in (("missing", wanted[path] - found), ("too much", found - wanted[path])):
            wrong += len(names)
            for name in sorted(names):
                print(f"{path.name}: {word}: {name}", file=sys.stderr)
        print(f"{path.name}: {len(found)} files, {path.stat().st_size / 1000:,.0f} kB")
    return bool(wrong)


def package_files() -> Iterator[str]:
    """Yield the files of the package in this working tree: code, templates, pages, py.typed."""
    for path in (ROOT / "src" / "unmask").rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            yield path.relative_to(ROOT / "src").as_posix()


def one(dist: Path, pattern: str) -> Path:
    """Return the only file of a pattern."""
    found = sorted(dist.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"{dist}: expected one {pattern}, found {len(found)}; run make dist")
    return found[0]


def version_of(metadata: str) -> str:
    """Return the version in the metadata of a package."""
    found = re.search(r"^Version: (.+)$", metadata, re.MULTILINE)
    assert found is not None
    return found[1].strip()


# ---------------------------------------------------------------- a new environment


def install(dist: Path, folder: Path, versions: Sequence[Path], extras: str) -> Path:
    """Install the wheel in a new environment, and return the folder of its programs."""
    shutil.rmtree(folder, ignore_errors=True)
    place = folder / "venv"
    venv.create(place, with_pip=True)
    programs = place.resolve() / ("Scripts" if os.name == "nt" else "bin")
    wheel = str(one(dist, "*.whl").resolve())
    pip = [str(programs / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    # Without hashes: pip wants them for everything or nothing, and the wheel has none.
    lines = [line for path in versions for line in path.read_text(encoding="utf-8").splitlines()]
    pins = [line.rstrip(" \\") for line in lines if re.match(r"[\w.-]+==", line)]
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pins) + "\n", encoding="utf-8")
    subprocess.run(
        [*pip, "--constraint", str(constraints), f"{wheel}[{extras}]" if extras else wheel], check=True
    )
    return programs


def use(programs: Path, folder: Path) -> int:
    """Do what a new user does, in an empty folder: the help, the demo, training, filling, serving."""
    work = folder / "work"
    work.mkdir()
    (work / "notes.txt").write_text("\n".join(SENTENCES * 40) + "\n", encoding="utf-8")
    # Nothing of this checkout may be found, and nothing may be downloaded.
    hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"}

    def unmask(*arguments: str) -> str:
        begin = time.perf_counter()
        done = subprocess.run(
            [str(programs / "unmask"), *arguments],
            cwd=work,
            env=environment,
            capture_output=True,
            encoding="utf-8",
        )
        print(f"unmask {' '.join(arguments)}: {time.perf_counter() - begin:.1f} s", flush=True)
        if done.returncode:
            raise SystemExit(f"exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    python = [str(programs / "python"), "-c"]
    versions = (
        "from importlib.metadata import version as v; print(v('unmask'), v('torch'), v('transformers'))"
    )
    shown = subprocess.run([*python, versions], env=environment, check=True, capture_output=True, text=True)
    version, torch, transformers = shown.stdout.split()
    print(f"unmask {version}, torch {torch}, transformers {transformers}, Python {sys.version.split()[0]}")
    expect(unmask("--version").strip() == version, "--version prints the version of the package")
    expect("fill" in unmask("--help"), "the help lists the verbs")
    unmask("demo", "--minutes", "0.1", "-o", "demo")
    report = work / "demo" / "report.html"
    expect("<html" in report.read_text(encoding="utf-8"), "the demo writes a report")
    unmask("train", "notes.txt", "--model", "demo", "--max-steps", "2", "-o", "run")
    filled = json.loads(unmask("fill", "run", "The patient was given [MASK] for the pain.", "--json"))
    expect(bool(filled), "fill has an answer")
    unmask("check", "notes.txt", "--model", "run")
    unmask("score", "run", "notes.txt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with served([str(programs / "unmask"), "serve", "run", "--port", str(port)], work, environment, address):
        expect("<html" in ask(address + "/").decode(), "serve has a page")
        answer = json.loads(ask(address + "/fill", {"inputs": "The patient was given [MASK]."}))
        expect(bool(answer), "serve fills a mask")
    print("the installed package works")
    return 0


@contextmanager
def served(command: list[str], work: Path, environment: dict[str, str], address: str) -> Iterator[None]:
    """Run a server, until the block ends; it must then stop by itself."""
    with (work / "serve.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=work, env=environment, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 120
        while True:
            try:
                ask(address + "/health")
                break
            except (urllib.error.URLError, ConnectionError):
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit((work / "serve.log").read_text(encoding="utf-8")) from None
                time.sleep(0.2)
        yield
        process.terminate()
        code = process.wait(timeout=30)
        # On Windows the process is ended at once, with this code.
        expect(
            code == (1 if os.name == "nt" else 0), f"the server stops when it is asked to (exit code {code})"
        )
    finally:
        process.kill()


def ask(url: str, body: Any = None) -> bytes:
    """Send a request to the server."""
    request = urllib.request.Request(
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Accept": "text/html" if body is None else "*/*"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        content: bytes = response.read()
        return content


def expect(holds: bool, what: str) -> None:
    """End with a message unless something holds."""
    if not holds:
        raise SystemExit(f"expected: {what}")


if __name__ == "__main__":
    sys.exit(main())
