"""The files of examples/ work: scripts and notebooks run on little text with tiny models, and job files are valid."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import understood

import unmask

EXAMPLES = Path(__file__).parent.parent / "examples"
JOBS = EXAMPLES / "jobs"


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, corpus_text: list[str], checkpoint: Callable[[str], Path]
) -> Path:
    """Return a folder with a tiny model under the name that the examples use, and a little text."""
    root = tmp_path_factory.mktemp("examples")
    shutil.copytree(checkpoint("bert"), root / "bert-base-uncased")
    parts = {"notes": slice(0, 60), "held-out": slice(60, 90), "general": slice(90, 120)}
    for name, part in parts.items():
        (root / name).mkdir()
        (root / name / "a.txt").write_text("\n".join(corpus_text[part]) + "\n", encoding="utf-8")
    return root


@pytest.fixture
def run_example(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Return `run(name, *arguments) -> str`: run a script as a program, and return what it prints."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_the_trainer_learns_with_our_masks(folder: Path, run_example: Callable[..., str]) -> None:
    printed = run_example("trainer.py", "notes/a.txt", "--epochs", "1")
    assert re.search(r"accuracy +[\d.]+%", printed), printed
    assert (folder / "runs" / "trainer" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["own_objective", "own_masking"])
def test_what_is_your_own_is_trained_and_compared(name: str, run_example: Callable[..., str]) -> None:
    printed = run_example(f"{name}.py", "notes", "held-out", "--epochs", "1")
    assert re.search(r"accuracy +[\d.]+%", printed), printed


def test_the_pipeline_releases_a_model_or_says_why_not(folder: Path, run_example: Callable[..., str]) -> None:
    arguments = ["notes", "general", "--epochs", "1"]
    printed = run_example("pipeline.py", *arguments, "--require", "forgetting<=100%")
    assert (folder / printed.strip() / "config.json").is_file()
    with pytest.raises(SystemExit) as ended:
        run_example("pipeline.py", *arguments, "--require", "domain>=90%", "--out", "runs/missed")
    assert ended.value.code == 6
    with pytest.raises(SystemExit) as ended:
        run_example("pipeline.py", "nothing-here", "general")
    assert ended.value.code == 3


def test_the_job_of_hugging_face_is_one_that_their_own_tool_takes(tmp_path: Path) -> None:
    """With `--dry-run` it checks the arguments and prints the job, without a network."""
    job = subprocess.run(
        ["bash", JOBS / "hf_jobs.sh", "--dry-run"],
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "HF_HUB_OFFLINE": "1",
            "HF_NAMESPACE": "somebody",
            "HF_TOKEN": "a",
            "AWS_ACCESS_KEY_ID": "b",
            "AWS_SECRET_ACCESS_KEY": "c",
        },
        capture_output=True,
        text=True,
    )
    assert job.returncode == 0, job.stderr
    assert "https://s3.hf.co/somebody" in job.stdout
    understood(re.search(r"unmask train .* --resume", job.stdout)[0])  # type: ignore[index]


def test_the_jobs_of_slurm_and_skypilot_are_valid() -> None:
    script = (JOBS / "slurm.sh").read_text(encoding="utf-8")
    job: dict[str, Any] = yaml.safe_load((JOBS / "skypilot.yaml").read_text(encoding="utf-8"))
    assert job["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    for code in (script, job["setup"], job["run"]):
        subprocess.run(["bash", "-n"], input=code, text=True, check=True)
    for code in (script, job["run"]):
        for command in re.findall(r"unmask train .* --resume", code):
            understood(command)


def test_nothing_installs_a_package_of_this_name_from_an_index() -> None:
    """Until there is a release, the name on an index may be somebody else's."""
    root = EXAMPLES.parent
    paths = [root / "README.md", *(root / "docs").rglob("*.md"), *filter(Path.is_file, EXAMPLES.rglob("*.*"))]
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    found = {
        path
        for path, text in texts.items()
        if re.search(r"install\b.*[ '\"=]unmask(\[[\w,]+\])?['\" ]*$", text, re.M)
    }
    assert not found
    wheels = {
        name for text in texts.values() for name in re.findall(r"unmask-[\d.]+-py3-none-any\.whl", text)
    }
    assert wheels == {f"unmask-{unmask.__version__}-py3-none-any.whl"}


NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in NOTEBOOKS])
def test_a_notebook_runs(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells run in order, in this process; what a kernel adds (bars, magic commands) is no part of it."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("UNMASK_NOTEBOOK_MODEL", "bert-base-uncased")
    monkeypatch.setenv("UNMASK_NOTEBOOK_TEXTS", "7")
    monkeypatch.setenv("MPLBACKEND", "agg")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    tables = 0
    for number, cell in enumerate(code_cells(path)):
        code = re.sub(r"^( *)%pip .*$", r"\1pass", "".join(cell["source"]), flags=re.MULTILINE)
        tree = ast.parse(code, f"{path.name}, cell {number}")
        shown = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"{path.name}, cell {number}", "exec"), namespace)
        if shown is not None:
            value = eval(ast.unparse(shown), namespace)
            tables += hasattr(value, "_repr_html_") and "<table" in value._repr_html_()
    assert tables >= 2


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in NOTEBOOKS])
def test_the_stored_outputs_are_of_one_run_without_errors(path: Path) -> None:
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"execute_result", "display_data", "stream"}
    assert [output["text"] for output in outputs if output.get("name") == "stderr"] == []
    assert path.stat().st_size < 500_000


def code_cells(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]
