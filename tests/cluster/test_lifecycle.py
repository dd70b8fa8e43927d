"""A cluster leaves nothing behind, however it ends, and does not notice its neighbours."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import lifecycle
from tests.cluster.api import Cluster, ClusterError
from tests.cluster.marks import needs_cluster

pytestmark = needs_cluster()

ROOT = Path(__file__).parents[2]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """A cluster name of this test alone, which is removed after it."""
    chosen = f"t-{abs(hash(request.node.name)) % 10**8}"
    yield chosen
    lifecycle.down(chosen)


def test_cluster_that_is_taken_down_leaves_nothing(name: str) -> None:
    with Cluster.up(name) as cluster:
        assert lifecycle.leftovers(name), (
            "a cluster that is up must be seen by what looks for leftovers"
        )
        cluster.nodes[0].popen(["sleep", "1000"])
        cluster.kubectl("run", "p", "--image=busybox:1.36", "--command", "--", "sleep", "1000")
        cluster.kubectl("wait", "--for=condition=Ready", "pod/p", "--timeout=30s")
    assert lifecycle.leftovers(name) == []
    assert all(process_is_not_of(name, pid) for pid in pids())


@pytest.mark.parametrize("after_s", [0.2, 1.0, 2.5, 5.0])
def test_up_that_is_killed_leaves_nothing_after_down(name: str, after_s: float) -> None:
    argv = [sys.executable, "-m", "tests.cluster", "up", "--name", name, "--nodes", "2"]
    with subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.DEVNULL) as child:
        time.sleep(after_s)
        child.send_signal(signal.SIGKILL)
    lifecycle.down(name)
    assert lifecycle.leftovers(name) == []


def test_up_that_fails_leaves_logs_and_nothing_else(name: str) -> None:
    with pytest.raises(ClusterError, match=r"API server ended.*logs: ") as caught:
        Cluster.up(name, feature_gates={"NoSuchGate": True})
    assert lifecycle.leftovers(name) == []
    logs = Path(str(caught.value).rpartition("logs: ")[2].rstrip(")"))
    assert "NoSuchGate" in (logs / "apiserver.log").read_text()


def test_clusters_side_by_side_do_not_meet(name: str) -> None:
    other = f"{name}-b"
    with Cluster.up(name) as one:
        with Cluster.up(other) as two:
            one.kubectl("create", "namespace", "only-here")
            assert "only-here" not in two.kubectl("get", "namespaces")
            with pytest.raises(ClusterError, match=f"cluster {name} exists"):
                Cluster.up(name)
        assert lifecycle.leftovers(other) == []
        assert "only-here" in one.kubectl("get", "namespaces")
        one.kubectl("run", "p", "--image=busybox:1.36", "--command", "--", "sleep", "1000")
        one.kubectl("wait", "--for=condition=Ready", "pod/p", "--timeout=30s")


def test_eighteen_nodes_come_up(name: str) -> None:
    with Cluster.up(name, nodes=18) as cluster:
        assert cluster.kubectl("get", "nodes").count(" Ready ") == 18
    assert lifecycle.leftovers(name) == []


def pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def process_is_not_of(name: str, pid: int) -> bool:
    try:
        return f"nvdra-cluster/{name}" not in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return True  # it ended while we looked
