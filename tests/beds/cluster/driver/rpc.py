"""Calls the plugin's sockets from the test and measures."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from nvdra_node.rpc.messages import pluginregistration_v1_pb2
from nvdra_node.rpc.messages.pluginregistration_v1_pb2_grpc import RegistrationStub
from tests.beds.cluster.driver.gpu_bed import DRIVER, GpuNode
from tests.beds.services import kubelet

SERVICE = "v1.DRAPlugin"


@contextlib.contextmanager
def plugin(gpu_node: GpuNode) -> Iterator[kubelet.Plugin]:
    """The DRA service of a node, by the socket's path on this machine."""
    path = gpu_node.node.path(f"/var/lib/kubelet/plugins/{DRIVER}/dra.sock")
    client = kubelet.Plugin(SimpleNamespace(endpoint=str(path)), SERVICE)
    try:
        yield client
    finally:
        client.close()


def get_info_s(gpu_node: GpuNode, times: int = 1) -> list[float]:
    """How long GetInfo took, each time, in seconds, on a connection that is open."""
    path = gpu_node.node.path(f"/var/lib/kubelet/plugins_registry/{DRIVER}-reg.sock")
    with kubelet.connect(path) as channel:
        _get_info(channel)
        return [timed(lambda: _get_info(channel))[0] for _ in range(times)]


def timed(call: Any) -> tuple[float, Any]:
    """Seconds that a call took, and what it returned."""
    started = time.monotonic()
    result = call()
    return time.monotonic() - started, result


def ref(claim: Any) -> tuple[str, str, str]:
    """Namespace, name and UID of a ResourceClaim, as the kubelet names it."""
    metadata = claim["metadata"]
    return metadata["namespace"], metadata["name"], metadata["uid"]


def _get_info(channel: Any) -> Any:
    info = RegistrationStub(channel).GetInfo(pluginregistration_v1_pb2.InfoRequest(), timeout=5.0)
    assert info.name == DRIVER
    return info
