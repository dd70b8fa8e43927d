"""The in-memory API server as the benchmarks need it, run as a process by `api.Api`.

On top of the fake it takes ResourceSlices as protobuf, which Go plugins send, tells when the first one came, and lets a
kubelet write no status of claims, as the node authorizer does. Prints one line of JSON when it serves ({"control",
"kubelet", "service"}: the kubeconfigs of the node's kubelet and of a driver's own account) and one at the first slice
({"slice_ns"}, since the epoch).
"""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.bench.errors import BenchError
from tests.bench.plugin import slicewire
from tests.bench.plugin.contender import NODE
from tests.fakes.apiserver.api import Api, refusal
from tests.fakes.apiserver.kinds import Route
from tests.fakes.apiserver.listener.messages import HttpRequest, Reply
from tests.fakes.apiserver.server import FakeApiServer, FakeSettings
from tests.fakes.apiserver.status import StatusError
from tests.fakes.apiserver.store import encode
from tests.lib.objects import obj

CREATED = 201


class BenchApi(Api):
    """See the module."""

    _has_slice = False

    def answer(self, request: HttpRequest, route: Route, verb: str) -> Reply:
        """Carry the request out, a protobuf body as if it had been JSON."""
        is_kubelet = request.peer is not None and "system:nodes" in request.peer.groups
        if is_kubelet and route.subresource == "status":
            return refusal(StatusError(403, f"no kubelet may write the status of {route.name}"))
        if request.body.startswith(slicewire.MAGIC):
            request = dataclasses.replace(request, body=encode(slicewire.decode(request.body)))
        reply = super().answer(request, route, verb)
        is_slice = (
            verb == "create" and route.kind is not None and route.kind.plural == "resourceslices"
        )
        if is_slice and reply.code == CREATED and not self._has_slice:
            self._has_slice = True
            _say({"slice_ns": time.time_ns()})
        return reply


class BenchServer(FakeApiServer):
    """A fake whose API is `BenchApi`."""

    api_type = BenchApi


def main() -> int:
    """Serve until SIGTERM. Argument: a directory for certificates and kubeconfig."""
    directory = Path(sys.argv[1])
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    server = BenchServer(FakeSettings(tls_directory=directory))
    server.add(obj("Node", NODE))
    server.start()
    server.start_control()
    service = server.write_kubeconfig(directory / "service")
    kubelet = _write_kubelet(server, service, directory)
    _say({"control": server.control_url, "kubelet": str(kubelet), "service": str(service)})
    stopped.wait()
    server.stop()
    return 0


def _write_kubelet(server: BenchServer, service: Path, directory: Path) -> Path:
    """The other kubeconfig with a client certificate, which is what a kubelet has."""
    if server.authority is None:
        raise BenchError("the API server has no certificates")
    names = server.authority.issue_client(f"system:node:{NODE}", ("system:nodes",))
    certificate, key = map(str, names)
    document = json.loads(service.read_text())
    document["users"][0]["user"] = {"client-certificate": certificate, "client-key": key}
    path = directory / "kubelet"
    path.write_text(json.dumps(document))
    return path


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
