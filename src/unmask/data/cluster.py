"""Tasks that share out a stage of a preparation, started by the executors of datatrove: on this machine, by Slurm or by Ray.

Each task is a process of its own (:mod:`unmask.data.task`), so that one that is killed is noticed everywhere. What is whole
is known from the pieces alone; the record that datatrove keeps of finished tasks is not used.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from loguru import logger

from unmask.data.parts import Plan, Stage
from unmask.data.task import STOP, TODO, failure_file, log_file
from unmask.errors import ERRORS, ConfigError, DataError, DiskError, Interrupted, UnmaskError, plural
from unmask.machine import cores
from unmask.progress import Progress
from unmask.storage import read_json, write_json

MEMORY = 1
"""GB that a task asks for."""
_POLL, _PATIENCE = 1.0, 60.0  # seconds
_FINAL = {kind.exit_code for kind in (ConfigError, DataError, DiskError)}
"""Failures that another try would meet again."""

logger.disable("datatrove")


class Task(PipelineStep):
    """The only step of a pipeline: a process that does the pieces of a rank.

    Args:
        folder: the folder of the plan.
        stage: the name of the stage.
        threads: threads that tokenise.
    """

    type, name = "unmask", "prepare"

    def __init__(self, folder: Path, stage: str, threads: int) -> None:
        super().__init__()
        self.folder, self.stage, self.threads, self.place = folder, stage, threads, os.getcwd()
        self.running: list[subprocess.Popen[bytes]] = []

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"running": []}

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Run the process and wait for it; a failure is kept in its file, and raised for the executor."""
        command = [
            sys.executable,
            "-m",
            "unmask.data.task",
            str(self.folder),
            self.stage,
            str(rank),
            str(world_size),
        ]
        env = os.environ | {"RAYON_NUM_THREADS": str(self.threads), "TOKENIZERS_PARALLELISM": "true", "OMP_NUM_THREADS": "1"}  # fmt: skip
        with (
            log_file(self.folder, rank).open("ab") as log,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=env, cwd=self.place
            ) as process,
        ):
            self.running.append(process)
            process.wait()
        code = process.returncode
        if code and not failure_file(self.folder, rank).exists():
            died = f"was killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"  # fmt: skip
            content = {
                "code": Interrupted.exit_code,
                "stage": self.stage,
                "number": None,
                "message": died,
            }
            write_json(failure_file(self.folder, rank), content)
        if code:
            raise RuntimeError(f"task {rank} ended with {code}")


class Run:
    """Tasks at work.

    Args:
        plan: what they prepare.
        stage: the name of the stage that they share out.
        tasks: how many there are.
        progress: gets what a person should know.
    """

    def __init__(self, plan: Plan, stage: str, tasks: int, progress: Progress) -> None:
        self.plan, self.stage, self.tasks, self.progress = plan, stage, tasks, progress
        self.options: dict[str, Any] = {
            "tasks": tasks,
            "logging_dir": str(plan.folder / "logs" / "datatrove"),
            "skip_completed": False,
        }

    def wait(self, seconds: float) -> bool:
        """Wait for the tasks, at most so long, and return whether they have ended."""
        raise NotImplementedError

    def stop(self) -> None:
        """End the tasks that are left."""


class _Threaded(Run):
    """An executor that waits for its tasks, in a thread."""

    def _start(self, executor: Any) -> None:
        def work() -> None:
            with contextlib.suppress(Exception):  # of a task: it is in its file
                executor.run()

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()


