"""A cluster leaves nothing behind, however it ends, and does not notice its neighbours."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.beds.cluster import layout, lifecycle
from tests.beds.cluster.api import Cluster, ClusterError
from tests.beds.cluster.machine import cgroups
from tests.beds.cluster.marks import needs_cluster
from tests.lib.waits import wait_until

pytestmark = needs_cluster()

ROOT = Path(__file__).parents[3]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """A cluster name of this test alone, which is removed after it."""
    chosen = f"t-{abs(hash(request.node.name)) % 10**8}"
    yield chosen
    lifecycle.down(chosen)


def test_cluster_that_is_taken_down_leaves_nothing(name: str) -> None:
    with Cluster.up(name) as cluster:
        assert lifecycle.leftovers(name), "a running cluster counts as a leftover"
        cluster.nodes[0].popen(["sleep", "1000"])
        cluster.kubectl("run", "p", "--image=busybox:1.36", "--command", "--", "sleep", "1000")
        cluster.kubectl("wait", "--for=condition=Ready", "pod/p", "--timeout=30s")
    assert lifecycle.leftovers(name) == []
    assert all(process_is_not_of(name, pid) for pid in pids())


@pytest.mark.parametrize("after_s", [0.2, 1.0, 2.5, 5.0])
def test_up_that_is_killed_leaves_nothing_after_down(name: str, after_s: float) -> None:
    with subprocess.Popen(up(name, "--nodes", "2"), cwd=ROOT, stderr=subprocess.DEVNULL) as child:
        time.sleep(after_s)
        child.send_signal(signal.SIGKILL)
    lifecycle.down(name)
    assert lifecycle.leftovers(name) == []


def test_up_replaces_a_cluster_that_ended_with_the_machine(name: str) -> None:
    left = Cluster.up(name, nodes=2)
    left.nodes[0].run(["touch", "/var/lib/nvdra/of-the-earlier-run"])
    cgroups.end_processes(left.layout.cgroup)
    with Cluster.up(name) as cluster:
        assert [node.name for node in cluster.nodes] == ["node-1"]
        assert not cluster.nodes[0].path("/var/lib/nvdra/of-the-earlier-run").exists()
    assert lifecycle.leftovers(name) == []


def test_up_replaces_a_cluster_whose_start_was_killed(name: str) -> None:
    with subprocess.Popen(up(name), cwd=ROOT, stderr=subprocess.DEVNULL) as child:
        wait_until("a program runs", lambda: bool(processes_of(name)), timeout_s=60)
        child.send_signal(signal.SIGKILL)
    assert processes_of(name)
    with Cluster.up(name) as cluster:
        assert "node-1" in cluster.kubectl("get", "nodes")


def test_up_replaces_a_cluster_whose_context_was_killed(name: str) -> None:
    program = f"""
import os
from tests.beds.cluster.api import Cluster

with Cluster.up({name!r}):
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == -9
    assert processes_of(name)
    with Cluster.up(name) as cluster:
        assert "node-1" in cluster.kubectl("get", "nodes")


def test_up_does_not_replace_a_cluster_that_is_starting_or_up(name: str) -> None:
    home = layout.clusters_dir() / name
    with subprocess.Popen(up(name), cwd=ROOT, stderr=subprocess.DEVNULL) as child:
        wait_until("it has begun", home.exists, timeout_s=60, interval_s=0.001)
        with pytest.raises(ClusterError, match=f"cluster {name} exists"):
            Cluster.up(name)
        assert child.wait(120) == 0
    with pytest.raises(ClusterError, match=f"cluster {name} exists"):
        Cluster.up(name)


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


def up(name: str, *more: str) -> list[str]:
    """A command that starts a cluster and leaves it to itself."""
    return [sys.executable, "-m", "tests.beds.cluster", "up", "--name", name, *more]


def processes_of(name: str) -> set[int]:
    return cgroups.processes(f"{layout.PREFIX}.{name}")


def pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def process_is_not_of(name: str, pid: int) -> bool:
    try:
        return f"nvdra-cluster/{name}" not in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return True  # it ended while we looked
