"""A plugin that prepares nothing: it registers, publishes one slice and answers after reading the claim from the API.

`floor` shows what a Python gRPC server, one API request and the harness cost by themselves; beside pods, what
Kubernetes itself takes longer for a pod with a claim, into whose container nothing is put. Its
messages are coded by hand, so it shares nothing but the API client with what is measured.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from nvdra_core.kube.client import Client
from nvdra_core.kube.config import KubeConfig
from nvdra_core.kube.resources import CLAIMS, SLICES
from tests.bench.plugin.claims import GPUS
from tests.bench.plugin.contender import DRIVER
from tests.lib import objects

PREPARE, UNPREPARE = "NodePrepareResources", "NodeUnprepareResources"
DEVICE_FIELD, POOL_FIELD = 3, 2


def main() -> int:
    """Serve until SIGTERM. Arguments: node, kubeconfig, registry and plugins directory."""
    node, kubeconfig, registry, plugins = sys.argv[1:]
    client = Client(KubeConfig.load(kubeconfig))
    endpoint = Path(plugins, DRIVER, "dra.sock")
    dra = _serve(endpoint, "k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin", _dra(client, node))
    registrar = _serve(
        Path(registry, f"{DRIVER}-reg.sock"),
        "pluginregistration.Registration",
        _registration(endpoint),
    )
    client.create(
        SLICES,
        objects.resource_slice(
            f"{node}-{DRIVER}", node, map(objects.device, (f"gpu-{n}" for n in range(GPUS)))
        ),
    )
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    for server in (registrar, dra):
        server.stop(None).wait()
    return 0


def _serve(socket: Path, service: str, methods: dict[str, Callable[[bytes], bytes]]) -> grpc.Server:
    server = grpc.server(ThreadPoolExecutor(16))
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(lambda request, _, answer=answer: answer(request))
        for name, answer in methods.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    return server


def _registration(endpoint: Path) -> dict[str, Callable[[bytes], bytes]]:
    texts = ["DRAPlugin", DRIVER, str(endpoint), "v1.DRAPlugin"]
    info = b"".join(_field(number, text.encode()) for number, text in enumerate(texts, 1))
    return {"GetInfo": lambda _: info, "NotifyRegistrationStatus": lambda _: b""}


def _dra(client: Client, node: str) -> dict[str, Callable[[bytes], bytes]]:
    def prepare(request: bytes) -> bytes:
        return b"".join(_prepared(*claim) for claim in _claims(request))

    def _prepared(namespace: str, uid: str, name: str) -> bytes:
        claim = client.get(CLAIMS, name, namespace=namespace)
        result = claim["status"]["allocation"]["devices"]["results"][0]
        device = _field(POOL_FIELD, node.encode()) + _field(DEVICE_FIELD, result["device"].encode())
        return _entry(uid, _field(1, device))

    def unprepare(request: bytes) -> bytes:
        return b"".join(_entry(uid, b"") for _, uid, _ in _claims(request))

    return {PREPARE: prepare, UNPREPARE: unprepare}


def _entry(uid: str, answer: bytes) -> bytes:
    return _field(1, _field(1, uid.encode()) + _field(2, answer))


def _claims(request: bytes) -> Iterator[tuple[str, str, str]]:
    """Yield namespace, UID and name of each claim."""
    for _, claim in _fields(request):
        fields = {number: value.decode() for number, value in _fields(claim)}
        yield fields[1], fields[2], fields[3]


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and value of each field; all of these messages' fields are length-delimited and small numbers."""
    at = 0
    while at < len(message):
        number = message[at] >> 3
        length, at = _length(message, at + 1)
        yield number, message[at : at + length]
        at += length


def _length(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _field(number: int, value: bytes) -> bytes:
    length = bytearray()
    rest = len(value)
    while rest > 0x7F:
        length.append(rest & 0x7F | 0x80)
        rest >>= 7
    length.append(rest)
    return bytes([number << 3 | 2]) + bytes(length) + value


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    sys.exit(main())
