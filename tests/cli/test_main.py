"""The command line: what it answers, where it writes, how it fails."""

from __future__ import annotations

import ast
import errno
import io
import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.cli.conftest import Run

from unmask import errors
from unmask.cli.main import app
from unmask.config.load import dump_config, load_config
from unmask.config.settings import RunConfig
from unmask.progress import Progress
from unmask.run_folder import RunFolder

SOURCE = Path(__file__).parents[2] / "src"
VERBS = [
    "demo",
    "init",
    "check",
    "convert",
    "prepare",
    "serve",
    "train",
    "eval",
    "compare",
    "explain",
    "export",
    "push",
    "fill",
    "forecast",
    "report",
    "tokenizer",
    "score",
    "pairs",
    "masks",
    "terms",
    "conformance",
    "bench",
    "probe",
]
Checkpoint = Callable[[str], Path]


def stand_in(monkeypatch: pytest.MonkeyPatch, module: str, **members: Any) -> None:
    """Put a module with these members in the place of one of ours."""
    fake = types.ModuleType(module)
    vars(fake).update(members)
    monkeypatch.setitem(sys.modules, module, fake)


EVALUATION = {
    "loss": 3.5,
    "perplexity": 33.1,
    "accuracy": 0.412,
    "masked_tokens": 1000,
    "documents": 10,
    "mask_rate": 0.15,
    "baselines": {
        "most_frequent_token": {"accuracy": 0.051, "loss": 7.0},
        "ngram": {"accuracy": 0.352, "loss": 4.4, "what": "both neighbours"},
    },
    "before": None,
}


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stand in for training; return what it was called with, and `error`, which it raises if there is one."""
    seen: dict[str, Any] = {"error": None, "loss": 2.5, "evaluation": EVALUATION}

    def train(config: RunConfig, out: Path, *, progress: Progress, **rest: Any) -> types.SimpleNamespace:
        seen.update(config=config, out=out, **rest)
        print("a library says something")
        progress.begin("train")
        progress.log("a notice")
        progress.advance(0.5, {"loss": 2.5})
        if seen["error"]:
            raise seen["error"]
        progress.end()
        return types.SimpleNamespace(
            folder=RunFolder(out), steps=1200, tokens=123_456, seconds=72.0, loss=seen["loss"], evaluation=seen["evaluation"],
            unmet="",
        )  # fmt: skip

    stand_in(monkeypatch, "unmask.run.train", train=train)
    Path("a.txt").write_text("A text to train on.\n", encoding="utf-8")
    return seen


TRAIN = ("train", "a.txt", "--preset", "bert-tiny", "-o", "out")

# ---------------------------------------------------------------- help


def test_help_names_every_verb_and_no_heavy_import(tmp_path: Path) -> None:
    heavy = [
        "torch",
        "transformers",
        "datasets",
        "tokenizers",
        "numpy",
        "pydantic",
        "matplotlib",
        "pyarrow",
        "yaml",
    ]
    script = (
        "import sys; from unmask.cli.main import main; code = main(['--help']); "
        f"print(code, [name for name in {heavy} if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        text=True,
        capture_output=True,
    )
    assert found.stderr == ""
    assert found.stdout.splitlines()[-1] == "0 []"
    for verb in VERBS:
        assert f"\n  {verb} " in found.stdout


def test_no_arguments_show_the_help(run: Run) -> None:
    assert run().out == run("--help").out
    assert run().code == 0


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    command = command or typer.main.get_command(app)
    inner = getattr(command, "commands", {})
    if not inner:
        yield path, command
    for name, below in inner.items():
        yield from commands(below, (*path, name))


@pytest.mark.parametrize(
    ("path", "command"), list(commands()), ids=lambda item: " ".join(item) if isinstance(item, tuple) else ""
)
def test_every_verb_and_option_is_explained(run: Run, path: tuple[str, ...], command: Any) -> None:
    shown = run(*path, "--help")
    assert shown.code == 0
    assert command.help
    for parameter in command.params:
        assert parameter.help, f"{' '.join(path)} {parameter.opts} has no help"
        assert all(option in shown.out for option in parameter.opts if option.startswith("-"))


def test_the_verbs_are_those_of_the_tests() -> None:
    assert sorted({path[0] for path, _ in commands()}) == sorted(VERBS)


_HINT = re.compile(
    r"""(?:^|[:'`]\s*)unmask ([a-z]+(?: [a-z]+)?)((?: (?!-)[^\s'`";:,)]+| -[-\w]+(?:[ =](?!-)[^\s'`";:,)]+)?)*)"""
)


def hints() -> Iterator[tuple[str, str]]:
    """Yield the place and text of each command that the source names in a string, f-strings with X for a value."""
    for path in sorted((Path(__file__).parents[2] / "src" / "unmask").rglob("*.py")):
        inner: set[int] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                inner |= {id(part) for part in node.values}
                text = "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
                text = node.value
            else:
                continue
            for line in text.splitlines():
                for hint in _HINT.finditer(line.strip()):
                    if (
                        not hint[0].startswith("unmask") or " -" in hint[0]
                    ):  # without any option it is a sentence
                        yield f"{path.name}:{node.lineno}", hint[0]


def test_the_commands_that_messages_name_exist() -> None:
    known = {" ".join(path): command for path, command in commands()}
    found, wrong = 0, []
    for place, hint in hints():
        words = hint[hint.index("unmask") :].split()[1:]
        command = known.get(" ".join(words[:2])) or known.get(words[0])
        options = [word.partition("=")[0] for word in words if word.startswith("-") and len(word) > 1]
        if command is None:
            wrong.append(f"{place}: {hint}")
        else:
            takes = {option for parameter in command.params for option in parameter.opts} | {"--help"}
            wrong += [f"{place}: {hint}: {option}" for option in options if option not in takes]
        found += 1
    assert found > 50
    assert wrong == []


def test_version(run: Run) -> None:
    from unmask import __version__

    assert run("--version").out == f"{__version__}\n"


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "error: No such command 'trian'. Did you mean 'train'? (see 'unmask --help')"),
        (["train", "--max-step", "3"], "error: No such option: --max-step (did you mean --max-steps?) (see 'unmask"),
        (["train", "a", "--device", "gpu"], "error: Invalid value for '--device': 'gpu' is not one of 'auto', 'cpu',"),
        (["train", "a", "--max-forgetting", "2%"], "error: Invalid value for '--max-forgetting': expected a number, not '2%'; 2% is 0.02 (see"),
        (["train", "a", "--patience", "x"], "error: Invalid value for '--patience': expected a whole number, not 'x' (see"),
        (["fill", "m", "a", "--beam", "0"], "error: Invalid value for '--beam': expected a number of at least 1, not '0' (see"),
        (["train", "a", "--max-steps"], "error: Option '--max-steps' requires an argument"),
        (["explain", "m"], "error: Missing argument 'TEXT' (see 'unmask explain --help')"),
        (["fill"], "error: Missing argument 'MODEL' (see 'unmask fill --help')"),
        (["tokenizer"], "error: Missing command (see 'unmask tokenizer --help')"),
        (["train", "a"], "error: no model: name a checkpoint to adapt with --model"),
        (["train", "--preset", "bert-tiny"], "error: no text to train on"),
        (["train", "a", "--model", "m", "--preset", "p"], "error: two models: --model is 'm', a checkpoint to adapt, and --preset"),
        (["train", "a", "--model", "m", "--set", "model.preset=p"], "error: two models: --model is 'm', a checkpoint to adapt, and model.preset"),
        (["train", "a", "--model", "m", "--detour", "0.3"], "error: --detour is a share of --objective clm, and the objective is mlm; choose --objective"),
        (["train", "a", "--preset", "bert-tiny", "--lora-rank", "4"], "error: --lora-rank is for adapting a checkpoint"),
        (["train", "a", "--preset", "bert-tinny"], "error: unknown preset 'bert-tinny' (did you mean 'bert-tiny'?)"),
        (["train", "a", "--model", "m", "--max-steps", "0"], "error: --max-steps: must be a whole number, at least 1"),
        (["train", "a", "--model", "m", "--mask-rate", "2"], "error: --mask-rate: must be a number, more than 0"),
        (["train", "a", "--set", "train.max_step=3"], "error: --set train.max_step: unknown key 'train.max_step' (did"),
        (["train", "a", "-c", "absent.yaml"], "error: absent.yaml: no such file"),
        (["prepare", "a"], "error: no tokenizer: name one with --tokenizer, or a model"),
        (["prepare", "--tokenizer", "t", "-o", "out"], "error: no text to prepare"),
        (["prepare", "a", "--tokenizer", "t"], "error: no folder to write to: name one with -o"),
        (["explain", "m", "a", "--mask-positions", "4,x"], "error: --mask-positions: expected positions such"),
        (["explain", "m", "a", "--mask-rate", "0"], "error: --mask-rate: must be a number, more than 0"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line_and_2(run: Run, arguments: list[str], message: str) -> None:
    outcome = run(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.complaint.startswith(message)


def test_a_fault_in_the_settings_file_names_the_line(run: Run) -> None:
    Path("run.yaml").write_text("train:\n  text_field: body\n", encoding="utf-8")
    outcome = run("train", "a.txt", "--model", "m", "-c", "run.yaml")
    assert outcome.code == 2
    assert outcome.complaint == (
        "error: run.yaml:2: unknown key 'train.text_field' (did you mean 'data.text_field'?)"
    )


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (errors.UnmaskError("a\nb"), 1, "error: a b"),
        (errors.ConfigError("a"), 2, "error: a"),
        (errors.MissingExtra("onnx", "export", "exporting"), 2, "error: exporting needs the package 'onnx'"),
        (errors.DataError("a", path="f.txt", line=3), 3, "error: f.txt:3: a"),
        (errors.DivergedError("a"), 4, "error: a"),
        (errors.DiskError("a"), 5, "error: a"),
        (OSError(errno.ENOSPC, "No space left on device", "out/x"), 5, "error: out/x: cannot be written: No space left"),
        (errors.Interrupted("go on with --resume auto"), 75, "interrupted: go on with --resume auto"),
        (KeyboardInterrupt(), 130, "interrupted: stopped by Ctrl-C"),
        (RuntimeError("odd"), 1, "error: unexpected RuntimeError: odd; run again with --debug"),
        (EOFError("cut"), 1, "error: unexpected EOFError: cut; run again with --debug"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)  # fmt: skip
def test_a_fault_is_one_line_and_its_exit_code(
    run: Run, training: dict[str, Any], error: BaseException, code: int, line: str
) -> None:
    training["error"] = error
    outcome = run(*TRAIN, "--json")
    assert outcome.code == code
    assert outcome.out == ""
    assert outcome.err.splitlines()[-1].startswith(line)
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    "arguments", [("--debug", *TRAIN), (*TRAIN, "--debug"), ("train", "--debug", *TRAIN[1:])]
)
def test_debug_shows_the_traceback_and_keeps_the_code(
    run: Run, training: dict[str, Any], arguments: tuple[str, ...]
) -> None:
    training["error"] = errors.DataError("a", path="f.txt")
    outcome = run(*arguments)
    assert outcome.code == 3
    assert "Traceback (most recent call last)" in outcome.err
    assert outcome.err.splitlines()[-1] == "error: f.txt: a"


def test_debug_after_two_dashes_is_text(run: Run) -> None:
    assert "Traceback" not in run("train", "--set", "x", "--", "--debug").err


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "unmask", "init", "--stdout"],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1