class _LocalExecutor(LocalPipelineExecutor):
    """Without a pool of processes, which waits for ever for one that is killed: each task is a process in any case."""

    def run(self) -> None:
        threads = [threading.Thread(target=self._one, args=[rank]) for rank in range(self.tasks)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _one(self, rank: int) -> None:
        with contextlib.suppress(Exception):  # of the task: it is in its file
            self._run_for_rank(rank)


class LocalRun(_Threaded):
    """Processes of this machine."""

    def __init__(self, plan: Plan, stage: str, tasks: int, progress: Progress) -> None:
        super().__init__(plan, stage, tasks, progress)
        self._task = Task(plan.folder, stage, max(1, cores() // tasks))
        self._start(_LocalExecutor([self._task], **self.options))

    def stop(self) -> None:
        for process in self._task.running:
            process.kill()
        self._thread.join()


class RayRun(_Threaded):
    """Tasks of a Ray cluster: the one of RAY_ADDRESS, or of this machine."""

    def __init__(self, plan: Plan, stage: str, tasks: int, progress: Progress) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import
        import ray

        super().__init__(plan, stage, tasks, progress)
        self._started = not ray.is_initialized()
        try:
            ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            raise ConfigError(f"no Ray cluster can be reached or started: {error}") from None
        found = ray.cluster_resources()
        cores, memory = found.get("CPU", 0.0), found.get("memory", 0.0) / (1 << 30)
        if cores < 1 or memory < MEMORY:
            if self._started:
                ray.shutdown()
            raise ConfigError(
                f"the Ray cluster has {cores:g} CPUs and {memory:.1f} GB of memory; a task needs 1 and {MEMORY}"
            )
        self._start(RayPipelineExecutor([Task(plan.folder, stage, 1)], mem_per_cpu_gb=MEMORY, **self.options))

    def stop(self) -> None:
        import ray

        (self.plan.folder / STOP).touch()  # ray.shutdown() while the executor waits ends this process
        if self.wait(_PATIENCE) and self._started:
            ray.shutdown()


class _SlurmExecutor(SlurmPipelineExecutor):
    """Leaves open what is not given, for the cluster's defaults and sbatch's own environment variables."""

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        return {
            name: value for name, value in super().get_sbatch_args(max_array).items() if value is not None
        }

    def launch_merge_stats(self) -> None:
        """There are no statistics to merge."""


class SlurmRun(Run):
    """An array job of Slurm. The same command goes on waiting for one that it submitted before."""

    def __init__(self, plan: Plan, stage: str, tasks: int, progress: Progress) -> None:
        super().__init__(plan, stage, tasks, progress)
        self._note = plan.folder / "slurm.json"
        before = read_json(self._note)
        self._job = str(before["job"]) if before else ""
        if not before or self._is_over():
            self._job = self._submit()
            write_json(self._note, {"job": self._job})
        progress.log(
            f"waiting for Slurm job {self._job}; it goes on if this command is stopped, and the same command joins its parts"
        )

    def _submit(self) -> str:
        path = f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
        executor = _SlurmExecutor(
            [Task(self.plan.folder, self.stage, 1)], time=None, partition=None, qos=None, mem_per_cpu_gb=MEMORY,
            job_name="unmask-prepare", env_command=path, mail_type=None, **self.options,
        )  # fmt: skip
        try:
            executor.launch_job()
        except FileNotFoundError:
            raise ConfigError("there is no 'sbatch' on this machine; '--executor slurm' runs where jobs of Slurm are submitted") from None  # fmt: skip
        except subprocess.CalledProcessError as error:
            raise ConfigError(
                f"sbatch refused the job with exit code {error.returncode}, see what it says above; if it wants a "
                f"partition, an account or a time limit, set SBATCH_PARTITION, SBATCH_ACCOUNT or SBATCH_TIMELIMIT"
            ) from None
        return str(executor.job_id)

    def wait(self, seconds: float) -> bool:
        time.sleep(seconds)
        return self._is_over()

    def _is_over(self) -> bool:
        found = subprocess.run(["squeue", "-h", "-o", "%T", "-j", self._job], capture_output=True, text=True)
        if found.returncode:  # the controller may be away for a while
            return "Invalid job id" in found.stderr
        return not found.stdout.strip()

    def stop(self) -> None:
        if any(found["code"] in _FINAL for found in _failures(self.plan)):
            subprocess.run(["scancel", self._job], capture_output=True)


RUNS: dict[str, type[Run]] = {"local": LocalRun, "slurm": SlurmRun, "ray": RayRun}


def run_tasks(plan: Plan, stage: Stage, executor: str, tasks: int, progress: Progress) -> None:
    """Do the pieces of a stage that are missing in several tasks at once, and wait for them.

    Raises:
        ConfigError: the executor cannot be used.
        UnmaskError: a task failed, of the class that its error had; :class:`Interrupted` if one was killed.
    """
    todo = stage.missing()
    if not todo:
        return
    if stage.name == "parts" and tasks > len(todo):
        progress.log(
            f"{plural(len(todo), 'part')} to prepare, so {plural(len(todo), 'task')}; no file is divided"
        )
    write_json(plan.folder / TODO, todo)
    logs = plan.folder / "logs"
    for path in (plan.folder / STOP, *logs.glob("task-*.json"), *logs.glob("task-*.count")):
        path.unlink(missing_ok=True)
    run = RUNS[executor](plan, stage.name, min(tasks, len(todo)), progress)
    progress.begin(stage.phase)
    try:
        while not run.wait(_POLL):
            _advance(plan, stage, progress)
            if any(found["code"] in _FINAL for found in _failures(plan)):
                break
    finally:
        run.stop()
    _advance(plan, stage, progress)
    progress.end()
    if missing := stage.missing():
        _raise_failure(plan, stage, len(missing))


def _advance(plan: Plan, stage: Stage, progress: Progress) -> None:
    """Say how many pieces are whole, and what the tasks have written so far; while there is none, no share is known."""
    whole = sum(1 for _ in plan.folder.glob(stage.files))
    counts = [read_json(path) for path in (plan.folder / "logs").glob("task-*.count")]
    written = dict(zip(("documents", "tokens"), map(sum, zip(*counts, strict=True)), strict=False))
    progress.advance(whole / stage.count or None, {stage.unit: whole} | written)


def _failures(plan: Plan) -> list[dict[str, Any]]:
    """Return why tasks failed, those of the first pieces first; of killed ones the piece is unknown."""
    found = []
    for path in (plan.folder / "logs").glob("task-*.json"):
        rank = int(path.stem.removeprefix("task-"))
        found.append(read_json(path) | {"rank": rank, "log": log_file(plan.folder, rank)})
    return sorted(found, key=lambda row: (row["number"] is None, row["number"], row["rank"]))


def _raise_failure(plan: Plan, stage: Stage, missing: int) -> NoReturn:
    left = f"{missing:,} of {stage.count:,} {stage.unit} missing"
    again = "the same command goes on with them"
    failures = _failures(plan)
    if not failures:
        raise Interrupted(f"the tasks ended with {left}; their logs are in {plan.folder / 'logs'}; {again}")
    first = failures[0]
    piece = "" if first["number"] is None else f", {stage.unit.removesuffix('s')} {first['number']}"
    where = f"task {first['rank']}{piece}"
    more = f" ({len(failures) - 1:,} more failed)" if len(failures) > 1 else ""
    raise ERRORS.get(first["code"], UnmaskError)(
        f"{where}: {first['message']}; {left}{more}; log: {first['log']}; {again}"
    )
