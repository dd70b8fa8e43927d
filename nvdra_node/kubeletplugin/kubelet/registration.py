"""The registration service (pluginregistration v1) and the self-check of the plugin's sockets.

GetInfo returns a message made beforehand, without locks or I/O: the kubelet allows it one second. The kubelet's
report of the outcome is kept for status and passed to callbacks, which must not block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import msgspec

from nvdra_core.errors import HostError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock
from nvdra_node.rpc.messages import dra_v1_pb2, dra_v1_pb2_grpc
from nvdra_node.rpc.messages import pluginregistration_v1_pb2 as pb
from nvdra_node.rpc.messages import pluginregistration_v1_pb2_grpc as pb_grpc

SUPPORTED_VERSIONS = (
    "v1.DRAPlugin",
    "v1beta1.DRAPlugin",
    "v1.DRAResourceHealth",
    "v1alpha1.DRAResourceHealth",
)
"""The kubelet takes the first DRAPlugin that it knows. v1: >= 1.34; v1beta1: >= 1.32; health v1: >= 1.37."""

_CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))

_LOG = log.get(__name__)


class RegistrationState(msgspec.Struct, frozen=True):
    """The kubelet's last report. ``is_registered`` None: none yet. ``at_s``: wall clock."""

    is_registered: bool | None = None
    error: str = ""
    at_s: float = 0.0


class Registration:
    """The service behind the registration socket."""

    def __init__(
        self,
        driver: str,
        endpoint: Path,
        clock: Clock,
        *,
        registered: Callable[[], None],
        refused: Callable[[], None],
    ) -> None:
        """``registered`` and ``refused`` are called on each report of the kubelet, from its call's thread."""
        self._info = pb.PluginInfo(
            type="DRAPlugin",
            name=driver,
            endpoint=str(endpoint),
            supported_versions=SUPPORTED_VERSIONS,
        )
        self._driver = driver
        self._clock = clock
        self._registered = registered
        self._refused = refused
        self._state = RegistrationState()

    @property
    def state(self) -> RegistrationState:
        """For health, status and metrics."""
        return self._state

    def add_to(self, server: Any) -> None:
        """Add the service to a gRPC server."""
        pb_grpc.add_RegistrationServicer_to_server(self, server)

    def GetInfo(self, request: Any, context: Any) -> Any:
        """See the proto."""
        return self._info

    def NotifyRegistrationStatus(self, request: Any, context: Any) -> Any:
        """See the proto."""
        now_s = self._clock.wall()
        self._state = RegistrationState(request.plugin_registered, request.error, now_s)
        if request.plugin_registered:
            _LOG.info("registered by the kubelet", driver=self._driver)
            self._registered()
        else:
            _LOG.warning("refused by the kubelet", driver=self._driver, error=request.error)
            self._refused()
            # The kubelet's contract: a plugin that was refused answers with an error.
            context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
            context.set_details(f"registration of {self._driver} failed: {request.error}")
        return pb.RegistrationStatusResponse()


class SelfCheck:
    """Calls both sockets of this process: GetInfo, and a prepare of no claims. For watchdog and health."""

    def __init__(self, registration_socket: Path, dra_socket: Path) -> None:
        self._registration_socket = registration_socket
        self._dra_socket = dra_socket

    def __call__(self, timeout_s: float = 5.0) -> None:
        """Return when both answer; raises HostError naming the socket that does not."""
        with _connect(self._registration_socket) as channel:
            pb_grpc.RegistrationStub(channel).GetInfo(pb.InfoRequest(), timeout=timeout_s)
        with _connect(self._dra_socket) as channel:
            request = dra_v1_pb2.NodePrepareResourcesRequest()
            dra_v1_pb2_grpc.DRAPluginStub(channel).NodePrepareResources(request, timeout=timeout_s)


@contextmanager
def _connect(socket_path: Path) -> Iterator[Any]:
    try:
        with grpc.insecure_channel(f"unix:{socket_path}", options=_CHANNEL_OPTIONS) as channel:
            yield channel
    except grpc.RpcError as error:
        raise HostError(
            f"socket {socket_path} does not answer: {error.code().name} {error.details()}"
        ) from error
