"""A node with a systemd of its own: units are really sandboxed there, and pods run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.beds.cluster import lifecycle
from tests.beds.cluster.api import Cluster, ClusterError, Node
from tests.beds.cluster.marks import needs_cluster
from tests.lib.waits import wait_until

pytestmark = needs_cluster()

UNIT = """\
[Service]
Type=exec
ExecStart=sleep 1000
DevicePolicy=closed
ProtectSystem=strict
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    shared = tmp_path_factory.mktemp("shared")
    (shared / "file").write_text("from the machine")
    lifecycle.down("systemd")
    binds = [(shared, "/opt/shared")]
    with Cluster.up("systemd", nodes=2, systemd_nodes=1, binds=binds) as up:
        yield up
    assert lifecycle.leftovers("systemd") == []


@pytest.fixture
def host(cluster: Cluster) -> Node:
    return cluster.node("node-2")


def unit(host: Node, properties: str, script: str) -> str:
    """Run a script as a unit with the given properties; return what it wrote, and its errors."""
    flags = [f"--property={word}" for word in properties.split()]
    argv = ["systemd-run", "--quiet", "--wait", "--pipe", *flags, "sh", "-c", script]
    done = host.run(argv, check=False)
    return done.stdout + done.stderr


def test_systemd_comes_up_without_a_failed_unit(host: Node) -> None:
    assert host.run(["systemctl", "is-system-running"]).stdout == "running\n"


def test_kubelet_and_containerd_are_units(host: Node) -> None:
    for name in ("kubelet", "containerd"):
        assert host.run(["systemctl", "is-active", name]).stdout == "active\n"


def test_device_policy_is_enforced(host: Node) -> None:
    assert unit(host, "DevicePolicy=closed", "cat /dev/kmsg").endswith("Operation not permitted\n")
    assert "Operation not permitted" in unit(
        host, "DevicePolicy=closed", "mknod /tmp/nvidia0 c 195 0"
    )
    assert unit(host, "DevicePolicy=auto", "mknod /tmp/nvidia0 c 195 0 && echo made") == "made\n"


def test_file_system_protection_is_enforced(host: Node) -> None:
    assert "Read-only file system" in unit(host, "ProtectSystem=strict", "touch /etc/x")


def test_memory_limit_is_enforced(host: Node) -> None:
    script = "python3 -c 'print(len(b\"1\" * 100_000_000))'; echo ended with $?"
    assert "ended with 137" in unit(host, "MemoryMax=20M", script)


def test_unit_that_starts_at_boot_is_sandboxed_too(host: Node) -> None:
    host.path("/etc/systemd/system/early.service").write_text(UNIT)
    host.run(["systemctl", "enable", "early.service"])
    host.reboot()
    host.wait_until_ready()
    pid = host.run(["systemctl", "show", "-P", "MainPID", "early.service"]).stdout.strip()
    read = ["nsenter", "-t", pid, "-m", "sh", "-c", "grep -o devices:.* /proc/$0/cgroup", pid]
    cgroup = host.run(read).stdout.strip().removeprefix("devices:")
    allowed = host.run(["cat", f"/sys/fs/cgroup/devices{cgroup}/devices.list"]).stdout
    assert "a *:* rwm" not in allowed


def test_pod_runs_there_and_again_after_a_reboot(cluster: Cluster, host: Node) -> None:
    overrides = '{"spec":{"nodeName":"node-2","terminationGracePeriodSeconds":1}}'
    cluster.kubectl(
        *("run", "p", "--image=ubuntu:22.04", f"--overrides={overrides}"),
        *("--command", "--", "bash", "-c", "echo here; sleep 9999"),
    )
    cluster.kubectl("wait", "--for=condition=Ready", "pod/p", "--timeout=60s")
    assert cluster.kubectl("logs", "p") == "here\n"
    host.reboot()

    def is_back() -> bool:
        status = cluster.client.get("/api/v1/namespaces/default/pods/p")["status"]
        container = status["containerStatuses"][0]
        return bool(container["restartCount"] and container["ready"])

    wait_until("the pod runs again", is_back, timeout_s=60, interval_s=0.5)


def test_directory_of_the_machine_is_seen_in_the_host(host: Node) -> None:
    assert host.run(["cat", "/opt/shared/file"]).stdout == "from the machine"
    with pytest.raises(ClusterError, match=r"Cluster\.up\(binds"):
        host.bind(Path("/tmp"), "/mnt")


def test_program_beside_units_has_own_pid_and_ends_on_request(host: Node) -> None:
    script = "trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    process = host.popen(["sh", "-c", script])
    wait_until("it is up", lambda: "up" in process.output(), timeout_s=5)
    process.end()
    assert process.output() == "up\nasked\n"
