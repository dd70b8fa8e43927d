"""ComputeDomains on a rack: the controller beside the cluster, NVIDIA's own unit on the hosts, a job over all of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from nvdra_packages.layout import TOP
from tests.beds.cluster.driver import manifests as m
from tests.beds.rack import credential
from tests.beds.rack.hosts import Rack
from tests.lib.waits import wait_until

DRIVER = "compute-domain.nvidia.com"
SERVICES = ("nvdra-imex-supervisor.service", "nvdra-compute-domain-plugin.service")
GPU = "nvdra-gpu-plugin.service"
IMEX = "nvdra-imex.service"
VENDOR = "nvidia-imex.service"
JOB = "job"
_VENDOR_UNIT = """\
[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
"""


@contextmanager
def controller(rack: Rack) -> Iterator[None]:
    """The shipped controller, with the rights that the chart gives it and no others."""
    token = rack.cluster.kubectl("create", "token", "nvdra-controller", "-n", credential.PLACE)
    document = yaml.safe_load(rack.cluster.layout.admin_kubeconfig.read_text())
    document["users"][0]["user"] = {"token": token.strip()}
    path = rack.home / "controller.kubeconfig"
    path.write_text(yaml.safe_dump(document))
    argv = [sys.executable, "-m", "nvdra_cluster.cli", "--namespace", credential.PLACE]
    argv += ["--kubeconfig", str(path)]
    program = rack.cluster.popen(argv, name="controller", env={"PYTHONPATH": str(TOP)})
    try:
        yield
    finally:
        program.end()


def install_vendor_unit(rack: Rack) -> None:
    """Install a unit as NVIDIA's package of nvidia-imex does, enabled and running."""
    for node in rack.hosts.values():
        node.path(f"/usr/lib/systemd/system/{VENDOR}").write_text(_VENDOR_UNIT)
        node.run(["systemctl", "daemon-reload"])
        node.run(["systemctl", "enable", "--now", VENDOR])


def states(rack: Rack, unit: str) -> set[str]:
    """States of a unit on all hosts, as ``active enabled``."""
    argv = ["systemctl", "show", "-P", "ActiveState", "-P", "UnitFileState", unit]
    return {" ".join(node.run(argv).stdout.split()) for node in rack.hosts.values()}


def runs(rack: Rack, unit: str) -> list[str]:
    """The invocation of a unit on each host."""
    argv = ["systemctl", "show", "-P", "InvocationID", unit]
    return [node.run(argv).stdout.strip() for node in rack.hosts.values()]


def channels(rack: Rack) -> set[str]:
    """Nodes that publish their channel."""
    return {
        item["spec"]["nodeName"]
        for item in rack.bed.get("resourceslices")["items"]
        if item["spec"]["driver"] == DRIVER and item["spec"].get("devices")
    }


def start_job(rack: Rack) -> None:
    """A ComputeDomain over all hosts, with a pod that has its channel on each."""
    rack.bed.create_namespace(JOB)
    rack.bed.apply(m.domain(JOB, "train", nodes=len(rack.hosts)))
    template = f"/apis/resource.k8s.io/v1/namespaces/{JOB}/resourceclaimtemplates/train-channel"
    wait_until("the template", lambda: rack.cluster.client.says_ok(template), 120)
    rack.bed.apply(*(m.worker(JOB, name, "train", node=name) for name in rack.hosts))


def containers(rack: Rack) -> dict[str, Any]:
    """Container and restarts of each pod of the job."""
    found = {}
    for pod in rack.bed.get("pods", "-n", JOB)["items"]:
        (status,) = pod["status"]["containerStatuses"]
        found[pod["metadata"]["name"]] = (status["containerID"], status["restartCount"])
    return found


def is_gone(rack: Rack) -> bool:
    """Whether the job's ComputeDomain is deleted."""
    path = f"/apis/resource.nvidia.com/v1beta1/namespaces/{JOB}/computedomains/train"
    return rack.bed.find(path) is None
