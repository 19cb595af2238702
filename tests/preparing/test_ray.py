"""Ray: tasks on a cluster of this machine, of which a node is killed in the middle.

pytest -m slow tests/preparing/test_ray.py
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unmask.data.corpus import Corpus
from unmask.errors import ConfigError, DataError

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that runs nothing and two nodes for one task each."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 << 20})
    monkeypatch.setenv("RAY_ADDRESS", started.address)
    yield started
    started.shutdown()


def add_nodes(cluster: Any, count: int) -> list[Any]:
    nodes = [cluster.add_node(num_cpus=1, memory=1 << 30, object_store_memory=80 << 20) for _ in range(count)]
    cluster.wait_for_nodes()
    return nodes


def test_a_node_that_is_killed_in_the_middle_changes_nothing(
    cluster: Any, prepared: Callable[..., Corpus], tmp_path: Path
) -> None:
    nodes = add_nodes(cluster, 2)

    def kill() -> None:
        while not list((tmp_path / ".shards.partial").glob("part-*.json")):
            time.sleep(0.02)
        cluster.remove_node(nodes[0], allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    made = prepared("shards", executor="ray", tasks=2)
    killer.join()
    assert made.manifest == prepared("wanted").manifest


def test_an_error_in_the_text_names_task_part_and_file(cluster: Any, prepared: Callable[..., Corpus]) -> None:
    add_nodes(cluster, 1)
    with pytest.raises(DataError, match=r"^task 1, part 5: .*5\.txt:42: byte 0xe9 is not UTF-8.*; log: "):
        prepared("shards", executor="ray", tasks=2, strict=True)
    assert prepared("shards", executor="ray", tasks=1).manifest == prepared("wanted").manifest


def test_a_cluster_without_room_for_a_task_is_refused(cluster: Any, prepared: Callable[..., Corpus]) -> None:
    with pytest.raises(ConfigError, match=r"the Ray cluster has 0 CPUs .* a task needs 1 and 1"):
        prepared("shards", executor="ray", tasks=1)
