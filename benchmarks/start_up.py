"""Seconds until something is there: `unmask fill` compared with what Python needs to import torch and transformers and to read
the weights, and with transformers' own ways; the first step of a training run on a tiny text compared with the imports alone;
`import unmask` and the help. Each in a process of its own, in turns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence

import harness
from harness import Result, middle, say
from throughput import sentences

TEXT = "the capital [MASK] is large"
BARE = """\
import sys, torch, transformers
from safetensors.torch import load_file
load_file(sys.argv[1] + "/model.safetensors")"""
FORWARD = """\
import sys, torch
from transformers import AutoModelForMaskedLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForMaskedLM.from_pretrained(sys.argv[1]).eval()
with torch.no_grad():
    model(**tokenizer(sys.argv[2], return_tensors="pt"))"""
PIPELINE = """\
import sys
from transformers import pipeline
pipeline("fill-mask", sys.argv[1])(sys.argv[2])"""
IMPORTS = "import torch, transformers"
TRAIN = """\
import os, sys, shutil, unmask
class Stop(unmask.Callback):
    def row(self, row):
        os._exit(0)  # the first step is done
shutil.rmtree(sys.argv[3], ignore_errors=True)
unmask.train(sys.argv[1], model=sys.argv[2], out=sys.argv[3], max_steps=2, progress=False,
             settings={"train.log_every": 1}, callbacks=[Stop()])
raise SystemExit("no step was logged")"""
GOAL, TRAIN_GOAL, IMPORT_GOAL, HELP_GOAL = 1.3, 1.5, 0.1, 0.3


def options() -> argparse.ArgumentParser:
    made = harness.parser(__doc__ or "", rounds=5)
    harness.add_size(made)
    return made


def work(args: argparse.Namespace) -> None:
    model = harness.start(args.vocabulary, *args.size)
    exported = harness.exported(model, "onnx", sentences(harness.texts(args.text, 1)))
    notes = harness.WORK / "start_up.txt"
    notes.write_text("The patient was given morphine for the pain.\n" * 40, encoding="utf-8")
    commands = {
        "imports and weights": ["-c", BARE, model],
        "from_pretrained, one pass": ["-c", FORWARD, model, TEXT],
        "pipeline": ["-c", PIPELINE, model, TEXT],
        "unmask fill": ["-m", "unmask", "fill", model, TEXT],
        "unmask fill, onnx": ["-m", "unmask", "fill", exported, TEXT],
        "imports": ["-c", IMPORTS],
        "unmask.train, first step": ["-c", TRAIN, str(notes), model, str(harness.WORK / "start_up-run")],
        "import unmask": ["-c", "import unmask"],
        "unmask --help": ["-m", "unmask", "--help"],
    }
    sides = {name: lambda command=command: _timed(command) for name, command in commands.items()}
    for side in sides.values():
        side()  # so that the files are in memory
    found = harness.take_turns(sides, args.rounds, lambda *_: None)
    cpu = {name: middle(results, "cpu_seconds") for name, results in found.items()}
    bare = cpu["imports and weights"]
    goals = [
        harness.goal(f"{name}, CPU, times imports and weights", cpu[name] / bare, most=GOAL)
        for name in ("unmask fill", "unmask fill, onnx")
    ]
    seconds = {name: middle(results, "seconds") for name, results in found.items()}
    first = seconds["unmask.train, first step"] / seconds["imports"]
    goals += [
        harness.goal("first training step, times imports", first, most=TRAIN_GOAL),
        harness.goal("import unmask, seconds", seconds["import unmask"], most=IMPORT_GOAL),
        harness.goal("unmask --help, seconds", seconds["unmask --help"], most=HELP_GOAL),
    ]
    harness.write(args.json, harness.report("start_up", args) | {"found": found, "goals": goals})
    rows = [
        [name, f"{middle(results, 'seconds'):.2f}", f"{cpu[name]:.2f}", f"{cpu[name] / bare:.2f}"]
        for name, results in found.items()
    ]
    harness.table(["", "seconds", "of CPU", "times imports"], rows)
    say("")
    harness.table(["goal", "wanted", "measured", ""], harness.goal_rows(goals))


def _timed(command: Sequence[str]) -> Result:
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise harness.Failure(f"{' '.join(command)} failed with exit code {process.returncode}")
    return {"seconds": time.perf_counter() - begin, "cpu_seconds": usage.ru_utime + usage.ru_stime}


if __name__ == "__main__":
    raise SystemExit(harness.main(work, options()))
