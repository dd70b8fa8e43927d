"""The registration service: tells the kubelet who we are, and hears whether it took us (pluginregistration v1).

GetInfo answers from a message made beforehand: no lock, no I/O, for the kubelet waits one second only. What the kubelet
says about the outcome is kept for status and handed to two callbacks, which must return at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import msgspec

from nvdra_core.errors import HostError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock
from nvdra_node.kubeletplugin.kubelet.service import SELF_CHECK
from nvdra_node.rpc.messages import pluginregistration_v1 as pb

SUPPORTED_VERSIONS = (
    "v1.DRAPlugin",
    "v1beta1.DRAPlugin",
    "v1.DRAResourceHealth",
    "v1alpha1.DRAResourceHealth",
)
"""The kubelet takes the first DRAPlugin that it knows. v1: >= 1.34; v1beta1: >= 1.32; health v1: >= 1.37."""

_LOG = log.get(__name__)


class RegistrationState(msgspec.Struct, frozen=True):
    """What the kubelet said last. ``is_registered`` None: nothing yet. ``at_s``: wall clock."""

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

    def handlers(self) -> tuple[Any, ...]:
        """Generic gRPC handlers for the registration socket."""
        methods = {
            "GetInfo": grpc.unary_unary_rpc_method_handler(
                self._get_info,
                request_deserializer=pb.InfoRequest.FromString,
                response_serializer=pb.PluginInfo.SerializeToString,
            ),
            "NotifyRegistrationStatus": grpc.unary_unary_rpc_method_handler(
                self._notify,
                request_deserializer=pb.RegistrationStatus.FromString,
                response_serializer=pb.RegistrationStatusResponse.SerializeToString,
            ),
        }
        service = f"{pb.PACKAGE}.Registration"
        return (grpc.method_handlers_generic_handler(service, methods),)

    def _get_info(self, request: Any, context: Any) -> Any:
        return self._info

    def _notify(self, request: Any, context: Any) -> Any:
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
    """Asks our own sockets: GetInfo, as the kubelet does, and ``service.SELF_CHECK``. For watchdog and health."""

    def __init__(self, registration_socket: Path, dra_socket: Path) -> None:
        self._registration_socket = registration_socket
        self._dra_socket = dra_socket

    def __call__(self, timeout_s: float = 5.0) -> None:
        """Return when both answer; raises HostError naming the socket that does not."""
        info = _ask(self._registration_socket, "pluginregistration.Registration/GetInfo", timeout_s)
        if not info:
            raise HostError(f"socket {self._registration_socket}: somebody else answers there")
        _ask(self._dra_socket, f"{SELF_CHECK}/Ping", timeout_s)


def _ask(socket_path: Path, method: str, timeout_s: float) -> bytes:
    """Send an empty message on a connection of its own; the raw answer."""
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
    with grpc.insecure_channel(f"unix:{socket_path}", options=options) as channel:
        call = channel.unary_unary(f"/{method}")
        try:
            answer: bytes = call(b"", timeout=timeout_s)
        except grpc.RpcError as error:
            raise HostError(
                f"socket {socket_path} does not answer: {error.code().name} {error.details()}"
            ) from error
    return answer
