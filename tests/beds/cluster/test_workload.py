"""What runs on a cluster: pods, their network, devices of the container, and a node that is restarted."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.beds.cluster.api import ApiClient, ApiError, Cluster, ClusterError
from tests.beds.cluster.marks import VERSIONS
from tests.lib.waits import wait_until


@pytest.fixture(scope="module", params=VERSIONS)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """One cluster of two nodes for all tests of this module, for each version."""
    name = f"work-{request.param.replace('.', '-')}"
    with Cluster.up(name, nodes=2, kubernetes=request.param) as up:
        yield up


def start_pod(
    cluster: Cluster,
    name: str,
    node: str,
    script: str,
    *,
    ports: Sequence[Mapping[str, int]] = (),
) -> None:
    """Start a pod with a shell script on a node and wait until it is Ready."""
    container = {
        "name": "c",
        "image": "ubuntu:22.04",
        "command": ["bash", "-c", script],
        "ports": ports,
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [container]},
    }
    cluster.apply(json.dumps(pod))
    cluster.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")


def test_nodes_run_the_version_asked_for(cluster: Cluster) -> None:
    version = cluster.client.get("/version")["gitVersion"]
    nodes = cluster.client.get("/api/v1/nodes")["items"]
    assert version.startswith(f"v{cluster.kubernetes}.")
    assert {node["status"]["nodeInfo"]["kubeletVersion"] for node in nodes} == {version}


def test_every_dra_api_version_is_served(cluster: Cluster) -> None:
    versions = ["v1", "v1beta1", "v1beta2"]
    if cluster.kubernetes != "1.36":  # which has no kind left in v1alpha3
        versions.append("v1alpha3")
    for version in versions:
        assert cluster.client.get(f"/apis/resource.k8s.io/{version}")["resources"], version


def test_pod_runs_and_gives_logs_and_exec(cluster: Cluster) -> None:
    start_pod(cluster, "talker", "node-1", "echo said; sleep 9999")
    assert cluster.kubectl("logs", "talker") == "said\n"
    assert cluster.kubectl("exec", "talker", "--", "hostname") == "talker\n"


def test_program_linked_to_glibc_runs_in_a_container(cluster: Cluster) -> None:
    start_pod(cluster, "glibc", "node-1", "sleep 9999")
    script = "set -- /lib64/ld-linux*; $1 --list /lib/*/libm.so.6"
    assert "libc.so.6" in cluster.kubectl("exec", "glibc", "--", "sh", "-c", script)


def test_service_is_reached_from_pod_of_another_node(cluster: Cluster) -> None:
    serve = "mkdir /www && echo served > /www/index.html && httpd -f -p 8080 -h /www"
    start_pod(cluster, "server", "node-2", serve)
    start_pod(cluster, "caller", "node-1", "sleep 9999")
    cluster.kubectl("expose", "pod", "server", "--port=80", "--target-port=8080")
    ip = cluster.kubectl("get", "service", "server", "-o", "jsonpath={.spec.clusterIP}")
    # Not "wget -T 2": with a timeout of its own Debian's static busybox dies of a segmentation
    # fault.
    get = ["timeout", "2", "busybox", "wget", "-q", "-O-", f"http://{ip}/"]

    def is_served() -> bool:
        return "served" in cluster.kubectl("exec", "caller", "--", *get, check=False)

    wait_until("the Service answers in a pod", is_served, timeout_s=20, interval_s=0.5)
    assert cluster.nodes[0].run(get).stdout == "served\n"


def test_host_port_is_reached_from_another_node(cluster: Cluster) -> None:
    serve = "mkdir /www && echo port > /www/index.html && httpd -f -p 8081 -h /www"
    ports = [{"containerPort": 8081, "hostPort": 9091}]
    start_pod(cluster, "port", "node-2", serve, ports=ports)
    url = f"http://{cluster.node('node-2').address}:9091/"
    answer = cluster.node("node-1").run(["timeout", "5", "busybox", "wget", "-q", "-O-", url])
    assert answer.stdout == "port\n"


def test_containerd_takes_cdi_devices_of_both_directories(cluster: Cluster) -> None:
    containerd = [str(cluster.layout.program("containerd")), "--config=/etc/containerd/config.toml"]
    config = cluster.nodes[0].run([*containerd, "config", "dump"]).stdout
    assert "cdi_spec_dirs = ['/etc/cdi', '/var/run/cdi']" in config


def test_private_directories_belong_to_one_node(cluster: Cluster) -> None:
    one, two = cluster.nodes
    for path in ("/var/lib/nvdra", "/run/nvdra", "/etc/nvdra", "/var/run/cdi", "/dev"):
        one.run(["sh", "-c", f"mkdir -p {path} && touch {path}/mark-of-one"])
        assert one.path(f"{path}/mark-of-one").exists()
        assert two.run(["ls", f"{path}/mark-of-one"], check=False).returncode != 0
        assert not Path(path, "mark-of-one").exists()


def test_kubelet_credential_in_the_node_is_bound_to_that_node(cluster: Cluster) -> None:
    node = cluster.node("node-1")
    kubectl = [str(cluster.layout.program("kubectl")), f"--kubeconfig={node.kubeconfig}"]
    who = node.run([*kubectl, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"])
    assert who.stdout == "system:node:node-1"
    foreign = ApiClient(cluster.layout, cluster.layout.identity("node-1"))
    patch = {"metadata": {"labels": {"x": "y"}}}
    merge = "application/merge-patch+json"
    foreign.request("PATCH", "/api/v1/nodes/node-1", patch, merge)
    with pytest.raises(ApiError, match="is not allowed to modify node") as refused:
        foreign.request("PATCH", "/api/v1/nodes/node-2", patch, merge)
    assert refused.value.status == 403


def test_popen_ends_with_its_children(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    process = node.popen(["sh", "-c", "sleep 1234 & echo child $!; wait"], env={"A": "b"})
    wait_until("it has written", lambda: "child" in process.output(), timeout_s=5)
    process.end(kill=True)
    assert not process.is_running
    assert node.run(["sh", "-c", "ps ax | grep -c '[s]leep 1234'"], check=False).stdout == "0\n"


def test_pod_lives_through_restarts_of_kubelet_and_containerd(cluster: Cluster) -> None:
    node = cluster.node("node-1")
    start_pod(cluster, "steady", node.name, "sleep 9999")
    before = cluster.client.get("/api/v1/namespaces/default/pods/steady")["status"]
    node.restart("containerd", kill=True)
    node.restart("kubelet", kill=True)
    cluster.restart("apiserver")
    cluster.wait_until_ready()
    start_pod(cluster, "after", node.name, "sleep 9999")
    after = cluster.client.get("/api/v1/namespaces/default/pods/steady")["status"]
    assert (
        after["containerStatuses"][0]["containerID"]
        == before["containerStatuses"][0]["containerID"]
    )


def test_ended_kubelet_fails_the_wait_at_once(cluster: Cluster) -> None:
    node = cluster.node("node-1")
    node.stop("kubelet", kill=True)
    with pytest.raises(ClusterError, match=r"node-1\.kubelet ended"):
        cluster.wait_until_ready()
    node.start("kubelet")
    cluster.wait_until_ready()


def test_reboot_ends_all_and_gives_a_new_boot_id(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    node = cluster.node("node-2")
    shared = tmp_path_factory.mktemp("shared")
    (shared / "file").write_text("bound")
    start_pod(cluster, "phoenix", node.name, "sleep 9999")
    node.bind(shared, "/mnt")
    program = node.popen(["sleep", "1000"])
    node.run(["sh", "-c", "touch /run/gone /var/lib/nvdra/stays"])
    boot_id = node.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout
    node.reboot()
    node.wait_until_ready()
    assert not program.is_running
    assert node.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout != boot_id
    assert node.run(["ls", "/run/gone"], check=False).returncode != 0
    assert node.run(["ls", "/var/lib/nvdra/stays", "/mnt/file"]).returncode == 0

    def pod_is_back() -> bool:
        status = cluster.client.get("/api/v1/namespaces/default/pods/phoenix")["status"]
        container = status["containerStatuses"][0]
        return bool(container["restartCount"] == 1 and container["ready"])

    wait_until("the pod runs again", pod_is_back, timeout_s=60, interval_s=0.5)


def test_api_server_reaches_webhook_address_of_the_host(cluster: Cluster) -> None:
    serve = "mkdir /w && echo hi > /w/index.html && httpd -f -p 8082 -h /w"
    start_pod(cluster, "hook", "node-1", serve)
    cluster.apply(
        textwrap.dedent("""\
            apiVersion: v1
            kind: Service
            metadata: {name: hook}
            spec:
              selector: {app: hook}
              ports: [{port: 80, targetPort: 8082}]
            """)
    )
    path = "/api/v1/namespaces/default/services/hook:80/proxy/"
    wait_until("the API server reaches it", lambda: cluster.client.says_ok(path), timeout_s=20)
