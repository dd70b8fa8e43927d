"""A plugin that prepares nothing: registers, publishes one slice, answers after reading the claim from the API.

Shows what a Python gRPC server, one API request and the harness cost by themselves; beside pods, what Kubernetes
itself takes longer for a pod with a claim.
"""

from __future__ import annotations

import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from nvdra_core.kube.resources import CLAIMS, SLICES
from nvdra_node.kube.client import Client
from nvdra_node.kube.config import KubeConfig
from nvdra_node.rpc.messages import dra_v1_pb2 as dra
from nvdra_node.rpc.messages import dra_v1_pb2_grpc as dra_grpc
from nvdra_node.rpc.messages import pluginregistration_v1_pb2 as registration
from nvdra_node.rpc.messages import pluginregistration_v1_pb2_grpc as registration_grpc
from tests.bench.plugin.claims import GPUS
from tests.bench.plugin.contender import DRIVER
from tests.lib import objects


class Registration:
    """The registration service."""

    def __init__(self, endpoint: Path) -> None:
        self._endpoint = endpoint

    def GetInfo(self, *_: Any) -> registration.PluginInfo:  # noqa: N802 - named by the protocol
        """See the protocol."""
        return registration.PluginInfo(
            type="DRAPlugin",
            name=DRIVER,
            endpoint=str(self._endpoint),
            supported_versions=["v1.DRAPlugin"],
        )

    def NotifyRegistrationStatus(self, *_: Any) -> registration.RegistrationStatusResponse:  # noqa: N802
        """See the protocol."""
        return registration.RegistrationStatusResponse()


class Plugin:
    """The DRA service."""

    def __init__(self, client: Client, node: str) -> None:
        self._client = client
        self._node = node

    def NodePrepareResources(self, request: Any, _: Any) -> dra.NodePrepareResourcesResponse:  # noqa: N802
        """Name the claim's device."""
        reply = dra.NodePrepareResourcesResponse()
        for claim in request.claims:
            stored = self._client.get(CLAIMS, claim.name, namespace=claim.namespace)
            result = stored["status"]["allocation"]["devices"]["results"][0]
            reply.claims[claim.uid].devices.add(pool_name=self._node, device_name=result["device"])
        return reply

    def NodeUnprepareResources(self, request: Any, _: Any) -> dra.NodeUnprepareResourcesResponse:  # noqa: N802
        """Do nothing."""
        reply = dra.NodeUnprepareResourcesResponse()
        for claim in request.claims:
            reply.claims[claim.uid].SetInParent()
        return reply


def main() -> int:
    """Serve until SIGTERM. Arguments: node, kubeconfig, registry and plugins directory."""
    node, kubeconfig, registry, plugins = sys.argv[1:]
    client = Client(KubeConfig.load(kubeconfig))
    endpoint = Path(plugins, DRIVER, "dra.sock")
    services = (grpc.server(ThreadPoolExecutor(16)), grpc.server(ThreadPoolExecutor(1)))
    dra_grpc.add_DRAPluginServicer_to_server(Plugin(client, node), services[0])
    registration_grpc.add_RegistrationServicer_to_server(Registration(endpoint), services[1])
    for server, path in zip(
        services, (endpoint, Path(registry, f"{DRIVER}-reg.sock")), strict=True
    ):
        server.add_insecure_port(f"unix:{path}")
        server.start()
    devices = [objects.device(f"gpu-{number}") for number in range(GPUS)]
    client.create(SLICES, objects.resource_slice(f"{node}-{DRIVER}", node, devices))
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    for server in reversed(services):
        server.stop(None).wait()
    return 0


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    sys.exit(main())
