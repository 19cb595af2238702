"""Slurm: the job that is submitted, and a preparation by a Slurm of this machine.

    apt-get install slurmctld slurmd
    pytest -m slow tests/preparing/test_slurm.py     # as root

Without these packages the second part is skipped.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unmask.data.corpus import Corpus
from unmask.errors import ConfigError, DataError, Interrupted

# --- what is submitted --------------------------------------------------------------------------------------------

SBATCH = """#!/bin/bash
# Runs the tasks of an array job, one after another.
script="${@: -1}"
cp "$script" "$FAKE/submitted"; echo "$@" > "$FAKE/arguments"
last=$(sed -n 's/^#SBATCH --array=0-//p' "$script")
for task in $(seq 0 "$last"); do
  SLURM_ARRAY_TASK_ID=$task SLURM_NODELIST=here bash "$script" >> "$FAKE/output" 2>&1
done
echo Submitted batch job 17
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with stand-ins for Slurm's commands."""
    folder = tmp_path / "fake"
    folder.mkdir()
    commands = {
        "sbatch": SBATCH,
        "srun": '#!/bin/bash\nshift 3; exec "$@"\n',
        "scontrol": "#!/bin/bash\necho here\n",
        "squeue": "#!/bin/bash\necho 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1\n",
        "scancel": "#!/bin/bash\necho $@ > $FAKE/cancelled\n",
    }
    for name, script in commands.items():
        (folder / name).write_text(script, encoding="utf-8")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(folder))
    return folder


def test_an_array_job_writes_the_parts(prepared: Callable[..., Corpus], fake: Path, notices: Any) -> None:
    shards = prepared("shards", notices, executor="slurm", tasks=2)
    assert shards.manifest == prepared("wanted").manifest
    script = (fake / "submitted").read_text(encoding="utf-8")
    given = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2] for line in script.splitlines() if "#SB" in line
    )
    log = given.pop("output")
    assert given.pop("error") == log
    assert "/.shards.partial/logs/" in log
    assert given == {
        "cpus-per-task": "1",
        "mem-per-cpu": "1G",
        "nodes": "1",
        "job-name": "unmask-prepare",
        "array": "0-1",
        "requeue": "",
    }
    assert "launch_pickled_pipeline" in script
    assert (fake / "arguments").read_text(encoding="utf-8").startswith("--export=ALL,RUN_OFFSET=0 ")
    assert any(text.startswith("waiting for Slurm job 17; it goes on if") for text in notices.texts)


def test_an_error_in_the_text_cancels_the_job(prepared: Callable[..., Corpus], fake: Path) -> None:
    with pytest.raises(DataError, match=r"^task 1, part 5: .*5\.txt:42: byte 0xe9 is not UTF-8.*; log: "):
        prepared("shards", executor="slurm", tasks=2, strict=True)
    assert (fake / "cancelled").read_text(encoding="utf-8") == "17\n"


def test_a_job_that_ends_without_a_word_is_an_error(prepared: Callable[..., Corpus], fake: Path) -> None:
    (fake / "srun").write_text("#!/bin/bash\nexit 1\n", encoding="utf-8")
    with pytest.raises(
        Interrupted, match=r"the tasks ended with 7 of 7 parts missing; their logs are in .*/logs"
    ):
        prepared("shards", executor="slurm", tasks=2)


def test_a_job_that_is_refused_is_an_error(prepared: Callable[..., Corpus], fake: Path) -> None:
    (fake / "sbatch").write_text("#!/bin/bash\necho no partition >&2; exit 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"sbatch refused the job with exit code 3, see .*SBATCH_PARTITION"):
        prepared("shards", executor="slurm", tasks=2)


# --- a real one ---------------------------------------------------------------------------------------------------

CONF = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
SlurmctldPort={control}
SlurmdPort={node}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/control.pid
SlurmdPidFile={folder}/node.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=2
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 {size}
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A controller and one node on this machine."""
    if not (shutil.which("slurmctld") and shutil.which("slurmd")) or os.geteuid():
        pytest.skip("needs slurmctld and slurmd, and root")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    found = subprocess.run(["slurmd", "-C"], capture_output=True, text=True, check=True).stdout.splitlines()[
        0
    ]
    name, _, size = found.partition(" ")
    conf = folder / "slurm.conf"
    host = name.removeprefix("NodeName=")
    values = {"folder": folder, "host": host, "size": size, "control": free_port(), "node": free_port()}
    conf.write_text(CONF.format(**values), encoding="utf-8")
    monkeypatch.setenv("SLURM_CONF", str(conf))
    processes = []
    try:
        for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "localhost"]):
            log = (folder / f"{command[0]}.log").open("wb")
            with log:
                processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        for _ in range(100):
            state = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True).stdout.strip()
            if state == "idle":
                break
            time.sleep(0.2)
        assert state == "idle", state
        yield
    finally:
        for process in processes:
            process.terminate()
            process.wait()


@pytest.mark.slow
def test_slurm_writes_the_same_shards(slurm: None, prepared: Callable[..., Corpus]) -> None:
    assert prepared("shards", executor="slurm", tasks=3).manifest == prepared("wanted").manifest
    wanted = prepared("one", deduplicate="exact").manifest
    assert prepared("several", executor="slurm", tasks=3, deduplicate="exact").manifest == wanted


@pytest.mark.slow
def test_after_a_job_was_cancelled_the_parts_that_are_missing_are_written(
    slurm: None, prepared: Callable[..., Corpus], tmp_path: Path
) -> None:
    def cancel() -> None:
        while not list((tmp_path / ".shards.partial").glob("part-*.json")):
            time.sleep(0.05)
        subprocess.run(["scancel", "-s", "KILL", "-n", "unmask-prepare"], check=True)

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(Interrupted, match=r"of 7 parts missing; .*; the same command goes on with them"):
        prepared("shards", executor="slurm", tasks=1)
    thread.join()
    kept = sorted(path.name for path in (tmp_path / ".shards.partial").glob("part-*.json"))
    assert 0 < len(kept) < 7
    first = (tmp_path / ".shards.partial" / "shards" / "part-00000").stat().st_ino
    assert prepared("shards", executor="slurm", tasks=2).manifest == prepared("wanted").manifest
    assert (tmp_path / "shards" / "part-00000").stat().st_ino == first


@pytest.mark.slow
def test_the_same_command_waits_for_the_job_that_it_submitted(
    slurm: None, prepared: Callable[..., Corpus], monkeypatch: pytest.MonkeyPatch, notices: Any
) -> None:
    from unmask.data import cluster

    def stopped(self: Any, seconds: float) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cluster.SlurmRun, "wait", stopped)
        with pytest.raises(KeyboardInterrupt):
            prepared("shards", notices, executor="slurm", tasks=2)
    assert prepared("shards", notices, executor="slurm", tasks=2).manifest == prepared("wanted").manifest
    waited = [text.partition(";")[0] for text in notices.texts if text.startswith("waiting for Slurm job")]
    assert len(waited) == 2
    assert len(set(waited)) == 1