# ---------------------------------------------------------------- train


def test_flags_win_over_set_which_wins_over_the_file(run: Run, training: dict[str, Any]) -> None:
    Path("run.yaml").write_text(
        "train: {seed: 1, max_steps: 1, keep_last: 7}\ndata: {inputs: [other]}\nmodel: {offline: true}\n",
        encoding="utf-8",
    )
    outcome = run(
        *TRAIN, "-c", "run.yaml", "--set", "train.seed=2", "--set", "train.max_steps=2", "--max-steps", 3,
        "--learning-rate", "5e-5", "--mask-rate", 0.3, "--strategy", "word", "--heldout", "h1", "--heldout", "h2",
        "--documents", "line", "--text-field", "body", "--batch-tokens", 64, "--precision", "bf16", "--device", "cpu",
        "--epochs", 2, "--minutes", 1.5, "--save-every", 9, "--max-length", 32, "--tokenizer", "t", "--resume",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    expected = load_config(
        None,
        (),
        {
            "data.inputs": ["a.txt"], "data.heldout": ["h1", "h2"], "data.documents": "line", "data.text_field": "body",
            "data.max_length": 32, "model.preset": "bert-tiny", "model.tokenizer": "t", "model.offline": True,
            "masking.rate": 0.3, "masking.strategy": "word", "train.seed": 2, "train.max_steps": 3, "train.epochs": 2,
            "train.minutes": 1.5, "train.keep_last": 7, "train.batch_tokens": 64, "train.precision": "bf16",
            "train.device": "cpu", "train.save_every": 9, "train.optimizer.learning_rate": 5e-5,
        },
    )  # fmt: skip
    assert training["config"] == expected
    assert (training["out"], training["resume"]) == (Path("out"), "auto")


def test_train_prints_figures_and_paths(run: Run, training: dict[str, Any]) -> None:
    outcome = run(*TRAIN)
    assert outcome.code == 0
    for shown in (
        "41.2%",
        "5.1%",
        "35.2%",
        "1,200 steps over 123,456 tokens in 1:12",
        "out/model",
        "out/report.html",
    ):
        assert shown in outcome.out
    assert "a library says something" not in outcome.out
    assert {"a notice", "train  50%  loss 2.500  in 0:00"} <= set(outcome.err.splitlines())
    assert "\x1b" not in outcome.out + outcome.err
    assert "\r" not in outcome.out + outcome.err


def test_train_json_is_one_document(run: Run, training: dict[str, Any]) -> None:
    outcome = run(*TRAIN, "--json")
    assert outcome.json == {
        "run": "out", "model": "out/model", "report": "out/report.html",
        "steps": 1200, "tokens": 123_456, "seconds": 72.0, "loss": 2.5, "evaluation": EVALUATION,
        "read": None, "verdict": None,
    }  # fmt: skip
    assert "a library says something" in outcome.err


def test_numbers_that_json_does_not_know_are_null(run: Run, training: dict[str, Any]) -> None:
    training.update(
        loss=float("nan"), evaluation={"perplexity": float("inf"), "before": [float("-inf"), 1.0]}
    )
    answer = run(*TRAIN, "--json").json
    assert answer["loss"] is None
    assert answer["evaluation"] == {"perplexity": None, "before": [None, 1.0]}


def test_a_run_without_held_out_text(run: Run, training: dict[str, Any]) -> None:
    training.update(evaluation=None, loss=None)
    assert "1,200 steps" in run(*TRAIN).out
    assert run(*TRAIN, "--json").json["evaluation"] is None


def test_the_default_folder_is_said_aloud(run: Run, training: dict[str, Any]) -> None:
    outcome = run("train", "a.txt", "--preset", "bert-tiny")
    assert training["out"] == Path("runs/train")
    assert "run folder: runs/train (choose another with -o)" in outcome.err.splitlines()


def test_resume_takes_the_settings_of_the_run(run: Run, training: dict[str, Any]) -> None:
    config = load_config(
        None, ["train.max_steps=77"], {"model.preset": "bert-tiny", "data.inputs": ["a.txt"]}
    )
    Path("out").mkdir()
    Path("out/config.yaml").write_text(dump_config(config), encoding="utf-8")
    outcome = run("train", "-o", "out", "--resume")
    assert outcome.code == 0
    assert training["config"] == config
    assert "settings from out/config.yaml" in outcome.err.splitlines()


@pytest.mark.parametrize(
    "call",
    [
        ("train", "--resume", "auto", "-o", "out"),
        ("train", "--resume", "-o", "out", "--epochs", "3"),
        ("train", "a.txt", "--resume", "-o", "out"),
        ("train", "--resume", "-o", "out", "--preset", "bert-tiny"),
    ],
)
def test_resume_needs_no_model(run: Run, training: dict[str, Any], call: tuple[str, ...]) -> None:
    config = load_config(None, (), {"model.preset": "bert-tiny", "data.inputs": ["a.txt"]})
    Path("out").mkdir()
    Path("out/config.yaml").write_text(dump_config(config), encoding="utf-8")
    assert run(*call).code == 0
    assert (training["config"].model, training["config"].data) == (config.model, config.data)
    assert training["resume"] == "auto"


def test_resume_of_a_folder_without_a_run_says_so(run: Run, training: dict[str, Any]) -> None:
    outcome = run("train", "-o", "out", "--resume")
    assert outcome.code == 2
    assert "config" not in training
    assert "out: no run to resume" in outcome.err


def test_resume_takes_the_run_and_another_checkpoint(run: Run, training: dict[str, Any]) -> None:
    config = load_config(None, (), {"model.preset": "bert-tiny", "data.inputs": ["a.txt"]})
    Path("out").mkdir()
    Path("out/config.yaml").write_text(dump_config(config), encoding="utf-8")
    assert run("train", "--resume", "out").code == 0
    assert (training["out"], training["resume"], training["config"]) == (Path("out"), "auto", config)
    assert run("train", "-o", "out", "--checkpoint", "out/checkpoints/step-1").code == 0
    assert training["resume"] == "out/checkpoints/step-1"
    assert run("train", "-o", "out", "--resume", "out/checkpoints/step-1").code == 2


def test_only_the_first_of_several_processes_answers(
    run: Run, training: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run(*TRAIN, "--json").out == ""
    monkeypatch.setenv("RANK", "0")
    assert run(*TRAIN, "--json").json["steps"] == 1200


@dataclass
class DryRun:
    parameters: int = 4_400_000
    tokens_per_epoch: int = 123_456
    steps: int = 900
    processes: int = 2
    parallel: str = "ddp (each has the whole model)"
    peak_memory_bytes: int = 812_000_000
    disk_bytes: int = 34_000_000
    seconds_per_step: float = 0.5
    total_seconds: float = 450.0


def test_dry_run_plans_and_trains_nothing(
    run: Run, training: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[RunConfig] = []
    stand_in(
        monkeypatch,
        "unmask.run.dry_run",
        dry_run=lambda config, *, progress: planned.append(config) or DryRun(),
    )
    shown = run(*TRAIN, "--dry-run").out
    for figure in ("4,400,000", "123,456", "2: ddp (each has", "memory a process", "812 MB", "34 MB", "7:30"):
        assert figure in shown
    assert run(*TRAIN, "--dry-run", "--json").json == vars(DryRun())
    assert planned[0].model.preset == "bert-tiny"
    assert "config" not in training


# ---------------------------------------------------------------- demo


def test_demo_shows_figures_and_examples(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    called: dict[str, Any] = {}

    def run_demo(out: Path, *, minutes: float, seed: int, progress: Progress) -> types.SimpleNamespace:
        called.update(out=out, minutes=minutes, seed=seed)
        out.mkdir(parents=True)
        target = {"index": 1, "original": "value", "shown": "[MASK]", "rank": 1}
        target["predictions"] = [{"token": "value", "probability": 0.83}]
        content = [{"tokens": ["the", "value"], "words_before": [False, True], "targets": [target]}]
        RunFolder(out).examples.write_text(json.dumps(content), encoding="utf-8")
        return types.SimpleNamespace(
            folder=RunFolder(out),
            steps=10,
            tokens=20,
            seconds=150.0,
            loss=4.0,
            evaluation=EVALUATION,
            unmet="",
        )

    stand_in(monkeypatch, "unmask.run.demo", run_demo=run_demo)
    outcome = run("demo", "-o", "d", "--minutes", 0.5, "--seed", 3)
    assert outcome.code == 0, outcome.err
    assert called == {"out": Path("d"), "minutes": 0.5, "seed": 3}
    for shown in ("41.2%", "5.1%", "35.2%", "the [1]", "value 83%", "2:30", "d/report.html", "unmask fill d"):
        assert shown in outcome.out
    assert "the loss is 3.500, compared with 7.000 for token frequencies alone and 4.400 for the" in " ".join(
        outcome.out.split()
    )


# ---------------------------------------------------------------- init


def test_init_writes_a_file_that_train_takes(run: Run, training: dict[str, Any]) -> None:
    outcome = run("init")
    assert outcome.code == 0
    assert "run.yaml" in outcome.out
    assert run(*TRAIN, "-c", "run.yaml").code == 0
    assert training["config"] == load_config(
        None, (), {"model.preset": "bert-tiny", "data.inputs": ["a.txt"]}
    )


def test_init_keeps_a_file_that_is_there(run: Run) -> None:
    Path("mine.yaml").write_text("mine", encoding="utf-8")
    outcome = run("init", "mine.yaml")
    assert outcome.code == 2
    assert outcome.complaint == (
        "error: mine.yaml: exists already; choose another name, or replace it with --force"
    )
    assert Path("mine.yaml").read_text(encoding="utf-8") == "mine"
    assert run("init", "mine.yaml", "--force").code == 0
    assert load_config(Path("mine.yaml")) == RunConfig()


def test_init_prints_and_leaves_nothing(run: Run) -> None:
    assert "\ntrain:\n" in run("init", "--stdout").out
    assert json.loads(run("init", "--schema").out)["properties"].keys() == RunConfig.model_fields.keys()
    assert list(Path.cwd().iterdir()) == []


def test_init_writes_the_schema(run: Run) -> None:
    assert run("init", "schema.json", "--schema").code == 0
    assert json.loads(Path("schema.json").read_text(encoding="utf-8"))["title"] == "unmask run"


def test_init_where_nothing_can_be_written(run: Run) -> None:
    outcome = run("init", "absent/run.yaml")
    assert outcome.code == 5
    assert outcome.complaint == "error: absent/run.yaml: cannot be written: No such file or directory"


# ---------------------------------------------------------------- fill and explain, with a tiny model


@pytest.fixture
def model(checkpoint: Checkpoint) -> Path:
    return checkpoint("bert")


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def test_fill_prints_candidates(run: Run, model: Path) -> None:
    outcome = run("fill", model, "the [MASK] sold it.", "--top-k", 2)
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert outcome.out.startswith("the [MASK] sold it.\n")
    assert "probability" in outcome.out


def test_fill_json_has_an_object_for_each_text(run: Run, model: Path) -> None:
    outcome = run("fill", model, "the [MASK] sold it.", "[MASK] or [MASK]", "--top-k", 3, "--json")
    assert outcome.code == 0
    assert outcome.err == ""
    assert [item["text"] for item in outcome.json] == ["the [MASK] sold it.", "[MASK] or [MASK]"]
    one, two = (item["candidates"] for item in outcome.json)
    assert len(one) == len(two) == 3
    assert {"text", "tokens", "probability", "sequence", "probabilities"} <= one[0].keys()
    assert len(two[0]["tokens"]) == 2


def test_a_text_that_cannot_be_filled_does_not_stop_the_others(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin(monkeypatch, b"\xef\xbb\xbfthe [MASK]\r\n\nno mask here\n<mask> it")
    outcome = run("fill", model, "--json", "--top-k", 1)
    assert outcome.code == 3
    assert [len(item["candidates"]) for item in outcome.json] == [1, 0, 1]
    assert [item["line"] for item in outcome.json] == [1, 3, 4]
    assert [bool(item["error"]) for item in outcome.json] == [False, True, False]
    assert outcome.json[0]["candidates"][0]["sequence"].startswith("the")
    lines = outcome.err.splitlines()
    assert lines[0] == "note: <stdin>: 1 blank line left out"
    assert lines[1].startswith("error: <stdin>:3: no mask in this text")
    assert len(lines) == 2


def test_fill_takes_texts_then_a_file(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("texts.txt").write_text("b [MASK]\nc [MASK]\n", encoding="utf-8")
    stdin(monkeypatch, b"from [MASK]\n")
    outcome = run("fill", model, "a [MASK]", "-", "--file", "texts.txt", "--top-k", 1)
    shown = [line for line in outcome.out.splitlines() if line.endswith("[MASK]")]
    assert shown == ["a [MASK]", "from [MASK]", "b [MASK]", "c [MASK]"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--file", "absent.txt"], "error: absent.txt: no such file"),
        (["--file", "empty.txt"], "error: empty.txt: no text came in; expected one on each line"),
        ([], "error: no text came in; expected one on each line"),
    ],
)
def test_fill_where_no_text_can_be_read(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    Path("empty.txt").touch()
    stdin(monkeypatch, b"")
    outcome = run("fill", "absent-model", *arguments)
    assert outcome.code == 3
    assert outcome.complaint.startswith(message)


def test_fill_reads_around_what_is_broken(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mixed.txt").write_bytes(b"a [MASK]\ncaf\xe9 [MASK]\nb\0 [MASK]\n\n[MASK] c\n")
    Path("rows.jsonl").write_text('{"text": "[MASK]"}\n{"other": 1}\n{"text": \n', encoding="utf-8")
    outcome = run("fill", model, "--file", "mixed.txt", "--json", "--top-k", 1)
    assert outcome.code == 3
    assert [len(item["candidates"]) for item in outcome.json] == [1, 0, 0, 1]
    assert [(item["file"], item["line"]) for item in outcome.json] == [
        ("mixed.txt", line) for line in (1, 2, 3, 5)
    ]
    assert [line[:22] for line in outcome.err.splitlines()] == [
        "note: mixed.txt: 1 bla", "error: mixed.txt:2: by", "error: mixed.txt:3: a ",
    ]  # fmt: skip
    assert "0xe9" in outcome.err
    assert "NUL" in outcome.err
    outcome = run("fill", model, "--file", "rows.jsonl", "--json", "--top-k", 1)
    assert [len(item["candidates"]) for item in outcome.json] == [1, 0, 0]
    assert "rows.jsonl:2: expected a text in the field 'text'" in outcome.err
    assert "rows.jsonl:3" in outcome.err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["1,000"], ["1,000"]),
        (["1,000,5", "the,of"], ["1,000", "5", "the", "of"]),
        (["1,2", "1918,1945"], ["1", "2", "1918", "1945"]),
        (['"3,5",a'], ["3,5", "a"]),
        (["a, b"], ["a", "b"]),
    ],
)
def test_a_comma_in_a_number_or_in_quotes_is_part_of_a_target(
    run: Run, model: Path, given: list[str], words: list[str]
) -> None:
    options = [part for value in given for part in ("--targets", value)]
    outcome = run("fill", model, "it was [MASK] of", "--json", *options)
    assert [item["text"] for item in outcome.json[0]["candidates"]] == words


def test_small_probabilities_are_no_zeros(run: Run, model: Path) -> None:
    from unmask.cli.inference import _top

    assert _top([{"token": "a", "probability": 4e-7}, {"token": "b", "probability": 0.5}]).split("  ") == [
        "a\N{NO-BREAK SPACE}4.0e-07",
        "b\N{NO-BREAK SPACE}0.5000",
    ]


def test_fill_ranks_words_and_targets(run: Run, model: Path) -> None:
    joint, alone = (
        run("fill", model, "[MASK] [MASK] it", "--json", "--top-k", 2, "--ranking", ranking).json[0][
            "candidates"
        ]
        for ranking in ("joint", "independent")
    )
    assert {item["ranking"] for item in joint} == {"joint"}
    assert {item["ranking"] for item in alone} == {"independent"}
    (words,) = run("fill", model, "the {2} sold it", "--json", "--beam", 4).json
    assert {len(item["tokens"]) for item in words["candidates"]} == {2}
    outcome = run("fill", model, "the [MASK].", "[MASK] it", "--targets", "telescope, ☃,the", "--json")
    assert outcome.code == 3
    assert [[item["text"] for item in one["candidates"]] for one in outcome.json] == [
        ["telescope", "the"]
    ] * 2
    assert len(outcome.json[0]["candidates"][0]["tokens"]) > 1
    assert outcome.err.splitlines() == [
        "error: the target '☃' cannot be written with this tokenizer: a part of it becomes [UNK]"
    ]
    text = run("fill", model, "a ___ [MASK]", "--no-blanks", "--top-k", 1)
    assert "___" in text.out.splitlines()[-1]


def test_fill_says_what_it_saw_of_a_long_text(run: Run, model: Path) -> None:
    outcome = run("fill", model, "the " * 200 + "[MASK]", "--top-k", 1, "--json")
    assert outcome.code == 0
    assert outcome.err == "note: text 1: the model saw tokens 76 to 201 of this long text, around its masks\n"
    assert len(outcome.json[0]["candidates"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--targets", "a,,b"], "error: --targets: expected words"),
        (["--top-k", 100000], "error: top_k must be 1 to"),
        (["--ranking", "best"], "error: Invalid value for '--ranking'"),
        (["--beam", 0], "error: Invalid value for '--beam'"),
    ],
)
def test_fill_refuses_what_makes_no_sense(
    run: Run, model: Path, arguments: list[object], message: str
) -> None:
    outcome = run("fill", model, "a [MASK]", *arguments)
    assert outcome.code == 2
    assert outcome.complaint.startswith(message)


def test_fill_at_a_terminal_asks_for_a_text(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(isatty=lambda: True))
    outcome = run("fill", "absent-model")
    assert outcome.code == 2
    assert outcome.complaint.startswith("error: no text: give one")


def test_a_model_that_does_not_exist(run: Run) -> None:
    outcome = run("fill", "./absent-model", "a [MASK]", "--offline")
    assert outcome.code == 2
    assert "absent-model" in outcome.complaint


def test_explain_json_and_page(run: Run, model: Path) -> None:
    outcome = run(
        "explain", model, "the constitution sold it.", "--mask-positions", "1,2", "--labels", "all",
        "--top-k", 2, "--html", "page.html", "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    answer = outcome.json
    assert answer["selected"] == [1, 2]
    assert answer["labels"] == answer["input_ids"]
    assert answer["random_draw"] is None
    assert [len(prediction["top"]) for prediction in answer["predictions"]] == [2, 2]
    assert outcome.complaint == "wrote: page.html"
    assert "<html" in Path("page.html").read_text(encoding="utf-8")


def test_explain_draws_by_seed_and_rate(run: Run, model: Path) -> None:
    def selected(*arguments: object) -> list[int]:
        answer = run("explain", model, "the constitution sold it while it rained.", "--json", *arguments).json
        return list(answer["selected"])

    assert selected("--seed", 1, "--mask-rate", 0.5) == selected("--seed", 1, "--mask-rate", 0.5)
    assert len(selected("--mask-rate", 1)) > len(selected("--mask-rate", 0.2))


def test_explain_in_the_terminal(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, b"the constitution sold it.\n")
    outcome = run("explain", model, "-", "--mask-positions", 2)
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("the constitution sold it.\n")
    assert "selected positions (given): 2" in outcome.out
    assert "the mean over 1 masked token" in outcome.out


def test_a_file_that_is_given_as_text_is_said(run: Run, model: Path) -> None:
    Path("texts.txt").write_text("b [MASK]\n", encoding="utf-8")
    for verb, instead in (("fill", "give --file"), ("explain", "pipe it in and give -")):
        outcome = run(verb, model, "texts.txt")
        assert "warning: 'texts.txt' is a file, and its name is taken as the text" in outcome.err
        assert instead in outcome.err


def test_explain_refuses_a_special_token(run: Run, model: Path) -> None:
    outcome = run("explain", model, "the constitution.", "--mask-positions", "0")
    assert outcome.code == 2
    assert "[CLS]" in outcome.complaint


# ---------------------------------------------------------------- prepare, tokenizer, report


@pytest.fixture
def text_file(tmp_path: Path, corpus_text: list[str]) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(corpus_text[:50]) + "\n", encoding="utf-8")
    return path


def test_prepare_counts(run: Run, model: Path, text_file: Path) -> None:
    arguments = ("prepare", text_file, "--model", model, "-o", "shards", "--documents", "line")
    outcome = run(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    answer = outcome.json
    assert answer["folder"] == "shards"
    assert answer["documents"] == 50
    assert answer["tokens"] > 200
    again = run(*arguments)
    assert again.code == 0
    assert f"{answer['tokens']:,}" in again.out
    assert "reusing" in again.err


def test_prepare_takes_the_settings_of_a_file(run: Run, model: Path, text_file: Path) -> None:
    Path("run.yaml").write_text(f"data: {{inputs: ['{text_file}'], documents: file}}\nmodel: {{name: '{model}'}}\n", encoding="utf-8")  # fmt: skip
    assert run("prepare", "-c", "run.yaml", "-o", "shards", "--json").json["documents"] == 1


def test_prepare_of_a_missing_file(run: Run, model: Path) -> None:
    outcome = run("prepare", "absent.txt", "--model", model, "-o", "shards")
    assert outcome.code == 3
    assert "absent.txt" in outcome.err.splitlines()[-1]
    assert list(Path.cwd().iterdir()) == []


def test_a_trained_tokenizer_loads(run: Run, text_file: Path) -> None:
    outcome = run(
        "tokenizer", "train", text_file, "--vocab-size", 200, "-o", "tokens", "--documents", "line", "--json"
    )
    assert outcome.code == 0, outcome.err
    answer = outcome.json
    assert (answer["tokenizer"], answer["documents"]) == ("tokens", 50)
    assert answer["vocab_size"] <= 200
    from unmask.data.tokenizer import load_tokenizer

    assert len(load_tokenizer("tokens", offline=True)) == answer["vocab_size"]
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["text.txt", "tokens"]


def test_a_tokenizer_does_not_replace_what_is_there(run: Run, text_file: Path) -> None:
    Path("tokens").mkdir()
    Path("tokens/mine").touch()
    outcome = run("tokenizer", "train", text_file, "--vocab-size", 200, "-o", "tokens")
    assert outcome.code == 2
    assert (
        outcome.complaint == "error: tokens: exists already and is not an empty folder; choose another name"
    )


def test_a_tokenizer_needs_text(run: Run) -> None:
    Path("empty.txt").touch()
    outcome = run("tokenizer", "train", "empty.txt", "--vocab-size", 200, "-o", "tokens")
    assert outcome.code == 3
    assert not Path("tokens").exists()


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_report_of_what_is_no_run(run: Run, name: str) -> None:
    Path("empty").mkdir()
    outcome = run("report", name)
    assert outcome.code == 3
    assert outcome.complaint.startswith(f"error: {name}")


def test_report_writes_a_page(run: Run) -> None:
    Path("r").mkdir()
    row = {"step": 10, "tokens": 100, "seconds": 1.0, "loss": 5.0, "learning_rate": 0.1}
    Path("r/metrics.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert run("report", "r", "--json").json == {
        "report": "r/report.html",
        "evaluation": None,
        "adaptation": None,
    }
    assert run("report", "r").out == "report: r/report.html\n"
    assert Path("r/report.html").is_file()


def test_a_missing_package_is_said_before_torch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("The river carried a letter.\n", encoding="utf-8")
    calls = [
        ["serve", "bert", "--port", "0"],
        ["export", "bert", "-o", "out", "--format", "onnx-int8"],
        ["export", "bert", "-o", "out", "--format", "openvino"],
        ["train", "notes.txt", "--model", "bert", "--track", "trackio"],
        ["train", "notes.txt", "--model", "bert", "--lora-rank", "2"],
        ["prepare", "notes.txt", "--model", "bert", "-o", "shards", "--deduplicate", "near"],
    ]
    packages = ["fastapi", "onnxruntime", "openvino", "trackio", "peft", "datatrove"]
    script = (
        "import sys; from unmask.cli.main import main\n"
        f"sys.modules |= dict.fromkeys({packages})\n"
        f"for call in {calls}:\n"
        "    print(main(call), 'torch' in sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert ran.stdout.splitlines() == ["2 False"] * len(calls), ran.stderr
    assert re.findall(r"package '(\w+)'", ran.stderr) == packages, ran.stderr
    assert ran.stderr.count("pip install 'unmask[") == len(calls)
